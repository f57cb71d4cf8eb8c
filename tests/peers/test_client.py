"""Several ways to one orchestrator at once: standard input and output over real pipes, a Unix socket and TCP."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson

from pywatt_host.channels.stdio import Descriptors, handshake
from pywatt_host.peers.client import PeerClient
from pywatt_host.peers.reconnecting import Connector
from pywatt_host.protocol.messages import AnnouncedEndpoint, GetSecret
from tests.channels.places import Heard, Main, Orchestrator, Place, until, uplink
from tests.hosting import PATIENCE

Run = Callable[[Main], None]
INIT = {"orchestrator_api": "http://127.0.0.1:9900", "module_id": "users", "env": {}, "listen": "127.0.0.1:0"}


class Pipes:
    """The orchestrator's ends of a module's standard input and output."""

    def __init__(self) -> None:
        self._in, ours_out = os.pipe()
        ours_in, self._out = os.pipe()
        self.descriptors = Descriptors(ours_in, ours_out)
        self.reader = asyncio.StreamReader()
        self._transport: Any = None

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(self.reader), os.fdopen(self._in, "rb", buffering=0)
        )

    def say(self, **document: Any) -> None:
        os.write(self._out, orjson.dumps(document) + b"\n")

    async def hear(self, op: str) -> dict[str, Any]:
        async with asyncio.timeout(PATIENCE):
            document: dict[str, Any] = orjson.loads(await self.reader.readline())
        assert document["op"] == op, document
        return document

    def end(self) -> None:
        if self._out >= 0:
            os.close(self._out)
            self._out = -1

    def close(self) -> None:
        self.end()
        self._transport.close()


@asynccontextmanager
async def three(folder: Path, heard: Heard) -> AsyncIterator[tuple[Pipes, Orchestrator, Orchestrator, PeerClient]]:
    ipc, tcp = Orchestrator(Place("ipc", folder, None)), Orchestrator(Place("tcp", folder, None))
    pipes = Pipes()
    await pipes.open()
    pipes.say(**INIT)
    greeting = await asyncio.to_thread(handshake, pipes.descriptors, PATIENCE)
    await ipc.open()
    await tcp.open()
    way = uplink(
        Connector(tcp.place.target, lambda: None),
        Connector(ipc.place.target, lambda: None),
        heard=heard,
        handshake=greeting,
    )
    async with asyncio.TaskGroup() as tasks, way.running(tasks):
        yield pipes, ipc, tcp, way
    await ipc.die()
    await tcp.die()
    tcp.place.leave()
    pipes.close()


async def asks_over(way: PeerClient, link: Any) -> None:
    asked = asyncio.ensure_future(way.request(GetSecret("A"), PATIENCE))
    await link.hear("get_secret")
    link.say(op="secret", name="A", value="1") if isinstance(link, Pipes) else link.say("secret", name="A", value="1")
    await asked


def test_the_unix_socket_comes_before_tcp_and_that_before_stdio_and_the_better_one_comes_back(
    run: Run, folder: Path, quick: None
) -> None:
    async def main() -> None:
        heard = Heard()
        async with three(folder, heard) as (pipes, ipc, tcp, way):
            over_ipc, over_tcp = await ipc.accepted(), await tcp.accepted()
            await until(lambda: len(way.connections()) == 3)
            assert [each.channel for each in way.connections()] == ["ipc", "tcp", "stdio"]
            await asks_over(way, over_ipc)
            way.announce("127.0.0.1:4102", [AnnouncedEndpoint("/", ("GET",))])
            assert (await pipes.hear("announce"))["listen"] == "127.0.0.1:4102"  # there, whatever is preferred
            for link in (over_ipc, over_tcp):  # each is answered where it was asked
                link.say("heartbeat")
                assert await link.hear("heartbeat_ack") == {"op": "heartbeat_ack"}
            pipes.say(op="heartbeat")
            await pipes.hear("heartbeat_ack")
            await ipc.die()
            await until(lambda: len(way.connections()) == 2)
            await asks_over(way, over_tcp)
            await tcp.die()
            await until(lambda: len(way.connections()) == 1)
            await asks_over(way, pipes)
            await ipc.open()
            over_ipc = await ipc.accepted()
            await until(lambda: len(way.connections()) == 2)
            await asks_over(way, over_ipc)
            assert heard.losses == []

    run(main)


def test_without_stdin_the_orchestrator_is_lost_also_where_other_channels_are_there(
    run: Run, folder: Path, quick: None
) -> None:
    async def main() -> None:
        heard = Heard()
        async with three(folder, heard) as (pipes, ipc, _, way):
            link = await ipc.accepted()
            pipes.end()
            await until(lambda: bool(heard.losses))
            assert heard.losses == ["standard input ended without a shutdown"]
            assert not way.on_stdio
            await asks_over(way, link)

    run(main)


def test_a_shutdown_before_the_end_of_stdin_is_no_loss(run: Run, folder: Path, quick: None) -> None:
    async def main() -> None:
        heard = Heard()
        async with three(folder, heard) as (pipes, _, _, way):
            pipes.say(op="shutdown")
            pipes.end()
            await until(lambda: not way.on_stdio)
            assert heard.shutdowns
            assert heard.losses == []

    run(main)
