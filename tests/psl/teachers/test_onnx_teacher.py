"""ONNX files as teachers: ours by themselves, those of others by a declaration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import psl
from psl.exporting.onnx_export import export_onnx
from psl.teachers.config import OnnxConfig, TeacherConfig
from psl.teachers.load import Teacher, load_teacher
from psl.weights.checkpoint import load_checkpoint
from shards.dataset.cache import ShardCache
from shards.errors import ShardError
from shards.format.index import Index, open_index
from tests.conftest import MIDS, RATE
from tests.psl.exporting.made import make_checkpoint, make_graph, sounds

CLASS_LIST = "index,mid,display_name\n" + "".join(
    f"{number},{mid},x{number}\n" for number, mid in enumerate(MIDS)
)


@pytest.fixture(scope="module")
def audio(dataset: Path) -> Index:
    """Three classes at 16 kHz."""
    return open_index(str(dataset), kind="audio")


@pytest.fixture
def teacher_of(tmp_path: Path, audio: Index) -> Any:
    """Loads a teacher for the audio."""

    def load(path: Path, **settings: Any) -> Teacher:
        cache = ShardCache(tmp_path / "cache")
        return load_teacher(
            [TeacherConfig(path=str(path), **settings)], audio, cache=cache
        )

    return load


def declare(folder: Path, **values: Any) -> None:
    """model.yaml beside model.onnx."""
    (folder / "classes.csv").write_text(CLASS_LIST)
    given = {"sample_rate": RATE, "classes": "classes.csv", "activation": "none"}
    (folder / "model.yaml").write_text(json.dumps(given | values))


def score(teacher: Teacher, waveform: np.ndarray, lengths: list[int]) -> np.ndarray:
    """[B, 3] probabilities."""
    with torch.inference_mode():
        found: np.ndarray = teacher.model(
            torch.from_numpy(waveform), torch.tensor(lengths)
        ).numpy()
    return found


def expected(chunk: np.ndarray) -> np.ndarray:
    """What make_graph's file gives, by its formula."""
    return 1 / (1 + np.exp(-np.mean(chunk.astype(float) ** 2) * np.arange(1, 4)))


def test_an_export_is_the_same_teacher_as_the_run_it_was_made_of(
    tmp_path: Path, teacher_of: Any
) -> None:
    """Labels by a colleague's file would differ from those of the run."""
    checkpoint = make_checkpoint(tmp_path / "run")
    export_onnx(load_checkpoint(checkpoint), tmp_path / "model.onnx")
    waveform, lengths = sounds(RATE, 3, 2.0), [32000, 16000, 32000]
    ours = score(teacher_of(checkpoint), waveform, lengths)
    theirs = score(teacher_of(tmp_path / "model.onnx"), waveform, lengths)
    np.testing.assert_allclose(theirs, ours, atol=1e-5)
    with pytest.raises(ValueError, match="says itself what it takes .*; leave activ"):
        teacher_of(tmp_path / "model.onnx", activation="sigmoid")


@pytest.mark.parametrize("shape", [["b", "n"], [1, "n"], [4, "n"]])
def test_a_file_of_others_scores_each_chunk_alone_at_its_own_length(
    tmp_path: Path, teacher_of: Any, shape: list[Any]
) -> None:
    """A label would depend on the chunks that happened to be in its batch."""
    declare(tmp_path)
    teacher = teacher_of(make_graph(tmp_path / "model.onnx", shape=shape, gain=9.0))
    waveform = sounds(RATE, 3, 1.0)
    found = score(teacher, waveform, [16000, 8000, 16000])
    chunks = [waveform[0], waveform[1, :8000], waveform[2]]
    wanted = [1 / (1 + (1 / expected(c) - 1) ** 9) for c in chunks]
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert teacher.members[0]["kind"] == "onnx"


