"""Renders a clip of the miniature AudioSet and the times of its true events.

Owns the synthesizers and the arithmetic of sound; no file. Runs where a C library
can be unloaded and `srand` found in the process: Linux (tried) and macOS.
"""

import _ctypes
import ctypes
import functools
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray

from tools.mini.classes import (
    HELD_OUT_VOICES,
    INSTALL,
    PROFILES,
    SHIFTED_LEVEL_DBFS,
    UNLABELLED,
    WORDS,
    Audio,
    ClipId,
    Sound,
    class_prior,
    class_table,
    parse_keys,
)

SAMPLE_RATE, FONT_RATE, VOICE_RATE = 16000, 32000, 22050
CLIP_SECONDS, CLIP_SAMPLES = 10.0, 160000
SILENCE_PEAK, SHORTEST_EVENT_SECONDS, MAX_REDRAWS = 1e-4, 0.05, 8
SPEECH_MID = "/m/09x0r"
Event = tuple[float, float, str]


@functools.cache
def open_synth() -> tuple[Any, int]:
    """One synthesizer and its sound font id, loaded once per process."""
    import tinysoundfont

    spec = importlib.util.find_spec("pretty_midi")
    assert spec is not None and spec.submodule_search_locations is not None
    synth = tinysoundfont.Synth(samplerate=FONT_RATE)
    folder = Path(spec.submodule_search_locations[0])
    return synth, synth.sfload(str(folder / "TimGM6mb.sf2"))


