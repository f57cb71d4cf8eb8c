"""The structure of a manifest: unknown keys, values of the wrong kind, keys without a value; and short forms written
out as mappings, so that profiles and overrides can be merged into them.
"""

from __future__ import annotations

from contextlib import suppress

from pywatt_host.manifest.neighbours import unknown_key
from pywatt_host.manifest.node import Mark, Node, Path, overridden, resolve
from pywatt_host.manifest.problems import Report, quote
from pywatt_host.manifest.shape import Choice, DictShape, Free, Leaf, ListShape, SectionShape, Shape
from pywatt_host.manifest.values import Interpolated

# Words that older YAML takes for bools; they are texts here.
YAML_1_1_BOOLS = {
    **dict.fromkeys(("no", "No", "NO", "off", "Off", "OFF"), "false"),
    **dict.fromkeys(("yes", "Yes", "YES", "on", "On", "ON"), "true"),
}


class Expansion:
    """Walks trees of nodes beside the shape of the model.

    `faulted` collects the paths that were reported and left out, so that typing does not complain about them again.
    With `open_templates`, a `${...}` that nobody interpolated (an inactive profile) may stand for any scalar.
    """

    def __init__(self, report: Report, *, open_templates: bool = False) -> None:
        self._report = report
        self._open_templates = open_templates
        self.faulted: set[Path] = set()

    def expand(self, node: Node, shape: Shape, path: Path = (), key: Mark | None = None) -> Node | None:
        """A copy with short forms written out, without what is at fault; None when nothing is left.

        `key` is where the key of the value stands.
        """
        if isinstance(shape, Free):
            return _free(node)
        if node.value is None:
            mark = key if node.text == "" else None
            self._fault(node, path, "no-value", "has no value", "give it one, or remove the key", mark)
            return None
        if isinstance(shape, Leaf):
            return self._leaf(node, shape, path)
        if isinstance(shape, ListShape):
            return self._list(node, shape, path)
        if isinstance(shape, DictShape):
            return self._dict(node, shape, path)
        return self._section(node, shape, path)

    def _fault(self, node: Node, path: Path, code: str, message: str, hint: str = "", mark: Mark | None = None) -> None:
        self.faulted.add(path)
        if not self._report.full:
            self._report.add(node.problem(path, code, message, hint, mark=mark))
        else:
            self._report.left_out += 1

    def _leaf(self, node: Node, shape: Leaf, path: Path) -> Node | None:
        if not isinstance(node.value, dict) or not shape.keys:
            if isinstance(node.value, dict | list):
                self._fault(node, path, "type", f"takes one value, not {quote(node.value)}")
                return None
            return overridden(node)
        entries = {}
        for key, item in node.value.items():
            if key in shape.keys:
                expanded = self.expand(item, Leaf(), (*path, key), _key_mark(node, key))
                if expanded is not None:
                    entries[key] = expanded
            elif not key.startswith("x-"):
                self._fault(
                    node,
                    (*path, key),
                    "unknown-key",
                    "unknown key",
                    f"known here: {', '.join(shape.keys)}",
                    _key_mark(node, key),
                )
        return Node(entries, node.mark, node.origin, keys=node.keys)

    def _list(self, node: Node, shape: ListShape, path: Path) -> Node | None:
        if not isinstance(node.value, list):
            if shape.one:
                return self.expand(node, shape.item, path)
            hint = "write `- ` before each entry, or put them in brackets: [a, b]"
            self._fault(node, path, "type", f"a list is wanted, not {_kind(node)}", hint)
            return None
        items = [self.expand(item, shape.item, (*path, number)) for number, item in enumerate(node.value)]
        # What is left out stays as an empty place, so that the numbers of the others hold for the faults to come.
        return Node(
            [item or Node(None, old.mark, old.origin) for item, old in zip(items, node.value, strict=True)],
            node.mark,
            node.origin,
        )

    def _dict(self, node: Node, shape: DictShape, path: Path) -> Node | None:
        if not isinstance(node.value, dict):
            self._fault(
                node, path, "type", f"a mapping is wanted, not {_kind(node)}", "write `key: value` lines below it"
            )
            return None
        entries = {}
        for key, item in node.value.items():
            expanded = self.expand(item, shape.value, (*path, key), _key_mark(node, key))
            if expanded is not None:
                entries[key] = expanded
        return Node(entries, node.mark, node.origin, keys=node.keys)

    def _section(self, node: Node, shape: SectionShape | Choice, path: Path) -> Node | None:
        short = shape.short
        value = node.value
        if not isinstance(value, dict | list):
            node = overridden(node)
            value = node.value
            flag = {"true": True, "false": False}.get(value, value) if isinstance(value, Interpolated) else value
            if short is not None and short.flag is not None and isinstance(value, str) and value in YAML_1_1_BOOLS:
                self._fault(node, path, "type", f"{node.shown()} is not a bool", f"write {YAML_1_1_BOOLS[value]}")
                return None
            if short is not None and short.flag is not None and isinstance(flag, bool):
                return Node(
                    {short.flag: Node(flag, node.mark, node.origin)}, node.mark, node.origin, keys={}, short=short.flag
                )
            if short is not None and short.text is not None and isinstance(value, str):
                entries = {short.text: node}
                if short.flag is not None:
                    entries[short.flag] = Node(True, node.mark, node.origin, implied=True)
                return Node(entries, node.mark, node.origin, keys={}, short=short.text)
            if isinstance(value, str) and "${" in value and (node.unset or self._open_templates) and short is not None:
                self.faulted.add(path)
                return None
        inner = shape.of(value) if isinstance(shape, Choice) else shape
        if isinstance(inner, ListShape):
            return self._list(node, inner, path)
        assert isinstance(inner, SectionShape)
        if not isinstance(value, dict):
            self._wrong_kind(node, shape, inner, path)
            return None
        entries = self._entries(node, inner, path)
        if short is not None and short.flag is not None and short.flag not in entries:
            entries[short.flag] = Node(True, node.mark, node.origin, implied=True)
        return Node(entries, node.mark, node.origin, keys=node.keys)

    def _entries(self, node: Node, shape: SectionShape, path: Path) -> dict[str, Node]:
        entries = {}
        for key, item in node.value.items():
            below = shape.keys.get(key)
            if below is not None:
                expanded = self.expand(item, below, (*path, key), _key_mark(node, key))
                if expanded is not None:
                    entries[key] = expanded
            elif not key.startswith("x-"):
                if self._report.full:
                    self._report.left_out += 1
                    continue
                unknown = unknown_key(key, shape)
                self._fault(node, (*path, key), unknown.code, unknown.message, unknown.hint, _key_mark(node, key))
                if unknown.meant in shape.keys:
                    self.faulted.add((*path, unknown.meant))
                elif unknown.meant is not None:
                    # A key of another kind of section: what this kind would need is not missing.
                    self.faulted |= {(*path, needed) for needed in shape.keys if needed not in node.value}
        return entries

    def _wrong_kind(self, node: Node, shape: SectionShape | Choice, inner: SectionShape, path: Path) -> None:
        forms = []
        if shape.short is not None and shape.short.flag is not None:
            forms += ["true, false"]
        if shape.short is not None and shape.short.text is not None:
            example = inner.example(shape.short.text)
            forms += [f"a text such as {example}"]
        wanted = (", ".join(forms) + " or " if forms else "") + "a mapping"
        if isinstance(shape, Choice):
            wanted = "auto, a list or a mapping"
        keys = ", ".join(list(inner.keys)[:6])
        self._fault(node, path, "type", f"{wanted} is wanted, not {_kind(node)}", f"its keys are {keys}")


def _key_mark(node: Node, key: str) -> Mark | None:
    return node.keys.get(key) if node.keys is not None else None


def _kind(node: Node) -> str:
    if node.template is not None or node.origin.kind == "environment":
        return "a text"
    return quote(node.value)


def _free(node: Node) -> Node:
    """Free-form values keep what YAML makes of them, in overrides too."""
    if isinstance(node.value, dict):
        return Node({key: _free(item) for key, item in node.value.items()}, node.mark, node.origin, keys=node.keys)
    if isinstance(node.value, list):
        return Node([_free(item) for item in node.value], node.mark, node.origin)
    if node.origin.override and node.text is not None:
        with suppress(ValueError):  # a number that JSON has no room for stays text
            return Node(resolve(node.text), node.mark, node.origin)
    return node
