"""rules.json: the rule of each class, as psl.events writes and reads it.

Owns its form.
"""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

from psl.detection.decode import Rule
from shards.errors import ShardError
from shards.format.classes import Classes
from shards.system.files import read_bounded

MAX_BYTES = 16 << 20
VERSION = 1


def to_json(rules: list[Rule], classes: Classes, how: dict[str, Any]) -> str:
    """The content of rules.json; ``how`` says what the rules are from."""
    by_mid = {
        mid: dataclasses.asdict(rule)
        for mid, rule in zip(classes.mids, rules, strict=True)
    }
    content = {"version": VERSION, "how": how, "rules": by_mid}
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def read_rules(path: str | Path, classes: Classes) -> list[Rule]:
    """The rule of each of ``classes``.

    Raises ShardError naming the file if it is damaged, of another version, or lacks a
    class.
    """
    try:
        content = json.loads(read_bounded(path, MAX_BYTES))
    except (ValueError, RecursionError) as error:
        raise ShardError(f"{path}: not JSON: {error}") from None
    if not isinstance(content, dict) or content.get("version") != VERSION:
        raise ShardError(f"{path}: not rules.json of this version of psl.events")
    found = content.get("rules")
    if not isinstance(found, dict):
        raise ShardError(f"{path}: damaged: no rules")
    missing = [mid for mid in classes.mids if mid not in found]
    if missing:
        raise ShardError(
            f"{path}: no rule for {len(missing)} of {len(classes)} classes, such as "
            f"{missing[0]!r}; fit rules with these classes"
        )
    return [_parse(found[mid], f"{path}: {mid!r}") for mid in classes.mids]


def _parse(value: Any, where: str) -> Rule:
    names = {field.name for field in dataclasses.fields(Rule)}
    if not isinstance(value, dict) or value.keys() != names:
        raise ShardError(f"{where}: expected {', '.join(sorted(names))}")
    for name, number in value.items():
        is_number = isinstance(number, int | float) and not isinstance(number, bool)
        highest = 1.0 if name == "threshold" else 600.0
        if not is_number or not math.isfinite(number) or not 0 <= number <= highest:
            raise ShardError(
                f"{where}: {name} = {number!r:.80}; expected a number from 0 to "
                f"{highest:g}"
            )
    return Rule(**{name: float(number) for name, number in value.items()})
