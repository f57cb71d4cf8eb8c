"""Rules for paths that can be read in more than one way.

`scope["path"]` is percent-decoded once (ASGI); `raw_path` is what the client sent. Each rule names a kind of path that
servers, proxies and frameworks are known to read differently. The strict edge refuses such a path before an application
sees it (OWASP ASVS 5 chapter 2; RFC 3986 section 6).
"""

from __future__ import annotations

import re
from unicodedata import normalize

# Segments of characters without a special meaning (RFC 3986 section 3.3, pchar without the percent sign), none of them
# empty or beginning with a dot or semicolon: such a path has one reading only.
_PLAIN = re.compile(rb"(?:/[A-Za-z0-9_~!$&'()*+,=:@-][A-Za-z0-9._~!$&'()*+,;=:@-]*)*/?").fullmatch
_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_DOUBLE = re.compile(rb"%25(2[eEfF]|5[cC]|00)")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_PARAMETERS = re.compile(";[^/]*")
_ASCII = frozenset(map(chr, range(128)))
_SPECIAL = frozenset("/\\%;?#")


def ambiguity(path: str, raw_path: bytes | None) -> str | None:
    """The rule that a path breaks; None for a path that has one reading only.

    Rules: `not-a-path`, `bad-escape`, `encoded-slash`, `backslash`, `nul`, `control-character`, `dot-segment`,
    `empty-segment`, `not-utf8`, `double-encoding`, `look-alike`.
    """
    if raw_path is None:  # the server does not provide it: decide by the decoded path alone
        return _broken_rule(path, path.encode("utf-8", "surrogatepass"))
    if raw_path and _PLAIN(raw_path) is not None and len(raw_path) == len(path):
        return None  # nearly every path
    return _broken_rule(path, raw_path)


def _broken_rule(path: str, raw: bytes) -> str | None:
    if not raw.startswith(b"/") or not path.startswith("/"):
        return "not-a-path"
    if _ESCAPE.search(raw):
        return "bad-escape"
    lowered = raw.lower()
    if b"%2f" in lowered:
        return "encoded-slash"
    if "\\" in path or b"%5c" in lowered:
        return "backslash"
    if "\0" in path:
        return "nul"
    if _CONTROL.search(path):
        return "control-character"
    # Some applications drop `;parameters` first: `..;` is then a dot segment, `;x` an empty one.
    for segments in (path.split("/"), *([_PARAMETERS.sub("", path).split("/")] if ";" in path else [])):
        if "." in segments or ".." in segments:
            return "dot-segment"
        if "" in segments[1:-1]:
            return "empty-segment"
    if not path.isascii() and any(_looks_special(char) for char in set(path) - _ASCII):
        return "look-alike"
    if "�" in path and b"%ef%bf%bd" not in lowered and "�".encode() not in raw:
        return "not-utf8"  # the server replaced bytes that are not UTF-8
    if _DOUBLE.search(raw):
        return "double-encoding"
    return None


def _looks_special(char: str) -> bool:
    """Whether the character becomes one that divides a path when it is normalised, such as a full-width slash."""
    usual = normalize("NFKC", char)
    return usual in (".", "..") or not _SPECIAL.isdisjoint(usual)
