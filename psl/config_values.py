"""Plain values of a configuration from YAML files and ``key=value`` words.

Owns what a text means. Where a string is wanted, the text is the string as it stands:
``run_dir=20261128``, ``run_dir=2026-11-28`` and ``run_dir=runs/x #2: a::b`` are those
folders. Only these differ:

- nothing, as in ``start=``, means null, and so does ``null`` where null is allowed; a
  file of that name is ``./null``, or ``"null"`` in quotes in a YAML file;
- where a list is wanted, ``[a, b]`` has an item between commas, each again as it
  stands; an item with a comma in it goes in quotes, ``["a,b", c]``;
- where keys are wanted, ``{key: value}`` is YAML, as files are.

All else (numbers, true and false) is as in YAML, without its surprises: 1e-3 is a
number, no and off are strings, 010 is ten, and 1:30 and dates are no numbers. YAML from
anybody is read in bounded time and memory: no tags, limits on size, depth and values.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
import typing
from collections.abc import Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml

MAX_BYTES = 1 << 20
"""Longest YAML file."""
MAX_DEPTH = 20
"""Lists and mappings inside each other."""
MAX_VALUES = 20_000
"""Values in a file, those that aliases repeat counted each time."""

MAX_DIGITS = 40
"""Longer whole numbers are read as floats, which no key for whole numbers takes."""

_FAST: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_FAST_FROM = 1 << 14
"""Characters from which the fast loader reads; it refuses bytes that are not UTF-8 in
names of folders, which the other one reads back from our config.yaml."""
_KEY = re.compile(r"[A-Za-z_][\w-]*(\.[\w-]+)*=", re.ASCII)
_INTEGER = re.compile(r"[-+]?[0-9][0-9_]*")
_FLOAT = re.compile(r"[-+]?([0-9][0-9_]*(\.[0-9_]*)?|\.[0-9][0-9_]*)([eE][-+]?[0-9]+)?")
_NOT_FINITE = {
    ".inf": math.inf,
    "+.inf": math.inf,
    "-.inf": -math.inf,
    ".nan": math.nan,
}
_NULLS = ("", "~", "null", "Null", "NULL")

Members = list[Any]
"""The types that a value may have, those of a union one by one; none if unknown."""


def read_words(words: Sequence[str], cls: type | None = None) -> dict[str, Any]:
    """The values of YAML files and ``key=value`` words, later ones on top.

    ``cls`` is the configuration class that they are for, which says where strings are
    wanted.
    """
    values: dict[str, Any] = {}
    for word in words:
        is_file = not _KEY.match(word) and ("=" not in word or _is_yaml_name(word))
        values = (
            _merge(values, read_yaml(word, cls))
            if is_file
            else override(values, [word], cls)
        )
    return values


def _is_yaml_name(word: str) -> bool:
    return word.endswith((".yaml", ".yml"))


def override(
    values: dict[str, Any], words: Sequence[str], cls: type | None = None
) -> dict[str, Any]:
    """``values`` with each ``a.b=value`` of ``words`` put in."""
    values = dict(values)
    for word in words:
        key, equals, text = word.partition("=")
        *parents, last = key.split(".")
        if not equals:
            raise ValueError(f"argument {word!r}: expected key=value")
        if len(parents) > MAX_DEPTH:
            raise ValueError(f"argument {word[:40]!r}...: a key of {len(parents)} dots")
        node, members = values, members_of(cls)
        for parent in parents:
            inner = node.get(parent)
            node[parent] = dict(inner) if isinstance(inner, dict) else {}
            node, members = node[parent], _below(members, parent)
        try:
            node[last] = _from_text(text, _below(members, last))
        except ValueError as error:
            raise ValueError(f"argument {word!r}: {error}") from None
    return values


def _merge(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    """``top`` over ``base``.

    A component of another ``name`` replaces the one below it, as their options differ.
    """
    merged = dict(base)
    for key, value in top.items():
        if isinstance(value, dict) and isinstance(inner := merged.get(key), dict):
            names = {part["name"] for part in (inner, value) if "name" in part}
            value = value if len(names) > 1 else _merge(inner, value)
        merged[key] = value
    return merged


def read_yaml(path: str | Path, cls: type | None = None) -> dict[str, Any]:
    """The mapping in a YAML file, for the configuration class ``cls`` if it is known.

    Raises ValueError naming the file, and the line where there is one.
    """
    try:
        with open(path, "rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise ValueError(f"{path}: cannot read config: {error.strerror}") from None
    try:
        if len(data) > MAX_BYTES:
            raise ValueError(f"longer than {MAX_BYTES} bytes; expected a configuration")
        values = _from_yaml(data.decode(), members_of(cls))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected a mapping of keys to values")
    return values


def _from_text(text: str, members: Members) -> Any:
    """What the text after ``key=``, or of an item of a list there, stands for."""
    lists = [m for m in members if get_origin(m) is list]
    if not members and text[:1] in ("[", "{"):
        return _from_yaml(text, [])
    if lists and text.startswith("[") and text.endswith("]"):
        return [_from_text(item, _items(members)) for item in _split(text[1:-1])]
    if text.startswith("{") and any(map(_has_keys, [*members, *_items(members)])):
        return _from_yaml(text, members)
    return _scalar(text, members)


def _split(text: str) -> list[str]:
    """The items between the commas of ``text``, without blanks around them or quotes.

    Commas in quotes that begin an item, and inside brackets, separate nothing.
    """
    items, start, depth, quote = [], 0, 0, ""
    for place, letter in enumerate(text):
        if quote:
            is_escaped = quote == '"' and text[place - 1] == "\\"
            quote = "" if letter == quote and not is_escaped else quote
        elif letter in "\"'" and not text[start:place].strip():
            quote = letter
        elif letter in "[{":
            depth += 1
        elif letter in "]}":
            depth = max(0, depth - 1)
        elif letter == "," and depth == 0:
            items.append(text[start:place])
            start = place + 1
    items.append(text[start:])
    items = [item.strip() for item in items]
    if not items[-1]:  # [] and [a, ]
        items.pop()
    return [_unquoted(item) for item in items]


def _unquoted(item: str) -> str:
    is_quoted = len(item) > 1 and item[0] == item[-1] and item[0] in "\"'"
    return str(_from_yaml(item, [str])) if is_quoted else item


def _scalar(text: str, members: Members) -> Any:
    """``text`` as it stands where a string is wanted, else null, a bool or a number."""
    if is_text(members):
        allows_null = type(None) in members
        return None if text == "" or (allows_null and text == "null") else text
    if text in _NULLS:
        return None
    if text in ("true", "True", "false", "False"):
        return text in ("true", "True")
    if text.lower() in _NOT_FINITE:
        return _NOT_FINITE[text.lower()]
    if _INTEGER.fullmatch(text) and len(text) < MAX_DIGITS:
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text


def _from_yaml(text: str, members: Members) -> Any:
    """The value of a YAML text; ValueError says in which line what is wrong."""
    try:
        node = _compose(text)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
    return None if node is None else _Reader().value(node, members)


def _compose(text: str) -> Any:
    """The nodes of a YAML text, once it is known to be neither deep nor tagged."""
    depth, loader = 0, _FAST if len(text) >= _FAST_FROM else yaml.SafeLoader
    for event in yaml.parse(text, loader):
        tag = getattr(event, "tag", None)
        if tag not in (None, "!"):
            raise ValueError(f"{_line(event)}: a tag, {tag}; expected plain values")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise ValueError(
                    f"{_line(event)}: more than {MAX_DEPTH} lists or mappings inside "
                    "each other"
                )
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
    return yaml.compose(text, loader)


def _line(found: Any) -> str:
    return f"line {found.start_mark.line + 1}"


class _Reader:
    """Turns the nodes of one YAML text into values, and counts them."""

    def __init__(self) -> None:
        self._count = 0

    def value(self, node: Any, members: Members, depth: int = 0) -> Any:
        """What ``node`` stands for where one of ``members`` is wanted."""
        self._count += 1
        if self._count > MAX_VALUES or depth > MAX_DEPTH:
            raise ValueError(
                f"{_line(node)}: more than {MAX_VALUES} values, or {MAX_DEPTH} inside "
                "each other, with those that aliases (*) repeat"
            )
        if isinstance(node, yaml.ScalarNode):
            is_plain = not node.style  # the two loaders say None and ""
            return self._plain(node.value, members) if is_plain else node.value
        if isinstance(node, yaml.SequenceNode):
            inner = _items(members)
            return [self.value(item, inner, depth + 1) for item in node.value]
        return self._mapping(node, members, depth)

    @staticmethod
    def _plain(text: str, members: Members) -> Any:
        return None if text in _NULLS else _scalar(text, members)

    def _mapping(self, node: Any, members: Members, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        below: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise ValueError(f"{_line(key_node)}: a key that is not a string")
            key = key_node.value
            if key == "<<" and not key_node.style:
                below |= self._merged(value_node, members, depth)
                continue
            if key in found:
                raise ValueError(f"{_line(key_node)}: duplicate key {key!r}")
            found[key] = self.value(value_node, _below(members, key), depth + 1)
        return below | found

    def _merged(self, node: Any, members: Members, depth: int) -> dict[str, Any]:
        """The mappings that a merge key (<<) names, the first on top."""
        merged: dict[str, Any] = {}
        nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
        for inner in reversed(nodes):
            if not isinstance(inner, yaml.MappingNode):
                raise ValueError(f"{_line(inner)}: <<: expected a mapping")
            merged |= self.value(inner, members, depth + 1)
        return merged


def is_text(members: Members) -> bool:
    """Whether a single value is wanted as a string, as no number or bool is allowed."""
    return bool(members) and not {int, float, bool}.intersection(
        m for m in members if isinstance(m, type)
    )


def members_of(hint: Any) -> Members:
    """The types that ``hint`` allows; none for None, which stands for not known."""
    if hint is None:
        return []
    origin = get_origin(hint)
    if origin is Annotated:
        return members_of(get_args(hint)[0])
    if origin in (Union, UnionType):
        return [m for inner in get_args(hint) for m in members_of(inner)]
    if origin is Literal:
        return [type(value) for value in get_args(hint)]
    return [hint]


def _below(members: Members, key: str) -> Members:
    """The types of the value of ``key``, where ``members`` have keys."""
    found: list[Any] = []
    for member in members:
        if _is_config(member):
            found += members_of(_hints(member).get(key))
        elif get_origin(member) is dict:
            found += members_of(get_args(member)[1])
        elif get_origin(member) is list:  # one mapping may stand for a list of one
            found += _below(_items([member]), key)
    return found


def _items(members: Members) -> Members:
    """The types of the items, where ``members`` have lists."""
    lists = [member for member in members if get_origin(member) is list]
    return [m for inner in lists for m in members_of(get_args(inner)[0])]


def _has_keys(member: Any) -> bool:
    return _is_config(member) or get_origin(member) is dict


def _is_config(member: Any) -> bool:
    return dataclasses.is_dataclass(member)


@functools.cache
def _hints(cls: Any) -> dict[str, Any]:
    return typing.get_type_hints(cls)
