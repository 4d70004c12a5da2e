"""Where a segment lies: the same samples as in the whole file, or a refusal."""

import io
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile

from shards.audio.decode import load_clip, load_segment
from shards.audio.members import encode
from shards.errors import ShardError
from tests.shards.audio.test_audio import FORMS, RATE, sweep, write_with_ffmpeg


def segment(
    data: bytes | Path,
    start: float,
    end: float,
    is_recording: bool | None = None,
    *,
    rate: int = RATE,
) -> np.ndarray:
    return load_segment(
        data,
        start_seconds=start,
        end_seconds=end,
        sample_rate=rate,
        is_recording=is_recording,
    )


# Every codec, at many places

MORE_FORMS: dict[str, dict[str, Any]] = {
    "MP3 without a header": FORMS["MP3"] | {"write_xing": "0"},
    "MP3 at 16 kHz": FORMS["MP3"] | {"rate": 16000},
    "MP4 in fragments": {
        "format": "mp4",
        "codec": "aac",
        "frag_duration": "500000",
        "movflags": "frag_keyframe+empty_moov",
    },
    "MP4 with Opus": {"format": "mp4", "codec": "libopus", "rate": 48000},
    "WebM with Vorbis": FORMS["Ogg Vorbis"] | {"format": "webm"},
    "Matroska with PCM": {"format": "matroska", "codec": "pcm_s16le"},
    "Matroska with MP3": {"format": "matroska", "codec": "libmp3lame"},
    "MOV": {"format": "mov", "codec": "pcm_s16le"},
    "MPEG-TS": {"format": "mpegts", "codec": "aac"},
    "FLV": {"format": "flv", "codec": "aac"},
    "WAV IMA ADPCM": {"format": "wav", "codec": "adpcm_ima_wav"},
    "WAV MS ADPCM": {"format": "wav", "codec": "adpcm_ms"},
}
ALL_FORMS = FORMS | MORE_FORMS

STARTS = (0.0, 0.001, 0.02, 0.0261, 0.5, 1.0, 1.023, 1.0465, 1.1, 2.0, 3.217, 7.9, 10.5)
"""Seconds: within the delay of an encoder, its first frames, around the preroll."""


@pytest.mark.parametrize("name", ALL_FORMS)
def test_a_segment_has_the_samples_of_the_whole_file_wherever_it_lies(
    tmp_path: Path, name: str
) -> None:
    """Else chunks of long recordings are shifted against their labels."""
    form = ALL_FORMS[name]
    rate = form.get("rate", 44100)
    data = write_with_ffmpeg(tmp_path / "x", sweep(rate, 12.0), **form)
    whole = load_clip(data, sample_rate=rate).astype(int)
    for start in STARTS:
        found = segment(data, start, start + 0.5, True, rate=rate).astype(int)
        expected = whole[round(start * rate) :][: len(found)]
        assert len(found) == round(0.5 * rate)
        assert np.abs(found - expected).max() <= (2 if name != "MPEG-TS" else 8), start


