"""The table of endpoints: path templates, compiled once, that match request paths."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from pywatt_host.manifest.values.paths import is_parameter, is_rest, other_spelling, shape

T = TypeVar("T")


@dataclass(slots=True)
class _Node(Generic[T]):
    """What may follow a segment: literal segments, a parameter, or the rest of the path."""

    literals: dict[str, _Node[T]] = field(default_factory=dict)
    parameter: _Node[T] | None = None
    rest: dict[str, T] | None = None  # method -> value, for `{x:path}` here
    methods: dict[str, T] | None = None  # method -> value, for a template that ends here


class Table(Generic[T]):
    """Maps path templates and methods to values.

    A literal segment is preferred to `{x}`, and `{x}` to `{x:path}`, segment by segment. The path is matched before the
    method: where the best template does not have the method, no other template is tried, so that a less strict template
    never answers for a stricter one. `{x:path}` also matches a rest that is empty or missing: `/a/{x:path}` matches
    `/a/` and `/a`.
    """

    def __init__(self) -> None:
        self._root: _Node[T] = _Node()
        self._literal: dict[str, dict[str, T]] = {}
        self._added: dict[str, dict[str, T]] = {}  # template without the names of its parameters -> its methods

    def add(self, template: str, methods: Iterable[str], value: T) -> None:
        """Add a template. Raises ValueError where another template of the same shape has one of the methods."""
        node, segments = self._root, template.split("/")[1:]
        slot: dict[str, T] | None = None
        for segment in segments:
            if is_rest(segment):
                if node.rest is None:
                    node.rest = {}
                slot = node.rest
                break
            if is_parameter(segment):
                if node.parameter is None:
                    node.parameter = _Node()
                node = node.parameter
            else:
                node = node.literals.setdefault(segment, _Node())
        if slot is None:
            if node.methods is None:
                node.methods = {}
            slot = node.methods
            if "{" not in template:
                self._literal[template] = slot
        methods = tuple(methods)
        taken = [method for method in methods if method in slot]
        if taken:
            raise ValueError(f"{template} [{taken[0]}] is declared twice")
        slot.update(dict.fromkeys(methods, value))
        self._added[shape(template)] = slot

    def add_other_spellings(self) -> None:
        """Let each template also stand for its path with, or without, a slash at the end, for the methods that a
        template of that spelling does not have."""
        declared = {template: dict(methods) for template, methods in self._added.items()}
        for template, methods in declared.items():
            other = other_spelling(template)
            if other is None:
                continue
            taken = declared.get(other, {})
            for method, value in methods.items():
                if "*" not in taken and lookup(taken, method) is None:
                    self.add(other, (method,), value)

    def match(self, path: str) -> dict[str, T] | None:
        """The methods and values of the best template for a path; None where no template matches."""
        found = self._literal.get(path)
        if found is not None:
            return found
        return _walk(self._root, path.split("/"), 1) if path.startswith("/") else None

    def is_literal(self, path: str) -> bool:
        """Whether a template without parameters is the path."""
        return path in self._literal

    def __iter__(self) -> Iterator[dict[str, T]]:
        return _slots(self._root)


def _walk(node: _Node[T], segments: list[str], at: int) -> dict[str, T] | None:
    if at == len(segments):
        return node.methods if node.methods is not None else node.rest
    segment = segments[at]
    literal = node.literals.get(segment)
    if literal is not None:
        found = _walk(literal, segments, at + 1)
        if found is not None:
            return found
    if node.parameter is not None and segment:
        found = _walk(node.parameter, segments, at + 1)
        if found is not None:
            return found
    return node.rest


def _slots(node: _Node[T]) -> Iterator[dict[str, T]]:
    for slot in (node.methods, node.rest):
        if slot is not None:
            yield slot
    for child in (*node.literals.values(), *([node.parameter] if node.parameter else [])):
        yield from _slots(child)


def lookup(methods: Mapping[str, T], method: str) -> T | None:
    """The value for a method: its own, for HEAD that of GET, else that of `*`, which also stands for WebSockets."""
    found = methods.get(method)
    if found is None and method == "HEAD":
        found = methods.get("GET")
    return methods.get("*") if found is None else found


def allowed(methods: Iterable[str]) -> str:
    """The value of the Allow header (RFC 9110 section 10.2.1)."""
    names = {method for method in methods if method not in ("WEBSOCKET", "*")}
    if "GET" in names:
        names.add("HEAD")
    return ", ".join(sorted(names))
