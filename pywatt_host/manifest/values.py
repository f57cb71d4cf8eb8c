"""The value types of a manifest: durations, sizes, rates, listen addresses, paths and names.

Each is a parser from the text in the file to a plain or frozen value, a printer back, and an `Annotated` alias that
carries both into the typed model and the published JSON schema. Parsers raise `PydanticCustomError`, whose type is the
stable code of the fault.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

from pydantic import BeforeValidator, PlainSerializer, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError


class Interpolated(str):
    """Text that came out of `${...}`, an environment override or `--set`: it takes the type that is wanted."""

    __slots__ = ()


_BOOLS = {"true": True, "false": False}
_INT = re.compile(r"[-+]?[0-9]+\Z")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")


def _to_bool(value: Any) -> Any:
    return _BOOLS.get(value, value) if isinstance(value, Interpolated) else value


def to_int(value: Any) -> Any:
    """An integer, where an interpolated text spells one."""
    return int(value) if isinstance(value, Interpolated) and _INT.match(value) and len(value) < 20 else value


def _to_float(value: Any) -> Any:
    if isinstance(value, Interpolated) and _FLOAT.match(value):
        return float(value)
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


Bool: TypeAlias = Annotated[bool, BeforeValidator(_to_bool)]
Int: TypeAlias = Annotated[int, BeforeValidator(to_int)]
Float: TypeAlias = Annotated[float, BeforeValidator(_to_float)]


def _fault(code: str, template: str, **fields: Any) -> PydanticCustomError:
    return PydanticCustomError(code, template, fields)


def _text(value: Any, wanted: str, example: str) -> str:
    if isinstance(value, str):
        return value
    raise _fault("type", "{wanted} is wanted, such as {example}", wanted=wanted, example=example)


# Durations ------------------------------------------------------------------------------------------------------------

# Six decimals: the least duration is a nanosecond, so that no text that looks positive is nothing.
DURATION_PATTERN = r"^([0-9]{1,9}(\.[0-9]{1,6})?(ms|s|m|h))+$"
_DURATION_PART = re.compile(r"([0-9]{1,9})(?:\.([0-9]{1,6}))?(ms|s|m|h)")
_DURATION = re.compile(DURATION_PATTERN[1:-1] + r"\Z")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_NANOS = {"h": 3_600_000_000_000, "m": 60_000_000_000, "s": 1_000_000_000, "ms": 1_000_000}


def parse_duration(value: Any) -> float:
    """`500ms`, `15s`, `1m30s`, `2h` to seconds."""
    if isinstance(value, int) and not isinstance(value, bool):
        raise _fault("duration", '{number} has no unit; perhaps "{number}s"', number=value)
    text = _text(value, "a duration with its unit", "500ms, 15s, 1m30s or 2h")
    if not _DURATION.match(text):
        raise _fault("duration", '"{text}" is not a duration{hint}', text=text[:40], hint=_duration_hint(text))
    millionths = sum(
        (int(whole) * 1_000_000 + int((decimals or "").ljust(6, "0"))) * _NANOS[unit]
        for whole, decimals, unit in _DURATION_PART.findall(text)
    )
    return millionths // 1_000_000 / 1_000_000_000


def _duration_hint(text: str) -> str:
    meant = re.sub(
        r"(?<=[0-9])(ms|s|m|h)[a-z]*", r"\1", re.sub(r"(?<=[0-9])msec[a-z]*", "ms", text.replace(" ", "").lower())
    )
    return f'; perhaps "{meant}"' if _DURATION.match(meant) else " (write 500ms, 15s, 1m30s or 2h)"


def format_duration(seconds: float | None) -> str:
    """The shortest text that `parse_duration` reads back as `seconds`; `off` for None."""
    if seconds is None:
        return "off"
    numerator, denominator = seconds.as_integer_ratio()
    left = (numerator * 2_000_000_000 + denominator) // (2 * denominator)  # nanoseconds, rounded
    if left % 1_000_000 or 0 < left < 1_000_000_000:
        whole, rest = divmod(left, 1_000_000_000)
        millis, nanos = divmod(rest, 1_000_000)
        decimals = f".{nanos:06d}".rstrip("0") if nanos else ""
        return (format_duration(float(whole)) if whole else "") + f"{millis}{decimals}ms"
    parts = []
    for unit, size in _NANOS.items():
        amount, left = divmod(left, size)
        # A number has nine digits at most; more of the largest unit are written as several.
        while amount > 999_999_999:
            parts.append(f"999999999{unit}")
            amount -= 999_999_999
        if amount:
            parts.append(f"{amount}{unit}")
    return "".join(parts) or "0s"


def _positive(parse: Callable[[Any], float]) -> Callable[[Any], float]:
    def checked(value: Any) -> float:
        number = parse(value)
        if number <= 0:
            raise _fault("duration", '"{text}" must be longer than nothing', text=str(value)[:40])
        return number

    return checked


def _or_off(parse: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None or value == "off" else parse(value)


def _schema(pattern: str, *, off: bool = False) -> WithJsonSchema:
    text = {"type": "string", "pattern": pattern}
    return WithJsonSchema({"anyOf": [{"const": "off"}, text]} if off else text)


_POSITIVE_DURATION = r"^(?=.*[1-9])" + DURATION_PATTERN[1:]

Duration: TypeAlias = Annotated[
    float, PlainValidator(parse_duration), PlainSerializer(format_duration), _schema(DURATION_PATTERN)
]
PositiveDuration: TypeAlias = Annotated[
    float,
    PlainValidator(_positive(parse_duration)),
    PlainSerializer(format_duration),
    _schema(_POSITIVE_DURATION),
]
DurationOrOff: TypeAlias = Annotated[
    float | None,
    PlainValidator(_or_off(_positive(parse_duration))),
    PlainSerializer(format_duration),
    _schema(_POSITIVE_DURATION, off=True),
]


# Sizes ----------------------------------------------------------------------------------------------------------------

SIZE_PATTERN = r"^[1-9][0-9]{0,11}(B|KiB|MiB|GiB)$"
_SIZE = re.compile(r"([1-9][0-9]{0,11})(B|KiB|MiB|GiB)\Z")
_OCTETS = {"B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}


def parse_size(value: Any) -> int:
    """`512B`, `64KiB`, `10MiB`, `1GiB` to octets (binary units, as IEC 80000-13 names them)."""
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        raise _fault("size", '{number} has no unit; perhaps "{text}"', number=value, text=format_size(value))
    text = _text(value, "a size with its unit", "64KiB or 10MiB")
    match = _SIZE.match(text)
    if match is None:
        raise _fault("size", '"{text}" is not a size{hint}', text=text[:40], hint=_size_hint(text))
    return int(match[1]) * _OCTETS[match[2]]


def _size_hint(text: str) -> str:
    match = re.fullmatch(r"([1-9][0-9]{0,11}) ?([kmg])(i?b)?", text.lower())
    return f'; perhaps "{match[1]}{match[2].upper()}iB"' if match else " (write 512B, 64KiB, 10MiB or 1GiB)"


def format_size(octets: int | None) -> str:
    """The shortest text that `parse_size` reads back as `octets`; `off` for None."""
    if octets is None:
        return "off"
    for unit in ("GiB", "MiB", "KiB"):
        if octets % _OCTETS[unit] == 0:
            return f"{octets // _OCTETS[unit]}{unit}"
    return f"{octets}B"


Size: TypeAlias = Annotated[int, PlainValidator(parse_size), PlainSerializer(format_size), _schema(SIZE_PATTERN)]
SizeOrOff: TypeAlias = Annotated[
    int | None,
    PlainValidator(_or_off(parse_size)),
    PlainSerializer(format_size),
    _schema(SIZE_PATTERN, off=True),
]


# Rates ----------------------------------------------------------------------------------------------------------------

RATE_PATTERN = r"^[1-9][0-9]{0,8}/(s|m|h)$"
_RATE = re.compile(r"([1-9][0-9]{0,8})/(s|m|h)\Z")


@dataclass(frozen=True, slots=True)
class Rate:
    """At most `count` in every `seconds`, with a burst of `count`."""

    count: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.count}/{ {1.0: 's', 60.0: 'm', 3600.0: 'h'}[self.seconds] }"


def parse_rate(value: Any) -> Rate:
    """`100/s`, `20/m`, `1000/h`."""
    if isinstance(value, int) and not isinstance(value, bool):
        raise _fault("rate", '{number} has no time; perhaps "{number}/s"', number=value)
    text = _text(value, "a rate", "100/s, 20/m or 1000/h")
    match = _RATE.match(text)
    if match is None:
        meant = re.sub(r"^([1-9][0-9]*) ?/ ?([smh])[a-z]*\Z", r"\1/\2", text)
        hint = f'; perhaps "{meant}"' if _RATE.match(meant) else " (write 100/s, 20/m or 1000/h)"
        raise _fault("rate", '"{text}" is not a rate{hint}', text=text[:40], hint=hint)
    return Rate(int(match[1]), _SECONDS[match[2]])


RateLimit: TypeAlias = Annotated[Rate, PlainValidator(parse_rate), PlainSerializer(str), _schema(RATE_PATTERN)]


# Where to listen ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A host (name, IPv4 or IPv6 address; empty for every interface) and a port, 0 for any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A Unix stream socket: its path (relative to the manifest's folder), permission bits and owning group."""

    path: str
    mode: int = 0o600
    group: str | None = None

    def __str__(self) -> str:
        return f"unix:{self.path}"


