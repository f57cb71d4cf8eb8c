"""Keys that an issuer publishes: fetched once for all, kept when it fails, changed when it changes them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from pywatt_host.auth.identity import DeniedError, UnavailableError
from pywatt_host.auth.jwt import JwtScheme
from pywatt_host.auth.remote import CACHE_TTL, MIN_FETCH_INTERVAL, RemoteKeys
from pywatt_host.exceptions import AuthError
from pywatt_host.manifest.model import AuthScheme
from tests.auth.issuer import ISSUER, Clock, Issuer
from tests.hosting import run

JWKS = {"type": "jwt", "jwks_url": f"{ISSUER}/jwks"}
OIDC = {"type": "oidc", "issuer": ISSUER, "audience": ["users"]}


class Side:
    """A scheme with the keys of an issuer."""

    def __init__(self, issuer: Issuer, options: dict[str, Any]) -> None:
        self.issuer = issuer
        self.clock = Clock()
        typed = AuthScheme(**options)
        self.keys = RemoteKeys("sso", typed, clock=self.clock, make_client=issuer.client)
        self.scheme = JwtScheme("sso", typed, self.keys, directory=Path())

    async def told(self, kid: str, **claims: Any) -> str:
        said = {"sub": "alice", "exp": int(time.time()) + 600, **claims}
        try:
            return (await self.scheme.verify(self.issuer.signed(kid, **said))).subject
        except (DeniedError, UnavailableError) as error:
            return f"({error.reason})"


@asynccontextmanager
async def side(options: dict[str, Any] = JWKS, *, down: bool = False) -> AsyncIterator[Side]:
    issuer = Issuer()
    issuer.publish("one")
    issuer.down = down
    made = Side(issuer, options)
    async with asyncio.TaskGroup() as tasks, made.keys.running(tasks):
        yield made


def case(main: Callable[[], Awaitable[None]]) -> None:
    run(main)


def test_keys_are_fetched_once_for_all_who_wait() -> None:
    async def main() -> None:
        async with side() as it:
            it.issuer.gate.clear()
            waiting = [asyncio.create_task(it.told("one", jti=str(number))) for number in range(200)]
            await asyncio.sleep(0)
            it.issuer.gate.set()
            assert await asyncio.gather(*waiting) == ["alice"] * 200
            assert it.issuer.asked == ["/jwks"]

    case(main)


def test_an_issuer_is_found_by_its_metadata() -> None:
    async def main() -> None:
        async with side({**OIDC, "allow_private": True}) as it:
            assert await it.told("one", iss=ISSUER, aud="users") == "alice"
            assert await it.told("one", iss="https://other.example", aud="users") == "(issuer)"
            assert await it.told("one", iss=ISSUER, aud="others") == "(audience)"
            assert it.issuer.asked == ["/.well-known/openid-configuration", "/jwks"]

    case(main)


def test_a_kid_that_nobody_knows_is_asked_for_once_in_a_while() -> None:
    async def main() -> None:
        async with side() as it:
            assert await it.told("one") == "alice"
            stranger = Issuer()
            stranger.publish("strange")
            it.issuer.keys["strange"] = stranger.keys.pop("strange")
            token_of = it.issuer.signed
            token = token_of("strange", sub="x", exp=int(time.time()) + 60)
            del it.issuer.keys["strange"]
            for _ in range(100):
                with pytest.raises(DeniedError, match="key"):
                    await it.scheme.verify(token)
            assert it.issuer.asked == ["/jwks"]  # the first fetch was just now
            it.clock.now += MIN_FETCH_INTERVAL
            for _ in range(100):
                with pytest.raises(DeniedError, match="key"):
                    await it.scheme.verify(token)
            assert it.issuer.asked == ["/jwks"] * 2

    case(main)


def test_a_new_key_is_taken_up_and_one_that_has_gone_is_refused_with_what_it_signed() -> None:
    async def main() -> None:
        async with side() as it:
            assert await it.told("one") == "alice"
            it.issuer.publish("one", "two")
            it.clock.now += MIN_FETCH_INTERVAL
            assert await it.told("two") == "alice"
            token = it.issuer.signed("one", sub="alice", exp=int(time.time()) + 600)
            assert (await it.scheme.verify(token)).subject == "alice"
            assert it.scheme.recall(token) is not None
            it.issuer.keys["gone"] = it.issuer.keys.pop("one")
            it.issuer.publish("two")
            it.clock.now += CACHE_TTL
            assert await it.told("two", jti="new") == "alice"  # which has it fetched, beside
            assert it.keys._fetching is not None
            await it.keys._fetching
            assert it.scheme.recall(token) is None
            with pytest.raises(DeniedError, match="key"):
                await it.scheme.verify(token)

    case(main)


def test_an_issuer_that_is_down_takes_no_keys_away() -> None:
    async def main() -> None:
        async with side() as it:
            assert await it.told("one") == "alice"
            it.issuer.down = True
            for _ in range(3):
                it.clock.now += CACHE_TTL
                assert await it.told("one", jti=str(it.clock.now)) == "alice"
                assert it.keys._fetching is not None
                await it.keys._fetching
            with pytest.raises(AuthError, match="connection refused"):
                await it.keys.check()
            it.issuer.down = False
            it.clock.now += CACHE_TTL
            assert await it.told("one", jti="last") == "alice"
            assert it.keys._fetching is not None
            await it.keys._fetching
            await it.keys.check()

    case(main)


def test_without_any_keys_tokens_are_put_off_and_the_issuer_is_not_hammered(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with side(down=True) as it:
            assert await asyncio.gather(*(it.told("one", jti=str(n)) for n in range(1000))) == ["(unavailable)"] * 1000
            assert len(it.issuer.asked) == 1
            it.clock.now += 1.0
            assert await it.told("one") == "(unavailable)"
            it.clock.now += 1.0  # the pause has doubled
            assert await it.told("one") == "(unavailable)"
            assert len(it.issuer.asked) == 2
            it.issuer.down = False
            it.clock.now += 1.0
            assert await it.told("one") == "alice"

    case(main)
    assert caplog.text.count("could not be fetched") == 1


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (httpx.Response(302, headers={"location": "http://169.254.169.254/"}), "redirects are not followed"),
        (httpx.Response(200, text="{" + " " * 1_100_000), "longer than"),
        (httpx.Response(200, text="<html>"), "is not JSON"),
        (httpx.Response(200, json={"keys": []}), "no usable key"),
        (httpx.Response(200, json={"keys": [{"kty": "oct", "k": "AAAA"}]}), "no usable key"),
        (httpx.Response(200, json=["keys"]), "no usable key"),
        (httpx.Response(500, text="oops"), "the response has status 500"),
    ],
)
def test_an_answer_that_is_no_key_set_is_said_once_and_keeps_what_is_there(
    answer: httpx.Response, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with side() as it:
            assert await it.told("one") == "alice"
            it.issuer.answers["/jwks"] = answer
            it.clock.now += CACHE_TTL
            assert await it.told("one", jti="2") == "alice"
            assert it.keys._fetching is not None
            await it.keys._fetching
            with pytest.raises(AuthError, match=said):
                await it.keys.check()
            assert it.issuer.asked == ["/jwks", "/jwks"]

    case(main)
    assert "stay in use" in caplog.text


@pytest.mark.parametrize(
    ("change", "options", "said"),
    [
        ({"issuer": ISSUER + "/"}, {}, "not from the issuer"),
        ({"issuer": "https://evil.example"}, {}, "not from the issuer"),
        ({"jwks_uri": "http://id.example/jwks"}, {}, "not https"),
        ({"jwks_uri": "http://127.0.0.1/jwks"}, {}, "not https"),
        ({"jwks_uri": "file:///etc/passwd"}, {}, "has no jwks_uri"),
        ({"jwks_uri": None}, {}, "has no jwks_uri"),
        ({"jwks_uri": "https://127.0.0.1/jwks"}, {}, "private address"),
        ({"jwks_uri": "https://[::1]/jwks"}, {}, "private address"),
        ({"jwks_uri": "https://169.254.169.254/jwks"}, {}, "private address"),
        ({"jwks_uri": "https://10.0.0.1/jwks"}, {}, "private address"),
        ({"jwks_uri": "https://localhost/jwks"}, {}, "private address"),
    ],
)
def test_where_an_issuer_sends_is_looked_at(change: dict[str, Any], options: dict[str, Any], said: str) -> None:
    async def main() -> None:
        issuer = Issuer()
        issuer.publish("one")
        issuer.metadata |= change
        it = Side(issuer, {**OIDC, **options})
        async with asyncio.TaskGroup() as tasks, it.keys.running(tasks):
            assert await it.told("one", iss=ISSUER, aud="users") == "(unavailable)"
            with pytest.raises(AuthError, match=said):
                await it.keys.check()
            assert "/jwks" not in issuer.asked

    case(main)


def test_nothing_in_a_token_is_ever_opened() -> None:
    async def main() -> None:
        async with side() as it:
            assert await it.told("one") == "alice"
            asked = len(it.issuer.asked)
            from pywatt_host.auth.minting import sign

            key = it.issuer.keys["one"]
            for header in (
                {"jku": "https://id.example/evil"},
                {"x5u": "https://id.example/evil"},
                {"kid": "https://id.example/evil"},
            ):
                token = sign(key, "RS256", {"kid": "one", **header}, {"sub": "a", "exp": int(time.time()) + 60})
                try:
                    await it.scheme.verify(token.encode())
                except DeniedError:
                    continue
            assert it.issuer.asked[asked:] == []

    case(main)


def test_leaving_while_an_issuer_is_asked_ends_it() -> None:
    async def main() -> None:
        issuer = Issuer()
        issuer.gate.clear()
        it = Side(issuer, JWKS)
        async with asyncio.TaskGroup() as tasks, it.keys.running(tasks):
            await asyncio.sleep(0)
        assert it.keys._fetching is None

    case(main)
