"""Makes the tokens that `tokens.json` describes, with keys of this process.

Of each case the file has the scheme's options, how the token is made, the verdict (`good`, or the reason of the
refusal), and why. A token starts as a good one of the scheme's first key; `header` and `claims` are put over it,
`without` is taken away, `header_text` and `claims_text` replace the JSON (`@EXP@` is a time to come), `key` and `alg`
sign it, and `edits` change the parts afterwards. A value `{"now": 60}` is a time in a minute, `{"nested": n}` a list in
a list in a list, `{"text": t, "times": n}` a long text, `{"public": key}` a public JWK.
"""

from __future__ import annotations

import json
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from joserfc.jwa import JWS_ALGORITHMS
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from pywatt_host.auth.jwt import JwtScheme
from pywatt_host.auth.keys import JoseKey, StaticKeys
from pywatt_host.manifest.model import AuthScheme

FILE = Path(__file__).with_name("tokens.json")
SUBJECT = "alice"
_SIGNERS = {each.name: each for each in JWS_ALGORITHMS}
_PARTS = {"header": 0, "payload": 1, "signature": 2}
_SECRETS = {"hs": "s" * 32, "hs_other": "o" * 64, "hs48": "m" * 48, "hs64": "l" * 64, "hs_weak": "weak"}
# The order of the group of P-256 (FIPS 186-5), for signatures that are not in its range.
_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


@dataclass(frozen=True)
class Case:
    """One token. It is made anew each time that it is asked for, since its times count from then."""

    id: str
    why: str
    verdict: str
    options: Mapping[str, Any]
    recipe: Mapping[str, Any]

    @property
    def good(self) -> bool:
        return self.verdict == "good"

    @property
    def reason(self) -> str:
        """Of the refusal; empty for a good token."""
        return "" if self.good else self.verdict

    @property
    def subject(self) -> str:
        """What a good token's `sub` is."""
        return str(self.recipe.get("subject", SUBJECT))

    @property
    def token(self) -> bytes:
        return _make(self.recipe, time.time())

    @property
    def fits_a_header(self) -> bool:
        """Whether HTTP can carry the token after `Bearer `, and gives it back as it is: visible ASCII and nothing else,
        and not too much of it for a client."""
        token = self.token
        return len(token) < 60_000 and all(0x21 <= byte <= 0x7E for byte in token)


@cache
def cases() -> tuple[Case, ...]:
    document = json.loads(FILE.read_text(encoding="utf-8"))
    found = []
    for entry in document["cases"]:
        given = {"type": "jwt", **document["schemes"][entry["scheme"]], **entry.get("options", {})}
        options = {name: _material(value) for name, value in given.items() if value is not None}
        recipe = {"key": document["keys"][entry["scheme"]], **entry}
        found.append(Case(entry["id"], entry["why"], entry["verdict"], options, recipe))
    return tuple(found)


def scheme_for(case: Case) -> JwtScheme:
    """The scheme that the case is for, its keys read."""
    keys = StaticKeys()
    scheme = JwtScheme("jwt", AuthScheme(**case.options), keys, directory=Path(__file__).parent)
    scheme.prepare({}).commit()
    return scheme


# Keys -----------------------------------------------------------------------------------------------------------------


@cache
def key_of(name: str) -> JoseKey:
    if name in _SECRETS:
        secret = _SECRETS[name].encode()
        return OctKey(secret, secret)
    if name.startswith("rsa"):
        return RSAKey.generate_key(2048)
    if name.startswith("ed"):
        return OKPKey.generate_key("Ed25519")
    return ECKey.generate_key({"ec256": "P-256", "ec384": "P-384", "ec521": "P-521"}[name.partition("_")[0]])


def _public(name: str, form: str) -> str:
    key = key_of(name)
    assert not isinstance(key, OctKey)
    if form == "pem":
        return key.as_pem(private=False).decode()
    return json.dumps(key.as_dict(private=False), separators=(",", ":"))


def _jwk(name: str, **more: Any) -> dict[str, Any]:
    return {**json.loads(_public(name, "jwk")), **more}


