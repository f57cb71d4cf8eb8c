"""The values of `format` that are checked. Any other format is an annotation, as JSON Schema has it by default."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from datetime import date
from uuid import UUID

from pywatt_host.manifest.schema.ecmascript import compiled
from pywatt_host.manifest.schema.ecmascript_parser import PatternError

# RFC 3339; a second may be a leap second.
_TIME = re.compile(r"([01]\d|2[0-3]):[0-5]\d:([0-5]\d|60)(\.\d+)?(Z|z|[+-]([01]\d|2[0-3]):[0-5]\d)\Z", re.ASCII)
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}\Z", re.ASCII)
_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST = re.compile(rf"{_LABEL}(\.{_LABEL})*\Z")
_MAIL = re.compile(rf"[A-Za-z0-9.!#$%&'*+/=?^_`{{|}}~-]{{1,64}}@{_LABEL}(\.{_LABEL})*\Z")
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[!-~]*\Z")
_DURATION = re.compile(
    r"P(\d+W|(\d+Y)?(\d+M)?(\d+D)?(T(?=\d)(\d+H)?(\d+M)?(\d+S)?)?)(?<!P)\Z", re.ASCII
)  # RFC 3339, appendix A

# What a message calls a text of the format.
NAMES = {
    "date": "a date such as 2026-01-31",
    "time": "a time such as 12:30:00Z",
    "date-time": "a date and time such as 2026-01-31T12:30:00Z",
    "duration": "a duration such as PT15M",
    "email": "an email address",
    "hostname": "a host name",
    "ipv4": "an IPv4 address",
    "ipv6": "an IPv6 address",
    "uri": "a URI with its scheme",
    "uuid": "a UUID",
    "regex": "a regular expression of ECMA-262",
}


def _is_date(text: str) -> bool:
    if not _DATE.match(text):
        return False
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


def _is_moment(text: str) -> bool:
    return text[10:11] in ("T", "t") and _is_date(text[:10]) and _TIME.match(text[11:]) is not None


def _is_uuid(text: str) -> bool:
    try:
        return str(UUID(text)) == text.lower()
    except ValueError:
        return False


def _is_address(kind: type[ipaddress.IPv4Address | ipaddress.IPv6Address]) -> Callable[[str], bool]:
    def test(text: str) -> bool:
        try:
            kind(text)
        except ValueError:
            return False
        return "%" not in text

    return test


def _is_pattern(text: str) -> bool:
    try:
        compiled(text)
    except PatternError:
        return False
    return True


def _of_text(test: Callable[[str], object]) -> Callable[[object], bool]:
    """A format says something about texts only."""
    return lambda value: not isinstance(value, str) or bool(test(value))


FORMATS: dict[str, Callable[[object], bool]] = {
    "date": _of_text(_is_date),
    "time": _of_text(_TIME.match),
    "date-time": _of_text(_is_moment),
    "duration": _of_text(_DURATION.match),
    "email": _of_text(_MAIL.match),
    "hostname": _of_text(lambda text: len(text) <= 253 and _HOST.match(text)),
    "ipv4": _of_text(_is_address(ipaddress.IPv4Address)),
    "ipv6": _of_text(_is_address(ipaddress.IPv6Address)),
    "uri": _of_text(_URI.match),
    "uuid": _of_text(_is_uuid),
    "regex": _of_text(_is_pattern),
}
