"""Teachers of every kind: what they give is what their models give, in our order."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import pickle
import shutil
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import soxr
import torch

from psl import import_checkpoint, label, train
from psl.models.families import build_model
from psl.teachers import huggingface
from psl.teachers.config import TeacherConfig
from psl.teachers.features import ExtractorFeatures
from psl.teachers.load import load_teacher
from psl.teachers.member import resample
from psl.weights.checkpoint import load_checkpoint
from shards.dataset.cache import ShardCache
from shards.dataset.reader import MemberReader
from shards.errors import ShardError
from shards.format.index import open_index
from shards.system.exits import JobError
from tests.conftest import MIDS, Run, write_source
from tests.hostile import memory_bound
from tests.learning import REPOSITORY, tiny_config

UPSTREAM = REPOSITORY / "tests/upstream_state_dict.json"


@pytest.fixture(scope="module")
def audio(tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    """Six clips of 1.3 s in two shards, with chunks of 1 s one whole and one of 0.3 s
    that is dropped, with chunks of 0.5 s the last one padded; not to be changed.
    """
    folder = tmp_path_factory.mktemp("audio")
    source = write_source(folder / "source", num_clips=6, seconds=1.3)
    words = [*source.pack_arguments(folder / "packed"), "--clips-per-shard", "3"]
    result = run("shards.pack", *words)
    assert result.returncode == 0, result.stderr
    return folder / "packed"


def stored(teacher: object, audio: Path, out: Path, *more: str) -> np.ndarray:
    """All label rows [chunks, C], as ``psl.label`` writes them."""
    teacher = teacher if isinstance(teacher, Path) else json.dumps(teacher)
    words = [f"teacher={teacher}", f"audio={audio}", f"out={out}"]
    label.main([*words, "chunk_seconds=0.5", *more])
    labels = MemberReader(open_index(out, kind="labels"))
    return np.concatenate([labels.labels(row) for row in range(len(labels.index))])


def chunks(audio: Path) -> list[np.ndarray]:
    """The chunks of 0.5 s in the order of the rows, float32, none padded."""
    reader = MemberReader(open_index(audio, kind="audio"))
    bounds = ((0, 8000), (8000, 16000), (16000, 20800))
    return [
        reader.samples(row, *where).astype(np.float32) / 32768
        for row in range(6)
        for where in bounds
    ]


# Files with upstream's names


def upstream_weights(num_classes: int) -> dict[str, torch.Tensor]:
    """Random weights with upstream's names, shapes and front end."""
    torch.manual_seed(num_classes)
    weights = build_model(num_classes=num_classes).state_dict()
    shapes = json.loads(UPSTREAM.read_text())
    assert weights.keys() == shapes.keys()
    return weights


@pytest.fixture(scope="module")
def upstream_probs(audio: Path) -> np.ndarray:
    """[18, 3] what the model of ``upstream_weights(3)`` says of each chunk."""
    model = build_model(num_classes=3).eval()
    model.load_state_dict(upstream_weights(3))
    with torch.inference_mode():
        found = []
        for chunk in chunks(audio):
            waveform = torch.zeros(1, 8000)
            waveform[0, : len(chunk)] = torch.from_numpy(chunk)
            found.append(model(waveform, torch.tensor([len(chunk)]))[0].numpy())
    return np.concatenate(found)


def save_as(form: str, folder: Path) -> Path:
    """``upstream_weights(3)`` as a program saves them."""
    weights: Any = upstream_weights(3)
    path = folder / "teacher.pt"
    if form in ("model.safetensors", "accelerate folder"):
        path = folder / "model.safetensors"
        safetensors.torch.save_file({n: t.clone() for n, t in weights.items()}, path)
        return folder if form == "accelerate folder" else path
    if form in ("module.", "_orig_mod."):
        weights = {f"{form}{name}": tensor for name, tensor in weights.items()}
    elif form == "last.ckpt":
        named = {f"model.{name}": tensor for name, tensor in weights.items()}
        weights = {"state_dict": named, "hyper_parameters": {"data": Path("data")}}
        path = folder / form
    elif form == "model_ema":
        noise = {name: torch.zeros_like(t) for name, t in weights.items()}
        weights = {"model": noise, form: weights}
    elif form == "pytorch_model.bin":
        path = folder / form
    elif form != "plain":
        weights = {form: weights, "epoch": 3}
    torch.save(weights, path)
    return path


FORMS = (
    *("plain", "model", "state_dict", "module.", "_orig_mod.", "last.ckpt"),
    *("model_ema", "pytorch_model.bin", "model.safetensors", "accelerate folder"),
)