def test_a_segment_late_in_a_long_mp3_is_found_without_decoding_all(
    tmp_path: Path,
) -> None:
    """Else packing the segments of hours of MP3 takes the square of their length.

    A frame in the middle cannot be decoded, by which one sees whether it was.
    """
    form = FORMS["MP3"]
    data = write_with_ffmpeg(tmp_path / "x", sweep(44100, 30.0), **form)
    whole = load_clip(data, sample_rate=44100).astype(int)
    with av.open(io.BytesIO(data), "r") as container:
        places = [packet.pos or 0 for packet in container.demux(audio=0)]
    side = places[len(places) // 2] + 6
    bad = data[:side] + b"\xff" * 26 + data[side + 26 :]
    with pytest.raises(ShardError, match="not decodable audio: Invalid data"):
        load_clip(bad, sample_rate=44100)
    found = segment(bad, 27.0, 29.0, rate=44100).astype(int)
    assert np.abs(found - whole[27 * 44100 : 29 * 44100]).max() <= 2


# Ends


def recording(seconds: float) -> bytes:
    """FLAC whose sample n has the value n // 16."""
    pcm = (np.arange(round(seconds * RATE)) // 16).astype(np.int16)
    return encode(pcm, codec="flac", sample_rate=RATE)


def ramp(start: float, end: float) -> np.ndarray:
    return np.arange(round(start * RATE), round(end * RATE)) // 16


@pytest.mark.parametrize(
    "seconds, start, end, expected",
    [
        (20.0, 5.0, 15.0, (5.0, 15.0)),
        (20.0, 12.5, 22.5, (12.5, 20.0)),
        (20.0, 19.0, 29.0, (19.0, 20.0)),
        (20.0, 0.0, 30.0, (0.0, 20.0)),
        (1.4, 0.8, 1.3, (0.8, 1.3)),
    ],
)
def test_a_recording_gives_what_lies_in_the_segment(
    seconds: float, start: float, end: float, expected: tuple[float, float]
) -> None:
    """Else sound of another time gets the labels."""
    found = segment(recording(seconds), start, end, True)
    np.testing.assert_array_equal(found, ramp(*expected))


@pytest.mark.parametrize("start", [20.0, 19.5, 60.0])
def test_a_segment_beyond_the_recording_is_refused(start: float) -> None:
    """Else the last moments of a recording stand for what was never there."""
    with pytest.raises(ShardError, match=f"nor a recording that reaches {start:.2f} s"):
        segment(recording(20.0), start, start + 10, True)


# A file named by its id alone may be the cut segment or the recording


@pytest.mark.parametrize(
    "seconds, start, end",
    [
        (10.0, 30.0, 40.0),
        (9.2, 30.0, 40.0),
        (1.2, 100.0, 102.0),
        (10.9, 30.0, 40.0),
        (10.0, 0.0, 10.0),
        (4.0, 0.0, 10.0),
    ],
)
def test_a_file_that_can_only_be_the_segment_is_taken_from_its_start(
    seconds: float, start: float, end: float
) -> None:
    """Else AudioSet as downloaders cut it must be renamed first."""
    found = segment(recording(seconds), start, end)
    np.testing.assert_array_equal(found, ramp(0, min(seconds, end - start)))


@pytest.mark.parametrize(
    "seconds, start, end", [(20.0, 5.0, 15.0), (3.5, 1.0, 3.0), (11.2, 1.0, 11.0)]
)
def test_a_file_that_can_only_be_the_recording_is_cut(
    seconds: float, start: float, end: float
) -> None:
    """Else the start of a video gets the labels of its middle."""
    np.testing.assert_array_equal(
        segment(recording(seconds), start, end), ramp(start, end)
    )


@pytest.mark.parametrize(
    "seconds, start, end",
    [(1.4, 0.8, 1.3), (10.6, 0.5, 10.5), (8.0, 5.0, 15.0), (10.0, 5.0, 15.0)],
)
@pytest.mark.parametrize("form", ["flac", "mp3"])
def test_a_short_file_that_may_be_either_is_refused_unless_told(
    tmp_path: Path, seconds: float, start: float, end: float, form: str
) -> None:
    """Else 1.4 s of recording stand for the segment from 0.8 to 1.3 s, 0.8 s early."""
    path = tmp_path / f"clip.{form}"
    wave = sweep(RATE, seconds)
    soundfile.write(path, wave, RATE)
    with pytest.raises(ShardError, match="clip.* may be the segment .*--files-are"):
        segment(path, start, end)
    whole = load_clip(path, sample_rate=RATE)
    first, last = round(start * RATE), round(end * RATE)
    for told, expected in (
        (False, whole[: last - first]),
        (True, whole[first:last]),
    ):
        found = segment(path, start, end, told)
        assert np.abs(found.astype(int) - expected).max() <= 2


def test_a_recording_that_ends_before_a_long_segment_is_not_taken_for_it() -> None:
    """Else 20 s of recording stand for the segment from 30 to 60 s."""
    with pytest.raises(ShardError, match="20.00 s of audio may be the segment from 30"):
        segment(recording(20.0), 30.0, 60.0)


def test_a_file_named_as_a_segment_that_is_longer_is_refused() -> None:
    """Else a wrong name makes another part of it the clip."""
    with pytest.raises(ShardError, match="longer than its segment \\(10.00 s\\) by"):
        segment(recording(20.0), 5.0, 15.0, False)


@pytest.mark.parametrize("told", [None, True, False])
def test_a_segment_of_more_than_600_seconds_is_refused(told: bool | None) -> None:
    """Else a CSV with one wrong number makes a clip that no reader takes."""
    data = encode(np.zeros(650 * RATE, np.int16), codec="flac", sample_rate=RATE)
    with pytest.raises(
        ShardError, match="a clip may have 600 s; cut the file, or list"
    ):
        segment(data, 0.0, 650.0, told)
