"""The clock of the all-reduce, on a GPU that is not there."""

from __future__ import annotations

import pytest
import torch

from psl.distributed.reduce_time import ReduceTime


class _Event:
    """Happens when it is told to; asking for its time before is an error."""

    made: list[_Event] = []

    def __init__(self, *, enable_timing: bool) -> None:
        assert enable_timing
        self.at: float | None = None
        self.recorded = False
        _Event.made.append(self)

    def record(self) -> None:
        self.recorded = True

    def query(self) -> bool:
        return self.at is not None

    def elapsed_time(self, end: _Event) -> float:
        assert self.at is not None and end.at is not None, "would wait for the GPU"
        return end.at - self.at

    def synchronize(self) -> None:
        raise AssertionError("a step must not wait for the GPU")


def test_on_a_gpu_the_time_is_that_of_events_which_have_happened(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A look at the clock in every step would cost what it is to measure."""
    monkeypatch.setattr(_Event, "made", [])
    monkeypatch.setattr(torch.cuda, "Event", _Event)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    clock = ReduceTime()
    for _ in range(2):
        with clock.measured(torch.device("cuda")):
            pass
    assert all(event.recorded for event in _Event.made)
    assert clock.seconds == 0.0, "neither is over"
    for event, milliseconds in zip(_Event.made[:2], (100.0, 350.0), strict=True):
        event.at = milliseconds
    assert clock.seconds == 0.25
    assert clock.seconds == 0.25, "counted once"
    _Event.made[2].at, _Event.made[3].at = 400.0, 1400.0
    assert clock.seconds == 1.25


def test_inside_a_graph_nothing_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Events with a time cannot be captured; the step would fail."""
    monkeypatch.setattr(torch.cuda, "Event", _Event)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    monkeypatch.setattr(_Event, "made", [])
    clock = ReduceTime()
    with clock.measured(torch.device("cuda")):
        pass
    assert _Event.made == []
    assert clock.seconds == 0.0