@pytest.mark.parametrize("form", FORMS)
def test_a_file_with_upstream_s_names_labels_in_whatever_form(
    audio: Path, tmp_path: Path, upstream_probs: np.ndarray, form: str
) -> None:
    """Owners of the published teachers, or of their own, could not label with them."""
    found = stored(save_as(form, tmp_path), audio, tmp_path / "out")
    np.testing.assert_allclose(found, upstream_probs, atol=5e-4)


@pytest.mark.parametrize("form", ["last.ckpt", "accelerate folder"])
def test_training_and_imports_take_the_same_files(
    audio: Path, tmp_path: Path, form: str
) -> None:
    """What labels could not be trained on, or only after a conversion by hand."""
    path = save_as(form, tmp_path)
    words = ["epochs=1", "data.chunk_seconds=0.5", f"start={path}"]
    folder = tmp_path / "training"
    words = tiny_config(folder, audio, *words, "model.width=1", "model.time_stride=32")
    front_end = ("n_fft=512", "hop_length=160", "n_mels=64", "std_db=1")
    words += [f"model.front_end.{word}" for word in front_end]
    train.main([*words, "model.last_channels=1280"])
    taken = json.loads((folder / "run" / "start.json").read_text())["taken"]
    assert "features.18.0.weight" in taken
    classes = tmp_path / "classes.csv"
    lines = [f"{i},{mid},{mid[3:]}" for i, mid in enumerate(MIDS)]
    classes.write_text("\n".join(["index,mid,display_name", *lines]) + "\n")
    out = tmp_path / "imported"
    import_checkpoint.main([str(path), "--out", str(out), "--classes", str(classes)])
    imported = load_checkpoint(out).weights
    expected = upstream_weights(3)
    assert torch.equal(imported["classifier.1.bias"], expected["classifier.1.bias"])


def test_outputs_are_put_into_the_audio_s_order_by_the_stated_class_list(
    audio: Path, tmp_path: Path, upstream_probs: np.ndarray
) -> None:
    """Columns of the labels would mean other classes."""
    weights = upstream_weights(3)
    order = [2, 0, 1]  # high, low, mid, and one more that the audio has not
    for name in ("classifier.1.weight", "classifier.1.bias"):
        rows = weights[name][order]
        weights[name] = torch.cat([rows, torch.ones_like(rows[:1])])
    torch.save(weights, tmp_path / "teacher.pt")
    teacher = {"path": str(tmp_path / "teacher.pt")}
    with pytest.raises(ValueError, match="4 outputs, but the class list .* 3 classes"):
        stored(teacher, audio, tmp_path / "out")
    mids = ["/m/high", "/m/low", "/m/mid", "/m/more"]
    lines = [f"{i},{mid},{mid[3:]}" for i, mid in enumerate(mids)]
    classes = tmp_path / "classes.csv"
    classes.write_text("\n".join(["index,mid,display_name", *lines]) + "\n")
    found = stored(teacher | {"classes": str(classes)}, audio, tmp_path / "out")
    np.testing.assert_allclose(found, upstream_probs, atol=5e-4)
    classes.write_text(classes.read_text().replace("/m/mid", "/m/mud"))
    with pytest.raises(ValueError, match=r"1 of 3 classes .*: 'Tone mid' \(/m/mid\)"):
        stored(teacher | {"classes": str(classes)}, audio, tmp_path / "other")


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("form", ["torch.save", "pickle", "whole model"])
def test_a_file_that_needs_unpickling_is_refused_and_nothing_in_it_runs(
    audio: Path, tmp_path: Path, form: str
) -> None:
    """A downloaded teacher could do whatever it likes on the user's machine."""
    path, trace = tmp_path / "teacher.pt", tmp_path / "was_run"
    if form == "pickle":
        # of another protocol than 2, torch warns
        path.write_bytes(pickle.dumps({"model": Evil(trace)}, protocol=2))
    else:
        evil = Evil(trace) if form == "torch.save" else build_model(num_classes=3)
        torch.save({"model": evil}, path)
    with pytest.raises(ValueError, match="teacher.pt: holds more than tensors"):
        stored(path, audio, tmp_path / "out")
    assert not trace.exists() and not (tmp_path / "out").exists()


