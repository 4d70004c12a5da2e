"""Typed configuration: YAML and ``key=value`` words -> one frozen dataclass.

Owns parsing, type checks (pydantic) and the messages for wrong keys. Knows no
component: each keeps its own dataclass, made with the ``config`` decorator here, beside
the code that reads it.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import re
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

STRICT = ConfigDict(extra="forbid", use_attribute_docstrings=True)
"""Every configuration dataclass is made with this: unknown keys are errors."""

T = TypeVar("T")


class _Loader(yaml.SafeLoader):
    """YAML without objects, without repeated keys, with 1e-3 as a number."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=deep)
            if key in seen:
                line = key_node.start_mark.line + 1
                raise ValueError(f"line {line}: key {key!r} stands twice; keep one")
            seen.add(key)
        return super().construct_mapping(node, deep)


# YAML 1.1 also reads no, off and yes as booleans, and 1e-3 as a string
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in pairs if not tag.endswith(":bool")]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile("(true|True|false|False)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def parse(cls: type[T], values: dict[str, Any], *, where: str = "config") -> T:
    """An instance of the configuration dataclass ``cls``.

    Raises ValueError naming each wrong key, what was found and what was expected;
    an unknown key is answered with the nearest known one.
    """
    try:
        return TypeAdapter(cls).validate_python(values)
    except ValidationError as error:
        problems = [_explain(cls, detail, values) for detail in error.errors()]
        raise ValueError(f"{where}: " + "; ".join(problems)) from None


def _explain(cls: type, detail: Any, values: Any) -> str:
    key, kinds = _locate(detail["loc"], values)
    if detail["type"] == "unexpected_keyword_argument":
        known = [name for name, _, kind in _fields(cls) if kind in (None, *kinds)]
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
        return f"unknown key {key!r}; did you mean {near[0]!r}?"
    if detail["type"] == "union_tag_invalid":
        context = detail["ctx"]
        return f"{key}.name = {context['tag']!r}: expected {context['expected_tags']}"
    if detail["type"] == "missing":
        return f"{key!r} is missing; add {key}=..."
    found, message = detail["input"], detail["msg"].removeprefix("Value error, ")
    if detail["type"] in ("list_type", "tuple_type") and isinstance(found, str):
        message = f"expected a list, such as {key}=[{found}]"
    return f"{key} = {found!r}: {message}"


def _locate(loc: Sequence[Any], values: Any) -> tuple[str, list[Any]]:
    """The dotted key of an error, and the words of ``loc`` that are no keys of values.

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
    return ".".join(keys), kinds


def describe(cls: type) -> Iterator[tuple[str, str]]:
    """Dotted name and one-paragraph description of every field of ``cls``.

    A field that only one kind of component has says which.
    """
    for name, text, kind in _fields(cls):
        yield name, text if kind is None else f"[{kind}] {text}"


def _fields(cls: type) -> Iterator[tuple[str, str, str | None]]:
    """Dotted name, description and, where there are several, kind of every field."""
    schema = TypeAdapter(cls).json_schema()
    definitions = schema.get("$defs", {})

    def walk(
        node: dict[str, Any], prefix: str, kind: str | None
    ) -> Iterator[tuple[str, str, str | None]]:
        for name, field in node.get("properties", {}).items():
            kinds = _kinds(field, definitions)
            if kinds:
                text = f"one of {', '.join(kinds)} (default {field['default']['name']})"
                yield f"{prefix}{name}.name", text, kind
                for its_kind, ref in kinds.items():
                    yield from walk(ref, f"{prefix}{name}.", its_kind)
                continue
            refs = [field, *field.get("anyOf", []), *field.get("oneOf", [])]
            items = [r["items"] for r in refs if "$ref" in r.get("items", {})]
            inner = [r["$ref"].split("/")[-1] for r in refs + items if "$ref" in r]
            is_tag = kind is not None and field.get("const") == kind
            if (not inner or items) and not is_tag:
                default = f" (default {field['default']})" if "default" in field else ""
                text = " ".join(field.get("description", "").split())
                yield prefix + name, text + default, kind
            for ref in inner:
                yield from walk(definitions[ref], f"{prefix}{name}.", kind)

    yield from walk(schema, "", None)


def _kinds(field: Any, definitions: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The schemas in a union of components that have a name each, by that name."""
    refs = [r["$ref"].split("/")[-1] for r in field.get("oneOf", ()) if "$ref" in r]
    schemas = [definitions[ref] for ref in refs]
    names = [schema["properties"].get("name", {}).get("const") for schema in schemas]
    return dict(zip(names, schemas, strict=True)) if all(names) else {}


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file; ValueError names the file if there is none."""
    try:
        values = yaml.load(Path(path).read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise ValueError(f"{path}: cannot read config: {error.strerror}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected a mapping of keys to values")
    return values


def override(values: dict[str, Any], words: Sequence[str]) -> dict[str, Any]:
    """``values`` with each ``a.b=value`` of ``words`` (value in YAML) put in."""
    values = dict(values)
    for word in words:
        key, equals, text = word.partition("=")
        if not equals:
            raise ValueError(f"argument {word!r}: expected key=value")
        node = values
        *parents, last = key.split(".")
        for parent in parents:
            inner = node.get(parent)
            node[parent] = dict(inner) if isinstance(inner, dict) else {}
            node = node[parent]
        try:
            node[last] = yaml.load(text, _Loader)
        except yaml.YAMLError:
            raise ValueError(f"argument {word!r}: value is not valid YAML") from None
    return values


def to_yaml(config: Any) -> str:
    """A configuration dataclass as YAML that ``read_yaml`` and ``parse`` take back."""
    return yaml.safe_dump(dataclasses.asdict(config), sort_keys=False)


def from_command_line(
    cls: type[T],
    argv: Sequence[str] | None,
    *,
    command: str,
    purpose: str | None,
    example: str,
) -> T:
    """The configuration of ``command [CONFIG.yaml] [key=value ...]``.

    ``--print-config`` shows the resolved configuration and exits; so does ``--help``
    with every key.
    """
    keys = "\n".join(
        textwrap.fill(
            f"{name}: {text}", 86, initial_indent="  ", subsequent_indent="      "
        )
        for name, text in describe(cls)
    )
    parser = argparse.ArgumentParser(
        prog=command,
        description=purpose,
        epilog=f"keys:\n{keys}\n\nexample:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="CONFIG.yaml | key=value",
        help="YAML files and single keys; a later word overrides an earlier one",
    )
    parser.add_argument("--print-config", action="store_true", help="show and exit")
    args, unknown = parser.parse_known_intermixed_args(argv)
    if unknown:
        key = unknown[0].lstrip("-") + ("" if "=" in unknown[0] else "=...")
        parser.error(f"unknown flag {unknown[0]}; did you mean {key}, without dashes?")
    config = parse(cls, read_words(args.words), where=command)
    if args.print_config:
        print(to_yaml(config), end="")
        parser.exit()
    return config


def read_words(words: Sequence[str]) -> dict[str, Any]:
    """The values of YAML files and ``key=value`` words, later ones on top."""
    values: dict[str, Any] = {}
    for word in words:
        values = (
            override(values, [word]) if "=" in word else _merge(values, read_yaml(word))
        )
    return values


def _merge(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    """``top`` over ``base``; a component of another ``name`` replaces the one below it,
    whose options would mean nothing to it.
    """
    merged = dict(base)
    for key, value in top.items():
        if isinstance(value, dict) and isinstance(inner := merged.get(key), dict):
            names = {part["name"] for part in (inner, value) if "name" in part}
            value = value if len(names) > 1 else _merge(inner, value)
        merged[key] = value
    return merged
