r"""Builds a miniature AudioSet of real sound: 10-s scenes mixed from recordings.

    python -m tools.mini.real --recordings ESC-50 --out data/mini-real

Owns the command and the folder it makes; recordings.py knows the folders it takes,
scenes.py mixes, and real_files.py has the forms of the files: AudioSet's, for python -m
shards.pack. Every scene is a pure function of (recordings, seed, split, number), to the
bit with the same package versions on the same kind of machine. A kill leaves no folder
under the final name; the same command again starts from the beginning.
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from shards.audio.decode import load_clip, load_segment
from shards.errors import ShardError
from shards.format.classes import Classes
from shards.system.exits import run_main
from shards.system.files import file_sha256, folder_atomic, sha256_of, write_synced
from tools.mini.real_files import (
    VERSION,
    draw_forgotten,
    segments_csv,
    strong_csv,
    weak_labels,
)
from tools.mini.recordings import (
    SPLITS,
    Collection,
    Recording,
    read_collection,
    split_recordings,
)
from tools.mini.scenes import SAMPLE_RATE, Scene, Sound, find_spans, mix_scene
from tools.mini.wav import as_wav

NUM_SCENES = {"train": 900, "dev": 200, "eval": 300}
BEDS = {
    "/m/06mb1": "Rain",
    "/m/034srq": "Waves, surf",
    "/m/03m9d0z": "Wind",
    "/m/0j2kx": "Waterfall",
    "/m/0838f": "Water",
    "/m/0btp2": "Traffic noise, roadway noise",
}
"""Classes of AudioSet that may lie under a scene, if there are recordings of them."""


def load_sound(recording: Recording) -> Sound:
    """A recording at SAMPLE_RATE; ShardError if it cannot be decoded or is silent."""
    if recording.span is None:
        pcm = load_clip(recording.path, sample_rate=SAMPLE_RATE)
    else:
        start, end = recording.span
        pcm = load_segment(
            recording.path,
            start_seconds=start,
            end_seconds=end,
            sample_rate=SAMPLE_RATE,
            is_recording=True,
        )
    samples = pcm / 32768.0
    spans = find_spans(samples)
    if not spans:
        loudest = float(np.abs(samples).max(initial=0.0))
        raise ShardError(
            f"{recording.path}: nothing to hear: {len(samples) / SAMPLE_RATE:.2f} s "
            f"with a peak of {loudest:.4f}, expected 0.1 s of sound or more; remove it "
            "from the list, or allow some with --max-rejected"
        )
    return Sound(recording.name, recording.mids, samples, spans)


def load_sounds(
    parts: dict[str, list[Recording]], max_rejected: float
) -> tuple[dict[str, list[Sound]], list[str]]:
    """Usable recordings by split, and why the others are not.

    Raises the first ShardError when they are more than ``max_rejected`` of all.
    """
    sounds: dict[str, list[Sound]] = {split: [] for split in parts}
    errors: list[ShardError] = []
    total = sum(map(len, parts.values()))
    for split, recordings in parts.items():
        for recording in tqdm(recordings, desc=f"read {split}", unit="recording"):
            try:
                sounds[split].append(load_sound(recording))
            except ShardError as error:
                errors.append(error)
                if len(errors) > max_rejected * total:
                    raise
    return sounds, [str(error) for error in errors]


def by_class(
    split: str, sounds: Sequence[Sound], names: dict[str, str]
) -> dict[str, list[Sound]]:
    """Recordings by first mid, in the order of the class list.

    Raises ShardError for a class that has none.
    """
    found: dict[str, list[Sound]] = {mid: [] for mid in names}
    for sound in sounds:
        found[sound.mids[0]].append(sound)
    heard = {mid for sound in sounds for mid in sound.mids}
    for mid, name in names.items():
        if mid not in heard:
            raise ShardError(
                f"class {name!r} ({mid}): no usable recording is left for {split}; "
                "expected one or more; add recordings, or leave the class out with "
                "--class-labels"
            )
    return {mid: found[mid] for mid in found if found[mid]}


def describe(
    collection: Collection, parts: dict[str, list[Recording]], options: dict[str, Any]
) -> dict[str, Any]:
    """What real.json says: everything that the files are a function of.

    Raises ShardError if two splits have a file with the same content.
    """
    listed: list[list[str]] = []
    seen: dict[tuple[str, object], tuple[str, Path]] = {}
    for split in SPLITS:
        for r in parts[split]:
            content = file_sha256(r.path)
            listed.append([split, r.name, *r.mids, str(r.span), content])
            other, path = seen.setdefault((content, r.span), (split, r.path))
            if other != split:
                raise ShardError(
                    f"{r.path} ({split}) is the same recording as {path} ({other}); "
                    "remove one of them"
                )
    return {
        "version": VERSION,
        **options,
        "classes": list(collection.names),
        "recordings": {split: [r.name for r in parts[split]] for split in SPLITS},
        "recordings_sha256": sha256_of(json.dumps(listed).encode()),
        "packages": {
            name: importlib.metadata.version(name)
            for name in ("numpy", "soxr", "soundfile")
        },
    }


def is_built(out: Path, description: dict[str, Any]) -> bool:
    """Whether ``out`` holds this set; ValueError if it holds something else."""
    made = out / "real.json"
    if not made.exists():
        if out.exists() and any(out.iterdir()):
            raise ValueError(
                f"{out}: not empty, and no real.json in it; choose another"
            )
        return False
    present = json.loads(made.read_text(encoding="utf-8"))
    for key, expected in description.items():
        if present.get(key) != expected:
            raise ValueError(
                f"{made}: {key} is {_shown(present.get(key))}, expected "
                f"{_shown(expected)}; choose another --out or remove it"
            )
    return True


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 70 else f"{text[:66]} ..."


def mix_split(
    split: str, sounds: dict[str, list[Sound]], folder: Path, options: dict[str, Any]
) -> dict[str, Scene]:
    """Mix the scenes of a split and write their audio; the scenes without it."""
    beds = [mid for mid in BEDS if mid in sounds]
    scenes = {}
    for number in tqdm(range(options["num_scenes"][split]), desc=split, unit="scene"):
        place = [options["seed"], SPLITS.index(split), number]
        scene = mix_scene(np.random.default_rng(place), sounds, beds)
        clip = f"real-{split}-{number:05d}"
        write_synced(folder / f"{clip}.wav", as_wav(scene.samples, SAMPLE_RATE))
        scenes[clip] = Scene(scene.samples[:0], scene.events, scene.sources)
    return scenes


def build(
    out: Path,
    collection: Collection,
    sounds: dict[str, list[Sound]],
    description: dict[str, Any],
) -> str:
    """Make the folder ``out``, whole or not at all; what is in it, in a line."""
    names = collection.names
    split_sounds = {split: by_class(split, sounds[split], names) for split in SPLITS}
    mids = {s.name: s.mids for split in SPLITS for s in sounds[split]}
    forgotten = draw_forgotten(sounds["train"], description["seed"])
    out.parent.mkdir(parents=True, exist_ok=True)
    with folder_atomic(out) as folder:
        (folder / "audio").mkdir()
        scenes = {
            split: mix_split(split, split_sounds[split], folder / "audio", description)
            for split in SPLITS
        }
        weak = functools.partial(weak_labels, mids=mids)
        rows = {
            f"{split}_segments.csv": {
                clip: weak(scene, forgotten=forgotten if split == "train" else set())
                for clip, scene in scenes[split].items()
            }
            for split in SPLITS
        }
        complete = {c: weak(s, forgotten=set()) for c, s in scenes["train"].items()}
        rows["train_complete_segments.csv"] = complete
        for name, table in rows.items():
            write_synced(folder / name, segments_csv(table))
        everything = {c: s for split in SPLITS for c, s in scenes[split].items()}
        write_synced(folder / "strong.csv", strong_csv(everything))
        classes = Classes(tuple(names), tuple(names.values()))
        write_synced(folder / "class_labels_indices.csv", classes.to_csv())
        write_synced(folder / "real.json", json.dumps(description, indent=1) + "\n")
    return _summary(rows, sounds)


def _summary(
    rows: dict[str, dict[str, list[str]]], sounds: dict[str, list[Sound]]
) -> str:
    counts = Counter({name: sum(map(len, rows[name].values())) for name in rows})
    whole = counts["train_complete_segments.csv"]
    parts = ", ".join(
        f"{split} {len(rows[f'{split}_segments.csv'])} scenes of {len(sounds[split])} "
        "recordings"
        for split in SPLITS
    )
    missing = 1 - counts["train_segments.csv"] / whole
    per_scene = whole / len(rows["train_segments.csv"])
    return (
        f"{parts}; {per_scene:.2f} classes a scene, of which train_segments.csv lacks "
        f"{100 * missing:.0f} %"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.mini.real",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--recordings",
        type=Path,
        required=True,
        metavar="DIR",
        help="ESC-50, FSD50K, or any folder with class_labels_indices.csv, "
        "*_segments.csv and audio, one sound in each recording",
    )
    add("--out", type=Path, required=True, metavar="DIR")
    add(
        "--class-labels",
        type=Path,
        metavar="CSV",
        help="use only recordings of these classes, such as a teacher's "
        "(default: all in the folder)",
    )
    add("--seed", type=int, default=0, help="default 0")
    add(
        "--scale",
        type=float,
        default=1.0,
        help="multiplies every split's number of scenes "
        f"({', '.join(f'{n} {s}' for s, n in NUM_SCENES.items())})",
    )
    add(
        "--max-rejected",
        type=float,
        default=0.0,
        metavar="F",
        help="fraction of recordings that may be unreadable or silent (default 0)",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    args = _parser().parse_args(argv)
    if args.seed < 0 or not 0 < args.scale <= 1000 or not 0 <= args.max_rejected <= 1:
        raise ValueError(
            f"--seed {args.seed} --scale {args.scale} --max-rejected "
            f"{args.max_rejected}: expected a seed of 0 or more, a scale above 0 and "
            "up to 1000, a fraction from 0 to 1"
        )
    collection = read_collection(args.recordings, args.class_labels)
    parts = split_recordings(collection.recordings, collection.names, args.seed)
    options = {
        "seed": args.seed,
        "num_scenes": {s: max(round(args.scale * n), 4) for s, n in NUM_SCENES.items()},
    }
    description = describe(collection, parts, options)
    if is_built(args.out, description):
        print(f"{args.out}: already built")
        return
    sounds, rejected = load_sounds(parts, args.max_rejected)
    summary = build(args.out, collection, sounds, description)
    print(f"{args.out}: {summary}")
    if collection.num_other:
        print(f"left out {collection.num_other} recordings of other classes")
    for reason in rejected:
        print(f"rejected {reason}")


if __name__ == "__main__":
    run_main(main)
