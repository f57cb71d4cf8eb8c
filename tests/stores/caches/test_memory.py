"""The cache in memory: never over its bounds, never a value that has ended, the least recently used first."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pywatt_host.exceptions import StoreError
from pywatt_host.stores.caches.memory import MemoryBackend


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


STEP = st.one_of(
    st.tuples(st.just("set"), st.sampled_from("abcdefgh"), st.one_of(st.none(), st.integers(1, 20))),
    st.tuples(st.just("get"), st.sampled_from("abcdefgh"), st.none()),
    st.tuples(st.just("delete"), st.sampled_from("abcdefgh"), st.none()),
    st.tuples(st.just("wait"), st.just(""), st.integers(1, 15)),
    st.tuples(st.just("clear"), st.just(""), st.none()),
)


@given(steps=st.lists(STEP, max_size=60))
def test_it_behaves_as_a_mapping_with_ends_and_a_bound(steps: list[tuple[str, str, int | None]]) -> None:
    """The model keeps entries that have ended until somebody looks or room is needed, as the real one does."""

    async def main() -> None:
        clock = Clock()
        cache = MemoryBackend("caches.a", 4, 2**20, clock=clock)
        model: OrderedDict[str, tuple[bytes, float | None]] = OrderedDict()
        for number, (what, key, argument) in enumerate(steps):
            value = str(number).encode()
            if what == "wait":
                clock.now += argument or 0
            elif what == "clear":
                await cache.clear("")
                model.clear()
            elif what == "delete":
                there = key in model and not _ended(model[key], clock.now)
                assert await cache.delete([key]) == there
                if there:
                    del model[key]
            elif what == "get":
                if key in model and _ended(model[key], clock.now):
                    del model[key]
                if key in model:
                    model.move_to_end(key)
                assert await cache.get(key) == (model[key][0] if key in model else None)
            else:
                model.pop(key, None)
                model[key] = (value, clock.now + argument if argument is not None else None)
                if len(model) > 4:
                    for each in [each for each, entry in model.items() if _ended(entry, clock.now)]:
                        del model[each]
                    while len(model) > 4:
                        model.popitem(last=False)
                await cache.set(key, value, argument)
            live = {each for each, entry in model.items() if not _ended(entry, clock.now)}
            assert {each for each in "abcdefgh" if await cache.exists(each)} == live
            assert cache.sizes()["entries"] <= 4

    asyncio.run(main())


def _ended(entry: tuple[bytes, float | None], now: float) -> bool:
    return entry[1] is not None and entry[1] <= now


def test_its_bytes_are_bounded_and_a_value_larger_than_the_cache_is_refused() -> None:
    async def main() -> None:
        cache = MemoryBackend("caches.a", 10_000, 10_000)
        for number in range(1000):
            await cache.set(f"k{number}", b"x" * 500, None)
            assert cache.sizes()["bytes"] <= 10_000
        assert await cache.exists("k999")
        assert not await cache.exists("k0")
        with pytest.raises(StoreError) as caught:
            await cache.set("large", b"x" * 10_000, None)
        assert caught.value.code == "full"
        await cache.clear("")
        assert cache.sizes() == {"entries": 0.0, "bytes": 0.0}

    asyncio.run(main())


def test_a_hundred_thousand_keys_with_ends_leave_nothing_behind() -> None:  # aiocache's had a timer for each
    async def main() -> None:
        clock = Clock()
        cache = MemoryBackend("caches.a", 1000, 2**30, clock=clock)
        for number in range(100_000):
            await cache.set(f"k{number % 2000}", b"v", 10.0)
        assert cache.sizes()["entries"] == 1000
        assert len(cache._ends) < 5000

    asyncio.run(main())


def test_what_was_cleared_takes_no_later_entry_along() -> None:  # aiocache's old timers did
    async def main() -> None:
        clock = Clock()
        cache = MemoryBackend("caches.a", 10, 2**20, clock=clock)
        await cache.set("key", b"old", 1.0)
        await cache.clear("")
        await cache.set("key", b"new", 100.0)
        clock.now += 2
        for number in range(10):
            await cache.set(f"other{number}", b"x", None)
        assert await cache.get("other9") == b"x"
        await cache.set("key", b"new", 100.0)
        clock.now += 2
        assert await cache.get("key") == b"new"

    asyncio.run(main())
