"""The trace of the request in whose course a message is sent: what goes out with the message, and what its handler
has."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from pywatt_host.messaging.http_client import HttpPeer, HttpTransport
from pywatt_host.messaging.http_server import HttpMessages
from pywatt_host.messaging.inbox import Inbox
from pywatt_host.messaging.incoming import message_context
from pywatt_host.messaging.messages import Messages
from pywatt_host.messaging.subscriptions import Subscriptions
from pywatt_host.observability.context import RequestContext, TraceContext, current_request
from pywatt_host.protocol.payload import Payload
from tests.hosting import PATIENCE, Call, http_scope, run

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
LIMIT = 64 * 1024
FLAGS = pytest.mark.parametrize("flags", ["00", "01"])


def traceparent(flags: str) -> str:
    return f"00-{TRACE}-{SPAN}-{flags}"


class Listener:
    """An HTTP server that keeps the documents that are posted to it, and answers each with an empty reply."""

    def __init__(self) -> None:
        self.url = ""
        self.heads: list[dict[str, str]] = []
        self.posted: asyncio.Queue[Any] = asyncio.Queue()
        self._serving: set[asyncio.Task[Any] | None] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._serving.add(asyncio.current_task())
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                length = re.search(r"content-length: (\d+)", head)
                assert length is not None
                self.heads.append(dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line))
                self.posted.put_nowait(json.loads(await reader.readexactly(int(length[1]))))
                body = b'{"content":null,"metadata":{}}'
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        except asyncio.IncompleteReadError:
            writer.close()
            await writer.wait_closed()

    async def until_closed(self) -> None:
        """Return when all clients have closed their connections."""
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*filter(None, self._serving))


@asynccontextmanager
async def sending() -> AsyncIterator[tuple[Messages, Listener]]:
    """Messages of the module `shop`, which reach the module `users` over HTTP."""
    listener = Listener()
    async with await asyncio.start_server(listener.serve, "127.0.0.1", 0) as server, asyncio.TaskGroup() as tasks:
        listener.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/messages"
        inbox = Inbox("shop", 8)
        transport = HttpTransport([HttpPeer("users", listener.url, "shop", lambda: None, LIMIT)])
        messages = Messages(inbox, Subscriptions(inbox.counts), [transport])
        async with transport.running(tasks), inbox.running(tasks), messages.running(tasks):
            yield messages, listener
        await listener.until_closed()


@FLAGS
def test_requests_sends_and_events_over_http_carry_the_trace_with_its_flags(flags: str) -> None:
    async def main() -> None:
        async with sending() as (messages, listener):
            current_request.set(
                message_context({"request_id": "abc", "traceparent": traceparent(flags), "tracestate": "vendor=1"})
            )
            await messages.request("users", {"type": "hello"}, PATIENCE)
            asked = await listener.posted.get()
            await messages.send("users", {"type": "hello"})
            sent = await listener.posted.get()
            await messages.publish("users.created", {"id": 1})
            published = (await listener.posted.get())["content"]["payload"]
            for document in (asked, sent, published):
                properties = document["metadata"]["properties"]
                assert properties["request_id"] == "abc"
                found = re.fullmatch(f"00-{TRACE}-([0-9a-f]{{16}})-{flags}", properties["traceparent"])
                assert found is not None
                assert found[1] != SPAN
                assert properties["tracestate"] == "vendor=1"

    run(main)


@FLAGS
def test_the_handler_of_a_message_that_was_posted_has_the_trace_with_its_flags(flags: str) -> None:
    async def main() -> None:
        inbox, seen = Inbox("users", 8), list[RequestContext | None]()

        async def look(message: Any) -> None:
            seen.append(current_request.get())

        inbox.handlers.on("look", look)
        app = HttpMessages(inbox, lambda: None, LIMIT, lambda *event: None)
        metadata = {"source": "shop", "properties": {"traceparent": traceparent(flags)}}
        body = json.dumps({"content": {"type": "look"}, "metadata": metadata}).encode()
        scope = http_scope(
            "POST", "/messages", [("content-type", "application/json")], server=("/run/users.sock", None)
        )
        assert (await Call(app, scope, [body]).answer()).status == 200
        (context,) = seen
        assert context is not None
        assert context.trace == TraceContext(TRACE, SPAN, int(flags))

    run(main)


@FLAGS
def test_the_handler_of_an_event_has_the_trace_with_its_flags(flags: str) -> None:
    async def main() -> None:
        inbox = Inbox("users", 8)
        topics = Subscriptions(inbox.counts)
        messages = Messages(inbox, topics, [])
        seen: asyncio.Queue[RequestContext | None] = asyncio.Queue()

        async def look(event: Any) -> None:
            seen.put_nowait(current_request.get())

        topics.on("orders.created", look)
        event = {"content": 1, "metadata": {"properties": {"traceparent": traceparent(flags)}}}
        messages.event("orders.created", "shop", Payload.of(event), "http", "")
        async with asyncio.timeout(PATIENCE):
            context = await seen.get()
        assert context is not None
        assert context.trace == TraceContext(TRACE, SPAN, int(flags))

    run(main)


def test_the_state_of_a_trace_reaches_the_handler_and_goes_on_from_there() -> None:
    properties = {"traceparent": traceparent("01"), "tracestate": "vendor=1,other=2"}
    context = message_context(properties)
    assert context.trace == TraceContext(TRACE, SPAN, 1, "vendor=1,other=2")
    assert message_context({**properties, "tracestate": 7}).trace == TraceContext(TRACE, SPAN, 1)
    assert message_context({"tracestate": "vendor=1"}).trace is None


def test_a_trace_that_is_not_valid_is_dropped_and_the_request_id_stays() -> None:
    for invalid in (f"00-{TRACE}-{SPAN}", f"00-{TRACE.upper()}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01", 7, None):
        context = message_context({"request_id": "abc", "traceparent": invalid})
        assert (context.request_id, context.trace) == (b"abc", None)


def test_a_message_to_the_own_process_is_handled_with_the_trace_of_the_request() -> None:
    async def main() -> None:
        inbox = Inbox("users", 8)
        seen: list[RequestContext | None] = []

        async def look(message: Any) -> None:
            seen.append(current_request.get())

        inbox.handlers.on("look", look)
        messages = Messages(inbox, Subscriptions(inbox.counts), [])
        current_request.set(message_context({"traceparent": traceparent("00")}))
        await messages.request("users", {"type": "look"}, PATIENCE)
        (context,) = seen
        assert context is not None
        assert context.trace is not None
        assert (context.trace.trace_id, context.trace.flags) == (TRACE, 0)

    run(main)
