"""Tokens as the scheme verifies them, without HTTP: the corpus, mutations, what is remembered, keys that change."""

from __future__ import annotations

import asyncio
import time
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pywatt_host.auth.identity import DeniedError, Identity, UnavailableError
from pywatt_host.auth.jwt import JwtScheme
from pywatt_host.auth.keys import KeySource, StaticKeys, VerificationKey, public_keys, secret_key
from pywatt_host.auth.minting import mint, signer_for_tests
from pywatt_host.auth.verified import VerifiedTokens
from pywatt_host.exceptions import AuthError
from pywatt_host.manifest.model import AuthScheme
from pywatt_host.manifest.values import SecretTemplate
from tests.auth.corpus import cases, key_of, scheme_for
from tests.auth.issuer import Clock
from tests.hosting import run

SECRET = "s" * 32


def scheme(clock: Any = time.time, **options: Any) -> JwtScheme:
    made = JwtScheme(
        "jwt", AuthScheme(type="jwt", secret=SECRET, **options), StaticKeys(clock=clock), directory=Path(), clock=clock
    )
    made.prepare({}).commit()
    return made


def trusting(algorithm: str, keys: KeySource, **options: Any) -> JwtScheme:
    """Of a scheme whose keys come from elsewhere."""
    given = {"secret": "x" * 64} if algorithm.startswith("HS") else {"jwks_url": "https://x.example"}
    declared = AuthScheme.model_validate({"type": "jwt", "algorithms": [algorithm], **given, **options})
    return JwtScheme("jwt", declared, keys, directory=Path())


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.id)
def test_a_token_of_the_corpus_is_taken_or_refused_for_the_reason_that_it_has(case: Any) -> None:
    async def main() -> None:
        made, token = scheme_for(case), case.token
        if case.good:
            assert (await made.verify(token)).subject == case.subject, case.why
            assert made.recall(token) is not None
        else:
            with pytest.raises(DeniedError) as denied:
                await made.verify(token)
            assert denied.value.reason == case.reason, case.why
            assert made.recall(token) is None

    run(main)


GOOD = mint(SECRET, {"sub": "alice", "exp": 4e9}).encode()
MADE = scheme()


async def _told(token: bytes) -> Identity | None:
    try:
        return await MADE.verify(token)
    except DeniedError:
        return None


@given(st.binary(max_size=300))
def test_random_bytes_are_denied_and_nothing_else_happens(data: bytes) -> None:
    assert asyncio.run(_told(data)) is None
    parts = [urlsafe_b64encode(data).rstrip(b"=")] * 3
    assert asyncio.run(_told(b".".join(parts))) is None


@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255), st.sampled_from(["change", "insert", "remove", "cut"]))
def test_a_token_that_was_touched_is_another_one(place: int, byte: int, how: str) -> None:
    before, after = GOOD[:place], GOOD[place:]
    touched = {
        "change": before + bytes([byte]) + after[1:],
        "insert": before + bytes([byte]) + after,
        "remove": before + after[1:],
        "cut": before,
    }[how]
    found = asyncio.run(_told(touched))
    assert (found is not None) == (touched == GOOD)


def test_a_token_is_remembered_until_it_ends_and_never_for_long() -> None:
    clock = Clock()
    made = scheme(clock, leeway="10s")
    short = mint(SECRET, {"exp": clock.now + 60}).encode()
    long = mint(SECRET, {"exp": clock.now + 10_000}).encode()

    async def main() -> None:
        await made.verify(short)
        await made.verify(long)
        clock.now += 69
        assert made.recall(short) is not None
        clock.now += 1
        assert made.recall(short) is None
        with pytest.raises(DeniedError, match="expired"):
            await made.verify(short)
        clock.now += 531
        assert made.recall(long) is None
        assert (await made.verify(long)).until == clock.now + 600

    run(main)


