"""psl.export: what is written, that it was checked, and that it opens again."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import yaml

import psl
from psl import export, train
from psl.adapting.job import adapt
from psl.data.loader import open_cache
from psl.exporting import check
from psl.exporting.about import about
from psl.exporting.onnx_export import export_onnx
from psl.teachers.named import teachers_folder
from psl.teachers.published import TEACHERS
from psl.weights.checkpoint import load_checkpoint
from shards.errors import ShardError
from shards.format.classes import Classes
from shards.format.index import open_index
from tests.conftest import MIDS, RATE
from tests.learning import tiny_config
from tests.needs import OPTIONAL
from tests.psl.adapting.sounds_made import write_sounds
from tests.psl.exporting.made import CLASSES, make_checkpoint, read_graph, sounds
from tests.tiny_models import TINY

HOSTILE = "[x](http://evil) <img src=x> | --- \n# Big"


@pytest.fixture(scope="module", autouse=True)
def short_checks() -> Iterator[None]:
    """The checks of exports take less audio here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(check, "SECONDS", (0.5, 1.37, 2.6))
        patch.setattr(check, "SPEED_SECONDS", 1.0)
        patch.setattr(check, "SPEED_RUNS", 1)
        yield


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small MobileNetV2 with the classes of the dataset."""
    return make_checkpoint(tmp_path_factory.mktemp("export") / "run")


FETCHED = f"imported from mn04: {TEACHERS['mn04'].url}"
"""How psl teachers fetch marks a checkpoint."""


@pytest.fixture(scope="module")
def exported(checkpoint: Path) -> Path:
    """The same as ONNX."""
    path = checkpoint.parent / "model.onnx"
    facts: dict[str, Any] = {"teacher": "ours", "license": "cc-by-4.0"}
    export_onnx(load_checkpoint(checkpoint), path, **facts)
    return path


def test_a_published_teacher_is_exported_by_name_with_its_licence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """psl.load and psl tag know the name; its licence must not be lost on the way."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    open_cache.cache_clear()
    try:
        make_checkpoint(teachers_folder() / "mn04", made_by=FETCHED)
        export.main(["mn04", "--onnx", str(tmp_path / "model.onnx")])
    finally:
        open_cache.cache_clear()
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    assert session.get_modelmeta().custom_metadata_map["license"] == "MIT"


def test_the_licence_of_a_teacher_stays_with_what_is_made_of_it(
    tmp_path: Path, dataset: Path
) -> None:
    """An adapted or fine-tuned model would be passed on as nobody's."""
    mids = Classes(MIDS, MIDS)
    teacher = make_checkpoint(tmp_path / "mn04", made_by=FETCHED, classes=mids)
    words = [f"start={teacher}", "epochs=1"]
    model = TINY["mobilenetv2"]
    train.main(tiny_config(tmp_path / "first", dataset, *words, model=model))
    sounds = write_sounds(tmp_path / "sounds", 2)
    own = adapt(tmp_path / "first" / "run", sounds, out=tmp_path / "own", seconds=1.0)
    card = tmp_path / "card"
    export.main([str(own.folder), "--huggingface", str(card)])
    text = (card / "README.md").read_text()
    assert "\nlicense: mit\n" in text and "EfficientAT mn04" in text
    fresh = adapt(
        make_checkpoint(tmp_path / "m"), sounds, out=tmp_path / "o", seconds=1.0
    )
    assert not (fresh.folder / "origin.json").exists()


