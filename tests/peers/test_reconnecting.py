"""Who is let in, and going over to another token while requests are on their way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from pywatt_host.exceptions import ChannelError
from pywatt_host.peers.connection import PeerConnection
from pywatt_host.peers.reconnecting import Connector
from pywatt_host.protocol.messages import GetSecret, RoutedResponse, RouteToModule
from pywatt_host.protocol.payload import Payload
from tests.channels.places import Heard, Link, Main, Orchestrator, Place, listening, until, uplink
from tests.hosting import PATIENCE

Run = Callable[[Main], None]


def routed(n: int) -> RouteToModule:
    return RouteToModule("users", "echo", f"{n:08}-0000-8000-a000-000000000000", Payload.of(n))


class Slow:
    """Answers each message after a moment, so that some are always on their way."""

    def __init__(self) -> None:
        self.tasks: set[asyncio.Task[None]] = set()

    def __call__(self, message: RouteToModule, connection: PeerConnection) -> None:
        task = asyncio.get_running_loop().create_task(self._answer(message, connection))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _answer(self, message: RouteToModule, connection: PeerConnection) -> None:
        await asyncio.sleep(0.02)
        connection.session.send(RoutedResponse("users", message.request_id, message.payload))


def test_a_refused_uplink_says_so_and_goes_on_trying(run: Run, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pywatt_host.peers.reconnecting._OPTIONAL_CHANNEL_WAIT", 0.05)

    async def main() -> None:
        token = "wrong"
        connector = Connector(place.target, lambda: token)
        way = uplink(connector)
        peers = listening(place.door(lambda: ("right",)))
        async with asyncio.TaskGroup() as tasks, peers.running(tasks), way.running(tasks):
            await until(lambda: "refused" in connector.error)
            assert connector.connection is None
            token = "right"
            way.reconnector.replace(connector, None)
            await way.available(PATIENCE)

    run(main)


def test_a_new_token_is_taken_over_without_losing_a_request(run: Run, place: Place) -> None:
    async def main() -> None:
        accepted = ["old"]
        slow = Slow()
        connector = Connector(place.target, lambda: "old", required=True)
        way = uplink(connector)
        peers = listening(place.door(lambda: tuple(accepted)), message=slow)
        async with asyncio.TaskGroup() as tasks, peers.running(tasks), way.running(tasks):
            with pytest.raises(ChannelError, match="refused"):
                await way.reconnector.prepare(connector, "new")
            first = connector.connection
            stop, count = asyncio.Event(), 0

            async def ask(lane: int) -> None:
                nonlocal count
                while not stop.is_set():
                    count += 1
                    await way.request(routed(count), PATIENCE)

            asking = [asyncio.ensure_future(ask(lane)) for lane in range(10)]
            await until(lambda: count > 20)
            accepted.append("new")
            way.reconnector.replace(connector, await way.reconnector.prepare(connector, "new"))
            accepted.remove("old")
            await until(lambda: connector.connection is not first)
            more = count
            await until(lambda: count > more + 20)
            stop.set()
            await asyncio.gather(*asking)
            assert connector.reconnects == 1
            assert connector.error == ""

    run(main)


def test_what_the_orchestrator_had_asked_on_the_old_connection_is_answered_there(
    run: Run, place: Place, quick: None
) -> None:
    async def main() -> None:
        foreign, heard = Orchestrator(place), Heard()
        await foreign.open()
        connector = Connector(place.target, lambda: "old", required=True)
        way = uplink(connector, heard=heard)
        async with asyncio.TaskGroup() as tasks, way.running(tasks):
            old = await foreign.accepted(auth_token="old")
            payload = {"data": [49], "format": "Json"}
            old.say("routed_module_message", source_module_id="b", original_request_id="7", payload=payload)
            old.say("http_request", request_id="h", method="GET", uri="/", headers={}, body=None)
            await until(lambda: bool(heard.messages))
            way.reconnector.replace(connector, await way.reconnector.prepare(connector, "new"))
            new = await foreign.accepted(auth_token="new")
            secret = asyncio.ensure_future(way.request(GetSecret("A"), PATIENCE))
            await new.hear("get_secret")
            new.say("secret", name="A", value="x")
            await secret
            _, connection = heard.messages[0]
            connection.session.send(RouteToModule("b", "", "7", Payload.of(None)))
            heard.answer.set()
            assert (await old.hear("route_to_module"))["request_id"] == "7"
            assert (await old.hear("http_response"))["request_id"] == "h"
        assert await old.ended() == b""  # stopping does not wait for its time
        await foreign.die()

    run(main)


def test_the_old_connection_closes_after_its_time(
    run: Run, place: Place, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pywatt_host.peers.reconnecting._RETIRE_TIMEOUT", 0.05)

    async def main() -> None:
        foreign = Orchestrator(place)
        await foreign.open()
        connector = Connector(place.target, lambda: "old", required=True)
        way = uplink(connector)
        async with asyncio.TaskGroup() as tasks, way.running(tasks):
            old = await foreign.accepted()
            way.reconnector.replace(connector, await way.reconnector.prepare(connector, "new"))
            new = await foreign.accepted(auth_token="new")
            assert await old.ended() == b""
            new.say("heartbeat")
            await new.hear("heartbeat_ack")
            assert connector.connection is not None
            assert connector.error == ""
        await foreign.die()

    run(main)


def test_a_replacement_for_what_was_lost_meanwhile_is_closed_and_the_channel_connects_by_itself(
    run: Run, place: Place, quick: None
) -> None:
    async def main() -> None:
        foreign = Orchestrator(place)
        await foreign.open()
        connector = Connector(place.target, lambda: "new", required=True)
        way = uplink(connector)
        async with asyncio.TaskGroup() as tasks, way.running(tasks):
            old = await foreign.accepted()
            replacement = await way.reconnector.prepare(connector, "new")
            prepared = await foreign.accepted()
            old.abort()
            await until(lambda: connector.connection is None)
            assert await way.reconnector.prepare(connector, "new") is None
            way.reconnector.replace(connector, replacement)
            assert await prepared.ended() == b""
            third: Link = await foreign.accepted(auth_token="new")
            await until(lambda: connector.connection is not None)
            third.say("heartbeat")
            await third.hear("heartbeat_ack")
            assert len(way.connections()) == 1
        await foreign.die()

    run(main)