def test_what_is_remembered_is_bounded() -> None:
    clock = Clock()
    held = VerifiedTokens(clock=clock, max_entries=10, max_bytes=1000)
    identity = Identity("jwt", "jwt", "a", {}, clock.now + 10)
    for number in range(100):
        held.put(f"token-{number:02}".encode(), identity)
    assert len(held) == 10
    assert held.get(b"token-99") is identity
    assert held.get(b"token-00") is None
    held.put(b"x" * 900, identity)
    assert held.get(b"x" * 900) is identity
    held.put(b"y" * 1001, identity)
    assert held.get(b"y" * 1001) is None
    clock.now += 10
    assert held.get(b"token-99") is None


def test_what_an_old_secret_signed_ends_with_the_overlap() -> None:
    clock = Clock()
    made = scheme(clock, previous="1m")
    old = mint(SECRET, {"exp": clock.now + 1000}).encode()

    async def main() -> None:
        await made.verify(old)
        made._options = made._options.model_copy(update={"secret": "n" * 32})
        made.prepare({}).commit()
        assert made.recall(old) is None
        assert (await made.verify(old)).until == clock.now + 60
        assert (await made.verify(mint("n" * 32, {"exp": clock.now + 1000}).encode())).until == clock.now + 600
        clock.now += 60
        assert made.recall(old) is None
        with pytest.raises(DeniedError, match=r"key|signature"):
            await made.verify(old)

    run(main)


@pytest.mark.parametrize("algorithm", ["HS256", "HS512", "RS256", "PS384", "ES256", "ES384", "ES512", "EdDSA"])
def test_a_signer_for_tests_is_trusted_where_it_was_added(algorithm: str) -> None:
    name, signer, key = signer_for_tests([algorithm])
    key_source = StaticKeys()
    made = trusting(algorithm, key_source)
    token = signer.mint({"sub": "a", "exp": time.time() + 60}).encode()

    async def main() -> None:
        with pytest.raises(DeniedError):
            await made.verify(token)
        key_source.add(key)
        assert (await made.verify(token)).subject == "a"

    assert name == algorithm
    run(main)


def test_slow_signatures_are_verified_beside_and_their_number_is_bounded() -> None:
    _, signer, key = signer_for_tests(["ES512"])
    key_source = StaticKeys()
    key_source.add(key)
    made = trusting("ES512", key_source)
    tokens = [signer.mint({"sub": "a", "jti": str(n), "exp": time.time() + 60}).encode() for n in range(300)]

    async def told(token: bytes) -> str:
        try:
            return (await made.verify(token)).subject
        except UnavailableError as error:
            return error.reason

    async def main() -> None:
        outcomes = await asyncio.gather(*map(told, tokens))
        assert outcomes.count("a") == 256
        assert outcomes.count("busy") == 44
        assert await told(tokens[-1]) == "a"

    run(main)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", "cannot be read"),
        ("hello", "neither PEM nor a JWK"),
        ("{}", "unknown kind"),
        ('{"kty": "oct", "k": "c2VjcmV0"}', "shared key"),
        ('{"keys": []}', "no key of the set"),
    ],
)
def test_what_is_no_public_key_is_named_and_not_shown(text: str, said: str) -> None:
    with pytest.raises(AuthError, match=said) as caught:
        public_keys(text, key="auth.jwt.public_key")
    assert str(caught.value).startswith("auth.jwt.public_key: ")
    assert "c2VjcmV0" not in str(caught.value)


def test_a_private_key_is_not_taken_for_a_public_one() -> None:
    private = key_of("rsa").as_pem(private=True).decode()  # type: ignore[union-attr]
    with pytest.raises(AuthError, match="private key") as caught:
        public_keys(private, key="k")
    assert private.splitlines()[1] not in str(caught.value)


