"""Keys: what is taken for one, what it is used for, which of them a token finds, and how they are replaced."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from pywatt_host.auth.keys import StaticKeys, VerificationKey, candidates, jwk_set, public_keys, secret_key
from pywatt_host.auth.minting import signer_for_tests
from pywatt_host.exceptions import AuthError
from tests.auth.corpus import key_of
from tests.auth.issuer import Clock

ALL = (
    "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512",
    "ES256", "ES384", "ES512", "EdDSA", "Ed25519",
)  # fmt: skip
RSA = {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}


def pem(name: str) -> str:
    key = key_of(name)
    assert not isinstance(key, OctKey)
    return key.as_pem(private=False).decode()


def private_pem(name: str) -> str:
    key = key_of(name)
    assert not isinstance(key, OctKey)
    return key.as_pem(private=True).decode()


def jwk(name: str, **more: Any) -> dict[str, Any]:
    key = key_of(name)
    assert not isinstance(key, OctKey)
    return {**key.as_dict(private=False), **more}


def fitting(key: VerificationKey) -> set[str]:
    return {alg for alg in (*ALL, "none", "ES256K", "Ed448", "dir", "") if key.fits(alg)}


def only(text: str) -> VerificationKey:
    (key,) = public_keys(text, key="k")
    return key


def refusal(text: str) -> str:
    with pytest.raises(AuthError) as caught:
        public_keys(text, key="auth.sso.public_key")
    assert caught.value.key == "auth.sso.public_key"
    return str(caught.value)


# What a key is used for -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "algorithms"),
    [
        ("rsa", RSA),
        ("ec256", {"ES256"}),
        ("ec384", {"ES384"}),
        ("ec521", {"ES512"}),
        ("ed", {"EdDSA", "Ed25519"}),
    ],
)
def test_a_key_fits_the_algorithms_of_its_kind_and_curve_alone(name: str, algorithms: set[str]) -> None:
    assert fitting(only(pem(name))) == algorithms
    assert fitting(only(json.dumps(jwk(name)))) == algorithms


def test_a_secret_fits_hmac_alone() -> None:
    assert fitting(secret_key("s" * 64, ["HS256"], key="k")) == {"HS256", "HS384", "HS512"}


@pytest.mark.parametrize(
    ("more", "algorithms"),
    [
        ({"alg": "PS384"}, {"PS384"}),
        ({"use": "sig", "key_ops": ["verify"]}, RSA),
        ({"key_ops": ["sign", "verify"]}, RSA),
        ({"use": "enc"}, set()),
        ({"use": ["sig"]}, set()),
        ({"key_ops": ["encrypt"]}, set()),
        ({"key_ops": []}, set()),
        ({"key_ops": "verify"}, set()),
        ({"alg": "RSA-OAEP"}, set()),
        ({"alg": "HS256"}, set()),
        ({"alg": "none"}, set()),
        ({"alg": 256}, set()),
        ({"kid": 7}, set()),
        ({"x5c": 1, "x5u": {}, "x5t": None, "own": [1]}, RSA),
    ],
)
def test_a_jwk_is_for_what_it_says(more: dict[str, Any], algorithms: set[str]) -> None:
    found = jwk_set({"keys": [jwk("rsa", **more)]})
    assert set().union(*map(fitting, found)) == algorithms
    assert len(found) == (1 if algorithms else 0)


def test_ed25519_has_two_names() -> None:
    for alg in ("EdDSA", "Ed25519"):
        assert fitting(jwk_set({"keys": [jwk("ed", alg=alg)]})[0]) == {"EdDSA", "Ed25519"}


def test_what_a_key_does_not_fit_it_does_not_verify() -> None:
    """Also where the signature is right: HS256 with what the secret is."""
    for algorithm in ("HS256", "ES256", "EdDSA", "RS256"):
        _, signer, key = signer_for_tests([algorithm])
        signed = signer.mint({}).encode()
        data, _, signature = signed.rpartition(b".")
        raw = base64.urlsafe_b64decode(signature + b"==")
        assert key.verify(algorithm, data, raw)
        for other in set(ALL) - fitting(key):
            assert not key.verify(other, data, raw)
        assert not key.verify("none", data, b"")


@given(st.binary(max_size=140), st.sampled_from(["hs", "ec256", "ed", "ec521"]))
def test_any_bytes_are_no_signature_and_raise_nothing(data: bytes, name: str) -> None:
    key = VerificationKey(key_of(name))
    for length in (len(data), 32, 64, 132):
        signature = data[:length].ljust(length, b"\0")
        for alg in fitting(key):
            assert not key.verify(alg, b"a.b", signature)


def test_curves_whose_signatures_take_long_are_slow_and_so_are_large_rsa_keys() -> None:
    slow = {name: only(pem(name)).slow for name in ("rsa", "ec256", "ec384", "ec521", "ed")}
    assert slow == {"rsa": False, "ec256": False, "ec384": True, "ec521": True, "ed": False}
    assert not secret_key("s" * 32, ["HS256"], key="k").slow


# Public keys ----------------------------------------------------------------------------------------------------------


def test_several_pem_blocks_are_several_keys() -> None:
    text = f"# ours\n{pem('rsa')}\nand theirs\r\n{pem('ed')}"
    assert [fitting(key) for key in public_keys(text, key="k")] == [RSA, {"EdDSA", "Ed25519"}]
    assert all(key.kid is None for key in public_keys(text, key="k"))


def test_the_key_of_a_certificate_is_taken() -> None:
    certificate = trustme.CA().issue_cert("id.example").cert_chain_pems[0].bytes().decode()
    assert "CERTIFICATE" in certificate
    assert fitting(only(certificate)) == {"ES256"}


def test_of_a_jwk_set_the_keys_for_signatures_are_taken() -> None:
    entries = [jwk("rsa", kid="a"), jwk("rsa_other", use="enc"), jwk("ec256", kid="b"), {"kty": "new"}]
    assert [key.kid for key in public_keys(json.dumps({"keys": entries}), key="k")] == ["a", "b"]


@pytest.mark.parametrize("name", ["rsa", "ec256", "ed"])
def test_a_private_key_is_refused_in_every_form_and_not_shown(name: str) -> None:
    key = key_of(name)
    assert not isinstance(key, OctKey)
    private = dict(key.as_dict(private=True))
    forms = [
        private_pem(name),
        pem(name) + private_pem(name),
        json.dumps(private),
        json.dumps({"keys": [jwk("rsa_other"), private]}),
    ]
    for text in forms:
        said = refusal(text)
        assert "private key" in said
        assert "public key" in said
        assert str(private["d"]) not in said
        assert private_pem(name).splitlines()[1] not in said


def test_keys_that_nothing_here_verifies_with_are_named_as_such() -> None:
    with warnings.catch_warnings():  # the library warns of the short key that is made here, not of reading it
        warnings.simplefilter("ignore")
        weak = RSAKey.generate_key(1024)
    short = weak.as_pem(private=False).decode()
    exchange = OKPKey.generate_key("X25519").as_pem(private=False).decode()
    bitcoin = ECKey.generate_key("secp256k1").as_pem(private=False).decode()
    for text in (short, exchange, bitcoin, json.dumps(weak.as_dict(private=False))):
        assert "RSA of 2048 bits or more" in refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        *("{", "[]", "hello", "{}", '{"keys": {}}', '{"keys": null}', '{"keys": [1, null, "x", []]}', '{"kty": "RSA"}'),
        '{"kty": "EC", "crv": "P-256", "x": "AAAA", "y": "AAAA"}',
        '{"kty": "OKP", "crv": "Ed25519", "x": "AAAA"}',
        '{"kty": "OKP", "crv": "nope", "x": "AAAA"}',
        '{"kty": "RSA", "n": "+/==", "e": "AQAB"}',
        '{"kty": "RSA", "n": 1, "e": []}',
        "{" + '"a":{' * 5000,
        "-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----",
        "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----",
        "",
    ],
)
def test_what_is_no_public_key_is_an_error_that_says_what_is_wanted(text: str) -> None:
    assert "PEM" in refusal(text)


# Sets of others -------------------------------------------------------------------------------------------------------


def test_of_a_published_set_what_is_broken_is_passed_over() -> None:
    entries: list[Any] = [
        *(None, 1, "x", [], {}, {"kty": []}, {"kty": "RSA"}, {"kty": "RSA", "n": "AAAA", "e": "AAAA"}),
        {"kty": "EC", "crv": "P-256", "x": "AAAA", "y": "AAAA"},
        {**jwk("ec256"), "crv": "P-384"},
        {"kty": "OKP", "crv": ["Ed25519"], "x": "AAAA"},
        jwk("ed", kid="good"),
    ]
    assert [key.kid for key in jwk_set({"keys": entries})] == ["good"]


@pytest.mark.parametrize("document", [None, [], "x", 1, {}, {"keys": None}, {"keys": {"a": 1}}, {"keys": []}])
def test_what_is_no_set_has_no_keys(document: object) -> None:
    assert jwk_set(document) == []


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["keys", "kty", "n", "e", "crv", "x", "y", "kid", "use", "alg", "key_ops"]),
                inner | st.sampled_from(["RSA", "EC", "OKP", "P-256", "Ed25519", "sig", "AQAB", "AAAA"]),
                max_size=6,
            )
        ),
        max_leaves=20,
    )
)
def test_whatever_is_published_raises_nothing(document: object) -> None:
    jwk_set({"keys": [document]})
    jwk_set(document)


def test_private_and_shared_keys_that_are_published_are_not_used_and_said(caplog: pytest.LogCaptureFixture) -> None:
    key = key_of("rsa")
    shared = {"kty": "oct", "k": base64.urlsafe_b64encode(b"s" * 33).decode()}
    assert jwk_set({"keys": [dict(key.as_dict(private=True)), shared]}) == []
    assert "2 private or shared keys" in caplog.text
    assert shared["k"] not in caplog.text


def test_of_a_large_set_the_first_hundred_are_looked_at(caplog: pytest.LogCaptureFixture) -> None:
    entries = [jwk("ed", kid=str(number)) for number in range(150)]
    assert len(jwk_set({"keys": entries})) == 100
    assert len(jwk_set({"keys": entries}, max_keys=3)) == 3
    assert "150 keys" in caplog.text


# Secrets --------------------------------------------------------------------------------------------------------------


NO_SECRETS: Mapping[str, Callable[[], str]] = {
    "pem": lambda: pem("rsa"),
    "one line": lambda: pem("ec256").replace("\n", ""),
    "private": lambda: private_pem("ec256"),
    "inside": lambda: "".join(pem("rsa").splitlines()[1:-1]),
    "short inside": lambda: "\n".join(pem("ed").splitlines()[1:-1]),
    "base64": lambda: base64.b64encode(pem("rsa").encode()).decode(),
    "base64 of private": lambda: base64.b64encode(private_pem("rsa").encode()).decode(),
    "certificate": lambda: trustme.CA().cert_pem.bytes().decode(),
    "jwk": lambda: json.dumps(jwk("rsa")),
    "ssh": lambda: "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI" + "A" * 43,
    "leading text": lambda: "leading text\n" + pem("rsa"),
}


@pytest.mark.parametrize("form", NO_SECRETS)
def test_a_key_of_a_pair_is_no_shared_secret(form: str) -> None:
    """CVE-2016-10555 and CVE-2024-33663 from the side of configuration. Weak secrets being allowed changes nothing."""
    secret = NO_SECRETS[form]()
    for weak in (False, True):
        with pytest.raises(AuthError, match="not a shared secret") as caught:
            secret_key(secret, ["HS256"], key="auth.jwt.secret", allow_weak=weak)
        assert secret not in str(caught.value)


def test_an_empty_secret_is_refused_even_where_weak_ones_are_allowed() -> None:
    with pytest.raises(AuthError, match="is empty"):
        secret_key("", ["HS256"], key="k", allow_weak=True)


def test_bytes_of_the_environment_that_are_not_utf8_are_what_they_were() -> None:
    data = b"\xff\xfe" * 20
    key = secret_key(data.decode("utf-8", "surrogateescape"), ["HS256"], key="k")
    assert key.verify("HS256", b"a.b", hmac.digest(data, b"a.b", hashlib.sha256))


def test_characters_are_counted_in_bytes() -> None:
    secret_key("ö" * 16, ["HS256"], key="k")
    with pytest.raises(AuthError):
        secret_key("ö" * 15, ["HS256"], key="k")


@pytest.mark.parametrize("secret", ["x", "x" * 13, "-" * 31])
def test_a_weak_secret_that_is_allowed_is_said_once_and_warns_of_nothing_else(
    secret: str, caplog: pytest.LogCaptureFixture
) -> None:
    secret_key(secret, ["HS256"], key="auth.jwt.secret", allow_weak=True)
    assert len(caplog.records) == 1
    assert caplog.records[0].levelno == logging.WARNING


# Which of them --------------------------------------------------------------------------------------------------------


def named(*kids: str | None) -> list[VerificationKey]:
    return [VerificationKey(key_of("ec256"), kid=kid) for kid in kids]


def kids(found: Sequence[VerificationKey]) -> list[str | None]:
    return [key.kid for key in found]


def test_a_kid_finds_the_keys_that_have_it_then_those_that_have_none() -> None:
    keys = named(None, "a", "b", "a")
    assert kids(candidates(keys, "ES256", "a", one=True)) == ["a", "a", None]
    assert kids(candidates(keys, "ES256", "c", one=True)) == [None]
    assert candidates(keys, "ES384", "a", one=True) == []
    assert candidates(named("a"), "ES256", "A", one=False) == []


def test_without_a_kid_all_are_tried_or_the_only_one() -> None:
    keys = named("a", "b")
    assert kids(candidates(keys, "ES256", None, one=False)) == ["a", "b"]
    assert candidates(keys, "ES256", None, one=True) == []
    assert kids(candidates([*named("a"), VerificationKey(key_of("ed"))], "ES256", None, one=True)) == ["a"]


def test_replaced_keys_hold_for_the_overlap_and_stand_behind_the_new_ones() -> None:
    clock = Clock()
    source = StaticKeys(clock=clock)
    assert source.find_now("ES256", None) == []
    for number, kid in enumerate("abc"):
        source.swap(named(kid), 60)
        assert source.generation == number + 1
        clock.now += 20
    assert kids(source.find_now("ES256", None)) == ["c", "b", "a"]
    assert [key.until for key in source.find_now("ES256", None)] == [None, clock.now + 40, clock.now + 20]
    clock.now += 20
    assert kids(source.find_now("ES256", None)) == ["c", "b"]
    clock.now += 20
    assert kids(asyncio.run(source.find("ES256", None))) == ["c"]


def test_a_second_rotation_gives_an_old_key_no_more_time() -> None:
    clock = Clock()
    source = StaticKeys(clock=clock)
    source.swap(named("a"), 60)
    source.swap(named("b"), 60)
    ends = clock.now + 60
    source.swap(named("c"), 3600)
    (old,) = source.find_now("ES256", "a")
    assert old.until == ends


def test_without_an_overlap_a_replaced_key_is_gone_at_once() -> None:
    source = StaticKeys(clock=Clock())
    source.swap(named("a", "b"), 60)
    source.swap(named("c"), 0)
    assert kids(source.find_now("ES256", None)) == ["c"]


def test_a_key_that_was_added_stays_through_rotations() -> None:
    source = StaticKeys(clock=Clock())
    source.add(*named("test"))
    generation = source.generation
    source.swap(named("a"), 0)
    source.swap(named("b"), 0)
    assert kids(source.find_now("ES256", "test")) == ["test"]
    assert source.generation == generation + 2


def test_what_a_jwk_is_for_is_not_forgotten_in_the_overlap() -> None:
    source = StaticKeys(clock=Clock())
    source.swap(jwk_set({"keys": [jwk("rsa", alg="PS256")]}), 0)
    source.swap(named("a"), 60)
    assert len(source.find_now("PS256", None)) == 1
    assert source.find_now("RS256", None) == []
