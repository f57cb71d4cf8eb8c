"""The structure of a token, before anything is verified; and what is remembered of those that were."""

from __future__ import annotations

import json
import logging
import time
from base64 import urlsafe_b64encode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pywatt_host.auth.identity import DeniedError, Identity
from pywatt_host.auth.minting import Signer, mint, sign, signer_for_tests
from pywatt_host.auth.token import MAX_BYTES, MAX_DEPTH, MAX_HEADER_BYTES, MAX_KID_LENGTH, Token, media_type
from pywatt_host.auth.verified import VerifiedTokens
from tests.auth.corpus import key_of
from tests.auth.issuer import Clock

HEADER = b'{"alg":"HS256"}'


def part(data: bytes) -> bytes:
    return urlsafe_b64encode(data).rstrip(b"=")


def token(header: bytes = HEADER, claims: bytes = b"{}", signature: bytes = b"s") -> bytes:
    return b".".join(part(each) for each in (header, claims, signature))


def refusal(data: bytes) -> str:
    with pytest.raises(DeniedError) as denied:
        Token.parse(data)
    assert denied.value.__cause__ is None
    return denied.value.reason


def nested(depth: int) -> bytes:
    return b'{"a":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


# What is read ---------------------------------------------------------------------------------------------------------


def test_the_parts_are_read_and_what_was_signed_is_kept_as_it_came() -> None:
    data = token(b'{"alg":"ES256","kid":"k","typ":"at+jwt"}', b'{"sub": "a"}', b"\x00\xff")
    read = Token.parse(data)
    assert (read.alg, read.kid, read.typ) == ("ES256", "k", "at+jwt")
    assert read.claims == {"sub": "a"}
    assert read.signature == b"\x00\xff"
    assert data == read.signing_input + b"." + part(b"\x00\xff")


def test_nothing_of_a_token_is_in_its_repr() -> None:
    assert repr(Token.parse(token(claims=b'{"sub":"alice"}'))) == "Token(...)"


claims_of_any_kind = st.dictionaries(
    st.text(max_size=5),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=10,
    ),
    max_size=5,
)


@given(claims_of_any_kind)
def test_claims_are_what_a_json_reader_makes_of_them(claims: dict[str, Any]) -> None:
    for ascii_only in (True, False):
        assert Token.parse(token(claims=json.dumps(claims, ensure_ascii=ascii_only).encode())).claims == claims


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_any_bytes_in_the_parts_are_a_token_or_denied(header: bytes, claims: bytes) -> None:
    for data in (token(header, HEADER), token(HEADER, claims), token(header, claims)):
        reason = ""
        try:
            assert isinstance(Token.parse(data).claims, dict)
        except DeniedError as error:
            reason = error.reason
        assert reason in ("", "malformed", "critical", "type")


@given(st.text(alphabet='{}[]":,\\a1 ', max_size=120))
def test_text_that_looks_like_json_is_read_as_a_strict_reader_does_or_denied(text: str) -> None:
    try:
        claims = Token.parse(token(claims=text.encode())).claims
    except DeniedError:
        return
    assert claims == json.loads(text)


@given(st.binary(min_size=1, max_size=40))
def test_bytes_have_one_spelling(data: bytes) -> None:
    good = token(signature=data)
    assert Token.parse(good).signature == data
    for last in b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_":
        try:
            other = Token.parse(good[:-1] + bytes((last,)))
        except DeniedError:
            continue
        assert (other.signature == data) == (last == good[-1])


# Bounds ---------------------------------------------------------------------------------------------------------------


def test_16_kib_are_read_and_a_byte_more_is_not() -> None:
    rest = len(token(claims=b"")) - 1
    room = MAX_BYTES - rest - 1
    claims = b'{"a":"%s"}' % (b"x" * (room * 3 // 4 - 8))
    data = token(claims=claims)
    assert MAX_BYTES - 3 <= len(data) <= MAX_BYTES
    Token.parse(data)
    filled = data + b"A" * (MAX_BYTES + 1 - len(data))
    assert refusal(filled) == "too_large"


def test_a_header_of_4_kib_is_read_and_a_larger_one_is_not() -> None:
    def header(size: int) -> bytes:
        return b'{"alg":"HS256","x":"%s"}' % (b"x" * (size - 22))

    assert len(header(MAX_HEADER_BYTES)) == MAX_HEADER_BYTES
    Token.parse(token(header(MAX_HEADER_BYTES)))
    assert refusal(token(header(MAX_HEADER_BYTES + 3))) == "too_large"


def test_nesting_is_read_down_to_32_levels() -> None:
    Token.parse(token(claims=nested(MAX_DEPTH)))
    assert refusal(token(claims=nested(MAX_DEPTH + 1))) == "malformed"
    Token.parse(token(b'{"alg":"HS256","x":' + nested(MAX_DEPTH - 1) + b"}"))
    assert refusal(token(b'{"alg":"HS256","x":' + nested(MAX_DEPTH) + b"}")) == "malformed"


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 12_000,
        b'{"a":' * 2_400,
        b'"' * 12_000,
        b'"\\"' + b'\\"' * 5_900,
        b"{}" * 6_000,
        b"]" * 12_000,
        b"9" * 12_000,
    ],
    ids=["lists", "objects", "quotes", "escaped quotes", "pairs", "closing", "digits"],
)
def test_hostile_payloads_are_refused_quickly(text: bytes) -> None:
    """Within what the machine needs for one slow signature, times a margin for a busy machine."""
    data = token(claims=text)
    best = 1.0
    for _ in range(5):
        start = time.perf_counter()
        assert refusal(data) == "malformed"
        best = min(best, time.perf_counter() - start)
    assert best < 0.02


