"""Users with passwords: which credentials are accepted, and what verifying them costs."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Awaitable, Callable

import bcrypt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pywatt_host.auth.basic import BasicScheme
from pywatt_host.auth.identity import DeniedError, Identity, UnavailableError
from pywatt_host.exceptions import AuthError
from pywatt_host.manifest.model import AuthScheme
from tests.auth.renewal import Clock, renew
from tests.hosting import run

HASH = bcrypt.hashpw("pässword".encode(), b"$2b$04$abcdefghijklmnopqrstuu").decode()


def basic(user: str, password: str) -> bytes:
    return b64encode(f"{user}:{password}".encode())


def with_users(text: str, use: Callable[[BasicScheme], Awaitable[None]], clock: Clock | None = None) -> None:
    async def main() -> None:
        scheme = BasicScheme("ops", AuthScheme(type="basic", users=text), clock=clock or Clock())
        scheme.prepare({}).commit()
        async with asyncio.TaskGroup() as tasks, scheme.running(tasks):
            await use(scheme)

    run(main)


async def told(scheme: BasicScheme, credential: bytes, client: str = "") -> str:
    """The subject, or why not."""
    try:
        return (await scheme.verify(credential, client)).subject
    except (DeniedError, UnavailableError) as error:
        return f"({error.reason})"


@pytest.mark.parametrize(
    ("credential", "outcome"),
    [
        (basic("ann", "plain one"), "ann"),
        (basic("bob", "pässword"), "bob"),
        (basic("colon", "a:b:c"), "colon"),
        (basic("ann", "plain two"), "(credentials)"),
        (basic("ann", ""), "(credentials)"),
        (basic("ann", "plain one "), "(credentials)"),
        (basic("Ann", "plain one"), "(credentials)"),
        (basic("bob", "password"), "(credentials)"),
        (basic("bob", HASH), "(credentials)"),
        (basic("bob", "x" * 73), "(credentials)"),
        (basic("bob", "x" * 2000), "(credentials)"),
        (basic("nobody", "x"), "(credentials)"),
        (basic("", "x"), "(credentials)"),
        (b64encode(b"no colon"), "(malformed)"),
        (b64encode(b"ann:\x00"), "(malformed)"),
        (b64encode(b"ann:plain\none"), "(malformed)"),
        (b64encode(b"\xff\xfe:x"), "(malformed)"),
        (b"not base64!", "(malformed)"),
        (basic("ann", "plain one").rstrip(b"="), "(malformed)"),
        (basic("ann", "plain one") + b"\n", "(malformed)"),
        (b"", "(malformed)"),
        (basic("ann", "x" * 4096), "(too_large)"),
    ],
)
def test_who_knows_the_password(credential: bytes, outcome: str) -> None:
    async def use(scheme: BasicScheme) -> None:
        assert await told(scheme, credential) == outcome
        assert await told(scheme, credential) == outcome

    with_users(f"# operators\nann:plain one\nbob:{HASH}\n\ncolon:a:b:c", use)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "contains no user"),
        ("ann", "line 1 is not USER:PASSWORD"),
        ("ann:x\nann:y", "is already in line 1"),
        ("ann:$apr1$abc$def", "htpasswd -B"),
        ("ann:{SHA}VBPuJHI7uixaa6LQGWx4s+5GKNE=", "htpasswd -B"),
        ("ann:$6$salt$hash", "htpasswd -B"),
        ("ann:$2y$05$tooshort", "htpasswd -B"),
        ("ann:" + HASH.replace("$04$", "$31$"), "cost of 31"),
    ],
)
def test_users_that_cannot_be_are_named_and_their_passwords_never_shown(text: str, said: str) -> None:
    with pytest.raises(AuthError, match=said.replace("$", r"\$")) as caught:
        BasicScheme("ops", AuthScheme(type="basic", users=text or " ")).prepare({})
    assert "auth.ops.users" in str(caught.value)
    for password in ("VBPuJHI7uixaa6LQGWx4s", "salt", "tooshort"):
        assert password not in str(caught.value)


def test_a_user_that_nobody_is_costs_as_much_as_a_wrong_password() -> None:
    async def use(scheme: BasicScheme) -> None:
        hashed: list[bytes] = []
        check = scheme._check
        assert check is not None

        def count(password: bytes, hash: bytes) -> bool:
            hashed.append(hash)
            return check(password, hash)

        scheme._check = count
        for credential in (basic("bob", "wrong"), basic("nobody", "wrong"), basic("ann", "wrong")):
            assert await told(scheme, credential) == "(credentials)"
        assert len(hashed) == 3
        assert len({hash[:7] for hash in hashed}) == 1  # of one cost

    with_users(f"ann:plain one\nbob:{HASH}", use)


def test_a_password_is_hashed_once_for_all_who_bring_it_and_then_remembered_for_a_while() -> None:
    clock = Clock()

    async def use(scheme: BasicScheme) -> None:
        hashed: list[bytes] = []
        check = scheme._check
        assert check is not None

        def count(password: bytes, hash: bytes) -> bool:
            hashed.append(hash)
            return check(password, hash)

        scheme._check = count
        credential = basic("bob", "pässword")
        assert await asyncio.gather(*(told(scheme, credential) for _ in range(500))) == ["bob"] * 500
        assert await told(scheme, credential) == "bob"
        assert len(hashed) == 1
        clock.now += 301
        assert await told(scheme, credential) == "bob"
        assert len(hashed) == 2

    with_users(f"bob:{HASH}", use, clock)


def test_a_flood_of_guesses_is_bounded_and_said_to_come_back() -> None:
    async def use(scheme: BasicScheme) -> None:
        guesses = (told(scheme, basic("bob", f"guess {number}")) for number in range(200))
        outcomes = await asyncio.gather(*guesses)
        assert outcomes.count("(busy)") == 200 - 64
        assert outcomes.count("(credentials)") == 64
        assert await told(scheme, basic("bob", "pässword")) == "bob"

    with_users(f"bob:{HASH}", use)


def test_a_replaced_password_holds_for_a_while_and_what_was_remembered_with_it() -> None:
    clock = Clock()

    async def use(scheme: BasicScheme) -> None:
        assert await told(scheme, basic("bob", "pässword")) == "bob"
        renew(scheme, users="bob:a new one\ncat:hers")
        for password in ("pässword", "a new one"):
            assert await told(scheme, basic("bob", password)) == "bob"
        clock.now += 301
        assert await told(scheme, basic("bob", "pässword")) == "(credentials)"
        assert await told(scheme, basic("bob", "a new one")) == "bob"

    with_users(f"bob:{HASH}", use, clock)


@given(st.binary(max_size=200))
def test_whatever_is_presented_is_denied_and_nothing_else(credential: bytes) -> None:
    scheme = BasicScheme("ops", AuthScheme(type="basic", users="ann:plain one"))
    scheme.prepare({}).commit()

    async def main() -> None:
        for each in (credential, b64encode(credential)):
            try:
                assert isinstance(await scheme.verify(each), Identity)
            except DeniedError:
                continue

    asyncio.run(main())


def test_nothing_of_a_password_is_in_what_is_kept() -> None:
    scheme = BasicScheme("ops", AuthScheme(type="basic", users="ann:plain one of hers"))
    scheme.prepare({}).commit()
    assert "plain one of hers" not in repr(vars(scheme) | {"_options": None})
