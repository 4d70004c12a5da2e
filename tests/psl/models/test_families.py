"""The model families: sizes, frames, padding, gradients, configuration."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import psl
from psl.config import keys_of, parse, to_yaml
from psl.distributed import runtime
from psl.features.config import FbankConfig
from psl.features.fbank import Fbank
from psl.features.masks import SpecAugment
from psl.models.families import FAMILIES
from psl.training.config import TrainConfig
from tests.conftest import Run
from tests.tiny_models import TINY

AT_527_CLASSES = {
    "mobilenetv2": 2_898_383,  # published code
    "cnn14": 80_753_615,  # PANNs, table VI
    "efficientnet_b0": 4_682_059,  # 4,007,548 of Keras - 1000 classes - 2 colours
    "efficientnet_b2": 8_442_961,
    "resnet50": 24_581_583,  # 25,557,032 of torchvision - 1000 classes - 2 colours
    "ast": 86_594_063,
    "mn": 4_876_831,  # 4.88 M, EfficientAT's README
}


@pytest.mark.parametrize("name", FAMILIES)
def test_full_models_have_the_published_number_of_parameters(name: str) -> None:
    """Whoever compares with the papers would compare other models."""
    with torch.device("meta"):
        model = psl.build_model(name)
    assert sum(p.numel() for p in model.parameters()) == AT_527_CLASSES[name]


@pytest.mark.parametrize("name", TINY)
def test_a_family_scores_chunks_of_every_length(name: str) -> None:
    """Tables 2 and 3 train on 2, 5 and 10 s and evaluate on 10."""
    model = psl.build_model(name, num_classes=3, **TINY[name]).eval()
    for seconds in (0.1, 0.5, 1, 2, 5, 10):
        clip_probs, frame_probs = model(0.1 * torch.randn(2, round(seconds * 16000)))
        assert clip_probs.shape == (2, 3)
        assert frame_probs.shape[::2] == (2, 3)
        assert clip_probs.dtype == frame_probs.dtype == torch.float32
        assert clip_probs.min() >= 0 and clip_probs.max() <= 1


@pytest.mark.parametrize(
    ("name", "least"), [("mobilenetv2", 257), ("cnn14", 257), ("mn", 514)]
)
def test_a_chunk_shorter_than_half_a_window_is_refused(name: str, least: int) -> None:
    """Chunks of 10 ms would end in words about padding, from deep inside PyTorch."""
    model = psl.build_model(name, num_classes=3, **TINY[name]).eval()
    model(torch.zeros(2, least))
    with pytest.raises(ValueError, match=f"{least - 1} samples, expected {least} or"):
        model(torch.zeros(2, least - 1))


def settled(name: str) -> Any:
    """A tiny model in evaluation mode, its BatchNorm statistics those of noise.

    Fresh ones let activations die out in a deep network, and all frames be equal.
    """
    torch.manual_seed(0)
    model = psl.build_model(name, num_classes=3, **TINY[name]).train()
    for module in model.modules():
        if isinstance(module, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)):
            module.momentum = None  # the mean of what it has seen
    with torch.no_grad():
        model(0.1 * torch.randn(4, 64000))
    return model.eval()


@pytest.mark.parametrize("name", TINY)
def test_a_family_is_one_graph_of_torch_compile(name: str) -> None:
    """compile=true would be slower than it need be; a CUDA graph would not be possible.

    In training, with padding and with masks over the features.
    """
    torch.manual_seed(0)
    model: Any = psl.build_model(name, num_classes=3, **TINY[name])
    masks = {"time_masks": 1, "max_frames": 9, "frequency_masks": 1, "max_bands": 9}
    model.spec_augment = SpecAugment(model.config.front_end, **masks)
    waveform, lengths = 0.1 * torch.randn(2, 32000), torch.tensor([32000, 20000])
    torch.compiler.reset()
    compiled = torch.compile(model.train(), fullgraph=True, backend="eager")
    torch.manual_seed(1)
    clip_probs, frame_probs = compiled(waveform, lengths)
    torch.manual_seed(1)
    clip_expected, frame_expected = model(waveform, lengths)
    torch.testing.assert_close(clip_probs, clip_expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(frame_probs, frame_expected, atol=1e-5, rtol=1e-4)


class Clones(TorchDispatchMode):
    """Counts the activations [B, D, F, T] that are copied."""

    number = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.clone.default and result.dim() == 4:
            self.number += 1
        return result


@pytest.mark.parametrize("name", sorted(TINY.keys() - {"ast"}))
def test_no_activation_is_copied_for_the_backward_pass(name: str) -> None:
    """Memory traffic on a GPU: ReLU6 in place has autograd copy each of its inputs.

    AST, which copies its windows to cut them, has none in place.
    """
    model = psl.build_model(name, num_classes=3, **TINY[name]).train()
    with Clones() as clones:
        model(0.1 * torch.randn(2, 32000))
    assert clones.number == 0


def test_a_mobilenetv2_learns_the_same_as_with_relu6_in_place() -> None:
    """Losses and gradients of runs that began before would not be those of now."""
    torch.manual_seed(0)
    model = psl.build_model("mobilenetv2", num_classes=3, **TINY["mobilenetv2"])
    waveform = 0.1 * torch.randn(2, 32000)
    found = []
    for in_place in (False, True):
        for module in model.modules():
            if isinstance(module, torch.nn.ReLU6):
                module.inplace = in_place
        model.zero_grad()
        torch.manual_seed(1)
        loss = model.train()(waveform)[0].log().mean()
        loss.backward()
        found.append([loss, *(p.grad for p in model.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert found[0][1].any()


@pytest.mark.parametrize("name", TINY)
def test_integers_and_a_lone_waveform_are_refused(name: str) -> None:
    """int16 samples would be scored, with confidence, as noise of 90 dB too much."""
    model = psl.build_model(name, num_classes=3, **TINY[name]).eval()
    for waveform in (torch.zeros(2, 8000, dtype=torch.int16), torch.zeros(8000)):
        with pytest.raises(ValueError, match=r"expected floats \[B, N\] in \[-1, 1\]"):
            model(waveform)


@pytest.mark.parametrize("name", TINY)
def test_a_score_does_not_depend_on_the_rest_of_the_batch(name: str) -> None:
    """Labels would change with the batch size, or with who else is labelled."""
    model = settled(name)
    torch.manual_seed(1)
    quiet, loud = 1e-3 * torch.randn(1, 32000), torch.randn(1, 32000)
    alone, _ = model(quiet, torch.tensor([20000]))
    together, _ = model(torch.cat([quiet, loud]), torch.tensor([20000, 32000]))
    torch.testing.assert_close(together[:1], alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["cnn14", "resnet50", "efficientnet_b0"])
def test_only_frames_before_the_padding_are_averaged(name: str) -> None:
    """Short clips would score low because silence was averaged in."""
    model = settled(name)
    waveform = torch.zeros(1, 64000)
    waveform[:, :32000] = 0.1 * torch.randn(1, 32000)
    clip_probs, frame_probs = model(waveform, torch.tensor([32000]))
    # 201 STFT frames: 6 whole strides of 32, and one begun
    number = 7 if name == "resnet50" else 6
    mean = frame_probs[:, :number].mean(dim=1)
    torch.testing.assert_close(clip_probs, mean)
    assert not torch.allclose(clip_probs, frame_probs.mean(dim=1), rtol=1e-6, atol=0)


@pytest.mark.parametrize("fill", [False, True])
def test_ast_does_not_see_padding_at_all(fill: bool) -> None:
    """A chunk at a clip's end would be labelled by what fills it up."""
    options = {**TINY["ast"], "fill": fill}
    model = psl.build_model("ast", num_classes=3, **options).eval()
    spread_places(model)
    sound = 0.1 * torch.randn(1, 20000)
    alone, _ = model(sound)
    padded = torch.nn.functional.pad(sound, (0, 12000), value=0.5)
    among, _ = model(padded, torch.tensor([20000]))
    torch.testing.assert_close(among, alone, atol=1e-6, rtol=1e-5)


