"""A step's pieces as CUDA graphs: recorded once, then replayed.

Owns when a piece is recorded, and the memory from which it reads its inputs. A replay
is one launch, where the piece itself has hundreds: at small batches those take longer
than the GPU's own work. A piece may use no value of the host that changes from step to
step; psl/training/step.py has its pieces so.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Protocol

import torch

from psl.data.batch import Batch

Piece = Callable[[], None]
WARM_UP = 3
"""Times that a piece runs as it is, before it is recorded: the first make the state of
the optimizer, choose algorithms and compile."""


class Recorder(Protocol):
    """Makes replays of pieces."""

    def warm_up(self, piece: Piece) -> None:
        """Run ``piece`` as it is."""

    def record(self, piece: Piece) -> Piece:
        """What does again what ``piece`` does, to the same memory. Not done yet."""


class CudaRecorder:
    """Records on a stream of its own; all pieces share one pool of memory.

    They are always replayed in the order in which they were recorded, so that a later
    one may use memory that an earlier one is done with.
    """

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream()
        self._pool = torch.cuda.graph_pool_handle()

    def warm_up(self, piece: Piece) -> None:
        """Run ``piece`` on the stream that will record it."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            piece()
        torch.cuda.current_stream().wait_stream(self._stream)

    def record(self, piece: Piece) -> Piece:
        """RuntimeError if ``piece`` does what a graph cannot hold."""
        graph = torch.cuda.CUDAGraph()
        # thread_local, as loader threads copy batches to the GPU meanwhile
        with torch.cuda.graph(
            graph,
            pool=self._pool,
            stream=self._stream,
            capture_error_mode="thread_local",
        ):
            piece()
        return graph.replay


class Pieces:
    """Runs the pieces of steps: as they are, or recorded."""

    def __init__(self, recorder: Recorder | None = None) -> None:
        """None: as they are."""
        self._recorder = recorder
        self._calls: Counter[str] = Counter()
        self._replays: dict[str, Piece] = {}
        self._inputs: Batch | None = None

    def inputs(self, batch: Batch) -> Batch:
        """``batch``; for recorded pieces, in the memory from which they read it.

        RuntimeError if it has another shape than the first.
        """
        if self._recorder is None:
            return batch
        if self._inputs is None:
            self._inputs = Batch(
                pcm=batch.pcm.clone(),
                num_samples=batch.num_samples.clone(),
                targets=batch.targets.clone(),
            )
            return self._inputs
        if batch.pcm.shape != self._inputs.pcm.shape:
            raise RuntimeError(
                f"a batch of {list(batch.pcm.shape)} samples, but the recorded step is "
                f"of {list(self._inputs.pcm.shape)}; set cuda_graph=false"
            )
        self._inputs.pcm.copy_(batch.pcm)
        self._inputs.num_samples.copy_(batch.num_samples)
        self._inputs.targets.copy_(batch.targets)
        return self._inputs

    def run(self, name: str, piece: Piece) -> None:
        """Do what ``piece`` does; ``name`` tells the pieces of a step apart."""
        if self._recorder is None:
            piece()
        elif name in self._replays:
            self._replays[name]()
        elif self._calls[name] < WARM_UP:
            self._calls[name] += 1
            self._recorder.warm_up(piece)
        else:
            with _explained(name):
                self._replays[name] = self._recorder.record(piece)
            self._replays[name]()


@contextlib.contextmanager
def _explained(name: str) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise RuntimeError(
            f"the step's piece {name!r} cannot be recorded as a CUDA graph: {error}; "
            "set cuda_graph=false"
        ) from error