@pytest.mark.parametrize(("algorithms", "least"), [(["HS256"], 32), (["HS256", "HS384"], 48), (["HS512"], 64)])
def test_a_secret_is_as_long_as_the_hash(algorithms: list[str], least: int, caplog: pytest.LogCaptureFixture) -> None:
    secret_key("x" * least, algorithms, key="k")
    short = "y" * (least - 1)
    with pytest.raises(AuthError, match=f"{least} bytes") as caught:
        secret_key(short, algorithms, key="auth.jwt.secret")
    assert short not in str(caught.value)
    secret_key(short, algorithms, key="auth.jwt.secret", allow_weak=True)
    assert "auth.jwt.secret" in caplog.text
    assert short not in caplog.text


def test_a_public_key_is_no_secret() -> None:
    pem = key_of("rsa").as_pem(private=False).decode()  # type: ignore[union-attr]
    with pytest.raises(AuthError, match="not a shared secret"):
        secret_key(pem, ["HS256"], key="k")


def test_a_public_key_is_read_from_a_file_beside_the_manifest(tmp_path: Path) -> None:
    _, signer, _ = signer_for_tests(["ES256"])
    (tmp_path / "key.pem").write_bytes(signer._key.as_pem(private=False))  # type: ignore[union-attr]
    for path, said in (("key.pem", ""), ("none.pem", "cannot be read"), (".", "cannot be read")):
        made = JwtScheme("sso", AuthScheme(type="jwt", public_key=path), StaticKeys(), directory=tmp_path)
        if said:
            with pytest.raises(AuthError, match=said):
                made.prepare({})
        else:
            made.prepare({}).commit()
            token = signer.mint({"sub": "a", "exp": time.time() + 60})
            assert asyncio.run(made.verify(token.encode())).subject == "a"


# Of a request ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "credential"),
    [
        (b"Bearer a.b.c", b"a.b.c"),
        (b"bearer a.b.c", b"a.b.c"),
        (b"BEARER    a.b.c", b"a.b.c"),
        (b"Bearer a.b.c  ", b"a.b.c"),
        (b"Bearer a b", b"a b"),  # nothing that verifies
        (b"Basic a.b.c", None),
        (b"Bearera.b.c", None),
        (b"Bearer\ta.b.c", None),
        (b"a.b.c", None),
        (b"", None),
    ],
)
def test_what_follows_bearer_is_presented(value: bytes, credential: bytes | None) -> None:
    assert scheme().presented({"headers": [(b"host", b"x"), (b"authorization", value)]}) == credential


@pytest.mark.parametrize(
    "values", [[b"Bearer"], [b"bearer "], [b"Bearer    "], [b"Bearer a", b"Bearer a"], [b"Basic a", b"Bearer b"]]
)
def test_no_token_or_two_headers_are_denied(values: list[bytes]) -> None:
    with pytest.raises(DeniedError, match="malformed"):
        scheme().presented({"headers": [(b"authorization", value) for value in values]})


def test_without_the_header_nothing_is_presented() -> None:
    headers = [(b"x-authorization", b"Bearer a"), (b"cookie", b"authorization=Bearer a")]
    assert scheme().presented({"headers": headers}) is None


def test_a_scheme_takes_tokens_of_its_algorithms_and_issuer() -> None:
    made = scheme(issuer="https://a.example")
    ours = mint("somebody else's", {"iss": "https://a.example"}).encode()
    assert made.accepts(ours)
    assert not made.accepts(mint("x", {"iss": "https://b.example"}).encode())
    assert not made.accepts(mint("x", {}).encode())
    assert not made.accepts(mint("x", {"iss": "https://a.example"}, alg="HS512").encode())
    assert not made.accepts(b"opaque")
    assert scheme().accepts(mint("x", {"iss": "https://b.example"}).encode())


def test_challenges_are_those_of_rfc_6750() -> None:
    made = scheme()
    assert made.challenge("users") == b'Bearer realm="users"'
    assert made.challenge("users", "invalid_token") == b'Bearer realm="users", error="invalid_token"'
    wanted = b'Bearer realm="users", error="insufficient_scope", scope="a b"'
    assert made.challenge("users", "insufficient_scope", "a b") == wanted
    assert made.challenge('a"\\b') == b'Bearer realm="a\\"\\\\b"'


