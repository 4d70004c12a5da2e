"""What the paper reports, row by row, and which of its rows have recipes here.

Owns the published numbers. A number that could not be checked is None, never guessed.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One system of a table; its recipe is configs/TABLE/NAME.yaml."""

    title: str
    labels: int | None = None
    """Length of the chunks that the teacher labels for it, s; None for weak labels."""
    mean_ap: float | None = None
    """mAP on AudioSet's evaluation set, in percent."""
    d_prime: float | None = None
    hop: float | None = None
    """From one labelled chunk to the next, s; None for the chunks' length."""
    after: str | None = None
    """The row whose student of the same seed it starts from; None for fresh weights."""
    epoch_share: float = 1.0
    """Of the epochs of a row of table 2, where a profile sets these."""


@dataclass(frozen=True)
class Table:
    """A table of the paper."""

    title: str
    splits: tuple[str, ...]
    """What its systems are trained on."""
    bases: tuple[str, ...]
    """What its recipes are laid over, lowest first: folders of configs/."""
    note: str
    """Where the published numbers come from."""
    rows: dict[str, Row]


TEACHER = 40.53
"""mAP of the published teacher in percent, according to its checkpoint's file name."""

TABLES = {
    "table2": Table(
        title="Table 2: trained on AudioSet-balanced",
        splits=("balanced",),
        bases=("table2",),
        note="Paper: Table 2 of arXiv 2204.13430, also in the README of its code; it "
        "cites CNN14 from PANNs, EfficientNet and ResNet from PSLA, AST from AST.",
        rows={
            "baseline": Row("Weak baseline", None, 17.69, 1.994),
            "psl_10s": Row("PSL-10s", 10, 31.13, 2.454),
            "psl_5s": Row("PSL-5s", 5, 34.11, 2.549),
            "psl_2s": Row("PSL-2s", 2, 35.48, 2.588),
            "cnn14": Row("CNN14, weak labels", None, 27.80, 1.850),
            "efficientnet_b0": Row("EfficientNet-B0, weak labels", None, 33.50),
            "efficientnet_b2": Row("EfficientNet-B2, weak labels", None, 34.06),
            "resnet50": Row("ResNet-50, weak labels", None, 31.80),
            "ast": Row("AST, weak labels", None, 34.70),
        },
    ),
    "table3": Table(
        title="Table 3: half pseudo, half weak labels, on AudioSet-balanced",
        splits=("balanced",),
        bases=("table2", "table3"),
        note="Paper: its rows of Table 3 are not known here. Its abstract gives 35.95 "
        "mAP % as the best on AudioSet-balanced, without saying with which labels.",
        rows={
            "psl_10s": Row("PSL-10s + weak", 10),
            "psl_5s": Row("PSL-5s + weak", 5),
            "psl_2s": Row("PSL-2s + weak", 2),
        },
    ),
    "table4": Table(
        title="Table 4: trained on full AudioSet",
        splits=("full", "balanced"),
        bases=("table2", "table4"),
        note="Paper: its rows of Table 4 are not known here.",
        rows={
            "baseline": Row("Weak baseline, full"),
            "psl_10s": Row("PSL-10s + weak, full", 10),
            "psl_5s": Row("PSL-5s + weak, full", 5),
            "psl_2s": Row("PSL-2s + weak, full", 2),
        },
    ),
    "best": Table(
        title="Better than PSL-2s, with as many examples",
        splits=("balanced",),
        bases=("table2", "best"),
        note="Paper: none of these rows is its; its PSL-2s is a row of table2.",
        # 11 epochs of 17 windows a clip and 13 of the whole clip are 200 examples of
        # each clip, as are 40 epochs of PSL-2s
        rows={
            "windows": Row("2-s windows every 0.5 s", 2, hop=0.5, epoch_share=11 / 40),
            "best": Row(
                "+ whole clips at the end", 10, after="windows", epoch_share=13 / 40
            ),
        },
    ),
}
