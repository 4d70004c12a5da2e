"""Headers that are wrong about the length: the sound is all there, or the file refused.

A killed recorder, a pipe, a stream ripper or a copied header makes such files.
"""

import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile

from shards.audio.decode import load_clip, load_segment
from shards.audio.ogg import read_pages
from shards.errors import ShardError
from tests.shards.audio.test_audio import (
    FORMS,
    RATE,
    signal_to_noise,
    sweep,
    with_flac_length,
    write_with_ffmpeg,
)

NUM_SAMPLES = 3 * RATE
PCM = np.round(sweep(RATE, 3.0) * 16384).astype("<i2")
BYTES = PCM.tobytes()
SECOND = 2 * RATE
"""Bytes of a second."""

ALL_ONES = 0xFFFFFFFF
LIST = b"LIST\x1a\0\0\0INFOISFT\x0e\0\0\0Lavf62.12.100\0"


def wav(size: int, riff: int, *, data: bytes = BYTES, after: bytes = b"") -> bytes:
    """A 16-bit mono WAV file whose header states ``size`` and ``riff`` bytes."""
    head = struct.pack("<IHHIIHH", 16, 1, 1, RATE, 2 * RATE, 2, 16)
    chunks = b"WAVEfmt " + head + b"data" + struct.pack("<I", size)
    return b"RIFF" + struct.pack("<I", riff) + chunks + data + after


def written(form: str, subtype: str = "PCM_16", rate: int = RATE) -> bytearray:
    """The samples in a file by libsndfile."""
    buffer = io.BytesIO()
    soundfile.write(buffer, PCM.astype(np.int16), rate, format=form, subtype=subtype)
    return bytearray(buffer.getvalue())


def patched(data: bytes | bytearray, changes: dict[int, bytes]) -> bytes:
    """``data`` with other bytes at some positions."""
    out = bytearray(data)
    for position, value in changes.items():
        out[position : position + len(value)] = value
    return bytes(out)


def rf64(size: int, total: int) -> bytes:
    ds64 = struct.pack("<IQQQI", 28, total, size, NUM_SAMPLES, 0)
    body = wav(ALL_ONES, ALL_ONES)[12:]
    return b"RF64" + b"\xff" * 4 + b"WAVEds64" + ds64 + body


def w64(size: int, total: int) -> bytes:
    data = written("W64")
    field = data.find(b"data") + 16
    return patched(data, {16: struct.pack("<Q", total), field: struct.pack("<Q", size)})


def aiff(size: int, num_frames: int, total: int) -> bytes:
    data = written("AIFF")
    changes = {
        4: struct.pack(">I", total),
        data.find(b"COMM") + 10: struct.pack(">I", num_frames),
        data.find(b"SSND") + 4: struct.pack(">I", size),
    }
    return patched(data, changes)


def au(size: int) -> bytes:
    return patched(written("AU"), {8: struct.pack(">I", size)})


def caf(size: int) -> bytes:
    data = written("CAF")
    return patched(data, {data.find(b"data") + 4: struct.pack(">q", size)})


FULL = len(BYTES)
WRONG_SIZES = {
    "WAV, 0 and 0": wav(0, 0),
    "WAV, 0 and 36": wav(0, 36),
    "WAV, 0 and the true size": wav(0, 36 + FULL),
    "WAV, all ones (FFmpeg)": wav(ALL_ONES, ALL_ONES),
    "WAV, all ones less a header": wav(ALL_ONES - 36, ALL_ONES),
    "WAV, SoX": wav(0x7FFFF000, 0x7FFFF024),
    "WAV, arecord": wav(0x80000000, 0x80000024),
    "WAV, an earlier moment": wav(SECOND, 36 + SECOND),
    "WAV, an earlier moment in one field": wav(SECOND, 36 + FULL),
    "WAV, the header counted in": wav(FULL + 36, FULL + 36),
    "WAV, all ones, a chunk follows": wav(ALL_ONES, ALL_ONES, after=LIST),
    "WAV, a chunk follows": wav(FULL, 36 + FULL + len(LIST), after=LIST),
    "WAV, a cut chunk follows": wav(FULL, 36 + FULL + len(LIST), after=LIST[:-9]),
    "WAV, a tag follows": wav(FULL, 36 + FULL, after=b"TAG" + b"x" * 125),
    "WAV, zeros follow": wav(FULL, 36 + FULL, after=bytes(5000)),
    "WAV, a line end follows": wav(FULL, 36 + FULL, after=b"\r\n"),
    "RF64, 0": rf64(0, 0),
    "RF64, all ones": rf64(2**64 - 1, 2**64 - 1),
    "RF64, an earlier moment": rf64(SECOND, 72 + SECOND),
    "W64, 0": w64(0, 0),
    "W64, all ones": w64(2**64 - 1, 2**64 - 1),
    "W64, an empty chunk": w64(24, 104),
    "W64, an earlier moment": w64(SECOND + 24, 104 + SECOND),
    "AIFF, 0": aiff(0, 0, 0),
    "AIFF, an empty chunk": aiff(8, 0, 46),
    "AIFF, all ones": aiff(ALL_ONES, ALL_ONES, ALL_ONES),
    "AIFF, an earlier moment": aiff(SECOND + 8, RATE, SECOND + 46),
    "AU, 0": au(0),
    "AU, all ones": au(ALL_ONES),
    "AU, an earlier moment": au(SECOND),
    "CAF, 0": caf(0),
    "CAF, -1": caf(-1),
    "CAF, an earlier moment": caf(SECOND + 4),
}


