"""One contract for every cache: the same calls, values and errors, whatever keeps them."""

from __future__ import annotations

import asyncio
import datetime
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from pywatt_host.exceptions import StoreError
from pywatt_host.manifest.model import Cache as CacheOptions
from pywatt_host.stores.caches.cache import Cache
from pywatt_host.stores.caches.memory import MemoryBackend
from pywatt_host.stores.kinds import StoreContext, cache_backend
from pywatt_host.stores.stats import Stats
from tests.stores.opening import Wired

KINDS = ["memory", "redis", "memcached", "orchestrator"]


@asynccontextmanager
async def opened(
    url: str, *, namespace: str = "t", cleared: bool = True, timeout: float = 2.0, **more: Any
) -> AsyncIterator[Cache]:
    """A cache, cleared before."""
    remote = None
    if url == "proxied:":  # behind an orchestrator that keeps it in memory
        far = Cache("shared", stats=Stats())
        far.replace(MemoryBackend("caches.shared", 10_000, 2**26))
        remote, url = Wired(cache=far), "orchestrator:shared"
    options = CacheOptions.model_validate({"url": url, "timeout": f"{timeout}s"})
    cache = Cache("default", namespace=namespace, timeout=timeout, stats=Stats(), **more)
    backend = await cache_backend("caches.default", url, options, StoreContext(Path("/"), "tests", remote))
    await backend.open()
    cache.replace(backend)
    try:
        if namespace and cleared:
            await cache.clear()
        yield cache
    finally:
        await cache.close()


async def ended(cache: Cache, *keys: str) -> None:
    """Wait until these are gone: the clock is the server's."""
    deadline = time.monotonic() + 5
    while await cache.get_many(keys):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest) -> str:
    if request.param == "memory":
        return "memory://"
    if request.param == "orchestrator":
        return "proxied:"
    server = request.getfixturevalue({"redis": "valkey_server"}.get(request.param, f"{request.param}_server"))
    return str(server.url)


@pytest.fixture
def use(url: str) -> Callable[..., None]:
    """Run a coroutine function with a cache."""

    def run(check: Callable[[Cache], Awaitable[None]], **options: Any) -> None:
        async def main() -> None:
            async with opened(url, **options) as cache:
                await check(cache)

        asyncio.run(main())

    return run


@pytest.mark.parametrize(
    "value",
    [
        None, True, False, 0, -5, 2**53, 1.5, "", "text", "ä\u2028\0", [], {}, {"a": [1, None, {"b": "c"}]}, b"",
        b"\0\xff", b"null",
    ],
    ids=repr,
)  # fmt: skip
def test_values_come_back_as_they_were(use: Callable[..., None], value: Any) -> None:
    async def check(cache: Cache) -> None:
        await cache.set("key", value)
        found = await cache.get("key", "default")
        assert (found, type(found)) == (value, type(value))
        assert await cache.exists("key")

    use(check)


@pytest.mark.parametrize(
    "value",
    [datetime.datetime.now(), {1, 2}, object(), {1: 2}, float("nan"), [float("inf")], 2**70, "\ud800"],
    ids=["datetime", "set", "object", "key", "nan", "infinity", "large", "surrogate"],
)
def test_what_json_cannot_hold_is_refused_by_its_key_and_nothing_is_kept(use: Callable[..., None], value: Any) -> None:
    async def check(cache: Cache) -> None:
        with pytest.raises(
            StoreError, match=r"^caches\.default: the value for key 'key' cannot be stored as JSON"
        ) as caught:
            await cache.set("key", value)
        assert caught.value.code == "arguments"
        assert await cache.get("key") is None

    use(check)


def test_what_is_not_there_gives_the_default_and_a_cached_none_does_not(use: Callable[..., None]) -> None:
    async def check(cache: Cache) -> None:
        assert await cache.get("nothing") is None
        assert await cache.get("nothing", 7) == 7
        await cache.set("none", None)
        assert await cache.get("none", 7) is None
        assert await cache.get_many(["none", "nothing"]) == {"none": None}
        assert cache.stats.counts["hits"] == 2
        assert cache.stats.counts["misses"] == 3

    use(check)


def test_changing_a_value_changes_nothing_that_is_cached(use: Callable[..., None]) -> None:
    async def check(cache: Cache) -> None:
        value = [1]
        await cache.set("key", value)
        value.append(2)
        found = await cache.get("key")
        found.append(3)
        assert await cache.get("key") == [1]
        computed = await cache.get_or_set("other", lambda: value)
        computed.append(4)
        assert await cache.get("other") == [1, 2]

    use(check)


