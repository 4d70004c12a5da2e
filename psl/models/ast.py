"""The Audio Spectrogram Transformer (Gong et al. 2021, arXiv 2104.01778).

The transformer is that of the transformers library, whose parameter names it has. It
looks at windows of at most ``max_frames`` frames and gives one decision for each; these
are the frames of ``frame_probs``. A clip's probability is their mean, each weighted
with what it holds. A last window that is not half full is left out, unless it is the
only one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from psl.features.fbank import Fbank
from psl.features.log_mel import float_samples
from psl.features.masks import SpecAugment
from psl.models.config import ASTConfig
from psl.models.convolutional import transformers_module

PATCH = 16
"""Frames and mel bands of a patch."""


class AST(nn.Module):
    """Waveforms to class probabilities."""

    def __init__(self, config: ASTConfig, num_classes: int) -> None:
        super().__init__()
        if config.hidden_size % config.num_heads:
            raise ValueError(
                f"model ast: hidden_size {config.hidden_size} is not a multiple of "
                f"num_heads {config.num_heads}"
            )
        self.config = config
        self.is_faster_on_whole_batches = not config.fill
        """Whether num_samples=None in training spares it the mask of the padding, and
        a GPU the slower attention that takes one."""
        self.whole_windows = config.fill
        """Whether windows are filled up to max_frames though padding is not heard; the
        result is the same, and an exported graph has windows of one length."""
        self.front_end = Fbank(config.front_end)
        self.spec_augment: nn.Module = SpecAugment(config.front_end)
        self.ast = _build_transformer(config)
        self.classifier = nn.ModuleDict(
            {
                "layernorm": nn.LayerNorm(config.hidden_size, eps=1e-12),
                "dense": nn.Linear(config.hidden_size, num_classes),
            }
        )

    def forward(
        self, waveform: Tensor, num_samples: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """clip_probs [B, C] and frame_probs [B, K, C], float32 in [0, 1]; K windows.

        waveform: [B, N] float in [-1, 1]. num_samples: [B] int, samples before the
        padding of each example (default: N); nothing depends on what is padding.
        """
        waveform, is_whole = float_samples(waveform), num_samples is None
        if num_samples is None:
            batch, length = waveform.shape
            num_samples = torch.full((batch,), length, device=waveform.device)
        shortest = self.config.front_end.num_samples(PATCH)
        missing = max(0, shortest - waveform.shape[1])
        with torch.autocast(waveform.device.type, enabled=False):
            if missing:
                waveform = nn.functional.pad(waveform, (0, missing))
            features = self.front_end(waveform)
        features = self.spec_augment(features, num_samples)
        windows, lengths = self._cut(features, num_samples)
        is_real = self.training and is_whole and not missing
        if is_real:  # one window, without padding
            is_real = windows.shape[1] == features.shape[3]
        mask = None
        if not self.config.fill and not is_real:
            mask = self._mask(lengths, windows.shape[1])
        pooled = self.ast(windows, attention_mask=mask).pooler_output
        logits = self.classifier["dense"](self.classifier["layernorm"](pooled))
        frame_probs = logits.float().sigmoid().view(*lengths.shape, -1)
        weight = _weights(lengths, self.config.max_frames).unsqueeze(2)
        return (frame_probs * weight).sum(dim=1), frame_probs

    def num_frames(self, num_samples: Tensor) -> Tensor:
        """Windows [B] that count in waveforms of ``num_samples`` [B] samples."""
        frames = self.config.front_end.num_frames(num_samples)
        longest = self.config.max_frames
        return ((2 * frames + longest) // (2 * longest)).clamp(min=1)

    @property
    def frame_samples(self) -> int:
        """Samples from the start of one window to the start of the next."""
        return self.config.max_frames * self.config.front_end.hop_samples

    def _cut(self, features: Tensor, num_samples: Tensor) -> tuple[Tensor, Tensor]:
        """Windows [B * K, frames, F] of [B, 1, F, T], and what of each [B, K] is real.

        All else is as zeros before the normalisation.
        """
        config, total = self.config, features.shape[3]
        number = (total + config.max_frames - 1) // config.max_frames
        whole = self.whole_windows or number > 1
        size = config.max_frames if whole else max(total, PATCH)
        frames = config.front_end.num_frames(num_samples).unsqueeze(1)
        # not arange, which a trace takes for a constant
        real = torch.ones_like(features[0, 0, 0]).cumsum(0) <= frames
        frames = real.sum(dim=1, keepdim=True)
        zero = config.front_end.zero
        features = features[:, 0].masked_fill(~real.unsqueeze(1), zero)
        features = nn.functional.pad(features, (0, number * size - total), value=zero)
        rows = features.transpose(1, 2)  # [B, K * size, F]
        windows = rows.reshape(-1, size, rows.shape[2])
        starts = torch.arange(number, device=features.device) * size
        return windows, (frames - starts).clamp(0, size)

    def _mask(self, lengths: Tensor, size: int) -> Tensor:
        """Which tokens count: the two extra ones, and whole real patches.

        [B * K, 1, tokens, tokens] bool in training, else [B * K, tokens] int, of which
        transformers asks whether all do: a GPU would wait for the host in every step.
        The first patches always count, so that there is something to look at.
        """
        config = self.config
        rows = (config.front_end.n_mels - PATCH) // config.frequency_stride + 1
        columns = (size - PATCH) // config.time_stride + 1
        column = torch.arange(columns, device=lengths.device)
        ends = column * config.time_stride + PATCH
        real = (ends <= lengths.reshape(-1, 1)) | (column == 0)
        patches = real.unsqueeze(1).expand(-1, rows, -1).flatten(1)
        tokens = nn.functional.pad(patches, (2, 0), value=True)
        if not self.training:
            return tokens.long()
        return tokens[:, None, None, :].expand(-1, -1, tokens.shape[1], -1)


def _weights(lengths: Tensor, longest: int) -> Tensor:
    """[B, K] shares of the windows in the clip's mean, from their lengths [B, K]."""
    first = torch.arange(lengths.shape[1], device=lengths.device) == 0
    counts = torch.where((2 * lengths >= longest) | first, lengths, 0).float()
    return counts / counts.sum(dim=1, keepdim=True)


