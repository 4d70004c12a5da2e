"""Arrays whose values fit another full scale than that of their type are refused."""

import io

import numpy as np
import pytest
import soundfile

from shards.audio.decode import load_clip, to_mono_int16
from shards.errors import ShardError

RATE = 16000
TONE = np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)


def packed(samples: np.ndarray) -> np.ndarray:
    return to_mono_int16(samples, rate=RATE, sample_rate=RATE)


def scaled(full_scale: float, dtype: str, *, level: float = 0.25) -> np.ndarray:
    return np.round(level * full_scale * TONE).astype(dtype)


OTHER_SCALE = {
    "16 bits in int32": (scaled(2**15, "int32"), "never leave 16 bits"),
    "16 bits at full scale in int32": (
        np.array([-32768, 32767], np.int32),
        "int32 samples up to 32768, which never leave 16 bits",
    ),
    "8 bits in int32": (scaled(2**7, "int32"), "never leave 16 bits"),
    "one bit in int32": (np.array([0, 1], np.int32), "never leave 16 bits"),
    "24 bits in int32": (scaled(2**23, "int32"), "never leave 24 bits"),
    "16 bits in uint32": (
        (scaled(2**15, "int64") + 2**31).astype(np.uint32),
        "never leave 16 bits",
    ),
    "16 bits, signed, in uint32": (
        scaled(2**15, "int32").view(np.uint32),
        "never come near 2147483648",
    ),
    "16 bits, signed, in uint16": (
        scaled(2**15, "int16").view(np.uint16),
        "never come near 32768, the middle",
    ),
    "8 bits in uint16": (scaled(2**7, "int16").astype(np.uint16) + 128, "the middle"),
    "signed in uint8": (scaled(2**7, "int8").view(np.uint8), "the middle"),
    "16 bits in int64": (scaled(2**15, "int64"), "full scale cannot be known"),
    "16 bits in float32": (scaled(2**15, "float32"), "divide by full scale"),
    "16 bits in float16": (scaled(2**15, "float16"), "divide by full scale"),
    "a quiet 16 bits in float64": (
        scaled(2**15, "float64", level=0.001),
        "floats up to 33 that are all whole numbers",
    ),
}


@pytest.mark.parametrize("what", OTHER_SCALE)
def test_values_that_fit_a_narrower_type_are_refused(what: str) -> None:
    """Else a sum of int16 arrays is packed as silence, and nobody is told."""
    samples, reason = OTHER_SCALE[what]
    with pytest.raises(ShardError, match=reason):
        packed(samples)


RIGHT_SCALE = {
    "int32": (scaled(2**31, "int32"), 8192),
    "24 bits, shifted, in int32": (scaled(2**23, "int32") << 8, 8192),
    "a quiet 16 bits, shifted, in int32": (
        scaled(2**15, "int32", level=0.003) << 16,
        98,
    ),
    "a very quiet 24 bits, shifted": (scaled(2**23, "int32", level=0.003) << 8, 98),
    "uint16": ((scaled(2**15, "int32") + 2**15).astype(np.uint16), 8192),
    "a quiet int16": (scaled(2**15, "int16", level=0.003), 98),
    "a quiet int8": (scaled(2**7, "int8", level=0.03), 1024),
    "float32": ((0.25 * TONE).astype(np.float32), 8192),
    "float16": ((0.25 * TONE).astype(np.float16), 8192),
    "floats a little too loud": ((1.5 * TONE).astype(np.float32), 32767),
    "a square wave of 1 and -1": (np.sign(TONE), 32767),
}


@pytest.mark.parametrize("what", RIGHT_SCALE)
def test_values_that_use_their_type_keep_their_level(what: str) -> None:
    """Else quiet clips are refused, as if they were of another type."""
    samples, peak = RIGHT_SCALE[what]
    found = packed(samples)
    assert int(found.max()) == pytest.approx(peak, abs=1)


@pytest.mark.parametrize("dtype", ["int32", "int16", "uint16", "float32"])
def test_silence_is_silence_in_every_type(dtype: str) -> None:
    """Else the silent clips of AudioSet are refused."""
    rest = 2**15 if dtype == "uint16" else 0
    found = packed(np.full(RATE, rest, dtype))
    np.testing.assert_array_equal(found, np.zeros(RATE))


def wav(samples: np.ndarray, subtype: str) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, RATE, format="WAV", subtype=subtype)
    return buffer.getvalue()


@pytest.mark.parametrize("num_channels", [1, 2])
def test_a_32_bit_file_of_16_bit_values_is_refused(num_channels: int) -> None:
    """Else what scipy.io.wavfile writes from an int32 array is packed as silence."""
    samples = np.stack([scaled(2**15, "int32")] * num_channels, axis=1)
    with pytest.raises(ShardError, match="32-bit samples that never leave 16 bits"):
        load_clip(wav(samples, "PCM_32"), sample_rate=RATE)


@pytest.mark.parametrize("subtype", ["PCM_24", "PCM_32"])
def test_a_quiet_file_is_quiet(subtype: str) -> None:
    """Else silence with dither of 24 bits is refused."""
    for num_channels in (1, 2):
        dither = np.random.default_rng(0).integers(-1, 2, (RATE, num_channels))
        found = load_clip(
            wav((dither << 8).astype(np.int32), subtype), sample_rate=RATE
        )
        assert set(found.tolist()) == {0}