def spread_places(model: torch.nn.Module) -> None:
    """Fresh places are all zero, and would hide where patches go."""
    places = dict(model.named_parameters())["ast.embeddings.position_embeddings"]
    torch.nn.init.normal_(places, std=0.5)


def test_ast_scores_long_audio_by_windows() -> None:
    """A student of 2-s chunks is evaluated on 10-s clips: the mean of its decisions.

    208 frames of 10 ms are 33,520 samples with the last window's rest; 416 frames
    begin 33,280 samples apart.
    """
    model = psl.build_model("ast", num_classes=3, **TINY["ast"]).eval()
    spread_places(model)
    waveform = 0.1 * torch.randn(1, 33_280 + 33_520)
    both, windows = model(waveform)
    assert windows.shape == (1, 2, 3)
    first, _ = model(waveform[:, :33_520])
    second, _ = model(waveform[:, 33_280:])
    torch.testing.assert_close(both, (first + second) / 2, atol=1e-6, rtol=1e-5)
    # 100 frames more are less than half a window, and do not count
    longer, windows = model(torch.cat([waveform, torch.randn(1, 16000)], dim=1))
    assert windows.shape == (1, 3, 3)
    torch.testing.assert_close(longer, both, atol=1e-6, rtol=1e-5)


def test_fbank_agrees_with_kaldi_s_in_torchaudio() -> None:
    """Published AST weights would see features that they were not trained on."""
    from psl.features._torchaudio import import_kaldi

    waveform = 0.1 * torch.randn(2, 16123)
    ours = Fbank(FbankConfig(mean=0.0, std=0.5))(waveform)
    for number in range(2):
        theirs = import_kaldi().fbank(
            waveform[number : number + 1],
            sample_frequency=16000,
            window_type="hanning",
            num_mel_bins=128,
        )
        assert theirs.shape == (99, 128)
        torch.testing.assert_close(ours[number, 0].T, theirs, atol=2e-3, rtol=1e-4)