@dataclass(frozen=True, slots=True)
class FdAddress:
    """A listening socket that the parent process handed down under this descriptor number."""

    fd: int

    def __str__(self) -> str:
        return f"fd:{self.fd}"


@dataclass(frozen=True, slots=True)
class SystemdAddress:
    """Every listening socket that systemd handed over (sd_listen_fds(3))."""

    def __str__(self) -> str:
        return "systemd"


Address: TypeAlias = TcpAddress | UnixAddress | FdAddress | SystemdAddress

LISTEN_PATTERN = r"^(systemd|fd:[0-9]{1,6}|unix:.+|(\[[0-9A-Fa-f:.%a-z]+\]|[A-Za-z0-9._-]*):[0-9]{1,5})$"
_HOST_PORT = re.compile(r"(?:\[([0-9A-Fa-f:.%a-z]+)\]|([A-Za-z0-9._-]*)):([0-9]{1,5})\Z")
MODE_PATTERN = r"^0?[0-7]{3}$"
_MODE = re.compile(r"0?[0-7]{3}\Z")
_LISTEN_FORMS = "host:port, [::1]:port, :port, unix:PATH, fd:N or systemd"


def parse_address(value: Any) -> Address:
    """One entry of `listen`."""
    if isinstance(value, TcpAddress | UnixAddress | FdAddress | SystemdAddress):
        return value
    if isinstance(value, dict):
        return _parse_unix(value)
    if isinstance(value, int) and not isinstance(value, bool):
        raise _fault("address", '{port} is a port without a colon; perhaps ":{port}"', port=value)
    text = _text(value, "an address", _LISTEN_FORMS)
    if text == "systemd":
        return SystemdAddress()
    if text.startswith("fd:") and text[3:].isascii() and text[3:].isdigit() and len(text) <= 9:
        return FdAddress(int(text[3:]))
    if text.startswith("unix:") and len(text) > 5 and "\0" not in text and "\n" not in text:
        return UnixAddress(text[5:])
    match = _HOST_PORT.match(text)
    if match is None or text.startswith(("unix:", "fd:")):
        raise _fault("address", '"{text}" is not an address{hint}', text=text[:80], hint=_address_hint(text))
    host, port = match[1] or match[2], int(match[3])
    if port > 65535:
        raise _fault("address", "port {port} does not exist (0 to 65535)", port=port)
    if match[1] is not None:
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise _fault("address", '"{host}" is not an IPv6 address', host=host[:60]) from None
    return TcpAddress(host, port)


