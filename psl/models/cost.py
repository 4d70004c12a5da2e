"""What a training step of a model costs: arithmetic, and memory for the backward pass.

Owns the counting, with torch's own counter. How fast a machine does it is
psl/training/speed.py's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from psl.models.config import ModelConfig
from psl.models.families import build_from_config

_CHUNKS = 2
"""BatchNorm cannot train on one."""


@dataclass(frozen=True)
class Cost:
    """Of a model at one length of chunks."""

    flops_per_chunk: int
    """Forward and backward; a multiplication and an addition are two. The Fourier
    transform and element-wise operations are not counted (torch's counter)."""
    activation_bytes_per_chunk: int
    """What autograd keeps from the forward pass for the backward pass, float32."""
    num_parameters: int
    buffer_bytes: int


def step_cost(
    config: ModelConfig,
    num_classes: int,
    num_samples: int,
    device: torch.device | str = "cpu",
) -> Cost:
    """The cost of training on chunks of ``num_samples``, by one pass over two of them.

    Takes about the time of two chunks; draws no number that a run would draw.
    """
    device = torch.device(device)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        model = build_from_config(config, num_classes).to(device).train()
        return cost_of(
            model,
            torch.zeros(_CHUNKS, num_samples, device=device),
            torch.full((_CHUNKS,), num_samples, device=device),
        )


def cost_of(model: nn.Module, *inputs: Tensor) -> Cost:
    """The cost of ``model`` per example of ``inputs`` [B, ...], by running it."""
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *inputs)}
    own |= {buffer.untyped_storage().data_ptr() for buffer in model.buffers()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:  # alive until the backward pass
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    counter = FlopCounterMode(
        display=False,
        custom_mapping={torch.ops.aten.convolution_backward: _convolution_backward},
    )
    with counter, torch.enable_grad():
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            output = model(*inputs)
        output = output[0] if isinstance(output, tuple) else output
        activations = sum(kept.values())
        output.sum().backward()
    num_examples = len(inputs[0])
    return Cost(
        flops_per_chunk=counter.get_total_flops() // num_examples,
        activation_bytes_per_chunk=activations // num_examples,
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        buffer_bytes=sum(buffer.nbytes for buffer in model.buffers()),
    )


def _convolution_backward(
    grad_out_shape: Sequence[int],
    x_shape: Sequence[int],
    w_shape: Sequence[int],
    _bias: object,
    _stride: object,
    _padding: object,
    _dilation: object,
    transposed: bool,
    _output_padding: object,
    _groups: object,
    output_mask: Sequence[bool],
    **_: object,
) -> int:
    """Two of a convolution's backward passes take what its forward pass takes.

    torch's own formula (2.13) leaves groups out of the gradient of the weights, and
    gives a depthwise layer of 960 channels 960 times its arithmetic.
    """
    places = x_shape if transposed else grad_out_shape
    once = 2 * places[0] * math.prod(places[2:]) * math.prod(w_shape)
    return once * sum(output_mask[:2])
