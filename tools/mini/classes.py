"""Owns what the miniature AudioSet is made of: classes, voices, words, profiles, seeds.

Does not own how anything sounds (mini_sounds) or the files (mini_audioset).
"""

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SPLITS = ("full", "balanced", "dev", "eval", "shifted")
SOURCES = ("pretty_midi", "espeakng_loader", "tinysoundfont")
INSTALL = (
    "pip install pretty_midi==0.2.11.post0 espeakng-loader==0.2.4 "
    "&& pip install --no-deps tinysoundfont==0.3.7"
)
# Index and mid from AudioSet's class_labels_indices.csv; * = in the quick profile; then
# kind, General MIDI programs or drum kits (from 0) or voice variants, keys, name. The
# font's bird, telephone and shot end by themselves ("effect", repeated); its applause,
# waves and helicopter go on ("texture", held).
CLASS_TABLE = """
0 /m/09x0r * parent - - Speech
1 /m/05zppz * voice m1,m2,m3,m4,m5,m7,Andy,Lee,Mike,Alex - Male speech, man speaking
2 /m/02zsn * voice f1,f2,f3,f4,f5,Annie,Alicia,belinda,linda,steph - \
Female speech, woman speaking
28 /m/0l14jd - note 52,53 48-79 Choir
63 /m/0l15bq * drum 0,8,16,24,32,40 39 Clapping
67 /m/028ght * texture 126 50-71 Applause
92 /m/0239kh - drum 0,8,16,24,32,40 56 Cowbell
112 /m/020bb7 * effect 123 50-71 Bird vocalization, bird call, bird song
141 /m/02sgy * note 26,27,29,30 40-79 Electric guitar
142 /m/018vs * note 33,34,35,36 26-50 Bass guitar
143 /m/042v_gx * note 24,25 40-79 Acoustic guitar
147 /m/018j2 - note 105 48-82 Banjo
148 /m/0jtg0 - note 104 45-76 Sitar
153 /m/05r5c * note 0,1,2 36-88 Piano
155 /m/013y1f * note 19,20 40-79 Organ
160 /m/03q5t - note 6 40-84 Harpsichord
165 /m/06rvn * drum 0,8,16,24,32,40 38,40 Snare drum
168 /m/0bm02 - drum 0,8,16,24,32,40 35,36 Bass drum
171 /m/01qbl - drum 0,8,16,24,32,40 49,51,52,55,57,59 Cymbal
172 /m/03qtq * drum 0,8,16,24,32,40 42,44,46 Hi-hat
180 /m/0dwsp - note 12,13 50-90 Marimba, xylophone
181 /m/0dwtp * note 9 72-100 Glockenspiel
183 /m/0l156b - note 114 55-84 Steelpan
187 /m/07gql - note 56,59 54-82 Trumpet
191 /m/07y_7 * note 40,110 55-91 Violin, fiddle
196 /m/0l14j_ * note 72,73 60-96 Flute
197 /m/06ncr - note 64,65,66,67 44-80 Saxophone
208 /m/03qjg - note 22 55-88 Harmonica
209 /m/0mkg - note 21,23 48-84 Accordion
210 /m/0192l * note 109 54-80 Bagpipes
295 /m/034srq * texture 122 50-71 Waves, surf
339 /m/09ct_ * texture 125 50-71 Helicopter
390 /m/07pp8cl * effect 124 50-71 Telephone bell ringing
427 /m/032s66 * effect 127 50-71 Gunshot, gunfire
"""
UNLABELLED = tuple("8 10 62 68 70 74 75 79 88 89 92 94 95 98 108 111 112 116".split())
HELD_OUT_VOICES = {
    "/m/05zppz": ("m6", "m8", "paul", "victor", "travis", "max"),
    "/m/02zsn": ("shelby", "aunty", "anika", "steph3", "Andrea"),
}
ENGLISH = "water house small people morning seven never road green think window summer"
WORDS = {
    "en": ENGLISH,
    "en-us": ENGLISH,
    "en-gb-scotland": ENGLISH,
    "de": "Wasser Haus klein Leute Morgen sieben niemals Weg grün denken Fenster Tag",
    "fr": "eau maison petit gens matin sept jamais route vert penser fenêtre soleil",
    "es": "agua casa pequeño gente mañana siete nunca camino verde pensar ventana sol",
    "it": "acqua casa piccolo gente mattina sette mai strada verde pensare finestra",
    "pl": "woda dom mały ludzie rano siedem nigdy droga zielony myśleć okno słońce",
    "nl": "water huis klein mensen morgen zeven nooit weg groen denken venster zomer",
    "sv": "vatten hus liten folk morgon sju aldrig väg grön tänka fönster sommar",
}
Audio = NDArray[np.float64]


@dataclass(frozen=True)
class Profile:
    """A named size of the data set."""

    letter: str
    sizes: dict[str, int]
    quick_classes_only: bool
    level_dbfs: tuple[float, float]
    """Range of an event's level: the RMS of its loudest 0.2 s."""


@dataclass(frozen=True)
class Sound:
    """One row of CLASS_TABLE: what may sound under a class label."""

    mid: str
    in_quick: bool
    kind: str
    sources: tuple[str, ...]
    """Program numbers, drum kit numbers or voice variants."""
    keys: tuple[int, ...]
    name: str


@dataclass(frozen=True)
class ClipId:
    """Everything that a clip is a function of."""

    profile: str
    seed: int
    split: str
    number: int

    def __str__(self) -> str:
        return f"mini-{PROFILES[self.profile].letter}-{self.split}-{self.number:05d}"

    def rng(self, stream: int) -> np.random.Generator:
        """Streams: 0 renders, 1 drops labels."""
        where = (list(PROFILES).index(self.profile), SPLITS.index(self.split))
        return np.random.default_rng([self.seed, *where, self.number, stream])


PROFILES = {
    "quick": Profile(
        "q", dict(full=1500, balanced=300, dev=100, eval=300), True, (-28.0, -14.0)
    ),
    "table": Profile(
        "t",
        dict(full=2400, balanced=400, dev=200, eval=400, shifted=400),
        False,
        (-30.0, -14.0),
    ),
}
SHIFTED_LEVEL_DBFS = (-36.0, -18.0)


def parse_keys(text: str) -> tuple[int, ...]:
    """'36-88' is a range with both ends; '42,44' is a list; '-' is none."""
    if text == "-":
        return ()
    if "-" in text:
        low, high = map(int, text.split("-"))
        return tuple(range(low, high + 1))
    return tuple(map(int, text.split(",")))


@functools.cache
def class_table(profile: str) -> tuple[Sound, ...]:
    """The classes of a profile in AudioSet's index order, with the parent Speech."""
    sounds = []
    for row in CLASS_TABLE.strip().splitlines():
        _, mid, quick, kind, sources, keys, name = row.split(maxsplit=6)
        sound = Sound(
            mid, quick == "*", kind, tuple(sources.split(",")), parse_keys(keys), name
        )
        if sound.in_quick or not PROFILES[profile].quick_classes_only:
            sounds.append(sound)
    return tuple(sounds)


@functools.cache
def class_prior(profile: str, seed: int, split: str) -> Audio:
    """Uniform, but Zipf with exponent 0.3 over a shuffled class order on full."""
    num_classes = len(class_table(profile)) - 1
    shuffle = np.random.default_rng([seed, list(PROFILES).index(profile)])
    ranks = 1.0 + shuffle.permutation(num_classes)
    prior = ranks ** (-0.3 if split == "full" else 0.0)
    return prior / prior.sum()
