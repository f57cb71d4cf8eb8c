"""Replaces `${...}` in the values of a manifest, in one pass. Replaced text is not searched again.

`${VAR}` requires the variable. If the variable is unset or empty, `${VAR:-default}` gives the default, and
`${VAR:?message}` is a fault with the message, as in Compose files. Defaults and messages may contain further `${...}`.
`${dir}` is the manifest's folder. `$${` is a literal `${`. Every other dollar is plain text. `${secret:NAME}` makes the
value a SecretTemplate, if the shape allows secrets there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from pywatt_host.manifest.problems import KeyPath, Report, near_miss
from pywatt_host.manifest.schema.shape import DictShape, Leaf, SectionShape, Shape, secret_places, shape_at, text_shape
from pywatt_host.manifest.values import SECRET_NAME, Interpolated, SecretReference, SecretTemplate
from pywatt_host.manifest.yaml.node import Mark, Node, Origin

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SECRET = re.compile(SECRET_NAME[1:-1])
_FORMS = "write ${NAME}, ${NAME:-default} or ${NAME:?message}; write $${ for a literal ${"
_MAX_DEPTH = 8
_OTHER_FORM = re.compile(r"([A-Za-z_]\w*)(:=|[:.?=-])(.*)", re.DOTALL)  # expressions of shells and of CI


@dataclass(frozen=True, slots=True)
class Variables:
    """The variables that `${NAME}` refers to. With `allow_unset`, an unset variable is a warning and its text stays.

    `unset` collects the names of these variables.
    """

    environ: Mapping[str, str]
    directory: str
    allow_unset: bool = False
    unset: set[str] = field(default_factory=set)

    def get(self, name: str) -> str | None:
        """The variable's value; None if it is unset."""
        return self.directory if name == "dir" else self.environ.get(name)


def interpolate(
    node: Node, shape: SectionShape, variables: Variables, report: Report, *, origin: Origin | None = None
) -> Node:
    """Return a copy of the tree with every text interpolated. `origin`, if given, replaces the origin of every node.

    `shape` is the shape of the tree, whose short forms are not written out yet.
    """
    if origin is None and not _may_hold_templates(node.origin):
        return node
    return _Interpolation(shape, variables, report, origin).copy(node, ())


def _may_hold_templates(origin: Origin) -> bool:
    # A backslash may start an escape that stands for a dollar.
    return not origin.lines or any("${" in line or "\\" in line for line in origin.lines)


class _Interpolation:
    """Interpolates one tree."""

    def __init__(self, shape: SectionShape, variables: Variables, report: Report, origin: Origin | None) -> None:
        self._shape = shape
        self._variables = variables
        self._report = report
        self._origin = origin

    def copy(self, node: Node, path: KeyPath) -> Node:
        """Return a copy of the node and all nodes below it, interpolated."""
        value, source = node.value, self._origin or node.origin
        if isinstance(value, dict):
            return Node(
                {key: self.copy(item, (*path, key)) for key, item in value.items()}, node.mark, source, keys=node.keys
            )
        if isinstance(value, list):
            return Node([self.copy(item, (*path, number)) for number, item in enumerate(value)], node.mark, source)
        if not isinstance(value, str) or "${" not in value:
            return Node(value, node.mark, source, text=node.text)
        reader = _Template(value, node, path, self._shape, self._variables, self._report)
        read = reader.read()
        if reader.unset:
            return Node(value, node.mark, source, unset=True)
        if reader.faulty:
            # The fault has been reported. The resulting text is unknown.
            return Node(Interpolated(""), node.mark, source, template=value, unset=True)
        if isinstance(read, SecretTemplate):
            return Node(read, node.mark, source, template=value)
        if not reader.used:
            return Node(read, node.mark, source)
        return Node(Interpolated(read), node.mark, source, template=value)


_Parts: TypeAlias = list[str | SecretReference]


