"""Audio as people have it, and clips as members.

Files are made by FFmpeg (PyAV) and libsndfile (soundfile) from signals known here.
"""

import io
import multiprocessing
import os
import struct
import subprocess
import sys
import tarfile
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from shards.audio.chunks import find_wav_data
from shards.audio.decode import load_clip, load_segment, to_mono_int16
from shards.audio.members import CODECS, OPUS_RATES, decode, encode
from shards.audio.sndfile import read_part
from shards.errors import ShardError
from tests.conftest import Run, Source

RATE = 16000
SECONDS = 6.0

FORMS: dict[str, dict[str, Any]] = {
    "M4A": {"format": "ipod", "codec": "aac"},
    "M4A, index first": {"format": "ipod", "codec": "aac", "movflags": "faststart"},
    "M4A lossless": {"format": "ipod", "codec": "alac"},
    "MP4 video": {"format": "mp4", "codec": "aac", "video": True},
    "WebM": {"format": "webm", "codec": "libopus", "rate": 48000},
    "Matroska": {"format": "matroska", "codec": "flac"},
    "MKV video": {"format": "matroska", "codec": "aac", "video": True},
    "WMA": {"format": "asf", "codec": "wmav2"},
    "AAC": {"format": "adts", "codec": "aac"},
    "AVI": {"format": "avi", "codec": "libmp3lame", "video": True},
    "MP3": {"format": "mp3", "codec": "libmp3lame"},
    "MP3 untagged": {"format": "mp3", "codec": "libmp3lame", "id3v2_version": "0"},
    "Ogg Vorbis": {"format": "ogg", "codec": "vorbis", "strict": "experimental"},
    "Ogg Opus": {"format": "ogg", "codec": "libopus", "rate": 48000},
    "Ogg FLAC": {"format": "ogg", "codec": "flac"},
    "FLAC": {"format": "flac", "codec": "flac"},
    "WAV": {"format": "wav", "codec": "pcm_s16le"},
    "WAV 24 bits": {"format": "wav", "codec": "pcm_s24le"},
    "WAV A-law": {"format": "wav", "codec": "pcm_alaw"},
    "WAV float64": {"format": "wav", "codec": "pcm_f64le"},
    "WAV 8 bits": {"format": "wav", "codec": "pcm_u8"},
    "WAV with MP3": {"format": "wav", "codec": "libmp3lame"},
    "W64": {"format": "w64", "codec": "pcm_s16le"},
    "AIFF": {"format": "aiff", "codec": "pcm_s16be"},
    "AU": {"format": "au", "codec": "pcm_s16be"},
    "CAF": {"format": "caf", "codec": "pcm_s16le"},
}

LATE = {"AAC": 1024, "WAV with MP3": 1105, "AVI": 1105, "WMA": -2048}
"""Samples before the first in forms that do not tell them; FFmpeg's WMA loses some."""


def sweep(rate: int, seconds: float = SECONDS) -> np.ndarray:
    """[N] float32 at half scale; rises from 200 Hz by 200 Hz a second."""
    time = np.arange(round(rate * seconds)) / rate
    wave = 0.5 * np.sin(2 * np.pi * (200 * time + 100 * time**2))
    return wave.astype(np.float32)


def write_with_ffmpeg(
    path: Path,
    samples: np.ndarray,
    *,
    format: str,
    codec: str,
    rate: int = 44100,
    video: bool = False,
    **options: str,
) -> bytes:
    """The bytes of ``path``, written from float32 samples [N] as two channels."""
    pcm = np.stack([samples * 1.5, samples * 0.5])
    with av.open(str(path), "w", format=format, options=options) as container:
        track: Any = container.add_stream(codec, rate=rate)
        track.layout, track.bit_rate = "stereo", 192000
        track.options = {"strict": options.get("strict", "normal")}
        picture = container.add_stream("mpeg4", rate=10) if video else None
        frame = av.AudioFrame.from_ndarray(pcm, format="fltp", layout="stereo")
        frame.sample_rate, frame.pts = rate, 0
        packets = [*track.encode(frame), *track.encode(None)]
        if picture:
            picture.width = picture.height = 64
            for _ in range(round(len(samples) / rate * 10)):
                image = np.zeros((64, 64, 3), np.uint8)
                packets += picture.encode(av.VideoFrame.from_ndarray(image))
            packets += picture.encode(None)
        packets = [packet for packet in packets if packet.dts is not None]
        for packet in sorted(packets, key=lambda p: float(p.dts * p.time_base)):
            container.mux(packet)
    return path.read_bytes()


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[bytes, int]]:
    """The sweep in every form: the file's bytes and its rate."""
    folder, made = tmp_path_factory.mktemp("forms"), {}
    for number, (name, form) in enumerate(FORMS.items()):
        rate = form.get("rate", 44100)
        path = folder / str(number)
        made[name] = write_with_ffmpeg(path, sweep(rate), **form), rate
    return made