def test_several_at_once(use: Callable[..., None]) -> None:
    async def check(cache: Cache) -> None:
        await cache.set_many({"a": 1, "b": b"2", "c": [3]})
        assert await cache.get_many(["c", "b", "nothing", "a", "a"]) == {"a": 1, "b": b"2", "c": [3]}
        assert await cache.get_many([]) == {}
        assert await cache.delete("a", "b", "nothing") == 2
        assert await cache.get_many(["a", "b", "c"]) == {"c": [3]}
        assert await cache.delete() == 0

    use(check)


def test_an_entry_ends_after_its_time(use: Callable[..., None]) -> None:
    async def check(cache: Cache) -> None:
        # memcached counts in whole seconds: an entry may end up to a second early there.
        await cache.set("short", 1, expire=2)
        await cache.set("delta", 1, expire=datetime.timedelta(seconds=2))
        await cache.set("ever", 1, expire=None)
        await cache.set_many({"many": 1}, expire=2)
        assert await cache.get_many(["short", "delta", "ever", "many"]) == dict.fromkeys(
            ["short", "delta", "ever", "many"], 1
        )
        await ended(cache, "short", "delta", "many")
        assert await cache.get_many(["short", "delta", "ever", "many"]) == {"ever": 1}

    use(check)


def test_the_caches_own_ttl_holds_where_the_call_says_nothing(use: Callable[..., None]) -> None:
    async def check(cache: Cache) -> None:
        await cache.set("key", 1)
        await cache.set("ever", 1, expire=None)
        await ended(cache, "key")
        assert not await cache.exists("key")
        assert await cache.exists("ever")

    use(check, ttl=1.0)


@pytest.mark.parametrize("expire", [0, -1, float("nan"), float("inf"), "1", True])
def test_a_time_that_is_none_is_refused(use: Callable[..., None], expire: Any) -> None:
    async def check(cache: Cache) -> None:
        with pytest.raises(StoreError, match="expire must be more than 0 seconds"):
            await cache.set("key", 1, expire=expire)

    use(check)


@pytest.mark.parametrize("key", ["", 5, b"key", None])
def test_a_key_that_is_none_is_refused(use: Callable[..., None], key: Any) -> None:
    async def check(cache: Cache) -> None:
        with pytest.raises(StoreError, match="a key must be a str"):
            await cache.get(key)

    use(check)


@pytest.mark.parametrize("key", ["with space", "line\nend", "ä" * 300, "\x00", "a" * 5000, "*", "a:b"])
def test_any_text_is_a_key(use: Callable[..., None], key: str) -> None:
    async def check(cache: Cache) -> None:
        await cache.set(key, 1)
        await cache.set(f"{key}2", 2)
        assert await cache.get_many([key, f"{key}2"]) == {key: 1, f"{key}2": 2}

    use(check)


def test_numbers_are_counted_without_a_loss(use: Callable[..., None]) -> None:
    async def check(cache: Cache) -> None:
        assert await cache.increment("n") == 1
        assert await cache.increment("n", 41) == 42
        assert await cache.increment("n", -2) == 40
        assert await cache.get("n") == 40
        await asyncio.gather(*(cache.increment("m") for _ in range(100)))
        assert await cache.get("m") == 100
        await cache.set("set", 5)
        assert await cache.increment("set") == 6
        await cache.set("text", "abc")
        with pytest.raises(StoreError) as caught:
            await cache.increment("text")
        assert caught.value.code == "arguments"

    use(check)


def test_a_number_keeps_the_time_that_it_began_with(use: Callable[..., None]) -> None:
    async def check(cache: Cache) -> None:
        assert await cache.increment("n", expire=1) == 1
        assert await cache.increment("n", expire=1000) == 2
        await ended(cache, "n")
        assert not await cache.exists("n")

    use(check)


def test_clear_ends_with_the_namespace(url: str) -> None:
    async def main() -> None:
        async with opened(url, namespace="one") as one:
            await one.set_many({str(number): number for number in range(1200)})
            if "//" in url and url != "memory://":
                async with opened(url, namespace="one*") as other:
                    await other.set("1", "other")
                    await one.clear()
                    assert await other.get("1") == "other"
            await one.clear()
            assert await one.get_many(["1", "1199"]) == {}
            await one.set("1", 2)
            assert await one.get("1") == 2

    asyncio.run(main())


def test_a_shared_server_is_never_emptied(url: str) -> None:
    async def main() -> None:
        async with opened(url, namespace="") as cache:
            if url == "memory://":
                await cache.set("key", 1)
                await cache.clear()
                assert await cache.get("key") is None
            else:
                with pytest.raises(StoreError, match="give the cache a namespace"):
                    await cache.clear()

    asyncio.run(main())


# One caller computes --------------------------------------------------------------------------------------------------


