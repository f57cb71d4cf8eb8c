"""The spans of messages: one for the sender, and one for each handler, below that of the sender."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from pywatt_host.exceptions import MessagingError
from pywatt_host.messaging.http_client import HttpPeer, HttpTransport
from pywatt_host.messaging.http_requests import ChannelRequests
from pywatt_host.messaging.inbox import Inbox
from pywatt_host.messaging.local import LocalMessages
from pywatt_host.messaging.messages import Messages
from pywatt_host.messaging.subscriptions import Subscriptions
from pywatt_host.messaging.traced import TracedMessages
from pywatt_host.observability.context import active_trace, current_request
from pywatt_host.observability.logs import RecordFormatter
from pywatt_host.observability.spans import SpanBuffer, Tracer
from pywatt_host.protocol.messages import HttpRequest
from tests.collector import Collected, collecting, recorded
from tests.hosting import PATIENCE, hello, hosted, run
from tests.messaging.test_messages import talking
from tests.messaging.test_trace_context import LIMIT, Listener
from tests.servers import Server


def only(spans: list[Collected], name: str) -> Collected:
    (found,) = [span for span in spans if span.name == name]
    return found


def test_a_request_is_a_client_span_and_its_handler_a_consumer_span_below_it() -> None:
    tracer = Tracer(SpanBuffer())
    places: list[Any] = []

    async def main() -> None:
        async with talking(tracer=tracer) as pair:

            async def handle(message: Any) -> int:
                places.append((active_trace(), current_request.get()))
                with tracer.span("inner"):
                    return 42

            pair.answering.handlers.on("ask", handle)
            asking = TracedMessages(pair.asking, tracer)
            with tracer.span("around"):
                assert await asking.request("answering", {"type": "ask"}, PATIENCE) == 42

    run(main)
    spans = recorded(tracer)
    around, sent, handled, inner = (
        only(spans, name) for name in ("around", "request answering ask", "process answering ask", "inner")
    )
    assert {span.trace for span in spans} == {around.trace}
    assert (sent.parent, handled.parent, inner.parent) == (around.id, sent.id, handled.id)
    assert (sent.kind, handled.kind) == ("client", "consumer")
    assert sent.start <= handled.start <= handled.end <= sent.end
    assert sent.attributes == {
        "messaging.system": "pywatt",
        "messaging.operation.name": "request",
        "messaging.operation.type": "send",
        "messaging.destination.name": "answering",
        "pywatt.channel": "ipc",
        "pywatt.message.type": "ask",
    }
    assert handled.attributes == {
        "messaging.system": "pywatt",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "answering",
        "pywatt.channel": "ipc",
        "pywatt.message.type": "ask",
        "pywatt.message.source": "asking",
    }
    ((place, request),) = places
    assert (place.trace_id, place.parent_id) == (handled.trace, handled.id)
    assert (request.trace.trace_id, request.span_id) == (handled.trace, handled.id)


def test_what_a_handler_raises_makes_both_spans_errors() -> None:
    tracer = Tracer(SpanBuffer())

    async def main() -> None:
        async with talking(tracer=tracer) as pair:

            async def crash(message: Any) -> None:
                raise LookupError("with a secret")

            async def refuse(message: Any) -> None:
                raise MessagingError("sold_out", "none left")

            async def hang(message: Any) -> None:
                await asyncio.sleep(PATIENCE)

            asking = TracedMessages(pair.asking, tracer)
            for handler in (crash, refuse, hang):
                pair.answering.handlers.on(handler.__name__, handler)
            for type, timeout in (("crash", PATIENCE), ("refuse", PATIENCE), ("hang", 0.05)):
                with pytest.raises(MessagingError):
                    await asking.request("answering", {"type": type}, timeout)

    run(main)
    spans = recorded(tracer)
    errors = {span.name: (span.failed, span.attributes.get("error.type")) for span in spans}
    assert errors == {
        "request answering crash": (True, "handler_failed"),
        "process answering crash": (True, "LookupError"),
        "request answering refuse": (True, "handler_failed"),
        "process answering refuse": (True, "sold_out"),
        "request answering hang": (True, "timeout"),
        "process answering hang": (True, "timeout"),
    }
    assert "with a secret" not in str(spans)


def test_a_message_that_is_sent_is_a_producer_span_that_does_not_wait_for_the_handler() -> None:
    tracer = Tracer(SpanBuffer())

    async def main() -> None:
        async with talking(tracer=tracer) as pair:
            begun, go, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

            async def handle(message: Any) -> None:
                begun.set()
                await go.wait()
                done.set()

            pair.answering.handlers.on("note", handle)
            await TracedMessages(pair.asking, tracer).send("answering", {"type": "note"})
            async with asyncio.timeout(PATIENCE):
                await begun.wait()
                go.set()
                await done.wait()

    run(main)
    spans = recorded(tracer)
    sent, handled = only(spans, "send answering note"), only(spans, "process answering note")
    assert (sent.kind, sent.parent) == ("producer", "")
    assert (handled.trace, handled.parent) == (sent.trace, sent.id)
    assert sent.end < handled.end


def test_each_handler_of_an_event_has_a_span_below_that_of_the_publisher() -> None:
    """Those in the same process, and those that get the event over a channel."""
    tracer = Tracer(SpanBuffer())

    async def main() -> None:
        async with talking(tracer=tracer) as pair:
            handled: asyncio.Queue[Any] = asyncio.Queue()

            def failing(event: Any) -> None:
                handled.put_nowait(None)
                raise LookupError

            async def near(event: Any) -> None:
                handled.put_nowait(active_trace())

            pair.asking.topics.on("orders.created", near)
            pair.asking.topics.on("orders.created", failing)
            pair.answering.topics.on("orders.created", near)
            asking = TracedMessages(pair.asking, tracer)
            while True:  # until the connection is there
                try:
                    await asking.publish("orders.created", {"id": 1})
                    break
                except MessagingError:
                    tracer.buffer.take()
                    await asyncio.sleep(0.01)
            async with asyncio.timeout(PATIENCE):
                for _ in range(3):
                    await handled.get()
            await asyncio.gather(*pair.asking.topics._tasks(), *pair.answering.topics._tasks())

    run(main)
    spans = recorded(tracer)
    published = only(spans, "publish orders.created")
    handlers = [span for span in spans if span.name == "process orders.created"]
    assert published.kind == "producer"
    assert {span.kind for span in handlers} == {"consumer"}
    assert {(span.trace, span.parent) for span in handlers} == {(published.trace, published.id)}
    assert {span.attributes["messaging.message.id"] for span in handlers} == {
        published.attributes["messaging.message.id"]
    }
    assert sorted((span.attributes["pywatt.channel"], span.failed) for span in handlers) == [
        ("ipc", False), ("process", False), ("process", True),
    ]  # fmt: skip


def test_a_trace_that_is_not_sampled_stays_so_on_the_other_side() -> None:
    tracer = Tracer(SpanBuffer(), ratio=0.0)
    seen: list[Any] = []

    async def main() -> None:
        async with talking(tracer=tracer) as pair:

            async def handle(message: Any) -> None:
                seen.append(active_trace())

            pair.answering.handlers.on("ask", handle)
            await TracedMessages(pair.asking, tracer).request("answering", {"type": "ask"}, PATIENCE)

    run(main)
    assert recorded(tracer) == []
    (place,) = seen
    assert not place.sampled


def test_over_http_the_envelope_and_the_headers_name_the_span_of_the_sender() -> None:
    tracer = Tracer(SpanBuffer())
    documents: list[Any] = []

    async def main() -> None:
        listener = Listener()
        async with await asyncio.start_server(listener.serve, "127.0.0.1", 0) as server, asyncio.TaskGroup() as tasks:
            listener.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/messages"
            inbox = Inbox("shop", 8, tracer=tracer)
            transport = HttpTransport([HttpPeer("users", listener.url, "shop", lambda: None, LIMIT)])
            messages = TracedMessages(Messages(inbox, Subscriptions(inbox.counts, tracer), [transport]), tracer)
            async with transport.running(tasks):
                await messages.request("users", {"type": "hello"}, PATIENCE)
                documents.append(await listener.posted.get())
                await messages.publish("users.created", {"id": 1})
                documents.append((await listener.posted.get())["content"]["payload"])
            await listener.until_closed()
        documents.append([head.get("traceparent") for head in listener.heads])

    run(main)
    request, event = recorded(tracer)
    names = [f"00-{span.trace}-{span.id}-03" for span in (request, event)]
    assert [document["metadata"]["properties"]["traceparent"] for document in documents[:2]] == names
    assert documents[2] == names
    assert request.attributes["pywatt.channel"] == "http"


def test_within_one_process_messages_and_events_have_the_same_spans() -> None:
    tracer = Tracer(SpanBuffer())

    async def main() -> None:
        local = LocalMessages("shop", tracer=tracer)
        messages, heard = TracedMessages(local, tracer), asyncio.Event()

        async def ask(message: Any) -> int:
            with tracer.span("inner"):
                return 1

        async def crash(message: Any) -> None:
            raise LookupError

        async def listen(event: Any) -> None:
            heard.set()

        local.handlers.on("ask", ask)
        local.handlers.on("crash", crash)
        local.topics.on("paid", listen)
        await messages.request("shop", {"type": "ask"}, PATIENCE)
        with pytest.raises(MessagingError):
            await messages.request("shop", {"type": "crash"}, PATIENCE)
        await messages.publish("paid", 1)
        async with asyncio.timeout(PATIENCE):
            await heard.wait()
        await asyncio.gather(*local.topics._tasks())
        assert active_trace() is None

    run(main)
    spans = recorded(tracer)
    for sender, handler in (("request shop ask", "process shop ask"), ("publish paid", "process paid")):
        assert only(spans, handler).parent == only(spans, sender).id
    assert only(spans, "inner").parent == only(spans, "process shop ask").id
    crashed = only(spans, "process shop crash")
    assert (crashed.failed, crashed.attributes["error.type"]) == (True, "LookupError")


def test_a_message_to_the_own_process_over_the_loopback_is_handled_below_its_sender() -> None:
    tracer = Tracer(SpanBuffer())

    async def main() -> None:
        inbox = Inbox("users", 8, tracer=tracer)

        async def look(message: Any) -> None:
            await asyncio.sleep(0)

        inbox.handlers.on("look", look)
        messages = Messages(inbox, Subscriptions(inbox.counts, tracer), [])
        await TracedMessages(messages, tracer).request("users", {"type": "look"}, PATIENCE)

    run(main)
    handled, sent = recorded(tracer)
    assert (handled.name, handled.parent) == ("process users look", sent.id)


def test_the_log_of_a_handler_has_the_ids_of_its_span() -> None:
    tracer = Tracer(SpanBuffer())
    lines: list[bytes] = []

    async def main() -> None:
        async with talking(tracer=tracer) as pair:

            async def handle(message: Any) -> None:
                record = logging.LogRecord("app", logging.INFO, "", 0, "hello", (), None)
                lines.append(RecordFormatter("json", (), False).format(record))

            pair.answering.handlers.on("ask", handle)
            await TracedMessages(pair.asking, tracer).request("answering", {"type": "ask"}, PATIENCE)

    run(main)
    handled = only(recorded(tracer), "process answering ask")
    assert handled.id.encode() in lines[0]
    assert handled.trace.encode() in lines[0]


def test_an_http_request_over_a_channel_is_the_server_span_of_the_edge() -> None:
    trace, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"

    async def main() -> None:
        async with hosted({"tracing": collector.url, "endpoints": [{"path": "/users/{id}"}]}, hello) as host:
            requests = ChannelRequests(lambda: host.app, body=None, frame=LIMIT * 16, timeout=PATIENCE)
            async with asyncio.TaskGroup() as tasks, requests.running(tasks):
                headers = {"Traceparent": f"00-{trace}-{parent}-01", "Tracestate": "vendor=1"}
                assert (await requests(HttpRequest("1", "GET", "/users/7", headers))).status_code == 200

    with collecting() as collector:
        run(main)
        (span,) = collector.spans()
    assert (span.name, span.kind, span.trace, span.parent) == ("GET /users/{id}", "server", trace, parent)
    assert span.state == "vendor=1"


@pytest.mark.parametrize("delivery", ["at_most_once", "at_least_once"])
def test_over_nats_the_system_is_nats_and_the_trace_goes_on(delivery: str, nats_server: Server) -> None:
    nats = {"servers": nats_server.url, "required": True, "prefix": f"spans-{delivery}", "delivery": delivery}

    async def main() -> None:
        manifest = {"module": {"id": "users"}, "channels": {"nats": nats}, "tracing": collector.url}
        async with hosted(manifest, hello) as host:
            done = asyncio.Event()

            @host.state.on_message("note")
            async def note(message: dict[str, Any]) -> None:
                done.set()

            await host.state.send_message("users", {"type": "note"}, channel="nats")
            async with asyncio.timeout(PATIENCE):
                await done.wait()

    with collecting() as collector:
        run(main)
        spans = collector.spans()
    sent, handled = only(spans, "send users note"), only(spans, "process users note")
    assert (handled.trace, handled.parent) == (sent.trace, sent.id)
    assert sent.attributes["messaging.system"] == handled.attributes["messaging.system"] == "nats"
    assert (sent.kind, handled.kind) == ("producer", "consumer")