# Times, to the second -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("claim", "away", "reason"),
    [
        ("exp", -30, "expired"),
        ("exp", -29.5, ""),
        ("exp", 0, ""),
        ("nbf", 30, ""),
        ("nbf", 30.5, "not_yet_valid"),
        ("iat", 30, ""),
        ("iat", 31, "not_yet_valid"),
    ],
)
def test_leeway_is_added_on_the_side_of_the_token(claim: str, away: float, reason: str) -> None:
    clock = Clock()
    made = scheme(clock, leeway="30s")
    token = mint(SECRET, {"exp": clock.now + 900, claim: clock.now + away}).encode()
    if reason:
        with pytest.raises(DeniedError, match=reason):
            asyncio.run(made.verify(token))
    else:
        asyncio.run(made.verify(token))


def test_a_scheme_takes_no_part_of_its_claims_from_an_unsigned_token() -> None:
    """The signature comes first: whoever has no key is told nothing about issuer, audience or times."""
    made = scheme(issuer="https://a.example", audience="users")
    several: list[dict[str, Any]] = [{}, {"iss": 1}, {"exp": 1}, {"aud": {}}]
    for claims in several:
        with pytest.raises(DeniedError, match="signature"):
            asyncio.run(made.verify(mint("somebody else's", claims).encode()))


# Keys that take waiting -----------------------------------------------------------------------------------------------


class Gated:
    """Keys that are known once `gate` is open, and a count of the verifications with them."""

    def __init__(self, key: VerificationKey) -> None:
        self.generation = 0
        self.gate = asyncio.Event()
        self.key = key

    def find_now(self, alg: str, kid: str | None) -> Sequence[VerificationKey] | None:
        return None

    async def find(self, alg: str, kid: str | None) -> Sequence[VerificationKey]:
        await self.gate.wait()
        return [self.key] if self.key.fits(alg) else []


def test_what_was_verified_with_keys_that_were_replaced_meanwhile_is_not_remembered() -> None:
    _, signer, key = signer_for_tests(["ES256"])
    token = signer.mint({"exp": time.time() + 60}).encode()

    async def main() -> None:
        keys = Gated(key)
        made = trusting("ES256", keys)
        waiting = asyncio.create_task(made.verify(token))
        await asyncio.sleep(0)
        keys.generation += 1
        keys.gate.set()
        await waiting
        assert made.recall(token) is None
        await made.verify(token)
        assert made.recall(token) is not None
        keys.generation += 1
        assert made.recall(token) is None

    run(main)


def test_a_scheme_whose_keys_are_published_has_nothing_to_prepare() -> None:
    _, _, key = signer_for_tests(["ES256"])

    async def main() -> None:
        loaded = trusting("ES256", Gated(key)).prepare({})
        loaded.commit()
        loaded.discard()

    run(main)


def test_requests_with_the_same_slow_token_wait_for_one_verification(monkeypatch: pytest.MonkeyPatch) -> None:
    _, signer, key = signer_for_tests(["ES384"])
    token = signer.mint({"sub": "a", "exp": time.time() + 60}).encode()
    verified: list[bytes] = []
    verify = VerificationKey.verify

    def counted(self: VerificationKey, alg: str, signing_input: bytes, signature: bytes) -> bool:
        verified.append(signature)
        return verify(self, alg, signing_input, signature)

    monkeypatch.setattr(VerificationKey, "verify", counted)
    keys = StaticKeys()
    keys.add(key)
    made = trusting("ES384", keys)

    async def main() -> None:
        async with asyncio.TaskGroup() as tasks:
            asked = [tasks.create_task(made.verify(token)) for _ in range(20)]
            await asyncio.sleep(0)
            gone = asked.pop(0)  # the one that began it
            gone.cancel()
        assert [task.result().subject for task in asked] == ["a"] * 19
        assert gone.cancelled()
        assert len(verified) == 1
        bad = token[:-8] + b"AAAAAAAA"
        refused = await asyncio.gather(*(made.verify(bad) for _ in range(5)), return_exceptions=True)
        assert [str(each) for each in refused] == ["signature"] * 5
        assert len(verified) == 2
        with pytest.raises(DeniedError):  # a refusal is not remembered
            await made.verify(bad)
        assert len(verified) == 3

    run(main)


