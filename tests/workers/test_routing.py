"""Messages between other modules and workers: each is given to one worker, and answered once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from pywatt_host.exceptions import ChannelError, MessagingError
from pywatt_host.protocol.messages import (
    Publish,
    RoutedResponse,
    RouteToModule,
    Subscribe,
    Unsubscribe,
    WorkerEvent,
    WorkerMessage,
)
from pywatt_host.protocol.payload import Envelope, Payload
from pywatt_host.workers import routing as routing_module
from pywatt_host.workers.routing import WorkerRouting
from tests.hosting import run
from tests.workers.supervised import SpokenWorker, until

ENVELOPE = {
    "id": "m-1",
    "content": {"type": "order", "what": "tea"},
    "metadata": {
        "properties": {
            "authorization": "Bearer abc",
            "traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01",
            "request_id": "r-1",
        }
    },
}


class Sent:
    """A message of another module. Its answers are kept."""

    attempt = 1
    kept = False

    def __init__(self, content: Any, *, source: str = "billing", vouched_by: str = "orchestrator") -> None:
        self.source = source
        self.payload = content if isinstance(content, Payload) else Payload.of(content)
        self.channel = "ipc"
        self.vouched_by = vouched_by
        self.answers: list[Any] = []
        self.limit = 10_000  # characters of an answer that the other module takes

    def answer(self, module_id: str, content: Any) -> None:
        assert module_id == "users"
        if len(str(content)) > self.limit:
            raise MessagingError("too_large", "it is too long", self.source)
        self.answers.append(content)

    async def answered(self) -> Any:
        await until(lambda: self.answers)
        (answer,) = self.answers
        return answer


class Elsewhere:
    """Other modules: what they are sent is kept."""

    def __init__(self) -> None:
        self.passed: list[tuple[str, Any, float]] = []
        self.events: list[tuple[str, Any]] = []
        self.channels: list[str | None] = []  # over which a worker has asked to pass it on
        self.topics: list[str] = []
        self.answer: Callable[[], Awaitable[Payload]] = self._reply

    async def _reply(self) -> Payload:
        return Payload.of({"sum": 4})

    async def pass_on(self, target: str, payload: Payload, timeout: float, channel: str | None) -> Payload:
        self.channels.append(channel)
        self.passed.append((target, payload.document(), timeout))
        return await self.answer()

    async def pass_event(self, topic: str, payload: Payload, channel: str | None) -> None:
        self.channels.append(channel)
        self.events.append((topic, payload.document()))


class Routed:
    """A routing with workers. `order` has those that take messages, the best one first."""

    def __init__(self) -> None:
        self.elsewhere = Elsewhere()
        self.workers: list[SpokenWorker] = []
        self.order: list[SpokenWorker] = []
        self.routing = WorkerRouting(
            "users", self.elsewhere, lambda: [each.process for each in self.order], self.elsewhere.topics.append
        )
        self.dispatch: Any = {
            RouteToModule: self.routing.routed,
            Publish: lambda message, peer: self.routing.publish(message, peer.owner),
            Subscribe: lambda message, peer: self.routing.subscribe(message.topic, peer.owner),
            Unsubscribe: lambda message, peer: self.routing.unsubscribe(message.topic, peer.owner),
        }

    async def worker(self) -> SpokenWorker:
        worker = await SpokenWorker.opened(self.dispatch, len(self.workers))
        self.workers.append(worker)
        self.order.append(worker)
        return worker

    def dies(self, worker: SpokenWorker) -> None:
        self.order.remove(worker)
        worker.process.has_ended(-9)
        self.routing.gone(worker.process)

    def take(self, content: Any, **kind: str) -> Sent:
        sent = Sent(content, **kind)
        self.routing.take(sent)
        return sent


@asynccontextmanager
async def routed() -> AsyncIterator[Routed]:
    found = Routed()
    try:
        yield found
    finally:
        found.routing.close()
        for worker in found.workers:
            await worker.end()


def reply(message: WorkerMessage, content: Any) -> RouteToModule:
    return RouteToModule(message.source_module_id, "", message.request_id, Payload.of(content))


def in_routing(test: Callable[[Routed], Awaitable[None]]) -> None:
    async def main() -> None:
        async with routed() as found:
            await test(found)

    run(main)


def test_a_message_is_given_to_one_worker_unchanged_and_its_answer_is_passed_back() -> None:
    async def test(host: Routed) -> None:
        first, second = await host.worker(), await host.worker()
        sent = host.take(ENVELOPE, vouched_by="token")
        given = await first.hear(WorkerMessage)
        assert (given.source_module_id, given.channel, given.vouched_by) == ("billing", "ipc", "token")
        assert given.payload.document() == ENVELOPE
        first.say(reply(given, {"ordered": "tea"}))
        assert await sent.answered() == {"ordered": "tea"}
        await second.nothing_more()
        first.say(reply(given, {"ordered": "twice"}))
        first.say(Subscribe("read.now"))
        await until(lambda: host.routing.topics)
        assert sent.answers == [{"ordered": "tea"}]
        assert host.elsewhere.passed == []

    in_routing(test)


def test_a_reply_that_looks_like_an_envelope_arrives_as_it_was_returned() -> None:
    async def test(host: Routed) -> None:
        worker = await host.worker()
        sent = host.take({"type": "order"})
        returned = {"id": "1", "content": "the reply itself"}
        worker.say(reply(await worker.hear(WorkerMessage), Envelope(returned).seal()))
        assert await sent.answered() == returned

    in_routing(test)


def test_an_answer_that_is_too_long_for_the_other_module_is_told_as_that() -> None:
    async def test(host: Routed) -> None:
        worker = await host.worker()
        sent = host.take({"type": "order"})
        worker.say(reply(await worker.hear(WorkerMessage), "x" * 20_000))
        assert (await sent.answered())["code"] == "too_large"

    in_routing(test)


def test_a_worker_that_ends_before_it_answers_is_answered_for_once_and_the_message_is_not_handled_again() -> None:
    async def test(host: Routed) -> None:
        first, second = await host.worker(), await host.worker()
        sent = host.take({"type": "order"})
        await first.hear(WorkerMessage)
        host.dies(first)
        answer = await sent.answered()
        assert (answer["type"], answer["code"]) == ("error", "handler_failed")
        assert "worker 1 ended" in answer["message"]
        await second.nothing_more()

    in_routing(test)


def test_a_worker_whose_connection_has_ended_is_passed_over() -> None:
    async def test(host: Routed) -> None:
        first, second = await host.worker(), await host.worker()
        first.leave()
        await until(lambda: not first.process.connection.open)
        sent = host.take({"type": "order"})
        second.say(reply(await second.hear(WorkerMessage), "done"))
        assert await sent.answered() == "done"

    in_routing(test)


def test_without_a_worker_the_answer_says_so() -> None:
    async def test(host: Routed) -> None:
        answer = await host.take({"type": "order"}).answered()
        assert (answer["code"], answer["message"]) == ("handler_failed", "no worker is running")

    in_routing(test)


@pytest.mark.parametrize(
    ("payload", "code", "text"),
    [
        (Payload(b'{"type": "a", "type": "b"}', "Json"), "invalid_message", "duplicate"),
        (Payload(b"{no json", "Json"), "invalid_message", "JSON"),
        (Payload.of({"type": "order", "padding": "x" * 100_000}), "too_large", "longer than"),
    ],
    ids=["duplicate member", "no JSON", "too large"],
)
def test_a_message_that_no_worker_can_be_given_is_refused_with_the_reason(
    payload: Payload, code: str, text: str
) -> None:
    async def test(host: Routed) -> None:
        first, second = await host.worker(), await host.worker()
        answer = await host.take(payload).answered()
        assert (answer["code"], text in answer["message"]) == (code, True), answer
        await first.nothing_more()
        await second.nothing_more()

    in_routing(test)


def test_after_the_deadline_the_answer_is_a_timeout_and_what_the_worker_says_later_goes_nowhere() -> None:
    async def test(host: Routed) -> None:
        worker = await host.worker()
        deadline = {"properties": {"deadline": time.time() + 0.05}}
        sent = host.take({"content": {"type": "order"}, "metadata": deadline})
        given = await worker.hear(WorkerMessage)
        assert (await sent.answered())["code"] == "timeout"
        worker.say(reply(given, "late"))
        sent = host.take({"type": "order"})
        worker.say(reply(await worker.hear(WorkerMessage), "in time"))
        assert await sent.answered() == "in time"
        assert host.elsewhere.passed == []
        await worker.nothing_more()

    in_routing(test)


def test_a_message_without_a_deadline_is_answered_at_the_longest_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routing_module, "LONGEST_WAIT", 0.05)

    async def test(host: Routed) -> None:
        worker = await host.worker()
        sent = host.take({"type": "order"})
        await worker.hear(WorkerMessage)
        assert (await sent.answered())["code"] == "timeout"

    in_routing(test)


def test_more_open_messages_than_fit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routing_module, "MAX_PENDING", 2)

    async def test(host: Routed) -> None:
        worker = await host.worker()
        first, second = host.take({"type": "a"}), host.take({"type": "b"})
        given = await worker.hear(WorkerMessage)
        await worker.hear(WorkerMessage)
        assert (await host.take({"type": "c"}).answered())["code"] == "handler_failed"
        worker.say(reply(given, 1))
        assert await first.answered() == 1
        host.take({"type": "d"})
        await worker.hear(WorkerMessage)
        assert second.answers == []

    in_routing(test)


# From workers ---------------------------------------------------------------------------------------------------------


def test_a_message_of_a_worker_goes_to_the_other_module_unchanged_and_the_answer_comes_back() -> None:
    async def test(host: Routed) -> None:
        worker = await host.worker()
        deadline = time.time() + 5
        metadata = {"properties": {**ENVELOPE["metadata"]["properties"], "deadline": deadline}}  # type: ignore[index]
        content = {**ENVELOPE, "metadata": metadata}
        worker.say(RouteToModule("billing", "", "w-1", Payload.of(content)))
        answer = await worker.hear(RoutedResponse)
        assert (answer.source_module_id, answer.request_id) == ("billing", "w-1")
        assert answer.payload.document() == {"sum": 4}
        ((target, passed, timeout),) = host.elsewhere.passed
        assert (target, passed) == ("billing", content)
        assert 4 < timeout <= 5

    in_routing(test)


@pytest.mark.parametrize(
    "error", [MessagingError("unavailable", "no channel is connected"), ChannelError("ipc", "", "it broke")]
)
def test_a_message_of_a_worker_that_cannot_be_passed_on_is_answered_with_the_error(error: Exception) -> None:
    async def test(host: Routed) -> None:
        worker = await host.worker()

        async def fail() -> Payload:
            raise error

        host.elsewhere.answer = fail
        worker.say(RouteToModule("billing", "", "w-1", Payload.of({"type": "sum"})))
        answer = (await worker.hear(RoutedResponse)).payload.document()
        assert answer["type"] == "error"
        assert answer["code"] in ("unavailable", "lost")

    in_routing(test)


def test_a_worker_may_say_over_which_channel_its_message_or_event_goes() -> None:
    async def test(host: Routed) -> None:
        worker = await host.worker()
        worker.say(RouteToModule("billing", "", "w-1", Payload.of({"type": "sum"}), "tcp"))
        await worker.hear(RoutedResponse)
        worker.say(RouteToModule("users", "", "w-2", Payload.of({"type": "sum"}), "nats"))
        await worker.hear(RoutedResponse)
        worker.say(Publish("orders.created", Payload.of(ENVELOPE), "ipc"))
        await until(lambda: host.elsewhere.events)
        assert host.elsewhere.channels == ["tcp", "nats", "ipc"]

    in_routing(test)


def test_an_answer_that_is_too_long_for_the_worker_is_told_as_that() -> None:
    async def test(host: Routed) -> None:
        worker = await host.worker()

        async def long() -> Payload:
            return Payload.of("x" * 100_000)

        host.elsewhere.answer = long
        worker.say(RouteToModule("billing", "", "w-1", Payload.of({"type": "sum"})))
        assert (await worker.hear(RoutedResponse)).payload.document()["code"] == "too_large"

    in_routing(test)


def test_a_message_of_a_worker_to_its_own_module_is_given_to_a_worker() -> None:
    async def test(host: Routed) -> None:
        worker = await host.worker()
        worker.say(RouteToModule("users", "", "w-1", Payload.of({"type": "order"})))
        given = await worker.hear(WorkerMessage)
        assert (given.source_module_id, given.channel, given.vouched_by) == ("users", "process", "process")
        worker.say(reply(given, "done"))
        answer = await worker.hear(RoutedResponse)
        assert (answer.request_id, answer.payload.document()) == ("w-1", "done")

    in_routing(test)


def test_a_worker_cannot_answer_what_another_worker_was_given() -> None:
    async def test(host: Routed) -> None:
        first, second = await host.worker(), await host.worker()
        sent = host.take({"type": "order"})
        given = await first.hear(WorkerMessage)
        second.say(reply(given, "not mine"))
        second.say(Subscribe("read.now"))
        await until(lambda: host.routing.topics)
        assert host.elsewhere.passed == []
        assert sent.answers == []
        first.say(reply(given, "mine"))
        assert await sent.answered() == "mine"

    in_routing(test)


# Events ---------------------------------------------------------------------------------------------------------------


def test_an_event_goes_once_to_every_worker_that_has_subscribed() -> None:
    async def test(host: Routed) -> None:
        first, second, third = await host.worker(), await host.worker(), await host.worker()
        for worker in (first, second):
            worker.say(Subscribe("orders.created"))
            worker.say(Subscribe("orders.created"))
        third.say(Subscribe("orders.deleted"))
        await until(lambda: len(host.routing.topics) == 2 and len(host.routing._topics["orders.created"]) == 2)
        host.routing.event("orders.created", "billing", Payload.of(ENVELOPE), "tcp", "token")
        for worker in (first, second):
            event = await worker.hear(WorkerEvent)
            assert (event.topic, event.source_module_id) == ("orders.created", "billing")
            assert (event.channel, event.vouched_by) == ("tcp", "token")
            assert event.payload.document() == ENVELOPE
            await worker.nothing_more()
        await third.nothing_more()
        assert sorted(host.elsewhere.topics) == ["orders.created", "orders.deleted"]

    in_routing(test)


def test_what_a_worker_publishes_goes_to_the_other_workers_and_to_other_modules_and_not_back_to_it() -> None:
    async def test(host: Routed) -> None:
        first, second = await host.worker(), await host.worker()
        for worker in (first, second):
            worker.say(Subscribe("orders.created"))
        await until(lambda: len(host.routing._topics.get("orders.created", ())) == 2)
        first.say(Publish("orders.created", Payload.of(ENVELOPE)))
        event = await second.hear(WorkerEvent)
        assert (event.source_module_id, event.channel, event.vouched_by) == ("users", "process", "process")
        await first.nothing_more()
        await until(lambda: host.elsewhere.events)
        assert host.elsewhere.events == [("orders.created", ENVELOPE)]

    in_routing(test)


def test_a_worker_that_unsubscribes_or_ends_gets_no_more_events_and_the_last_one_ends_the_topic() -> None:
    async def test(host: Routed) -> None:
        first, second = await host.worker(), await host.worker()
        for worker in (first, second):
            worker.say(Subscribe("orders.created"))
        await until(lambda: len(host.routing._topics.get("orders.created", ())) == 2)
        first.say(Unsubscribe("orders.created"))
        await until(lambda: len(host.routing._topics["orders.created"]) == 1)
        host.routing.event("orders.created", "billing", Payload.of(1), "tcp", "")
        await second.hear(WorkerEvent)
        await first.nothing_more()
        host.dies(second)
        assert host.routing.topics == ()
        host.routing.event("orders.created", "billing", Payload.of(2), "tcp", "")
        host.routing.unsubscribe("orders.created", second.process)

    in_routing(test)


def test_an_event_that_cannot_be_read_disturbs_nothing() -> None:
    async def test(host: Routed) -> None:
        worker = await host.worker()
        worker.say(Subscribe("orders.created"))
        await until(lambda: host.routing.topics)
        host.routing.event("orders.created", "billing", Payload(b"{no json", "Json"), "tcp", "")
        host.routing.event("orders.created", "billing", Payload.of("next"), "tcp", "")
        assert (await worker.hear(WorkerEvent)).payload.document() == "next"

    in_routing(test)


def test_closing_ends_what_waits() -> None:
    async def test(host: Routed) -> None:
        worker = await host.worker()
        sent = host.take({"type": "order"})
        await worker.hear(WorkerMessage)
        host.routing.close()
        await asyncio.sleep(0)
        await until(lambda: not host.routing._tasks)
        assert sent.answers == []

    in_routing(test)