UNUSUAL: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "sparse": torch.Tensor.to_sparse,
    "meta": lambda tensor: tensor.to("meta"),
    "complex": lambda tensor: tensor.to(torch.complex64),
    "quantized": lambda tensor: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8),
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("another name", "1 names are missing, such as features.0.0.weight"),
        ("another shape", r"features.0.0.weight has shape \[8, 1, 3, 3\], expected"),
        ("no head", "no tensor classifier.1.weight"),
        ("a number", "'lr' is float, expected tensors by name"),
        ("a list", "holds list, expected a state_dict"),
        ("half of it", "cannot be read as a file of torch.save"),
        ("sparse", "'features.0.0.weight' is a sparse_coo tensor, expected plain"),
        ("meta", "'features.0.0.weight' is a meta .* tensor"),
        ("complex", "'features.0.0.weight' is a complex tensor"),
        ("quantized", "'features.0.0.weight' is a quantized tensor"),
    ],
)
def test_a_file_of_something_else_is_named_with_what_is_wrong(
    audio: Path, tmp_path: Path, change: str, message: str
) -> None:
    """Labels of a half-random model, or an error that helps nobody."""
    weights: Any = dict(upstream_weights(3))
    first = weights["features.0.0.weight"]
    if change == "another name":
        weights["features.zero.weight"] = weights.pop("features.0.0.weight")
    elif change == "another shape":
        weights["features.0.0.weight"] = first[:8].clone()
    elif change == "no head":
        del weights["classifier.1.weight"]
    elif change == "a number":
        weights["lr"] = 0.1
    elif change in UNUSUAL:
        weights["features.0.0.weight"] = UNUSUAL[change](first)
    path = tmp_path / "teacher.pt"
    torch.save([first] if change == "a list" else weights, path)
    if change == "half of it":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises((ValueError, ShardError), match=f"teacher.pt: .*{message}"):
        stored(path, audio, tmp_path / "out")
    assert not (tmp_path / "out").exists()


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder without a word."""

    def log_message(self, *_: Any) -> None:
        """Nothing."""


def test_a_file_at_a_url_is_checked_and_fetched_once(
    audio: Path, tmp_path: Path, upstream_probs: np.ndarray
) -> None:
    """A month of labelling would fetch it at every start, or take another file."""
    files, cache = tmp_path / "files", tmp_path / "cache"
    files.mkdir()
    torch.save(upstream_weights(3), files / "teacher.pt")
    sha256 = hashlib.sha256((files / "teacher.pt").read_bytes()).hexdigest()
    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(files))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/teacher.pt"
    more = f"loader.cache={cache}"
    with pytest.raises(ShardError, match=f"sha256 is {sha256}, expected 000"):
        stored({"path": url, "sha256": "0" * 64}, audio, tmp_path / "0", more)
    assert not cache.exists()
    teacher = {"path": url, "sha256": sha256}
    found = stored(teacher, audio, tmp_path / "1", more)
    np.testing.assert_allclose(found, upstream_probs, atol=5e-4)
    (kept,) = (cache / "teachers").iterdir()
    kept.write_bytes(b"damaged")
    mended = stored(teacher, audio, tmp_path / "mended", more)
    np.testing.assert_array_equal(mended, found)
    server.shutdown()
    server.server_close()
    again = stored(teacher, audio, tmp_path / "2", more)
    np.testing.assert_array_equal(again, found)


# Hugging Face


@dataclass(frozen=True)
class HubModel:
    """A model in a folder, and what it says of the chunks of ``audio``."""

    folder: Path
    logits: np.ndarray
    """[18, outputs]"""


def save_hub_model(
    folder: Path, model: Any, extractor: Any, parts: list[np.ndarray]
) -> HubModel:
    """Save both, and ask them about each chunk alone."""
    model.eval().save_pretrained(folder)
    extractor.save_pretrained(folder)
    with torch.inference_mode():
        logits = [
            model(**extractor(part, sampling_rate=16000, return_tensors="pt")).logits
            for part in parts
        ]
    return HubModel(folder, torch.cat(logits).numpy())


@pytest.fixture(scope="module")
def spectrogram_transformer(
    audio: Path, tmp_path_factory: pytest.TempPathFactory
) -> HubModel:
    """An AST with random weights, and outputs mid, something else, high, low."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    names = ("Tone mid", "Speech", "Tone high", "Tone low")
    config = transformers.ASTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_length=64,
        num_mel_bins=32,
        id2label=dict(enumerate(names)),
        label2id={name: number for number, name in enumerate(names)},
        problem_type="multi_label_classification",
        initializer_range=0.5,
    )
    return save_hub_model(
        tmp_path_factory.mktemp("ast"),
        transformers.ASTForAudioClassification(config),
        transformers.ASTFeatureExtractor(max_length=64, num_mel_bins=32),
        chunks(audio),
    )


