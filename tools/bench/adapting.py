"""How many examples own classes need: heads on embeddings, or training from scratch.

Class folders ``SOUNDS/train`` and ``SOUNDS/eval`` have the same classes; of the first,
some examples of each class are drawn, by three seeds. Prints a table of test mAP:

    python -m tools.bench.adapting esc10 --model mn04 --model runs/student --out DIR
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from psl.adapting.embedded import Embedded, embed_sounds
from psl.adapting.heads import Head, Windows, cross_validate, fit, folds_of
from psl.adapting.sounds import Example, Sounds, collect
from psl.evaluation.metrics import evaluate_scores
from psl.models.embedding import last_layer
from psl.teachers.named import checkpoint_of
from psl.weights.checkpoint import Checkpoint, load_checkpoint
from shards.system.exits import run_main

SECONDS = 2.0
SCRATCH = (
    "model.width=0.5",
    "global_batch_size=16",
    "patience=null",
    "data.valid=train",
    f"data.chunk_seconds={SECONDS:g}",
    "loader.threads=1",
)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sounds", type=Path)
    parser.add_argument("--model", action="append", default=[])
    parser.add_argument("--examples", type=int, nargs="+", default=[5, 10, 24])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--finetune", action="store_true", help="also all layers")
    parser.add_argument("--scratch-steps", type=int, default=0, help="0: leave it out")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    sounds = {part: collect(folders=args.sounds / part) for part in ("train", "eval")}
    print(f"| Model | {' | '.join(f'{n} a class' for n in args.examples)} |")
    print(f"|---|{'---|' * len(args.examples)}", flush=True)
    for model in args.model:
        checkpoint = load_checkpoint(checkpoint_of(model))
        made = {part: _windows(checkpoint, found) for part, found in sounds.items()}
        results = [
            [_adapted(made, sounds["train"], n, seed) for seed in range(args.seeds)]
            for n in args.examples
        ]
        _line(Path(model).name, results)
        if args.finetune:
            results = [
                [_finetuned(args, model, sounds, n, s) for s in range(args.seeds)]
                for n in args.examples
            ]
            _line(f"{Path(model).name}, --finetune", results)
    if args.scratch_steps:
        results = [
            [_scratch(args, sounds, n, s) for s in range(args.seeds)]
            for n in args.examples
        ]
        _line("from scratch", results)


def _line(name: str, results: list[list[float]]) -> None:
    cells = [
        f"{100 * np.mean(row):.1f} ± {100 * np.std(row, ddof=len(row) > 1):.1f}"
        for row in results
    ]
    print(f"| {name} | {' | '.join(cells)} |", flush=True)


def _windows(checkpoint: Checkpoint, sounds: Sounds) -> tuple[Windows, Embedded]:
    rate = checkpoint.model_config.front_end.sample_rate
    model = checkpoint.build_model()
    embedded = embed_sounds(model, sounds, sample_rate=rate, seconds=SECONDS)
    targets = torch.zeros(len(embedded.examples), len(sounds.names))
    for row, example in enumerate(embedded.examples):
        assert example.label is not None
        targets[row, example.label] = 1
    return Windows(embedded.embedding, embedded.example_of, targets), embedded


def _drawn(examples: Sequence[Example], number: int, seed: int) -> Iterator[Example]:
    """``number`` examples of each class; all where there are fewer."""
    for label in sorted({e.label for e in examples if e.label is not None}):
        mine = [e for e in examples if e.label == label]
        yield from random.Random(f"{seed} {label}").sample(mine, min(number, len(mine)))


def _adapted(
    made: dict[str, tuple[Windows, Embedded]], sounds: Sounds, number: int, seed: int
) -> float:
    """Test mAP of heads as psl adapt fits them."""
    windows, embedded = made["train"]
    drawn = {e.path for e in _drawn(sounds.examples, number, seed)}
    chosen = torch.tensor([e.path in drawn for e in embedded.examples])
    part = windows.take(chosen)
    renumbered = torch.cumsum(chosen, 0)[part.example_of] - 1
    part = Windows(part.embedding, renumbered, windows.targets[chosen])
    examples = [e for e in embedded.examples if e.path in drawn]
    folds = folds_of([e.label for e in examples], [e.group for e in examples])
    crossed = cross_validate(part, folds)
    assert crossed is not None
    return _measure(made["eval"][0], fit(part, crossed.penalty))


def _measure(windows: Windows, head: Head) -> float:
    scores = windows.scores(head).numpy()
    return evaluate_scores(windows.targets.numpy(), scores).mean_ap


def _scratch(
    args: argparse.Namespace, sounds: dict[str, Sounds], number: int, seed: int
) -> float:
    """Test mAP of a run of psl.train on the same examples."""
    folder = args.out / f"scratch_{number}_{seed}"
    num_drawn = _link(folder / "sounds", sounds["train"], number, seed)
    epochs = max(1, round(args.scratch_steps * 16 / (2.5 * num_drawn)))
    _run(
        "shards.pack",
        "--folders",
        folder / "sounds",
        "--out",
        folder / "data",
        "--workers",
        "1",
    )
    _run(
        "psl.train",
        f"run_dir={folder / 'run'}",
        f"data.audio=[{folder / 'data'}]",
        f"epochs={epochs}",
        f"seed={seed}",
        f"valid_every={args.scratch_steps}",
        *SCRATCH,
    )
    return _measure_run(folder / "run", sounds["eval"])


def _finetuned(
    args: argparse.Namespace,
    model: str,
    sounds: dict[str, Sounds],
    number: int,
    seed: int,
) -> float:
    """Test mAP of psl adapt --finetune on the same examples."""
    folder = args.out / f"{Path(model).name}_{number}_{seed}"
    _link(folder / "sounds", sounds["train"], number, seed)
    words = [model, "--sounds", folder / "sounds", "--out", folder / "run"]
    _run("psl.adapting", *words, "--finetune")
    return _measure_run(folder / "run", sounds["eval"])


def _link(folder: Path, sounds: Sounds, number: int, seed: int) -> int:
    """Class folders of the examples drawn; how many they are."""
    drawn = list(_drawn(sounds.examples, number, seed))
    for example in drawn:
        assert example.label is not None
        link = folder / sounds.names[example.label] / Path(example.path).name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(Path(example.path).resolve())
    return len(drawn)


def _measure_run(run: Path, sounds: Sounds) -> float:
    """Test mAP of a run, over the means of its windows."""
    checkpoint = load_checkpoint(run)
    windows, _ = _windows(checkpoint, sounds)
    name = last_layer(checkpoint.model_config)
    weights = checkpoint.weights
    return _measure(windows, Head(weights[f"{name}.weight"], weights[f"{name}.bias"]))


def _run(module: str, *words: object) -> None:
    command = [sys.executable, "-m", module, *map(str, words)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    run_main(main)