def _address_hint(text: str) -> str:
    scheme, separator, rest = text.partition("://")
    host = (rest if separator else text).rstrip("/")
    port = {"https": 443}.get(scheme, 80) if separator else 8080
    meant = host if _HOST_PORT.match(host) else f":{host}" if host.isdecimal() else f"{host}:{port}"
    fits = _HOST_PORT.match(meant) is not None and host != "" and not text.startswith(("unix:", "fd:"))
    return f'; perhaps "{meant}"' if fits else f" (write {_LISTEN_FORMS})"


def _parse_unix(value: dict[str, Any]) -> UnixAddress:
    unknown = sorted(set(value) - {"unix", "mode", "group"})
    if unknown:
        raise _fault("unknown-key", "unknown key {key} (a socket has unix, mode, group)", key=unknown[0])
    path, mode, group = value.get("unix"), value.get("mode", "0600"), value.get("group")
    if not isinstance(path, str) or not path or "\0" in path:
        raise _fault("address", "a Unix socket wants its path under `unix`")
    if not isinstance(mode, str) or not _MODE.match(mode):
        raise _fault("mode", 'it is not an octal mode (write "0660", with the quotes)', key="mode")
    if group is not None and (not isinstance(group, str) or not group):
        raise _fault("type", "the name of a group is wanted, such as www-data", key="group")
    return UnixAddress(path, int(mode, 8), group)