@pytest.fixture(scope="module")
def wave_transformer(audio: Path, tmp_path_factory: pytest.TempPathFactory) -> HubModel:
    """A wav2vec 2.0 with random weights, whose outputs are mids, for one label."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.Wav2Vec2Config(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        conv_dim=(8, 8),
        conv_stride=(20, 16),
        conv_kernel=(40, 16),
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        classifier_proj_size=8,
        id2label={0: "/m/high", 1: "/m/low", 2: "/m/mid"},
        problem_type="single_label_classification",
        initializer_range=0.5,
    )
    return save_hub_model(
        tmp_path_factory.mktemp("wav2vec2"),
        transformers.Wav2Vec2ForSequenceClassification(config),
        transformers.Wav2Vec2FeatureExtractor(),
        chunks(audio),
    )


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


def softmax(logits: np.ndarray) -> np.ndarray:
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponents / exponents.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_an_ast_labels_by_name_the_same_in_any_batch(
    audio: Path, tmp_path: Path, spectrogram_transformer: HubModel, batch_size: int
) -> None:
    """The best public tagger could not teach, or would teach the wrong classes."""
    found = stored(
        spectrogram_transformer.folder,
        audio,
        tmp_path / "out",
        f"batch_size={batch_size}",
    )
    expected = sigmoid(spectrogram_transformer.logits)[:, [3, 0, 2]]
    assert expected.std(axis=0).min() > 0.01  # else anything would be right
    np.testing.assert_allclose(found, expected, atol=5e-4)


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_a_model_of_waveforms_gives_each_chunk_what_it_gives_it_alone(
    audio: Path, tmp_path: Path, wave_transformer: HubModel, batch_size: int
) -> None:
    """A short chunk's label would depend on the padding that its batch asks for."""
    found = stored(
        wave_transformer.folder, audio, tmp_path / "out", f"batch_size={batch_size}"
    )
    expected = softmax(wave_transformer.logits)[:, [1, 2, 0]]
    assert expected.std(axis=0).min() > 0.001
    np.testing.assert_allclose(found, expected, atol=5e-4)


def test_the_activation_is_the_one_that_is_stated(
    audio: Path, tmp_path: Path, wave_transformer: HubModel
) -> None:
    """A model whose configuration is silent or wrong could not be used."""
    teacher = {"path": str(wave_transformer.folder), "activation": "sigmoid"}
    found = stored(teacher, audio, tmp_path / "out")
    expected = sigmoid(wave_transformer.logits)[:, [1, 2, 0]]
    np.testing.assert_allclose(found, expected, atol=5e-4)
    with pytest.raises(JobError, match="key 'clip._0' at row 0: from teacher .*wav2ve"):
        stored(teacher | {"activation": "none"}, audio, tmp_path / "logits")


AUDIOSET = (
    *("Speech", "Music", "Dog", "Vehicle", "Rain", "Applause", "Guitar", "Laughter"),
    *("Siren", "Silence", "Water", "Bird"),
)


@pytest.mark.parametrize(
    ("problem", "names", "expected", "reason"),
    [
        ("single_label_classification", (), "softmax", "problem_type is single_label"),
        ("multi_label_classification", (), "sigmoid", "problem_type is multi_label_cl"),
        (None, AUDIOSET, "sigmoid", "its 527 outputs are AudioSet's"),
        (None, (), None, "set teacher.activation to softmax if"),
        (None, AUDIOSET[:-1], None, "set teacher.activation to softmax if"),
        ("regression", AUDIOSET, None, "problem_type is regression"),
    ],
)
def test_the_activation_follows_from_what_the_model_says_or_is_asked_for(
    caplog: pytest.LogCaptureFixture,
    problem: str | None,
    names: tuple[str, ...],
    expected: str | None,
    reason: str,
) -> None:
    """A single-label classifier's labels would come from sigmoids, and sum to 2.6."""
    caplog.set_level("INFO", "psl")
    transformers = pytest.importorskip("transformers")
    id2label = {n: names[n] if n < len(names) else f"L{n}" for n in range(527)}
    settings = transformers.ASTConfig(problem_type=problem, id2label=id2label)
    config, scores = TeacherConfig(path="t"), torch.full((2, 527), -1.0)
    if expected is None:
        with pytest.raises(ValueError, match=reason):
            huggingface.choose_activation(config, settings, scores, "teacher t")
    else:
        found = huggingface.choose_activation(config, settings, scores, "teacher t")
        assert found == expected
        assert f"teacher t: probabilities by {expected}, as {reason}" in caplog.text


def hub_fifo(folder: Path, name: str) -> None:
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)


