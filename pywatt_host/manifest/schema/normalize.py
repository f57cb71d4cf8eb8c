"""Checks the structure of a document, and writes its short forms out as mappings, so that layers can be merged.

Structure means: unknown keys, values of the wrong kind, and keys without a value.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import takewhile

from pywatt_host.manifest.model.base import Short
from pywatt_host.manifest.problems import KeyPath, Report, cut_list, printable, quote
from pywatt_host.manifest.schema.shape import (
    Choice,
    DictShape,
    Free,
    Leaf,
    ListShape,
    SectionShape,
    Shape,
    secret_places,
    text_shape,
)
from pywatt_host.manifest.schema.synonyms import unknown_key
from pywatt_host.manifest.values import Interpolated, SecretTemplate
from pywatt_host.manifest.yaml.node import Mark, Node, overridden, resolve

# Words that are bools in YAML 1.1. They are strings here.
YAML_1_1_BOOLS = {
    **dict.fromkeys(("no", "No", "NO", "off", "Off", "OFF"), "false"),
    **dict.fromkeys(("yes", "Yes", "YES", "on", "On", "ON"), "true"),
}


class Normalizer:
    """Compares trees of nodes with the shape of the model, and writes short forms out.

    `root` is the shape of the whole document. Hints need it to say where a key or a secret is allowed. `faulted`
    collects the paths that were reported and left out, so that typing does not report them again. With
    `open_templates`, a `${...}` that was not interpolated (in an inactive profile) is accepted as any scalar.
    """

    def __init__(self, report: Report, root: SectionShape, *, open_templates: bool = False) -> None:
        self._report = report
        self._root = root
        self._open_templates = open_templates
        self.faulted: set[KeyPath] = set()

    def normalize(self, node: Node, shape: Shape, path: KeyPath = (), key: Mark | None = None) -> Node | None:
        """Return a copy with short forms written out and without faulty values; None if nothing is left.

        `key` is the place of the value's key.
        """
        if isinstance(shape, Free):
            return self._free(node, path)
        if node.value is None:
            mark = key if node.text == "" else None
            self._fault(node, path, "no-value", "the key has no value", "add a value, or remove the key", mark)
            return None
        if isinstance(shape, Leaf):
            return self._leaf(node, shape, path)
        if isinstance(shape, ListShape):
            return self._list(node, shape, path)
        if isinstance(shape, DictShape):
            return self._dict(node, shape, path)
        return self._section(node, shape, path)

    def _fault(
        self, node: Node, path: KeyPath, code: str, message: str, hint: str = "", mark: Mark | None = None
    ) -> None:
        self.faulted.add(path)
        if not self._report.full:
            self._report.add(node.problem(path, code, message, hint, mark=mark))
        else:
            self._report.left_out += 1

    def _leaf(self, node: Node, shape: Leaf, path: KeyPath) -> Node | None:
        if not isinstance(node.value, dict) or not shape.keys:
            if isinstance(node.value, dict | list):
                hint = "write a secret with all of it: ${secret:NAME}" if shape.sensitive is not None else ""
                self._fault(node, path, "type", f"expected a single value, not {quote(node.value)}", hint)
                return None
            return self._scalar(node, shape, path)
        entries = {}
        for key, item in node.value.items():
            if key in shape.keys:
                expanded = self.normalize(item, Leaf(), (*path, key), _key_mark(node, key))
                if expanded is not None:
                    entries[key] = expanded
            elif not key.startswith("x-"):
                self._fault(
                    node,
                    (*path, key),
                    "unknown-key",
                    "unknown key",
                    f"known keys: {', '.join(shape.keys)}",
                    _key_mark(node, key),
                )
        return Node(entries, node.mark, node.origin, keys=node.keys)

    def _scalar(self, node: Node, shape: Leaf, path: KeyPath) -> Node | None:
        node = overridden(node)
        if node.origin.override and shape.secret and isinstance(node.value, str) and "${secret:" in node.value:
            template = SecretTemplate.parse(node.value)
            if template is not None:
                return Node(template, node.mark, node.origin, template=node.value)
        if isinstance(node.value, SecretTemplate):
            if not shape.secret:
                self._misplaced(node, path)
                return None
        elif node.origin.kind == "set" and _may_be_secret(shape, node.value):
            names = list(takewhile(lambda part: isinstance(part, str), path))  # a list is replaced whole
            variable = "__".join(["PYWATT", *map(str, names)]).upper()
            message = "this value may be a secret, and every user of the machine can read the arguments of a process"
            hint = f"write ${{secret:NAME}}, or set the environment variable {variable}"
            if not shape.secret:
                hint = f"set the environment variable {variable}"
            self._fault(node, path, "secret-in-argument", message, hint)
            return None
        return node

    def _misplaced(self, node: Node, path: KeyPath) -> None:
        hint = f"secrets are allowed in {', '.join(secret_places(self._root))}"
        message = f"the secret {', '.join(node.value.names)} is not allowed in this value"
        self._fault(node, path, "secret-not-here", message, hint)

    def _free(self, node: Node, path: KeyPath) -> Node | None:
        """Copy a free-form value. Its types are those of YAML, in overrides too."""
        if isinstance(node.value, dict):
            entries = {key: self._free(item, (*path, key)) for key, item in node.value.items()}
            kept = {key: item for key, item in entries.items() if item is not None}
            return Node(kept, node.mark, node.origin, keys=node.keys)
        if isinstance(node.value, list):
            items = [self._free(item, (*path, number)) for number, item in enumerate(node.value)]
            return Node([item for item in items if item is not None], node.mark, node.origin)
        if isinstance(node.value, SecretTemplate):  # in data made in code
            self._misplaced(node, path)
            return None
        if node.origin.override and node.text is not None:
            with suppress(ValueError):  # a number that JSON cannot represent stays a string
                return Node(resolve(node.text), node.mark, node.origin, text=node.text)
        return node

    def _list(self, node: Node, shape: ListShape, path: KeyPath) -> Node | None:
        if not isinstance(node.value, list):
            if shape.one and not (
                isinstance(node.value, dict) and isinstance(shape.item, Leaf) and not shape.item.keys
            ):
                return self.normalize(node, shape.item, path)
            hint = _list_hint(node, shape)
            self._fault(node, path, "type", f"expected a list, not {_kind(node)}", hint)
            return None
        items = [self.normalize(item, shape.item, (*path, number)) for number, item in enumerate(node.value)]
        # An entry that is left out stays as an empty node, so that the positions of the other entries stay right.
        return Node(
            [item or Node(None, old.mark, old.origin) for item, old in zip(items, node.value, strict=True)],
            node.mark,
            node.origin,
        )

    def _named(self, node: Node, path: KeyPath) -> Node:
        """The mapping that a list of names is short for, without entries that are no names or are duplicates."""
        entries: dict[str, Node] = {}
        marks: dict[str, Mark] = {}
        for number, item in enumerate(node.value):
            name = overridden(item).value
            if item.unset:
                continue
            if not isinstance(name, str):
                self._fault(item, (*path, number), "type", f"expected a name, not {quote(name)}", "list names only")
            elif name in entries:
                self._fault(
                    item, (*path, number), "duplicate-key", f"{item.shown()} is listed twice", "remove one of them"
                )
            else:
                entries[str(name)] = Node({}, item.mark, item.origin, keys={})
                marks[str(name)] = item.mark
        return Node(entries, node.mark, node.origin, keys=marks)

    def _dict(self, node: Node, shape: DictShape, path: KeyPath) -> Node | None:
        if shape.names and isinstance(node.value, list):
            return self._named(node, path)
        if not isinstance(node.value, dict):
            hint = "write `key: value` lines below the key"
            if isinstance(node.value, str) and "://" in node.value and not node.masked:
                hint = "write {default: ...}, with a name of your choice in place of default"
            self._fault(node, path, "type", f"expected a mapping, not {_kind(node)}", hint)
            return None
        entries = {}
        for key, item in node.value.items():
            expanded = self.normalize(item, shape.value, (*path, key), _key_mark(node, key))
            if expanded is not None:
                entries[key] = expanded
        return Node(entries, node.mark, node.origin, keys=node.keys)

    def _section(self, node: Node, shape: SectionShape | Choice, path: KeyPath) -> Node | None:
        short = shape.short
        value = node.value
        if short is not None and short.names is not None and isinstance(value, list):
            named = self._named(node, path)
            return Node({short.names: named}, node.mark, node.origin, keys={}, short=short.names)
        if short is not None and short.items is not None and isinstance(value, list):
            assert isinstance(shape, SectionShape)
            listed = self.normalize(node, shape.keys[short.items], path)
            return listed and Node({short.items: listed}, node.mark, node.origin, keys={}, short=short.items)
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
            if short is not None and short.text is not None and _sets_text(value, short):
                entries = {}
                leaf = text_shape(shape)
                whole = node if leaf is None else self._scalar(node, leaf, path)
                if whole is None:
                    return None
                entries[short.text] = whole
                if short.flag is not None:
                    entries[short.flag] = Node(True, node.mark, node.origin, implied=True)
                return Node(entries, node.mark, node.origin, keys={}, short=short.text)
            if isinstance(value, str) and "${" in value and (node.unset or self._open_templates) and short is not None:
                self.faulted.add(path)
                return None
        inner = shape.of(value) if isinstance(shape, Choice) else shape
        if isinstance(inner, ListShape):
            return self._list(node, inner, path)
        if isinstance(inner, Leaf):
            return self._leaf(node, inner, path)
        if isinstance(inner, DictShape):
            return self._dict(node, inner, path)
        assert isinstance(inner, SectionShape)
        if not isinstance(value, dict):
            self._wrong_kind(node, shape, inner, path)
            return None
        entries_shape = shape.shapes.get("list") if isinstance(shape, Choice) else None
        if isinstance(entries_shape, ListShape) and any(key.startswith("/") for key in value):
            hint = _list_hint(node, entries_shape)
            self._fault(node, path, "type", "expected a list, not a mapping with paths as its keys", hint)
            return None
        entries = self._entries(node, inner, path)
        if short is not None and short.flag is not None and short.flag not in entries:
            entries[short.flag] = Node(True, node.mark, node.origin, implied=True)
        return Node(entries, node.mark, node.origin, keys=node.keys)

    def _entries(self, node: Node, shape: SectionShape, path: KeyPath) -> dict[str, Node]:
        entries = {}
        for key, item in node.value.items():
            below = shape.keys.get(key)
            if below is not None:
                expanded = self.normalize(item, below, (*path, key), _key_mark(node, key))
                if expanded is not None:
                    entries[key] = expanded
            elif not key.startswith("x-"):
                if self._report.full:
                    self._report.left_out += 1
                    continue
                unknown = unknown_key(key, shape, self._root)
                self._fault(node, (*path, key), unknown.code, unknown.message, unknown.hint, _key_mark(node, key))
                if unknown.meant is None:
                    continue
                meant = unknown.meant.split(".")
                if meant[0] not in shape.keys:
                    # The key belongs to another kind of section, so the required keys of this kind are not missing.
                    self.faulted |= {(*path, needed) for needed in shape.required if needed not in node.value}
                elif not _has(node, meant):
                    self.faulted.add((*path, *meant))
        return entries

    def _wrong_kind(self, node: Node, shape: SectionShape | Choice, inner: SectionShape, path: KeyPath) -> None:
        forms = []
        if shape.short is not None and shape.short.flag is not None:
            forms += ["true, false"]
        if shape.short is not None and shape.short.text is not None:
            example = inner.example(shape.short.text)
            forms += [f"{'an integer' if shape.short.integer else 'a string'} such as {example}"]
        if shape.short is not None and (shape.short.names is not None or shape.short.items is not None):
            forms += ["a list of names"]
        wanted = (", ".join(forms) + " or " if forms else "") + "a mapping"
        if isinstance(shape, Choice) and shape.short is not None:
            wanted = "auto, a list or a mapping"
        hint = f"keys of the mapping: {cut_list(inner.keys, 6)}"
        if isinstance(shape, SectionShape) and (shape.short is None or node.value is False):
            hint = f"{_section_hint(node, inner)}{hint}"
        self._fault(node, path, "type", f"expected {wanted}, not {_kind(node)}", hint)


# The key that a value which stands for a whole section is probably meant for, the most telling first.
_MAIN_KEYS = ("manifest", "path", "level", "base_url", "listen", "id", "import_path", "url", "name", "type")

_MIN_MASKED_CHARACTERS = 4  # a shorter secret is not masked in source lines, because it matches too many words


def _sets_text(value: object, short: Short) -> bool:
    """Whether a value sets the key that a text is short for."""
    return isinstance(value, str | SecretTemplate) or (short.integer and type(value) is int)


def _may_be_secret(shape: Leaf, value: object) -> bool:
    if shape.sensitive is not None:
        return bool(shape.sensitive.secrets(str(value)))
    return shape.secret


def written_secrets(node: Node, shape: Shape | None) -> Iterator[str]:
    """Find the lines of the secrets that the document contains as plain text. The tree is not normalized yet."""
    value = node.value
    if not isinstance(value, dict | list):
        shape = text_shape(shape)
    if isinstance(shape, Leaf):
        if shape.sensitive is not None and not isinstance(value, dict | list | SecretTemplate):
            text = node.text if node.text is not None else value if isinstance(value, str) else ""
            if "${" not in text:
                lines = (line.strip() for secret in shape.sensitive.secrets(text) for line in secret.splitlines())
                yield from (line for line in lines if len(line) >= _MIN_MASKED_CHARACTERS)
    elif isinstance(value, dict):
        inner = shape.of(value) if isinstance(shape, Choice) else shape
        for key, item in value.items():
            if isinstance(inner, SectionShape):
                # Each profile is a partial manifest.
                below = DictShape(inner) if key == "profiles" else inner.keys.get(key)
                yield from written_secrets(item, below)
            elif isinstance(inner, DictShape):
                yield from written_secrets(item, inner.value)
    elif isinstance(value, list):
        inner = shape.of(value) if isinstance(shape, Choice) else shape
        for item in value:
            yield from written_secrets(item, inner.item if isinstance(inner, ListShape) else None)


def _section_hint(node: Node, shape: SectionShape) -> str:
    """What to write in place of a text that stands for a whole section."""
    main = next((key for key in _MAIN_KEYS if key in shape.keys), None)
    if node.value is False and "scheme" in shape.keys:
        return "write none where everyone may send requests; "
    if main is None or {"required", "default"} <= shape.keys.keys() or not isinstance(node.value, str):
        return ""
    shown = "..." if node.masked or len(node.value) > 40 else printable(node.value)
    if main == "path":
        endpoint = _ENDPOINT.fullmatch(shown)
        if endpoint is None:
            return ""
        methods = f", methods: [{endpoint[1]}]" if endpoint[1] else ""
        return f"write {{path: {endpoint[2]}{methods}}}; "
    return f"write {{{main}: {shown}}}; "


_ENDPOINT = re.compile(r"(?:([A-Z]+) +)?(/[^\s,{}]*)")


def _list_hint(node: Node, shape: ListShape) -> str:
    """What to write in place of a value that is not a list."""
    item, value = shape.item, node.value
    item = item.of(value) if isinstance(item, Choice) else item
    if isinstance(value, str) and not node.masked and re.fullmatch(r"[\w./:-]{1,60}", value):
        return f"write it in brackets: [{value}]"
    if not isinstance(value, dict) or not value:
        return "write `- ` before each entry, or put the entries in brackets: [a, b]"
    names = list(value)
    if isinstance(item, Leaf):
        shown = ", ".join(printable(name[:40]) for name in names[:4])
        return f"write the names alone: [{shown}{', ...' if len(names) > 4 else ''}]"
    if isinstance(item, SectionShape):
        if any(name in item.keys for name in names):
            return "write `- ` before the first key, because this is a list of such mappings"
        path = next((key for key in ("path", "route_prefix", "name") if key in item.keys), None)
        if path is not None:
            below = value[names[0]].value
            more = f", {next(iter(below))}: ..." if isinstance(below, dict) and below else ", ..."
            return f"write a list: [{{{path}: {printable(names[0][:40])}{more}}}]"
    return "write `- ` before each entry"


def _has(node: Node, path: Sequence[str]) -> bool:
    """Whether there is a value at a path below a node."""
    for key in path:
        if not isinstance(node.value, dict) or key not in node.value:
            return False
        node = node.value[key]
    return True


def _key_mark(node: Node, key: str) -> Mark | None:
    return node.keys.get(key) if node.keys is not None else None


def _kind(node: Node) -> str:
    if node.template is not None or node.origin.kind == "environment":
        return "a string"
    return quote(node.value)