def signal_to_noise(found: np.ndarray, expected: np.ndarray) -> float:
    """In dB, over all that both have; ``found`` is int16, ``expected`` in [-1, 1]."""
    size = min(len(found), len(expected))
    noise = found[:size] / 32768 - expected[:size]
    return float(10 * np.log10((expected[:size] ** 2).mean() / (noise**2).mean()))


# Any form in


@pytest.mark.parametrize("name", FORMS)
def test_every_common_form_is_decoded_whole_in_time_and_level(
    forms: dict[str, tuple[bytes, int]], name: str
) -> None:
    """Else someone's files come out as noise, too quiet, late, or not at all."""
    data, rate = forms[name]
    found = load_clip(data, sample_rate=rate)
    late = LATE.get(name, 0)
    expected = sweep(rate)
    assert len(expected) <= len(found) - late <= len(expected) + 2 * 2048
    found, expected = found[max(0, late) :], expected[max(0, -late) :]
    size = len(expected) - 2 * 4096
    assert signal_to_noise(found[4096:][:size], expected[4096:][:size]) > 20


@pytest.mark.parametrize("name", FORMS)
def test_a_segment_equals_the_slice_of_the_whole(
    forms: dict[str, tuple[bytes, int]], name: str
) -> None:
    """Else chunks of long recordings lie next to the events of their labels."""
    data, rate = forms[name]
    whole = load_clip(data, sample_rate=rate)
    start = round(3.217 * rate)
    found = load_segment(
        data, start_seconds=3.217, end_seconds=4.717, sample_rate=rate
    ).astype(int)
    assert len(found) == round(1.5 * rate)
    assert np.abs(whole[start:][: len(found)] - found).max() <= 8


def test_the_content_decides_not_the_name(
    forms: dict[str, tuple[bytes, int]], tmp_path: Path
) -> None:
    """Else an M4A that someone called .mp3 stops a night's packing."""
    for name in ("M4A", "WebM", "FLAC", "MP3"):
        data, _ = forms[name]
        path = tmp_path / "clip.mp3"
        path.write_bytes(data)
        by_path = load_clip(path, sample_rate=RATE)
        np.testing.assert_array_equal(by_path, load_clip(data, sample_rate=RATE))
        assert len(by_path) >= SECONDS * RATE


def test_chained_ogg_streams_are_read_to_the_last() -> None:
    """Else of a recorded web radio only the first song is packed."""
    parts = []
    for level in (0.5, 0.25):
        buffer = io.BytesIO()
        wave = level * sweep(RATE)
        soundfile.write(buffer, wave, RATE, format="OGG", subtype="VORBIS")
        parts.append(buffer.getvalue())
    found = load_clip(b"".join(parts), sample_rate=RATE)
    assert len(found) == pytest.approx(2 * SECONDS * RATE, abs=2048)
    halves = np.abs(found[: 5 * RATE]).max(), np.abs(found[-5 * RATE :]).max()
    assert halves == pytest.approx((8192, 4096), rel=0.15)


def test_flac_streamed_without_its_length_is_read_whole() -> None:
    """Else FLAC piped out of an encoder is refused."""
    pcm = np.arange(-16000, 16000, dtype=np.int16)
    data = with_flac_length(encode(pcm, codec="flac", sample_rate=RATE), 0)
    np.testing.assert_array_equal(load_clip(data, sample_rate=RATE), pcm)


def test_mp3_without_a_frame_count_is_read(tmp_path: Path) -> None:
    """Else files of old encoders, whose length is an estimate, are refused."""
    form = FORMS["MP3"] | {"write_xing": "0"}
    data = write_with_ffmpeg(tmp_path / "0", sweep(44100, 20.0), **form)
    found = load_clip(data + bytes(900), sample_rate=44100)
    assert len(found) >= 20 * 44100