def hub_link(folder: Path, name: str) -> None:
    shutil.move(folder / name, folder.parent / name)
    (folder / name).symlink_to(folder.parent / name)


def hub_set(folder: Path, name: str, **values: Any) -> None:
    content = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(content | values))


def hub_sharded(folder: Path) -> None:
    """An index of shards that names a file elsewhere."""
    (folder / "model.safetensors").rename(folder.parent / "other.safetensors")
    names = {"weight_map": {"a": "../other.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(names))


HUB_ATTACKS: dict[str, Callable[[Path], object]] = {
    "config is a pipe": lambda f: hub_fifo(f, "config.json"),
    "extractor is a pipe": lambda f: hub_fifo(f, "preprocessor_config.json"),
    "weights are a pipe": lambda f: hub_fifo(f, "model.safetensors"),
    "any JSON is a pipe": lambda f: hub_fifo(f, "processor_config.json"),
    "weights lie elsewhere": lambda f: hub_link(f, "model.safetensors"),
    "weights are huge": lambda f: os.truncate(f / "model.safetensors", 1 << 42),
    "weights are cut": lambda f: os.truncate(f / "model.safetensors", 2000),
    "a shard lies elsewhere": hub_sharded,
    "many layers": lambda f: hub_set(f, "config.json", num_hidden_layers=1 << 40),
    "wide": lambda f: hub_set(f, "config.json", intermediate_size=1 << 40),
    "wide and mad": lambda f: hub_set(f, "config.json", hidden_size=1 << 26),
    "fast": lambda f: hub_set(f, "preprocessor_config.json", sampling_rate=10**10),
    "long": lambda f: hub_set(f, "preprocessor_config.json", max_length=1 << 40),
    "brackets": lambda f: (f / "config.json").write_text("[" * 10**5),
}


@pytest.mark.parametrize("attack", HUB_ATTACKS)
def test_a_hub_folder_from_elsewhere_is_refused_in_bounded_memory(
    audio: Path, tmp_path: Path, spectrogram_transformer: HubModel, attack: str
) -> None:
    """Whoever tries a stranger's model would lose the machine, or hang for ever."""
    folder = shutil.copytree(spectrogram_transformer.folder, tmp_path / "ast")
    HUB_ATTACKS[attack](folder)
    index = open_index(audio, kind="audio")
    config = TeacherConfig(path=str(folder), kind="huggingface")
    with (
        memory_bound(2 << 30),
        pytest.raises(ValueError, match="ast: transformers cannot load it: "),
    ):
        load_teacher([config], index, cache=ShardCache())


def changed(model: HubModel, folder: Path, name: str, **values: Any) -> Path:
    """A copy of the model's folder with other ``values`` in its file ``name``."""
    shutil.copytree(model.folder, folder)
    content = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(content | values))
    return folder


def test_classes_that_a_model_does_not_have_are_named(
    audio: Path, tmp_path: Path, spectrogram_transformer: HubModel
) -> None:
    """Labels of another class list would train a student of nonsense."""
    names = {"0": "Tone mid", "1": "Speech", "2": "tone high", "3": "LABEL_3"}
    folder = changed(
        spectrogram_transformer, tmp_path / "ast", "config.json", id2label=names
    )
    with pytest.raises(
        ValueError,
        match=r"2 of 3 classes .*: 'Tone low' \(/m/low\), 'Tone high' \(/m/high\)",
    ):
        stored(folder, audio, tmp_path / "out")
    odd = {"0": "Tone mid", "1": "Speech", "2": "Tone high", "5": "Tone low"}
    folder = changed(
        spectrogram_transformer, tmp_path / "odd", "config.json", id2label=odd
    )
    with pytest.raises(ValueError, match="names 4 outputs, .* 0 to 3 .output 3 is one"):
        stored(folder, audio, tmp_path / "out")
    names["1"] = "Tone mid"
    folder = changed(
        spectrogram_transformer, tmp_path / "two", "config.json", id2label=names
    )
    with pytest.raises(ValueError, match="2 outputs are called 'Tone mid'"):
        stored(folder, audio, tmp_path / "out")


def test_weights_are_taken_from_safetensors_alone_and_none_is_left_random(
    audio: Path, tmp_path: Path, spectrogram_transformer: HubModel
) -> None:
    """A pickle could run anything; a fresh head would label at random."""
    pickled = shutil.copytree(spectrogram_transformer.folder, tmp_path / "pickled")
    weights = safetensors.torch.load_file(pickled / "model.safetensors")
    (pickled / "model.safetensors").unlink()
    torch.save(weights, pickled / "pytorch_model.bin")
    with pytest.raises(ValueError, match="pickled: transformers cannot load it: .*saf"):
        stored(pickled, audio, tmp_path / "out")
    (pickled / "pytorch_model.bin").unlink()
    headless = {n: w for n, w in weights.items() if not n.startswith("classifier.den")}
    path = pickled / "model.safetensors"
    safetensors.torch.save_file(headless, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="2 missing keys, such as classifier.dense.bi"):
        stored(pickled, audio, tmp_path / "out")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="pickled: transformers cannot load it: "):
        stored(pickled, audio, tmp_path / "out")


