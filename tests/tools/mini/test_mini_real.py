"""Runs tools/mini/real.py on recordings made here and reads its files with others."""

from __future__ import annotations

import csv
import importlib
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile

from shards.errors import ShardError
from shards.pack import main as pack
from tests.learning import REPOSITORY
from tests.needs import OPTIONAL

ESC10 = REPOSITORY.parent / "shared" / "data" / "esc10"
RATE = 22050
CLASSES = {"/m/low": ("Low", 400.0), "/m/mid": ("Mid", 1500.0), "/m/06mb1": ("Rain", 0)}
"""Name and Hz by mid; rain is noise, and may be a bed."""
SOURCES = 6
"""Of each class; each has two takes."""


def beep(hertz: float, seed: int) -> np.ndarray:
    """0.2 s of silence, 0.4 s of sound, 0.7 s of silence, 0.3 s of sound, silence."""
    rng = np.random.default_rng(seed)
    silence = {n: np.zeros(round(n * RATE)) for n in (0.2, 0.7, 0.5)}
    sounds = []
    for seconds in (0.4, 0.3):
        time = np.arange(round(seconds * RATE)) / RATE
        wave = np.sin(2 * np.pi * hertz * time)
        noise = rng.uniform(-0.3, 0.3, len(time))
        sounds.append(0.3 * wave + 0.003 * noise if hertz else noise)
    parts = [silence[0.2], sounds[0], silence[0.7], sounds[1], silence[0.5]]
    return np.concatenate(parts)


def write_recordings(folder: Path) -> Path:
    """Recordings with AudioSet's CSVs; the last two sources of a class are eval."""
    (folder / "audio").mkdir(parents=True)
    rows: dict[str, list[str]] = {"train": [], "eval": []}
    for number, (mid, (_, hertz)) in enumerate(CLASSES.items()):
        for source in range(SOURCES):
            for take in "AB":
                seed = 100 * number + 10 * source + (take == "B")
                name = f"{number}-{source}-{take}"
                path = folder / "audio" / f"{name}.flac"
                soundfile.write(path, beep(hertz, seed), RATE)
                split = "eval" if source >= SOURCES - 2 else "train"
                rows[split].append(f'{name}, 0.000, 2.000, "{mid}"')
    for split, lines in rows.items():
        text = "\n".join(["# YTID, start_seconds, end_seconds, labels", *lines, ""])
        (folder / f"{split}_segments.csv").write_text(text)
    lines = [f"{i},{mid},{CLASSES[mid][0]}" for i, mid in enumerate(CLASSES)]
    text = "\n".join(["index,mid,display_name", *lines, ""])
    (folder / "class_labels_indices.csv").write_text(text)
    return folder


def command(recordings: Path, out: Path, *options: str) -> list[str]:
    return ["--recordings", str(recordings), "--out", str(out), *options]


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    """tools/mini/real.py."""
    return importlib.import_module("tools.mini.real")


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recordings(tmp_path_factory.mktemp("recordings") / "set")