def test_live_webm_without_lengths_is_read(tmp_path: Path) -> None:
    """Else what a browser recorded is refused as truncated."""
    form = FORMS["WebM"] | {"live": "1"}
    data = write_with_ffmpeg(tmp_path / "0", sweep(48000), **form)
    assert len(load_clip(data, sample_rate=48000)) == SECONDS * 48000


# Files cut short

TELL_NOTHING = {"AAC"}
"""Forms in which a cut between two packets cannot be seen."""


@pytest.mark.parametrize("name", [name for name in FORMS if name not in TELL_NOTHING])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.97])
def test_a_file_cut_short_is_refused(
    forms: dict[str, tuple[bytes, int]], name: str, share: float
) -> None:
    """Else half a download is trained on as if it were the clip."""
    data, rate = forms[name]
    with pytest.raises(ShardError, match="truncated|not decodable|no audio samples"):
        load_clip(data[: round(share * len(data))], sample_rate=rate)


@pytest.mark.parametrize("name", ["WMA", "MP3", "MP3 untagged"])
def test_a_file_cut_anywhere_is_refused(
    forms: dict[str, tuple[bytes, int]], name: str
) -> None:
    """Else a download that broke off between two packets looks whole."""
    data, rate = forms[name]
    for size in range(1000, len(data) - 2000, 2999):
        with pytest.raises(ShardError, match="truncated|not decodable"):
            load_clip(data[:size], sample_rate=rate)


def test_ogg_cut_at_a_page_is_refused(forms: dict[str, tuple[bytes, int]]) -> None:
    """Else a download that broke off at a round number of pages looks whole."""
    data, _ = forms["Ogg Opus"]
    with pytest.raises(ShardError, match="does not end the stream"):
        load_clip(data[: data.rfind(b"OggS")], sample_rate=RATE)


def test_ogg_with_a_hole_is_refused() -> None:
    """Else a resumed download shifts all that follows the hole."""
    buffer, noise = io.BytesIO(), np.random.default_rng(0).uniform(-0.5, 0.5, 160_000)
    soundfile.write(buffer, noise, RATE, format="OGG", subtype="VORBIS")
    pages = [b"OggS" + page for page in buffer.getvalue().split(b"OggS")[1:]]
    assert len(pages) > 9
    damaged = b"".join(pages[:6] + pages[8:])
    with pytest.raises(ShardError, match="truncated or damaged"):
        load_clip(damaged, sample_rate=RATE)


# Files that are no audio


def video_without_audio(folder: Path) -> bytes:
    with av.open(str(folder / "silent.mp4"), "w") as container:
        picture = container.add_stream("mpeg4", rate=10)
        picture.width = picture.height = 64
        image = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8))
        for packet in (*picture.encode(image), *picture.encode(None)):
            container.mux(packet)
    return (folder / "silent.mp4").read_bytes()


def test_what_is_no_audio_is_refused_by_name(tmp_path: Path) -> None:
    """Else a night's packing ends in a traceback, or packs noise."""
    path = tmp_path / "clip.m4a"
    cases = {
        b"": "empty file",
        b"O": "not decodable audio",
        b"not audio\n" * 99: "not decodable audio",
        bytes(100_000): "not decodable audio",
        np.random.default_rng(0).bytes(100_000): "not decodable audio",
        b"#EXTM3U\n#EXTINF:10,\nfile:///etc/passwd\n": "not decodable audio",
        b"ffconcat version 1.0\nfile other.wav\n": "not decodable audio",
        video_without_audio(tmp_path): "holds no audio",
    }
    for data, reason in cases.items():
        path.write_bytes(data)
        with pytest.raises(ShardError, match=reason) as caught:
            load_clip(path, sample_rate=RATE)
        assert str(caught.value).startswith(f"{path}: ")


def test_a_playlist_opens_no_other_file(tmp_path: Path) -> None:
    """Else a file in a shared dataset reads the private files of who packs it."""
    soundfile.write(tmp_path / "other.wav", np.zeros(RATE, np.int16), RATE)
    text = "ffconcat version 1.0\nfile other.wav\n"
    (tmp_path / "list.mp3").write_text(text)
    with pytest.raises(ShardError, match="not decodable audio"):
        load_clip(tmp_path / "list.mp3", sample_rate=RATE)


def float_wav(samples: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, RATE, format="WAV", subtype="FLOAT")
    return buffer.getvalue()


