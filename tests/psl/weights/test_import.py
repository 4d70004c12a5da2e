"""Weights of others: renamed, refused where they do not fit, and scored as theirs."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import psl
from psl import train
from psl.features.config import SlaneyLogMelConfig
from psl.models.config import ASTConfig, Cnn14Config
from psl.models.families import build_from_config
from psl.weights.checkpoint import load_checkpoint
from psl.weights.published import Published, read_state_dict
from psl.weights.start import Source, open_source, take_weights
from shards.format.classes import Classes
from tests.conftest import MIDS, Run
from tests.learning import REPOSITORY, tiny_config
from tests.tiny_models import TINY

SHAPES = json.loads((REPOSITORY / "tests/upstream_state_dict.json").read_text())
CLASSES = Classes(MIDS, ("Tone low", "Tone mid", "Tone high"))
# upstream's blocks: stride of each, arXiv 1801.04381, table 2
STRIDES = (1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1)


def mel_weights() -> Tensor:
    """[257, 64] triangles on the HTK mel scale, 0 to 8000 Hz."""
    top = 2595 * math.log10(1 + 8000 / 700)
    points = 700 * (10 ** (torch.linspace(0, top, 66) / 2595) - 1)
    bins = torch.linspace(0, 8000, 257)[:, None]
    rising = (bins - points[:-2]) / (points[1:-1] - points[:-2])
    falling = (points[2:] - bins) / (points[2:] - points[1:-1])
    return torch.minimum(rising, falling).clamp(min=0)


def random_upstream() -> dict[str, Tensor]:
    """Values that keep the activations in range, under upstream's names."""
    torch.manual_seed(0)
    weights = {}
    for name, shape in SHAPES.items():
        if name.endswith("num_batches_tracked"):
            weights[name] = torch.tensor(7)
        elif name.endswith("running_var") or (len(shape) == 1 and "weight" in name):
            weights[name] = 0.5 + torch.rand(shape)
        elif len(shape) == 4:
            fan_in = shape[1] * shape[2] * shape[3]
            weights[name] = torch.randn(shape) / math.sqrt(fan_in)
        else:
            weights[name] = 0.05 * torch.randn(shape)
    weights["front_end.0.spectrogram.window"] = torch.hann_window(512)
    weights["front_end.0.mel_scale.fb"] = mel_weights()
    return weights


def upstream_scores(weights: dict[str, Tensor], waveform: Tensor) -> Tensor:
    """[1, C] in plain torch, as the paper and upstream's names describe it."""

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var, scale, shift = (
            weights[f"{name}.{part}"]
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, var, scale, shift)

    window = weights["front_end.0.spectrogram.window"]
    stft = torch.stft(waveform, 512, 160, window=window, return_complex=True)
    mel = weights["front_end.0.mel_scale.fb"].T @ stft.abs().square()
    db = 10 * mel.clamp(min=1e-10).log10()
    x = torch.maximum(db, db.max() - 120)[:, None]
    x = F.conv2d(x, weights["features.0.0.weight"], stride=2, padding=1)
    x = norm(x, "features.0.1").clamp(0, 6)
    for number, stride in enumerate(STRIDES, 1):
        before, stem = x, f"features.{number}.conv"
        depthwise = 0 if number == 1 else 1
        if depthwise:
            x = F.conv2d(x, weights[f"{stem}.0.0.weight"])
            x = norm(x, f"{stem}.0.1").clamp(0, 6)
        kernel = weights[f"{stem}.{depthwise}.0.weight"]
        x = F.conv2d(x, kernel, stride=stride, padding=1, groups=len(kernel))
        x = norm(x, f"{stem}.{depthwise}.1").clamp(0, 6)
        x = F.conv2d(x, weights[f"{stem}.{depthwise + 1}.weight"])
        x = norm(x, f"{stem}.{depthwise + 2}")
        x = x + before if x.shape == before.shape else x
    x = F.conv2d(x, weights["features.18.0.weight"])
    x = norm(x, "features.18.1").clamp(0, 6).mean(dim=2).transpose(1, 2)
    x = x @ weights["classifier.1.weight"].T + weights["classifier.1.bias"]
    return x.sigmoid().mean(dim=1)