class _Template:
    """Interpolates the text of one scalar."""

    def __init__(
        self, template: str, node: Node, path: KeyPath, shape: SectionShape, variables: Variables, report: Report
    ) -> None:
        self._template = template
        self._node = node
        self._path = path
        self._root = shape
        self._leaf = text_shape(shape_at(shape, path))
        self._variables = variables
        self._report = report
        self._at = 0
        self._depth = 0
        self.used = self.unset = self.faulty = False

    def read(self) -> str | SecretTemplate:
        """Return the interpolated text. Faults are added to the report."""
        parts = self._until_end(inside=False, wanted=True) or []
        return SecretTemplate.joined(parts) or "".join(part for part in parts if isinstance(part, str))

    def _until_end(self, *, inside: bool, wanted: bool) -> _Parts | None:
        """Read up to the end or, inside braces, up to the closing brace. None if the closing brace is missing.

        Text that is not `wanted` (the default of a variable that is set) is skipped: its variables may be unset.
        """
        template = self._template
        parts: _Parts = []
        while self._at < len(template):
            if inside and template[self._at] == "}":
                self._at += 1
                return parts
            if template.startswith("$${", self._at):
                self._at += 3
                parts.append("${")
            elif template.startswith("${", self._at):
                parts += self._expression(wanted=wanted)
            else:
                parts.append(template[self._at])
                self._at += 1
        return None if inside else parts

    def _expression(self, *, wanted: bool) -> _Parts:
        start = self._at
        used, self.used = self.used, True
        self._at += 2
        name_match = _NAME.match(self._template, self._at)
        name = name_match[0] if name_match else ""
        self._at += len(name)
        operator = self._template[self._at : self._at + 2]
        if name and operator[:1] == "}":
            self._at += 1
            if self._leaf is not None and name in self._leaf.placeholders:
                self.used = used
                return [f"${{{name}}}"]
            return [self._required(name, start)] if wanted else []
        if name == "secret" and operator[:1] == ":" and operator not in (":-", ":?"):
            return self._secret(start, wanted=wanted)
        if not name or operator not in (":-", ":?"):
            hint = self._meant(start, name) or _FORMS
            self._fault(start, "interpolation", "this `${` must be followed by a name and a closing brace", hint)
            self._skip()
            return []
        self._at += 2
        value = self._variables.get(name)
        if self._depth == _MAX_DEPTH:
            self._fault(start, "interpolation", f"defaults are nested deeper than {_MAX_DEPTH} levels", "use fewer")
            self._at = len(self._template)
            return []
        self._depth += 1
        begin = self._at
        other = self._until_end(inside=True, wanted=wanted and not value and operator == ":-")
        self._depth -= 1
        if other is None and not self.faulty:
            self._fault(start, "interpolation", f"the closing brace of `${{{name}` is missing", _FORMS)
        if other is None:
            return []
        if value or not wanted:
            return [value or ""]
        if operator == ":-":
            return other
        state = "is not set" if value is None else "is empty"
        # The message is shown as it is written, because the value of a variable in it may be a secret.
        message = self._template[begin : self._at - 1] or "a value is required"
        self._fault(start, "variable-required", f"the environment variable {name} {state}: {message}", f"set {name}")
        return []

    def _meant(self, start: int, name: str) -> str | None:
        """What to write in place of an expression that other tools have, or that is misspelled."""
        end = self._template.find("}", start)
        inside = self._template[start + 2 : end if end >= 0 else None].strip("{} ")
        match = _OTHER_FORM.fullmatch(inside)
        if match is None:
            return None
        word, separator, rest = match.groups()
        named = _SECRET.fullmatch(rest)
        if named is not None and separator in (":", ".") and near_miss(word, ("secret", "secrets")):
            return f"did you mean ${{secret:{rest}}}?"
        if separator in (":", ".") and word.lower() in ("env", "environ", "vars", "var") and _NAME.fullmatch(rest):
            return f"write ${{{rest}}} for an environment variable"
        if separator in ("-", "?", "=", ":="):
            return f"write ${{{word}:{'?' if separator == '?' else '-'}{rest[:40]}}}"
        return None

    def _secret(self, start: int, *, wanted: bool) -> _Parts:
        """Read the rest of `${secret:NAME}`, from the colon on."""
        self._at += 1
        match = _SECRET.match(self._template, self._at)
        if match is None or not self._template.startswith("}", match.end()):
            message = "`${secret:` must be followed by the name of a secret and a closing brace"
            self._fault(start, "interpolation", message, "write ${secret:NAME}, without a default")
            self._skip()
            return []
        self._at = match.end() + 1
        if self._leaf is not None and self._leaf.secret:
            return [SecretReference(match[0])] if wanted else []
        if self._in_unknown_section():
            self.faulty = True  # the key above is reported, and perhaps secrets are allowed where it belongs
            return []
        places = ", ".join(secret_places(self._root))
        hint = f"secrets are allowed in {places}"
        self._fault(start, "secret-not-here", f"the secret {match[0]} is not allowed in this value", hint)
        return []

    def _in_unknown_section(self) -> bool:
        """Whether the value belongs to a key that its section does not have, or is no mapping where one is expected."""
        above: Shape = self._root
        for length, key in enumerate(self._path, 1):
            shape = shape_at(self._root, self._path[:length])
            if shape is None:
                return not (isinstance(above, Leaf) and str(key) in above.keys)
            above = shape
        return isinstance(above, DictShape) or (isinstance(above, SectionShape) and above.short is None)

    def _required(self, name: str, start: int) -> str:
        value = self._variables.get(name)
        if value is not None:
            return value
        message = f"the environment variable {name} is not set"
        if self._variables.allow_unset:
            self.unset = True
            self._variables.unset.add(name)
            mark = self._mark(start)
            problem = self._node.problem(self._path, "variable-unset", message, severity="warning", mark=mark)
            self._report.add(problem)
            return ""
        meant = None if self._report.full else near_miss(name, self._variables.environ)
        hint = f"did you mean ${{{meant}}}?" if meant else f"set it, or write ${{{name}:-default}}"
        self._fault(start, "variable-unset", message, hint)
        return ""

    def _skip(self) -> None:
        """Continue after the next closing brace, so that one fault does not cause others."""
        end = self._template.find("}", self._at)
        self._at = len(self._template) if end < 0 else end + 1

    def _fault(self, start: int, code: str, message: str, hint: str) -> None:
        self.faulty = True
        self._report.add(self._node.problem(self._path, code, message, hint, mark=self._mark(start)))

    def _mark(self, start: int) -> Mark:
        """The place of the `${` at `start` in the file; the place of the scalar if the exact place is unknown."""
        line, column, end = self._node.mark
        lines = self._node.origin.lines
        if not end or not 0 < line <= len(lines):
            return self._node.mark
        source = lines[line - 1][column - 1 : end - 1]
        if source.count("${") != self._template.count("${"):
            return self._node.mark
        at = -1
        for _ in range(self._template.count("${", 0, start + 1) + 1):
            at = source.find("${", at + 1)
        close = source.find("}", at)
        return Mark(line, column + at, column + close + 1 if close > 0 else end)