def play(
    notes: list[tuple[int, int, float, float]],
    program: int,
    *,
    is_drum: bool,
    tuning_semitones: float,
) -> Audio:
    """Plays (key, velocity, held, gap seconds) one by one; mono at SAMPLE_RATE."""
    synth, font = open_synth()
    channel = 9 if is_drum else 0
    synth.sounds_off()
    synth.generate(FONT_RATE // 10)  # voices die in 10 ms: nothing of the last event
    synth.program_select(channel, font, 0, program, is_drum)
    synth.set_tuning(channel, tuning_semitones)
    parts = []
    for key, velocity, held_seconds, gap_seconds in notes:
        synth.noteon(channel, key, velocity)
        parts.append(bytes(synth.generate(round(held_seconds * FONT_RATE))))
        if not is_drum:
            synth.noteoff(channel, key)
        parts.append(bytes(synth.generate(round(gap_seconds * FONT_RATE))))
    stereo = np.frombuffer(b"".join(parts), "<f4").reshape(-1, 2).astype(np.float64)
    return soxr.resample(stereo.mean(axis=1), FONT_RATE, SAMPLE_RATE)


def speak(text: str, voice: str, *, rate: int, pitch: int, random_seed: int) -> Audio:
    """Speaks with espeak-ng; mono at SAMPLE_RATE, as long as the text takes.

    espeak-ng 1.52 keeps state in static variables that no call resets, so the same text
    differed with what was said before; loading the library afresh for each text makes
    it a pure function, for 4 ms. It also draws from the C library's rand().
    """
    import espeakng_loader

    parts: list[bytes] = []

    @ctypes.CFUNCTYPE(
        ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
    )
    def receive(samples: Any, num_samples: int, events: Any) -> int:
        if samples and num_samples > 0:
            parts.append(ctypes.string_at(samples, 2 * num_samples))
        return 0

    data_path = Path(espeakng_loader.get_data_path())
    if not (data_path / "voices/!v" / voice.split("+")[1]).exists():
        raise RuntimeError(f"{data_path} has no voice variant {voice!r}: {INSTALL}")
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    # speak_lib.h: synchronous output 2, do not exit 0x8000, rate 1, pitch 3, UTF-8 1
    if library.espeak_Initialize(2, 0, bytes(data_path), 0x8000) != VOICE_RATE:
        raise RuntimeError(f"{data_path} is not usable espeak-ng data: {INSTALL}")
    library.espeak_SetSynthCallback(receive)
    status = library.espeak_SetVoiceByName(voice.encode())
    library.espeak_SetParameter(1, rate, 0)
    library.espeak_SetParameter(3, pitch, 0)
    library.espeak_ng_SetRandSeed(ctypes.c_long(random_seed))
    ctypes.CDLL(None).srand(random_seed)
    utf8 = text.encode() + b"\0"
    size = ctypes.c_size_t(len(utf8))
    status |= library.espeak_Synth(utf8, size, 0, 1, 0, 1, None, None)
    library.espeak_Terminate()
    _ctypes.dlclose(library._handle)
    if status != 0:
        raise RuntimeError(f"espeak-ng failed on voice {voice!r}: status {status}")
    samples = np.frombuffer(b"".join(parts), "<i2") / 32768.0
    return soxr.resample(samples, VOICE_RATE, SAMPLE_RATE)


def draw_speech(
    rng: np.random.Generator, variants: tuple[str, ...], num_seconds: float
) -> Audio:
    """Random common words of a random language in one voice variant."""
    language = str(rng.choice(list(WORDS)))
    rate = int(rng.integers(130, 230))  # words per minute
    num_words = int(num_seconds * rate / 60) + 2
    return speak(
        " ".join(rng.choice(WORDS[language].split(), num_words)),
        f"{language}+{rng.choice(variants)}",
        rate=rate,
        pitch=int(rng.integers(25, 75)),
        random_seed=int(rng.integers(1, 2**31)),
    )


def draw_notes(
    rng: np.random.Generator, sound: Sound, num_seconds: float, *, key_shift: int
) -> list[tuple[int, int, float, float]]:
    """A held note, a melody or detached notes: (key, velocity, held, gap seconds)."""
    styles = {"drum": ["hits"], "effect": ["hits"], "texture": ["held"]}
    style = rng.choice(styles.get(sound.kind, ["held", "melody", "detached"]))
    step_seconds = num_seconds if style == "held" else rng.uniform(0.12, 0.5)
    held_fraction = rng.uniform(0.3, 0.8) if style == "detached" else 1.0
    widest_leap = 4 if style == "melody" else int(rng.choice([0, 4]))
    position = int(rng.integers(len(sound.keys)))
    velocity = int(rng.integers(60, 127))
    notes = []
    for start_seconds in np.arange(0.0, num_seconds, step_seconds):
        seconds = min(step_seconds, num_seconds - start_seconds)
        held_seconds = seconds * held_fraction
        key = sound.keys[position] + key_shift
        notes.append((key, velocity, held_seconds, seconds - held_seconds))
        leap = int(rng.integers(-widest_leap, widest_leap + 1))
        position = int(np.clip(position + leap, 0, len(sound.keys) - 1))
    return notes


def draw_dry(
    rng: np.random.Generator, sound: Sound, num_seconds: float, *, is_shifted: bool
) -> Audio:
    """The bare rendering of one event, at most num_seconds long."""
    if sound.kind == "voice":
        variants = HELD_OUT_VOICES[sound.mid] if is_shifted else sound.sources
        dry = draw_speech(rng, variants, num_seconds)
    else:
        is_drum = sound.kind == "drum"
        moves = is_shifted and not is_drum  # a drum key is an instrument, not a pitch
        key_shift = int(rng.choice([-3, 3])) if moves else 0
        dry = play(
            draw_notes(rng, sound, num_seconds, key_shift=key_shift),
            int(rng.choice(sound.sources)),
            is_drum=is_drum,
            tuning_semitones=float(rng.uniform(-0.4, 0.4)),
        )
    return dry[: round(num_seconds * SAMPLE_RATE)]


def add_colour(rng: np.random.Generator, dry: Audio) -> Audio:
    """Every event ends in a 50 ms fade; half pass a tilt filter, half a small room.

    The tilt is up to 3 dB per octave either way around 1 kHz. The room is a direct path
    and noise that decays by 60 dB in t60; it makes the result longer than dry by t60.
    """
    num_fade = min(len(dry), round(0.05 * SAMPLE_RATE))
    fade = np.ones(len(dry))
    fade[len(dry) - num_fade :] = np.linspace(1.0, 0.0, num_fade)
    has_tilt, has_room = rng.random(2) < 0.5
    t60_seconds = rng.uniform(0.1, 0.6) if has_room else 0.0
    num_tail = round(t60_seconds * SAMPLE_RATE)
    num_out = len(dry) + num_tail
    size = -(-num_out // 4096) * 4096  # a length that is fast to transform
    spectrum = np.fft.rfft(dry * fade, size)
    if has_tilt:
        hertz = np.maximum(np.fft.rfftfreq(size, 1 / SAMPLE_RATE), 60.0)
        spectrum *= (hertz / 1000.0) ** (rng.uniform(-3.0, 3.0) / 6.02)
    if has_room:
        decay = 10 ** (-3.0 * np.arange(num_tail) / num_tail)
        response = rng.standard_normal(num_tail) * decay
        response *= 10 ** (rng.uniform(-12.0, 0.0) / 20) / np.linalg.norm(response)
        spectrum *= 1.0 + np.fft.rfft(response, size)
    return np.fft.irfft(spectrum, size)[:num_out]


def loudest_rms(audio: Audio, window_seconds: float = 0.2) -> float:
    """The largest RMS of any window; of the whole when it is shorter."""
    window = min(len(audio), round(window_seconds * SAMPLE_RATE))
    energy = np.concatenate([[0.0], np.cumsum(audio**2)])
    return float(np.sqrt((energy[window:] - energy[:-window]).max() / window))


def audible_span(audio: Audio, floor_rms: float) -> tuple[int, int]:
    """First and last sample, by 10 ms frames, above floor_rms and the peak - 40 dB."""
    frame = SAMPLE_RATE // 100
    num_frames = len(audio) // frame
    frames = audio[: num_frames * frame].reshape(num_frames, frame)
    rms = np.sqrt((frames**2).mean(axis=1))
    heard = np.flatnonzero(rms > max(floor_rms, 0.01 * rms.max(initial=0.0)))
    return (int(heard[0]) * frame, int(heard[-1] + 1) * frame) if len(heard) else (0, 0)


def draw_event(
    rng: np.random.Generator,
    sound: Sound,
    *,
    level_dbfs: tuple[float, float],
    floor_rms: float,
    is_shifted: bool,
) -> tuple[int, Audio, tuple[int, int]]:
    """Onset sample, audio at its level and its audible span; never a silent event.

    Raises RuntimeError when MAX_REDRAWS draws in a row render silence.
    """
    for _ in range(MAX_REDRAWS):
        num_seconds = rng.uniform(0.6, 2.5)
        onset = int(rng.uniform(0.0, CLIP_SECONDS - num_seconds) * SAMPLE_RATE)
        level = 10 ** (rng.uniform(*level_dbfs) / 20)
        dry = draw_dry(rng, sound, num_seconds, is_shifted=is_shifted)
        if len(dry) == 0 or np.abs(dry).max() < SILENCE_PEAK:
            continue
        audio = add_colour(rng, dry)[: CLIP_SAMPLES - onset]
        audio *= level / loudest_rms(audio)
        start, end = audible_span(audio, floor_rms)
        if end - start >= SHORTEST_EVENT_SECONDS * SAMPLE_RATE:
            return onset, audio, (onset + start, onset + end)
    raise RuntimeError(
        f"{sound.name!r} rendered silence {MAX_REDRAWS} times in a row; "
        f"reinstall its sources: {INSTALL}"
    )


def draw_background(rng: np.random.Generator, rms: float) -> Audio:
    """Noise with a 1/f^U(0,1) power spectrum; half is slowly modulated, 0.3 hums."""
    num_bins = CLIP_SAMPLES // 2 + 1
    spectrum = rng.standard_normal(num_bins) + 1j * rng.standard_normal(num_bins)
    spectrum[1:] *= np.arange(1, num_bins) ** (-rng.uniform(0.0, 1.0) / 2)
    spectrum[0] = 0.0
    noise = np.fft.irfft(spectrum, CLIP_SAMPLES)
    seconds = np.arange(CLIP_SAMPLES) / SAMPLE_RATE
    if rng.random() < 0.5:
        phase = rng.uniform(0.0, 2 * np.pi)
        swing = np.sin(2 * np.pi * rng.uniform(0.05, 0.5) * seconds + phase)
        noise *= 1.0 + rng.uniform(0.2, 0.8) * swing
    noise /= np.sqrt((noise**2).mean())
    if rng.random() < 0.3:
        mains_hertz = float(rng.choice([50.0, 60.0]))
        gain = 10 ** (rng.uniform(-10.0, 0.0) / 20)
        for harmonic in range(1, 5):
            hum = np.sin(2 * np.pi * mains_hertz * harmonic * seconds)
            noise += gain / harmonic * hum
    return noise * rms / np.sqrt((noise**2).mean())


def render_clip(clip: ClipId) -> tuple[NDArray[np.int16], list[Event]]:
    """A clip's samples and its true events (start and end seconds, mid), by start."""
    rng = clip.rng(0)
    is_shifted = clip.split == "shifted"
    profile = PROFILES[clip.profile]
    level_dbfs = SHIFTED_LEVEL_DBFS if is_shifted else profile.level_dbfs
    background_rms = 10 ** (rng.uniform(-55.0, -42.0) / 20)
    mix = draw_background(rng, background_rms)
    table = [s for s in class_table(clip.profile) if s.kind != "parent"]
    prior = class_prior(clip.profile, clip.seed, clip.split)
    drawn = rng.choice(
        len(table), int(rng.integers(2, 6 if is_shifted else 5)), p=prior
    )
    sounds = [table[index] for index in drawn]
    other = Sound("", False, "note", UNLABELLED, parse_keys("48-84"), "unlabelled")
    events = []
    for sound in sounds + [other] * int(rng.poisson(0.2)):
        onset, audio, (start, end) = draw_event(
            rng,
            sound,
            level_dbfs=level_dbfs,
            floor_rms=background_rms / 2,
            is_shifted=is_shifted,
        )
        mix[onset : onset + len(audio)] += audio
        mids = [SPEECH_MID] * (sound.kind == "voice") + [sound.mid] * bool(sound.mid)
        events += [(start / SAMPLE_RATE, end / SAMPLE_RATE, mid) for mid in mids]
    mix *= min(1.0, 0.99 / np.abs(mix).max())
    return np.round(mix * 32767).astype(np.int16), sorted(events)