def test_audio_of_another_rate_is_resampled_for_the_model() -> None:
    """Everything would sound an octave too high to the teacher.

    A tone is the same tone at any rate; only the ends, where the filter looks past the
    audio, are left out.
    """
    tone = torch.sin(2 * torch.pi * 440 * torch.arange(16001) / 16000)[None]
    found, lengths = resample(tone, torch.tensor([16001]), 16000, 24000)
    assert found.shape == (1, 24002) and lengths.tolist() == [24002]
    expected = torch.sin(2 * torch.pi * 440 * torch.arange(24002) / 24000)
    torch.testing.assert_close(
        found[0, 200:-200], expected[200:-200], atol=2e-3, rtol=0
    )


def test_a_model_of_another_rate_hears_resampled_audio(
    audio: Path, tmp_path: Path, spectrogram_transformer: HubModel
) -> None:
    """Models at 8 or 32 kHz could not teach, or would be given the wrong pitch.

    soxr, another resampler, says what the model is to hear.
    """
    transformers = pytest.importorskip("transformers")
    folder = changed(
        spectrogram_transformer,
        tmp_path / "8k",
        "preprocessor_config.json",
        sampling_rate=8000,
    )
    found = stored(folder, audio, tmp_path / "out")
    extractor = transformers.ASTFeatureExtractor.from_pretrained(folder)
    model = transformers.ASTForAudioClassification.from_pretrained(folder).eval()

    def probs(rate: int) -> np.ndarray:
        parts = [soxr.resample(chunk, 16000, rate) for chunk in chunks(audio)]
        with torch.inference_mode():
            heard = extractor(parts, sampling_rate=8000, return_tensors="pt")
            return sigmoid(model(**heard).logits.numpy())[:, [3, 0, 2]]

    right, wrong = abs(found - probs(8000)).mean(), abs(found - probs(16000)).mean()
    assert right < 0.2 * wrong
    index = json.loads((tmp_path / "out" / "index.json").read_text())
    (member,) = index["provenance"]["teachers"]
    assert member["sample_rate"] == 8000 and member["kind"] == "huggingface"


REMOTE_CODE = """
from pathlib import Path
import torch
from transformers import PretrainedConfig, PreTrainedModel, SequenceFeatureExtractor
from transformers.modeling_outputs import SequenceClassifierOutput
Path({trace!r}).touch()
class OwnConfig(PretrainedConfig):
    model_type = "own_tagger"
class OwnExtractor(SequenceFeatureExtractor):
    def __init__(self, feature_size=1, sampling_rate=16000, padding_value=0.0, **more):
        super().__init__(feature_size, sampling_rate, padding_value, **more)
    def __call__(self, samples, sampling_rate, return_tensors):
        return {{"loudness": torch.tensor([abs(samples).max()])}}
class OwnModel(PreTrainedModel):
    config_class = OwnConfig
    def __init__(self, config):
        super().__init__(config)
        self.factors = torch.nn.Parameter(torch.zeros(3))
        self.post_init()
    def forward(self, loudness):
        return SequenceClassifierOutput(logits=loudness[:, None] * self.factors)
"""


