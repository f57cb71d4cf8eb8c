"""What every channel does, whatever moves its octets: both ends are ours, or one of them is foreign."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

import pytest

from pywatt_host.exceptions import ChannelError, MessagingError
from pywatt_host.peers.connection import PeerConnection
from pywatt_host.peers.reconnecting import MODULE_EXTENSIONS, Connector
from pywatt_host.peers.server import PEER_EXTENSIONS
from pywatt_host.protocol.messages import GetSecret, RoutedResponse, RouteToModule
from pywatt_host.protocol.payload import Payload
from tests.channels.places import Heard, Main, Orchestrator, Place, descriptors, listening, until, uplink
from tests.hosting import PATIENCE
from tests.processes import allowed

Run = Callable[[Main], None]
PEERS = PEER_EXTENSIONS & MODULE_EXTENSIONS


def routed(n: int, target: str = "users") -> RouteToModule:
    return RouteToModule(target, "echo", f"{n:08}-0000-8000-a000-000000000000", Payload.of({"type": "echo", "n": n}))


def echo(message: RouteToModule, connection: PeerConnection) -> None:
    connection.send(RoutedResponse("users", message.request_id, message.payload))


def test_two_of_ours_agree_on_extensions_and_talk_both_ways(run: Run, place: Place) -> None:
    async def main() -> None:
        connector = Connector(place.target, lambda: "t0ken", required=True)
        way = uplink(connector)
        peers = listening(place.door(lambda: ("t0ken",)), message=echo)
        async with asyncio.TaskGroup() as tasks, peers.running(tasks), way.running(tasks):
            assert connector.connection is not None
            assert connector.connection.session.extensions == PEERS
            assert connector.connection.module_id == "users"
            assert peers.peers == 1
            answers = await asyncio.gather(*(way.request(routed(n), PATIENCE) for n in range(50)))
            assert [answer.payload.document()["n"] for answer in answers] == list(range(50))
            with pytest.raises(MessagingError, match="unknown_target") as caught:
                await refused(way.request(routed(1, "others"), PATIENCE))
            assert caught.value.code == "unknown_target"
            with pytest.raises(MessagingError, match="a module does not answer this"):
                await way.request(GetSecret("A"), PATIENCE)

    async def refused(asked: object) -> None:
        content = (await asked).payload.document()  # type: ignore[misc]
        raise MessagingError(content["code"], content["message"])

    run(main)


def test_a_foreign_orchestrator_gets_the_tables_and_nothing_else(run: Run, place: Place, quick: None) -> None:
    async def main() -> None:
        foreign, heard = Orchestrator(place), Heard()
        await foreign.open()
        connector = Connector(place.target, lambda: None, required=True)
        way = uplink(connector, heard=heard)
        async with asyncio.TaskGroup() as tasks, way.running(tasks):
            link = await foreign.accepted(module_id="users", auth_token=None)
            asked = asyncio.ensure_future(way.request(GetSecret("A"), PATIENCE))
            assert await link.hear("get_secret") == {"op": "get_secret", "name": "A"}
            link.say("secret", name="A", value="1")
            assert (await asked).value == "1"
            link.say("heartbeat")
            assert await link.hear("heartbeat_ack") == {"op": "heartbeat_ack"}
            link.say("rotated", keys=["A"], rotation_id="r1")
            assert await link.hear("rotation_ack") == {"op": "rotation_ack", "rotation_id": "r1", "status": "success"}
            link.say("quux", x=1)
            link.say("routed_module_message", source_module_id="b", original_request_id="1", payload={"data": [49]})
            await until(lambda: bool(heard.messages))
            assert heard.messages[0][0].payload.to_bytes() == b"1"
            way.draining()
            link.say("shutdown")
            await until(lambda: bool(heard.shutdowns))
        assert await link.ended() == b""  # no `draining`: nobody had agreed on it
        await foreign.die()

    run(main)


def test_an_orchestrator_that_answers_identify_gets_what_both_know(run: Run, place: Place) -> None:
    async def main() -> None:
        foreign = Orchestrator(place)
        await foreign.open()
        way = uplink(Connector(place.target, lambda: None, required=True))

        async def greet() -> None:
            link = await foreign.accepted(extensions=sorted(MODULE_EXTENSIONS))
            link.say("identify", module_id="wattson", extensions=["drain", "health", "own"])

        async with asyncio.TaskGroup() as tasks:
            greeted = tasks.create_task(greet())
            async with way.running(tasks):
                await greeted
                (link,) = foreign.links
                link.say("heartbeat")
                assert (await link.hear("heartbeat_ack"))["health"]["status"] == "healthy"
                way.draining()
                await link.hear("draining")
        await foreign.die()

    run(main)


def test_after_the_peer_died_it_is_connected_anew_soon_and_what_waited_is_answered(
    run: Run, place: Place, quick: None, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        foreign = Orchestrator(place)
        await foreign.open()
        connector = Connector(place.target, lambda: "t", required=True)
        way = uplink(connector)
        again: list[PeerConnection] = []

        async def register(connection: PeerConnection) -> None:
            again.append(connection)

        way.on_connected(register)
        async with asyncio.TaskGroup() as tasks, way.running(tasks):
            await foreign.accepted(auth_token="t")
            await foreign.die()
            await until(lambda: connector.connection is None)
            began = time.monotonic()
            waiting = [asyncio.ensure_future(way.request(GetSecret(name), PATIENCE)) for name in "ABC"]
            late = asyncio.ensure_future(way.request(routed(1, "other"), PATIENCE))
            with pytest.raises(MessagingError) as caught:
                await way.request(routed(2), 0.01)
            assert caught.value.code == "unavailable"
            await foreign.open()
            link = await foreign.accepted(auth_token="t")
            assert time.monotonic() - began < allowed(2.0)
            asked = [(await link.hear("get_secret"))["name"] for _ in waiting]
            assert asked == ["A", "B", "C"]
            for name in reversed(asked):
                link.say("secret", name=name, value=name.lower())
            assert [answer.value for answer in await asyncio.gather(*waiting)] == ["a", "b", "c"]
            request = await link.hear("route_to_module")
            link.say(
                "routed_module_response",
                source_module_id="other",
                request_id=request["request_id"],
                payload={"data": [110, 117, 108, 108], "format": "Json"},
            )
            assert (await late).payload.document() is None
            assert connector.reconnects == 1
            assert [each.open for each in again] == [False, True]
        await foreign.die()

    with caplog.at_level(logging.INFO):
        run(main)
    assert sum("is lost" in each.getMessage() for each in caplog.records) == 1


def test_the_first_retry_comes_within_the_jitter_of_its_delay(run: Run, place: Place, quick: None) -> None:
    async def main() -> None:
        foreign = Orchestrator(place)
        await foreign.open()
        way = uplink(Connector(place.target, lambda: None, required=True))
        async with asyncio.TaskGroup() as tasks, way.running(tasks):
            link = await foreign.accepted()
            link.abort()
            began = time.monotonic()
            await foreign.accepted()
            took = time.monotonic() - began
            assert 0.05 <= took < allowed(1.0), took  # 0.1 s, half of it more or less
        await foreign.die()

    run(main)


def test_what_was_asked_when_the_channel_broke_is_lost_and_a_secret_is_asked_for_again(
    run: Run, place: Place, quick: None
) -> None:
    async def main() -> None:
        foreign = Orchestrator(place)
        await foreign.open()
        way = uplink(Connector(place.target, lambda: None, required=True))
        async with asyncio.TaskGroup() as tasks, way.running(tasks):
            link = await foreign.accepted()
            message = asyncio.ensure_future(way.request(routed(1, "other"), PATIENCE, "other"))
            secret = asyncio.ensure_future(way.request(GetSecret("A"), PATIENCE))
            await link.hear("route_to_module")
            await link.hear("get_secret")
            link.abort()
            with pytest.raises(MessagingError) as caught:
                await message
            assert (caught.value.code, caught.value.target) == ("lost", "other")
            assert isinstance(caught.value.__cause__, ChannelError)
            link = await foreign.accepted()
            await link.hear("get_secret")
            link.say("secret", name="A", value="again")
            assert (await secret).value == "again"
        await foreign.die()

    run(main)


def test_a_request_while_the_connection_is_closing_waits_for_the_next_one(run: Run, place: Place, quick: None) -> None:
    """Between the end of what is read and the end of the connection lies what is still to be written."""

    async def main() -> None:
        foreign = Orchestrator(place)
        await foreign.open()
        connector = Connector(place.target, lambda: None, required=True)
        way = uplink(connector)
        async with asyncio.TaskGroup() as tasks, way.running(tasks):
            await foreign.accepted()
            assert connector.connection is not None
            connector.connection.wire.close()
            asked = asyncio.ensure_future(way.request(GetSecret("A"), PATIENCE))
            message = asyncio.ensure_future(way.request(routed(1, "other"), PATIENCE))
            link = await foreign.accepted()
            await link.hear("get_secret")
            link.say("secret", name="A", value="x")
            assert (await asked).value == "x"
            await link.hear("route_to_module")
            message.cancel()
        await foreign.die()

    run(main)


@pytest.mark.parametrize("trouble", ["nobody there", "says nothing", "refused"])
def test_a_required_channel_that_cannot_connect_ends_the_start_and_leaves_nothing_open(
    run: Run, place: Place, trouble: str
) -> None:
    async def main() -> None:
        before = descriptors()
        foreign = Orchestrator(place)
        if trouble != "nobody there":
            await foreign.open()
        tasks_before = asyncio.all_tasks()

        async def refuse() -> None:
            while True:
                (await foreign.accepted()).abort()

        refusing = asyncio.ensure_future(refuse()) if trouble == "refused" else None
        way = uplink(Connector(place.target, lambda: None, required=True), timeout=0.3)
        began = time.monotonic()
        if trouble == "says nothing":  # which is how foreign ones are: connected, after half the time
            async with asyncio.TaskGroup() as tasks, way.running(tasks):
                assert way.connections()
        else:
            with pytest.raises(BaseExceptionGroup) as group:
                async with asyncio.TaskGroup() as tasks, way.running(tasks):
                    raise AssertionError("it started")
            (error,) = group.value.exceptions
            assert isinstance(error, ChannelError)
            assert (error.exit_code, error.channel) == (4, place.channel)
            assert "required" in error.message
        assert time.monotonic() - began < allowed(2.0)
        if refusing is not None:
            refusing.cancel()
            await asyncio.wait([refusing])
        await foreign.die()
        await until(lambda: asyncio.all_tasks() <= tasks_before | {asyncio.current_task()})
        await until(lambda: descriptors() <= before + 1)  # the loop's own, such as uvloop's of name resolution

    run(main)


def test_a_start_that_is_given_up_while_identifying_closes_the_connection(run: Run, place: Place) -> None:
    async def main() -> None:
        foreign = Orchestrator(place)
        await foreign.open()
        way = uplink(Connector(place.target, lambda: None))

        async def start() -> None:
            async with asyncio.TaskGroup() as tasks, way.running(tasks):
                raise AssertionError("it started")

        starting = asyncio.ensure_future(start())
        link = await foreign.accepted()
        starting.cancel()
        await asyncio.wait([starting])
        assert await link.ended() == b""
        await foreign.die()

    run(main)


def test_a_channel_that_need_not_be_there_is_warned_of_and_tried_again(
    run: Run, place: Place, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pywatt_host.peers.reconnecting._OPTIONAL_CHANNEL_WAIT", 0.05)

    async def main() -> None:
        connector = Connector(place.target, lambda: None)
        way = uplink(connector)
        async with asyncio.TaskGroup() as tasks, way.running(tasks):
            assert way.connections() == []
            assert connector.error not in ("", "not connected yet")
            peers = listening(place.door())
            async with peers.running(tasks):
                await way.available(PATIENCE)
                assert connector.error == ""

    run(main)
    warnings = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
    assert len([each for each in warnings if "it is tried again" in each]) == 1
    assert not any(each.exc_info for each in caplog.records)


def test_a_foreign_peer_that_need_not_be_there_is_not_warned_of(
    run: Run, place: Place, quick: None, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        foreign = Orchestrator(place)
        await foreign.open()
        way = uplink(Connector(place.target, lambda: None))
        async with asyncio.TaskGroup() as tasks, way.running(tasks):
            assert len(way.connections()) == 1
        await foreign.die()

    run(main)
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]