@pytest.fixture(scope="module")
def built(
    tool: ModuleType, recordings: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("real") / "set"
    tool.main(command(recordings, out, "--scale", "0.03"))
    return out


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def weak(folder: Path, table: str) -> dict[str, set[str]]:
    lines = (folder / f"{table}_segments.csv").read_text().splitlines()
    rows = csv.reader(lines[3:], skipinitialspace=True)
    return {row[0]: set(row[3].split(",")) for row in rows}


def events(folder: Path) -> dict[str, list[tuple[float, float, str]]]:
    found: dict[str, list[tuple[float, float, str]]] = {}
    with open(folder / "strong.csv", newline="") as stream:
        for row in csv.DictReader(stream, delimiter="\t"):
            clip = row["segment_id"].removesuffix("_0")
            times = float(row["start_time_seconds"]), float(row["end_time_seconds"])
            found.setdefault(clip, []).append((*times, row["label"]))
    return found


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(
    tool: ModuleType, recordings: Path, built: Path, tmp_path: Path
) -> None:
    """Whoever compares a figure with ours would have mixed other scenes."""
    tool.main(command(recordings, tmp_path / "same", "--scale", "0.03"))
    assert contents(tmp_path / "same") == contents(built)
    tool.main(command(recordings, tmp_path / "other", "--scale", "0.03", "--seed", "1"))
    ours, others = contents(built), contents(tmp_path / "other")
    wavs = [name for name in ours if name.endswith(".wav")]
    assert len(wavs) == 27 + 6 + 9 and set(ours) == set(others)
    assert not any(ours[name] == others[name] for name in wavs)


def test_an_event_begins_and_ends_where_its_tone_does(built: Path) -> None:
    """A segment mAP against onsets in silence would measure the labelling of pauses."""
    checked = 0
    for clip, found in events(built).items():
        samples, rate = soundfile.read(built / "audio" / f"{clip}.wav")
        assert (rate, len(samples)) == (16000, 160000)
        mids = {mid for _, _, mid in found}
        if mids & {"/m/06mb1"}:
            continue
        for start, end, mid in found:
            assert 0.28 <= end - start <= 0.46
            hertz, wave = CLASSES[mid][1], np.arange(800) / 16000
            carrier = np.exp(-2j * np.pi * hertz * wave)

            def strength(
                second: float,
                samples: np.ndarray = samples,
                carrier: np.ndarray = carrier,
            ) -> float:
                first = round(second * 16000)
                piece = samples[max(first, 0) : first + 800]
                return float(abs(piece @ carrier[: len(piece)]))

            inside = strength(start + 0.05)
            assert inside > 5 * strength(start - 0.09)
            if end < 9.95:
                assert inside > 5 * strength(end + 0.04)
            checked += 1
    assert checked > 10


def test_splits_share_no_source(built: Path) -> None:
    """The student would be graded on what it learned by heart."""
    used = json.loads((built / "real.json").read_text())["recordings"]
    sources = {split: {name[:3] for name in used[split]} for split in used}
    assert [len(sources[split]) for split in ("train", "dev", "eval")] == [9, 3, 6]
    assert sum(map(len, used.values())) == 36
    assert len(set().union(*sources.values())) == 18
    assert sources["eval"] == {f"{c}-{s}" for c in range(3) for s in (4, 5)}


def test_weak_labels_are_complete_in_dev_and_eval_and_lack_recordings_in_train(
    built: Path,
) -> None:
    """A false alarm in the truth, or a baseline that is handicapped by wrong labels."""
    truth = {clip: {mid for *_, mid in found} for clip, found in events(built).items()}
    for table in ("dev", "eval", "train_complete"):
        for clip, labels in weak(built, table).items():
            assert labels == truth[clip]
    forgotten = weak(built, "train")
    assert forgotten.keys() == weak(built, "train_complete").keys()
    assert all(labels and labels <= truth[clip] for clip, labels in forgotten.items())
    kept = sum(map(len, forgotten.values()))
    assert 0.4 < kept / sum(len(truth[clip]) for clip in forgotten) < 0.95


def test_the_packer_takes_it(built: Path, tmp_path: Path) -> None:
    """The documented commands would fail at their second line."""
    words = ["--audio", built / "audio", "--segments", built / "eval_segments.csv"]
    words += ["--class-labels", built / "class_labels_indices.csv"]
    words += ["--out", tmp_path / "shards", "--workers", "1"]
    pack(list(map(str, words)))
    with tarfile.open(next((tmp_path / "shards").glob("*.tar"))) as tar:
        keys = {name.split(".")[0] for name in tar.getnames()}
    assert keys == {f"real-eval-{number:05d}_0" for number in range(9)}


def test_a_finished_set_is_left_alone_and_another_is_refused(
    tool: ModuleType, recordings: Path, built: Path, tmp_path: Path
) -> None:
    """Shards packed from it would no longer be of its audio."""
    before = {path: path.stat().st_mtime_ns for path in built.rglob("*")}
    tool.main(command(recordings, built, "--scale", "0.03"))
    with pytest.raises(ValueError, match="num_scenes .*choose another --out"):
        tool.main(command(recordings, built, "--scale", "0.04"))
    changed = write_recordings(tmp_path / "changed")
    soundfile.write(changed / "audio" / "0-0-A.flac", beep(300.0, 7), RATE)
    with pytest.raises(ValueError, match="recordings_sha256 .*choose another --out"):
        tool.main(command(changed, built, "--scale", "0.03"))
    assert {path: path.stat().st_mtime_ns for path in built.rglob("*")} == before


@pytest.mark.parametrize("layout", ["esc50", "fsd50k"])
def test_other_layouts_are_read(tool: ModuleType, tmp_path: Path, layout: str) -> None:
    """ESC-50 and FSD50K would have to be rewritten by hand."""
    folder = tmp_path / "set"
    if layout == "esc50":
        (folder / "audio").mkdir(parents=True)
        lines = ["filename,fold,target,category,esc10,src_file,take"]
        for fold in range(1, 6):
            for source, category in ((f"{fold}0", "dog"), (f"{fold}1", "can_opening")):
                lines.append(f"{source}.wav,{fold},0,{category},True,{source},A")
                path = folder / "audio" / f"{source}.wav"
                soundfile.write(path, beep(500, 1), RATE)
        (folder / "meta").mkdir()
        (folder / "meta" / "esc50.csv").write_text("\n".join([*lines, ""]))
        mid, name, eval_names, num_other = "/m/05tny_", "Bark", {"50"}, 1
    else:
        truth = folder / "FSD50K.ground_truth"
        truth.mkdir(parents=True)
        for part, splits in (("dev", ["train", "train", "val"]), ("eval", [""])):
            (folder / f"FSD50K.{part}_audio").mkdir()
            lines = ["fname,labels,mids" + ",split" * (part == "dev")]
            for number, split in enumerate(splits):
                row = f'{part}{number},"Crow_call,Bird","/m/crow,/m/bird"'
                lines.append(row + f",{split}" * (part == "dev"))
                path = folder / f"FSD50K.{part}_audio" / f"{part}{number}.wav"
                soundfile.write(path, beep(500, 1), RATE)
            (truth / f"{part}.csv").write_text("\n".join([*lines, ""]))
        mid, name, eval_names, num_other = "/m/crow", "Crow call", {"eval0"}, 0
    found = tool.read_collection(folder)
    parts = tool.split_recordings(found.recordings, found.names, 0)
    assert found.names[mid] == name
    assert {r.name for r in parts["eval"]} == eval_names
    assert all(len(parts[split]) >= 1 for split in ("train", "dev"))
    assert bool(found.num_other) == bool(num_other)


def test_only_the_wanted_classes_are_used(
    tool: ModuleType, recordings: Path, tmp_path: Path
) -> None:
    """A teacher that lacks one class could not label the rest."""
    wanted = tmp_path / "wanted.csv"
    wanted.write_text("index,mid,display_name\n0,/m/mid,Middle\n1,/m/other,Other\n")
    found = tool.read_collection(recordings, wanted)
    assert found.names == {"/m/mid": "Middle"} and found.num_other == 24
    assert {r.mids for r in found.recordings} == {("/m/mid",)}


def break_it(folder: Path, how: str) -> None:
    """One thing that is wrong with a folder of recordings."""
    audio, train = folder / "audio", folder / "train_segments.csv"
    lines = train.read_text().splitlines()
    match how:
        case "silent":
            soundfile.write(audio / "0-1-A.flac", np.zeros(RATE), RATE)
        case "a click":
            click = np.zeros(RATE)
            click[5000:5010] = 0.5
            soundfile.write(audio / "0-1-A.flac", click, RATE)
        case "unreadable":
            (audio / "0-1-A.flac").write_bytes(b"fLaC not really")
        case "empty":
            (audio / "0-1-A.flac").write_bytes(b"")
        case "missing":
            (audio / "0-1-A.flac").unlink()
        case "no CSV":
            (folder / "class_labels_indices.csv").unlink()
        case "no segments":
            for path in folder.glob("*_segments.csv"):
                path.unlink()
        case "unknown class":
            train.write_text("\n".join([*lines, 'x, 0, 1, "/m/xyz"', ""]))
        case "listed twice":
            shutil.copy(train, folder / "more_segments.csv")
        case "copy in eval":
            shutil.copy(audio / "0-0-A.flac", audio / "0-5-B.flac")
        case "too few":
            kept = [x for x in lines if not x.startswith(("1-1", "1-2", "1-3"))]
            train.write_text("\n".join([*kept, ""]))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("silent", r"0-1-A.flac: nothing to hear: 1.00 s with a peak of 0.0000"),
        ("a click", r"0-1-A.flac: nothing to hear"),
        ("unreadable", r"0-1-A.flac: "),
        ("empty", r"0-1-A.flac: empty file"),
        ("missing", r"train_segments.csv: line 4: no audio file of '0-1-A'"),
        ("no CSV", r"no class CSV in it; expected class_labels_indices.csv and"),
        ("no segments", r"no \*_segments.csv in it"),
        ("unknown class", r"train_segments.csv: line 26: .*/m/xyz"),
        ("listed twice", r"0-0-A.flac is listed twice"),
        ("copy in eval", r"0-5-B.flac \(eval\) is the same recording as .*0-0-A.flac"),
        ("too few", r"class 'Mid' \(/m/mid\): 3 sources of it, none left for dev"),
    ],
)
def test_bad_recordings_are_refused_in_one_line_and_nothing_is_left(
    tool: ModuleType, tmp_path: Path, how: str, message: str
) -> None:
    """A set with a hole in it, or a traceback in place of what to do."""
    folder, out = write_recordings(tmp_path / "set"), tmp_path / "out"
    break_it(folder, how)
    with pytest.raises(ShardError, match=message) as caught:
        tool.main(command(folder, out, "--scale", "0.03"))
    assert "\n" not in str(caught.value)
    assert not out.exists() and not list(tmp_path.glob(".out*"))


