"""How many credentials an address may try: over its limit, none is looked at, not even a right one."""

from __future__ import annotations

import asyncio
import json
import threading
from base64 import b64encode
from typing import Any

import bcrypt
import pytest

from tests.auth.test_basic import HASH, basic, told, with_users
from tests.auth.tokens_for_tests import SECRET, signed
from tests.hosting import Hosted, Recorder, hosted, run

KEY = "k" * 32
HASHED = bcrypt.hashpw(b"right one", b"$2b$04$abcdefghijklmnopqrstuu").decode()
SCHEMES: dict[str, Any] = {
    "jwt": {"secret": SECRET},
    "api_key": {"keys": f"robot:{KEY}"},
    "plain": {"type": "basic", "users": "ann:right one"},
    "hashed": {"type": "basic", "users": f"ann:{HASHED}"},
}
ADDRESS, OTHER = ("192.0.2.1", 1), ("192.0.2.2", 1)


def password(text: str) -> dict[str, str]:
    return {"authorization": "Basic " + b64encode(f"ann:{text}".encode()).decode()}


def right(scheme: str) -> dict[str, str]:
    if scheme == "jwt":
        return {"authorization": f"Bearer {signed()}"}
    return {"x-api-key": KEY} if scheme == "api_key" else password("right one")


def wrong(scheme: str, number: int) -> dict[str, str]:
    if scheme == "jwt":
        return {"authorization": f"Bearer {signed(SECRET[::-1], sub=str(number))}"}
    return {"x-api-key": f"{number:032}"} if scheme == "api_key" else password(f"wrong {number}")


def manifest(scheme: str, path: str = "/private", rate: str = "3/h") -> dict[str, Any]:
    endpoints = [{"path": path, "methods": ["GET", "WEBSOCKET"], "auth": scheme, "rate_limit": rate}]
    return {"auth": {scheme: SCHEMES[scheme]}, "endpoints": endpoints}


async def statuses(host: Hosted, path: str, *requests: dict[str, str], client: Any = ADDRESS) -> list[int]:
    return [(await host.get(path, headers=headers, client=client)).status for headers in requests]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_right_guess_after_too_many_wrong_ones_is_429_and_other_addresses_are_not_held_up(scheme: str) -> None:
    async def main() -> None:
        async with hosted(manifest(scheme), Recorder()) as host:
            guesses = [wrong(scheme, number) for number in range(3)]
            assert await statuses(host, "/private", *guesses, right(scheme), wrong(scheme, 4), {}) == [
                401, 401, 401, 429, 429, 429,
            ]  # fmt: skip
            counts = host.host.schemes.counts
            assert sum(counts.values()) == 3, counts  # the others were not looked at
            assert await statuses(host, "/private", right(scheme), client=OTHER) == [200]

    run(main)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_right_credentials_do_not_count_as_guesses(scheme: str) -> None:
    async def main() -> None:
        async with hosted(manifest(scheme), Recorder()) as host:
            tries = [right(scheme), right(scheme), wrong(scheme, 1), right(scheme), right(scheme)]
            assert await statuses(host, "/private", *tries) == [200, 200, 401, 200, 429]  # three of one subject
            assert await statuses(host, "/private", wrong(scheme, 2), wrong(scheme, 3), wrong(scheme, 4)) == [
                401, 401, 429,
            ]  # fmt: skip

    run(main)


def test_guesses_at_the_same_time_count_before_they_are_verified() -> None:
    async def main() -> None:
        async with hosted(manifest("hashed"), Recorder()) as host:
            tries = [wrong("hashed", number) for number in range(20)] + [right("hashed")]
            calls = [host.start("GET", "/private", headers=each, client=ADDRESS) for each in tries]
            got = [(await call.answer()).status for call in calls]
            assert (got.count(401), got.count(429)) == (3, 18)

    run(main)


def test_a_network_of_ipv6_is_one_address() -> None:
    async def main() -> None:
        async with hosted(manifest("api_key"), Recorder()) as host:
            got = [
                await statuses(host, "/private", wrong("api_key", number), client=(f"2001:db8::{number}:1", 1))
                for number in range(4)
            ]
            assert got == [[401], [401], [401], [429]]
            assert await statuses(host, "/private", right("api_key"), client=("2001:db8:0:1::1", 1)) == [200]

    run(main)


def test_metrics_take_thirty_guesses_a_minute_from_an_address() -> None:
    async def main() -> None:
        metrics = {"auth": {"key": {"type": "api_key", "keys": KEY}}, "metrics": {"auth": "key"}}
        async with hosted(metrics, Recorder()) as host:
            good, bad = {"x-api-key": KEY}, {"x-api-key": "x" * 32}
            assert set(await statuses(host, "/metrics", *[good, {}] * 40)) == {200, 401}  # none of them is a guess
            assert await statuses(host, "/metrics", *[bad] * 30, good) == [401] * 30 + [429]
            answer = await host.get("/metrics", headers=good, client=ADDRESS)
            assert int(answer.header("retry-after")) >= 1
            assert await statuses(host, "/metrics", good, client=OTHER) == [200]

    run(main)


def test_messages_take_thirty_guesses_a_minute_from_an_address() -> None:
    async def main() -> None:
        token = "t" * 32
        async with hosted({"channels": {"http": {"token": token}}}, Recorder()) as host:
            host.state.on_message("ping")(lambda message: "pong")

            async def status(token: str, client: Any = ADDRESS) -> int:
                headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
                body = json.dumps({"type": "ping"}).encode()
                path = "/_pywatt/messages"
                return (await host.request("POST", path, headers=headers, body=[body], client=client)).status

            assert [await status(token) for _ in range(40)] == [200] * 40
            assert [await status("wrong") for _ in range(30)] == [401] * 30
            assert await status(token) == 429
            assert await status(token, OTHER) == 200

    run(main)


def test_one_address_does_not_take_all_threads_that_hash_passwords() -> None:
    release, running = threading.Event(), threading.Semaphore(0)

    async def use(scheme: Any) -> None:
        check = scheme._check

        def slow(password: bytes, hash: bytes) -> bool:
            if password.startswith(b"guess"):
                running.release()
                assert release.wait(60)
            return bool(check(password, hash))

        scheme._check = slow

        async def guess(number: int) -> str:
            return await told(scheme, basic("bob", f"guess {number}"), "192.0.2.1")

        guesses = [asyncio.create_task(guess(number)) for number in range(20)]
        assert await asyncio.to_thread(running.acquire, timeout=60)
        assert await told(scheme, basic("bob", "pässword"), "192.0.2.2") == "bob"
        assert not running.acquire(blocking=False)
        release.set()
        outcomes = await asyncio.gather(*guesses)
        assert (outcomes.count("(credentials)"), outcomes.count("(busy)")) == (8, 12)
        assert await told(scheme, basic("bob", "guess"), "192.0.2.1") == "(credentials)"  # there is room again
        assert scheme._turns._clients == {}

    with_users(f"bob:{HASH}", use)
