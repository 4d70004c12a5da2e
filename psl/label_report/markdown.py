"""The summary of a label report, in Markdown.

Owns the words, but for calibrated labels (markdown_calibrated.py). Every number comes
from the report, and none is computed here but differences.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from psl.label_report.cells import MAX_PATH, MAX_SHOWN, number, percent
from psl.label_report.markdown_calibrated import describe_calibrated
from shards.system.text import markdown

AP_ROWS = {
    "chance": "chance",
    "weak": "weak labels, copied to every chunk",
    "pseudo": "**pseudo labels**",
    "both": "mean of the two (alpha = 0.5)",
    "complete": "weak labels if none were missing",
}
IN_TIME = (
    ("psds1", "PSDS1"),
    ("psds2", "PSDS2"),
    ("segment_mAP", "1-s segment mAP"),
    ("segment_f1_macro", "1-s segment F1, {}"),
    ("event_f1_macro", "event F1, {}"),
)


def render(report: dict[str, Any]) -> str:
    """The whole summary."""
    parts = [_head(report), _distribution(report)]
    if report["strong"] is None:
        parts.append("No `--strong` CSV: nothing was measured against true events.")
    else:
        parts += [
            _events(report),
            _chunk_ap(report),
            _recovery(report),
            _localisation(report),
            _in_time(report),
            _calibration(report),
            _gains(report),
        ]
    parts += [describe_calibrated(report), _reviewed(report)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _reviewed(report: dict[str, Any]) -> str:
    if (found := report.get("reviewed")) is None:
        return ""
    return (
        f"## What people said\n\n{found['decisions']} decisions in "
        f"{markdown(found['file'], MAX_PATH)} say of {found['judged']} classes of "
        f"chunks whether they are there ({found['present']} are). The labels agree on "
        f"{percent(found['labels_agree'])} % of these at the threshold, weak labels on "
        f"{percent(found['weak_labels_agree'])} %; mean square error of the labels "
        f"{number(found['mean_square_error'])}. People looked where labels are "
        "doubtful: this says little of the rest."
    )


def _head(report: dict[str, Any]) -> str:
    every = ""
    if report["hop_seconds"] != report["chunk_seconds"]:
        every = f" every {report['hop_seconds']:g} s"
    text = (
        f"# Labels of {markdown(report['labels'], MAX_PATH)}\n\n"
        f"{report['num_clips']:,} clips, "
        f"{report['num_chunks']:,} chunks of {report['chunk_seconds']:g} s{every}, "
        f"{report['num_classes']} classes. Threshold {report['threshold']:g}."
    )
    heard = report["provenance"][0].get("context_seconds")
    if isinstance(heard, int | float):
        text += f" The teacher heard {heard:g} s around each chunk."
    if unlabelled := report["num_clips_without_labels"]:
        text += f" {unlabelled:,} clips have no labels and are left out."
    return text


def _distribution(report: dict[str, Any]) -> str:
    spread, weak = report["distribution"], report["weak_agreement"]
    above = ", ".join(
        f"{number(mean, 2)} above {level} ({percent(bare)} % of chunks have none)"
        for (level, mean), bare in zip(
            spread["labels_per_chunk"].items(),
            spread["chunks_without_label"].values(),
            strict=True,
        )
    )
    quantiles = ", ".join(f"{q}: {number(v)}" for q, v in spread["quantiles"].items())
    lines = [
        "## The labels themselves",
        "",
        f"- labels per chunk: {above}",
        f"- mean {number(spread['mean'], 4)}; quantiles {quantiles}",
        f"- entropy {number(spread['entropy_bits_per_label'])} bits a label, "
        f"{number(spread['entropy_bits_per_chunk'], 2)} bits a chunk",
    ]
    if weak is None:
        return "\n".join([*lines, "- no clip has a weak label to compare with"])
    ap = weak["mean_ap"]
    lines.append(
        "- agreement with weak labels, AP of clips in % (mean of "
        f"{weak['num_classes']} classes): {percent(ap['max'])} by the highest chunk, "
        f"{percent(ap['mean'])} by the mean of chunks, "
        f"chance {percent(weak['mean_ap_by_chance'])}"
    )
    lines.append(
        f"- mean label of weakly labelled classes "
        f"{number(weak['mean_label_of_weakly_labelled'])}, of others "
        f"{number(weak['mean_label_of_others'])}"
    )
    return "\n".join(lines)


def _events(report: dict[str, Any]) -> str:
    events = report["events"]
    text = (
        f"## Against true events\n\n{events['used']:,} events of {events['classes']} "
        f"classes in {events['clips']:,} clips. An event counts for a chunk if "
        f"{events['min_overlap_seconds']:g} s or half of it lie there."
    )
    left_out = {
        "clips_not_in_csv": "clips are not in the CSV and stay out of what follows",
        "cut_at_clip_end": "events were cut at the end of their clip",
        "left_out_nothing_in_clip": "events have nothing in their clip: left out",
        "left_out_unknown_mid": "events have mids that no class has: left out",
        "of_other_segments": "events are of other segments",
    }
    lines = [f"- {events[k]:,} {what}" for k, what in left_out.items() if events[k]]
    if rest := report["num_classes"] - events["classes"]:
        lines.append(f"- {rest} classes have no event and stay out of what follows")
    mids = events["unknown_mids"]
    if mids:
        some = ", ".join(
            f"{markdown(mid)} ({n})" for mid, n in list(mids.items())[:MAX_SHOWN]
        )
        more = ", ..." if len(mids) > MAX_SHOWN else ""
        lines.append(f"- {len(mids)} unknown mids: {some}{more}")
    return "\n".join([text, *([""] if lines else []), *lines])


def _chunk_ap(report: dict[str, Any]) -> str:
    ap = report["chunk_ap"]
    rows = [f"| {title} | {percent(ap[name])} |" for name, title in AP_ROWS.items()]
    head = f"| AP of chunks, mean of {ap['num_classes']} classes | % |"
    return "\n".join([head, "|---|---|", *rows])


def _recovery(report: dict[str, Any]) -> str:
    found = report["recovery"]
    if not found["missing"]:
        return (
            "## Missing weak labels\n\n"
            f"None of {found['true_pairs']:,} true (clip, class) pairs lacks its weak "
            f"label; {found['weak_without_event']:,} weak labels have no event."
        )
    point = found["at_threshold"]
    best = max(found["curve"], key=lambda p: p["f1"] or 0.0)
    lines = [
        "## Missing weak labels",
        "",
        f"{found['missing']:,} of {found['true_pairs']:,} true (clip, class) pairs "
        f"have no weak label; {found['weak_without_event']:,} weak labels have no "
        "event. A missing one is recovered if the label of any chunk reaches the "
        "threshold.",
        "",
        "| threshold | recovered | recall % | precision % | F1 % |",
        "|---|---|---|---|---|",
    ]
    for name, p in ((f"{point['threshold']:g}", point), ("best F1", best)):
        title = name if p is point else f"{p['threshold']:g} ({name})"
        lines.append(
            f"| {title} | {p['recovered']:,} | {percent(p['recall'])} "
            f"| {percent(p['precision'])} | {percent(p['f1'])} |"
        )
    lines += [
        "",
        f"Precision by chance: {percent(found['precision_by_chance'])} %. AP of the "
        f"order among pairs without a weak label, mean of classes: "
        f"{percent(found['mean_ap'])} %.",
    ]
    return "\n".join(lines)


def _localisation(report: dict[str, Any]) -> str:
    where = report["localisation"]
    title = "## Where in the clip\n\n"
    if not where["clip_class_pairs"]:
        return f"{title}No weakly labelled class is in some chunks of a clip only."
    return (
        f"{title}Of {where['clip_class_pairs']:,} weakly labelled (clip, class) pairs "
        "that sound in some chunks only, a chunk with the sound has a higher label "
        f"than one without in {percent(where['present_above_absent'])} % of cases "
        "(weak labels: 50 %). "
        f"Mean label {number(where['mean_label_present'])} with, "
        f"{number(where['mean_label_absent'])} without."
    )


def _in_time(report: dict[str, Any]) -> str:
    found, title = report["in_time"], "## Events in time\n\n"
    if found is None:
        return f"{title}No clip with labels has a true event: nothing was measured."
    how = f"at {report['threshold']:g}"
    if found["rules"] is not None:
        how = f"by {markdown(found['rules'], MAX_PATH)}"
    drawn = ""
    if found["num_clips"] < found["num_candidates"]:
        drawn = f", evenly drawn from {found['num_candidates']:,}"
    rows = [f"| {name.format(how)} | {percent(found[key])} |" for key, name in IN_TIME]
    head = (
        f"{title}Each chunk is a frame, measured as `psl events` measures a model: "
        f"{found['num_clips']:,} clips{drawn}, {found['num_events']:,} events (those "
        f"that touch are one), mean of {found['num_classes']} classes."
    )
    return "\n".join([head, "", "| | % |", "|---|---|", *rows])


def _calibration(report: dict[str, Any]) -> str:
    error = report["calibration"]
    return (
        f"## Calibration\n\nMean label {number(error['mean_label'], 4)}, share true "
        f"{number(error['share_true'], 4)}. Expected calibration error "
        f"{number(error['expected_error'], 4)}; of labels above "
        f"{error['bins'][0]['to']:g} {number(error['expected_error_above_first_bin'])}."
    )


def _gains(report: dict[str, Any]) -> str:
    rows = [row for row in report["per_class"] if row["chunk_ap_pseudo"] is not None]
    rows.sort(key=lambda row: row["chunk_ap_weak"] - row["chunk_ap_pseudo"])
    shown = rows
    if len(rows) > 2 * MAX_SHOWN:
        shown = rows[:MAX_SHOWN] + rows[-MAX_SHOWN:]
    lines = [
        "## Classes\n\nMost and least gained in AP of chunks, %:",
        "",
        "| class | weak | pseudo | missing weak labels | recovered |",
        "|---|---|---|---|---|",
        *_class_rows(shown),
    ]
    return "\n".join(lines)


def _class_rows(rows: list[dict[str, Any]]) -> Iterator[str]:
    for row in rows:
        yield (
            f"| {markdown(row['name'])} | {percent(row['chunk_ap_weak'])} "
            f"| {percent(row['chunk_ap_pseudo'])} | {row['missing_weak_labels']} "
            f"| {row['recovered']} |"
        )
