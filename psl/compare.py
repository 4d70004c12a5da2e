"""The command that says whether one system is better than another, or only luckier.

Owns its words and what it prints. psl/evaluation/comparing.py does it.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from shards.system.arguments import Parser
from shards.system.exits import run_main, typed_name

if TYPE_CHECKING:
    from psl.evaluation.comparing import Comparison, Difference

METRICS = ("mAP", "AUC", "d_prime", "lwlrap", "recall_at_0.2")


def _parser() -> argparse.ArgumentParser:
    name = typed_name("psl.compare")
    parser = Parser(
        prog=name,
        description="Say whether the difference between evaluations on the same clips "
        "is more than noise: a paired bootstrap over the clips, and the spread over "
        "seeds where there are several runs of each system.",
        epilog=f"example: {name} runs/baseline/eval runs/psl_2s/eval; with three seeds "
        f"of each: {name} b0/eval,b1/eval,b2/eval s0/eval,s1/eval,s2/eval",
    )
    add = parser.add_argument
    add(
        "systems",
        metavar="SYSTEM",
        nargs="+",
        help="out folder of psl.evaluate, or several with commas between them, one for "
        "each seed; every system is compared with the first",
    )
    add("--metric", choices=METRICS, default="mAP", help="what to compare (mAP)")
    add(
        "--bootstrap",
        type=_number(2, 100_000),
        default=1000,
        metavar="N",
        help="resamples of the clips (1000)",
    )
    add("--seed", type=_number(0, 1 << 31), default=0, metavar="N", help="theirs (0)")
    add("--json", action="store_true", help="print JSON")
    return parser


def _number(least: int, most: int) -> Any:
    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(
                f"{text!r}: expected a whole number from {least} to {most}"
            )
        return value

    return parse


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of ``python -m psl.compare``."""
    args = _parser().parse_args(argv)
    systems = [[f for f in system.split(",") if f] for system in args.systems]
    if len(systems) < 2 or not all(systems):
        raise ValueError(
            f"{', '.join(args.systems) or 'nothing'}: expected two systems or more, "
            "with a blank between them and commas between the runs of one"
        )
    for system in systems:
        if len({os.path.realpath(folder) for folder in system}) < len(system):
            raise ValueError(f"{','.join(system)}: names a run twice")
    from psl.evaluation.comparing import compare  # loads torch

    found = compare(
        systems, metric=args.metric, num_resamples=args.bootstrap, seed=args.seed
    )
    print(json.dumps(_as_json(found), allow_nan=False) if args.json else _text(found))


def _as_json(found: Comparison) -> dict[str, Any]:
    return {
        "version": 1,
        "metric": found.metric,
        "num_clips": found.num_clips,
        "num_classes_with_positives": found.num_classes,
        "bootstrap": {"resamples": found.num_resamples, "seed": found.seed},
        "systems": [
            {
                "runs": list(system.folders),
                "values": system.values.tolist(),
                "mean": system.mean,
                "interval_over_clips": system.interval(found.metric),
            }
            for system in found.systems
        ],
        "differences_from_the_first": [
            {
                "difference": d.value,
                "interval": [d.low, d.high],
                "clip_standard_error": d.clip_error,
                "seed_standard_error": d.seed_error,
                "more_than_noise": d.is_more_than_noise,
            }
            for d in found.differences()
        ],
    }


def _text(found: Comparison) -> str:
    lines = [
        f"{_title(found.metric)}, {found.num_clips} clips, {found.num_classes} "
        f"classes, 95 % intervals by {found.num_resamples} resamples of the clips"
    ]
    for letter, system in zip(_letters(found), found.systems, strict=True):
        span = system.interval(found.metric)
        shown = "no interval" if span is None else _span(found.metric, *span)
        value = _shown(found.metric, system.mean)
        runs = (
            f"mean of {len(system.folders)} runs: " if len(system.folders) > 1 else ""
        )
        lines.append(f"{letter}  {value}  {shown}  {runs}{', '.join(system.folders)}")
    for letter, d in zip(_letters(found)[1:], found.differences(), strict=True):
        lines += _about(found, letter, d)
    return "\n".join(lines)


def _about(found: Comparison, letter: str, d: Difference) -> list[str]:
    """What to make of a difference."""
    verdict = "more than" if d.is_more_than_noise else "no more than"
    noise = "the noise of clips" + ("" if d.seed_error is None else " and seeds")
    value = _shown(found.metric, d.value, sign=True)
    lines = [
        f"{letter} - A  {value}  {_span(found.metric, d.low, d.high, sign=True)}: "
        f"{verdict} {noise}"
    ]
    clips = f"   standard error by clips {_shown(found.metric, d.clip_error)}"
    if d.seed_error is None:
        return [
            *lines,
            f"{clips}; by seeds unknown: another seed may change the order. Compare "
            "two runs or more of each system",
        ]
    return [*lines, f"{clips}, by seeds {_shown(found.metric, d.seed_error)}"]


def _letters(found: Comparison) -> list[str]:
    return [chr(ord("A") + i) if i < 26 else f"A{i}" for i in range(len(found.systems))]


def _title(metric: str) -> str:
    return metric if metric == "d_prime" else f"{metric} in %"


def _shown(metric: str, value: float, *, sign: bool = False) -> str:
    scale = 1.0 if metric == "d_prime" else 100.0
    digits = 3 if metric == "d_prime" else 2
    return f"{scale * value:{'+' if sign else ''}.{digits}f}"


def _span(metric: str, low: float, high: float, *, sign: bool = False) -> str:
    ends = (_shown(metric, end, sign=sign) for end in (low, high))
    return f"[{', '.join(ends)}]"


if __name__ == "__main__":
    run_main(main)
