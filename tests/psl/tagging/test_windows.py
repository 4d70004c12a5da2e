"""Where windows lie, and that nothing is lost at the end of a recording."""

from __future__ import annotations

import numpy as np
import pytest

from psl.tagging.timeline import MAX_COLUMNS, Curves
from psl.tagging.windows import Cut, Window, cut_windows

RATE = 100


def level(waveform: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A model of one class: the mean magnitude, and that of each 0.4 s."""
    padded = np.pad(waveform, ((0, 0), (0, -waveform.shape[1] % 40)))
    frames = np.abs(padded).reshape(len(padded), -1, 40).mean(axis=2)
    return np.abs(waveform).mean(axis=1)[:, None], frames[:, :, None]


def windows(levels: list[float], cut: Cut) -> list[Window]:
    """Of alternating samples, each of these levels for a second, in odd blocks."""
    signs = np.resize([1, -1], round(len(levels) * RATE))
    pcm = (signs * np.repeat(levels, RATE) * 32768).astype(np.int16)
    blocks = np.array_split(pcm, 7)
    return list(cut_windows(blocks, level, rate=RATE, cut=cut, frame_samples=40))


def bounds(seconds: float, cut: Cut) -> list[tuple[float, float]]:
    """Of the windows of so much sound."""
    pcm = np.resize([9000, -9000], round(seconds * RATE)).astype(np.int16)
    found = cut_windows([pcm], level, rate=RATE, cut=cut, frame_samples=40)
    return [(w.start, w.end) for w in found]


@pytest.mark.parametrize(
    ("seconds", "hop", "expected"),
    [
        (6.0, None, [(0, 2), (2, 4), (4, 6)]),
        (5.0, None, [(0, 2), (2, 4), (3, 5)]),
        (4.05, None, [(0, 2), (2, 4)]),
        (4.1, None, [(0, 2), (2, 4), (2.1, 4.1)]),
        (4.5, 1.0, [(0, 2), (1, 3), (2, 4), (2.5, 4.5)]),
        (2.07, 0.1, [(0, 2), (0.07, 2.07)]),
        (2.04, 0.1, [(0, 2)]),
        (1.3, 1.0, [(0, 1.3)]),
        (0.05, None, [(0, 0.05)]),
    ],
)
def test_the_last_window_ends_with_the_recording(
    seconds: float, hop: float | None, expected: list[tuple[float, float]]
) -> None:
    """A sound at the end would be lost, or judged by a few samples of it."""
    np.testing.assert_allclose(bounds(seconds, Cut(2.0, hop)), expected, atol=1e-9)


def test_a_whole_file_counts_every_second_once() -> None:
    """The end of a long file would weigh twice as much."""
    (window,) = windows([0.2] * 10 + [0.8] * 5, Cut())
    # 0 to 10 s: 0.2; 5 to 15 s: 0.5, of which only it covers 5 s
    assert window.probs == pytest.approx((10 * 0.2 + 5 * 0.5) / 15, abs=1e-4)
    assert (window.start, window.end) == (0, 15)


def test_frames_follow_each_other_to_the_end() -> None:
    """Events would overlap themselves, or stop early."""
    found = bounds(3.1, Cut(2.0, frames=True))
    assert found[0] == (0, 0.4) and found[-1][1] == 3.1
    assert [start for start, _ in found[1:]] == [end for _, end in found[:-1]]


def test_curves_have_their_points_at_the_centres_of_the_windows() -> None:
    """A bark would be drawn beside its place in the spectrogram."""
    curves = Curves()
    for start, end in ((0, 2), (1, 3), (1.3, 3.3)):
        curves.add(Window(start, end, np.array([start], np.float32)))
    times, probs = curves.points()
    assert times.tolist() == pytest.approx([1, 2, 2.3])
    assert probs[:, 0].tolist() == pytest.approx([0, 1, 1.3])


def test_many_windows_are_joined_to_a_few_points_of_their_highest() -> None:
    """Six hours would not fit into memory, or lose a click."""
    curves, number = Curves(), 5 * MAX_COLUMNS
    for start in range(number):
        curves.add(Window(start, start + 1, np.array([start == 7], np.float32)))
    times, probs = curves.points()
    assert len(times) <= 2 * MAX_COLUMNS and times[-1] == pytest.approx(number, abs=4)
    assert probs.max() == 1 and times[probs[:, 0].argmax()] == pytest.approx(7.5, abs=2)
