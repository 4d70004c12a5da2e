"""What ranks exchange in a step: their gradients, and a few numbers beside them.

Owns how that is cut into all-reduces and when each of them leaves. All is decided from
the list of parameters alone, so that every step, also the first after a resume, adds
the same numbers up in the same order.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from psl.distributed import collectives
from psl.distributed.reduce_time import reduce_time

BYTES_OF_MB = 1e6


def cut_into_buckets(
    parameters: Sequence[nn.Parameter], bucket_mb: float
) -> list[list[nn.Parameter]]:
    """``parameters`` from last to first, near the order in which their gradients come.

    In buckets of at most ``bucket_mb`` MB; a larger parameter has one of its own.
    """
    buckets: list[list[nn.Parameter]] = []
    room = 0.0
    for parameter in reversed(parameters):
        size = parameter.numel() * parameter.element_size()
        if not buckets or size > room:
            buckets.append([])
            room = bucket_mb * BYTES_OF_MB
        buckets[-1].append(parameter)
        room -= size
    return buckets


class Exchange:
    """Averages the gradients of ``parameters`` over the ranks, once in a step.

    In one all-reduce, when the backward pass is over; or in buckets. A bucket leaves as
    soon as the last backward pass of a step has completed its gradients and the buckets
    before it have left, so in the same order on all ranks. What goes beside the
    gradients is known when that pass is over, and leaves with the last bucket.

    A parameter without gradient counts as one of zeros, on every rank: what is sent
    always has the same sizes, and ranks that differ in this cannot diverge. (A process
    alone exchanges nothing, and its optimizer passes such a parameter over. No family
    of models has one.)

    A step calls ``expect_last_part``, ``pack``, ``reduce`` and ``unpack`` in turn, all
    but ``reduce`` without waiting for the device or for other ranks.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], *, bucket_mb: float | None = None
    ) -> None:
        """``bucket_mb``: size of a bucket in MB; None for one all-reduce of all."""
        trained = [p for p in parameters if p.requires_grad]
        self._buckets = [trained]
        if bucket_mb is not None:
            self._buckets = cut_into_buckets(trained, bucket_mb)
            for number, bucket in enumerate(self._buckets):
                for parameter in bucket:
                    arrived = functools.partial(self._arrived, number)
                    parameter.register_post_accumulate_grad_hook(arrived)
        self._missing: list[int] = []  # gradients of each bucket; empty: none expected
        self._flats: list[Tensor] = []
        self._under_way: list[dist.Work] = []

    def expect_last_part(self) -> None:
        """The next backward pass completes the gradients of a step.

        With buckets, that pass is collective.
        """
        self._flats, self._under_way = [], []
        self._missing = [] if collectives.is_alone() else [*map(len, self._buckets)]

    def _arrived(self, number: int, parameter: Tensor) -> None:
        """A gradient of bucket ``number`` is there; PyTorch calls this."""
        if not self._missing:
            return
        self._missing[number] -= 1
        while len(self._flats) < len(self._buckets) - 1:
            if self._missing[len(self._flats)] > 0:
                return
            self._send()

    def _send(self) -> None:
        """Let the next bucket leave."""
        flat = collectives.pack(_gradients(self._buckets[len(self._flats)]))
        self._flats.append(flat)
        self._under_way.append(collectives.begin_sum_over_ranks(flat))

    def pack(self, beside: Sequence[Tensor]) -> None:
        """Make ready what has not left: last what is ``beside`` the gradients."""
        self._missing = []
        *early, last = self._buckets
        while len(self._flats) < len(early):  # a gradient did not come
            self._send()
        self._flats.append(collectives.pack([*_gradients(last), *beside]))

    def reduce(self) -> None:
        """Send the rest, and wait for all of it: on a GPU, its stream does. Collective.

        The time that this takes is what the backward pass did not hide.
        """
        last = self._flats[-1]
        if not self._under_way:
            collectives.flat_sum_over_ranks(last)
            return
        with reduce_time.measured(last.device):
            self._under_way.append(collectives.begin_sum_over_ranks(last))
            for work in self._under_way:
                work.wait()
        self._under_way = []

    def unpack(self, beside: Sequence[Tensor]) -> None:
        """Put the means back, into the gradients and ``beside``."""
        for number, flat in enumerate(self._flats):
            is_last = number == len(self._flats) - 1
            gradients = _gradients(self._buckets[number])
            collectives.unpack_mean(flat, [*gradients, *(beside if is_last else ())])


def _gradients(parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """The gradient of each; zeros, from now on, for one that has none."""
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    return [parameter.grad for parameter in parameters if parameter.grad is not None]