def test_attention_pooling_of_equal_frames_is_their_mean() -> None:
    """A frame's weight would not be a share, and probabilities leave [0, 1]."""
    from psl.models.pooling import AttentionHead

    head = AttentionHead(4, 3, 0.0)
    embedding = torch.randn(2, 1, 4).expand(2, 5, 4)
    clip_probs, frame_probs = head(embedding, None)
    torch.testing.assert_close(clip_probs, frame_probs[:, 0])
    outputs = embedding[:, 0] @ head.linear.weight.T + head.linear.bias
    by_head = (1 / (1 + torch.exp(-outputs))).view(2, 4, 3)
    torch.testing.assert_close(clip_probs, by_head.mean(dim=1))  # fresh: equal shares
    other = torch.cat([embedding[:, :2], torch.randn(2, 3, 4)], dim=1)
    padded, _ = head(other, torch.tensor([2, 2]))
    torch.testing.assert_close(padded, clip_probs)


def test_attention_weighs_frames_as_psla_does() -> None:
    """The pooling would be another than the published one, or a plain mean."""
    from psl.models.pooling import AttentionHead

    head = AttentionHead(4, 3, 0.0)
    torch.nn.init.normal_(head.attention.weight, std=2.0)
    torch.nn.init.normal_(head.shares)
    embedding = torch.randn(1, 5, 4)
    share = head.shares.exp() / head.shares.exp().sum()
    expected = torch.zeros(3)
    for number in range(4):
        rows = slice(3 * number, 3 * number + 3)
        score, weight = (
            1 / (1 + torch.exp(-(embedding[0] @ part.weight[rows].T + part.bias[rows])))
            for part in (head.linear, head.attention)
        )
        expected = expected + share[number] * (score * weight).sum(0) / weight.sum(0)
    clip_probs, frame_probs = head(embedding, None)
    torch.testing.assert_close(clip_probs[0], expected)
    assert not torch.allclose(clip_probs, frame_probs.mean(dim=1), atol=1e-3)


def test_the_published_cnn14_s_pooling_leaves_padding_out() -> None:
    """Imported weights would hear the silence after a short clip, or what fills it."""
    from psl.models.cnn14 import _largest_plus_mean

    embedding = torch.tensor([[[1.0, 2.0, 9.0, 9.0]]])
    assert _largest_plus_mean(embedding, torch.tensor([2])).tolist() == [[2 + 1.5]]
    assert _largest_plus_mean(embedding, None).tolist() == [[9 + 5.25]]


@pytest.mark.parametrize("name", ["efficientnet_b0", "efficientnet_b2"])
def test_efficientnet_s_statistics_are_not_those_of_the_last_batch(name: str) -> None:
    """Evaluation would go by chance: transformers' 0.99 is Keras' 0.01."""
    model = psl.build_model(name, num_classes=3, **TINY[name])
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert len(norms) > 9 and {norm.momentum for norm in norms} == {0.1}


def test_efficientnet_drops_whole_branches_of_examples() -> None:
    """A dropout of single values is another regularisation than the published one."""
    options = {**TINY["efficientnet_b0"], "drop_connect": 0.5}
    model: Any = psl.build_model("efficientnet_b0", num_classes=3, **options).train()
    blocks = model.backbone.encoder.blocks
    drops = [block.projection.dropout for block in blocks]
    rising = [0.5 * i / len(drops) for i in range(len(drops))]
    assert [drop.p for drop in drops] == pytest.approx(rising)
    found = drops[-1](torch.ones(1000, 2, 3, 4))
    kept = found[:, :1, :1, :1]
    assert torch.equal(found, kept.expand_as(found))
    share = 1 - drops[-1].p
    assert sorted(set(kept.flatten().tolist())) == pytest.approx([0, 1 / share])
    assert (kept > 0).float().mean() == pytest.approx(share, abs=0.06)