def test_a_library_that_chokes_on_a_signature_is_a_refusal(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made, token = scheme(), mint(SECRET, {"exp": 4e9}).encode()

    def choke(*_: object) -> bool:
        raise RuntimeError(token.decode())

    monkeypatch.setattr(VerificationKey, "verify", choke)
    with pytest.raises(DeniedError, match="signature"):
        asyncio.run(made.verify(token))
    assert "RuntimeError" in caplog.text
    assert token.decode() not in caplog.text


# What configuration holds ---------------------------------------------------------------------------------------------


def templated(**options: str) -> JwtScheme:
    read = {name: SecretTemplate.parse(text) for name, text in options.items()}
    declared = AuthScheme(type="jwt").model_copy(update=read)
    return JwtScheme("jwt", declared, StaticKeys(), directory=Path(), key="auth.jwt")


def test_a_secret_is_filled_in_and_used_once_it_is_committed() -> None:
    made = templated(secret="${secret:JWT_SECRET}")
    token = mint(SECRET, {"exp": time.time() + 60}).encode()
    made.prepare({"JWT_SECRET": SECRET}).discard()
    with pytest.raises(DeniedError, match="key"):
        asyncio.run(made.verify(token))
    made.prepare({"JWT_SECRET": SECRET}).commit()
    asyncio.run(made.verify(token))


def test_a_refused_rotation_leaves_the_secret_in_use() -> None:
    made = templated(secret="${secret:JWT_SECRET}")
    made.prepare({"JWT_SECRET": SECRET}).commit()
    with pytest.raises(AuthError, match=r"^auth\.jwt\.secret: "):
        made.prepare({"JWT_SECRET": "short"})
    asyncio.run(made.verify(mint(SECRET, {"exp": time.time() + 60}).encode()))


def test_a_secret_that_is_not_there_is_named() -> None:
    with pytest.raises(AuthError, match="secret JWT_SECRET has no value"):
        templated(secret="${secret:JWT_SECRET}").prepare({})


def test_what_a_secret_holds_instead_of_a_public_key_is_not_shown() -> None:
    for held in ("hunter2-hunter2", "x" * 5000, "a\0b", "MC4CAQAwBQYDK2VwBCIEIJ"):
        with pytest.raises(AuthError, match=r"auth\.jwt\.public_key: \$\{secret:PUBLIC\} cannot be read") as caught:
            templated(public_key="${secret:PUBLIC}").prepare({"PUBLIC": held})
        assert held not in str(caught.value)
        assert caught.value.__cause__ is None


def test_a_key_that_none_of_the_algorithms_fits_is_refused_before_anybody_asks(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_bytes(key_of("ec384").as_pem(private=False))  # type: ignore[union-attr]
    made = JwtScheme("sso", AuthScheme(type="jwt", public_key="key.pem"), StaticKeys(), directory=tmp_path)
    with pytest.raises(AuthError, match="no key for the algorithms RS256, ES256, EdDSA"):
        made.prepare({})


def test_a_file_in_der_is_told_from_pem(tmp_path: Path) -> None:
    (tmp_path / "key.der").write_bytes(key_of("rsa").as_der(private=False))  # type: ignore[union-attr]
    made = JwtScheme("sso", AuthScheme(type="jwt", public_key="key.der"), StaticKeys(), directory=tmp_path)
    with pytest.raises(AuthError, match=r"key\.der is not text"):
        made.prepare({})