@pytest.mark.parametrize("seconds", [1, 2, 5, 10])
def test_upstream_s_weights_give_upstream_s_outputs(seconds: int) -> None:
    """Owners of the paper's checkpoints would label and evaluate with another model."""
    weights = random_upstream()
    model = psl.build_model("mobilenetv2").eval()
    model.load_state_dict(weights)
    waveform = 0.1 * torch.randn(1, seconds * 16000)
    waveform[:, 4000:8000] = 0  # where the floor of 120 dB matters
    with torch.no_grad():
        scores, _ = model(waveform)
    expected = upstream_scores(weights, waveform)
    assert expected.std() > 0.01
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=0)


def write_classes(folder: Path, number: int) -> Path:
    """A class list of ``number`` classes."""
    path = folder / "classes.csv"
    lines = [f"{n},/m/{n},Class {n}" for n in range(number)]
    path.write_text("index,mid,display_name\n" + "\n".join(lines) + "\n")
    return path


def panns_file(folder: Path) -> Path:
    """A file as PANNs publishes it, with 3 outputs; most of it zero, and so small."""
    with torch.device("meta"):
        model = psl.build_model("cnn14", num_classes=3)
    weights = {
        n: torch.zeros(()).expand(t.shape) for n, t in model.state_dict().items()
    }
    weights = {n: t for n, t in weights.items() if not n.startswith("front_end.")}
    weights["fc_audioset.bias"] = torch.tensor([0.0, 1.0, -1.0])
    weights["logmel_extractor.melW"] = torch.zeros(513, 64)
    weights["spectrogram_extractor.stft.conv_real.weight"] = torch.zeros(513, 1, 1024)
    path = folder / "Cnn14.pth"
    torch.save({"iteration": 600000, "model": weights}, path)
    return path


def test_panns_weights_become_a_checkpoint_of_the_32_khz_model(
    tmp_path: Path, run: Run
) -> None:
    """The best-known AudioSet weights would be of no use, or hear other features."""
    out, classes = tmp_path / "out", write_classes(tmp_path, 3)
    source = panns_file(tmp_path)
    done = run("psl.import_checkpoint", str(source), "--out", out, "--classes", classes)
    assert done.returncode == 0, done.stderr
    assert "dropped  logmel_extractor.melW" in done.stdout
    checkpoint = load_checkpoint(out)
    assert checkpoint.model_config.front_end == SlaneyLogMelConfig(
        sample_rate=32000, n_fft=1024, hop_length=320, f_min=50.0, f_max=14000.0
    )
    scores, _ = checkpoint.build_model()(torch.randn(1, 32000))
    expected = [[0.5, 0.7310586, 0.2689414]]  # sigmoid of the bias
    torch.testing.assert_close(scores, torch.tensor(expected))


def test_panns_models_that_pool_otherwise_or_hide_their_rate_are_not_mistaken(
    tmp_path: Path,
) -> None:
    """Scores would be those of no published model, without a word."""
    weights = torch.load(panns_file(tmp_path))["model"]
    for name, pooling in (("DecisionLevelAvg", "mean"), ("16k", "clip")):
        config = read_state_dict(weights, f"a/Cnn14_{name}_mAP=0.4.pth").config
        assert isinstance(config, Cnn14Config) and config.pooling == pooling
    with pytest.raises(ValueError, match="pools the scores of frames in a way unknown"):
        read_state_dict(weights, "Cnn14_DecisionLevelMax.pth")
    del weights["logmel_extractor.melW"]
    with pytest.raises(ValueError, match="no logmel_extractor.melW, which tells"):
        read_state_dict(weights, "Cnn14.pth")


