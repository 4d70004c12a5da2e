"""The table of real sound: its commands, and what is written of their results."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy import stats

from psl.config import parse
from psl.config_values import read_words
from psl.detection.config import EventsConfig
from psl.evaluation.config import EvaluateConfig
from psl.evaluation.stored import StoredScores, write_scores
from psl.labelling.config import CalibrateConfig, LabelConfig
from psl.training.config import TrainConfig
from shards.errors import ShardError

pytestmark = pytest.mark.usefixtures("in_the_repository")

CONFIGS = {
    "psl.train": TrainConfig,
    "psl.label": LabelConfig,
    "psl.calibrate": CalibrateConfig,
    "psl.evaluate": EvaluateConfig,
    "psl.events": EventsConfig,
}
SYSTEMS = ("baseline", "psl_10s", "psl_5s", "psl_2s")


@pytest.fixture(scope="module")
def results() -> ModuleType:
    """tools/paper/real_results.py."""
    return importlib.import_module("tools.paper.real_results")


def words(root: Path, *more: str) -> list[str]:
    """A command line of the tool; the teacher is a file of weights, which is not there.

    So that no checkpoint is read.
    """
    common = ["real", "--recordings", "recs", "--teacher", "teacher.pt"]
    return [*common, "--root", str(root), *more]


def commands(
    tools: ModuleType, capsys: pytest.CaptureFixture[str], *more: str
) -> list[str]:
    tools.main([*words(Path("r"), "--data", "d", *more), "--print"])
    return capsys.readouterr().out.splitlines()


def test_every_command_is_a_configuration_that_its_module_takes(
    tools: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    """An unknown key would end the job after an hour of labelling."""
    rows = "baseline,psl_10s,psl_5s,psl_2s,psl_2s_raw,psl_2s_8,psl_2s_8_slow"
    rows += ",psl_2s_8x5"
    counts = dict.fromkeys(CONFIGS, 0)
    for line in commands(tools, capsys, "--rows", rows, "--seeds", "3"):
        module, _, rest = line.removeprefix("python -m ").partition(" ")
        if module in CONFIGS:
            parse(CONFIGS[module], read_words(rest.replace("'", "").split()))
            counts[module] += 1
    assert counts == {
        "psl.train": 8,
        "psl.label": 6,
        "psl.calibrate": 3,
        "psl.evaluate": 16,
        "psl.events": 16,
    }


def train_configs(lines: list[str]) -> dict[str, TrainConfig]:
    """What the psl.train commands would run, by the name of their run folder."""
    found = {}
    for line in lines:
        if "psl.train " in line:
            rest = line.split("psl.train ")[1].replace("'", "").split()
            config = parse(TrainConfig, read_words(rest))
            found[Path(config.run_dir).name] = config
    return found


def test_all_systems_hear_as_much_audio_in_a_step_and_differ_in_labels_only(
    tools: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    """The table would compare batch sizes, not labels."""
    found = train_configs(commands(tools, capsys, "--seeds", "1"))
    assert set(found) == set(SYSTEMS)
    chunks = {n: (c.data.chunk_seconds, c.chunks_per_step) for n, c in found.items()}
    seconds = {name: a * b for name, (a, b) in chunks.items()}
    assert len(set(seconds.values())) == 1
    assert [chunks[name][0] for name in SYSTEMS] == [10, 10, 5, 2]
    labels = [found[name].data.labels for name in SYSTEMS]
    assert labels == [
        None,
        ["r/labels_train_10s"],
        ["r/labels_train_5s"],
        ["r/labels_train_2s"],
    ]
    for config in found.values():
        assert config.data.audio == ["d/shards/train"]
        assert config.data.valid == "d/shards/dev"
        assert config.seed == 1
    rates = {c.optim.learning_rate for c in found.values()}
    assert rates == {3e-3, 6e-3}  # each system's was chosen on dev
    one, *others = (
        (c.optim.warmup_steps, c.model, c.epochs, c.augment, c.patience)
        for c in found.values()
    )
    assert all(other == one for other in others)


def write_run(folder: Path, clip: float) -> None:
    """What psl.evaluate leaves of one student."""
    for name, value in (("eval", clip), ("eval_windows", clip + 0.02)):
        (folder / name).mkdir(parents=True)
        segments = {
            "mAP": clip - 0.2,
            "mAP_in_positive_clips": clip + 0.1,
            "chance_in_positive_clips": 0.393,
        }
        content = {"mAP": value, "AUC": 0.8, "segments": segments}
        (folder / name / "metrics.json").write_text(json.dumps(content))
        write_scores(
            folder / name,
            StoredScores(
                key=np.array([b"a", b"b", b"c"]),
                mids=("/m/x",),
                targets=np.array([[True], [True], [False]]),
                scores=np.array([[0.9], [0.8], [0.1]], np.float32),
            ),
        )


MEAN_AP = {
    "baseline": (0.44, 0.46),
    "psl_10s": (0.50, 0.53),
    "psl_5s": (0.60, 0.61),
    "psl_2s": (0.58, 0.62),
}
"""Of seeds 2 and 10, which sort otherwise as text."""


def write_runs(root: Path) -> None:
    for system, values in MEAN_AP.items():
        for seed, value in zip((2, 10), values, strict=True):
            write_run(root / f"seed{seed}" / system, value)
    (root / "seed3" / "baseline" / "eval").mkdir(parents=True)  # not finished


def test_the_report_has_means_spreads_intervals_and_paired_differences(
    tools: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three numbers without a spread are no result."""
    write_runs(tmp_path)
    page = tmp_path / "page.md"
    page.write_text(
        "# Mine\n\n<!-- results: begin -->\nold\n<!-- results: end -->\nend\n"
    )
    tools.main(words(tmp_path, "--report", "--page", str(page)))
    text = (tmp_path / "REAL.md").read_text()
    assert text in capsys.readouterr().out
    rows = {
        cells[1].strip(): [cell.strip() for cell in cells[2:-1]]
        for cells in (line.split("|") for line in text.splitlines() if "|" in line)
    }
    # mean 45, sample standard deviation 1.41, t(1) = 12.706: 45 -+ 12.7
    assert rows["Weak baseline"][1] == "45.0 ± 1.4 (32.3 to 57.7)"
    assert rows["Weak baseline"][2] == "47.0 ± 1.4 (34.3 to 59.7)"
    assert rows["Weak baseline"][6] == "2"
    assert [rows[n][0] for n in ("PSL-5s", "PSL-2s")] == ["34.11", "35.48"]
    assert rows["PSL-2s"][5].startswith("70.0 ± 2.8")
    gaps = {
        (cells[1].strip(), cells[2].strip()): [cell.strip() for cell in cells[3:-1]]
        for cells in (line.split("|") for line in text.splitlines() if "minus" in line)
    }
    # 0.58 - 0.60 and 0.62 - 0.61
    assert gaps["PSL-2s minus PSL-5s", "Clip mAP %"][0] == "-0.5 ± 2.1"
    found = gaps["PSL-2s minus Weak baseline", "Clip mAP %"]
    # the scores of all runs are the same, so other scenes and seeds change nothing
    assert found == ["+15.0 ± 1.4", "+2.3 to +27.7", "+0.0 to +0.0", "+0.0 to +0.0"]
    assert gaps["PSL-10s minus Weak baseline", "1-s segment mAP %"][2:] == ["-", "-"]
    assert "A guess has 39.3 within positive clips" in text
    assert (
        "Clip mAP %: Weak baseline < PSL-10s < PSL-2s < PSL-5s; not the paper" in text
    )
    filled = page.read_text()
    assert text.strip() in filled and "old" not in filled
    assert filled.startswith("# Mine\n") and filled.endswith("-->\nend\n")
    assert (tmp_path / "images" / "real_table.png").stat().st_size > 5000
    kept = (tmp_path / "results" / "real_sound.json").read_text()
    assert kept == (tmp_path / "REAL.json").read_text()
    again = importlib.import_module("tools.results.tables").Results(
        tmp_path / "results"
    )
    names = ["real_sound.systems", "real_sound.differences"]
    assert again.tables("real_sound") == names  # no events, labels and variants here
    for name in names:
        assert f"<!-- table: {name} -->\n" + "\n".join(again.render(name)) in text