@pytest.fixture
def own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model that comes with its code, and gives probabilities; running leaves a file
    ``was_run`` beside it.
    """
    utils = pytest.importorskip("transformers.dynamic_module_utils")
    monkeypatch.setattr(utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("sys.path", [*sys.path])
    folder = tmp_path / "own"
    folder.mkdir()
    trace = tmp_path / "was_run"
    (folder / "own.py").write_text(REMOTE_CODE.format(trace=str(trace)))
    names = {"0": "Tone low", "1": "Tone mid", "2": "Tone high"}
    config = {"model_type": "own_tagger", "id2label": names}
    config["auto_map"] = {
        "AutoConfig": "own.OwnConfig",
        "AutoModelForAudioClassification": "own.OwnModel",
    }
    (folder / "config.json").write_text(json.dumps(config))
    extractor = {"auto_map": {"AutoFeatureExtractor": "own.OwnExtractor"}}
    (folder / "preprocessor_config.json").write_text(json.dumps(extractor))
    factors = {"factors": torch.tensor([0.25, 0.5, 1.0])}
    path = folder / "model.safetensors"
    safetensors.torch.save_file(factors, path, metadata={"format": "pt"})
    return folder


def test_code_of_a_model_runs_only_where_the_user_says_so(
    audio: Path, tmp_path: Path, own_code: Path
) -> None:
    """CED needs its own code; nobody else's must run by the way."""
    trace = tmp_path / "was_run"
    teacher: dict[str, Any] = {"path": str(own_code), "activation": "none"}
    with pytest.raises(ValueError, match="own: transformers cannot load it"):
        stored(teacher, audio, tmp_path / "out")
    assert not trace.exists()
    found = stored(teacher | {"trust_remote_code": True}, audio, tmp_path / "out")
    loudest = np.array([abs(chunk).max() for chunk in chunks(audio)])
    np.testing.assert_allclose(found, loudest[:, None] * [0.25, 0.5, 1.0], atol=5e-4)


