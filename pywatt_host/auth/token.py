"""Parses the structure of a JWT, before anything in it is verified (RFC 7515 section 7.1, RFC 7519, RFC 8725).

Each token has exactly one valid spelling. If any character of it changes, either the signature does not match or the
structure is refused. Two parsers never read a token that passes differently.
"""

from __future__ import annotations

import json
from binascii import a2b_base64
from typing import Any, Final

from pywatt_host.auth.identity import DeniedError

MAX_BYTES: Final = 16 * 1024
MAX_HEADER_BYTES: Final = 4 * 1024  # decoded
MAX_DEPTH: Final = 32
MAX_KID_LENGTH: Final = 256  # characters

_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_TO_STANDARD = bytes.maketrans(b"-_", b"+/")
_MAX_ENCODED_HEADER_BYTES = MAX_HEADER_BYTES * 4 // 3 + 2
# Last characters whose unused bits are zero, by the number of characters in the last group (RFC 4648 section 3.5).
_LAST = (b"", b"", b"AQgw", b"AEIMQUYcgkosw048")
_PADDING = (b"", b"", b"==", b"=")
_ONE_KIND = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"{}[]")


class Token:
    """A JWS in compact form with a JSON object as its payload. Nothing in it is verified."""

    __slots__ = ("alg", "claims", "kid", "signature", "signing_input", "typ")

    def __init__(
        self, alg: str, kid: str | None, typ: str | None, claims: dict[str, Any], signing_input: bytes, signature: bytes
    ) -> None:
        self.alg = alg
        self.kid = kid
        self.typ = typ
        self.claims = claims
        self.signing_input = signing_input
        self.signature = signature

    @classmethod
    def parse(cls, data: bytes) -> Token:
        """Parse a token. Raises DeniedError: `too_large`, `malformed`, `critical` (RFC 7515 section 4.1.11) or `type`.

        The members that name keys (`jku`, `x5u`, `jwk`, `x5c`) are ignored, because keys come from the configuration.
        """
        if len(data) > MAX_BYTES:
            raise DeniedError("too_large")
        if data.translate(None, _ALPHABET) != b"..":
            raise DeniedError("malformed")
        signing_input, _, signature = data.rpartition(b".")
        header_part, _, payload_part = signing_input.partition(b".")
        if not header_part or not payload_part or not signature:
            raise DeniedError("malformed")
        if len(header_part) > _MAX_ENCODED_HEADER_BYTES:
            raise DeniedError("too_large")
        try:
            header = _object(_decoded(header_part))
            alg, kid, typ = header.get("alg"), header.get("kid"), header.get("typ")
            if type(alg) is not str:
                raise DeniedError("malformed")
            if len(header) > 1:
                _check_header(header)
            return cls(alg, kid, typ, _object(_decoded(payload_part)), signing_input, _decoded(signature))
        except (ValueError, RecursionError):  # from base64, UTF-8 and JSON, or a number of thousands of digits
            raise DeniedError("malformed") from None

    def __repr__(self) -> str:
        return "Token(...)"


def media_type(value: str) -> str:
    """Return `typ` or `cty` in the form in which they are compared (RFC 7515 section 4.1.9): in lower case, without
    `application/`."""
    return value.lower().removeprefix("application/")


def _check_header(header: dict[str, Any]) -> None:
    if "crit" in header or "b64" in header:  # RFC 7797 section 7 forbids b64 in a JWT
        raise DeniedError("critical")
    if "enc" in header or "zip" in header:  # only a JWE has these (RFC 7516 sections 4 and 9)
        raise DeniedError("malformed")
    if "kid" in header and (type(header["kid"]) is not str or len(header["kid"]) > MAX_KID_LENGTH):
        raise DeniedError("malformed")
    if "typ" in header and type(header["typ"]) is not str:
        raise DeniedError("malformed")
    if "cty" in header:
        if type(header["cty"]) is not str:
            raise DeniedError("malformed")
        if media_type(header["cty"]) == "jwt":  # nested (RFC 7519 section 5.2)
            raise DeniedError("type")


def _decoded(part: bytes) -> bytes:
    """Decode base64url without padding, given characters of its alphabet. Raises ValueError for a spelling that is not
    the canonical one."""
    rest = len(part) & 3
    if rest == 0:
        return a2b_base64(part.translate(_TO_STANDARD))
    if part[-1] not in _LAST[rest]:
        raise ValueError
    return a2b_base64(part.translate(_TO_STANDARD) + _PADDING[rest])


def _object(data: bytes) -> dict[str, Any]:
    """Parse a JSON object. Raises ValueError and RecursionError."""
    if data.count(b"{") + data.count(b"[") > MAX_DEPTH:
        _check_depth(data)
    document = _DECODER.decode(data.decode())
    if type(document) is not dict:
        raise ValueError
    if b"\\u" in data:
        # Half of a surrogate pair is not a character; encoding it for a log or a message would fail.
        json.dumps(document, ensure_ascii=False).encode()
    return document


def _check_depth(data: bytes) -> None:
    if b"\\" in data:
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    depth = 0
    for bracket in b"".join(data.split(b'"')[::2]).translate(_ONE_KIND, _NO_BRACKETS):
        depth += 1 if bracket == 0x5B else -1
        if depth > MAX_DEPTH:
            raise ValueError


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):  # RFC 8725 section 2.4: two parsers could read it differently
        raise ValueError
    return members


def _finite(text: str) -> float:
    number = float(text)
    if number - number != 0:  # 1e400
        raise ValueError
    return number


def _no_constant(text: str) -> Any:
    raise ValueError


_DECODER = json.JSONDecoder(object_pairs_hook=_members, parse_float=_finite, parse_constant=_no_constant)