def test_one_caller_computes_for_all(use: Callable[..., None]) -> None:
    async def check(cache: Cache) -> None:
        computed = 0

        async def factory() -> list[int]:
            nonlocal computed
            computed += 1
            await asyncio.sleep(0.05)
            return [computed]

        found = await asyncio.gather(*(cache.get_or_set("key", factory) for _ in range(20)))
        assert found == [[1]] * 20
        found[0].append(2)
        assert found[1] == [1]
        assert await cache.get_or_set("key", factory) == [1]
        assert computed == 1

    use(check)


def test_factories_are_functions_of_both_kinds_and_values(use: Callable[..., None]) -> None:
    async def check(cache: Cache) -> None:
        assert await cache.get_or_set("sync", lambda: 1) == 1
        assert await cache.get_or_set("value", {"a": 1}) == {"a": 1}
        assert await cache.get_or_set("none", lambda: None) is None
        assert await cache.get_or_set("none", lambda: 5) is None  # a cached None is not computed again

    use(check)


def test_what_the_factory_raises_reaches_everyone_and_is_not_kept(use: Callable[..., None]) -> None:
    async def check(cache: Cache) -> None:
        async def fails() -> None:
            await asyncio.sleep(0.02)
            raise ZeroDivisionError("once")

        found = await asyncio.gather(*(cache.get_or_set("key", fails) for _ in range(5)), return_exceptions=True)
        assert [type(each) for each in found] == [ZeroDivisionError] * 5
        assert await cache.get_or_set("key", lambda: 1) == 1

    use(check)


def test_who_is_cancelled_leaves_and_the_others_get_the_value(use: Callable[..., None]) -> None:
    async def check(cache: Cache) -> None:
        begun, go = asyncio.Event(), asyncio.Event()

        async def factory() -> int:
            begun.set()
            await go.wait()
            return 1

        first = asyncio.create_task(cache.get_or_set("key", factory))
        await begun.wait()
        second = asyncio.create_task(cache.get_or_set("key", factory))
        await asyncio.sleep(0.1)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        go.set()
        assert await second == 1

    use(check)


def test_a_computation_for_which_nobody_waits_is_cancelled(use: Callable[..., None]) -> None:
    async def check(cache: Cache) -> None:
        begun, cancelled = asyncio.Event(), asyncio.Event()

        async def factory() -> int:
            begun.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                raise
            return 1

        task = asyncio.create_task(cache.get_or_set("key", factory))
        await begun.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await asyncio.wait_for(cancelled.wait(), 5)
        assert await cache.get_or_set("key", lambda: 2) == 2  # the lease has been given back

    use(check)


@pytest.mark.parametrize("kind", ["valkey", "memcached"])
def test_one_process_computes_for_others(kind: str, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue(f"{kind}_server").url

    async def main() -> None:
        computed = 0

        async def factory() -> int:
            nonlocal computed
            computed += 1
            await asyncio.sleep(0.2)
            return computed

        async with opened(url) as one, opened(url, cleared=False) as two:  # they know of each other as two processes do
            found = await asyncio.gather(*(each.get_or_set("key", factory) for each in (one, two) for _ in range(5)))
        assert found == [1] * 10
        assert computed == 1

    asyncio.run(main())


def test_the_time_of_a_value_may_be_longer_than_a_month(use: Callable[..., None]) -> None:
    async def check(cache: Cache) -> None:
        await cache.set("key", 1, expire=400 * 24 * 3600)
        assert await cache.get("key") == 1

    use(check)


def test_operations_are_counted_by_their_names(use: Callable[..., None]) -> None:
    async def check(cache: Cache) -> None:
        await cache.set("key", 1)
        await cache.get("key")
        await cache.get("key")
        counted = {name: sum(cell[:-1]) for name, cell in cache.stats.durations.items()}
        assert counted["set"] == 1
        assert counted["get"] == 2

    use(check)


def test_who_comes_while_an_abandoned_computation_ends_begins_another(use: Callable[..., None]) -> None:
    async def check(cache: Cache) -> None:
        begun, ending = asyncio.Event(), asyncio.Event()

        async def slow_to_end() -> int:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                await ending.wait()
            return 1

        task = asyncio.create_task(cache.get_or_set("key", slow_to_end))
        await begun.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        other = asyncio.create_task(cache.get_or_set("key", lambda: 2))
        await asyncio.sleep(0)
        ending.set()
        assert await other == 2

    use(check)


def test_who_waits_when_the_host_stops_is_told() -> None:
    async def main() -> None:
        async with opened("memory://") as cache:
            waiting = asyncio.create_task(cache.get_or_set("key", asyncio.Event().wait))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            await cache.close()
            with pytest.raises(StoreError, match="the host stops"):
                await waiting

    asyncio.run(main())
