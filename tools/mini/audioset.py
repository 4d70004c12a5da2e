"""Builds the miniature AudioSet: rendered 10 s clips with true and incomplete labels.

Owns the files and the dropping of labels; mini_classes owns the classes
and mini_sounds the audio. Reading is not here: the output is in AudioSet's formats.
Every clip is a pure function of (seed, profile, split, number), to the bit with the
same package versions on the same machine. A kill leaves only whole files under final
names; the same command again renders everything again and completes them.
"""

import argparse
import functools
import importlib.metadata
import importlib.util
import json
import multiprocessing
import os
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from tqdm import tqdm

from tools.mini.classes import INSTALL, PROFILES, SOURCES, ClipId, class_table
from tools.mini.sounds import SAMPLE_RATE, Event, render_clip
from tools.mini.wav import as_wav

VERSION = "1"
INCOMPLETE_SPLITS = ("full", "balanced")
LABEL_DROP_PROB = 0.4


def weak_labels(clip: ClipId, events: list[Event]) -> list[str]:
    """The clip's mids, sorted; on incomplete splits each is dropped with p = 0.4."""
    mids = sorted({mid for _, _, mid in events})
    if clip.split not in INCOMPLETE_SPLITS:
        return mids
    rng = clip.rng(1)
    kept = rng.random(len(mids)) >= LABEL_DROP_PROB
    kept[rng.integers(len(mids))] |= not kept.any()
    return [mid for mid, is_kept in zip(mids, kept, strict=True) if is_kept]


def write_whole(path: Path, content: bytes) -> None:
    """The file appears under its name only when all of it is written."""
    partial = path.with_name(path.name + ".tmp")
    partial.write_bytes(content)
    os.replace(partial, path)


def build_clip(clip: ClipId, folder: Path) -> list[Event]:
    """Writes one WAV file and returns the clip's true events."""
    samples, events = render_clip(clip)
    write_whole(folder / f"{clip}.wav", as_wav(samples, SAMPLE_RATE))
    return events


def end_with_parent() -> None:
    """A worker ends when its parent is killed: a new run is alone on the files."""

    def watch() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def segments_csv(rows: dict[ClipId, list[str]]) -> bytes:
    """AudioSet's segment format: three comment lines, then id, start, end, "mids"."""
    num_labels = sum(map(len, rows.values()))
    num_unique = len({mid for mids in rows.values() for mid in mids})
    lines = [
        f"# Segments csv created by mini_audioset version {VERSION}",
        f"# num_ytids={len(rows)}, num_segs={len(rows)}, "
        f"num_unique_labels={num_unique}, num_positive_labels={num_labels}",
        "# YTID, start_seconds, end_seconds, positive_labels",
    ]
    lines += [f'{clip}, 0.000, 10.000, "{",".join(rows[clip])}"' for clip in rows]
    return "\n".join(lines + [""]).encode()


def write_tables(out: Path, profile: str, events: dict[ClipId, list[Event]]) -> float:
    """Writes every CSV file; returns the mean number of weak labels per clip."""
    lines = ["index,mid,display_name"]
    for index, sound in enumerate(class_table(profile)):
        lines.append(f'{index},{sound.mid},"{sound.name}"')
    write_whole(out / "class_labels_indices.csv", "\n".join(lines + [""]).encode())
    lines = ["segment_id\tstart_time_seconds\tend_time_seconds\tlabel"]
    for clip, clip_events in events.items():
        lines += [f"{clip}_0\t{a:.3f}\t{b:.3f}\t{mid}" for a, b, mid in clip_events]
    write_whole(out / "strong.csv", "\n".join(lines + [""]).encode())
    weak = {clip: weak_labels(clip, events[clip]) for clip in events}
    for split in PROFILES[profile].sizes:
        rows = {clip: mids for clip, mids in weak.items() if clip.split == split}
        write_whole(out / f"{split}_segments.csv", segments_csv(rows))
    return sum(map(len, weak.values())) / len(weak)


