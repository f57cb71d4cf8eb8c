"""Messages between two modules over a real Unix socket, in one event loop."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from pywatt_host.channels.sockets import UnixTarget
from pywatt_host.exceptions import MessagingError
from pywatt_host.manifest.values import UnixAddress
from pywatt_host.messaging.inbox import Inbox
from pywatt_host.messaging.incoming import message_context
from pywatt_host.messaging.messages import Messages
from pywatt_host.messaging.subscriptions import Subscriptions
from pywatt_host.net.listeners import bind
from pywatt_host.observability.context import RequestContext, current_request
from pywatt_host.observability.spans import NO_TRACER, AnyTracer
from pywatt_host.peers.acceptor import PeerListener
from pywatt_host.peers.client import PeerClient
from pywatt_host.peers.incoming import IncomingMessages
from pywatt_host.peers.reconnecting import Connector
from pywatt_host.peers.server import PeerServer
from tests.hosting import PATIENCE, run

FRAME = 64 * 1024


def uplink(module_id: str, *connectors: Connector) -> PeerClient:
    return PeerClient(
        module_id, connectors, handshake=None, frame_limit=FRAME, handshake_timeout=PATIENCE, heartbeats_missed=3
    )


def messages(module_id: str, most: int, way: PeerClient, tracer: AnyTracer = NO_TRACER) -> Messages:
    inbox = Inbox(module_id, most, tracer=tracer)
    return Messages(inbox, Subscriptions(inbox.counts, tracer), [way])


class Pair:
    """`asking` is connected to `answering`."""

    def __init__(self, asking: Messages, answering: Messages) -> None:
        self.asking = asking
        self.answering = answering


@asynccontextmanager
async def talking(most: int = 256, tracer: AnyTracer = NO_TRACER) -> AsyncIterator[Pair]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "peer.sock"
        answering = messages("answering", most, uplink("answering"), tracer)
        peers = PeerServer(
            "answering",
            frame_limit=FRAME,
            handshake_timeout=PATIENCE,
            message=IncomingMessages(answering.inbox.take).from_client,
            health=dict,
            event=lambda event, connection: answering.event(
                event.topic, connection.module_id, event.payload, connection.channel, ""
            ),
        )
        (listener,) = bind([UnixAddress(str(path))], key="channels.ipc.listen", directory=path.parent, backlog=8)
        peers.listeners.append(PeerListener("ipc", listener, tuple))
        way = uplink("asking", Connector(UnixTarget(str(path)), lambda: None))
        asking = messages("asking", most, way, tracer)
        async with (
            asyncio.TaskGroup() as tasks,
            peers.running(tasks),
            way.running(tasks),
            asking.running(tasks),
            asking.inbox.running(tasks),
            answering.running(tasks),
            answering.inbox.running(tasks),
        ):
            yield Pair(asking, answering)


def test_a_reply_is_what_the_handler_returns_sync_or_async() -> None:
    async def main() -> None:
        async with talking() as pair:
            threads: list[int] = []

            async def double(message: dict[str, Any]) -> Any:
                return message["n"] * 2

            def sync(message: dict[str, Any]) -> None:
                threads.append(threading.get_ident())

            pair.answering.handlers.on("double", double)
            pair.answering.handlers.on("sync", sync)
            assert await pair.asking.request("answering", {"type": "double", "n": 21}, PATIENCE) == 42
            assert await pair.asking.request("answering", {"type": "sync"}, PATIENCE) is None
            assert threads != [threading.get_ident()]
            with pytest.raises(ValueError, match="double"):
                pair.answering.handlers.on("double", double)
            replies = await asyncio.gather(
                *(pair.asking.request("answering", {"type": "double", "n": n}, PATIENCE) for n in range(500))
            )
            assert replies == [2 * n for n in range(500)]
            assert pair.asking.counts["out", "ok"] == 502
            assert pair.answering.counts["in", "ok"] == 502

    run(main)


@pytest.mark.parametrize(
    ("target", "message", "code"),
    [
        ("answering", {"type": "nobody"}, "no_handler"),
        ("answering", {"type": "crash"}, "handler_failed"),
        ("answering", {"type": "own"}, "unknown_target"),
        ("somebody else", {"type": "crash"}, "unknown_target"),
        ("answering", {"no": "type"}, "invalid_message"),
        ("answering", {"type": "crash", "long": "x" * FRAME}, "too_large"),
    ],
)
def test_what_goes_wrong_has_a_code(target: str, message: Any, code: str) -> None:
    async def main() -> None:
        async with talking() as pair:

            async def crash(message: Any) -> None:
                raise ValueError("broken")

            async def own(message: Any) -> None:
                raise MessagingError("unknown_target", "my own words")

            pair.answering.handlers.on("crash", crash)
            pair.answering.handlers.on("own", own)
            with pytest.raises(MessagingError) as caught:
                await pair.asking.request(target, message, PATIENCE)
            assert caught.value.code == code
            assert "Traceback" not in str(caught.value)

    run(main)


def test_a_deadline_ends_the_handler_and_travels_with_the_message() -> None:
    async def main() -> None:
        async with talking() as pair:
            ended = asyncio.Event()

            async def wait(message: Any) -> None:
                try:
                    await asyncio.Event().wait()
                finally:
                    ended.set()

            pair.answering.handlers.on("wait", wait)
            with pytest.raises(MessagingError, match="timeout"):
                await pair.asking.request("answering", {"type": "wait"}, 0.1)
            async with asyncio.timeout(PATIENCE):
                await ended.wait()

    run(main)


def test_only_so_many_run_at_a_time_some_wait_and_the_rest_is_refused() -> None:
    async def main() -> None:
        async with talking(most=2) as pair:
            running, peak, go = 0, 0, asyncio.Event()

            async def work(message: Any) -> str:
                nonlocal running, peak
                running += 1
                peak = max(peak, running)
                await go.wait()
                running -= 1
                return "done"

            pair.answering.handlers.on("work", work)
            asked = [
                asyncio.ensure_future(pair.asking.request("answering", {"type": "work"}, PATIENCE)) for _ in range(40)
            ]
            done, _ = await asyncio.wait(asked, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
            while len(done) < 6:
                done, _ = await asyncio.wait(asked, timeout=0.01)
            go.set()
            results = await asyncio.gather(*asked, return_exceptions=True)
            assert peak == 2
            assert results.count("done") == 2 + 2 * 16
            refused = [each for each in results if isinstance(each, MessagingError)]
            assert len(refused) == 6
            assert all("channels.limits.messages" in each.message for each in refused)

    run(main)


def test_leaving_lets_what_runs_come_to_its_end() -> None:
    async def main() -> None:
        async with talking() as pair:
            begun, go = asyncio.Event(), asyncio.Event()

            async def work(message: Any) -> str:
                begun.set()
                await go.wait()
                return "done"

            pair.answering.handlers.on("work", work)
            asked = asyncio.ensure_future(pair.asking.request("answering", {"type": "work"}, PATIENCE))
            await begun.wait()
            asyncio.get_running_loop().call_later(0.05, go.set)
        assert await asked == "done"

    run(main)


def test_a_message_that_nobody_waits_for_is_sent_in_order_and_its_error_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        async with talking() as pair:
            seen: list[int] = []
            all_seen = asyncio.Event()

            async def note(message: Any) -> None:
                seen.append(message["n"])
                if len(seen) == 100:
                    all_seen.set()

            pair.answering.handlers.on("note", note)
            for n in range(100):
                await pair.asking.send("answering", {"type": "note", "n": n})
            async with asyncio.timeout(PATIENCE):
                await all_seen.wait()
            assert seen == list(range(100))
            await pair.asking.send("answering", {"type": "nobody"})
            with pytest.raises(MessagingError):
                await pair.asking.send("answering", "no message at all")
            with pytest.raises(MessagingError):
                await pair.asking.request("answering", {"type": "nobody"}, PATIENCE)
        assert "no_handler" in caplog.text

    run(main)


@pytest.mark.parametrize("flags", ["00", "01", "03"])
def test_the_handler_of_a_message_has_the_request_id_and_the_trace_of_the_request_that_sent_it(flags: str) -> None:
    async def main() -> None:
        async with talking() as pair:
            seen: list[RequestContext | None] = []

            async def look(message: Any) -> None:
                seen.append(current_request.get())

            traceparent = f"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-{flags}"
            sent_from = message_context({"request_id": "abc-123", "traceparent": traceparent})
            pair.answering.handlers.on("look", look)
            current_request.set(sent_from)
            await pair.asking.request("answering", {"type": "look"}, PATIENCE)
            (request,) = seen
            assert request is not None
            assert request.request_id == b"abc-123"
            assert sent_from.trace is not None
            assert request.trace is not None
            assert request.trace.trace_id == sent_from.trace.trace_id
            assert request.trace.parent_id != sent_from.trace.parent_id
            assert request.trace.flags == sent_from.trace.flags == int(flags, 16)

    run(main)


def test_without_any_channel_everything_fails_at_once() -> None:
    async def main() -> None:
        alone = messages("alone", 1, uplink("alone"))
        for doing in (alone.request("x", {"type": "t"}, PATIENCE), alone.send("x", {"type": "t"})):
            with pytest.raises(MessagingError, match="unavailable"):
                await doing

    run(main)


@pytest.mark.parametrize(
    "reply",
    [
        {"content": "x"},
        {"content": "x", "n": 1},
        {"content": {"a": 1}, "metadata": {}},
        {"id": "1", "content": None},
        {"type": "content", "content": 1},
        [],
        "text",
        None,
    ],
)
def test_a_reply_arrives_as_it_was_given_whatever_it_looks_like(reply: Any) -> None:
    async def main() -> None:
        async with talking() as pair:

            async def answer(message: Any) -> Any:
                assert message == {"type": "ask", "content": 1, "metadata": 2}
                return reply

            pair.answering.handlers.on("ask", answer)
            asked = {"type": "ask", "content": 1, "metadata": 2}
            assert await pair.asking.request("answering", asked, PATIENCE) == reply

    run(main)


def test_a_credential_travels_with_a_message_and_is_verified_where_it_arrives() -> None:
    async def main() -> None:
        async with talking() as pair:
            called: list[dict[str, Any]] = []

            async def handle(message: Any) -> Any:
                current = current_request.get()
                called.append(current.claims if current is not None else {})

            async def vouch(authorization: str, **more: Any) -> dict[str, Any]:
                if authorization != "Bearer good":
                    raise MessagingError("handler_failed", "it does not hold")
                return {"sub": "alice"}

            pair.answering.handlers.on("it", handle)
            # Where nobody can tell whether it holds, it says nothing.
            await pair.asking.request("answering", {"type": "it"}, PATIENCE, "Bearer good")
            pair.answering.inbox.handlers.vouch = vouch
            await pair.asking.request("answering", {"type": "it"}, PATIENCE, "Bearer good")
            await pair.asking.request("answering", {"type": "it"}, PATIENCE)
            with pytest.raises(MessagingError, match="does not hold"):
                await pair.asking.request("answering", {"type": "it"}, PATIENCE, "Bearer bad")
            assert called == [{}, {"sub": "alice"}, {}]

    run(main)
