"""Which way a message goes: the first that is connected, another one only where nothing was sent."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from pywatt_host.clients.resilience.targets import Resilience
from pywatt_host.exceptions import MessagingError
from pywatt_host.manifest import Source, load
from pywatt_host.manifest.values import parse_rate
from pywatt_host.messaging.inbox import Inbox
from pywatt_host.messaging.messages import Messages
from pywatt_host.messaging.subscriptions import Subscriptions
from pywatt_host.protocol.payload import Payload
from tests.hosting import run


class Way:
    """A carrier with one route, which answers, or fails with these codes first."""

    def __init__(self, channel: str, *codes: str, ready: bool = True, keeps: bool = False, answer: Any = "ok") -> None:
        self.channel = channel
        self.ready = ready
        self.keeps = keeps
        self.asked = 0
        self.kept: list[Any] = []
        self.events: list[str] = []
        self._codes = list(codes)
        self._answer = answer

    def routes(self, target: str, channel: str | None) -> Sequence[Way]:
        return (self,) if channel in (None, self.channel) else ()

    async def request(self, target: str, request_id: str, payload: Payload, timeout: float) -> Payload:
        self.asked += 1
        if self._codes:
            raise MessagingError(self._codes.pop(0), f"{self.channel} says no")
        return Payload.of(self._answer)

    async def keep(self, target: str, request_id: str, payload: Payload, timeout: float) -> None:
        self.kept.append(payload.document()["content"])

    async def available(self, timeout: float, target: str) -> None:
        return

    async def drained(self) -> None:
        return

    async def publish(self, topic: str, event: Payload, channel: str | None) -> bool | None:
        if not self.ready:
            return False
        self.events.append(topic)
        return True


def messages(*ways: Way, **more: Any) -> Messages:
    inbox = Inbox("users", 8)
    return Messages(inbox, Subscriptions(inbox.counts), ways, **more)


async def ask(of: Messages, **more: Any) -> Any:
    return await of.request("billing", {"type": "it"}, 5, **more)


def test_the_first_of_ipc_tcp_stdio_http_and_nats_that_is_connected_is_taken() -> None:
    async def main() -> None:
        ways = [Way(channel, answer=channel) for channel in ("nats", "http", "stdio", "tcp", "ipc")]
        of = messages(*ways)
        for channel in ("ipc", "tcp", "stdio", "http", "nats"):
            assert await ask(of) == channel
            next(way for way in ways if way.channel == channel).ready = False
        assert await ask(of) == "ipc"  # none is: the first will wait for its connection
        assert await ask(of, channel="http") == "http"
        with pytest.raises(ValueError, match="'smoke' is not a channel"):
            await ask(of, channel="smoke")

    run(main)


@pytest.mark.parametrize(("code", "asked"), [("unavailable", 1), ("unknown_target", 1), ("lost", 0), ("timeout", 0)])
def test_another_way_is_tried_only_where_nothing_was_sent(code: str, asked: int) -> None:
    async def main() -> None:
        first, second = Way("ipc", code), Way("nats")
        of = messages(first, second)
        if asked:
            assert await ask(of) == "ok"
        else:
            with pytest.raises(MessagingError) as raised:
                await ask(of)
            assert raised.value.code == code
        assert (first.asked, second.asked) == (1, asked)

    run(main)


def test_an_orchestrator_that_answers_unknown_target_is_no_end_where_there_is_another_way() -> None:
    async def main() -> None:
        unknown = {"type": "error", "code": "unknown_target", "message": "there is no module billing"}
        assert await ask(messages(Way("stdio", answer=unknown), Way("nats"))) == "ok"
        with pytest.raises(MessagingError) as raised:
            await ask(messages(Way("stdio", answer=unknown), Way("nats", "unavailable")))
        assert raised.value.code == "unknown_target"
        assert raised.value.message == "stdio: there is no module billing; nats: nats says no"

    run(main)


def test_without_a_way_it_says_what_would_do() -> None:
    async def main() -> None:
        with pytest.raises(
            MessagingError, match="there is no channel to it: run the module under an orchestrator"
        ) as raised:
            await ask(messages())
        assert raised.value.code == "unavailable"
        with pytest.raises(MessagingError, match=r"see channels\.nats"):
            await ask(messages(Way("ipc"), Way("tcp")), channel="nats")

    run(main)


def test_what_is_sent_goes_where_it_is_kept_unless_another_channel_is_forced() -> None:
    async def main() -> None:
        near, keeping = Way("ipc"), Way("nats", keeps=True)
        of = messages(near, keeping)
        await of.send("billing", {"type": "it"})
        assert (keeping.kept, near.asked) == ([{"type": "it"}], 0)
        await of.send("billing", {"type": "it"}, channel="ipc")
        assert (len(keeping.kept), near.asked) == (1, 1)
        for wrong in ({"no": "type"}, {"type": "it", "set": {1}}, "text"):
            with pytest.raises(MessagingError) as raised:
                await of.send("billing", wrong)
            assert raised.value.code == "invalid_message"

    run(main)


def test_what_is_published_goes_over_every_channel_and_fails_where_none_is_connected() -> None:
    async def main() -> None:
        first, second = Way("ipc"), Way("nats", ready=False)
        of = messages(first, second)
        await of.publish("a.b", {"n": 1})
        assert (first.events, second.events) == (["a.b"], [])
        first.ready = False
        with pytest.raises(MessagingError, match="no channel is connected"):
            await of.publish("a.b", {"n": 1})
        with pytest.raises(MessagingError, match="cannot be written as JSON"):
            await of.publish("a.b", {1, 2})
        with pytest.raises(ValueError, match="is not a topic"):
            await of.publish("a b", {})

    run(main)


def test_policies_hold_for_messages_and_nothing_that_was_sent_is_sent_again() -> None:
    async def main() -> None:
        text = """
        app: main:app
        resiliency:
          policies:
            retries: {quick: {policy: constant, duration: 1ms, max_retries: 2}}
            circuit_breakers: {careful: {consecutive_failures: 2, timeout: 1h}}
          targets: {modules: {billing: {retry: quick, circuit_breaker: careful}, stock: {retry: quick}}}
        """
        resilience = Resilience(load(Source.of_text(text)).manifest)
        way = Way("nats", "unavailable", "unavailable", "timeout", "handler_failed")
        of = messages(way, policy=resilience.for_messages)
        assert resilience.for_messages("other") is None
        with pytest.raises(MessagingError, match="nats says no") as raised:  # two tries, then a timeout: it was sent
            await of.request("stock", {"type": "it"}, 5)
        assert (raised.value.code, way.asked) == ("timeout", 3)
        with pytest.raises(MessagingError, match="nats says no") as raised:
            await ask(of)
        assert (raised.value.code, way.asked) == ("handler_failed", 4)  # which says nothing of its condition
        way._codes = ["timeout", "lost"]
        for code in ("timeout", "lost"):
            with pytest.raises(MessagingError, match="nats says no") as raised:
                await ask(of)
            assert raised.value.code == code
        with pytest.raises(MessagingError, match="the circuit breaker of billing is open") as raised:
            await ask(of)
        assert (raised.value.code, way.asked) == ("unavailable", 6)
        assert of.counts["out", "unavailable"] == 1

    run(main)


def test_a_module_answers_itself_where_nobody_else_could() -> None:
    async def main() -> None:
        of = messages(Way("nats", ready=False))
        of.handlers.on("it", lambda message: message["n"] + 1)

        async def slow(message: Any) -> None:
            await asyncio.Event().wait()

        of.handlers.on("slow", slow)
        async with asyncio.TaskGroup() as tasks, of.inbox.running(tasks):
            assert await of.request("users", {"type": "it", "n": 1}, 5) == 2
            with pytest.raises(MessagingError) as raised:
                await of.request("users", {"type": "missing"}, 5)
            assert raised.value.code == "no_handler"
            with pytest.raises(MessagingError) as raised:
                await of.request("users", {"type": "slow"}, 0.05)
            assert raised.value.code == "timeout"
        near = Way("nats", answer="another process")
        assert await messages(near).request("users", {"type": "it"}, 5) == "another process"

    run(main)


def test_codes_of_others_make_no_series_of_their_own() -> None:
    async def main() -> None:
        for number in range(50):
            answer = {"type": "error", "code": f"made-up-{number}", "message": "x" * 1000}
            of = messages(Way("tcp", answer=answer))
            with pytest.raises(MessagingError) as raised:
                await ask(of)
            assert (raised.value.code, len(raised.value.message)) == (f"made-up-{number}", 300)
            assert of.counts == {("out", "other"): 1}

    run(main)


def test_events_beyond_the_rate_of_their_source_are_dropped_and_counted() -> None:
    async def main() -> None:
        inbox = Inbox("users", 8, parse_rate("3/h"))
        topics = Subscriptions(inbox.counts)
        heard: list[Any] = []
        of = Messages(inbox, topics, [])
        topics.on("a", heard.append)
        async with asyncio.TaskGroup() as tasks, topics.running(tasks):
            for number in range(5):
                of.event("a", "loud", Payload.of(number), "nats", "nats")
            of.event("a", "quiet", Payload.of("x"), "nats", "nats")
            of.event("a", "quiet", Payload(b"{", "Json"), "nats", "nats")
        assert heard == [0, 1, 2, "x"]
        assert (inbox.counts["event", "dropped"], inbox.counts["event", "invalid_message"]) == (2, 1)

    run(main)
