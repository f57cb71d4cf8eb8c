"""One YAML document to a tree of nodes: core schema of YAML 1.2, no surprises, places kept.

Everything that can be hostile is bounded: depth, and values and aliases after aliases are followed.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from pywatt_host.manifest.problems import Problem, Report, quote
from pywatt_host.manifest.yaml.node import Mark, Node, Origin, problem_at, resolve

MAX_DEPTH = 64
MAX_NODES = 30_000
MAX_ALIASES = 1000

# libyaml, where PyYAML was built with it, else the same in Python: ten times slower, otherwise alike.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_LINE_BREAK = re.compile(r"\r\n|\r|\n")
_TAG = "tag:yaml.org,2002:"

# What libyaml and PyYAML say -> what it means to the writer of the file, and what would do.
_SYNTAX = (
    ("tab character that violates", "a tab stands where YAML wants spaces", "indent with spaces"),
    ("found character that cannot start any token", "no value can start with this character", "put the text in quotes"),
    (
        "mapping values are not allowed",
        "a colon stands where no key can be",
        "put a text with a colon and a space in quotes",
    ),
    (
        "could not find expected ':'",
        "this line is neither `key: value` nor part of the one above",
        "is a colon missing?",
    ),
    ("could not find expected ':'".replace("could not find", "did not find"), "a colon is missing after the key", ""),
    ("did not find expected key", "a key is expected here", "check the indentation and the line above"),
    ("did not find expected '-' indicator", "a list entry is expected here", "start it with `- `"),
    ("expected <block end>", "this does not fit the lines above", "check the indentation"),
    ("did not find expected ',' or ']'", "the list is not closed", "a comma or `]` is missing"),
    ("expected ',' or ']'", "the list is not closed", "a comma or `]` is missing"),
    ("did not find expected ',' or '}'", "the mapping is not closed", "a comma or `}` is missing"),
    ("expected ',' or '}'", "the mapping is not closed", "a comma or `}` is missing"),
    ("did not find expected node content", "a value is missing here", "a bracket or brace may not be closed"),
    ("found unexpected end of stream", "the quotes are not closed", ""),
    ("found undefined tag handle", "the tag is not known", "put the text in quotes"),
)


class _StopError(Exception):
    """The fault has been reported, and nothing after it can be read."""


def split_lines(text: str) -> tuple[str, ...]:
    """The lines as YAML and editors count them."""
    return tuple(_LINE_BREAK.split(text))


class _Open:
    """A collection whose end has not been read yet."""

    __slots__ = ("anchor", "first", "height", "key", "key_mark", "merges", "node")

    def __init__(self, node: Node, anchor: str | None, first: int) -> None:
        self.node = node
        self.anchor = anchor
        self.first = first  # how many nodes there were before it
        self.height = 1
        self.key: str | None = None
        self.key_mark: Mark | None = None  # set while the value of a key is awaited
        self.merges: list[tuple[Node, Mark]] = []


def compose(text: str, origin: Origin, report: Report) -> Node | None:
    """The tree of one YAML document. None when it cannot be read to its end; other faults leave a tree."""
    try:
        return _Composer(origin, report).tree(text)
    except _StopError:
        return None
    except yaml.YAMLError as exc:
        report.add(_syntax_problem(exc, origin))
        return None


def _syntax_problem(exc: yaml.YAMLError, origin: Origin) -> Problem:
    problem = str(getattr(exc, "problem", None) or "this cannot be read as YAML")
    began = getattr(exc, "context_mark", None)
    at = getattr(exc, "problem_mark", None) or began
    at_end = at is not None and not "".join(origin.lines[at.line :]).strip()
    if began is not None and (at_end or "unexpected end of stream" in problem):
        at = began  # the opening quote or bracket says more than the end of the file
    mark = Mark(at.line + 1, at.column + 1) if at is not None else Mark(1, 1)
    line = origin.lines[mark.line - 1] if mark.line <= len(origin.lines) else ""
    if "nesting depth" in problem:  # libyaml has a bound of its own, and reads ahead of what it hands out
        return problem_at(origin, mark, (), "too-deep", f"nested deeper than {MAX_DEPTH} levels")
    message, hint = problem, ""
    for words, meaning, remedy in _SYNTAX:
        if words in problem:
            message, hint = meaning, remedy
            break
    if line[mark.column - 1 : mark.column] == "\t":
        message, hint = "a tab stands where YAML wants spaces", "indent with spaces"
    elif "${" in line and message.endswith("is not closed"):
        hint = 'inside of brackets and braces, put "${...}" in quotes'
    if began is not None and began.line + 1 < mark.line and origin.kind == "file":
        hint = (hint + "; " if hint else "") + f"what it belongs to begins in line {began.line + 1}"
    return problem_at(origin, mark, (), "yaml", message, hint)


class _Composer:
    """From the parser's events to nodes, with a stack of its own: neither Python nor C recurses."""

    def __init__(self, origin: Origin, report: Report) -> None:
        self._origin = origin
        self._report = report
        self._stack: list[_Open] = []
        self._anchors: dict[str, tuple[Node, int, int] | None] = {}  # node, nodes in it, height; None while open
        self._nodes = 0
        self._aliases = 0
        self._root: Node | None = None

    def tree(self, text: str) -> Node:
        loader = _LOADER(text)
        try:
            self._read(loader)
        finally:
            loader.dispose()
        return self._root or Node(None, Mark(1, 1), self._origin, text="")

    def _read(self, loader: Any) -> None:
        documents = 0
        while True:
            event = loader.get_event()
            kind = type(event)
            if kind is yaml.ScalarEvent:
                self._scalar(event)
            elif kind is yaml.MappingStartEvent:
                self._open(event, {})
            elif kind is yaml.SequenceStartEvent:
                self._open(event, [])
            elif kind in (yaml.MappingEndEvent, yaml.SequenceEndEvent):
                self._close()
            elif kind is yaml.AliasEvent:
                self._alias(event)
            elif kind is yaml.DocumentStartEvent:
                documents += 1
                if documents > 1:
                    self._stop(
                        _mark(event),
                        "documents",
                        "a second document begins here; a manifest is one",
                        "give it a file of its own",
                    )
            elif kind is yaml.StreamEndEvent:
                return

    def _fault(self, mark: Mark, code: str, message: str, hint: str = "") -> None:
        path = tuple(
            len(frame.node.value) if isinstance(frame.node.value, list) else frame.key
            for frame in self._stack
            if isinstance(frame.node.value, list) or frame.key is not None
        )
        self._report.add(problem_at(self._origin, mark, path, code, message, hint))  # type: ignore[arg-type]

    def _stop(self, mark: Mark, code: str, message: str, hint: str) -> None:
        self._fault(mark, code, message, hint)
        raise _StopError

    def _count(self, mark: Mark, nodes: int, height: int) -> None:
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            message = f"the manifest has more than {MAX_NODES} values, aliases followed"
            self._stop(mark, "too-large", message, "")
        if len(self._stack) + height > MAX_DEPTH:
            self._report.add(problem_at(self._origin, mark, (), "too-deep", f"nested deeper than {MAX_DEPTH} levels"))
            raise _StopError

    def _scalar(self, event: Any) -> None:
        mark = _mark(event)
        value = text = event.value
        self._nodes += 1
        if self._nodes > MAX_NODES:
            self._count(mark, 0, 0)
        plain = event.implicit[0]
        try:
            if plain:
                value = resolve(text)
            elif event.tag is not None and event.tag != "!":
                value = _tagged(event.tag, text)
        except ValueError as exc:
            # As text, so that one fault does not bring a second.
            self._fault(mark, "number" if plain else "tag", f"{quote(text)} {exc}")
        node = Node(value, mark, self._origin, text=text if plain else None)
        if event.anchor is not None:
            self._anchors[event.anchor] = (node, 1, 0)
        self._attach(node)

    def _open(self, event: Any, value: dict[str, Node] | list[Node]) -> None:
        mark = _mark(event)
        self._count(mark, 1, 1)
        wanted = _TAG + ("map" if isinstance(value, dict) else "seq")
        if event.tag not in (None, "!", wanted):
            self._fault(mark, "tag", f"the tag {_short_tag(event.tag)} is not supported", "")
        node = Node(value, mark, self._origin, keys={} if isinstance(value, dict) else None)
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        self._stack.append(_Open(node, event.anchor, self._nodes - 1))

    def _close(self) -> None:
        frame = self._stack.pop()
        for merged, mark in frame.merges:
            self._merge(frame.node, merged, mark)
        if frame.anchor is not None:
            self._anchors[frame.anchor] = (frame.node, self._nodes - frame.first, frame.height)
        if self._stack:
            self._stack[-1].height = max(self._stack[-1].height, frame.height + 1)
        self._attach(frame.node)

    def _alias(self, event: Any) -> None:
        mark = _mark(event)
        self._aliases += 1
        if self._aliases > MAX_ALIASES:
            self._stop(mark, "too-large", f"more than {MAX_ALIASES} aliases", "")
        if event.anchor not in self._anchors:
            self._fault(mark, "alias", f"no anchor &{event.anchor} stands before this alias")
            frame = self._stack[-1] if self._stack else None
            if frame is not None and frame.node.keys is not None and frame.key_mark is None:
                frame.key_mark = mark  # a key that has no name: its value is passed over
            else:
                self._attach(Node("", mark, self._origin, unset=True))
            return
        target = self._anchors[event.anchor]
        if target is None:
            self._stop(mark, "alias", f"the alias *{event.anchor} stands inside of what it names", "")
            return
        node, nodes, height = target
        self._count(mark, nodes, height)
        if self._stack:
            self._stack[-1].height = max(self._stack[-1].height, height + 1)
        self._attach(node, mark)

    def _attach(self, node: Node, alias: Mark | None = None) -> None:
        """Give the node to the collection that is open: as an entry, as a key, or as the value of the last key."""
        mark = alias or node.mark
        if not self._stack:
            self._root = node
            return
        frame = self._stack[-1]
        target = frame.node.value
        if isinstance(target, list):
            target.append(node)
        elif frame.key_mark is None:
            frame.key, frame.key_mark = self._key(node, mark), mark
        else:
            key, key_mark = frame.key, frame.key_mark
            if key == "<<":
                frame.merges.append((node, mark))
            elif key is not None:
                target[key] = node
                assert frame.node.keys is not None
                frame.node.keys[key] = key_mark
            frame.key = frame.key_mark = None

    def _key(self, node: Node, mark: Mark) -> str | None:
        """The key as text; None when it cannot be one, so that its value is passed over."""
        frame = self._stack[-1]
        if not isinstance(node.value, str):
            if isinstance(node.value, dict | list):
                self._fault(mark, "key", f"a key is a text, not {quote(node.value)}", "")
            else:
                kind = {bool: "a bool", int: "an integer", float: "a number"}.get(type(node.value), "empty")
                shown = node.text if node.text is not None else quote(node.value)
                self._fault(
                    mark, "key", f"the key {shown or 'here'} is {kind}, not a text", f'write "{shown}"' if shown else ""
                )
            return None
        first = frame.node.keys.get(node.value) if frame.node.keys is not None else None
        if node.value == "<<" and node.text is not None:
            if frame.merges:
                self._fault(mark, "duplicate-key", "`<<` stands twice", "write `<<: [*a, *b]`")
            return "<<"
        if first is not None:
            message = f"{quote(node.value)} stands twice in the same mapping; first in line {first.line}"
            self._fault(mark, "duplicate-key", message, "remove one of them")
            return None
        return node.value

    def _merge(self, node: Node, merged: Node, mark: Mark) -> None:
        """`<<: *common`: its keys, where the mapping has none of that name; of a list of them the first wins."""
        sources = merged.value if isinstance(merged.value, list) else [merged]
        for source in sources:
            if not isinstance(source.value, dict) or source.keys is None:
                hint = "write `<<: *name` or `<<: [*a, *b]`"
                self._fault(mark, "merge", f"`<<` takes mappings, not {quote(source.value)}", hint)
                return
            assert node.keys is not None
            for key, item in source.value.items():
                if key not in node.value:
                    node.value[key] = item
                    node.keys[key] = source.keys[key]


def _mark(event: Any) -> Mark:
    start, end = event.start_mark, event.end_mark
    line = start.line
    return Mark(line + 1, start.column + 1, end.column + 1 if end.line == line else 0)


def _short_tag(tag: str) -> str:
    return quote(tag.replace(_TAG, "!!"))


def _tagged(tag: str, text: str) -> Any:
    """A scalar with an explicit tag of the core schema. Raises ValueError otherwise."""
    name = tag.removeprefix(_TAG)
    if name == "str":
        return text
    kinds: dict[str, tuple[type, ...]] = {"int": (int,), "bool": (bool,), "null": (type(None),), "float": (float, int)}
    if name not in kinds or not tag.startswith(_TAG):
        raise ValueError(f"has the tag {_short_tag(tag)}, which is not supported")
    value = resolve(text)
    if not isinstance(value, kinds[name]) or (isinstance(value, bool) and name != "bool"):
        raise ValueError(f"does not fit its tag !!{name}")
    return float(value) if name == "float" and isinstance(value, int) else value