class _Embeddings(nn.Module):
    """Patches with their places, for windows of any length up to the longest.

    In the place of transformers' own, whose windows all have one length.
    """

    def __init__(self, theirs: Any, rows: int) -> None:
        super().__init__()
        self.cls_token = theirs.cls_token
        self.distillation_token = theirs.distillation_token
        self.position_embeddings = theirs.position_embeddings
        self.patch_embeddings = theirs.patch_embeddings
        self.dropout = theirs.dropout
        self._rows = rows

    def forward(self, windows: Tensor) -> Tensor:
        """[B, frames, F] -> [B, tokens, D]."""
        patches = self.patch_embeddings(windows)
        extra = torch.cat([self.cls_token, self.distillation_token], dim=1)
        extra = extra.expand(patches.shape[0], -1, -1).to(patches.dtype)
        table = self.position_embeddings[:, 2:].unflatten(1, (self._rows, -1))
        places = table[:, :, : patches.shape[1] // self._rows].flatten(1, 2)
        tokens = [extra + self.position_embeddings[:, :2], patches + places]
        return self.dropout(torch.cat(tokens, dim=1))


def _build_transformer(config: ASTConfig) -> nn.Module:
    """Transformers' ASTModel with fresh weights."""
    transformers = transformers_module(config.name)
    settings = transformers.ASTConfig(
        hidden_size=config.hidden_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        intermediate_size=4 * config.hidden_size,
        hidden_dropout_prob=config.dropout,
        attention_probs_dropout_prob=config.dropout,
        frequency_stride=config.frequency_stride,
        time_stride=config.time_stride,
        max_length=config.max_frames,
        num_mel_bins=config.front_end.n_mels,
        attn_implementation="sdpa",
    )
    model = transformers.ASTModel(settings)
    rows, _ = model.embeddings.get_shape(settings)
    model.embeddings = _Embeddings(model.embeddings, rows)
    return model