def test_a_model_that_seems_to_give_probabilities_is_not_squashed_again(
    audio: Path, tmp_path: Path, own_code: Path
) -> None:
    """All labels would be between 0.5 and 0.73, and nobody would notice."""
    teacher: dict[str, Any] = {"path": str(own_code), "trust_remote_code": True}
    with pytest.raises(ValueError, match="in 0 to 1 .* set teacher.activation to none"):
        stored(teacher, audio, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    found = stored(teacher | {"activation": "sigmoid"}, audio, tmp_path / "asked")
    assert found.min() >= 0.5


def test_a_model_must_name_as_many_outputs_as_it_gives(
    audio: Path, tmp_path: Path, own_code: Path
) -> None:
    """An output would be labelled as the class of another, or be read past the end."""
    config = json.loads((own_code / "config.json").read_text())
    config["id2label"]["3"] = "Tone of no output"
    (own_code / "config.json").write_text(json.dumps(config))
    teacher = {"path": str(own_code), "activation": "none", "trust_remote_code": True}
    with pytest.raises(ValueError, match="names 4 outputs, .* 0 to 2 .output 3 is one"):
        stored(teacher, audio, tmp_path / "out")


def test_other_code_makes_another_teacher(
    audio: Path, tmp_path: Path, own_code: Path
) -> None:
    """Labels of a model and of the same weights with other code would be mixed."""
    index = open_index(audio, kind="audio")

    def identity(folder: Path) -> str:
        config = TeacherConfig(
            path=str(folder), activation="none", trust_remote_code=True
        )
        return load_teacher([config], index, cache=ShardCache()).identity

    before = identity(own_code)
    moved = shutil.copytree(own_code, tmp_path / "moved")
    assert identity(moved) == before
    code = moved / "own.py"
    code.write_text(code.read_text().replace("abs(samples).max()", "abs(samples[0])"))
    assert identity(moved) != before


def test_features_are_made_by_the_threads_that_read(
    audio: Path,
    tmp_path: Path,
    wave_transformer: HubModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A GPU would wait while its own thread makes features; or labels would change."""
    expected = stored(wave_transformer.folder, audio, tmp_path / "a", "batch_size=5")
    threads, made = set(), ExtractorFeatures.__call__

    def noted(features: ExtractorFeatures, *args: Any) -> Any:
        threads.add(threading.current_thread().name.rpartition("_")[0])
        return made(features, *args)

    monkeypatch.setattr(huggingface, "_try_out", lambda *_: torch.full((2, 3), -1.0))
    monkeypatch.setattr(ExtractorFeatures, "__call__", noted)
    more = ("batch_size=5", "loader.threads=4")
    found = stored(wave_transformer.folder, audio, tmp_path / "b", *more)
    assert threads == {"label read"}
    np.testing.assert_array_equal(found, expected)
    threads.clear()
    words = ["epochs=1", "data.chunk_seconds=0.5", "data.labels=online"]
    words.append(f"data.teacher={wave_transformer.folder}")
    train.main(tiny_config(tmp_path / "online", audio, *words))
    assert threads and "MainThread" not in threads


def test_a_compiled_model_sees_whole_chunks_in_one_shape(
    audio: Path,
    tmp_path: Path,
    wave_transformer: HubModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each number of whole chunks in a batch, and each length of a short one, would be
    compiled anew, for minutes, and from the ninth on not at all.
    """
    shapes = set()

    def compile_(call: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        assert options == {"dynamic": False}

        def forward(**inputs: torch.Tensor) -> Any:
            shapes.add(tuple(inputs["input_values"].shape))
            return call(**inputs)

        return forward

    monkeypatch.setattr(torch, "compile", compile_)
    more = ("batch_size=5", "compile=true")
    found = stored(wave_transformer.folder, audio, tmp_path / "out", *more)
    assert shapes == {(5, 8000)}
    expected = softmax(wave_transformer.logits)[:, [1, 2, 0]]
    np.testing.assert_allclose(found, expected, atol=5e-4)


# Several, and what goes wrong with each kind


def test_several_teachers_give_the_weighted_mean_of_their_probabilities(
    audio: Path,
    tmp_path: Path,
    upstream_probs: np.ndarray,
    spectrogram_transformer: HubModel,
) -> None:
    """The usual way to better labels would not be there, or not be what it says."""
    torch.save(upstream_weights(3), tmp_path / "teacher.pt")
    first = {"path": str(tmp_path / "teacher.pt"), "weight": 3}
    teachers = [first, str(spectrogram_transformer.folder)]
    found = stored(teachers, audio, tmp_path / "out")
    others = sigmoid(spectrogram_transformer.logits)[:, [3, 0, 2]]
    np.testing.assert_allclose(found, 0.75 * upstream_probs + 0.25 * others, atol=5e-4)
    index = json.loads((tmp_path / "out" / "index.json").read_text())
    members = index["provenance"]["teachers"]
    assert [member["share"] for member in members] == [0.75, 0.25]
    with pytest.raises(ShardError, match="made with teacher"):
        stored([first | {"weight": 1}, teachers[1]], audio, tmp_path / "out")


def test_nan_is_an_error_that_names_the_clip_and_the_member(
    audio: Path, tmp_path: Path
) -> None:
    """NaN would go into the labels, and nobody would know from whom."""
    weights = upstream_weights(3)
    torch.save(weights, tmp_path / "good.pt")
    weights["classifier.1.bias"] = torch.full((3,), torch.nan)
    torch.save(weights, tmp_path / "bad.pt")
    teachers = [str(tmp_path / "good.pt"), str(tmp_path / "bad.pt")]
    expected = (
        r"key 'clip\d_0' at row \d: from teacher \S*bad.pt \(member 1 of 2\): lab"
    )
    with pytest.raises(JobError, match=expected):
        stored(teachers, audio, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.tar"))


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        ({"path": "a", "activation": "sigmoid"}, "activation is not for .* kind run"),
        ({"path": "a.pt", "revision": "b"}, "revision is not for .* kind upstream"),
        ({"path": "http://a/b", "trust_remote_code": True}, "of kind upstream"),
        ({"path": "a", "knd": "run"}, "'teacher.knd'; did you mean 'teacher.kind'"),
        ([], "at least 1 item"),
    ],
)
def test_a_setting_that_does_nothing_is_refused(
    audio: Path, tmp_path: Path, teacher: object, message: str
) -> None:
    """Users would believe that it had done what they asked for."""
    with pytest.raises(ValueError, match=message):
        stored(teacher, audio, tmp_path / "out")


def test_the_identity_changes_with_whatever_decides_the_labels(
    audio: Path, spectrogram_transformer: HubModel, tmp_path: Path
) -> None:
    """Labels of two teachers could end up in one folder."""
    torch.save(upstream_weights(3), tmp_path / "a.pt")
    other = upstream_weights(3)
    other["classifier.1.bias"][0] += 1e-3
    torch.save(other, tmp_path / "b.pt")
    ast = str(spectrogram_transformer.folder)
    settings: list[list[dict[str, Any]]] = [
        [{"path": str(tmp_path / "a.pt")}],
        [{"path": str(tmp_path / "b.pt")}],
        [{"path": ast}],
        [{"path": ast, "activation": "softmax"}],
        [{"path": ast}, {"path": str(tmp_path / "a.pt")}],
        [{"path": ast, "weight": 2.0}, {"path": str(tmp_path / "a.pt")}],
    ]
    index = open_index(audio, kind="audio")
    found = [
        load_teacher(
            [TeacherConfig(**entry) for entry in entries], index, cache=ShardCache()
        ).identity
        for entries in settings
    ]
    assert len(set(found)) == len(settings)
    copy = shutil.copy(tmp_path / "a.pt", tmp_path / "copy.pt")
    config = TeacherConfig(path=str(copy))
    assert load_teacher([config], index, cache=ShardCache()).identity == found[0]
