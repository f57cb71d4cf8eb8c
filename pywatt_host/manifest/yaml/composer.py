"""From one YAML document, read with the core schema of YAML 1.2, to a tree of nodes that know their places.

A hostile document cannot exhaust memory or time: its depth, its aliases and its values are limited. A value that an
alias refers to counts again for each alias.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any

import yaml

from pywatt_host.manifest.problems import Problem, Report, quote
from pywatt_host.manifest.yaml.node import Mark, Node, Origin, problem_at, resolve

MAX_DEPTH = 64
MAX_NODES = 30_000
MAX_ALIASES = 1000

# libyaml if PyYAML was built with it, otherwise the parser in Python, which is ten times slower.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_LINE_BREAK = re.compile(r"\r\n|\r|\n")
_TAG = "tag:yaml.org,2002:"

_BRACES = re.compile(r"(?<![^\s,:\[{])/[^\s,\[\]\"']*\{")  # the start of a path with a parameter, without quotes
_PLAIN_VALUE = re.compile(r"/(?:[^\s,{}\[\]]|\{[^\s,{}]*\})*")

# Part of a message of libyaml or PyYAML -> our message, and the hint.
_SYNTAX = (
    ("tab character that violates", "a tab is used where YAML requires spaces", "indent with spaces"),
    ("found character that cannot start any token", "a value cannot start with this character", "put it in quotes"),
    (
        "mapping values are not allowed",
        "a colon makes this a key, but no key is allowed here",
        "put a value that contains a colon and a space in quotes",
    ),
    (
        "could not find expected ':'",
        "this line is neither `key: value` nor part of the line above",
        "check for a missing colon",
    ),
    ("did not find expected ':'", "the colon after the key is missing", "add it"),
    ("did not find expected key", "expected a key here", "check the indentation and the line above"),
    ("did not find expected '-' indicator", "expected a list entry here", "start it with `- `"),
    ("expected <block end>", "this line does not fit the lines above", "check the indentation"),
    ("did not find expected ',' or ']'", "the list is not closed", "add a comma or `]`"),
    ("expected ',' or ']'", "the list is not closed", "add a comma or `]`"),
    ("did not find expected ',' or '}'", "the mapping is not closed", "add a comma or `}`"),
    ("expected ',' or '}'", "the mapping is not closed", "add a comma or `}`"),
    ("did not find expected node content", "a value is missing here", "check for an unclosed bracket or brace"),
    ("found unexpected end of stream", "the quotes are not closed", "add the closing quote"),
    ("alphabetic or numeric character", "`*` or `&` begins an alias or an anchor here", "put the value in quotes"),
    ("found undefined tag handle", "the tag is not known", "put the value in quotes"),
)


class _StopError(Exception):
    """A fault has been reported, and the text after it cannot be read."""


def split_lines(text: str) -> tuple[str, ...]:
    """Split a text into lines as YAML and editors count them."""
    return tuple(_LINE_BREAK.split(text))


class _OpenCollection:
    """A collection whose end has not been read yet."""

    __slots__ = ("anchor", "first", "height", "key", "key_mark", "merges", "node")

    def __init__(self, node: Node, anchor: str | None, first: int) -> None:
        self.node = node
        self.anchor = anchor
        self.first = first  # the number of nodes before it
        self.height = 1
        self.key: str | None = None
        self.key_mark: Mark | None = None  # set between a key and its value
        self.merges: list[tuple[Node, Mark]] = []


def compose(text: str, origin: Origin, report: Report) -> Node | None:
    """Make the tree of one YAML document. None if a fault prevents reading to the end; other faults leave a tree."""
    try:
        return _Composer(origin, report).tree(text, _LOADER)
    except _StopError:
        return None
    except yaml.YAMLError as exc:
        report.add(_depth_problem(text, exc, origin) or _syntax_problem(exc, origin))
        return None


def _depth_problem(text: str, exc: yaml.YAMLError, origin: Origin) -> Problem | None:
    """The fault of a text that is nested too deeply; None if the parser's error has another reason.

    Some versions of libyaml refuse deep nesting themselves while they look ahead, before this module can count the
    levels. The parser in Python does not, so it reads the text up to the error again.
    """
    mark = getattr(exc, "problem_mark", None)
    before = text[: mark.index] if mark is not None else ""
    if before.count("[") + before.count("{") <= MAX_DEPTH:
        return None
    found = Report()
    with suppress(_StopError, yaml.YAMLError):
        _Composer(origin, found).tree(before, yaml.SafeLoader)
    return next((problem for problem in found.problems if problem.code == "too-deep"), None)


def _syntax_problem(exc: yaml.YAMLError, origin: Origin) -> Problem:
    problem = str(getattr(exc, "problem", None) or "this is not valid YAML")
    began = getattr(exc, "context_mark", None)
    at = getattr(exc, "problem_mark", None) or began
    at_end = at is not None and not "".join(origin.lines[at.line :]).strip()
    if began is not None and (at_end or "unexpected end of stream" in problem):
        at = began  # the opening quote or bracket is more useful than the end of the file
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
        message, hint = "a tab is used where YAML requires spaces", "indent with spaces"
    elif "${" in line and message.endswith("is not closed"):
        hint = 'inside brackets and braces, put "${...}" in quotes'
    elif message.endswith("is not closed") and (value := _BRACES.search(line[: mark.column])):
        whole = _PLAIN_VALUE.match(line, value.start())
        hint = f'inside brackets and braces, put the value in quotes: "{whole[0] if whole else value[0]}"'
    if began is not None and began.line + 1 < mark.line and origin.kind == "file":
        hint = (hint + "; " if hint else "") + f"the enclosing block starts in line {began.line + 1}"
    return problem_at(origin, mark, (), "yaml", message, hint)


class _Composer:
    """Makes nodes from the parser's events. It keeps its own stack, so a deep document does not recurse."""

    def __init__(self, origin: Origin, report: Report) -> None:
        self._origin = origin
        self._report = report
        self._stack: list[_OpenCollection] = []
        self._anchors: dict[
            str, tuple[Node, int, int] | None
        ] = {}  # node, number of nodes in it, height; None while it is open
        self._nodes = 0
        self._aliases = 0
        self._root: Node | None = None

    def tree(self, text: str, loader_class: Any) -> Node:
        """Read the whole text. Raises YAMLError for a fault of syntax and _StopError after a reported fault."""
        loader = loader_class(text)
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
                        "a second document starts here, but a manifest is a single document",
                        "move it to a separate file",
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
            message = f"the manifest has more than {MAX_NODES} values, where each alias counts as what it refers to"
            self._stop(mark, "too-large", message, "move data out of the manifest")
        if len(self._stack) + height > MAX_DEPTH:
            message = f"the values are nested deeper than {MAX_DEPTH} levels"
            self._report.add(problem_at(self._origin, mark, (), "too-deep", message, "use fewer levels"))
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
            # The value stays a string, so that one fault does not cause a second.
            hint = "put it in quotes if it is a string" if plain else "remove the tag"
            self._fault(mark, "number" if plain else "tag", f"{quote(text)} {exc}", hint)
        node = Node(value, mark, self._origin, text=text if plain else None)
        if event.anchor is not None:
            self._anchors[event.anchor] = (node, 1, 0)
        self._attach(node)

    def _open(self, event: Any, value: dict[str, Node] | list[Node]) -> None:
        mark = _mark(event)
        self._count(mark, 1, 1)
        wanted = _TAG + ("map" if isinstance(value, dict) else "seq")
        if event.tag not in (None, "!", wanted):
            self._fault(mark, "tag", f"the tag {_short_tag(event.tag)} is not supported", "remove the tag")
        node = Node(value, mark, self._origin, keys={} if isinstance(value, dict) else None)
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        self._stack.append(_OpenCollection(node, event.anchor, self._nodes - 1))

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
            self._stop(mark, "too-large", f"the manifest has more than {MAX_ALIASES} aliases", "use fewer aliases")
        if event.anchor not in self._anchors:
            message = f"the anchor &{event.anchor} is not defined before this alias"
            self._fault(mark, "alias", message, "define the anchor first")
            frame = self._stack[-1] if self._stack else None
            if frame is not None and frame.node.keys is not None and frame.key_mark is None:
                frame.key_mark = mark  # the key has no name, so its value is ignored
            else:
                self._attach(Node("", mark, self._origin, unset=True))
            return
        target = self._anchors[event.anchor]
        if target is None:
            message = f"the alias *{event.anchor} is inside the value that it refers to"
            self._stop(mark, "alias", message, "remove the alias")
            return
        node, nodes, height = target
        self._count(mark, nodes, height)
        if self._stack:
            self._stack[-1].height = max(self._stack[-1].height, height + 1)
        self._attach(node, mark)

    def _attach(self, node: Node, alias: Mark | None = None) -> None:
        """Add the node to the open collection: as an entry, as a key, or as the value of the last key."""
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
        """The key as a string; None if it is not valid, so that its value is ignored."""
        frame = self._stack[-1]
        if not isinstance(node.value, str):
            if isinstance(node.value, dict | list):
                self._fault(mark, "key", f"a key must be a string, not {quote(node.value)}", "")
            else:
                kind = {bool: "a bool", int: "an integer", float: "a number"}.get(type(node.value), "null")
                shown = node.text if node.text is not None else quote(node.value)
                if shown:
                    self._fault(mark, "key", f"the key {shown} is {kind}, not a string", f'write "{shown}"')
                else:
                    self._fault(mark, "key", "the key is empty", "write a name before the colon")
            return None
        first = frame.node.keys.get(node.value) if frame.node.keys is not None else None
        if node.value == "<<" and node.text is not None:
            if frame.merges:
                self._fault(mark, "duplicate-key", "`<<` is used twice", "write `<<: [*a, *b]`")
            return "<<"
        if first is not None:
            message = f"{quote(node.value)} is already a key of this mapping, in line {first.line}"
            self._fault(mark, "duplicate-key", message, "remove one of them")
            return None
        return node.value

    def _merge(self, node: Node, merged: Node, mark: Mark) -> None:
        """Merge `<<: *common`: add the keys that the mapping does not have. In a list of mappings, the first wins."""
        sources = merged.value if isinstance(merged.value, list) else [merged]
        for source in sources:
            if not isinstance(source.value, dict) or source.keys is None:
                hint = "write `<<: *name` or `<<: [*a, *b]`"
                self._fault(mark, "merge", f"`<<` merges mappings only, not {quote(source.value)}", hint)
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
    """Convert a scalar with an explicit tag of the core schema. Raises ValueError for any other tag or value."""
    name = tag.removeprefix(_TAG)
    if name == "str":
        return text
    kinds: dict[str, tuple[type, ...]] = {"int": (int,), "bool": (bool,), "null": (type(None),), "float": (float, int)}
    if name not in kinds or not tag.startswith(_TAG):
        raise ValueError(f"has the tag {_short_tag(tag)}, which is not supported")
    value = resolve(text)
    if not isinstance(value, kinds[name]) or (isinstance(value, bool) and name != "bool"):
        raise ValueError(f"does not match its tag !!{name}")
    return float(value) if name == "float" and isinstance(value, int) else value
