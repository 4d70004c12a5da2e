"""Typed configuration: plain values -> one frozen dataclass, or an error per wrong key.

Owns the ``config`` decorator of every configuration class, the number types they share,
and the messages for wrong keys. Knows no component: each room keeps its classes in its
own config.py, which imports no torch, so that ``--help`` and a refused key are quick.
psl/config_values.py reads values from YAML and words, psl/command_line.py is --help.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, TypeVar, dataclass_transform

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

T = TypeVar("T")

Count = Annotated[int, Field(ge=1, le=1_000_000_000)]
"""A whole number of things, 1 or more."""
CountOrZero = Annotated[int, Field(ge=0, le=1_000_000_000)]
"""A whole number of things."""
BatchSize = Annotated[int, Field(ge=1, le=1 << 20)]
"""Examples that are computed together."""
Share = Annotated[float, Field(ge=0, le=1)]
"""A fraction, from 0 to 1."""
Dropout = Annotated[float, Field(ge=0, lt=1)]
"""The probability of dropping a value."""
Seconds = Annotated[float, Field(ge=0.001, le=3600)]
"""A length of audio, s; at least one sample and at most an hour."""

SHOWN_CHARACTERS = 80
"""Length to which a wrong value is shortened in an error."""
SHOWN_PROBLEMS = 5
"""Wrong keys that one error names."""


@dataclass_transform(frozen_default=True, field_specifiers=(Field,))
def config(cls: type[T]) -> type[T]:
    """Make a configuration class: a frozen dataclass that checks its fields.

    Unknown keys and numbers that are not finite are errors, and the docstring under a
    field is its description in --help.
    """
    strict = ConfigDict(
        extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )
    made: Any = dataclass(frozen=True, config=strict)(cls)
    return made


def parse(cls: type[T], values: dict[str, Any], *, where: str = "config") -> T:
    """An instance of the configuration class ``cls``.

    Raises ValueError naming each wrong key, what was found and what was expected;
    an unknown key is answered with the nearest known one.
    """
    try:
        return TypeAdapter(cls).validate_python(values)
    except ValidationError as error:
        details = error.errors()
        problems = [
            _explain(cls, detail, values) for detail in details[:SHOWN_PROBLEMS]
        ]
        if len(details) > SHOWN_PROBLEMS:
            problems.append(f"and {len(details) - SHOWN_PROBLEMS} more")
        raise ValueError(f"{where}: " + "; ".join(problems)) from None


def _explain(cls: type, detail: Any, values: Any) -> str:
    key, kinds = _locate(detail["loc"], values)
    if detail["type"] == "unexpected_keyword_argument":
        known = [key.name for key in keys_of(cls) if key.kind in (None, *kinds)]
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
        return f"unknown key {key!r}; did you mean {near[0]!r}?"
    if detail["type"] == "union_tag_invalid":
        context = detail["ctx"]
        return f"{key}.name = {context['tag']!r}: expected {context['expected_tags']}"
    if detail["type"] == "missing":
        return f"{key!r} is missing; add {key}=..."
    found, message = detail["input"], detail["msg"].removeprefix("Value error, ")
    if not key:  # keys that do not fit each other; the message names them
        return message
    if found is None:
        return f"{key} is empty; give it a value"
    if detail["type"] in ("list_type", "tuple_type") and isinstance(found, str):
        message = f"expected a list, such as {key}=[{_shortened(found)}]"
    return f"{key} = {_shortened(repr(found))}: {message}"


def _locate(loc: Sequence[Any], values: Any) -> tuple[str, list[Any]]:
    """The dotted key of an error, and the parts of ``loc`` that are not keys of values.

    Those name the members of unions that the values were taken for.
    """
    keys, kinds = [], []
    for number, part in enumerate(loc):
        inside = values is not None and number < len(loc) - 1
        if inside and isinstance(values, dict) and part not in values:
            kinds.append(part)
            continue
        keys.append(str(part))
        try:
            values = values[part]
        except (KeyError, IndexError, TypeError):
            values = None
    return _shortened(".".join(keys)), kinds


@dataclasses.dataclass(frozen=True)
class Key:
    """A key of a configuration, as --help shows it."""

    name: str
    """With the names of the sections that it is in, dotted."""
    text: str
    """Description and default."""
    kind: str | None
    """The ``name`` of the component that has this key; None where all have it."""


def keys_of(cls: type) -> Iterator[Key]:
    """Every key of the configuration class ``cls``, in the order of its fields."""
    schema = TypeAdapter(cls).json_schema()
    definitions = schema.get("$defs", {})

    def walk(node: dict[str, Any], prefix: str, kind: str | None) -> Iterator[Key]:
        for name, field in node.get("properties", {}).items():
            kinds = _kinds(field, definitions)
            if kinds:
                text = f"one of {', '.join(kinds)} (default {field['default']['name']})"
                yield Key(f"{prefix}{name}.name", text, kind)
                for its_kind, its_schema in kinds.items():
                    yield from walk(its_schema, f"{prefix}{name}.", its_kind)
                continue
            refs = [field, *field.get("anyOf", []), *field.get("oneOf", [])]
            items = [r["items"] for r in refs if "$ref" in r.get("items", {})]
            inner = [r["$ref"].split("/")[-1] for r in refs + items if "$ref" in r]
            is_tag = kind is not None and field.get("const") == kind
            if (not inner or items) and not is_tag:
                yield Key(prefix + name, _description(field), kind)
            for ref in inner:
                yield from walk(definitions[ref], f"{prefix}{name}.", kind)

    yield from walk(schema, "", None)


def _description(field: dict[str, Any]) -> str:
    text = " ".join(field.get("description", "").split())
    if "default" not in field:
        return text
    default = field["default"]
    shown = default if isinstance(default, str) else json.dumps(default)
    return f"{text} (default {shown})"


def _kinds(field: Any, definitions: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The schemas in a union of components that have a name each, by that name."""
    refs = [r["$ref"].split("/")[-1] for r in field.get("oneOf", ()) if "$ref" in r]
    schemas = [definitions[ref] for ref in refs]
    names = [schema["properties"].get("name", {}).get("const") for schema in schemas]
    return dict(zip(names, schemas, strict=True)) if all(names) else {}


def to_yaml(config: Any) -> str:
    """A configuration as YAML that ``read_yaml`` and ``parse`` take back."""
    return yaml.safe_dump(dataclasses.asdict(config), sort_keys=False)


def _shortened(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "..."
