"""Decides which responses are coded with gzip, and what their heads say then (RFC 9110 sections 8.4, 8.8.3 and 12.5).

Nothing is compressed here: `compression` does that.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeVar

from pywatt_host.types import Headers, Scope

_REMEMBERED = 1024  # entries of each table
_LONGEST_REMEMBERED = 256  # bytes
_WITHOUT = frozenset((204, 205, 206, 304))  # statuses without a body, or with a part of one
_STREAMS = (b"text/event-stream", b"multipart/x-mixed-replace")
# What a field of a response means here. OTHER fields mean nothing; BARRED ones say something about the body as it is.
_OTHER, _TYPE, _LENGTH, _CACHE, _VARY, _ETAG, _RANGES, _BARRED = range(8)
_MEANINGS = {
    b"content-type": _TYPE,
    b"content-length": _LENGTH,
    b"cache-control": _CACHE,
    b"vary": _VARY,
    b"etag": _ETAG,
    b"accept-ranges": _RANGES,
    b"content-encoding": _BARRED,
    b"content-range": _BARRED,
    b"content-digest": _BARRED,
    b"content-md5": _BARRED,
    b"repr-digest": _BARRED,
    b"digest": _BARRED,
}
_QVALUE = re.compile(rb"q[ \t]*=[ \t]*(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)", re.IGNORECASE).fullmatch
_TAG = re.compile(rb'(W/)?("[^"]*")')

T = TypeVar("T")


class _Known(dict[bytes, T]):
    """Remembers what a function says about names or values of fields. Use `known[value]`."""

    def __init__(self, judge: Callable[[bytes], T]) -> None:
        super().__init__()
        self._judge = judge

    def __missing__(self, value: bytes) -> T:
        verdict = self._judge(value)
        if len(value) <= _LONGEST_REMEMBERED:
            if len(self) >= _REMEMBERED:
                self.clear()
            self[value] = verdict
        return verdict


def accepts_gzip(value: bytes) -> bool:
    """Whether an Accept-Encoding, several fields as one list, prefers gzip to no coding."""
    gzip = identity = other = None
    for element in value.split(b","):
        coding, *parameters = (part.strip() for part in element.split(b";"))
        quality = 1.0
        for parameter in parameters:
            match = _QVALUE(parameter)
            quality = float(match[1]) if match is not None else 0.0  # one that is malformed asks for nothing
        coding = coding.lower()
        if coding in (b"gzip", b"x-gzip"):
            gzip = max(quality, gzip or 0.0)
        elif coding == b"identity":
            identity = quality
        elif coding == b"*":
            other = quality
    wanted = gzip if gzip is not None else other or 0.0
    return wanted > 0 and wanted >= (identity or 0.0)


INVALID = -1  # in place of the length where the application's is no length


class Coded(NamedTuple):
    """What becomes of a response. `headers` are those of the response if it is sent as it is, `coded` those if it is
    coded, without its length; None where it must not be. `length` is the Content-Length that the application gave."""

    headers: Headers
    coded: Headers | None = None
    length: int | None = None


class ContentCoding:
    """The rules for one host: `min_size` in bytes, and `types`, media types as `text/html`, `text/*` or
    `application/*+json`."""

    def __init__(self, min_size: int, types: Iterable[str]) -> None:
        self._min_size = min_size
        self._types = [re.compile(_pattern(each), re.IGNORECASE).fullmatch for each in types]
        self._meanings = _Known(lambda name: _MEANINGS.get(name.lower(), _OTHER))
        self._fits = _Known(self._fits_type)
        self._accepts = _Known(accepts_gzip)

    def of(self, scope: Scope, status: int, given: Headers) -> Coded:
        """Decide about a response by its head."""
        if status < 200 or (status in _WITHOUT and status != 304):
            return Coded(given)
        kind, length = b"", None
        for name, value in given:
            meaning = self._meanings[name]
            if meaning == _OTHER:
                continue
            if meaning == _TYPE:
                kind = value
            elif meaning == _LENGTH:
                number = int(value) if value.isdigit() and len(value) < 20 else INVALID
                length = number if length in (None, number) else INVALID
            elif meaning == _BARRED or (meaning == _CACHE and b"no-transform" in value.lower()):
                return Coded(given)
        if status == 304:
            return Coded(self._not_modified(scope, given))
        if not kind or (length is not None and length < self._min_size) or not self._fits[kind]:
            return Coded(given)
        accepted, part = b"", False
        for name, value in scope["headers"]:
            if name == b"accept-encoding":
                accepted = accepted + b"," + value if accepted else value
            elif name == b"range":
                part = True
        headers = self._varied(given)
        if part or not accepted or not self._accepts[accepted]:
            return Coded(headers)
        coded = [self._weak(field) for field in headers if self._meanings[field[0]] not in (_LENGTH, _RANGES)]
        return Coded(headers, [*coded, (b"content-encoding", b"gzip")], length)

    def _not_modified(self, scope: Scope, headers: Headers) -> Headers:
        """A 304 has the entity tag of the response that the client has: the weak one, where it has sent that."""
        sent = b",".join(value for name, value in scope["headers"] if name == b"if-none-match")
        tag = next((value for name, value in headers if self._meanings[name] == _ETAG), b"")
        if (b"W/", tag) not in _TAG.findall(sent):
            return headers
        return self._varied([self._weak(field) for field in headers])

    def _weak(self, field: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
        name, value = field
        return (name, b"W/" + value) if self._meanings[name] == _ETAG and not value.startswith(b"W/") else field

    def _varied(self, headers: Headers) -> Headers:
        """The headers with `Vary: Accept-Encoding`, also for a response that is not coded: it might be for others."""
        at = [number for number, (name, _) in enumerate(headers) if self._meanings[name] == _VARY]
        if not at:
            return [*headers, (b"vary", b"Accept-Encoding")]
        listed = {name.strip().lower() for number in at for name in headers[number][1].split(b",")}
        if b"*" in listed or b"accept-encoding" in listed:
            return headers
        before = headers[at[0]][1]
        value = before + b", Accept-Encoding" if before.strip() else b"Accept-Encoding"
        return [(b"vary", value) if number == at[0] else field for number, field in enumerate(headers)]

    def _fits_type(self, value: bytes) -> bool:
        kind = value.partition(b";")[0].strip().lower()
        if kind in _STREAMS:
            return False
        text = kind.decode("latin-1")
        return any(fits(text) is not None for fits in self._types)


def _pattern(media_range: str) -> str:
    return re.escape(media_range).replace(r"\*", "[^/;]+")