def test_a_fixed_length_is_filled_with_zeros_and_longer_chunks_are_windows(
    tmp_path: Path, teacher_of: Any
) -> None:
    """A model of 1 s would fail on chunks of 2 s, or hear only their start."""
    declare(tmp_path)
    teacher = teacher_of(make_graph(tmp_path / "model.onnx", shape=[1, RATE]))
    waveform = sounds(RATE, 1, 2.2)  # the last 0.2 s are less than half a window
    (found,) = score(teacher, waveform, [waveform.shape[1]])
    halves = [expected(waveform[0, :RATE]), expected(waveform[0, RATE : 2 * RATE])]
    np.testing.assert_allclose(found, np.mean(halves, axis=0), atol=1e-6)
    (short,) = score(teacher, waveform[:, :4000], [4000])
    filled = np.concatenate([waveform[0, :4000], np.zeros(12000)])
    np.testing.assert_allclose(short, expected(filled), atol=1e-6)


def test_audio_is_resampled_to_the_declared_rate(
    tmp_path: Path, teacher_of: Any
) -> None:
    """A model of 8 kHz would hear everything an octave too low."""
    declare(tmp_path, sample_rate=8000)
    teacher = teacher_of(make_graph(tmp_path / "model.onnx", shape=[1, 8000]))
    time = np.arange(RATE) / RATE
    waveform = (0.5 * np.sin(2 * np.pi * 6000 * time)).astype(np.float32)[None]
    (found,) = score(teacher, waveform, [RATE])  # above the Nyquist frequency of 8 kHz
    np.testing.assert_allclose(found, [0.5, 0.5, 0.5], atol=1e-3)


def test_settings_in_the_configuration_replace_the_file_beside_it(
    tmp_path: Path, teacher_of: Any
) -> None:
    """A read-only folder of models could not be used; a sigmoid would be missing."""
    path = make_graph(tmp_path / "model.onnx", sigmoid=False)
    (tmp_path / "classes.csv").write_text(CLASS_LIST)
    teacher = teacher_of(
        path,
        classes=str(tmp_path / "classes.csv"),
        activation="sigmoid",
        onnx=OnnxConfig(sample_rate=RATE),
    )
    waveform = sounds(RATE, 1, 1.0)
    found = score(teacher, waveform, [RATE])
    np.testing.assert_allclose(found[0], expected(waveform[0]), atol=1e-6)


def test_a_declared_front_end_feeds_a_file_of_features(
    tmp_path: Path, teacher_of: Any
) -> None:
    """Most published taggers take features and not waveforms."""
    checkpoint = load_checkpoint(make_checkpoint(tmp_path / "run"))
    export_onnx(checkpoint, tmp_path / "ours.onnx", features=True)
    import onnx

    proto = onnx.load(str(tmp_path / "ours.onnx"))
    del proto.metadata_props[:]
    onnx.save(proto, str(tmp_path / "model.onnx"))
    declare(tmp_path, front_end={"name": "log_mel"}, layout="B1FT", output="clip_probs")
    waveform = sounds(RATE, 2, 1.0)
    found = score(teacher_of(tmp_path / "model.onnx"), waveform, [RATE, RATE])
    wanted, _ = psl.load(tmp_path / "run", device="cpu")(waveform)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    declare(tmp_path, front_end={"name": "mel"}, layout="B1FT", output="clip_probs")
    with pytest.raises(ValueError, match="front_end.name is 'mel', expected one of lo"):
        teacher_of(tmp_path / "model.onnx")


def bad_logits(folder: Path) -> dict[str, Any]:
    make_graph(folder / "model.onnx", gain=50.0, sigmoid=False)
    return {}


def undeclared(folder: Path) -> dict[str, Any]:
    (folder / "model.yaml").unlink()
    return {}


def bad_key(folder: Path) -> dict[str, Any]:
    declare(folder, sample_rates=8000)
    return {}


def other_number(folder: Path) -> dict[str, Any]:
    (folder / "classes.csv").write_text(CLASS_LIST.rsplit("2,", 1)[0])
    return {}


