"""What an evaluation found, for people.

Owns the words; results.py has the form that programs read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

PERCENT = {
    "mAP": "mAP",
    "AUC": "AUC",
    "lwlrap": "lwlrap",
    "recall_at_0.2": "recall at 0.2",
}
"""Metrics in [0, 1], and what they are called."""


def described(summary: Mapping[str, Any]) -> str:
    """Lines about a metrics.json of psl.evaluate: values in percent, and d'."""
    number = summary["num_classes_with_positives"]
    about = f"{summary['num_clips']} clips, {number} classes with positives"
    lines = [f"{about}, against {summary['labels']}", *_metrics(summary)]
    lines.append(f"  sha256 of these clips: {summary['sha256_of_clips']}")
    if (coverage := summary.get("coverage")) is not None:
        present, listed = coverage["present"], coverage["listed"]
        share = f"{100 * coverage['share']:.1f} %"
        lines.append(f"  {present} of {listed} official segments are here ({share})")
        lines.append(f"  sha256 of those: {coverage['sha256_of_present']}")
        if coverage["unlisted"]:
            lines.append(f"  {coverage['unlisted']} clips are in no line of that list")
    for name, found in summary.items():
        if isinstance(found, Mapping) and "clips_elsewhere" in found:
            lines += [f"against {name} labels ({found['labels']})", *_metrics(found)]
    if (segments := summary.get("segments")) is not None:
        inside = segments["mAP_in_positive_clips"]
        chance = _percent(segments["chance_in_positive_clips"]).strip()
        reasons = segments.get("undefined", {})
        about = reasons.get("mAP_in_positive_clips", f"(a guess: {chance})")
        lines += [
            f"segments of {segments['segment_seconds']:g} s, against true events",
            f"  {'mAP':14} {_percent(segments['mAP'])}",
            f"  {'in its clips':14} {_percent(inside)}  {about}",
        ]
    return "\n".join(lines)


def _metrics(found: Mapping[str, Any]) -> Iterator[str]:
    """A line for each metric, with its interval or the reason why there is none."""
    intervals, reasons = found.get("intervals", {}), found.get("undefined", {})
    for name, title in (*PERCENT.items(), ("d_prime", "d'")):
        shown = _percent if name in PERCENT else _number
        value, bounds = found[name], intervals.get(name)
        line = f"  {title:14} {shown(value)}"
        if name in reasons:
            line += f"  {reasons[name]}"
        elif bounds is not None:
            line += f"  ({shown(bounds[0]).strip()} to {shown(bounds[1]).strip()})"
        yield line
    if "bootstrap" in found:
        share = f"{100 * found['bootstrap']['confidence']:.0f} %"
        yield f"  in brackets: {share} intervals over clips"


EVENTS = {
    "psds1": "PSDS1",
    "psds2": "PSDS2",
    "event_f1_macro": "event F1",
    "segment_f1_macro": "segment F1",
    "segment_mAP": "1-s mAP",
}
"""Metrics of psl.events in [0, 1], and what they are called."""


def described_events(summary: Mapping[str, Any]) -> str:
    """Lines about a metrics.json of psl.events: values in percent."""
    found = f"{summary['num_clips']} clips, {summary['num_found']} events found"
    if "psds1" not in summary:
        return f"{found}; name the true ones with strong= to measure"
    true = f"{summary['num_events']} true events of {summary['num_classes']} classes"
    lines = [f"  {EVENTS[name]:14} {_percent(summary[name])}" for name in EVENTS]
    return "\n".join([f"{found}, {true}", *lines])


def _percent(value: float | None) -> str:
    return "     -" if value is None else f"{100 * value:6.2f}"


def _number(value: float | None) -> str:
    return "     -" if value is None else f"{value:6.3f}"