@pytest.mark.parametrize(
    "value, reason",
    [(np.nan, "NaN"), (np.inf, "infinite"), (32767.0, "divide by full scale")],
)
def test_floats_that_are_no_audio_are_refused(value: float, reason: str) -> None:
    """Else a clip of clipped noise, or a NaN loss, comes out of a script's mistake."""
    samples = np.zeros(RATE, np.float32)
    samples[99] = value
    with pytest.raises(ShardError, match=reason):
        load_clip(float_wav(samples), sample_rate=RATE)


@given(st.binary(max_size=300), st.sampled_from([b"RIFF", b"OggS", b"fLaC", b"\x1aE"]))
def test_hostile_headers_end_in_a_shard_error(data: bytes, magic: bytes) -> None:
    """Else one member in a million kills a job with a traceback."""
    for source in (data, magic + data, b"\0\0\0\x18ftyp" + data):
        with pytest.raises(ShardError):
            load_clip(source, sample_rate=RATE)


def test_a_wav_of_endless_empty_chunks_is_refused_at_once() -> None:
    """Else a crafted file of a gigabyte keeps a loader busy for minutes."""
    data = b"RIFF\0\0\0\0WAVE" + bytes(8 * 5000) + b"data\0\0\0\0"
    with pytest.raises(ShardError, match="no data chunk"):
        load_clip(data, sample_rate=RATE)
    with pytest.raises(ShardError, match="no data chunk"):
        find_wav_data(data)


# Limits


def with_flac_length(data: bytes, num_samples: int) -> bytes:
    """A FLAC file whose header gives another length; 0 means unknown."""
    field = int.from_bytes(data[18:26], "big") >> 36 << 36
    return data[:18] + (field | num_samples).to_bytes(8, "big") + data[26:]


@pytest.fixture(scope="module")
def hour(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An hour of silence in a few hundred kilobytes of FLAC."""
    path = tmp_path_factory.mktemp("bomb") / "hour.flac"
    with soundfile.SoundFile(path, "w", RATE, 1, "PCM_16") as stream:
        for _ in range(60):
            stream.write(np.zeros(60 * RATE, np.int16))
    assert path.stat().st_size < 300_000
    return path


BOUNDED = """
import resource, sys
from shards.audio.decode import load_clip
from shards.errors import ShardError
load_clip(sys.argv[1], sample_rate=16000)  # imports and warms up
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + 300_000_000,) * 2)
for path in sys.argv[2:]:
    try:
        load_clip(path, sample_rate=16000)
    except ShardError as error:
        print(error)