def dump_address(address: Address) -> str | dict[str, str]:
    """The address as the manifest writes it, the shortest way."""
    if not isinstance(address, UnixAddress) or (address.mode == 0o600 and address.group is None):
        return str(address)
    full = {"unix": address.path, "mode": f"{address.mode:04o}"}
    return full | ({"group": address.group} if address.group is not None else {})


Listen: TypeAlias = Annotated[
    TcpAddress | UnixAddress | FdAddress | SystemdAddress,
    PlainValidator(parse_address),
    PlainSerializer(dump_address),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": LISTEN_PATTERN},
                {
                    "type": "object",
                    "properties": {
                        "unix": {
                            "type": "string",
                            "minLength": 1,
                            "description": "Path of the socket, relative to the manifest's folder.",
                            "examples": ["/run/users/http.sock"],
                        },
                        "mode": {
                            "type": "string",
                            "pattern": MODE_PATTERN,
                            "default": "0600",
                            "description": "Permission bits of the socket, octal, quoted.",
                            "examples": ["0660"],
                        },
                        "group": {
                            "type": "string",
                            "minLength": 1,
                            "description": "Group that owns the socket.",
                            "examples": ["www-data"],
                        },
                    },
                    "required": ["unix"],
                    "additionalProperties": False,
                },
            ]
        }
    ),
]


def as_list(value: Any) -> Any:
    """One value where a list is wanted stands for the list of it."""
    return list(value) if isinstance(value, list | tuple) else [value]


# Names and paths ------------------------------------------------------------------------------------------------------

IMPORT_PATTERN = (
    r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*$"
)
_IMPORT = re.compile(IMPORT_PATTERN[1:-1] + r"\Z")


def _import_path(value: Any) -> str:
    text = _text(value, "an import path", "users.api:create_app")
    if _IMPORT.match(text):
        return str(text)
    hint = ""
    if ":" not in text and "." in text:
        module, _, attribute = text.removesuffix(".py").rpartition(".")
        hint = f'; perhaps "{module}:{attribute}"' if not text.endswith(".py") else f'; perhaps "{text[:-3]}:app"'
    elif ":" not in text:
        hint = f'; perhaps "{text}:app"'
    raise _fault("import-path", '"{text}" is not module:attribute{hint}', text=text[:80], hint=hint)


ImportPath: TypeAlias = Annotated[str, PlainValidator(_import_path), _schema(IMPORT_PATTERN)]

PREFIX_PATTERN = r"^/([A-Za-z0-9._~!$&'()*+,;=:@-]+(/[A-Za-z0-9._~!$&'()*+,;=:@-]+)*)?$"
_PREFIX = re.compile(PREFIX_PATTERN[1:-1] + r"\Z")


def _prefix(value: Any) -> str:
    text = _text(value, "a path", "/api")
    if not _PREFIX.match(text) or any(part in (".", "..") for part in text.split("/")):
        raise _fault(
            "path",
            '"{text}" is not a path prefix (write / or /api: it starts with / and does not end with one)',
            text=text[:80],
        )
    return str(text)