def test_some_bad_recordings_are_left_out_and_named_if_that_is_allowed(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of 50,000 recordings from the net one is always silent."""
    folder = write_recordings(tmp_path / "set")
    break_it(folder, "silent")
    words = command(folder, tmp_path / "out", "--scale", "0.005")
    tool.main([*words, "--max-rejected", "0.1"])
    assert "0-1-A.flac: nothing to hear" in capsys.readouterr().out


def test_a_folder_with_other_things_in_it_is_not_replaced(
    tool: ModuleType, recordings: Path, tmp_path: Path
) -> None:
    """--out . would delete somebody's work."""
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="not empty, and no real.json in it"):
        tool.main(command(recordings, tmp_path))
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_wrong_flag_value_is_one_line(recordings: Path, tmp_path: Path) -> None:
    """The user sees which one, not a traceback."""
    words = command(recordings, tmp_path / "out", "--scale", "-1")
    done = subprocess.run(
        [sys.executable, "-m", "tools.mini.real", *words],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 78 and done.stderr.count("\n") == 1
    assert "--scale -1" in done.stderr


def test_calls_are_parted_at_pauses_and_noise_is_not_a_call(tool: ModuleType) -> None:
    """The truth: a pause of 0.6 s parts two calls, one of 0.3 s does not."""
    scenes = importlib.import_module("tools.mini.scenes")
    rate, rng = 16000, np.random.default_rng(0)
    sound = 0.001 * rng.standard_normal(4 * rate)  # a noise 50 dB down
    for start, end in ((0.5, 1.0), (1.3, 1.6), (2.2, 2.5)):
        size = round((end - start) * rate)
        sound[round(start * rate) :][:size] += 0.3 * rng.standard_normal(size)
    spans = [(a / rate, b / rate) for a, b in scenes.find_spans(sound)]
    assert spans == [(0.5, 1.6), (2.2, 2.5)]
    whole = 0.1 * rng.standard_normal(rate)
    assert scenes.find_spans(whole) == ((0, rate),)
    assert scenes.find_spans(np.zeros(rate)) == scenes.find_spans(np.zeros(5)) == ()


def test_a_few_far_clicks_do_not_hang_the_draw(tool: ModuleType) -> None:
    """No window of five seconds holds a tenth of a second of sound."""
    scenes = importlib.import_module("tools.mini.scenes")
    samples = np.zeros(30 * 16000)
    for second in (0, 7, 14, 21, 28):
        samples[second * 16000 :][:640] = 0.5
    sound = scenes.Sound("clicks", ("/m/x",), samples, scenes.find_spans(samples))
    excerpt, spans = scenes.draw_excerpt(np.random.default_rng(1), sound)
    assert len(spans) == 1 and spans[0] == (0, 640) and len(excerpt) == 640


@pytest.mark.skipif(not ESC10.exists(), reason=f"{OPTIONAL}no {ESC10.name} recordings")
def test_esc_10_is_split_by_source(tool: ModuleType, tmp_path: Path) -> None:
    """The documented numbers are of these recordings."""
    found = tool.read_collection(ESC10)
    parts = tool.split_recordings(found.recordings, found.names, 0)
    assert [len(parts[s]) for s in ("train", "dev", "eval")] == [177, 63, 80]
    assert all("-4-" in r.name for r in parts["eval"])
    sounds = [tool.load_sound(r) for r in parts["dev"][::8]]
    assert all(0.1 <= s.spans[-1][1] / 16000 <= 5.01 for s in sounds)
