"""One connection: which handler takes a message, and what is sent."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
import pytest

from pywatt_host.exceptions import ChannelError, HostError, MessagingError
from pywatt_host.peers.connection import PeerConnection
from pywatt_host.protocol.codec import Lines, line
from pywatt_host.protocol.messages import GetSecret, Heartbeat, HeartbeatAck, Received, Shutdown
from tests.hosting import run
from tests.orchestrator.conversing import Pipe

LIMIT = 1024


class Connected:
    """A connection whose peer is the test, with a handler for heartbeats."""

    def __init__(self, unhandled: Callable[[Received, PeerConnection], object] | None = None) -> None:
        self.handled: list[Received] = []
        self.ended: list[HostError | None] = []
        self.pipe = Pipe()
        self.connection = PeerConnection(
            "ipc", "billing", Lines(LIMIT), line, {Heartbeat: lambda message, _: self.handled.append(message)},
            lambda _, why: self.ended.append(why), limit=LIMIT, unhandled=unhandled,
        )  # fmt: skip
        self.connection.wire.connection_made(self.pipe)

    def says(self, **message: Any) -> None:
        self.connection.wire.data_received(orjson.dumps(message) + b"\n")


def in_loop(test: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await test()

    run(main)


def test_a_message_goes_to_the_handler_for_its_class() -> None:
    async def test() -> None:
        peer = Connected()
        peer.says(op="heartbeat")
        assert peer.handled == [Heartbeat()]
        replaced: list[Received] = []
        peer.connection.dispatch = {Shutdown: lambda message, _: replaced.append(message)}
        peer.says(op="heartbeat")
        peer.says(op="shutdown")
        assert (peer.handled, replaced) == ([Heartbeat()], [Shutdown()])

    in_loop(test)


def test_a_message_without_a_handler_answers_a_request_or_is_unhandled() -> None:
    async def test() -> None:
        unhandled: list[Received] = []
        peer = Connected(lambda message, _: unhandled.append(message))
        asked = asyncio.ensure_future(peer.connection.session.request(Heartbeat(), 5))
        await asyncio.sleep(0)
        peer.says(op="heartbeat_ack")
        peer.says(op="get_secret", name="A")
        peer.says(op="quux")
        assert await asked == HeartbeatAck()
        assert [message.op for message in unhandled] == ["get_secret", "quux"]
        assert unhandled[0] == GetSecret("A")

    in_loop(test)


def test_an_ignored_operation_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        peer = Connected()
        for op in ("quux", "quux", "shutdown"):
            peer.says(op=op)

    with caplog.at_level(logging.DEBUG, "pywatt.channels"):
        in_loop(test)
    assert [each.getMessage() for each in caplog.records] == [
        "billing sent quux, which is ignored here",
        "billing sent shutdown, which is ignored here",
    ]


def test_send_tells_whether_the_message_went_out() -> None:
    async def test() -> None:
        peer = Connected()
        assert peer.connection.send(Heartbeat())
        assert peer.pipe.written == b'{"op":"heartbeat"}\n'
        assert not peer.connection.send(GetSecret("x" * LIMIT))
        with pytest.raises(MessagingError, match="longer than"):
            peer.connection.session.send(GetSecret("x" * LIMIT))
        peer.connection.close()
        assert not peer.connection.send(Heartbeat())

    in_loop(test)


@pytest.mark.parametrize("end", [PeerConnection.close, PeerConnection.abort])
def test_the_end_is_told_at_once_with_its_reason(end: Callable[..., None]) -> None:
    async def test() -> None:
        peer, why = Connected(), ChannelError("ipc", "", "enough")
        assert peer.connection.open
        end(peer.connection, why)
        assert not peer.connection.open
        assert peer.ended == [why]
        assert peer.connection.session.lost is why

    in_loop(test)


def test_a_new_name_is_used_in_logs(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        peer = Connected()
        peer.connection.rename("billing on ipc")
        peer.connection.wire.data_received(b"nonsense\n")
        assert peer.connection.peer == "billing on ipc"

    in_loop(test)
    (record,) = caplog.records
    assert record.getMessage().startswith("billing on ipc sent data that is not part of the protocol: ")