def describe(profile: str, seed: int, scale: float) -> dict[str, Any]:
    """What mini.json says: everything that the files are a function of."""
    missing = [name for name in SOURCES if importlib.util.find_spec(name) is None]
    if missing:
        raise RuntimeError(f"{', '.join(missing)} not installed: {INSTALL}")
    if seed < 0 or scale <= 0:
        raise ValueError(f"--seed {seed} must be >= 0 and --scale {scale} > 0")
    sizes = PROFILES[profile].sizes
    return {
        "profile": profile,
        "seed": seed,
        "scale": scale,
        "version": VERSION,
        "num_clips": {name: max(4, round(n * scale)) for name, n in sizes.items()},
        "packages": {
            name: importlib.metadata.version(name)
            for name in (*SOURCES, "numpy", "soxr")
        },
    }


def list_clips(description: dict[str, Any]) -> list[ClipId]:
    """Every clip of the set, split by split."""
    profile, seed = description["profile"], description["seed"]
    return [
        ClipId(profile, seed, split, number)
        for split, num_clips in description["num_clips"].items()
        for number in range(num_clips)
    ]


def is_built(out: Path, description: dict[str, Any]) -> bool:
    """Whether `out` holds exactly this set; ValueError when it holds another one."""
    expected = {f"{clip}.wav" for clip in list_clips(description)}
    found = {path.name.removesuffix(".tmp") for path in (out / "audio").glob("*")}
    if found - expected:
        raise ValueError(
            f"{out}/audio holds {min(found - expected)}, not part of this set; "
            "choose another --out or remove it"
        )
    if not (out / "mini.json").exists():
        return False
    present = json.loads((out / "mini.json").read_text())
    for key in ("profile", "seed", "scale", "version"):
        if present.get(key) != description[key]:
            raise ValueError(
                f"{out}/mini.json: {key} is {present.get(key)!r}, expected "
                f"{description[key]!r}; choose another --out or remove it"
            )
    return True


def build(out: Path, description: dict[str, Any], num_workers: int) -> None:
    """Renders all clips, then writes the tables, then mini.json."""
    (out / "audio").mkdir(parents=True, exist_ok=True)
    clips = list_clips(description)
    task = functools.partial(build_clip, folder=out / "audio")
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_workers, spawn, end_with_parent) as pool:
        results = pool.map(task, clips, chunksize=8)
        progress = tqdm(results, total=len(clips), unit="clip")
        events = dict(zip(clips, progress, strict=True))
    num_weak = write_tables(out, description["profile"], events)
    num_true = sum(len({mid for _, _, mid in e}) for e in events.values()) / len(clips)
    text = json.dumps(description, indent=2) + "\n"
    write_whole(out / "mini.json", text.encode())
    print(
        f"{out}: {len(clips)} clips, {num_true:.2f} true and {num_weak:.2f} weak labels"
    )


def main() -> None:
    """The command line; exits with one line that says what to do when it cannot."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.mini.audioset",
        description="Build the miniature AudioSet.",
        epilog="example: python -m tools.mini.audioset --out data/mini --profile quick",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--profile",
        choices=list(PROFILES),
        default="quick",
        help="quick: 21 classes, 2200 clips; table: 34 classes, 3800 clips",
    )
    parser.add_argument("--seed", type=int, default=0, help="default 0")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="default: all cores"
    )
    parser.add_argument(
        "--scale", type=float, default=1.0, help="multiplies every split's size"
    )
    args = parser.parse_args()
    try:
        description = describe(args.profile, args.seed, args.scale)
        if is_built(args.out, description):
            print(f"{args.out}: already built")
            return
        build(args.out, description, args.workers)
    except (ValueError, RuntimeError) as error:
        sys.exit(f"mini_audioset: {error}")


if __name__ == "__main__":
    main()