def test_events_have_a_row_for_each_system_and_way_of_scoring(tmp_path: Path) -> None:
    """A mean over other seeds, or the teacher's F1 without rules, would be believed."""
    events = importlib.import_module("tools.paper.events")
    job = importlib.import_module("tools.paper.real_job").RealJob(
        *(tmp_path, tmp_path, tmp_path, "t", None, (0, 1), ("psl_2s",), 1.0, None)
    )
    assert events.events_table(job.events) == []
    for name, psds1 in (("seed0/psl_2s", 0.1), ("seed1/psl_2s", 0.2), ("teacher", 0.5)):
        folder = tmp_path / name / "events_fine"
        folder.mkdir(parents=True)
        found = {"psds1": psds1, "psds2": 0.4, "segment_f1_macro": 0.25}
        found["segment_mAP"] = 0.75
        text = json.dumps({**found, "event_f1_macro": 0.125})
        (folder / "metrics.json").write_text(text)
    rows = events.events_table(job.events)[2:]
    assert rows[0].startswith("| PSL-2s | 1-s windows, 0.25 s apart | 15.0 ± 7.1 (")
    assert rows[0].endswith(
        "| 25.0 ± 0.0 (25.0 to 25.0) | 12.5 ± 0.0 (12.5 to 12.5) | 2 |"
    )
    assert rows[1] == (
        "| Teacher | 1-s windows, 0.25 s apart | 50.0 | 40.0 | 75.0 | - | - | - |"
    )