def ast_file(folder: Path) -> tuple[Path, dict[str, Tensor]]:
    """A small AST as its authors save it, from transformers' with the same values."""
    import transformers

    config = transformers.ASTConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=1,
        intermediate_size=256,
    )
    config.num_labels = 3
    torch.manual_seed(0)
    theirs = transformers.ASTForAudioClassification(config).eval()
    torch.nn.init.normal_(
        theirs.audio_spectrogram_transformer.embeddings.position_embeddings, std=0.2
    )
    theirs.save_pretrained(folder / "hf")
    transformers.ASTFeatureExtractor().save_pretrained(folder / "hf")
    body = theirs.audio_spectrogram_transformer
    names: dict[str, Tensor] = {
        "v.cls_token": body.embeddings.cls_token,
        "v.dist_token": body.embeddings.distillation_token,
        "v.pos_embed": body.embeddings.position_embeddings,
        "v.head.weight": torch.zeros(1000, 64),
    }
    modules: dict[str, Any] = {
        "v.patch_embed.proj": body.embeddings.patch_embeddings.projection,
        "v.norm": body.layernorm,
        "mlp_head.0": theirs.classifier.layernorm,
        "mlp_head.1": theirs.classifier.dense,
    }
    for number, layer in enumerate(body.layers):
        stem, attention = f"v.blocks.{number}", layer.attention
        modules |= {
            f"{stem}.norm1": layer.layernorm_before,
            f"{stem}.norm2": layer.layernorm_after,
            f"{stem}.attn.proj": attention.o_proj,
            f"{stem}.mlp.fc1": layer.mlp.fc1,
            f"{stem}.mlp.fc2": layer.mlp.fc2,
        }
        parts = (attention.q_proj, attention.k_proj, attention.v_proj)
        names[f"{stem}.attn.qkv.weight"] = torch.cat([part.weight for part in parts])
        names[f"{stem}.attn.qkv.bias"] = torch.cat([part.bias for part in parts])
    for name, module in modules.items():
        names |= {f"{name}.weight": module.weight, f"{name}.bias": module.bias}
    path = folder / "ast.pth"
    torch.save({f"module.{n}": t.detach().clone() for n, t in names.items()}, path)
    return path, names


def test_an_ast_of_other_strides_is_refused_by_its_places(tmp_path: Path) -> None:
    """It would score with its places in disorder, after --partial."""
    _, weights = ast_file(tmp_path)
    hidden = weights["v.pos_embed"].shape[2]
    weights["v.pos_embed"] = torch.zeros(1, 850, hidden)  # of stride 12
    with pytest.raises(ValueError, match="there: v.pos_embed has 850 places, expected"):
        read_state_dict(weights, "there")


@pytest.mark.parametrize("form", ["authors", "huggingface"])
def test_ast_checkpoints_give_the_outputs_of_transformers(
    form: str, tmp_path: Path, run: Run
) -> None:
    """The strongest public teacher would be quietly another one.

    transformers' own feature extractor and model, on 3 s and 10 s, are the referee.
    """
    import transformers

    source, _ = ast_file(tmp_path)
    theirs = transformers.ASTForAudioClassification.from_pretrained(tmp_path / "hf")
    extractor = transformers.ASTFeatureExtractor()
    if form == "huggingface":  # not of AudioSet; the authors' file does not say
        extractor = transformers.ASTFeatureExtractor(mean=-6.85, std=5.54)
        extractor.save_pretrained(tmp_path / "hf")
    classes = tmp_path / "classes.csv"
    lines = [f"{n},/m/{n},LABEL_{n}" for n in range(3)]
    classes.write_text("index,mid,display_name\n" + "\n".join(lines) + "\n")
    path = source if form == "authors" else tmp_path / "hf"
    words = [str(path), "--out", tmp_path / "out", "--classes", classes]
    if form == "huggingface":
        others = write_classes(tmp_path / "hf", 3)
        words[-1] = others
        done = run("psl.import_checkpoint", *words)
        assert done.returncode == 78 and "output 0 is 'LABEL_0'" in done.stderr
        words[-1] = classes
    done = run("psl.import_checkpoint", *words)
    assert done.returncode == 0, done.stderr
    model = load_checkpoint(tmp_path / "out").build_model()
    for seconds in (3, 10):
        waveform = 0.1 * torch.randn(1, seconds * 16000)
        features = extractor(
            waveform[0].numpy(), sampling_rate=16000, return_tensors="pt"
        )
        with torch.no_grad():
            expected = theirs.eval()(**features).logits.sigmoid()
            scores, _ = model(waveform)
        torch.testing.assert_close(scores, expected, atol=1e-5, rtol=0)


