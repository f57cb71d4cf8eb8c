"""Overrides of the file's values: `PYWATT__` variables and `--set`.

Each layer is a separate tree, normalized like the tree of the file. Merging combines mappings key by key; every other
value replaces the value below it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from pywatt_host.manifest.problems import KeyPath, Report, display_path, near_miss
from pywatt_host.manifest.schema.normalize import Normalizer
from pywatt_host.manifest.schema.shape import Choice, DictShape, Free, ListShape, SectionShape, Shape, manifest_shape
from pywatt_host.manifest.schema.synonyms import unknown_key
from pywatt_host.manifest.yaml.composer import compose, split_lines
from pywatt_host.manifest.yaml.node import Mark, Node, Origin, problem_at

_SEGMENT = re.compile(r'"([^"]*)"|([^."\[\]]+)')


def merge(base: Node, top: Node, *, same_source: bool = False) -> Node:
    """Merge `top` over `base`. Within the same source, a value that is only implied does not replace a written one."""
    if not isinstance(base.value, dict) or not isinstance(top.value, dict):
        return base if same_source and top.implied and not base.implied else top
    entries = dict(base.value)
    for key, node in top.value.items():
        below = entries.get(key)
        entries[key] = node if below is None else merge(below, node, same_source=same_source)
    marks = {**(base.keys or {}), **(top.keys or {})}
    return Node(entries, base.mark, base.origin, keys=marks, short=base.short if base.short == top.short else None)


class Overrides:
    """Reads overrides of the tree `base`. Where users choose the keys, an override matches the keys of `base`."""

    def __init__(self, base: Node, report: Report) -> None:
        self._base = base
        self._report = report
        self.faulted: set[KeyPath] = set()

    def environment(self, variables: Mapping[tuple[str, ...], tuple[str, str]]) -> Node | None:
        """Make one tree of all `PYWATT__` variables. Names of keys match in any letter case."""
        tree: Node | None = None
        for segments, (name, value) in sorted(variables.items()):
            origin = Origin(name, "environment")
            path = self._path(segments, origin, folded=True)
            tree = self._over(tree, path, value, origin)
        return tree

    def settings(self, settings: Sequence[str]) -> Node | None:
        """Make one tree of all `--set a.b=c`; the last one wins. Quotes protect a dot in a key: `a."b.c"=d`."""
        tree: Node | None = None
        origin = Origin("--set", "set")
        for setting in settings:
            name, equals, value = setting.partition("=")
            segments = _split(name.strip())
            if not equals or segments is None:
                hint = "write it like --set server.listen=:8080"
                shown = setting if not equals else name
                self._report.add(
                    problem_at(origin, Mark(), (), "override", f'"{shown[:80]}" does not have the form KEY=VALUE', hint)
                )
                continue
            tree = self._over(tree, self._path(segments, origin, folded=False), value, origin)
        return tree

    def _over(self, tree: Node | None, path: tuple[str, ...] | None, value: str, origin: Origin) -> Node | None:
        if path is None:
            return tree
        node = _value(value, origin, path, self._report)
        if node is None:
            self.faulted.add(path)
            return tree
        for key in reversed(path):
            node = Node({key: node}, Mark(), origin, keys={})
        normalizer = Normalizer(self._report, manifest_shape())
        expanded = normalizer.normalize(node, manifest_shape())
        self.faulted |= normalizer.faulted
        if expanded is None or tree is None:
            return expanded or tree
        return merge(tree, expanded, same_source=True)

    def _path(self, segments: Sequence[str], origin: Origin, *, folded: bool) -> tuple[str, ...] | None:
        """The keys of the segments as the manifest spells them; None after a fault."""
        shape: Shape = manifest_shape()
        node: Node | None = self._base
        path: tuple[str, ...] = ()
        for number, segment in enumerate(segments):
            if isinstance(shape, Choice):
                shape = shape.of([] if segment.isdecimal() else {segment: None})
            key: str | None
            if isinstance(shape, SectionShape):
                key = _match(segment, shape.keys, folded=folded)
                if key is None:
                    self._unknown((*path, segment), segments[number + 1 :], shape, origin)
                    return None
                shape = shape.keys[key]
            elif isinstance(shape, DictShape | Free):
                present = node.value if node is not None and isinstance(node.value, dict) else {}
                key = _match(segment, present, folded=folded) or segment
                shape = shape.value if isinstance(shape, DictShape) else shape
            else:
                if isinstance(shape, ListShape):
                    message = "an override replaces a list as a whole, not one of its entries"
                    hint = f"set {display_path(path)} to [...]"
                else:
                    message, hint = (
                        "this key has a single value, and no keys below it",
                        f"set {display_path(path)} itself",
                    )
                self._report.add(problem_at(origin, Mark(), path, "override", message, hint))
                return None
            node = node.value.get(key) if node is not None and isinstance(node.value, dict) else None
            path = (*path, key)
        return path

    def _unknown(self, path: tuple[str, ...], rest: Sequence[str], shape: SectionShape, origin: Origin) -> None:
        key = path[-1].lower() if origin.kind == "environment" else path[-1]
        unknown = unknown_key(key, shape, manifest_shape())
        hint = unknown.hint
        if origin.kind == "environment":
            meant = near_miss(key, shape.keys)
            parts = [*path[:-1], meant, *rest] if meant else []
            hint = f"did you mean PYWATT__{'__'.join(parts).upper()}?" if meant else hint
        self._report.add(problem_at(origin, Mark(), (*path[:-1], key), unknown.code, unknown.message, hint))


def _match(segment: str, keys: Mapping[str, object], *, folded: bool) -> str | None:
    if segment in keys or not folded:
        return segment if segment in keys else None
    alike = [key for key in keys if key.lower() == segment.lower()]
    return alike[0] if len(alike) == 1 else None


def _split(name: str) -> tuple[str, ...] | None:
    """Split `a."b.c".d` or `a[0]` into segments; None if the name does not have this form."""
    segments: list[str] = []
    at = 0
    name = re.sub(r"\[([0-9]+)\]", r".\1", name)
    while True:
        match = _SEGMENT.match(name, at)
        if match is None:
            return None
        segments.append(match[1] if match[1] is not None else match[2])
        at = match.end()
        if at == len(name):
            return tuple(segments)
        if name[at] != ".":
            return None
        at += 1


def _value(text: str, origin: Origin, path: KeyPath, report: Report) -> Node | None:
    """Read one YAML value. A text that starts with neither a quote nor a bracket is a scalar as it is."""
    stripped = text.strip()
    if stripped[:1] not in ("[", "{", '"', "'"):
        if not stripped.isprintable():
            report.add(
                problem_at(
                    origin, Mark(), path, "control-character", "the value contains a control character", "remove it"
                )
            )
            return None
        return Node(stripped or None, Mark(), origin, text=stripped)
    found = Report()
    node = compose(stripped, Origin(origin.name, origin.kind, split_lines(stripped)), found)
    for problem in found.problems:
        report.add(problem_at(origin, Mark(), path, problem.code, problem.message, problem.hint))
    return None if found.problems else node