@cache
def _set(name: str) -> str:
    entries = {
        "set": [
            _jwk("rsa", kid="rsa-1", use="sig", alg="RS256"),
            _jwk("ec256", kid="ec-1", use="sig"),
            _jwk("ed", kid="ed-1", key_ops=["verify"]),
            _jwk("rsa_other", kid="enc-1", use="enc"),
            {"kty": "AKP", "kid": "future", "pub": "AAAA"},
        ],
        "twins": [_jwk("rsa_other", kid="one"), _jwk("rsa", kid="one")],
        "pss": [_jwk("rsa", kid="rsa-1", alg="PS256")],
        "ops": [_jwk("rsa", kid="rsa-1", key_ops=["sign"]), _jwk("rsa_other", kid="rsa-2")],
        "edwards": [_jwk("ed", kid="ed-1", alg="Ed25519")],
    }
    return json.dumps({"keys": entries[name]})


def _material(value: Any) -> Any:
    """`$hs` is a secret, `$rsa.pem` and `$rsa.jwk` are public keys, `$set:NAME` is a JWK set."""
    if not isinstance(value, str) or not value.startswith("$"):
        return value
    name, _, form = value[1:].partition(".")
    if name.startswith("set:"):
        return _set(name[4:])
    return _public(name, form) if form else _SECRETS[name]


def _signing_key(name: str) -> JoseKey:
    """A key by its name, or what an attacker takes for a shared secret: `text:...`, or the public half of a pair as
    `pem:rsa`, `pem-bare:rsa` (without the last line end), `der:rsa`, `jwk:rsa`, `n:rsa`."""
    kind, _, rest = name.partition(":")
    if not rest and kind != "text":
        return key_of(name)
    key = key_of(rest) if kind != "text" else None
    data = rest.encode()
    if key is not None:
        assert not isinstance(key, OctKey)
        forms: dict[str, Callable[[], bytes]] = {
            "pem": lambda: key.as_pem(private=False),
            "pem-bare": lambda: key.as_pem(private=False).rstrip(),
            "der": lambda: key.as_der(private=False),
            "jwk": lambda: _public(rest, "jwk").encode(),
            "n": lambda: str(key.as_dict(private=False)["n"]).encode(),
        }
        data = forms[kind]()
    return OctKey(data or b"\0", data or b"\0")  # HMAC pads with zeros: this is the empty key


# Tokens ---------------------------------------------------------------------------------------------------------------


def _make(recipe: Mapping[str, Any], now: float) -> bytes:
    key_name = recipe["key"]
    key = _signing_key(key_name)
    alg = recipe.get("alg") or _algorithm(key)
    without = recipe.get("without", ())
    header = {"alg": alg, "typ": "JWT", **_values(recipe.get("header", {}), now)}
    claims = {
        "iss": "https://id.example",
        "aud": "users",
        "sub": SUBJECT,
        "exp": int(now) + 600,
        "iat": int(now) - 10,
        **_values(recipe.get("claims", {}), now),
    }
    header = {name: value for name, value in header.items() if f"header.{name}" not in without}
    claims = {name: value for name, value in claims.items() if name not in without}
    parts = [
        _encode(_text(recipe.get("header_text"), header, now)),
        _encode(_text(recipe.get("claims_text"), claims, now)),
        b"",
    ]
    signed_with = recipe.get("sign_as") or (alg if alg in _SIGNERS and alg != "none" else _algorithm(key))
    parts[2] = _encode(_SIGNERS[signed_with].sign(b".".join(parts[:2]), key))
    token = b""
    for edit in recipe.get("edits", ()):
        before = [*parts, token]
        token = _edit(edit, parts, token)
        assert [*parts, token] != before, f"{recipe['id']}: {edit} changes nothing"
    return token or b".".join(parts)


def _algorithm(key: JoseKey) -> str:
    if isinstance(key, OctKey):
        return "HS256"
    if isinstance(key, RSAKey):
        return "RS256"
    if isinstance(key, ECKey):
        return {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}[key.curve_name]
    return "EdDSA"


def _values(given: Any, now: float) -> Any:
    if isinstance(given, dict):
        if set(given) == {"now"}:
            return now + given["now"] if isinstance(given["now"], float) else int(now) + given["now"]
        if set(given) == {"nested"}:
            nested: list[Any] = []
            for _ in range(given["nested"] - 1):
                nested = [nested]
            return nested
        if set(given) == {"text", "times"}:
            return given["text"] * given["times"]
        if set(given) == {"public"}:
            return _jwk(given["public"])
        return {name: _values(value, now) for name, value in given.items()}
    return [_values(each, now) for each in given] if isinstance(given, list) else given