def test_partial_files_are_refused_unless_told_and_named_tensor_by_tensor(
    tmp_path: Path, run: Run
) -> None:
    """Half a teacher is random, and labels as if it were whole."""
    weights = random_upstream()
    del weights["features.5.conv.2.weight"]
    weights["odd.weight"] = torch.zeros(2)
    torch.save(weights, tmp_path / "some.pt")
    classes = write_classes(tmp_path, 527)
    words = [tmp_path / "some.pt", "--classes", classes, "--out", tmp_path / "out"]
    done = run("psl.import_checkpoint", *words)
    assert done.returncode == 78, done.stderr
    assert "missing  features.5.conv.2.weight" in done.stdout
    assert "unknown  odd.weight" in done.stdout
    assert "2 tensors do not fit" in done.stderr
    assert not (tmp_path / "out").exists()
    done = run("psl.import_checkpoint", *words, "--partial")
    assert done.returncode == 0, done.stderr
    loaded = load_checkpoint(tmp_path / "out").weights
    assert torch.equal(loaded["classifier.1.bias"], weights["classifier.1.bias"])


def test_an_import_with_others_class_names_or_into_a_full_folder_is_refused(
    tmp_path: Path,
) -> None:
    """Every label would mean another class, or a checkpoint be overwritten."""
    import_checkpoint: Any = importlib.import_module("psl.teachers.importing")
    published = Published(ASTConfig(), {}, labels=["Tone low", "/m/mid", "Tone high "])
    import_checkpoint.check_labels(published, CLASSES, "there")
    swapped = dataclasses.replace(published, labels=["Tone mid", "Tone low"])
    with pytest.raises(ValueError, match="output 0 is 'Tone mid', but .* 'Tone low'"):
        import_checkpoint.check_labels(swapped, CLASSES, "there")
    model: Any = psl.build_model(num_classes=3, **TINY["mobilenetv2"])
    words = (tmp_path, model, model.config, CLASSES, "there")
    with pytest.raises(ValueError, match="exists; choose another folder"):
        import_checkpoint.save(*words)


def test_a_start_with_other_features_is_refused_with_the_words_that_mend_it(
    tmp_path: Path, dataset: Path
) -> None:
    """Weights would go on with features that they have never seen, and do badly."""
    train.main(tiny_config(tmp_path / "first", dataset, "epochs=1"))
    words = ["epochs=1", f"start={tmp_path}/first/run"]
    other = ["model.front_end.hop_length=160", "model.front_end.mean_db=-10"]
    with pytest.raises(
        ValueError, match=r"\(hop_length 160, mean_db -10.0\); set .*hop_length=320"
    ) as error:
        train.main(tiny_config(tmp_path / "second", dataset, *words, *other))
    named = str(error.value).split("; set ")[1].split()
    assert len(named) == 2 and named[1].startswith("model.front_end.mean_db=")
    train.main(tiny_config(tmp_path / "third", dataset, *words, *other, *named))


def test_a_start_for_other_classes_has_a_new_classifier_and_all_else(
    tmp_path: Path,
) -> None:
    """Fine-tuning would begin at random, or keep outputs that mean other classes."""
    old = psl.build_model(num_classes=5, **TINY["mobilenetv2"])
    weights = {n: t + 1 for n, t in old.state_dict().items()}
    others = Classes(("/m/a",) * 5, ("a",) * 5)
    source = Source("there", "mobilenetv2", weights, others)
    model: Any = psl.build_model(num_classes=3, **TINY["mobilenetv2"])
    before = model.state_dict()["classifier.1.weight"].clone()
    taken = take_weights(model, model.config, source, CLASSES)
    assert taken.new == taken.dropped == ["classifier.1.bias", "classifier.1.weight"]
    after = model.state_dict()
    assert torch.equal(after["classifier.1.weight"], before)
    assert torch.equal(after["features.0.0.weight"], weights["features.0.0.weight"])
    wider: Any = psl.build_model(num_classes=3, width=0.5, last_channels=64)
    with pytest.raises(ValueError, match=r"features.0.0.weight has shape \[8, 1, 3, 3"):
        take_weights(wider, wider.config, source, CLASSES)


