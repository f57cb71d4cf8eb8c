"""Conditional requests (RFC 9110 section 13): whether a client has a file already, or wants another version of it."""

from __future__ import annotations

import re
from email.utils import mktime_tz, parsedate_tz
from typing import Literal, TypeAlias

from pywatt_host.types import Headers

Outcome: TypeAlias = Literal[200, 304, 412]

_TAG = re.compile(rb'((?:W/)?"[\x21\x23-\x7e\x80-\xff]*")[ \t]*(?:,[ \t,]*|$)')
_TIME = rb"[0-9]{2}:[0-9]{2}:[0-9]{2}"
_DATE = re.compile(  # the three forms of a date in a header (section 5.6.7)
    rb"[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} %(t)b GMT"
    rb"|[A-Z][a-z]{5,8}, [0-9]{2}-[A-Z][a-z]{2}-[0-9]{2} %(t)b GMT"
    rb"|[A-Z][a-z]{2} [A-Z][a-z]{2} [ 0-9][0-9] %(t)b [0-9]{4}" % {b"t": _TIME}
)


def evaluate(headers: Headers, tag: bytes, modified: float) -> Outcome:
    """The status of a GET or HEAD request for a file with a strong entity tag, by the order of section 13.2.2: 412
    where a condition of the client fails, 304 where the client has the file, else 200. `modified` is in seconds since
    1970."""
    match = _field(headers, b"if-match")
    if match is not None:
        if not _has(match, tag, weak=False):
            return 412
    else:
        limit = _date(headers, b"if-unmodified-since")
        if limit is not None and int(modified) > limit:
            return 412
    none_match = _field(headers, b"if-none-match")
    if none_match is not None:
        return 304 if _has(none_match, tag, weak=True) else 200
    since = _date(headers, b"if-modified-since")
    return 304 if since is not None and int(modified) <= since else 200


def range_counts(headers: Headers, tag: bytes, last_modified: bytes) -> bool:
    """Whether a request asks for parts, and the parts that the client has are of this version of the file (section
    13.1.5). `last_modified` is the value of that header."""
    return _field(headers, b"range") is not None and _field(headers, b"if-range") in (None, b"", tag, last_modified)


def _field(headers: Headers, name: bytes) -> bytes | None:
    """The value of a header, several lines as one list; None where it is missing."""
    values = [value for key, value in headers if key == name]
    return b", ".join(values) if values else None


def _has(listed: bytes, tag: bytes, *, weak: bool) -> bool:
    """Whether a list of entity tags has this one. A list that is malformed has no tags. `weak` is the comparison that
    accepts weak tags as well (section 8.8.3.2)."""
    listed = listed.strip(b" \t,")
    if listed == b"*":
        return True
    at, found = 0, False
    while at < len(listed):
        match = _TAG.match(listed, at)
        if match is None:
            return False
        found = found or (match[1].removeprefix(b"W/") if weak else match[1]) == tag
        at = match.end()
    return found


def _date(headers: Headers, name: bytes) -> float | None:
    """The date in a header, in seconds since 1970; None where it is missing or no date of HTTP: then the condition does
    not count."""
    value = _field(headers, name)
    if value is None or _DATE.fullmatch(value) is None:
        return None
    date = parsedate_tz(value.decode("latin-1"))
    try:
        return mktime_tz(date) if date is not None else None
    except (ValueError, OverflowError):  # there is no such day
        return None
