"""What a teacher hears around a chunk: every label is exact, as clips are ramps."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor, nn

from psl import label
from psl.labelling import job
from psl.teachers.load import Ensemble, Teacher
from psl.teachers.member import FittedMember, Member
from shards.dataset.reader import MemberReader
from shards.errors import ShardError
from shards.format.index import open_index
from shards.verify import verify
from tests.conftest import RATE, Run, write_source

LENGTHS = [32000, 11200, 14400, 20800]
"""Samples of the clips: 2 s, and three that chunks of 0.5 s do not fill."""
CHUNKS = [
    [(0, 8000), (8000, 16000), (16000, 24000), (24000, 32000)],
    [(0, 8000)],
    [(0, 8000), (8000, 14400)],
    [(0, 8000), (8000, 16000), (16000, 20800)],
]
CONTEXTS = [
    [(0, 16000), (4000, 20000), (12000, 28000), (16000, 32000)],
    [(0, 11200)],
    [(0, 14400), (0, 14400)],
    [(0, 16000), (4000, 20000), (4800, 20800)],
]
"""First and past-the-last sample for a context of 1 s; the last was moved by 5600."""
CLIPS = list(zip(LENGTHS, (4, 1, 2, 3), strict=True))
"""Samples and chunks of each."""


class Ramp(nn.Module):
    """First, mean and last of the samples that count."""

    def forward(self, waveform: Tensor, lengths: Tensor) -> Tensor:
        assert (lengths > 0).all()
        heard = torch.arange(waveform.shape[1]) < lengths[:, None]
        assert not waveform[~heard].any()
        last = waveform.gather(1, lengths[:, None] - 1)[:, 0]
        means = (waveform.double() * heard).sum(dim=1) / lengths
        return torch.stack([waveform[:, 0], means.float(), last], dim=1)


@pytest.fixture(scope="module")
def audio(tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    """Clips whose sample number i is i / 32768, in one shard; not to be changed."""
    folder = tmp_path_factory.mktemp("audio")
    source = write_source(folder / "s", num_clips=len(LENGTHS))
    for number, length in enumerate(LENGTHS):
        pcm = np.arange(length, dtype=np.int16)
        soundfile.write(source.audio / f"clip{number}.wav", pcm, RATE, "PCM_16")
    result = run("shards.pack", *source.pack_arguments(folder / "packed"))
    assert result.returncode == 0, result.stderr
    return folder / "packed"


@pytest.fixture(autouse=True)
def ramp_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every teacher is a Ramp."""
    member = FittedMember(Member(Ramp(), RATE, None, {"kind": "ramp"}), RATE)
    teacher = Teacher(("ramp",), Ensemble([member], [1]).eval(), RATE, [{"kind": "r"}])
    monkeypatch.setattr(job, "load_teacher", lambda *_, **__: teacher)


def words(audio: Path, out: Path) -> list[str]:
    named = ["teacher=ramp", f"audio={audio}", f"out={out}", "chunk_seconds=0.5"]
    return [*named, "batch_size=3"]


def stored(out: Path) -> list[list[list[float]]]:
    """[clip][chunk] labels, by the clips' numbers."""
    index = open_index(out, kind="labels")
    rows = [index.table.key.tolist().index(b"clip%d_0" % n) for n in range(4)]
    return [MemberReader(index).labels(row).tolist() for row in rows]


def of_ramp(first: int, stop: int) -> list[float]:
    """Labels of the samples from ``first`` to before ``stop``, stored as float16."""
    values = np.array([first, (first + stop - 1) / 2, stop - 1]) / 32768
    return values.astype(np.float16).tolist()


@pytest.mark.parametrize(
    ("extra", "heard"),
    [
        ([], CHUNKS),
        (["context_seconds=1"], CONTEXTS),
        # the short last chunks hear what is before them
        (
            ["context_seconds=0.5"],
            [
                *CHUNKS[:2],
                [(0, 8000), (6400, 14400)],
                [(0, 8000), (8000, 16000), (12800, 20800)],
            ],
        ),
        (["context_seconds=3600"], [[(0, n)] * k for n, k in CLIPS]),
    ],
)
def test_a_context_is_centred_on_its_chunk_and_stays_in_the_clip(
    tmp_path: Path, audio: Path, extra: list[str], heard: list[list[tuple[int, int]]]
) -> None:
    """Labels would be those of the audio beside, or of silence that is not there."""
    label.main([*words(audio, tmp_path / "out"), *extra])
    verify(tmp_path / "out", audio=audio)
    expected = [[of_ramp(*bounds) for bounds in clip] for clip in heard]
    assert stored(tmp_path / "out") == expected


