"""From a tree of nodes to the typed document, and from pydantic's errors to problems that say where they are."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Generic, NamedTuple, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from pywatt_host.manifest.model import Document
from pywatt_host.manifest.model.base import complete
from pywatt_host.manifest.problems import KeyPath, Report, near_miss, quote
from pywatt_host.manifest.schema.normalize import YAML_1_1_BOOLS
from pywatt_host.manifest.schema.shape import Choice, DictShape, SectionShape, Shape, shape_at, text_shape
from pywatt_host.manifest.values import Format
from pywatt_host.manifest.yaml.node import Mark, Node, from_data

_Document = TypeVar("_Document", bound=Document)


_TYPE_NAMES: dict[type, str] = {bool: "a bool", int: "an integer", float: "a number"}


class _Place(NamedTuple):
    """The path of a value, or of a key (`is_key`), in a document of this shape."""

    path: KeyPath
    root: SectionShape
    is_key: bool = False

    @property
    def last(self) -> str:
        return str(self.path[-1]) if self.path else ""

    def parent(self) -> Shape | None:
        return shape_at(self.root, self.path[:-1])

    def format(self) -> Format | None:
        """The format that the text at this place must have."""
        if self.is_key:
            parent = self.parent()
            return parent.key.format if isinstance(parent, DictShape) else None
        leaf = text_shape(shape_at(self.root, self.path))
        return leaf.format if leaf is not None else None


class Typed(NamedTuple, Generic[_Document]):
    """A typed document, and the paths of the faulty values that it is made without.

    `document` is None if too little is left. The path of a list's entry has its number in the file: the typed document
    may have fewer entries.
    """

    document: _Document | None
    left_out: frozenset[KeyPath]


def validate(
    tree: Node, model: type[_Document], shape: SectionShape, faulted: set[KeyPath], report: Report
) -> Typed[_Document]:
    """Make the typed document of a normalized tree. Errors are added to the report, and the document is made without
    the values that have one, so that the checks of the other values can still run.

    `shape` is the shape of `model`. Paths in `faulted` have been reported already and are not reported again. A value
    with a variable that is not set, where that is allowed, has no type, so its key counts as omitted.
    """
    complete(model)
    left_out = set(faulted)
    document: _Document | None = None
    for _ in range(_MAX_ROUNDS):
        try:
            document = model.model_validate(tree.plain())
        except ValidationError as exc:
            found = exc.errors(include_url=False)
        else:
            break
        before = frozenset(left_out)
        # All trails are found before the first entry of a list is left out, which moves the others.
        trails = [(error, _trail(tree, error["loc"]), _is_unset(tree, error["loc"])) for error in found]
        for error, _, unset in trails:
            if not unset:
                _report(error, tree, shape, before, found, report)
        done = [_leave_out(trail, left_out, shape, None if unset else error) for error, trail, unset in trails]
        if not all(done):
            break
    return Typed(document, frozenset(left_out))


_MAX_ROUNDS = 20  # each leaves out what has an error, which may be the reason for others


class _Step(NamedTuple):
    """A node on the way to a location, and the key or position that leads to it from the node before it."""

    part: str | int
    node: Node


def _trail(tree: Node, loc: Sequence[int | str]) -> list[_Step]:
    """The nodes on the way to a location, without those that do not exist or are left out.

    Parts of the location that are neither keys nor positions, such as pydantic's tags of unions, are skipped. Positions
    in `loc` are those in the typed document. In the result, they are those in the file.
    """
    node = tree
    trail = [_Step("", tree)]
    for part in loc:
        below: Node
        if isinstance(part, int) and isinstance(node.value, list):
            kept = node.kept
            if part >= len(kept):
                continue
            part = kept[part]
            below = node.value[part]
        elif isinstance(part, str) and isinstance(node.value, dict) and part in node.value:
            below = node.value[part]
        else:
            continue
        if below.left_out:
            break
        node = below
        trail.append(_Step(part, node))
    return trail


def locate(tree: Node, loc: Sequence[int | str]) -> tuple[Node, KeyPath, KeyPath]:
    """Find the deepest node on the way to a location. Returns the node, its path as the user wrote it, and its path
    with short forms written out."""
    trail = _trail(tree, loc)
    written: KeyPath = ()
    for above, step in pairwise(trail):
        written = written if above.node.short == step.part else (*written, step.part)
    return trail[-1].node, written, _path(trail)


def _path(trail: Sequence[_Step]) -> KeyPath:
    return tuple(step.part for step in trail[1:])


def _is_unset(tree: Node, loc: tuple[int | str, ...]) -> bool:
    node, _, _ = locate(tree, loc)
    return node.unset or (isinstance(node.value, list) and any(item.unset for item in node.value))


def _leave_out(trail: list[_Step], left_out: set[KeyPath], shape: SectionShape, error: ErrorDetails | None) -> bool:
    """Leave out the value that an error is about. Without an error, it is the key whose variable is not set. False if
    that would leave nothing."""
    if error is None:
        while len(trail) > 1 and isinstance(trail[-1].part, int):
            trail = trail[:-1]
        if len(trail) > 1:
            trail[-2].node.leave_out(trail[-1].part)
            trail[-2].node.unset = True  # the mapping counts as unset too, in case it requires the key
        return len(trail) > 1
    node, path = trail[-1].node, _path(trail)
    if error["type"] == "missing":
        key = str(error["loc"][-1])
        if (*path, key) not in left_out and _put_example(node, key, path, shape):
            left_out.add((*path, key))
            return True
    if isinstance(node.value, dict):
        # A key was left out that the section cannot be without, such as one of two keys of which it needs one.
        gone = [key for *above, key in left_out if tuple(above) == path and isinstance(key, str)]
        for key in gone:
            if (key not in node.value or node.value[key].left_out) and _put_example(node, key, path, shape):
                return True
    named = error.get("ctx", {}).get("key")
    if isinstance(node.value, dict) and isinstance(named, str) and named in node.value:
        node.leave_out(named)
        left_out.add((*path, named))
        return True
    if len(trail) > 1:
        trail[-2].node.leave_out(trail[-1].part)
        left_out.add(path)
    return len(trail) > 1


def _put_example(node: Node, key: str, path: KeyPath, root: SectionShape) -> bool:
    """Set a key of a section to its example, so that the other keys of the section can be checked."""
    shape = shape_at(root, path)
    shape = shape.of(node.value) if isinstance(shape, Choice) else shape
    example = shape.example(key) if isinstance(shape, SectionShape) else None
    if example is None or not isinstance(node.value, dict):
        return False
    node.value = {**node.value, key: from_data(example, node.origin)}
    return True


def _report(
    error: ErrorDetails,
    tree: Node,
    shape: SectionShape,
    left_out: frozenset[KeyPath],
    found: list[ErrorDetails],
    report: Report,
) -> None:
    """Report an error, unless it is a consequence of another one."""
    loc = error["loc"]
    node, written, real = locate(tree, loc)
    kind = error["type"]
    if kind == "missing":
        written, real = (*written, str(loc[-1])), (*real, str(loc[-1]))
    if node.unset or any(real[:length] in left_out for length in range(1, len(real) + 1)):
        return
    if report.full:
        report.left_out += 1
        return
    if _follows(error, node, real, left_out) or (kind == "too_short" and _is_consequence(error, found)):
        return
    is_key = bool(loc) and loc[-1] == "[key]"
    code, message, hint = _explain(error, node, _Place(real, shape, is_key))
    mark: Mark | None = None
    if is_key:
        parent, _, _ = locate(tree, real[:-1])
        mark = (parent.keys or {}).get(str(real[-1]))
    named = error.get("ctx", {}).get("key")
    if isinstance(node.value, dict) and isinstance(named, str) and named in node.value:
        node, written = node.value[named], (*written, named)
    report.add(node.problem(written, code, message, hint, mark=mark))


def _follows(error: ErrorDetails, node: Node, real: KeyPath, left_out: frozenset[KeyPath]) -> bool:
    """Whether an error of a mapping or a list may be right once the faults of its parts are corrected."""
    below = [path[len(real) :] for path in left_out if len(path) > len(real) and path[: len(real)] == real]
    if not below:
        return False
    if isinstance(node.value, list):
        return error["type"] == "too_short" or any(len(part) > 1 for part in below)
    if node.short is not None or error["type"] == "too_short":
        return True
    return any(re.search(rf"\b{re.escape(str(part[0]))}\b", error["msg"]) for part in below)


def _is_consequence(error: ErrorDetails, found: list[ErrorDetails]) -> bool:
    """Whether a list is too short only because some of its entries are wrong."""
    place = error["loc"]
    return any(other is not error and other["loc"][: len(place)] == place for other in found)


def _explain(error: ErrorDetails, node: Node, place: _Place) -> tuple[str, str, str]:
    """Code, message and hint."""
    explain = _EXPLAIN.get(error["type"])
    if explain is not None:
        return explain(node, error.get("ctx", {}), place)
    if "_" in error["type"]:  # an error of pydantic itself, not of values or model
        return "invalid", error["msg"] if not node.masked else f"{node.shown()} is not valid here", ""
    return _custom(error, node, place)


def _custom(error: ErrorDetails, node: Node, place: _Place) -> tuple[str, str, str]:
    """The errors of values and model. Their text ends with the hint, in parentheses or after a semicolon."""
    code, message = error["type"], error["msg"]
    if code == "type" and not isinstance(node.value, str):
        wanted, _, example = message.partition(", such as ")
        return code, f"{wanted}, not {quote(node.value)}", f"such as {example}" if example else ""
    format = place.format()
    if node.masked and format is not None and code != "type":
        return code, f"{node.shown()} is not {format.name}", format.hint  # the message would show the value
    match = re.fullmatch(r"(.*?)(?: \(([^()]*)\)|; (perhaps .*|write .*))", message, re.DOTALL)
    return (code, match[1], match[2] or match[3]) if match else (code, message, "")


def _no_integer(node: Node, context: Mapping[str, Any], place: _Place) -> tuple[str, str, str]:
    quoted = isinstance(node.value, str) and re.fullmatch(r"[-+]?[0-9]{1,18}", node.value) is not None
    format = place.format()
    hint = f"write {node.value} without quotes" if quoted and not node.masked else format.hint if format else ""
    return "type", f"{node.shown()} is not an integer", hint


def _no_number(node: Node, context: Mapping[str, Any], place: _Place) -> tuple[str, str, str]:
    return "type", f"{node.shown()} is not a number", ""


def _no_bool(node: Node, context: Mapping[str, Any], place: _Place) -> tuple[str, str, str]:
    meant = YAML_1_1_BOOLS.get(node.value) if isinstance(node.value, str) and not node.masked else None
    return "type", f"{node.shown()} is not a bool", f"write {meant or 'true or false'}, without quotes"


def _no_text(node: Node, context: Mapping[str, Any], place: _Place) -> tuple[str, str, str]:
    kind = _TYPE_NAMES.get(type(node.value))
    if kind is None:
        return "type", f"expected a string, not {quote(node.value)}", ""
    source = node.text if node.text is not None else quote(node.value)
    return "type", f"{source} is {kind}, not a string", f'put it in quotes: "{source}"'


def _no_choice(node: Node, context: Mapping[str, Any], place: _Place) -> tuple[str, str, str]:
    expected = str(context.get("expected", ""))
    choices = re.findall(r"'([^']*)'", expected) or [expected]
    parent = place.parent()
    parent = parent.of({}) if isinstance(parent, Choice) else parent
    if (
        isinstance(node.value, str)
        and isinstance(parent, SectionShape)
        and node.value in parent.keys
        and not node.masked
    ):
        example = parent.example(node.value)
        shown = example if isinstance(example, str) else "..."
        return "choice", f"{node.shown()} is not one of {', '.join(choices)}", f"write {{{node.value}: {shown}}}"
    if not isinstance(node.value, str) and node.text in choices:
        return "choice", f"{node.text} is not a string", f'put it in quotes: "{node.text}"'
    if (
        isinstance(node.value, str)
        and node.value.startswith(".")
        and isinstance(parent, SectionShape)
        and not node.masked
    ):
        named = next((key for key in ("dotenv",) if key in parent.keys), None)
        if named is not None:
            return (
                "choice",
                f"{node.shown()} is not one of {', '.join(choices)}",
                f"write {{{named}: {node.value[:60]}}}",
            )
    if len(choices) == 1:
        return "choice", f"{node.shown()} is not a supported value", f"write {choices[0]}"
    message = f"{node.shown()} is not one of {', '.join(choices)}"
    meant = None
    if isinstance(node.value, str) and not node.masked:
        meant = near_miss(node.value, choices)
        meant = next((each for each in _SAME_MEANING.get(node.value.lower(), ()) if each in choices), meant)
    return "choice", message, f'did you mean "{meant}"?' if meant else ""


# Words of other formats and languages -> ours, of which a key may accept one.
_SAME_MEANING = {
    "integer": ("int",),
    "number": ("float", "int"),
    "double": ("float",),
    "string": ("str",),
    "text": ("str", "console"),
    "boolean": ("bool",),
    "object": ("json",),
    "dict": ("json",),
    "trace": ("debug",),
    "notset": ("debug",),
    "notice": ("info",),
    "fatal": ("critical",),
    "pretty": ("console",),
    "plain": ("console",),
    "human": ("console",),
    "prefork": ("fork",),
    "none": ("off",),
    "never": ("off", "no"),
    "false": ("off",),
    "always": ("on-failure",),
    "oauth": ("oidc", "jwt"),
    "oauth2": ("oidc", "jwt"),
    "openid": ("oidc",),
    "openidconnect": ("oidc",),
    "bearer": ("jwt",),
    "token": ("jwt", "api_key"),
    "apikey": ("api_key",),
    "http": ("basic",),
    "password": ("basic",),
    "certificate": ("mtls",),
    "tls": ("mtls",),
    "tlsv1.2": ("1.2",),
    "tlsv1.3": ("1.3",),
    "tls1.2": ("1.2",),
    "tls1.3": ("1.3",),
    "tlsv1_2": ("1.2",),
    "tlsv1_3": ("1.3",),
}


def _missing(node: Node, context: Mapping[str, Any], place: _Place) -> tuple[str, str, str]:
    parent = place.parent()
    if isinstance(parent, Choice):
        parent = parent.of(node.value)
    example = parent.example(place.last) if isinstance(parent, SectionShape) else None
    return "missing", "this key is required", f"add it, such as {place.last}: {example}" if example is not None else ""


def _bound(words: str, limit: str, key: str) -> Callable[[Node, Mapping[str, Any], _Place], tuple[str, str, str]]:
    def explain(node: Node, context: Mapping[str, Any], place: _Place) -> tuple[str, str, str]:
        shown = node.shown() if node.masked else quote(node.value)
        return "range", f"{shown} is too {words}", f"{limit} {context.get(key)}"

    return explain


def _too_short(node: Node, context: Mapping[str, Any], place: _Place) -> tuple[str, str, str]:
    kind, entry = ("mapping", "key") if isinstance(node.value, dict) else ("list", "entry")
    return "length", f"the {kind} is empty", f"add at least {context.get('min_length')} {entry}"


def _too_long(node: Node, context: Mapping[str, Any], place: _Place) -> tuple[str, str, str]:
    return "length", f"the list has more than {context.get('max_length')} entries", "remove some"


def _empty_text(node: Node, context: Mapping[str, Any], place: _Place) -> tuple[str, str, str]:
    return "length", "the value is empty", "write a value, or remove it"


def _long_text(node: Node, context: Mapping[str, Any], place: _Place) -> tuple[str, str, str]:
    return "length", f"the value has more than {context.get('max_length')} characters", "shorten it"


def _no_match(node: Node, context: Mapping[str, Any], place: _Place) -> tuple[str, str, str]:
    shown = quote(place.last) if place.is_key else node.shown()
    format = place.format()
    if format is None:
        return "pattern", f"{shown} does not match the pattern {context.get('pattern')}", ""
    return "pattern", f"{shown} is not {format.name}", format.hint


def _no_list(node: Node, context: Mapping[str, Any], place: _Place) -> tuple[str, str, str]:
    return "type", f"expected a list, not {quote(node.value) if not node.masked else 'a string'}", ""


def _no_mapping(node: Node, context: Mapping[str, Any], place: _Place) -> tuple[str, str, str]:
    return "type", f"expected a mapping, not {quote(node.value) if not node.masked else 'a string'}", ""


_EXPLAIN: dict[str, Callable[[Node, Mapping[str, Any], _Place], tuple[str, str, str]]] = {
    **dict.fromkeys(("int_type", "int_from_float", "int_parsing", "int_parsing_size"), _no_integer),
    **dict.fromkeys(("float_type", "float_parsing", "finite_number"), _no_number),
    **dict.fromkeys(("bool_type", "bool_parsing"), _no_bool),
    **dict.fromkeys(("string_type", "string_sub_type"), _no_text),
    "literal_error": _no_choice,
    "missing": _missing,
    "greater_than_equal": _bound("small", "write at least", "ge"),
    "less_than_equal": _bound("large", "write at most", "le"),
    "greater_than": _bound("small", "write more than", "gt"),
    "less_than": _bound("large", "write less than", "lt"),
    "too_short": _too_short,
    "too_long": _too_long,
    "string_too_short": _empty_text,
    "string_too_long": _long_text,
    "string_pattern_mismatch": _no_match,
    **dict.fromkeys(("tuple_type", "list_type"), _no_list),
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), _no_mapping),
}
