"""Import paths, prefixes, path templates, methods, proxies, and Python files in place of a manifest."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from pydantic import PlainValidator, WithJsonSchema

from pywatt_host.manifest.problems import near_miss
from pywatt_host.manifest.values.scalars import SPACE, Format, fault, text_of, text_schema

IMPORT_PATTERN = (
    r"^(?!.*\.py:)[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*$"
)
_IMPORT = re.compile(IMPORT_PATTERN[1:-1] + r"\Z")


def _import_path(value: Any) -> str:
    text = text_of(value, "an import path", "users.api:create_app")
    if _IMPORT.match(text):
        return str(text)
    meant = _meant_import(text)
    hint = f'; perhaps "{meant}"' if meant is not None else ""
    if "(" in text and meant is not None:
        hint = f' (write "{meant}": the host calls a factory by itself)'
    raise fault("import-path", '"{text}" is not module:attribute{hint}', text=text[:80], hint=hint)


def _meant_import(text: str) -> str | None:
    """The import path that a text was probably meant to be: a file, a module alone, a call, or with a dot."""
    module, colon, attribute = text[:_MAX_MEANT].strip().partition(":")
    file = module.endswith(".py") or "/" in module or "\\" in module
    module = module.replace("\\", "/").removeprefix("./").removesuffix(".py").strip("/").replace("/", ".")
    attribute = re.sub(r"\(.*\)\Z", "", attribute)
    if not colon and not file and "." in module:
        module, _, attribute = module.rpartition(".")
    meant = f"{module}:{attribute or 'app'}"
    return meant if _IMPORT.match(meant) else None


_MAX_MEANT = 200  # characters


ImportPath: TypeAlias = Annotated[
    str,
    PlainValidator(_import_path),
    text_schema(IMPORT_PATTERN),
    Format("an import path", "write module:attribute, such as users.api:create_app"),
]

PREFIX_PATTERN = r"^/([A-Za-z0-9._~!$&'()*+,;=:@-]+(/[A-Za-z0-9._~!$&'()*+,;=:@-]+)*)?$"
_PREFIX = re.compile(PREFIX_PATTERN[1:-1] + r"\Z")


def _prefix(value: Any) -> str:
    text = text_of(value, "a path", "/api")
    if not _PREFIX.match(text) or any(part in (".", "..") for part in text.split("/")):
        raise fault(
            "path",
            '"{text}" is not a path prefix (write / or /api, with a slash at the start and none at the end)',
            text=text[:80],
        )
    return str(text)


Prefix: TypeAlias = Annotated[
    str,
    PlainValidator(_prefix),
    text_schema(r"^(?!(.*/)?\.{1,2}(/|$))" + PREFIX_PATTERN[1:]),
    Format("a path prefix", "write / or /api"),
]

ENDPOINT_PATTERN = rf"^/[^{SPACE}?#<>\\]*$"
_SEGMENT = re.compile(r"(?:[^{}]*|\{[A-Za-z_][A-Za-z0-9_]*(:path)?\})\Z")


def _segment_hint(segment: str) -> str:
    """What to write in place of a parameter with a type or a regular expression, or with text beside it."""
    match = re.fullmatch(r"[^{}]*\{([A-Za-z_]\w*)(?::[^{}]*(?:\{[^{}]*\}[^{}]*)*)?\}[^{}]*", segment)
    return f' (write "{{{match[1]}}}", which matches the whole segment)' if match is not None else ""


def _endpoint_path(value: Any) -> str:
    text = text_of(value, "a path", "/api/users/{id}")
    if not text.startswith("/"):
        fixed = "/" + text.lstrip("^").removesuffix("$").lstrip("/")
        raise fault("path", '"{text}" does not start with "/"; perhaps "{fixed}"', text=text[:80], fixed=fixed[:80])
    if "<" in text or ">" in text:
        fixed = re.sub(
            r"<(?:(path):|[a-z]+:)?([A-Za-z_][A-Za-z0-9_]*)>",
            lambda m: "{" + m[2] + (":path" if m[1] else "") + "}",
            text,
        )
        raise fault(
            "path", '"{text}" is in the form that Flask uses (write "{fixed}")', text=text[:80], fixed=fixed[:80]
        )
    if re.search(rf"[{SPACE}?#\\]", text):
        raise fault(
            "path", '"{text}" contains white space, "?", "#" or a backslash, which a path cannot', text=text[:80]
        )
    segments = text.split("/")[1:]
    names = []
    for number, segment in enumerate(segments):
        if segment in (".", ".."):
            raise fault("path", '"{text}" contains the dot segment "{segment}"', text=text[:80], segment=segment)
        if segment == "" and number != len(segments) - 1:
            raise fault("path", '"{text}" contains an empty segment', text=text[:80])
        if not _SEGMENT.match(segment):
            raise fault(
                "path",
                'the segment "{segment}" is neither literal nor "{name}" nor "{name:path}"{hint}',
                segment=segment[:60],
                hint=_segment_hint(segment),
            )
        if segment.startswith("{"):
            name, _, kind = segment[1:-1].partition(":")
            if kind and number != len(segments) - 1:
                raise fault("path", '"{segment}" matches the rest of the path, so it must come last', segment=segment)
            if name in names:
                raise fault("path", 'the parameter "{name}" is used twice', name=name)
            names.append(name)
    return str(text)


_ENDPOINT_SEGMENT = rf"([^{SPACE}?#<>\\/{{}}]+|\{{[A-Za-z_][A-Za-z0-9_]*\}})"
EndpointPath: TypeAlias = Annotated[
    str,
    PlainValidator(_endpoint_path),
    text_schema(
        r"^(?!(.*/)?\.{1,2}(/|$))/("
        + _ENDPOINT_SEGMENT
        + "(/"
        + _ENDPOINT_SEGMENT
        + r")*(/(\{[A-Za-z_][A-Za-z0-9_]*:path\})?)?"
        r"|\{[A-Za-z_][A-Za-z0-9_]*:path\})?$"
    ),
    Format("a path template", "write a path such as /api/users/{id}"),
]

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "QUERY", "WEBSOCKET", "*")


def _method_hint(text: str) -> str:
    several = re.split(r"[\s,|]+", text.strip().upper())
    if len(several) > 1 and all(each in METHODS for each in several):
        return f" (write a list: [{', '.join(several)}])"
    meant = near_miss(text, [each for each in METHODS if each != "*"])
    return f' (did you mean "{meant}"?)' if meant else ""


def _method(value: Any) -> str:
    text = text_of(value, "a method", "GET")
    if text not in METHODS:
        hint = f'; write "{text.upper()}"' if text.upper() in METHODS else _method_hint(text)
        raise fault("method", '"{text}" is not a method{hint}', text=text[:40], hint=hint)
    return str(text)


Method: TypeAlias = Annotated[
    str,
    PlainValidator(_method),
    WithJsonSchema({"enum": list(METHODS)}),
    Format("a method", "write a method such as GET"),
]


def _network_of(text: str) -> str | None:
    """The network that an address with a prefix length belongs to; None if the text is not such an address."""
    try:
        return str(ipaddress.ip_network(text, strict=False))
    except ValueError:
        return None


def _proxy(value: Any) -> str:
    text = text_of(value, "an address", "10.0.0.0/8")
    if text != "unix":
        try:
            ipaddress.ip_network(text)
        except ValueError:
            wider = _network_of(text)
            if wider is not None:
                raise fault(
                    "proxy", '"{text}" is one address, not a network; perhaps "{wider}"', text=text[:60], wider=wider
                ) from None
            if text == "*":
                meant = '"*" is not a network; to trust every peer, write 0.0.0.0/0 and ::/0'
                raise fault("proxy", meant) from None
            raise fault(
                "proxy", '"{text}" is not an address, a network such as 10.0.0.0/8, or unix', text=text[:60]
            ) from None
    return str(text)


Proxy: TypeAlias = Annotated[
    str,
    PlainValidator(_proxy),
    WithJsonSchema({"type": "string", "minLength": 1}),
    Format("an address, a network or unix", "write 10.0.0.1, 10.0.0.0/8 or unix"),
]


# A Python file in place of a manifest -------------------------------------------------------------------------------

_TARGET = re.compile(r"(?P<path>.+\.py)(?::(?P<name>[^\W\d]\w*))?\Z", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Script:
    """A Python file, and the name of the function to use if the file has several."""

    path: Path
    name: str | None = None

    def __str__(self) -> str:
        return f"{self.path}:{self.name}" if self.name else str(self.path)


def script_of(target: str) -> Script | None:
    """Parse `FILE.py` or `FILE.py:function`; None if the text is neither."""
    match = _TARGET.match(target)
    return Script(Path(match["path"]), match["name"]) if match is not None else None


# Names in the paths of static files -----------------------------------------------------------------------------------

_SHOWN = frozenset({".well-known"})  # names that begin with a dot and are meant for clients (RFC 8615)


def is_hidden(path: str) -> bool:
    """Whether a name in the path of a file begins with a dot, and is not meant for clients."""
    return any(name.startswith(".") and name not in _SHOWN for name in path.split("/") if name not in (".", ".."))
