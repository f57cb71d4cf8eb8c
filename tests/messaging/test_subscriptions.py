"""Subscriptions: order, bounds, and what a failing handler does not do."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager
from typing import Any

import pytest

from pywatt_host.messaging.handlers import MessageInfo
from pywatt_host.messaging.subscriptions import MAX_WAITING, Subscriptions, check_topic
from tests.hosting import PATIENCE, run

FROM = MessageInfo("billing", "nats", "nats")


@asynccontextmanager
async def running(topics: Subscriptions) -> Any:
    async with asyncio.TaskGroup() as tasks, topics.running(tasks):
        yield


@pytest.mark.parametrize("topic", ["", ".", "a..b", ".a", "a.", "a b", "a.*", ">", "a\n", "x" * 201, 7, None])
def test_a_topic_is_words_with_dots_between_them(topic: Any) -> None:
    with pytest.raises(ValueError, match="is not a topic"):
        check_topic(topic)
    assert check_topic("orders.créés.eu-1") == "orders.créés.eu-1"


def test_events_are_handled_in_their_order_and_one_that_comes_twice_once() -> None:
    async def main() -> None:
        counts: Counter[tuple[str, str]] = Counter()
        topics, heard = Subscriptions(counts), []

        async def slowly(message: Any) -> None:
            await asyncio.sleep(0)
            heard.append(message)

        topics.on("a.b", slowly)
        async with running(topics):
            for number in range(50):
                topics.deliver("a.b", number, FROM, f"id-{number}")
                topics.deliver("a.b", number, FROM, f"id-{number}")  # over another channel
            topics.deliver("a.c", "nobody's", FROM, "id")
        assert heard == list(range(50))  # leaving has let it come to its end
        assert counts == {("event", "ok"): 50}
        topics.deliver("a.b", "late", FROM, "late")
        assert len(heard) == 50

    run(main)


def test_a_handler_that_raises_is_counted_and_the_next_event_is_handled() -> None:
    async def main() -> None:
        counts: Counter[tuple[str, str]] = Counter()
        topics, heard = Subscriptions(counts), []

        def handler(message: Any) -> None:
            if message == 1:
                raise RuntimeError("broken")
            heard.append(message)

        topics.on("a", handler)
        async with running(topics):
            for number in range(3):
                topics.deliver("a", number, FROM, str(number))
        assert heard == [0, 2]
        assert counts == {("event", "ok"): 2, ("event", "handler_failed"): 1}

    run(main)


def test_what_comes_while_too_many_wait_is_dropped_and_counted() -> None:
    async def main() -> None:
        counts: Counter[tuple[str, str]] = Counter()
        topics, go, heard = Subscriptions(counts), asyncio.Event(), []

        async def held(message: Any) -> None:
            await go.wait()
            heard.append(message)

        topics.on("a", held)
        async with running(topics):
            topics.deliver("a", -1, FROM, "first")
            await asyncio.sleep(0)  # it is being handled now
            for number in range(MAX_WAITING + 10):
                topics.deliver("a", number, FROM, str(number))
            go.set()
        assert heard == list(range(-1, MAX_WAITING))
        assert counts["event", "dropped"] == 10

    run(main)


def test_so_many_run_at_once_as_its_concurrency_says() -> None:
    async def main() -> None:
        topics, now, most, done = Subscriptions(Counter()), 0, 0, asyncio.Event()

        async def handler(message: Any) -> None:
            nonlocal now, most
            now += 1
            most = max(most, now)
            if most == 3:
                done.set()
            async with asyncio.timeout(PATIENCE):
                await done.wait()
            now -= 1

        topics.on("a", handler, 3)
        async with running(topics):
            for number in range(9):
                topics.deliver("a", number, FROM, str(number))
        assert most == 3

    run(main)


def test_an_event_that_arrives_as_the_one_before_it_is_done_does_not_wait_for_a_third() -> None:
    async def main() -> None:
        topics = Subscriptions(Counter())
        heard: list[int] = []

        async def at_once(message: int) -> None:
            heard.append(message)

        topics.on("a", at_once)
        async with running(topics):
            topics.deliver("a", 1, FROM)
            asyncio.get_running_loop().call_soon(topics.deliver, "a", 2, FROM)  # the turn in which the first is done
            for _ in range(10):
                await asyncio.sleep(0)
            assert heard == [1, 2]

    run(main)
