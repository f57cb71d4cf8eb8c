"""The names in a certificate, and the patterns that a manifest allows them by: `auth` with type mtls.

A pattern is a subject in the text form of RFC 4514, such as `CN=billing,O=Example`, or one alternative name (RFC 5280,
section 4.2.1.6) with its kind before a colon, such as `DNS:billing.example`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

NameKind: TypeAlias = Literal["DNS", "URI", "email", "IP"]
# The attributes of one relative distinguished name: object identifier and text, which is None where it is no text. A
# name usually has one attribute.
Rdn: TypeAlias = frozenset[tuple[str, str | None]]

_KINDS: dict[str, NameKind] = {"dns": "DNS", "uri": "URI", "email": "email", "ip": "IP"}
# RFC 4514, section 3, and the attributes of RFC 4519 and RFC 2985 that certificates of programs and people have.
_TYPES = {
    "cn": "2.5.4.3", "l": "2.5.4.7", "st": "2.5.4.8", "o": "2.5.4.10", "ou": "2.5.4.11", "c": "2.5.4.6",
    "street": "2.5.4.9", "dc": "0.9.2342.19200300.100.1.25", "uid": "0.9.2342.19200300.100.1.1", "sn": "2.5.4.4",
    "gn": "2.5.4.42", "title": "2.5.4.12", "serialnumber": "2.5.4.5", "emailaddress": "1.2.840.113549.1.9.1",
}  # fmt: skip
_OID = re.compile(r"[0-2](\.(0|[1-9][0-9]*))+\Z")
_HEX = re.compile(r"[0-9A-Fa-f]{2}")
_SPECIAL = frozenset(' "#+,;<=>\\*')  # RFC 4514, section 2.4, and the asterisk of patterns
_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_DNS_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*\Z")
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[\x21-\x29\x2b-\x7e]+\Z")
_SEGMENT = re.compile(r"[A-Za-z0-9._~-]+\Z")
_EMAIL = re.compile(r"[\x21-\x29\x2b-\x3f\x41-\x7e]+@([A-Za-z0-9.-]+)\Z")
_LONGEST = 1000  # characters of a pattern


@dataclass(frozen=True, slots=True)
class CertificateNames:
    """The names of one certificate. `subject` has the most specific part first, as the text form has it (RFC 4514,
    section 2.1); `alternatives` are the DNS names, URIs, email and IP addresses."""

    subject: tuple[Rdn, ...]
    alternatives: tuple[tuple[NameKind, str], ...]


@dataclass(frozen=True, slots=True)
class SubjectPattern:
    """Allows subjects part by part. A value of None stands for any one value. With `more`, further parts may follow."""

    text: str
    parts: tuple[Rdn, ...]
    more: bool

    def find(self, names: CertificateNames) -> str | None:
        """The empty text where the subject fits: it is the match. Else None."""
        wanted, given = self.parts, names.subject
        if len(given) < len(wanted) or (len(given) > len(wanted) and not self.more):
            return None
        return "" if all(_same(part, each) for part, each in zip(wanted, given, strict=False)) else None


@dataclass(frozen=True, slots=True)
class AlternativePattern:
    """Allows alternative names of one kind. With `below`, the name is one label before `value` (DNS), or one or more
    path segments after it (URI)."""

    text: str
    kind: NameKind
    value: str
    below: bool

    def find(self, names: CertificateNames) -> str | None:
        """The first name of the certificate that fits, such as `DNS:billing.example`, or None."""
        for kind, name in names.alternatives:
            if kind == self.kind and self._fits(name):
                return f"{kind}:{name}"
        return None

    def _fits(self, name: str) -> bool:
        if self.kind == "DNS":
            if not _DNS_NAME.match(name):  # such as a wildcard, which names nobody
                return False
            first, _, rest = name.lower().partition(".")
            return rest == self.value and first != "" if self.below else name.lower() == self.value
        if self.kind == "URI" and self.below:
            rest = name.removeprefix(self.value)
            segments = rest.split("/")
            return rest != name and all(_SEGMENT.match(each) and each not in (".", "..") for each in segments)
        return (_canonical_email(name) if self.kind == "email" else name) == self.value


CertificatePattern: TypeAlias = SubjectPattern | AlternativePattern


class PatternError(ValueError):
    """A text is not a pattern. `message` says why, `hint` what to write."""

    def __init__(self, message: str, hint: str = "") -> None:
        self.message = message
        self.hint = hint
        super().__init__(message)


def parse_pattern(text: str) -> CertificatePattern:
    """Parse a pattern. Raises PatternError."""
    if len(text) > _LONGEST or not _printable(text):
        raise PatternError("this is too long, or has control characters")
    prefix, colon, name = text.partition(":")
    kind = _KINDS.get(prefix.lower()) if colon else None
    return _subject(text) if kind is None else _alternative(text, kind, name)


def _alternative(text: str, kind: NameKind, name: str) -> AlternativePattern:
    if kind == "DNS":
        below = name.startswith("*.")
        wanted = name.removeprefix("*.")
        if not _DNS_NAME.match(wanted) or len(wanted) > 253:
            raise PatternError("this is not a DNS name", "write DNS:billing.example or DNS:*.example")
        return AlternativePattern(text, kind, wanted.lower(), below)
    if kind == "URI":
        below = name.endswith("/*")
        wanted = name.removesuffix("*")
        authority = wanted.partition("://")[2].partition("/")[0]
        if not _URI.match(wanted) or (below and not authority):
            raise PatternError("this is not a URI", "write URI:spiffe://example/billing or URI:spiffe://example/jobs/*")
        return AlternativePattern(text, kind, wanted, below)
    if kind == "email":
        if not _EMAIL.match(name):
            raise PatternError("this is not an email address", "write email:ann@example.com, without an asterisk")
        return AlternativePattern(text, kind, _canonical_email(name), False)
    try:
        return AlternativePattern(text, kind, str(ipaddress.ip_address(name)), False)
    except ValueError:
        raise PatternError("this is not an IP address", "write IP:192.0.2.1") from None


def _canonical_email(text: str) -> str:
    """The address with its domain in lower case; the local part depends on case (RFC 5321, section 2.4)."""
    local, _, domain = text.rpartition("@")
    return f"{local}@{domain.lower()}"


# Subjects -------------------------------------------------------------------------------------------------------------


def _subject(text: str) -> SubjectPattern:
    parts: list[Rdn] = []
    more = False
    for piece in _split(text, ","):
        if more:
            raise PatternError("nothing can follow `*`, which allows further parts", "write `*` at the end")
        if piece.strip(" ") == "*":
            more = True
            continue
        attributes = [_attribute(each) for each in _split(piece, "+")]
        part = frozenset(attributes)
        if len({type for type, _ in part}) != len(attributes):
            raise PatternError("one part has the same attribute twice", "write a comma between parts")
        parts.append(part)
    if not parts:
        raise PatternError("`*` alone allows every certificate", "to do that, leave `subjects` out")
    return SubjectPattern(text, tuple(parts), more)


def _split(text: str, separator: str) -> Iterator[str]:
    """The pieces between unescaped separators."""
    start = at = 0
    while at < len(text):
        if text[at] == "\\":
            at += 1
        elif text[at] == separator:
            yield text[start:at]
            start = at + 1
        at += 1
    yield text[start:]


def _attribute(piece: str) -> tuple[str, str | None]:
    """The attribute type and its value; None for any value."""
    type, equals, raw = piece.partition("=")
    name = type.strip(" ")
    if not equals:
        hint = "write a subject such as CN=billing,* or an alternative name such as DNS:billing.example"
        raise PatternError("this is not the name of a certificate", hint)
    oid = name if _OID.match(name) else _TYPES.get(name.lower())
    if oid is None:
        known = ", ".join(each.upper() for each in list(_TYPES)[:9])
        raise PatternError("a part has an attribute that is not known", f"write {known}, or an object identifier")
    value = raw.lstrip(" ")
    while value.endswith(" ") and not _escaped(value, len(value) - 1):
        value = value[:-1]
    if value == "*":
        return oid, None
    return oid, _unescaped(value)


def _escaped(text: str, at: int) -> bool:
    """Whether the character at a place has a backslash before it that is no second half of a pair."""
    before = text[:at]
    return (len(before) - len(before.rstrip("\\"))) % 2 == 1


def _unescaped(value: str) -> str:
    """The value of an attribute in the text form of RFC 4514, section 2.4."""
    found = bytearray()
    at = 0
    while at < len(value):
        character = value[at]
        if character == "\\":
            code = _HEX.match(value, at + 1)
            if code is not None:
                found.append(int(code[0], 16))
                at += 3
                continue
            at += 1
            if at >= len(value) or value[at] not in _SPECIAL:
                raise PatternError(
                    "a backslash has to be followed by a special character or two hex digits",
                    "see RFC 4514, section 2.4",
                )
            character = value[at]
        elif character == "*":
            raise PatternError("`*` stands only for a whole value or for further parts", "write \\2A for an asterisk")
        elif character in '";<>' or (character == "#" and at == 0):
            raise PatternError(f"a backslash is missing before {character}", "see RFC 4514, section 2.4")
        found += character.encode("utf-8", "surrogatepass")
        at += 1
    try:
        text = found.decode()
    except UnicodeDecodeError:
        raise PatternError("the bytes behind the backslashes are not UTF-8") from None
    if not text or not _printable(text):
        raise PatternError("the value is empty, or has control characters")
    return text


def _printable(text: str) -> bool:
    return not any(ord(character) < 0x20 or ord(character) == 0x7F for character in text)


def _same(wanted: Rdn, given: Rdn) -> bool:
    """Whether a part of a subject has exactly the wanted attributes."""
    if len(wanted) != len(given):
        return False
    values = dict(given)
    for type, value in wanted:
        found = values.get(type)
        if not found or (found != value if value is not None else not _printable(found)):
            return False
    return True
