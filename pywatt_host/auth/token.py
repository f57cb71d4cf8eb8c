"""The structure of a JWT, read before anything is verified (RFC 7515 section 7.1, RFC 7519, RFC 8725).

What is signed has one spelling: whoever changes a character of it has another token, whose signature does not fit or
whose structure is refused. No two readers see different things in a token that passes.
"""

from __future__ import annotations

import json
from binascii import a2b_base64
from typing import Any, Final

from pywatt_host.auth.identity import DeniedError

MOST_OCTETS: Final = 16 * 1024
MOST_HEADER: Final = 4 * 1024  # octets, decoded
MOST_DEPTH: Final = 32
MOST_KID: Final = 256  # characters

_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_TO_STANDARD = bytes.maketrans(b"-_", b"+/")
_MOST_HEADER_ENCODED = MOST_HEADER * 4 // 3 + 2
# Last characters whose unused bits are zero, by the number of characters in the last group (RFC 4648 section 3.5).
_LAST = (b"", b"", b"AQgw", b"AEIMQUYcgkosw048")
_PADDING = (b"", b"", b"==", b"=")
_ONE_KIND = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(octet for octet in range(256) if octet not in b"{}[]")


class Token:
    """A JWS in compact form with a JSON object as its payload: nothing in it is verified."""

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
    def parse(cls, octets: bytes) -> Token:
        """Raises DeniedError: `too_large`, `malformed`, `critical` (RFC 7515 section 4.1.11), `type`.

        Where keys are to be found (`jku`, `x5u`, `jwk`, `x5c`) is never looked at: keys come from configuration.
        """
        if len(octets) > MOST_OCTETS:
            raise DeniedError("too_large")
        if octets.translate(None, _ALPHABET) != b"..":
            raise DeniedError("malformed")
        signing_input, _, signature = octets.rpartition(b".")
        header_part, _, payload_part = signing_input.partition(b".")
        if not header_part or not payload_part or not signature:
            raise DeniedError("malformed")
        if len(header_part) > _MOST_HEADER_ENCODED:
            raise DeniedError("too_large")
        try:
            header = _object(_decoded(header_part))
            alg, kid, typ = header.get("alg"), header.get("kid"), header.get("typ")
            if type(alg) is not str:
                raise DeniedError("malformed")
            if len(header) > 1:
                _check_header(header)
            return cls(alg, kid, typ, _object(_decoded(payload_part)), signing_input, _decoded(signature))
        except (ValueError, RecursionError):  # base64, UTF-8 and JSON; numbers of thousands of digits
            raise DeniedError("malformed") from None

    def __repr__(self) -> str:
        return "Token(...)"


def media_type(value: str) -> str:
    """`typ` and `cty` as they are compared (RFC 7515 section 4.1.9): without case, `application/` left out."""
    return value.lower().removeprefix("application/")


def _check_header(header: dict[str, Any]) -> None:
    if "crit" in header or "b64" in header:  # b64: RFC 7797 section 7 keeps it away from JWTs
        raise DeniedError("critical")
    if "enc" in header or "zip" in header:  # of a JWE alone (RFC 7516 sections 4 and 9)
        raise DeniedError("malformed")
    if "kid" in header and (type(header["kid"]) is not str or len(header["kid"]) > MOST_KID):
        raise DeniedError("malformed")
    if "typ" in header and type(header["typ"]) is not str:
        raise DeniedError("malformed")
    if "cty" in header:
        if type(header["cty"]) is not str:
            raise DeniedError("malformed")
        if media_type(header["cty"]) == "jwt":  # nested (RFC 7519 section 5.2)
            raise DeniedError("type")


def _decoded(part: bytes) -> bytes:
    """base64url without padding, of characters of its alphabet. Raises ValueError for a spelling that is not the only
    one of what it stands for."""
    rest = len(part) & 3
    if rest == 0:
        return a2b_base64(part.translate(_TO_STANDARD))
    if part[-1] not in _LAST[rest]:
        raise ValueError
    return a2b_base64(part.translate(_TO_STANDARD) + _PADDING[rest])


def _object(octets: bytes) -> dict[str, Any]:
    """The JSON object that the octets are. Raises ValueError and RecursionError."""
    if octets.count(b"{") + octets.count(b"[") > MOST_DEPTH:
        _check_depth(octets)
    document = _DECODER.decode(octets.decode())
    if type(document) is not dict:
        raise ValueError
    if b"\\u" in octets:
        # Half of a surrogate pair is no character; whoever logs it or sends it on would fail on it.
        json.dumps(document, ensure_ascii=False).encode()
    return document


def _check_depth(octets: bytes) -> None:
    if b"\\" in octets:
        octets = octets.replace(b"\\\\", b"").replace(b'\\"', b"")
    depth = 0
    for bracket in b"".join(octets.split(b'"')[::2]).translate(_ONE_KIND, _NO_BRACKETS):
        depth += 1 if bracket == 0x5B else -1
        if depth > MOST_DEPTH:
            raise ValueError


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):  # RFC 8725 section 2.4: two readers would see two tokens
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