def test_a_filled_chunk_is_repeated_or_followed_by_zeros_that_count(
    tmp_path: Path, audio: Path
) -> None:
    """The teacher would hear something else than the provenance says."""
    for fill in ("repeat", "zeros"):
        extra = [f"fill={fill}", "fill_seconds=0.75"]
        label.main([*words(audio, tmp_path / fill), *extra])
        made = open_index(tmp_path / fill, kind="labels").provenances[0]
        assert (made["fill"], made["fill_seconds"]) == (fill, 0.75)
    samples = {
        "repeat": [*range(8000), *range(4000)],
        "zeros": [*range(8000), *[0] * 4000],
    }
    for fill, heard in samples.items():
        values = np.array([heard[0], np.mean(heard), heard[-1]]) / 32768
        (found,) = stored(tmp_path / fill)[1]
        assert found == values.astype(np.float16).tolist()


def test_another_context_makes_other_labels(tmp_path: Path, audio: Path) -> None:
    """A resumed job would mix labels of two kinds in one set."""
    out = tmp_path / "out"
    label.main([*words(audio, out), "context_seconds=1"])
    assert open_index(out, kind="labels").provenances[0]["context_seconds"] == 1
    for extra, message in (
        ("", "made with context_seconds = 1.0, not None"),
        ("context_seconds=1.5", "made with context_seconds = 1.0, not 1.5"),
        ("fill=zeros fill_seconds=1", "made with fill = None, not 'zeros'"),
    ):
        with pytest.raises(ShardError, match=message):
            label.main([*words(audio, out), *extra.split()])
    label.main(words(audio, tmp_path / "plain"))
    facts = open_index(tmp_path / "plain", kind="labels").provenances[0]
    assert not {"context_seconds", "fill", "fill_seconds"} & set(facts)
    with pytest.raises(ShardError, match="made with context_seconds = None"):
        label.main([*words(audio, tmp_path / "plain"), "context_seconds=1"])


def test_a_clip_that_does_not_decode_leaves_its_neighbours_their_context(
    tmp_path: Path, audio: Path
) -> None:
    """One bad file would shift or silence the labels of others."""
    folder, out = tmp_path / "damaged", tmp_path / "out"
    shutil.copytree(audio, folder)
    index = open_index(folder, kind="audio")
    row = index.table.key.tolist().index(b"clip2_0")
    with open(folder / "000000.tar", "r+b") as stream:
        stream.seek(int(index.table.offset[row]))
        stream.write(b"no audio at all")
    extra = ["context_seconds=1", "max_unlabelled=0.25"]
    label.main([*words(folder, out), *extra])
    expected = [[of_ramp(*bounds) for bounds in clip] for clip in CONTEXTS]
    expected[2] = []
    assert stored(out) == expected


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("context_seconds=0.4", "expected at least the length of a chunk"),
        ("fill=zeros fill_seconds=0.4", "expected at least the length of a chunk"),
        ("fill=repeat", "expected fill=repeat or fill=zeros with fill_seconds"),
        ("fill_seconds=1", "expected fill=repeat or fill=zeros with fill_seconds"),
        ("context_seconds=1 fill=zeros fill_seconds=1", "choose one"),
        ("context_seconds=1 views=2 augment.gain_db=6", "hears the view of a chunk"),
        ("context_seconds=nan", "context_seconds"),
        ("context_seconds=0", "context_seconds"),
        ("fill=mirror fill_seconds=1", "fill"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    tmp_path: Path, audio: Path, extra: str, message: str
) -> None:
    """A week of labelling would end in labels of something else than was meant."""
    with pytest.raises(ValueError, match=message):
        label.main([*words(audio, tmp_path / "out"), *extra.split()])
    assert not (tmp_path / "out").exists()