Prefix: TypeAlias = Annotated[str, PlainValidator(_prefix), _schema(r"^(?!(.*/)?\.{1,2}(/|$))" + PREFIX_PATTERN[1:])]

ENDPOINT_PATTERN = r"^/[^\s?#<>\\]*$"
_SEGMENT = re.compile(r"(?:[^{}]*|\{[A-Za-z_][A-Za-z0-9_]*(:path)?\})\Z")


def _endpoint_path(value: Any) -> str:
    text = _text(value, "a path", "/api/users/{id}")
    if not text.startswith("/"):
        raise _fault("path", '"{text}" does not start with "/"', text=text[:80])
    if "<" in text or ">" in text:
        fixed = re.sub(
            r"<(?:(path):|[a-z]+:)?([A-Za-z_][A-Za-z0-9_]*)>",
            lambda m: "{" + m[2] + (":path" if m[1] else "") + "}",
            text,
        )
        raise _fault(
            "path", '"{text}" is written as Flask writes it; here it is "{fixed}"', text=text[:80], fixed=fixed[:80]
        )
    if re.search(r"[\s?#\\]", text):
        raise _fault("path", '"{text}" holds white space, "?", "#" or a backslash, which no path does', text=text[:80])
    segments = text.split("/")[1:]
    names = []
    for number, segment in enumerate(segments):
        if segment in (".", ".."):
            raise _fault("path", '"{text}" holds the dot segment "{segment}"', text=text[:80], segment=segment)
        if segment == "" and number != len(segments) - 1:
            raise _fault("path", '"{text}" holds an empty segment', text=text[:80])
        if not _SEGMENT.match(segment):
            raise _fault(
                "path",
                'the segment "{segment}" is neither literal nor "{name}" nor "{name:path}"',
                segment=segment[:60],
            )
        if segment.startswith("{"):
            name, _, kind = segment[1:-1].partition(":")
            if kind and number != len(segments) - 1:
                raise _fault("path", '"{segment}" takes the rest of the path, so it stands last', segment=segment)
            if name in names:
                raise _fault("path", 'the parameter "{name}" stands twice', name=name)
            names.append(name)
    return str(text)


_ENDPOINT_SEGMENT = r"([^\s?#<>\\/{}]+|\{[A-Za-z_][A-Za-z0-9_]*\})"
EndpointPath: TypeAlias = Annotated[
    str,
    PlainValidator(_endpoint_path),
    _schema(
        r"^(?!(.*/)?\.{1,2}(/|$))/("
        + _ENDPOINT_SEGMENT
        + "(/"
        + _ENDPOINT_SEGMENT
        + r")*(/(\{[A-Za-z_][A-Za-z0-9_]*:path\})?)?"
        r"|\{[A-Za-z_][A-Za-z0-9_]*:path\})?$"
    ),
]

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "QUERY", "WEBSOCKET", "*")


def _method(value: Any) -> str:
    text = _text(value, "a method", "GET")
    if text not in METHODS:
        hint = f'; write "{text.upper()}"' if text.upper() in METHODS else ""
        raise _fault("method", '"{text}" is not a method{hint}', text=text[:40], hint=hint)
    return str(text)


Method: TypeAlias = Annotated[str, PlainValidator(_method), WithJsonSchema({"enum": list(METHODS)})]


def _network_of(text: str) -> str | None:
    """The network of an address written with a prefix length."""
    try:
        return str(ipaddress.ip_network(text, strict=False))
    except ValueError:
        return None


def _proxy(value: Any) -> str:
    text = _text(value, "an address", "10.0.0.0/8")
    if text != "unix":
        try:
            ipaddress.ip_network(text)
        except ValueError as exc:
            wider = _network_of(text)
            if wider is not None:
                raise _fault(
                    "proxy", '"{text}" names one machine; perhaps "{wider}"', text=text[:60], wider=wider
                ) from None
            raise _fault(
                "proxy", '"{text}" is not an address, a network or unix ({why})', text=text[:60], why=str(exc)[:120]
            ) from None
    return str(text)


Proxy: TypeAlias = Annotated[str, PlainValidator(_proxy), WithJsonSchema({"type": "string", "minLength": 1})]