@pytest.mark.parametrize("name", TINY)
def test_every_parameter_learns_and_the_features_pass_spec_augment(name: str) -> None:
    """DDP would hang on weights without gradients; SpecAugment would do nothing."""
    model: Any = psl.build_model(name, num_classes=3, **TINY[name]).train()
    seen: list[torch.Size] = []
    model.spec_augment.register_forward_hook(
        lambda module, args, output: seen.append(output.shape)
    )
    with torch.autocast("cpu", torch.bfloat16):
        clip_probs, _ = model(0.1 * torch.randn(4, 16000), torch.full((4,), 16000))
    clip_probs.sum().backward()
    assert [p for p, t in model.named_parameters() if t.grad is None] == []
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    (shape,) = seen
    assert shape[:2] == (4, 1) and shape[2] in (64, 128) and shape[3] in (50, 98, 101)


@pytest.mark.parametrize("name", TINY)
def test_gradients_are_the_same_in_the_layout_that_training_uses(name: str) -> None:
    """Weights would follow noise, but not under ZeRO, which has another layout.

    PyTorch's BatchNorm2d gives wrong gradients on the CPU for some strides.
    """
    gradients = []
    for channels_last in (False, True):
        model = runtime.move_model(
            settled(name), torch.device("cpu"), channels_last=channels_last
        )
        torch.manual_seed(1)
        clip_probs, _ = model(0.1 * torch.randn(4, 16000), torch.full((4,), 16000))
        (clip_probs * torch.rand(4, 3)).sum().backward()
        gradients.append({n: p.grad for n, p in model.named_parameters()})
    for parameter, expected in gradients[0].items():
        difference = cast(Any, gradients[1][parameter]) - expected
        assert difference.norm() <= 1e-3 * cast(Any, expected).norm(), parameter


def test_a_configuration_names_its_family_and_is_checked_by_it() -> None:
    """A typo would train another model, or the message would name another family's."""
    values: dict[str, Any] = {"run_dir": "r", "data": {"audio": ["a"], "valid": "v"}}
    old = parse(TrainConfig, {**values, "model": {"width": 0.5}})
    assert old.model.name == "mobilenetv2"
    new = parse(TrainConfig, {**values, "model": {"name": "ast", "num_layers": 2}})
    assert "num_layers: 2" in to_yaml(new)
    with pytest.raises(ValueError, match=r"'model.num_layer'.*'model.num_layers'"):
        parse(TrainConfig, {**values, "model": {"name": "ast", "num_layer": 2}})
    with pytest.raises(ValueError, match="model.name = 'asd': expected 'mobilenetv2'"):
        parse(TrainConfig, {**values, "model": {"name": "asd"}})
    kinds = [key.kind for key in keys_of(TrainConfig) if key.name == "model.pooling"]
    assert kinds == ["cnn14", "efficientnet_b0", "efficientnet_b2", "resnet50", "mn"]


def test_a_family_without_transformers_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Users of the plain install would get a traceback."""
    monkeypatch.setitem(cast(dict[str, Any], sys.modules), "transformers", None)
    with pytest.raises(
        ValueError, match="resnet50: needs .*; run pip install -U transformers"
    ):
        psl.build_model("resnet50", num_classes=3)
    psl.build_model("cnn14", num_classes=3, width=0.05)


@pytest.mark.parametrize(
    "name",
    [
        *("ast", "efficientnet_b0"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("cnn14", "resnet50")),
    ],
)
def test_a_family_trains_starts_evaluates_and_labels(
    name: str, dataset: Path, tmp_path: Path, run: Run
) -> None:
    """A row of the tables would have no command.

    The second run starts from the first's weights.
    """
    model = [f"model.{key}={value}" for key, value in TINY[name].items()]
    words = [f"data.audio=[{dataset}]", f"data.valid={dataset}", f"model.name={name}"]
    words += [*model, "global_batch_size=8", "data.chunk_seconds=1"]
    first, second = tmp_path / "first", tmp_path / "second"
    done = run("psl.train", f"run_dir={first}", *words, "epochs=1")
    assert done.returncode == 0, done.stderr
    words += [f"run_dir={second}", f"start={first}"]
    done = run("psl.train", *words, "epochs=1")
    assert done.returncode == 0, done.stderr
    assert "tensors taken" in done.stderr
    record = json.loads((second / "start.json").read_text())
    assert Path(record["taken_from"]) in (first / "checkpoints").iterdir()
    done = run(
        "psl.evaluate",
        f"checkpoint={second}",
        f"audio={dataset}",
        f"out={tmp_path / 'eval'}",
    )
    assert done.returncode == 0, done.stderr
    done = run(
        "psl.label",
        f"teacher={first}",
        f"audio={dataset}",
        f"out={tmp_path / 'labels'}",
        "chunk_seconds=1",
    )
    assert done.returncode == 0, done.stderr
