"""Which frame channels the orchestrator admits."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from pywatt_host.manifest.values import UnixAddress
from pywatt_host.net.listeners import bind
from pywatt_host.orchestrator.acceptor import ModuleAcceptor
from pywatt_host.protocol.messages import EXTENSIONS, HeartbeatAck
from tests.channels.places import Link, Place, framed, run_on, until
from tests.orchestrator.conversing import LIMIT, Around, Peer, module_of


class Gate:
    """An acceptor for two processes of the module `a` and one of `b`, their tokens `a.1`, `a.2` and `b.1`."""

    def __init__(self, place: Place) -> None:
        around, self.place = Around(), place
        self.acknowledged: list[str] = []
        around.table = {HeartbeatAck: lambda _, connection: self.acknowledged.append(connection.owner.label)}
        self.peers = {name: Peer(name[0], around, int(name[2])) for name in ("a.1", "a.2", "b.1")}
        for name, peer in self.peers.items():
            peer.replica.token, peer.replica.pid = name, 1
            peer.replica.forget(peer.connection)
        modules = {"a": module_of(self.peers["a.1"], self.peers["a.2"]), "b": module_of(self.peers["b.1"])}
        self.listeners = bind([UnixAddress(str(place.path))], key="channel: ipc", directory=place.folder, backlog=8)
        self.acceptor = ModuleAcceptor({"ipc": self.listeners}, modules, around.table, LIMIT)

    async def identified(self, module: str, token: str, **members: object) -> Link:
        link = await self.place.open()
        link.say("identify", module_id=module, auth_token=token, **members)
        return link


def at_gate(test: Callable[[Gate], Awaitable[None]]) -> None:
    async def main() -> None:
        with tempfile.TemporaryDirectory(prefix="pywatt") as name:
            gate = Gate(Place("ipc", Path(name), None))
            try:
                async with asyncio.TaskGroup() as tasks, gate.acceptor.running(tasks):
                    await test(gate)
            finally:
                for listener in gate.listeners:
                    listener.close()

    run_on("asyncio", main)


def test_a_connection_belongs_to_the_process_whose_token_it_presents() -> None:
    async def test(gate: Gate) -> None:
        for name in ("a.2", "b.1"):
            link = await gate.identified(name[0], name)
            link.say("heartbeat_ack")
            await until(lambda name=name: name in gate.acknowledged)  # type: ignore[misc]
            connection = gate.peers[name].replica.connection()
            assert connection is not None
            assert connection.peer == f"{name} on ipc"
        assert gate.acknowledged == ["a.2", "b.1"]
        assert gate.peers["a.1"].replica.connection() is None

    at_gate(test)


def test_extensions_are_agreed_on_where_the_module_offers_some() -> None:
    async def test(gate: Gate) -> None:
        link = await gate.identified("a", "a.1", extensions=["health", "own"])
        answer = await link.hear("identify")
        assert answer == {"op": "identify", "module_id": "wattson", "extensions": sorted(EXTENSIONS)}
        connection = gate.peers["a.1"].replica.connection()
        assert connection is not None
        assert connection.session.extensions == {"health"}

    at_gate(test)


@pytest.mark.parametrize(("module", "token"), [("a", ""), ("a", "b.1"), ("b", "a.1"), ("c", "a.1"), ("", "")])
def test_a_token_of_another_module_or_none_is_refused(module: str, token: str) -> None:
    async def test(gate: Gate) -> None:
        link = await gate.identified(module, token)
        assert await link.ended() == b""
        assert all(peer.replica.connection() is None for peer in gate.peers.values())

    at_gate(test)


def test_the_token_of_a_process_that_has_ended_is_refused() -> None:
    async def test(gate: Gate) -> None:
        gate.peers["a.1"].replica.pid = None
        assert await (await gate.identified("a", "a.1")).ended() == b""

    at_gate(test)


@pytest.mark.parametrize("op", ["heartbeat_ack", "announce", "quux"])
def test_whatever_comes_before_identify_is_refused(op: str) -> None:
    async def test(gate: Gate) -> None:
        link = await gate.place.open()
        link.raw(framed({"op": op, "listen": "127.0.0.1:1", "endpoints": []}))
        assert await link.ended() == b""

    at_gate(test)


def test_a_process_that_connects_again_keeps_its_two_newest_connections() -> None:
    async def test(gate: Gate) -> None:
        links = [await gate.identified("a", "a.1", extensions=["health"]) for _ in range(3)]
        for link in links[1:]:
            await link.hear("identify")
        await links[0].ended()
        await links[2].close()
        replica = gate.peers["a.1"].replica
        await until(lambda: len(replica._frames) == 1)
        links[1].say("heartbeat_ack")
        await until(lambda: gate.acknowledged == ["a.1"])

    at_gate(test)