"""


def test_hours_in_a_small_file_are_refused_in_bounded_memory(
    hour: Path, tmp_path: Path
) -> None:
    """Else one member of a shared dataset brings a node down."""
    soundfile.write(tmp_path / "good.wav", np.zeros(RATE, np.int16), RATE)
    data = hour.read_bytes()
    (tmp_path / "unknown.flac").write_bytes(with_flac_length(data, 0))
    (tmp_path / "claims.flac").write_bytes(
        with_flac_length(encode_silence(RATE), 2**36 - 1)
    )
    paths = [tmp_path / "good.wav", hour]
    paths += [tmp_path / "unknown.flac", tmp_path / "claims.flac"]
    result = subprocess.run(
        [sys.executable, "-c", BOUNDED, *map(str, paths)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert len(lines) == 3
    assert lines[0] == (
        f"{hour}: 3600 s of audio or more, and a clip may have 600 s; cut the file, or "
        "list segments of it in a CSV"
    )
    assert "60" in lines[1] and "of audio or more" in lines[1]
    assert "4294967 s of audio or more" in lines[2]


def encode_silence(num_samples: int) -> bytes:
    return encode(np.zeros(num_samples, np.int16), codec="flac", sample_rate=RATE)


def test_a_clip_longer_than_allowed_is_refused() -> None:
    """Else --max-seconds of a caller means nothing."""
    data = encode_silence(RATE * 3)
    assert len(load_clip(data, sample_rate=RATE, max_seconds=3)) == RATE * 3
    with pytest.raises(ShardError, match="may have 2.9 s"):
        load_clip(data, sample_rate=RATE, max_seconds=2.9)


@pytest.mark.parametrize("rate", [1, 999, 4_000_000])
def test_forged_rates_are_refused(rate: int) -> None:
    """Else a second of audio is resampled to gigabytes."""
    data = bytearray(encode(np.zeros(RATE, np.int16), codec="wav", sample_rate=RATE))
    struct.pack_into("<I", data, 24, rate)
    with pytest.raises(ShardError, match=f"{rate} Hz, expected 1000 to 768000"):
        load_clip(bytes(data), sample_rate=RATE)


# Arrays


@pytest.mark.parametrize(
    "dtype, values",
    [
        ("int8", [-128, 0, 64]),
        ("uint8", [0, 128, 192]),
        ("int16", [-32768, 0, 16384]),
        ("uint16", [0, 32768, 49152]),
        ("int32", [-(2**31), 0, 2**30]),
        ("float16", [-1, 0, 0.5]),
        ("float32", [-1, 0, 0.5]),
        ("float64", [-1, 0, 0.5]),
    ],
)
def test_every_type_of_samples_keeps_its_level(dtype: str, values: list[float]) -> None:
    """Else clips of a Parquet file are packed as silence or noise."""
    samples = np.array(values, dtype)
    expected = [-32768, 0, 16384]
    found = to_mono_int16(samples, rate=RATE, sample_rate=RATE)
    assert (found.dtype, found.tolist()) == (np.int16, expected)
    stereo = np.stack([samples, samples], 1)
    assert to_mono_int16(stereo, rate=RATE, sample_rate=RATE).tolist() == expected


@pytest.mark.parametrize(
    "samples, reason",
    [
        (np.zeros(9, np.int64), "full scale cannot be known"),
        (np.zeros(9, bool), "full scale cannot be known"),
        (np.zeros(9, complex), "full scale cannot be known"),
        (np.array(["a"]), "full scale cannot be known"),
        (np.zeros((2, 16000), np.int16), "expected \\[N\\] or \\[N, channels\\]"),
        (np.zeros((9, 1, 1)), "expected \\[N\\] or \\[N, channels\\]"),
        (np.zeros(0), "no audio samples"),
        (np.full(9, 1e300), "infinite"),
        (np.full(9, 20000.0), "divide by full scale"),
    ],
)
def test_arrays_that_need_a_guess_are_refused(samples: np.ndarray, reason: str) -> None:
    """Else a wrong guess is trained on and nobody knows."""
    with pytest.raises(ShardError, match=reason):
        to_mono_int16(samples, rate=RATE, sample_rate=RATE)


def test_arrays_are_resampled() -> None:
    """Else 44.1 kHz arrays play at a third of their speed."""
    found = to_mono_int16(sweep(44100), rate=44100, sample_rate=RATE)
    assert len(found) == SECONDS * RATE
    assert signal_to_noise(found[500:-500], sweep(RATE)[500:-500]) > 40


# Members


@pytest.mark.parametrize("codec", CODECS)
def test_a_clip_is_encoded_to_the_same_bytes_every_time(codec: str) -> None:
    """Else two packings of the same input differ, and so do their fingerprints."""
    pcm = np.round(sweep(RATE) * 32767).astype(np.int16)
    program = (
        "import sys, numpy; from shards.audio.members import encode\n"
        "pcm = numpy.frombuffer(sys.stdin.buffer.read(), numpy.int16)\n"
        f"data = encode(pcm, codec={codec!r}, sample_rate={RATE})\n"
        "sys.stdout.buffer.write(data)"
    )
    other = subprocess.run(
        [sys.executable, "-c", program], input=pcm.tobytes(), stdout=subprocess.PIPE
    )
    first, second = (encode(pcm, codec=codec, sample_rate=RATE) for _ in range(2))
    assert first == second == other.stdout


@pytest.mark.parametrize("rate", OPUS_RATES)
@pytest.mark.parametrize("num_samples", [1, 959, 960, 961, 80000])
def test_opus_has_the_length_time_and_level_of_its_clip(
    rate: int, num_samples: int
) -> None:
    """Else small shards hold clips that are late, quiet, or padded with silence."""
    wave = 0.25 * np.cos(2 * np.pi * 440 * np.arange(num_samples) / rate)
    pcm = np.round(wave * 32768).astype(np.int16)
    data = encode(pcm, codec="opus", sample_rate=rate)
    read, found_rate = soundfile.read(io.BytesIO(data), dtype="int16")
    assert (found_rate, len(read)) == (rate, num_samples)
    ours = decode(data, codec="opus", start=0, stop=num_samples, sample_rate=rate)
    np.testing.assert_array_equal(ours, read)
    if num_samples > 1:
        assert signal_to_noise(ours, wave) > 25


def test_ffmpeg_reads_opus_members_as_we_do() -> None:
    """Else members are Opus to libsndfile alone."""
    wave = sweep(48000)
    pcm = np.round(wave * 32768).astype(np.int16)
    data = encode(pcm, codec="opus", sample_rate=48000)
    with av.open(io.BytesIO(data), "r") as container:
        frames = [frame.to_ndarray()[0] for frame in container.decode(audio=0)]
    found = np.concatenate(frames)
    assert len(found) == len(pcm)
    ours = decode(data, codec="opus", start=0, stop=len(pcm), sample_rate=48000)
    assert signal_to_noise(ours, found) > 60


def test_a_slice_of_opus_is_the_slice_of_the_whole() -> None:
    """Else chunks of opus clips are shifted, or begin with a click."""
    rng = np.random.default_rng(0)
    wave = sweep(RATE, 10.0) + 0.02 * rng.standard_normal(10 * RATE)
    pcm = np.round(wave * 32767).astype(np.int16)
    data = encode(pcm, codec="opus", sample_rate=RATE)
    whole = soundfile.read(io.BytesIO(data), dtype="int16")[0].astype(int)
    for start in rng.integers(0, 8 * RATE, 40).tolist():
        bounds = {"start": start, "stop": start + 2 * RATE}
        found = decode(data, codec="opus", sample_rate=RATE, **bounds)
        again = decode(data, codec="opus", sample_rate=RATE, **bounds)
        np.testing.assert_array_equal(found, again)
        assert np.abs(found - whole[start : start + 2 * RATE]).max() <= 104  # -50 dB


def test_a_codec_or_rate_that_cannot_be_packed_is_refused() -> None:
    """Else an hour's packing ends at the first clip with a codec's own words."""
    pcm = np.zeros(441, np.int16)
    with pytest.raises(ValueError, match="44100; opus has 8000, 12000, 16000, 24000"):
        encode(pcm, codec="opus", sample_rate=44100)
    with pytest.raises(ValueError, match="'mp3'; expected one of wav, flac, opus"):
        encode(pcm, codec="mp3", sample_rate=RATE)


def test_opus_shards_are_packed_alike_twice_and_open_elsewhere(
    source: Source, tmp_path: Path, run: Run
) -> None:
    """Else a set packed again on another day has other fingerprints."""
    tars = []
    for out in (tmp_path / "one", tmp_path / "two"):
        words = (*source.pack_arguments(out), "--codec", "opus")
        result = run("shards.pack", *words)
        assert result.returncode == 0, result.stderr
        tars.append({path.name: path.read_bytes() for path in out.glob("*.tar")})
    assert tars[0] == tars[1] and len(tars[0]) == 3
    with tarfile.open(tmp_path / "one" / "000000.tar") as tar:
        name = next(name for name in tar.getnames() if name.endswith(".opus"))
        member = tar.extractfile(name)
        assert member is not None
        found, rate = soundfile.read(io.BytesIO(member.read()))
    expected, _ = soundfile.read(source.audio / f"{name.split('_')[0]}.wav")
    assert (rate, len(found)) == (RATE, len(expected))
    assert np.corrcoef(found, expected)[0, 1] > 0.99
    refused = run("shards.pack", *words, "--sample-rate", "44100")
    assert refused.returncode == 78
    assert "sample_rate = 44100; opus has 8000" in refused.stderr


@pytest.mark.parametrize("in_memory_file", [True, False])
def test_threads_and_forked_processes_decode_apart(
    in_memory_file: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two that share a file would hand each other's audio to the student."""
    if not in_memory_file:
        monkeypatch.delattr(os, "memfd_create", raising=False)
    levels = [np.full(RATE * (1 + level % 3), level, np.int16) for level in range(12)]
    files = [encode(samples, codec="flac", sample_rate=RATE) for samples in levels]

    def wrong(turns: int) -> int:
        found = 0
        for level in np.random.default_rng(turns).integers(12, size=turns):
            samples = decode(
                files[level], codec="flac", start=9, stop=16000, sample_rate=RATE
            )
            found += not np.array_equal(samples, levels[level][9:16000])
        return found

    assert wrong(1) == 0  # this thread has its file before it forks
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(wrong, range(90, 100))) == [0] * 10
    fork = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(2, mp_context=fork) as processes:
        pending = [processes.submit(_decode_levels, files) for _ in range(40)]
        while not all(future.done() for future in pending):
            assert wrong(12) == 0
        assert [future.result() for future in pending] == [list(range(12))] * 40


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="Linux reads so")
def test_a_part_is_read_without_soundfile_unless_something_is_wrong() -> None:
    """Two threads would be no faster than one, or an error have no message."""
    samples = np.random.default_rng(0).integers(-9999, 9999, 3 * RATE, dtype=np.int16)
    file = encode(samples, codec="flac", sample_rate=RATE)
    part = read_part(file, 5000, 20000, RATE)
    assert part is not None and np.array_equal(part, samples[5000:20000])
    assert read_part(file, 5000, 20000, RATE // 2) is None
    assert read_part(file, 40000, len(samples) + 1, RATE) is None
    assert read_part(file, len(samples) + 1, len(samples) + 2, RATE) is None
    assert read_part(b"no audio", 0, 1, RATE) is None
    stereo = io.BytesIO()
    soundfile.write(stereo, samples.reshape(-1, 2), RATE, format="flac")
    assert read_part(stereo.getvalue(), 0, 1, RATE) is None


def _decode_levels(files: list[bytes]) -> list[int]:
    return [
        int(decode(file, codec="flac", start=5, stop=7, sample_rate=RATE)[0])
        for file in files
    ]


@pytest.mark.parametrize("codec", CODECS)
def test_a_member_of_another_form_is_refused(codec: str) -> None:
    """Else a swapped member is trained on at another pitch, or as noise."""
    stereo, other_rate = io.BytesIO(), io.BytesIO()
    kind = {"wav": "WAV", "flac": "FLAC", "opus": "OGG"}[codec]
    subtype = "OPUS" if codec == "opus" else "PCM_16"
    for buffer, shape, rate in ((stereo, (RATE, 2), RATE), (other_rate, RATE, 8000)):
        soundfile.write(buffer, np.zeros(shape), rate, format=kind, subtype=subtype)
    for buffer, words in ((stereo, "2 channels at"), (other_rate, "at 8000 Hz")):
        with pytest.raises(ShardError, match=words):
            data = buffer.getvalue()
            decode(data, codec=codec, start=0, stop=9, sample_rate=RATE)


def test_a_wav_member_that_is_not_16_bit_is_refused() -> None:
    """Else 24-bit samples are read as noise."""
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros(99), RATE, format="WAV", subtype="PCM_24")
    with pytest.raises(ShardError, match="not 16-bit PCM"):
        decode(buffer.getvalue(), codec="wav", start=0, stop=9, sample_rate=RATE)