def other_classes(folder: Path) -> dict[str, Any]:
    (folder / "classes.csv").write_text(CLASS_LIST.replace("/m/high", "/m/other"))
    return {}


def other_length(folder: Path) -> dict[str, Any]:
    make_graph(folder / "model.onnx", shape=[1, 15600])
    declare(folder, seconds=1.0)
    return {}


def no_output(folder: Path) -> dict[str, Any]:
    declare(folder, output="logits")
    return {}


def truncated(folder: Path) -> dict[str, Any]:
    data = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(data[: len(data) // 2])
    return {}


def web_page(folder: Path) -> dict[str, Any]:
    (folder / "model.onnx").write_bytes(b"<html>404</html>")
    return {}


def empty(folder: Path) -> dict[str, Any]:
    (folder / "model.onnx").write_bytes(b"")
    return {}


def gone(folder: Path) -> dict[str, Any]:
    (folder / "model.onnx").unlink()
    return {}


def elsewhere(folder: Path) -> dict[str, Any]:
    (folder / "sub").mkdir()
    (folder.parent / "weights.bin").write_bytes(bytes(12))
    make_graph(folder / "model.onnx", external="../weights.bin")
    return {}


def other_file(folder: Path) -> dict[str, Any]:
    return {"sha256": "0" * 64}


def of_huggingface(folder: Path) -> dict[str, Any]:
    return {"revision": "main"}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (bad_logits, "probabilities are declared .* from 0 to .*; set activation to s"),
        (undeclared, "not declared: sample_rate, classes, activation; write .*yaml"),
        (bad_key, "unknown key 'sample_rates'; did you mean 'sample_rate'"),
        (other_number, "3 outputs, but the class list given for it has 2"),
        (other_classes, "1 of 3 classes are not among its 3 outputs"),
        (other_length, "takes 15600 samples, but seconds: 1 at 16000 Hz is 16000"),
        (no_output, "has outputs probs, and 'logits' is none of them; declare the one"),
        (truncated, "is damaged .*; expected an ONNX file; fetch or export it again"),
        (web_page, "is a web page, perhaps of an error"),
        (empty, "is empty; expected an ONNX file"),
        (gone, "No such file or directory; check the path"),
        (elsewhere, "names '../weights.bin', expected a file below this folder"),
        (other_file, "sha256 is .*, expected 0000"),
        (of_huggingface, "revision is not for a teacher of kind onnx"),
    ],
)
def test_a_file_that_is_not_as_declared_is_refused_in_one_line(
    tmp_path: Path, teacher_of: Any, spoil: Any, message: str
) -> None:
    """Labels would be nonsense that nobody notices, or a traceback."""
    declare(tmp_path)
    make_graph(tmp_path / "model.onnx")
    settings = spoil(tmp_path)
    with pytest.raises((ValueError, ShardError), match=message) as caught:
        teacher_of(tmp_path / "model.onnx", **settings)
    assert "\n" not in str(caught.value)


def test_data_beside_the_file_is_read_and_is_part_of_the_identity(
    tmp_path: Path, teacher_of: Any
) -> None:
    """A model of several files could be changed behind the label job's back."""
    declare(tmp_path)
    make_graph(tmp_path / "model.onnx", external="weights.bin")
    waveform = sounds(RATE, 1, 1.0)
    first = teacher_of(tmp_path / "model.onnx")
    found = score(first, waveform, [RATE])
    np.testing.assert_allclose(found[0], expected(waveform[0]), atol=1e-6)
    (tmp_path / "weights.bin").write_bytes(np.ones(3, np.float32).tobytes())
    assert teacher_of(tmp_path / "model.onnx").identity != first.identity


def test_psl_load_says_what_a_file_of_others_can_be_used_for(tmp_path: Path) -> None:
    """A newcomer would see a KeyError."""
    with pytest.raises(ValueError, match="not an export of psl.*can be a teacher"):
        psl.load(make_graph(tmp_path / "model.onnx"))