def test_a_kid_of_256_characters_is_read_and_a_longer_one_is_not() -> None:
    assert Token.parse(token(b'{"alg":"HS256","kid":"%s"}' % (b"k" * MAX_KID_LENGTH))).kid == "k" * MAX_KID_LENGTH
    assert refusal(token(b'{"alg":"HS256","kid":"%s"}' % (b"k" * (MAX_KID_LENGTH + 1)))) == "malformed"


@pytest.mark.parametrize(
    ("value", "compared"),
    [("JWT", "jwt"), ("application/AT+jwt", "at+jwt"), ("Application/jwt", "jwt"), ("text/jwt", "text/jwt")],
)
def test_media_types_are_compared_without_case_and_prefix(value: str, compared: str) -> None:
    assert media_type(value) == compared


# What is remembered ---------------------------------------------------------------------------------------------------


def identity(until: float) -> Identity:
    return Identity("jwt", "jwt", "alice", {"sub": "alice"}, until)


def test_an_identity_is_remembered_until_its_time_is_over_and_not_at_that_time() -> None:
    clock = Clock()
    held, alice = VerifiedTokens(clock=clock), identity(clock.now + 10)
    held.put(b"a", alice)
    assert held.get(b"a") is alice
    assert held.get(b"b") is None
    clock.now += 10
    assert held.get(b"a") is None
    assert len(held) == 0


def test_putting_one_again_replaces_it_and_counts_it_once() -> None:
    clock = Clock()
    held = VerifiedTokens(clock=clock, max_bytes=10)
    for _ in range(100):
        held.put(b"12345", identity(clock.now + 10))
    held.put(b"67890", identity(clock.now + 10))
    assert len(held) == 2
    assert held.get(b"12345") is not None


def test_after_clear_there_is_room_for_all() -> None:
    clock = Clock()
    held = VerifiedTokens(clock=clock, max_bytes=10)
    held.put(b"1234567890", identity(clock.now + 10))
    held.clear()
    assert held.get(b"1234567890") is None
    held.put(b"0987654321", identity(clock.now + 10))
    assert held.get(b"0987654321") is not None


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 9)), max_size=60))
def test_the_bounds_hold_whatever_is_put(puts: list[tuple[int, int]]) -> None:
    clock = Clock()
    held = VerifiedTokens(clock=clock, max_entries=5, max_bytes=25)
    for number, length in puts:
        held.put(bytes([number]) * length, identity(clock.now + 1))
        assert len(held) <= 5
        assert sum(map(len, held._identities)) == held._bytes <= 25


# What is made here ----------------------------------------------------------------------------------------------------


def test_a_minted_token_has_the_claims_and_nothing_else() -> None:
    read = Token.parse(mint("s" * 32, {"sub": "Zoë"}, kid="k", typ="at+jwt").encode())
    assert (read.alg, read.kid, read.typ, read.claims) == ("HS256", "k", "at+jwt", {"sub": "Zoë"})


@pytest.mark.parametrize("claims", [{"a": float("nan")}, {"a": float("inf")}, {"a": "\ud800"}])
def test_claims_without_a_json_form_are_not_signed(claims: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        mint("s" * 32, claims)


@pytest.mark.parametrize("algorithm", ["RS256", "none", "hs256"])
def test_a_secret_signs_with_hmac_alone(algorithm: str) -> None:
    with pytest.raises(ValueError, match="cannot sign"):
        mint("s" * 32, {}, alg=algorithm)


def test_no_signer_shows_its_key() -> None:
    _, signer, key = signer_for_tests(["HS256"])
    assert repr(signer) == f"Signer('HS256', {signer.kid!r})"
    assert repr(key) == "VerificationKey(HS256, HS384, HS512)"


def test_a_header_can_be_given_in_full() -> None:
    read = Token.parse(sign(key_of("hs"), "HS256", {"kid": "k"}, {"sub": "a"}).encode())
    assert (read.kid, read.typ) == ("k", None)
    assert Token.parse(Signer(key_of("hs"), "HS256").mint({}, typ=None).encode()).typ is None


def test_nothing_is_logged_of_a_hostile_token(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        refusal(token(claims=b"[" * 5000))
    assert caplog.text == ""