@pytest.mark.parametrize("family", list(TINY))
def test_every_family_gives_the_same_probabilities_in_onnxruntime(
    tmp_path: Path, family: str
) -> None:
    """A phone would hear other sounds than the model that was evaluated."""
    folder = make_checkpoint(tmp_path / "run", family)
    export_onnx(load_checkpoint(folder), tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    tagger = psl.load(folder, device="cpu")
    for batch, seconds in [(1, 0.5), (4, 1.71), (2, 5.0)]:
        waveform = sounds(tagger.sample_rate, batch, seconds)
        found = session.run(["clip_probs", "frame_probs"], {"waveform": waveform})
        for ours, theirs in zip(tagger(waveform), found, strict=True):
            np.testing.assert_allclose(theirs, ours, atol=1e-4)


def test_the_file_says_what_it_is_to_programs_that_know_nothing_of_us(
    exported: Path,
) -> None:
    """A developer would have numbers without names."""
    metadata = {p.key: p.value for p in read_graph(exported).metadata_props}
    assert json.loads(metadata["class_names"]) == list(CLASSES.names)
    assert json.loads(metadata["class_mids"]) == ["/m/low", "/m/mid", "/m/high"]
    assert metadata["sample_rate"] == "16000" and metadata["teacher"] == "ours"
    assert metadata["license"] == "cc-by-4.0" and metadata["min_samples"] == "8000"
    session = onnxruntime.InferenceSession(str(exported))
    assert [(i.name, i.shape) for i in session.get_inputs()] == [
        ("waveform", ["batch", "samples"])
    ]


def test_psl_load_opens_the_file_with_lengths_and_short_audio(
    checkpoint: Path, exported: Path
) -> None:
    """Padding would be heard, or a short clip be an error."""
    plain, onnx = psl.load(checkpoint, device="cpu"), psl.load(exported)
    assert onnx.classes == CLASSES and onnx.sample_rate == RATE
    assert onnx.frame_seconds == plain.frame_seconds == 0.32
    waveform, lengths = sounds(RATE, 3, 2.0), np.array([32000, 16000, 9000])
    np.testing.assert_allclose(
        onnx(waveform, lengths)[0], plain(waveform, lengths)[0], atol=1e-5
    )
    assert onnx(waveform[:, :2000])[0].shape == (3, 3)


def test_a_file_of_features_opens_with_its_front_end(
    checkpoint: Path, tmp_path: Path
) -> None:
    """A user with features of their own would have no use for waveforms."""
    export.main([str(checkpoint), "--onnx", str(tmp_path / "f.onnx"), "--features"])
    waveform = sounds(RATE, 2, 1.5)
    np.testing.assert_allclose(
        psl.load(tmp_path / "f.onnx")(waveform)[0],
        psl.load(checkpoint, device="cpu")(waveform)[0],
        atol=1e-5,
    )
    (given,) = onnxruntime.InferenceSession(str(tmp_path / "f.onnx")).get_inputs()
    assert given.name == "features" and given.shape == ["batch", 1, 64, "frames"]


def test_a_file_that_differs_from_the_model_is_not_written(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong file would be shipped with the run's good name."""
    monkeypatch.setattr(check, "TOLERANCE", -1.0)
    with pytest.raises(ValueError, match=r"differs from PyTorch by .*nothing was writ"):
        export.main([str(checkpoint), "--onnx", str(tmp_path / "m.onnx")])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_int8_is_smaller_and_its_map_stands_beside_that_of_float(
    checkpoint: Path,
    exported: Path,
    dataset: Path,
    tmp_path: Path,
    kind: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Nobody would know what the 8 bits cost."""
    words = ["--calibration-audio", str(dataset)] if kind == "static" else []
    target = tmp_path / "m.onnx"
    export.main(
        [str(checkpoint), "--onnx", str(target), "--int8", kind, *words]
        + ["--audio", str(dataset)]
    )
    out = capsys.readouterr().out
    assert f"with {kind} int8" in out and "in float32 (24 clips)" in out
    kinds = {node.op_type for node in read_graph(target).graph.node}
    expected = "DynamicQuantizeLinear" if kind == "dynamic" else "QuantizeLinear"
    assert expected in kinds
    tagger = psl.load(target)
    waveform = sounds(RATE, 1, 2.0)
    plain, _ = psl.load(checkpoint, device="cpu")(waveform)
    assert np.abs(tagger(waveform)[0] - plain).max() < 0.25
    assert tagger.classes.mids == MIDS


def test_the_slim_folder_is_a_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    """Weights to be passed on would drag the optimizer along, or not open."""
    export.main([str(checkpoint), "--safetensors", str(tmp_path / "slim")])
    waveform = sounds(RATE, 1, 1.0)
    np.testing.assert_array_equal(
        psl.load(tmp_path / "slim", device="cpu")(waveform)[0],
        psl.load(checkpoint, device="cpu")(waveform)[0],
    )


def test_what_a_run_records_of_its_teacher_is_found(
    dataset: Path, tmp_path: Path
) -> None:
    """A card would not say whose opinions the model repeats, or the export fail."""
    folder = make_checkpoint(tmp_path / "run" / "checkpoints" / "average")
    index = open_index(str(dataset), kind="audio")
    keys = [index.key(row) for row in range(len(index))]
    psl.write_labels(
        tmp_path / "labels",
        audio=str(dataset),
        labels={key: np.full((1, 3), 0.5, np.float32) for key in keys},
        chunk_seconds=2.0,
        made_by={"teachers": [{"kind": "run", "weights_sha256": "ab" * 32}]},
    )
    data = {"audio": [str(dataset)], "labels": [str(tmp_path / "labels")]}
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump({"data": data}))
    found = about(load_checkpoint(folder))
    assert found.teacher == "run abababababab" and found.data == ["packed"]


TRANSFORMERS = """
import sys, numpy as np, torch
import psl.features._torchaudio  # where torchaudio's extension cannot load
for name in [n for n in sys.modules if n.split(".")[0] in ("psl", "shards")]:
    del sys.modules[name]
class Without:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("psl", "shards"):
            raise ImportError("psl is not installed here")
sys.meta_path.insert(0, Without())
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification
folder, sound, out = sys.argv[1:]
extractor = AutoFeatureExtractor.from_pretrained(folder)
model = AutoModelForAudioClassification.from_pretrained(folder, trust_remote_code=True)
inputs = extractor(np.load(sound)[0], sampling_rate=extractor.sampling_rate,
                   return_tensors="pt")
with torch.no_grad():
    np.save(out, model.eval()(**inputs).logits.sigmoid().numpy())
print(model.config.id2label[1])
"""


def test_transformers_loads_the_folder_without_psl_and_psl_without_transformers(
    tmp_path: Path,
) -> None:
    """A user of the Hub would need our package, or ours would need transformers."""
    folder = make_checkpoint(tmp_path / "run", "mn")
    export.main([str(folder), "--huggingface", str(tmp_path / "hub")])
    waveform = sounds(32000, 1, 1.3)
    np.save(tmp_path / "sound.npy", waveform)
    files = [str(tmp_path / name) for name in ("hub", "sound.npy", "probs.npy")]
    done = subprocess.run(
        [sys.executable, "-c", TRANSFORMERS, *files],
        capture_output=True,
        text=True,
        env={"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == "Mid | <b>"
    found, _ = psl.load(tmp_path / "hub", device="cpu")(waveform)
    np.testing.assert_allclose(np.load(tmp_path / "probs.npy"), found, atol=1e-6)


def test_hostile_names_stay_text_in_the_card(tmp_path: Path) -> None:
    """A class list from anyone would put links and pictures on a model's page."""
    classes = type(CLASSES)(("/m/a", "/m/b"), (HOSTILE, "license: mit\n---\n"))
    folder = make_checkpoint(tmp_path / "run", classes=classes)
    words = ["--teacher", "<script>", "--license", "x\n---\nevil: 1"]
    export.main([str(folder), "--huggingface", str(tmp_path / "hub"), *words])
    card = (tmp_path / "hub" / "README.md").read_text()
    _, header, body = card.split("---\n", 2)
    assert yaml.safe_load(header).keys() == {"library_name", "pipeline_tag", "tags"}
    assert "<img" not in body and "<script>" not in body and "](http://e" not in body
    assert not [line for line in body.splitlines() if line.startswith("# Big")]
    assert psl.load(tmp_path / "hub").classes == classes


def test_the_card_names_own_classes_once(tmp_path: Path) -> None:
    """'Doorbell (Doorbell)' would look like a mistake: their ids are their names."""
    classes = type(CLASSES)(("Doorbell", "/m/0bt9lr"), ("Doorbell", "Dog"))
    folder = make_checkpoint(tmp_path / "run", classes=classes)
    export.main([str(folder), "--huggingface", str(tmp_path / "hub")])
    card = (tmp_path / "hub" / "README.md").read_text().splitlines()
    assert [line for line in card if line.startswith("- D")] == [
        "- Doorbell",
        "- Dog (/m/0bt9lr)",
    ]


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--onnx", "{out}/no/m.onnx"], 78, "no such folder; make it first"),
        (["--onnx", "{out}"], 78, "is a folder, expected the name of a file"),
        (["--safetensors", "{out}"], 78, "exists; choose another folder"),
        (["--huggingface", "{out}"], 78, "exists; choose another folder"),
        (
            ["--onnx", "{out}/m.onnx", "--int8", "static"],
            2,
            "needs --calibration-audio",
        ),
        (["--onnx", "{out}/m.onnx", "--audio", "x"], 2, "--audio goes with --int8"),
        (["--safetensors", "{out}/s", "--features"], 2, "--features goes with --onnx"),
        (["--onnx", "{out}/m.onnx", "--check", "{out}/a.wav"], 78, "a.wav: No such f"),
        ([], 2, "one of the arguments --onnx --safetensors --huggingface --tflite"),
        (["--onnx", "{out}/m", "--tflite", "{out}/t"], 2, "not allowed with argument"),
    ],
)
def test_what_cannot_be_had_is_said_in_one_line(
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    status: int,
    message: str,
) -> None:
    """A user would get a traceback, or a half-written file."""
    filled = [word.format(out=tmp_path) for word in words]
    with pytest.raises((ValueError, ShardError, SystemExit)) as caught:
        export.main([str(checkpoint), *filled])
    refused = isinstance(caught.value, SystemExit)
    said = capsys.readouterr().err if refused else str(caught.value)
    assert message in said and refused == (status == 2)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named_with_what_to_install(
    checkpoint: Path, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user of a small installation would see an ImportError."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ValueError, match=r"not installed .*pip install .*onnx"):
        psl.load(exported)
    with pytest.raises(ValueError, match=r"run pip install .*(onnx|export)"):
        export_onnx(load_checkpoint(checkpoint), tmp_path / "m.onnx")
    monkeypatch.setitem(sys.modules, "litert_torch", None)
    with pytest.raises(ValueError, match=r"run pip install .*(litert|tflite)"):
        export.main([str(checkpoint), "--tflite", str(tmp_path / "m.tflite")])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("mids", ["/m/a"], "is damaged: .*1 mids, 3 names"),
        ("names", None, "is damaged"),
        ("sample_rate", 0, "is damaged"),
        ("input", "features", r"inputs \['waveform'\] .* expected 'features'"),
        ("model", {"name": "gone"}, "is damaged"),
    ],
)
def test_metadata_that_does_not_fit_is_refused(
    exported: Path, tmp_path: Path, key: str, value: Any, message: str
) -> None:
    """A file that someone changed would give sounds wrong names."""
    import onnx

    proto = read_graph(exported)
    for entry in proto.metadata_props:
        if entry.key == "psl":
            entry.value = json.dumps({**json.loads(entry.value), key: value})
    onnx.save(proto, str(tmp_path / "bad.onnx"))
    with pytest.raises((ValueError, ShardError), match=message) as caught:
        psl.load(tmp_path / "bad.onnx")
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(
    importlib.util.find_spec("litert_torch") is None,
    reason=f"{OPTIONAL}litert-torch is not installed (2 GB with what it needs)",
)
def test_tflite_gives_the_same_probabilities(checkpoint: Path, tmp_path: Path) -> None:
    """A phone would hear other sounds than the model that was evaluated."""
    target = tmp_path / "m.tflite"
    export.main([str(checkpoint), "--tflite", str(target), "--seconds", "1"])
    import ai_edge_litert.interpreter as litert

    interpreter = litert.Interpreter(str(target))
    runner = interpreter.get_signature_runner()
    waveform = sounds(RATE, 1, 1.0)
    found = list(runner(args_0=waveform).values())[0]
    expected, _ = psl.load(checkpoint, device="cpu")(waveform)
    np.testing.assert_allclose(found, expected, atol=1e-4)