def _text(text: Any, document: Mapping[str, Any], now: float) -> bytes:
    """The JSON of a part, or the text that stands in its place: each character of it is one byte."""
    if text is None:
        return json.dumps(document, separators=(",", ":")).encode()
    pieces = _values(text, now)
    return (
        "".join(pieces if isinstance(pieces, list) else [pieces])
        .replace("@EXP@", str(int(now) + 600))
        .encode("latin-1")
    )


def _edit(edit: list[Any], parts: list[bytes], token: bytes) -> bytes:
    """Changes `parts`, or gives the whole token where the edit is of the whole."""
    what, *more = edit
    if what in ("prefix", "suffix", "is"):
        whole = token or b".".join(parts)
        text = str(_values(more[0], 0)).encode("latin-1")
        return {"prefix": text + whole, "suffix": whole + text, "is": text}[what]
    if what == "first parts":
        return b".".join(parts[: more[0]])
    if what == "flattened":
        names = ("protected", "payload", "signature")
        return json.dumps({name: part.decode() for name, part in zip(names, parts, strict=True)}).encode()
    if what == "general":
        signatures = [{"protected": parts[0].decode(), "signature": parts[2].decode()}]
        return json.dumps({"payload": parts[1].decode(), "signatures": signatures}).encode()
    at = _PARTS[more[0]]
    parts[at] = _EDITS[what](parts[at], *_values(more[1:], 0))
    return b""


def _flip(part: bytes, index: int) -> bytes:
    data = bytearray(part)
    data[index] = ord("A") if data[index] != ord("A") else ord("B")
    return bytes(data)


def _trailing_bits(part: bytes) -> bytes:
    """The same bytes in another spelling: a bit of the last character that stands for none of them."""
    assert len(part) % 4, "every bit of the last character counts"
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return part[:-1] + bytes((alphabet[alphabet.index(part[-1]) + 1],))


def _der(part: bytes) -> bytes:
    raw = _decode(part)
    numbers = [int.from_bytes(half, "big") for half in (raw[: len(raw) // 2], raw[len(raw) // 2 :])]
    content = b""
    for number in numbers:
        data = number.to_bytes(number.bit_length() // 8 + 1, "big")
        content += bytes((2, len(data))) + data
    return _encode(bytes((0x30, len(content))) + content)


def _other_half(part: bytes) -> bytes:
    raw = _decode(part)
    return _encode(raw[:32] + (_ORDER - int.from_bytes(raw[32:], "big")).to_bytes(32, "big"))


_EDITS: Mapping[str, Callable[..., bytes]] = {
    "set": lambda part, text: str(text).encode("latin-1"),
    "append": lambda part, text: part + str(text).encode("latin-1"),
    "prepend": lambda part, text: str(text).encode("latin-1") + part,
    "insert": lambda part, text: part[:5] + str(text).encode("latin-1") + part[5:],
    "cut": lambda part, count: part[:-count],
    "flip": _flip,
    "trailing bits": _trailing_bits,
    "standard alphabet": lambda part: part.replace(b"-", b"+").replace(b"_", b"/"),
    "bytes": lambda part, *secret_values: _encode(bytes.fromhex("".join(secret_values))),
    "zeros": lambda part: _encode(bytes(len(_decode(part)))),
    "ones": lambda part: _encode(b"\xff" * len(_decode(part))),
    "orders": lambda part: _encode(_ORDER.to_bytes(32, "big") * 2),
    "add byte": lambda part: _encode(_decode(part) + b"\0"),
    "add byte before": lambda part: _encode(b"\0" + _decode(part)),
    "drop byte": lambda part: _encode(_decode(part)[:-1]),
    "half": lambda part: _encode(_decode(part)[: len(_decode(part)) // 2]),
    "der": _der,
    "other half": _other_half,
    "text": lambda part, text: _encode(str(text).encode("latin-1")),
}


def _encode(data: bytes) -> bytes:
    return urlsafe_b64encode(data).rstrip(b"=")


def _decode(part: bytes) -> bytes:
    return urlsafe_b64decode(part + b"=" * (-len(part) % 4))
