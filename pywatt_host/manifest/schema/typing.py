"""The tree to the typed manifest, and what the types complain about to problems at the right place."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from pywatt_host.manifest.model import Document
from pywatt_host.manifest.model.app import MODULE_ID
from pywatt_host.manifest.model.auth import HEADER_NAME, HTTP_ORIGIN, HTTP_URL, SCHEME_NAME, SCOPE
from pywatt_host.manifest.model.base import complete
from pywatt_host.manifest.problems import KeyPath, Report, near_miss, quote
from pywatt_host.manifest.schema.normalize import YAML_1_1_BOOLS
from pywatt_host.manifest.schema.shape import Choice, DictShape, SectionShape, Shape, shape_at
from pywatt_host.manifest.values import MODE_PATTERN, SECRET_NAME
from pywatt_host.manifest.yaml.node import Mark, Node

# Code of a custom error -> what to say when its own text would show a value of the environment.
_UNSHOWN = {
    "duration": ("is not a duration", "500ms, 15s, 1m30s or 2h"),
    "size": ("is not a size", "64KiB or 10MiB"),
    "rate": ("is not a rate", "100/s, 20/m or 1000/h"),
    "address": ("is not an address to listen on", "host:port, [::1]:port, :port, unix:PATH, fd:N or systemd"),
    "mode": ("is not an octal mode", '"0660"'),
    "import-path": ("is not module:attribute", "users.api:create_app"),
    "path": ("is not a path of this kind", "/api"),
    "method": ("is not a method", "GET"),
    "proxy": ("is not an address, a network or unix", "10.0.0.0/8"),
    "buckets": ("does not increase", ""),
}

_PATTERNS = {
    MODULE_ID: "letters, digits, dots, dashes and underscores, a letter or digit first, at most 63",
    r"^[a-zA-Z_][a-zA-Z0-9_]*$": "letters, digits and underscores, no digit first",
    r"^/": "it starts with a slash",
    SECRET_NAME: "letters, digits, dots, dashes and underscores, a letter or underscore first, at most 128",
    MODE_PATTERN: 'write "0660", octal digits with the quotes',
    r"^https?://": "such as https://vault.example:8200",
    SCHEME_NAME: "letters, digits, dots, dashes and underscores, a letter first, at most 63",
    HEADER_NAME: "letters, digits and dashes, a letter first, such as X-API-Key",
    SCOPE: "visible characters without spaces, quotes and backslashes; a list of several",
    HTTP_URL: "such as https://id.example/token, without user, query and fragment",
    HTTP_ORIGIN: "such as https://billing.example: scheme, host and port alone",
}


_PATTERN_KINDS = {
    r"^/": "a path",
    MODE_PATTERN: "an octal mode",
    r"^https?://": "an http or https address",
    HEADER_NAME: "the name of a header",
    SCOPE: "a scope",
    HTTP_URL: "an http or https address",
    HTTP_ORIGIN: "an http or https origin",
}

_Document = TypeVar("_Document", bound=Document)


class _Place(NamedTuple):
    """The path of a value, in a document of this shape."""

    path: KeyPath
    root: SectionShape

    @property
    def last(self) -> str:
        return str(self.path[-1]) if self.path else ""

    def parent(self) -> Shape | None:
        return shape_at(self.root, self.path[:-1])


def validate(
    tree: Node, model: type[_Document], shape: SectionShape, faulted: set[KeyPath], report: Report
) -> _Document | None:
    """The typed document of an expanded tree, whose shape is the model's. None after errors, which are in the report.

    What is `faulted` has been reported. A value with a variable that is not set, where that is allowed, cannot be
    typed: its key counts as left out.
    """
    complete(model)
    while True:
        try:
            return model.model_validate(tree.plain())
        except ValidationError as exc:
            found = exc.errors(include_url=False)
        untyped = [error for error in found if _is_unset(tree, error["loc"])]
        keys = {_key_path(tree, error["loc"]) for error in untyped}
        if len(untyped) < len(found) or () in keys:
            break
        for path in keys:
            _leave_out(tree, path)
    for error in found:
        _report(error, tree, shape, faulted, found, report)
    return None


def locate(tree: Node, loc: tuple[int | str, ...]) -> tuple[Node, KeyPath, KeyPath]:
    """The deepest node on the way of a location, the path to it as the user wrote it, and as the model has it."""
    node, shown, path = tree, (), ()
    written: KeyPath = shown
    real: KeyPath = path
    for part in loc:
        if isinstance(part, int) and isinstance(node.value, list) and part < len(node.value):
            node = node.value[part]
            written, real = (*written, part), (*real, part)
        elif isinstance(part, str) and isinstance(node.value, dict) and part in node.value:
            written = written if node.short == part else (*written, part)
            node = node.value[part]
            real = (*real, part)
    return node, written, real


def _is_unset(tree: Node, loc: tuple[int | str, ...]) -> bool:
    node, _, _ = locate(tree, loc)
    return node.unset or (isinstance(node.value, list) and any(item.unset for item in node.value))


def _key_path(tree: Node, loc: tuple[int | str, ...]) -> KeyPath:
    """The path of the key whose value, or an entry of whose list, the location is."""
    _, _, path = locate(tree, loc)
    names = [number for number, part in enumerate(path) if isinstance(part, str)]
    return path[: names[-1] + 1] if names else ()


def _leave_out(tree: Node, path: KeyPath) -> None:
    """Take a key out of its mapping, which is then unset itself, should it not do without."""
    parent, _, _ = locate(tree, path[:-1])
    if isinstance(parent.value, dict):
        parent.value = {key: item for key, item in parent.value.items() if key != path[-1]}
        parent.unset = True


def _report(
    error: ErrorDetails,
    tree: Node,
    shape: SectionShape,
    faulted: set[KeyPath],
    found: list[ErrorDetails],
    report: Report,
) -> None:
    loc = tuple(part for part in error["loc"])
    node, written, real = locate(tree, loc)
    kind = error["type"]
    if kind == "missing":
        written, real = (*written, str(loc[-1])), (*real, str(loc[-1]))
    if node.unset or any(real[:length] in faulted for length in range(1, len(real) + 1)):
        return
    if kind == "too_short" and _consequence(error, found):
        return
    if kind == "conflict" and any(len(path) > len(real) and path[: len(real)] == real for path in faulted):
        return  # it may be there once what is wrong in it is right
    if report.full:
        report.left_out += 1
        return
    code, message, hint = _explain(error, node, _Place(real, shape))
    mark: Mark | None = None
    if loc and loc[-1] == "[key]":
        parent, _, _ = locate(tree, real[:-1])
        mark = (parent.keys or {}).get(str(real[-1]))
    named = error.get("ctx", {}).get("key")
    if isinstance(node.value, dict) and isinstance(named, str) and named in node.value:
        node, written = node.value[named], (*written, named)
    report.add(node.problem(written, code, message, hint, mark=mark))


def _consequence(error: ErrorDetails, found: list[ErrorDetails]) -> bool:
    """Whether a list is only too short because some of its entries are wrong."""
    place = error["loc"]
    return any(other is not error and other["loc"][: len(place)] == place for other in found)


def _explain(error: ErrorDetails, node: Node, place: _Place) -> tuple[str, str, str]:
    """Code, message and hint."""
    kind = error["type"]
    context = error.get("ctx", {})
    explain = _EXPLAIN.get(kind)
    if explain is not None:
        return explain(node, context, place)
    if kind in _UNSHOWN or "-" in kind or kind in ("type", "conflict", "length", "url"):
        return _custom(error, node)
    return "invalid", error["msg"] if not node.masked else f"{node.shown()} is not valid here", ""


def _custom(error: ErrorDetails, node: Node) -> tuple[str, str, str]:
    """The errors of values.py: their text ends with what would do, in parentheses or after a semicolon."""
    code, message = error["type"], error["msg"]
    if node.masked and code in _UNSHOWN:
        what, example = _UNSHOWN[code]
        return code, f"{node.shown()} {what}", f"write {example}" if example else ""
    if code == "type" and not isinstance(node.value, str):
        wanted, _, example = message.partition(", such as ")
        return code, f"{wanted}, not {quote(node.value)}", f"such as {example}" if example else ""
    match = re.fullmatch(r"(.*?)(?: \(([^()]*)\)|; (perhaps .*|write .*))", message, re.DOTALL)
    return (code, match[1], match[2] or match[3]) if match else (code, message, "")


def _no_integer(node: Node, context: Mapping[str, Any], place: _Place) -> tuple[str, str, str]:
    quoted = isinstance(node.value, str) and re.fullmatch(r"[-+]?[0-9]{1,18}", node.value) is not None
    return (
        "type",
        f"{node.shown()} is not an integer",
        f"write {node.value} without quotes" if quoted and not node.masked else "",
    )


def _no_number(node: Node, context: Mapping[str, Any], place: _Place) -> tuple[str, str, str]:
    return "type", f"{node.shown()} is not a number", ""


def _no_bool(node: Node, context: Mapping[str, Any], place: _Place) -> tuple[str, str, str]:
    meant = YAML_1_1_BOOLS.get(node.value) if isinstance(node.value, str) and not node.masked else None
    return "type", f"{node.shown()} is not a bool", f"write {meant or 'true or false'}, without quotes"


def _no_text(node: Node, context: Mapping[str, Any], place: _Place) -> tuple[str, str, str]:
    kind = {bool: "a bool", int: "an integer", float: "a number"}.get(type(node.value))
    if kind is None:
        return "type", f"a text is wanted, not {quote(node.value)}", ""
    source = node.text if node.text is not None else quote(node.value)
    return "type", f"{source} is {kind}, not a text", f'put it in quotes: "{source}"'


def _no_choice(node: Node, context: Mapping[str, Any], place: _Place) -> tuple[str, str, str]:
    expected = str(context.get("expected", ""))
    choices = re.findall(r"'([^']*)'", expected)
    if not choices:
        return "choice", f"{node.shown()} is not {expected}", f"write {expected}"
    if len(choices) == 1:
        return "choice", f'{node.shown()} is not "{choices[0]}"', f"write {choices[0]}"
    message = f"{node.shown()} is not one of {', '.join(choices)}"
    meant = near_miss(node.value, choices) if isinstance(node.value, str) and not node.masked else None
    return "choice", message, f'did you mean "{meant}"?' if meant else ""


def _missing(node: Node, context: Mapping[str, Any], place: _Place) -> tuple[str, str, str]:
    parent = place.parent()
    if isinstance(parent, Choice):
        parent = parent.of(node.value)
    example = parent.example(place.last) if isinstance(parent, SectionShape) else None
    return "missing", "is missing", f"such as {place.last}: {example}" if example is not None else ""


def _bound(words: str, limit: str, key: str) -> Callable[[Node, Mapping[str, Any], _Place], tuple[str, str, str]]:
    def explain(node: Node, context: Mapping[str, Any], place: _Place) -> tuple[str, str, str]:
        shown = "the number given" if node.masked else quote(node.value)
        return "range", f"{shown} is too {words}", f"{limit} {context.get(key)}"

    return explain


def _too_short(node: Node, context: Mapping[str, Any], place: _Place) -> tuple[str, str, str]:
    kind = "mapping" if isinstance(node.value, dict) else "list"
    return "length", f"the {kind} is empty", f"at least {context.get('min_length')} is wanted"


def _too_long(node: Node, context: Mapping[str, Any], place: _Place) -> tuple[str, str, str]:
    return "length", f"the list has more than {context.get('max_length')} entries", ""


def _empty_text(node: Node, context: Mapping[str, Any], place: _Place) -> tuple[str, str, str]:
    return "length", "the text is empty", ""


def _long_text(node: Node, context: Mapping[str, Any], place: _Place) -> tuple[str, str, str]:
    return "length", f"the text has more than {context.get('max_length')} characters", ""


def _no_match(node: Node, context: Mapping[str, Any], place: _Place) -> tuple[str, str, str]:
    pattern = str(context.get("pattern"))
    parent = place.parent()
    value = place.last if isinstance(node.value, dict | list) or parent is None else node.value
    is_key = isinstance(parent, DictShape)
    shown = quote(place.last) if is_key else (node.shown() if node.masked else quote(value))
    hint = _PATTERNS.get(pattern, f"the pattern is {pattern}")
    wanted = _PATTERN_KINDS.get(pattern, "a name of the kind wanted here")
    return "pattern", f"{shown} is not {wanted}", hint


def _no_list(node: Node, context: Mapping[str, Any], place: _Place) -> tuple[str, str, str]:
    return "type", f"a list is wanted, not {quote(node.value) if not node.masked else 'a text'}", ""


def _no_mapping(node: Node, context: Mapping[str, Any], place: _Place) -> tuple[str, str, str]:
    return "type", f"a mapping is wanted, not {quote(node.value) if not node.masked else 'a text'}", ""


_EXPLAIN: dict[str, Callable[[Node, Mapping[str, Any], _Place], tuple[str, str, str]]] = {
    **dict.fromkeys(("int_type", "int_from_float", "int_parsing", "int_parsing_size"), _no_integer),
    **dict.fromkeys(("float_type", "float_parsing", "finite_number"), _no_number),
    **dict.fromkeys(("bool_type", "bool_parsing"), _no_bool),
    **dict.fromkeys(("string_type", "string_sub_type"), _no_text),
    "literal_error": _no_choice,
    "missing": _missing,
    "greater_than_equal": _bound("small", "at least", "ge"),
    "less_than_equal": _bound("large", "at most", "le"),
    "greater_than": _bound("small", "more than", "gt"),
    "less_than": _bound("large", "less than", "lt"),
    "too_short": _too_short,
    "too_long": _too_long,
    "string_too_short": _empty_text,
    "string_too_long": _long_text,
    "string_pattern_mismatch": _no_match,
    **dict.fromkeys(("tuple_type", "list_type"), _no_list),
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), _no_mapping),
}