@pytest.mark.parametrize("what", WRONG_SIZES)
def test_a_size_that_is_none_costs_no_sample_and_adds_none(what: str) -> None:
    """Else recordings of a killed or piped recorder lose their end, or all of it."""
    found = load_clip(WRONG_SIZES[what], sample_rate=RATE)
    np.testing.assert_array_equal(found, PCM)


CUT_SHORT = {
    "WAV": wav(FULL, 36 + FULL, data=BYTES[:-5000]),
    "WAV by two bytes": wav(FULL, 36 + FULL, data=BYTES[:-2]),
    "WAV by the size of a header": wav(FULL, 36 + FULL, data=BYTES[:-8]),
    "RF64": rf64(FULL, 72 + FULL)[:-5000],
    "W64": w64(FULL + 24, 104 + FULL)[:-5000],
    "AIFF": aiff(FULL + 8, NUM_SAMPLES, FULL + 46)[:-5000],
    "AU": au(FULL)[:-5000],
    "CAF": caf(FULL + 4)[:-5000],
    "GSM": bytes(written("WAV", "GSM610", 8000)[:-500]),
    "G.721": bytes(written("AU", "G721_32", 8000)[:-500]),
}


@pytest.mark.parametrize("what", CUT_SHORT)
def test_a_file_that_lacks_what_its_header_states_is_refused(what: str) -> None:
    """Else half a download is trained on, as its header might only be wrong."""
    with pytest.raises(ShardError, match="truncated: .*; fetch it again"):
        load_clip(CUT_SHORT[what], sample_rate=RATE)


@pytest.mark.parametrize("after", [b"", LIST])
def test_a_wav_without_samples_is_not_filled_with_what_follows(after: bytes) -> None:
    """Else the text of a LIST chunk becomes a click that is a clip."""
    with pytest.raises(ShardError, match="no audio samples"):
        load_clip(wav(0, 36 + len(after), data=b"", after=after), sample_rate=RATE)


def test_silence_of_unknown_length_is_silence() -> None:
    """Else a quiet night's recording is taken for an empty file."""
    found = load_clip(wav(0, 0, data=bytes(FULL)), sample_rate=RATE)
    np.testing.assert_array_equal(found, np.zeros(NUM_SAMPLES))


# Telephone codecs

TELEPHONE = {
    "WAV": ["ULAW", "ALAW", "IMA_ADPCM", "MS_ADPCM", "GSM610", "G721_32"],
    "AU": ["ULAW", "ALAW", "G721_32", "G723_24", "G723_40"],
    "W64": ["GSM610", "IMA_ADPCM"],
    "AIFF": ["ULAW", "GSM610", "IMA_ADPCM"],
}
CALLS = [(form, subtype) for form, some in TELEPHONE.items() for subtype in some]


@pytest.mark.parametrize("form, subtype", CALLS)
def test_telephone_codecs_are_read_whole_and_cut_where_a_segment_lies(
    form: str, subtype: str
) -> None:
    """Else call recordings are refused: some of these codecs cannot seek."""
    buffer = io.BytesIO()
    wave = sweep(8000, 6.0)  # up to 1400 Hz
    soundfile.write(buffer, wave, 8000, format=form, subtype=subtype)
    data = buffer.getvalue()
    whole = load_clip(data, sample_rate=8000)
    assert 0 <= len(whole) - len(wave) < 1024  # a block may be filled up
    assert signal_to_noise(whole[800:], wave[800:]) > 5
    for start in (0.0, 0.75, 3.217, 4.4):
        found = load_segment(
            data,
            start_seconds=start,
            end_seconds=start + 1.5,
            sample_rate=8000,
            is_recording=True,
        )
        first = round(start * 8000)
        np.testing.assert_array_equal(found, whole[first:][:12000])
    for _ in range(2):  # a recording that is not the cut segment is read twice
        found = load_segment(data, start_seconds=3.0, end_seconds=4.0, sample_rate=8000)
        np.testing.assert_array_equal(found, whole[24000:32000])