@pytest.mark.parametrize("name", sorted(TINY))
def test_a_start_for_some_of_the_classes_takes_their_rows_by_mid(name: str) -> None:
    """A student would learn from few clips what its teacher knows."""
    old = psl.build_model(name, num_classes=5, **TINY[name])
    weights = {n: t + 1 for n, t in old.state_dict().items()}
    theirs = Classes(("/m/2", "/m/x", "/m/0", "/m/y", "/m/z"), tuple("abcde"))
    ours = Classes(("/m/0", "/m/1", "/m/2"), tuple("abc"))
    model: Any = psl.build_model(name, num_classes=3, **TINY[name])
    before = {n: t.clone() for n, t in model.state_dict().items()}
    source = Source("there", name, weights, theirs)
    taken = take_weights(model, model.config, source, ours)
    assert taken.classes == ["/m/0", "/m/2"] and taken.dropped == []
    rows = [n for n in taken.new if n.endswith((".weight", ".bias"))]
    assert len(rows) >= 2
    for row in rows:
        after, first = (t[row] for t in (model.state_dict(), before))
        num_heads = len(after) // 3  # PSLA's attention has four
        for head in range(num_heads):
            old_rows = weights[row][5 * head : 5 * head + 5]
            new_rows = after[3 * head : 3 * head + 3]
            assert torch.equal(new_rows[0], old_rows[2])
            assert torch.equal(new_rows[1], first[3 * head + 1])  # new
            assert torch.equal(new_rows[2], old_rows[0])
    assert "rows of 2 shared classes" in taken.lines("start")[0]


def test_a_start_for_the_same_classes_in_another_order_has_no_new_tensor() -> None:
    """Columns would mean other classes, or be forgotten."""
    old = psl.build_model(num_classes=3, **TINY["mobilenetv2"])
    weights = dict(old.state_dict())
    source = Source("there", "mobilenetv2", weights, CLASSES)
    turned = Classes(CLASSES.mids[::-1], CLASSES.names[::-1])
    model: Any = psl.build_model(num_classes=3, **TINY["mobilenetv2"])
    taken = take_weights(model, model.config, source, turned)
    assert taken.new == taken.dropped == []
    for name in ("classifier.1.weight", "classifier.1.bias"):
        assert torch.equal(model.state_dict()[name], weights[name].flip(0))


def test_a_start_for_the_same_classes_keeps_its_classifier() -> None:
    """A run that goes on with other data would forget what it had learned."""
    old = psl.build_model(num_classes=3, **TINY["mobilenetv2"])
    weights = {n: t + 1 for n, t in old.state_dict().items()}
    source = Source("there", "mobilenetv2", weights, CLASSES)
    model: Any = psl.build_model(num_classes=3, **TINY["mobilenetv2"])
    tables = model.state_dict()["front_end.0.mel_scale.fb"].clone()
    taken = take_weights(model, model.config, source, CLASSES)
    assert taken.new == taken.dropped == []
    after = model.state_dict()
    name = "classifier.1.weight"
    assert torch.equal(after[name], weights[name])
    assert torch.equal(after["front_end.0.mel_scale.fb"], tables)  # no weights


def test_a_start_with_a_hole_or_with_too_much_is_refused() -> None:
    """Layers would stay random, or be left out, and nobody would know."""
    model: Any = psl.build_model(num_classes=3, **TINY["mobilenetv2"])
    before = {n: t.clone() for n, t in model.state_dict().items()}
    weights = {n: t + 1 for n, t in before.items()}
    hole = {n: t for n, t in weights.items() if n != "features.1.conv.1.weight"}
    more = weights | {"features.19.weight": torch.ones(1)}
    for odd, message in (
        (hole, "features.1.conv.1.weight is missing"),
        (more, "features.19.weight is unknown to the model"),
    ):
        for classes in (CLASSES, None):  # None: the classifier is new
            source = Source("there", "mobilenetv2", odd, classes)
            with pytest.raises(ValueError, match=message):
                take_weights(model, model.config, source, CLASSES)
    assert all(torch.equal(model.state_dict()[n], t) for n, t in before.items())