@pytest.mark.parametrize("codec", [*CODECS, "source"])
def test_a_slice_of_hours_is_refused(codec: str) -> None:
    """Else an index that claims hours makes a reader ask for gigabytes."""
    with pytest.raises(ShardError, match="expected at most 9600000"):
        decode(b"", codec=codec, start=0, stop=2**31 - 1, sample_rate=RATE)


@pytest.mark.parametrize("codec", [*CODECS, "source"])
def test_garbage_members_end_in_a_shard_error(codec: str) -> None:
    """Else one flipped bit in a shard kills a run with a codec's own exception."""
    rng = np.random.default_rng(1)
    pcm = np.round(sweep(RATE, 0.5) * 32767).astype(np.int16)
    kind = "flac" if codec == "source" else codec
    good = encode(pcm, codec=kind, sample_rate=RATE)
    for _ in range(300):
        data = bytearray(good)
        for position in rng.integers(0, min(len(data), 400), 3):
            data[position] = rng.integers(256)
        try:
            found = decode(
                memoryview(data), codec=codec, start=100, stop=5000, sample_rate=RATE
            )
        except ShardError:
            continue
        assert (found.shape, found.dtype) == ((4900,), np.int16)


def test_a_member_as_found_is_decoded_to_the_rate_of_the_dataset(
    forms: dict[str, tuple[bytes, int]],
) -> None:
    """Else datasets adopted in place are read at another pitch."""
    data, _ = forms["M4A"]
    found = decode(
        memoryview(data), codec="source", start=RATE, stop=3 * RATE, sample_rate=RATE
    )
    assert len(found) == 2 * RATE
    assert signal_to_noise(found, sweep(RATE)[RATE : 3 * RATE]) > 20
    with pytest.raises(ShardError, match="expected 112000; pack this shard again"):
        decode(data, codec="source", start=0, stop=7 * RATE, sample_rate=RATE)
