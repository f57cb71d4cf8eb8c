"""Names of hosts, and names and values of response headers."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Any, TypeAlias

from pydantic import AfterValidator, Field, PlainValidator

from pywatt_host.manifest.values.scalars import Format, fault, text_of, text_schema

_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?"
HOST_PATTERN = rf"^(\*|(\*\.)?{_LABEL}(\.{_LABEL})*\.?|\[[0-9A-Fa-f:.]+\])$"
_HOST = re.compile(HOST_PATTERN[1:-1] + r"\Z")
_HOST_FORMS = "write a name, *.name, an IPv4 address, an IPv6 address in brackets, or *"


def _host(value: Any) -> str:
    text = text_of(value, "a host", "www.example.com")
    if not _HOST.match(text):
        raise fault("host", '"{text}" is not a host{hint}', text=text[:80], hint=_host_hint(text))
    if text.startswith("["):
        try:
            ipaddress.IPv6Address(text[1:-1])
        except ValueError:
            raise fault("host", '"{text}" is not an IPv6 address', text=text[:60]) from None
    return str(text)


def _host_hint(text: str) -> str:
    bare = text.partition("://")[2] or text
    bare = re.sub(r"(?<=[^:]):[0-9]*\Z", "", bare.partition("/")[0])
    try:
        bare = f"[{ipaddress.IPv6Address(text)}]"
    except ValueError:
        pass
    if not bare.isascii():
        try:
            bare = bare.encode("idna").decode()
        except UnicodeError:
            pass
    if bare.startswith("."):
        bare = f"*{bare}"
    return f'; perhaps "{bare}"' if bare != text and _HOST.match(bare) else f" ({_HOST_FORMS})"


AllowedHost: TypeAlias = Annotated[str, PlainValidator(_host), text_schema(HOST_PATTERN), Format("a host", _HOST_FORMS)]

# Response headers -----------------------------------------------------------------------------------------------------

HEADER_NAME_PATTERN = r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$"  # a token (RFC 9110 section 5.6.2)
HEADER_VALUE_PATTERN = r"^[!-~]([\t -~]*[!-~])?$"  # RFC 9110 section 5.5, in ASCII
_HEADER_VALUE = re.compile(HEADER_VALUE_PATTERN[1:-1] + r"\Z")

# What a response header is for that the host or the application decides for each response.
_DECIDED = {
    **dict.fromkeys(("content-length", "transfer-encoding", "trailer"), "it frames the body"),
    **dict.fromkeys(("connection", "keep-alive", "proxy-connection", "te", "upgrade"), "it belongs to one connection"),
    **dict.fromkeys(("date", "x-request-id"), "the host sends it with every response"),
    **dict.fromkeys(
        ("content-encoding", "content-range", "content-type", "etag", "last-modified"), "it describes one body"
    ),
    **dict.fromkeys(("location", "retry-after", "www-authenticate", "allow"), "it depends on the response"),
}


def _header_value(value: Any) -> str:
    text = text_of(value, "the value of a header", "nosniff")
    if _HEADER_VALUE.match(text):
        return str(text)
    if not text:
        raise fault("header", "the value of a header is empty (leave the header out)")
    if text != text.strip() and _HEADER_VALUE.match(text.strip()):
        hint = "in YAML, `>-` in place of `>` or `|` leaves it out" if "\n" in text else "leave it out"
        raise fault("header", "the value of a header begins or ends with white space ({hint})", hint=hint)
    if "\n" in text or "\r" in text:
        raise fault("header", "the value of a header has a line break, which would begin another header")
    raise fault("header", "the value of a header has a character that is not printable ASCII")


def response_headers(headers: dict[str, str]) -> dict[str, str]:
    """Check the names of headers that are put on every response."""
    seen: dict[str, str] = {}
    for name in headers:
        lowered = name.lower()
        why = _DECIDED.get(lowered)
        if lowered.startswith("sec-websocket-"):
            why = "it belongs to one handshake"
        if why is not None:
            message = "{name} cannot be the same in every response: {why}"
            raise fault("conflict", message, name=name, why=why, key=name)
        if lowered in seen:
            raise fault("conflict", "{name} is the same header as {other}", name=name, other=seen[lowered], key=name)
        seen[lowered] = name
    return headers


HeaderName: TypeAlias = Annotated[
    str,
    Field(pattern=HEADER_NAME_PATTERN, max_length=100),
    Format("the name of a header", "use letters, digits and hyphens, such as X-Frame-Options"),
]
HeaderValue: TypeAlias = Annotated[
    str,
    PlainValidator(_header_value),
    text_schema(HEADER_VALUE_PATTERN),
    Format("the value of a header", "write printable ASCII characters"),
]
ResponseHeaders: TypeAlias = Annotated[dict[HeaderName, HeaderValue], AfterValidator(response_headers)]

# Media types ----------------------------------------------------------------------------------------------------------

_TOKEN = r"[!#$%&'+.^_`|~0-9A-Za-z-]+"  # RFC 9110 section 5.6.2, without the asterisk
MEDIA_PATTERN = rf"^{_TOKEN}/(\*|(\*\+)?{_TOKEN})$"

MediaRange: TypeAlias = Annotated[
    str,
    Field(pattern=MEDIA_PATTERN, max_length=100),
    Format("a media type", "write text/html, text/* or application/*+json"),
]
