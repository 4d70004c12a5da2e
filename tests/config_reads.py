"""Which fields of configuration classes a program reads, found in its syntax trees.

Follows types as far as they are written down: annotations of arguments and attributes,
what functions return, items of lists. ``getattr`` and ``dataclasses.asdict`` are no
reads: they would hide that nobody uses a field.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import typing
from collections.abc import Iterable, Iterator
from types import FunctionType, ModuleType
from typing import Any, get_args, get_origin

from psl.config_values import members_of

Read = tuple[type, str]
"""A class and the name of an attribute of it."""
Types = dict[str, list[Any]]
"""The types that each local name may have."""


def config_classes(roots: Iterable[type]) -> list[type]:
    """The configuration classes that ``roots`` are made of, and those themselves."""
    found: list[type] = []
    waiting: list[Any] = list(roots)
    while waiting:
        member = waiting.pop()
        if get_origin(member) is list:
            waiting += members_of(get_args(member)[0])
        if not dataclasses.is_dataclass(member) or member in found:
            continue
        found.append(typing.cast(type, member))
        for hint in typing.get_type_hints(member).values():
            waiting += members_of(hint)
    return found


def unread(classes: Iterable[type], reads: set[Read]) -> list[str]:
    """The fields of ``classes`` that are not among ``reads``, as ``Class.field``.

    A read by way of a protocol is one of every class that has all of its members.
    """
    protocols = {cls for cls, _ in reads if getattr(cls, "_is_protocol", False)}
    missing = []
    for cls in classes:
        fitting = [p for p in protocols if all(_has(cls, name) for name in _names(p))]
        for field in dataclasses.fields(typing.cast(Any, cls)):
            if not any((kind, field.name) in reads for kind in (cls, *fitting)):
                missing.append(f"{cls.__name__}.{field.name}")
    return missing


def _names(protocol: type) -> list[str]:
    return [name for name in vars(protocol) if not name.startswith("_")]


def _has(cls: Any, name: str) -> bool:
    fields = {field.name for field in dataclasses.fields(cls)}
    return name in fields or hasattr(cls, name)


def reads_in(source: str, module: ModuleType) -> set[Read]:
    """Every attribute of a known type that ``source``, a text of ``module``, reads."""
    finder = _Finder(vars(module))
    finder.block(ast.parse(source).body, {}, owner=None)
    return finder.reads


class _Finder:
    """Walks the statements of a module, and knows the types of local names."""

    def __init__(self, names: dict[str, Any]) -> None:
        self._names = names
        self.reads: set[Read] = set()

    def block(self, nodes: Iterable[ast.AST], types: Types, owner: Any) -> None:
        """Follow statements; ``owner`` is the class that they are in."""
        for node in nodes:
            if isinstance(node, ast.ClassDef):
                self.block(node.body, {}, self._names.get(node.name))
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                self._function(node, types, owner)
            else:
                self._statement(node, types, owner)

    def _function(self, node: Any, types: Types, owner: Any) -> None:
        inner = dict(types)
        for argument in (
            *node.args.posonlyargs,
            *node.args.args,
            *node.args.kwonlyargs,
        ):
            inner[argument.arg] = self._annotated(argument.annotation)
            if argument.arg == "self" and owner is not None:
                inner["self"] = [owner]
        body = [node.body] if isinstance(node, ast.Lambda) else node.body
        self.block(body, inner, None)

    def _statement(self, node: ast.AST, types: Types, owner: Any) -> None:
        for name, found in self._bound(node, types):
            types[name] = found
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            for kind in self.types_of(node.value, types):
                if isinstance(kind, type):
                    self.reads.add((kind, node.attr))
        first = getattr(node, "generators", [])  # they bind what the rest reads
        rest = [n for n in ast.iter_child_nodes(node) if n not in first]
        self.block([*first, *rest], types, owner)

    def _bound(self, node: ast.AST, types: Types) -> Iterator[tuple[str, list[Any]]]:
        """The names that ``node`` binds, and their types."""
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id, self._annotated(node.annotation)
        elif isinstance(node, ast.NamedExpr):
            yield node.target.id, self.types_of(node.value, types)
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                yield from self._pairs(target, node.value, types)
        elif isinstance(node, ast.For | ast.comprehension):
            items = [_item(kind) for kind in self.types_of(node.iter, types)]
            if isinstance(node.target, ast.Name):
                yield node.target.id, [m for item in items for m in members_of(item)]

    def _pairs(
        self, target: Any, value: Any, types: Types
    ) -> Iterator[tuple[str, list[Any]]]:
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            for one, its in zip(target.elts, value.elts, strict=False):
                yield from self._pairs(one, its, types)
        elif isinstance(target, ast.Tuple):
            parts = [get_args(kind) for kind in self.types_of(value, types)]
            for number, one in enumerate(target.elts):
                if isinstance(one, ast.Name):
                    hints = [p[number] for p in parts if len(p) == len(target.elts)]
                    yield one.id, [m for hint in hints for m in members_of(hint)]
        elif isinstance(target, ast.Name):
            yield target.id, self.types_of(value, types)

    def types_of(self, node: ast.AST, types: Types) -> list[Any]:
        """The types that an expression may have; none where that is not written."""
        if isinstance(node, ast.Name):
            return types.get(node.id, [])
        if isinstance(node, ast.Attribute):
            owners = self.types_of(node.value, types)
            return [m for owner in owners for m in _attribute(owner, node.attr)]
        if isinstance(node, ast.Call):
            return self._returned(node, types)
        if isinstance(node, ast.BoolOp):
            return [m for value in node.values for m in self.types_of(value, types)]
        if isinstance(node, ast.IfExp):
            return [
                m for n in (node.body, node.orelse) for m in self.types_of(n, types)
            ]
        if isinstance(node, ast.Subscript):
            items = [_item(kind) for kind in self.types_of(node.value, types)]
            return [m for item in items for m in members_of(item)]
        return []

    def _returned(self, node: ast.Call, types: Types) -> list[Any]:
        text = ast.unparse(node.func)
        if text in ("dataclasses.replace", "replace") and node.args:
            return self.types_of(node.args[0], types)
        if text == "parse" and node.args:
            return [self._value(ast.unparse(node.args[0]))]
        called = self._value(text)
        if isinstance(node.func, ast.Attribute):
            for owner in self.types_of(node.func.value, types):
                called = called or inspect.getattr_static(owner, node.func.attr, None)
        if isinstance(called, type):
            return [called]
        called = inspect.unwrap(getattr(called, "__func__", called)) if called else None
        return members_of(_hint(called, "return")) if called else []

    def _annotated(self, annotation: ast.AST | None) -> list[Any]:
        return members_of(self._value(ast.unparse(annotation))) if annotation else []

    def _value(self, text: str) -> Any:
        try:
            return eval(text, self._names)  # our own source
        except Exception:  # a local name, or a type that is imported for checkers only
            return None


def _attribute(owner: Any, name: str) -> list[Any]:
    """The types of an attribute: annotated, a property, or an argument that is kept."""
    found = inspect.getattr_static(owner, name, None)
    if isinstance(found, property):
        return members_of(_hint(found.fget, "return"))
    hint = _hint(owner, name)
    if hint is None and isinstance(owner, type):
        kept = _kept_arguments(owner)
        hint = _hint(vars(owner).get("__init__"), kept[name]) if name in kept else None
    return members_of(hint)


def _kept_arguments(cls: type) -> dict[str, str]:
    """The attributes that __init__ sets to an argument, and the arguments' names."""
    init = vars(cls).get("__init__")
    if not isinstance(init, FunctionType):
        return {}
    try:
        tree = ast.parse(inspect.cleandoc("\n" + inspect.getsource(init)))
    except (OSError, SyntaxError):
        return {}
    assigned = [node for node in ast.walk(tree) if isinstance(node, ast.Assign)]
    return {
        target.attr: value.id
        for node in assigned
        for target, value in zip(
            _parts(node.targets[0]), _parts(node.value), strict=False
        )
        if isinstance(target, ast.Attribute) and isinstance(value, ast.Name)
    }


def _parts(node: ast.expr) -> list[ast.expr]:
    return node.elts if isinstance(node, ast.Tuple) else [node]


def _hint(owner: Any, name: str) -> Any:
    try:
        return typing.get_type_hints(owner).get(name)
    except (NameError, TypeError, AttributeError):
        return None


def _item(kind: Any) -> Any:
    """The type of the items of a list or a sequence."""
    arguments = get_args(kind)
    return arguments[0] if arguments and get_origin(kind) is not dict else None