def test_the_interval_is_students_t() -> None:
    """An interval that is too narrow makes noise a discovery."""
    spread = importlib.import_module("tools.paper.spread")
    for values in ([1.0, 2.0], [4.0, 4.5, 7.0], [3.0, 1.0, 4.0, 1.0, 5.0, 9.0]):
        expected = stats.t.interval(
            0.95,
            len(values) - 1,
            loc=sum(values) / len(values),
            scale=stats.sem(values),
        )
        assert spread.interval(values) == pytest.approx(expected, rel=1e-3)
    assert spread.interval([1.0]) is None


def test_a_report_of_nothing_and_a_page_without_marks_are_refused(
    tools: ModuleType, tmp_path: Path
) -> None:
    """An empty table in the documentation, or a page that is overwritten."""
    with pytest.raises(ShardError, match="no finished student in it"):
        tools.main(words(tmp_path, "--report"))
    write_runs(tmp_path)
    page = tmp_path / "page.md"
    page.write_text("# Mine\n")
    with pytest.raises(ShardError, match="page.md: expected one line <!-- results"):
        tools.main(words(tmp_path, "--report", "--page", str(page)))
    assert page.read_text() == "# Mine\n"


@pytest.mark.parametrize(
    "more", [("--rows", "psl_3s"), ("--seeds", "a"), ("--jobs", "0"), ("--epochs", "0")]
)
def test_wrong_words_are_refused_before_anything_runs(
    tools: ModuleType, tmp_path: Path, more: tuple[str, str]
) -> None:
    """Not after the teacher has labelled."""
    with pytest.raises(SystemExit) as caught:
        tools.main(words(tmp_path / "r", *more))
    assert caught.value.code == 2 and not (tmp_path / "r").exists()


def test_recordings_that_are_not_there_are_one_line(
    tools: ModuleType, tmp_path: Path
) -> None:
    """A step that fails with a page of log."""
    with pytest.raises(ShardError, match="recs: no such folder"):
        tools.main(words(tmp_path / "r"))