@pytest.mark.parametrize("subtype", ["GSM610", "ULAW", "MS_ADPCM"])
def test_telephone_codecs_in_a_pipe_are_read_to_their_end(subtype: str) -> None:
    """Else what case 03 is for PCM stays for the recorders of call centres."""
    data = written("WAV", subtype, 8000)
    whole = load_clip(bytes(data), sample_rate=8000)
    unknown = patched(data, {4: bytes(4), data.find(b"data") + 4: bytes(4)})
    np.testing.assert_array_equal(load_clip(unknown, sample_rate=8000), whole)


@pytest.mark.parametrize("codec, rate, late", [("g722", 16000, 22), ("g726", 8000, 0)])
def test_telephone_codecs_that_only_ffmpeg_has_are_read(
    tmp_path: Path, codec: str, rate: int, late: int
) -> None:
    """Else recordings of telephone exchanges are refused by their codec's name."""
    wave = sweep(rate, 3.0)
    with av.open(str(tmp_path / "x"), "w", format="wav") as container:
        track: Any = container.add_stream(codec, rate=rate)
        track.layout, track.bit_rate = "mono", 4 * rate
        pcm = np.round(wave[None] * 32767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(pcm, format="s16", layout="mono")
        frame.sample_rate, frame.pts = rate, 0
        for packet in (*track.encode(frame), *track.encode(None)):
            container.mux(packet)
    found = load_clip(tmp_path / "x", sample_rate=rate)
    assert len(found) == len(wave)
    assert signal_to_noise(found[late:][500:], wave[500:]) > 20


# FLAC


@pytest.mark.parametrize("stated", [0, 1, RATE, NUM_SAMPLES - 1])
@pytest.mark.parametrize("tag", [b"", b"ID3\3\0\0\0\0\0\7abcdefg"])
def test_flac_that_states_too_little_is_read_whole(stated: int, tag: bytes) -> None:
    """Else joined or streamed FLAC files lose their end."""
    data = tag + with_flac_length(bytes(written("FLAC")), stated)
    np.testing.assert_array_equal(load_clip(data, sample_rate=RATE), PCM)


@pytest.mark.parametrize("stated", [0, RATE, NUM_SAMPLES])
def test_flac_that_is_cut_within_a_frame_is_refused(stated: int) -> None:
    """Else a header that states too little hides a broken download."""
    data = with_flac_length(bytes(written("FLAC")), stated)
    for size in (-3, -700, -5000, len(data) // 2 - len(data)):
        with pytest.raises(ShardError, match="truncated|not decodable"):
            load_clip(data[:size], sample_rate=RATE)


# MP3


def mp3(folder: Path, seconds: float, *, rate: int = 44100, **options: str) -> bytes:
    form: dict[str, Any] = {"format": "mp3", "codec": "libmp3lame", **options}
    return write_with_ffmpeg(folder / "x.mp3", sweep(rate, seconds), rate=rate, **form)


def with_frame_count(data: bytes, change: Callable[[int], int]) -> bytes:
    """An MP3 file whose header states another number of frames."""
    field = max(data.find(b"Info"), data.find(b"Xing")) + 8
    count = int.from_bytes(data[field : field + 4], "big")
    return patched(data, {field: change(count).to_bytes(4, "big")})


@pytest.mark.parametrize("rate", [16000, 44100])
@pytest.mark.parametrize("seconds", [0.01, 0.06, 1.0, 20.0])
def test_mp3_is_as_long_as_its_frames_with_a_header_or_without(
    tmp_path: Path, seconds: float, rate: int
) -> None:
    """Else rips of web radio lose 5 of 6 seconds, or short sounds all of theirs."""
    wave = sweep(rate, seconds)
    assert len(load_clip(mp3(tmp_path, seconds, rate=rate), sample_rate=rate)) == len(
        wave
    )
    bare = mp3(tmp_path, seconds, rate=rate, write_xing="0", id3v2_version="0")
    found = load_clip(bare, sample_rate=rate)
    assert 1105 < len(found) - len(wave) < 1105 + 2 * 1152  # delay, filled last frame


@pytest.mark.parametrize(
    "change", [lambda n: 0, lambda n: 1, lambda n: n // 2, lambda n: n - 5]
)
def test_mp3_that_states_too_few_frames_is_read_whole(
    tmp_path: Path, change: Callable[[int], int]
) -> None:
    """Else joined files, or files that were edited, lose their end."""
    data = with_frame_count(mp3(tmp_path, 6.0), change)
    found = load_clip(data, sample_rate=44100)
    assert 0 <= len(found) - 6 * 44100 < 1152
    assert signal_to_noise(found[500:], sweep(44100)[500:]) > 20


def test_mp3_that_states_too_many_frames_is_refused(tmp_path: Path) -> None:
    """Else a broken download passes for a file with a wrong header."""
    data = with_frame_count(mp3(tmp_path, 6.0), lambda n: n + 5)
    with pytest.raises(ShardError, match="truncated or damaged: 2[0-9]+ of 2[0-9]+ "):
        load_clip(data, sample_rate=44100)


def test_joined_mp3_files_are_read_to_the_last(tmp_path: Path) -> None:
    """Else of `cat 1.mp3 2.mp3` only the first is packed, or none for its tag."""
    one = mp3(tmp_path, 6.0)
    bare = mp3(tmp_path, 6.0, write_xing="0", id3v2_version="0")
    tag = b"TAG" + b"x" * 125
    for data in (one + one, bare + bare, one + tag + bare + tag):
        whole = load_clip(data, sample_rate=44100)
        assert 0 <= len(whole) - 12 * 44100 < 5 * 1152
        found = load_segment(
            data, start_seconds=8.5, end_seconds=10.0, sample_rate=44100
        )
        expected = whole[round(8.5 * 44100) :][: len(found)].astype(int)
        assert np.abs(found - expected).max() <= 2


def test_mp3_that_begins_and_ends_in_a_frame_is_read(tmp_path: Path) -> None:
    """Else what a stream ripper writes is refused."""
    bare = mp3(tmp_path, 20.0, write_xing="0", id3v2_version="0")
    found = load_clip(bare[5001:-300], sample_rate=44100)
    assert 19.5 * 44100 < len(found) < 20 * 44100


@pytest.mark.parametrize("header", ["1", "0"])
def test_mp3_with_a_hole_is_refused_and_prints_nothing(
    tmp_path: Path, header: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Else all after the hole is shifted, or a log is flooded without a file name."""
    data = mp3(tmp_path, 20.0, write_xing=header, id3v2_version="0")
    middle = len(data) // 2
    for bad in (
        data[:middle] + data[middle + 40_001 :],
        data[:middle] + bytes(400) + data[middle + 400 :],
    ):
        with pytest.raises(ShardError, match="truncated or damaged|not decodable"):
            load_clip(bad, sample_rate=44100)
    assert capfd.readouterr() == ("", "")


def test_tags_that_are_not_utf_8_are_no_error(tmp_path: Path) -> None:
    """Else a song with an old tag in another alphabet ends a packing in a traceback."""
    data = mp3(tmp_path, 1.0)
    tag = b"TAG" + "Ж".encode("cp1251") * 30 + bytes(95)
    form: dict[str, Any] = {"format": "ipod", "codec": "aac", "rate": 44100}
    m4a = write_with_ffmpeg(tmp_path / "x", sweep(44100, 1.0), **form)
    for source in (data + tag, m4a.replace(b"iso2", b"\xc6\xc6\xc6\xc6")):
        assert len(load_clip(source, sample_rate=44100)) >= 44100


# AAC without a container


def test_joined_and_tagged_adts_is_read_whole(tmp_path: Path) -> None:
    """Else AAC out of a radio stream is refused or loses its end."""
    data = write_with_ffmpeg(tmp_path / "x", sweep(44100), **FORMS["AAC"])
    tag = b"ID3\3\0\0\0\0\0\7abcdefg"
    one = len(load_clip(data, sample_rate=44100))
    assert len(load_clip(tag + data, sample_rate=44100)) == one
    assert len(load_clip(data + data, sample_rate=44100)) == 2 * one


# Ogg


def ogg(level: float = 0.5, *, subtype: str = "VORBIS", seconds: float = 6.0) -> bytes:
    buffer = io.BytesIO()
    wave = level * sweep(RATE, seconds)
    soundfile.write(buffer, wave, RATE, format="OGG", subtype=subtype)
    return buffer.getvalue()


def crc32(page: bytes | bytearray) -> int:
    """Checksum of an Ogg page, bit by bit as RFC 3533 has it."""
    crc = 0
    for byte in page:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ (0x04C11DB7 if crc & 0x80000000 else 0)) & 0xFFFFFFFF
    return crc


Pages = list[bytearray]


def edited(data: bytes, change: Callable[[Pages], Pages]) -> bytes:
    """An Ogg file with other pages, whose checksums are right."""
    pages, position = [], 0
    while position < len(data):
        count = data[position + 26]
        size = 27 + count + sum(data[position + 27 : position + 27 + count])
        pages.append(bytearray(data[position : position + size]))
        position += size
    pages = change(pages)
    for page in pages:
        page[22:26] = bytes(4)
        page[22:26] = struct.pack("<I", crc32(bytes(page)))
    return b"".join(pages)


def numbered(serial: int) -> Callable[[Pages], Pages]:
    def change(pages: Pages) -> Pages:
        for page in pages:
            page[14:18] = struct.pack("<I", serial)
        return pages

    return change


def last_time(granule: int) -> Callable[[Pages], Pages]:
    def change(pages: Pages) -> Pages:
        pages[-1][6:14] = struct.pack("<q", granule)
        return pages

    return change


def tuned_in_late(pages: Pages) -> Pages:
    """As a listener of a live stream gets them: headers, then pages of much later."""
    for page in pages:
        granule, _, number = struct.unpack_from("<qII", page, 6)
        if granule > 0:
            struct.pack_into("<q", page, 6, granule + 10**7)
            struct.pack_into("<I", page, 18, number + 500)
    return pages


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_ogg_whose_pages_have_wrong_times_is_read_whole(subtype: str) -> None:
    """Else a stream of web radio, or a badly closed file, loses its last second."""
    data = ogg(subtype=subtype)
    changes = [last_time(value) for value in (0, 100, -1)]
    for change in (*changes, tuned_in_late):
        found = load_clip(edited(data, change), sample_rate=RATE)
        assert 0 <= len(found) - 6 * RATE < 1024
        assert signal_to_noise(found[500:], 0.5 * sweep(RATE)[500:]) > 15


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_joined_ogg_files_are_read_to_the_last_whatever_their_numbers(
    subtype: str,
) -> None:
    """Else of streams with the same serial number only the first is packed."""
    one, two = (ogg(level, subtype=subtype) for level in (0.5, 0.25))
    same = edited(one, numbered(7)) + edited(two, numbered(7))
    junk = one + b"junk and Ogg" + two
    again = edited(one, numbered(1)) + edited(two, numbered(2))
    for data, times in ((same, 2), (junk, 2), (again + edited(two, numbered(1)), 3)):
        found = load_clip(data, sample_rate=RATE)
        assert 0 <= len(found) - times * 6 * RATE < times * 1024
        levels = np.abs(found[: 5 * RATE]).max(), np.abs(found[-5 * RATE :]).max()
        assert levels == pytest.approx((8192, 4096), rel=0.15)


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_ogg_with_a_bad_byte_or_page_is_refused(subtype: str) -> None:
    """Else decoders drop the page silently, and what follows is a second early."""
    data = ogg(subtype=subtype, seconds=30.0)
    bad = bytearray(data)
    bad[len(bad) // 2] ^= 1
    with pytest.raises(ShardError, match="wrong checksum of the Ogg page at byte"):
        load_clip(bytes(bad), sample_rate=RATE)
    without = edited(data, lambda pages: pages[:-2] + pages[-1:])
    with pytest.raises(ShardError, match="Ogg page [0-9]+ is missing"):
        load_clip(without, sample_rate=RATE)
    later = edited(data, last_time(5 * 10**6))
    with pytest.raises(ShardError, match="truncated or damaged: [0-9]+ of"):
        load_clip(later, sample_rate=RATE)


def test_tags_after_an_ogg_file_are_passed_over() -> None:
    """Else a file that some music program has touched is refused."""
    for after in (b"TAG" + bytes(125), bytes(5000)):
        assert len(load_clip(ogg() + after, sample_rate=RATE)) == 6 * RATE


def test_endless_empty_pages_are_given_up_soon() -> None:
    """Else a crafted file of a gigabyte keeps a loader busy for minutes."""
    page = edited(ogg(seconds=0.1), lambda pages: pages[:1])[:27]
    empty = bytearray(page[:5] + bytes([0]) + page[6:26] + bytes([0]))
    empty[22:26] = bytes(4)
    empty[22:26] = struct.pack("<I", crc32(bytes(empty)))
    with pytest.raises(ShardError, match="does not end the stream"):
        read_pages(io.BytesIO(bytes(empty) * 100_000), 27 * 100_000)