def test_image_weights_start_a_tagger_with_their_colours_summed(
    tmp_path: Path,
) -> None:
    """ImageNet starts would be refused for their first convolution, or scaled by 3."""
    import transformers

    settings = transformers.ResNetConfig(
        embedding_size=8,
        hidden_sizes=[24, 48, 104, 208],
        depths=[1, 1, 2, 1],
    )
    theirs = transformers.ResNetModel(settings)
    theirs.save_pretrained(tmp_path)
    model: Any = psl.build_model("resnet50", num_classes=3, **TINY["resnet50"])
    source = open_source(str(tmp_path), model.config)
    taken = take_weights(model, model.config, source, CLASSES)
    assert taken.new == ["head.linear.bias", "head.linear.weight"]
    name = "embedder.embedder.convolution.weight"
    summed = theirs.state_dict()[name].sum(dim=1, keepdim=True)
    assert torch.equal(model.state_dict()[f"backbone.{name}"], summed)


def test_ast_starts_with_shorter_windows_from_the_middle_of_its_places(
    tmp_path: Path,
) -> None:
    """A 2-s student could not start from the published 10-s model."""
    ast_file(tmp_path)
    config = ASTConfig(hidden_size=64, num_layers=2, num_heads=1, max_frames=208)
    model = build_from_config(config, 3)
    source = open_source(str(tmp_path / "hf"), config)
    taken = take_weights(model, config, source, CLASSES)
    name = "ast.embeddings.position_embeddings"
    assert taken.resized == [name]
    old, new = source.weights[name], model.state_dict()[name]
    # 12 rows of 101 and of 20 places, after two for the extra tokens
    assert new.shape == (1, 2 + 12 * 20, 64)
    assert torch.equal(new[0, 2:22], old[0, 2 + 40 : 2 + 60])
    assert torch.equal(new[0, 22:42], old[0, 2 + 101 + 40 : 2 + 101 + 60])


def test_ast_starts_with_longer_windows_from_its_places_stretched() -> None:
    """A 10-s model could not start from a 2-s one, or each place would be another's.

    A place that grows evenly in time still does, and the two extra tokens stay.
    """
    short = ASTConfig(**TINY["ast"])
    long = dataclasses.replace(short, max_frames=408)
    name = "ast.embeddings.position_embeddings"
    weights = build_from_config(short, 3).state_dict()
    ramp = torch.arange(20.0).repeat(12)  # 12 rows of 20 places
    weights[name] = torch.cat([torch.tensor([7.0, 8.0]), ramp])[None, :, None]
    weights[name] = weights[name].expand(1, 242, 16)
    model = build_from_config(long, 3)
    source = Source("there", "ast", weights, CLASSES)
    taken = take_weights(model, long, source, CLASSES)
    assert taken.resized == [name]
    new = model.state_dict()[name]
    assert new.shape == (1, 2 + 12 * 40, 16)
    assert new[0, :2, 3].tolist() == [7.0, 8.0]
    # a new place's middle in places of old, half a one before the first and after
    expected = torch.arange(40).add(0.5).div(2).sub(0.5).clamp(0, 19)
    torch.testing.assert_close(new[0, 2:, 3].view(12, 40), expected.expand(12, 40))


def test_a_start_of_another_family_is_refused_with_its_name(tmp_path: Path) -> None:
    """The user would hunt for a mismatch among hundreds of names."""
    ast_file(tmp_path)
    model: Any = psl.build_model("resnet50", num_classes=3, **TINY["resnet50"])
    with pytest.raises(ValueError, match="holds ast, expected resnet50"):
        open_source(str(tmp_path / "hf"), model.config)


def test_weights_missing_from_a_folder_are_not_sought_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mistyped run would be asked of the Hub, and the answer blame the network."""

    def ask(name: str) -> None:
        raise OSError(f"the Hub was asked for {name}")

    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", ask)
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    model: Any = psl.build_model("resnet50", num_classes=3, **TINY["resnet50"])
    tool: Any = importlib.import_module("psl.teachers.importing")
    for path in ("runs/nothing", str(tmp_path / "nothing.pth")):
        with pytest.raises(ValueError, match=f"^{path}: not found in "):
            open_source(path, model.config)
        with pytest.raises(ValueError, match=f"^{path}: not found in "):
            tool.read(path)
    for name in ("owner/model", "model"):
        with pytest.raises(ValueError, match=f"the Hub was asked for {name}"):
            open_source(name, model.config)
