"""Connections are spread over workers, and reach one in any case: where a place is empty, or nobody responds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from pywatt_host.manifest.values import UnixAddress
from pywatt_host.net.tls_material import ListenerTls, TlsTerms
from pywatt_host.workers.stand_in import request_path
from tests.certificates import client_context, material
from tests.workers.serving import FREE, LOOP_NAMES, LOOPS, Client, Fleet, Load, close, connect_many, run, until

Loop: TypeAlias = Callable[[], asyncio.AbstractEventLoop] | None


@pytest.fixture(params=LOOPS, ids=LOOP_NAMES)
def loop(request: pytest.FixtureRequest) -> Loop:
    found: Loop = request.param
    return found


# Spread ---------------------------------------------------------------------------------------------------------------


def test_kept_connections_are_spread_over_two_places(loop: Loop) -> None:
    async def main() -> None:
        async with Fleet.of() as fleet:
            fleet.listen(FREE, places=2)
            for place in range(2):
                fleet.start(f"w{place}", place)
            clients, found = await connect_many(fleet.port, 32)
            assert max(found.values()) <= 17, found
            await close(clients)
            await until(lambda: all(worker.connections == 0 for worker in fleet.workers))

    run(loop, main())


def test_connections_that_come_together_are_spread_over_four_places(loop: Loop) -> None:
    async def main() -> None:
        async with Fleet.of() as fleet:
            fleet.listen(FREE, places=4)
            workers = [fleet.start(f"w{place}", place) for place in range(4)]
            clients = await asyncio.gather(*(Client.to(fleet.port) for _ in range(80)))
            await asyncio.gather(*(client.get() for client in clients))
            assert max(worker.connections for worker in workers) <= 25, [worker.connections for worker in workers]
            await close(clients)

    run(loop, main())


def test_connections_to_a_unix_socket_are_passed_in_turn(loop: Loop, tmp_path: Path) -> None:
    async def main() -> None:
        async with Fleet.of(tmp_path) as fleet:
            fleet.listen(UnixAddress("a.sock"), places=2)
            for place in range(2):
                fleet.start(f"w{place}", place)
            clients, found = await connect_many(str(tmp_path / "a.sock"), 32)
            assert found == {"200 w0": 16, "200 w1": 16}
            together = await asyncio.gather(*(Client.to(str(tmp_path / "a.sock")) for _ in range(32)))
            await asyncio.gather(*(client.get() for client in together))
            assert [worker.connections for worker in fleet.workers] == [32, 32]
            await close((*clients, *together))

    run(loop, main())


# Places without a worker ----------------------------------------------------------------------------------------------


def test_connections_of_an_empty_place_are_served_by_another_worker(loop: Loop) -> None:
    async def main() -> None:
        async with Fleet.of() as fleet:
            fleet.listen(FREE, places=2)
            fleet.start("w0", 0)
            clients, found = await connect_many(fleet.port, 20)
            assert found == {"200 w0": 20}
            await close(clients)

    run(loop, main())


def test_a_worker_that_does_not_respond_is_passed_nothing(loop: Loop) -> None:
    async def main() -> None:
        async with Fleet.of() as fleet:
            fleet.listen(FREE, places=1)
            other = fleet.start("other", 7)  # of a place without a socket
            stopped = fleet.worker("stopped", 0)  # it never accepts by itself
            stopped.responsive = False
            fleet.distributor.join(stopped)
            clients, found = await connect_many(fleet.port, 10)
            assert found == {"200 other": 10}
            assert other.connections == 10
            await close(clients)

    run(loop, main())


def test_what_a_worker_has_not_taken_before_its_end_goes_to_another(loop: Loop, tmp_path: Path) -> None:
    async def main() -> None:
        async with Fleet.of(tmp_path) as fleet:
            fleet.listen(UnixAddress("a.sock"), places=2)
            blocked = fleet.worker("blocked", 0)  # it does not read its channel
            fleet.distributor.join(blocked)
            clients = [await Client.to(str(tmp_path / "a.sock")) for _ in range(5)]
            for client in clients:
                client.ask()
            await until(lambda: blocked.channel.unconfirmed == 5)
            fleet.start("w1", 1)
            blocked.die()
            assert {await client.answer() for client in clients} == {"200 w1"}
            await close(clients)

    run(loop, main())


def test_what_a_worker_that_stops_responding_has_not_taken_goes_to_another(loop: Loop, tmp_path: Path) -> None:
    async def main() -> None:
        async with Fleet.of(tmp_path) as fleet:
            fleet.listen(UnixAddress("a.sock"), places=2)
            blocked = fleet.worker("blocked", 0)  # it does not read its channel
            fleet.distributor.join(blocked)
            clients = [await Client.to(str(tmp_path / "a.sock")) for _ in range(5)]
            for client in clients[:4]:
                client.ask()
            clients[4].ask("/livez")
            await until(lambda: blocked.channel.unconfirmed == 5)
            blocked.responsive = False
            fleet.distributor.changed()
            assert await clients[4].answer() == "200 up"
            fleet.start("w1", 1)
            assert {await client.answer() for client in clients[:4]} == {"200 w1"}
            assert blocked.channel.unconfirmed == 0
            await close(clients)

    run(loop, main())


def test_a_worker_whose_channel_stays_open_is_lost_when_somebody_says_so(loop: Loop, tmp_path: Path) -> None:
    async def main() -> None:
        async with Fleet.of(tmp_path) as fleet:
            fleet.listen(UnixAddress("a.sock"), places=2)
            killed = fleet.worker("killed", 0)
            fleet.distributor.join(killed)
            client = await Client.to(str(tmp_path / "a.sock"))
            client.ask()
            await until(lambda: killed.channel.unconfirmed == 1)
            fleet.start("w1", 1)
            fleet.distributor.lost(killed)
            assert await client.answer() == "200 w1"
            await client.close()

    run(loop, main())


def test_a_full_worker_leaves_connections_waiting_until_it_has_room(loop: Loop, tmp_path: Path) -> None:
    async def main() -> None:
        async with Fleet.of(tmp_path) as fleet:
            fleet.listen(UnixAddress("a.sock"), places=1)
            worker = fleet.start("w0", 0, connections=2)
            clients = [await Client.to(str(tmp_path / "a.sock")) for _ in range(150)]  # more than a channel holds
            for client in clients:
                client.ask("/held")
            await until(lambda: worker.served == 2 and worker.channel.unconfirmed == 100)
            worker.released.set()
            for client in clients:
                assert await client.answer() == "200 w0"
                await client.close()

    run(loop, main())


# Nobody responds ------------------------------------------------------------------------------------------------------


def test_without_a_worker_probes_are_answered_and_others_wait(loop: Loop) -> None:
    async def main() -> None:
        async with Fleet.of() as fleet:
            fleet.listen(FREE, places=2)
            waiting = [await Client.to(fleet.port) for _ in range(4)]
            silent, *asking = waiting
            for client in asking:
                client.ask("/")
            gone = await Client.to(fleet.port)
            gone.ask("/")
            await gone.close()
            probe = await Client.to(fleet.port)
            probe.ask("/livez?verbose")
            assert await probe.answer() == "200 up"
            assert probe.closed
            assert await probe.ended()
            assert fleet.probes == 1
            fleet.start("w0", 0)
            for client in asking:
                assert await client.answer() == "200 w0"
            assert await silent.get() == "200 w0"
            await close((*waiting, probe))

    run(loop, main())


def test_a_request_line_may_arrive_in_parts(loop: Loop) -> None:
    async def main() -> None:
        async with Fleet.of() as fleet:
            fleet.listen(FREE, places=1)
            reader, writer = await asyncio.open_connection("127.0.0.1", fleet.port)
            writer.write(b"GET /li")
            await asyncio.sleep(0.02)
            writer.write(b"vez HTTP/1.1\r\nHost: a\r\n\r\n")
            client = Client(reader, writer)
            assert await client.answer() == "200 up"
            await client.close()

    run(loop, main())


def test_what_waits_at_the_end_is_answered_with_503(loop: Loop) -> None:
    async def main() -> None:
        async with Fleet.of() as fleet:
            fleet.listen(FREE, places=1)
            client = await Client.to(fleet.port)
            client.ask("/")
            probe = await Client.to(fleet.port)
            assert await probe.get("/livez") == "200 up"  # the one before it is held by now
            fleet.distributor.close()
            answer = await client.answer()
            assert answer.startswith("503 ")
            assert '"The service is stopping."' in answer
            assert client.closed
            assert await client.ended()
            await close((client, probe))

    run(loop, main())


# TLS ------------------------------------------------------------------------------------------------------------------


def test_passed_connections_are_taken_with_the_terms_of_their_listener(loop: Loop) -> None:
    async def main() -> None:
        async with Fleet.of() as fleet:
            fleet.listen(FREE, places=1, tls=ListenerTls("server.tls", TlsTerms(material())))
            fleet.start("elsewhere", 7)  # of a place without a socket: it is passed every connection
            clients = await asyncio.gather(*(Client.to(fleet.port, tls=client_context()) for _ in range(10)))
            assert {await client.get() for client in clients} == {"200 elsewhere"}
            assert fleet.sockets.addresses == (f"https://127.0.0.1:{fleet.port}",)
            await close(clients)

    run(loop, main())


def test_without_a_worker_tls_connections_wait_and_nothing_is_read_of_them(loop: Loop) -> None:
    async def main() -> None:
        async with Fleet.of() as fleet:
            fleet.listen(FREE, places=1, tls=ListenerTls("server.tls", TlsTerms(material())))
            handshake = asyncio.create_task(Client.to(fleet.port, tls=client_context()))
            confused = await Client.to(fleet.port)
            confused.ask("/livez")  # over plain HTTP: it is not answered either
            await until(lambda: len(fleet.distributor._waiting) == 2)
            fleet.start("w0", 0)
            client = await handshake
            assert await client.get() == "200 w0"
            assert (await confused.answer()).startswith("400 ")
            assert fleet.probes == 0
            await close((client, confused))

    run(loop, main())


def test_tls_connections_that_wait_at_the_end_are_closed_without_a_plain_answer(loop: Loop) -> None:
    async def main() -> None:
        async with Fleet.of() as fleet:
            fleet.listen(FREE, places=1, tls=ListenerTls("server.tls", TlsTerms(material())))
            client = await Client.to(fleet.port)
            await until(lambda: len(fleet.distributor._waiting) == 1)
            fleet.distributor.close()
            assert await client.ended()
            await client.close()

    run(loop, main())


@pytest.mark.parametrize(
    ("ahead", "path"),
    [
        (b"GET /livez HTTP/1.1\r\nHost", "/livez"),
        (b"\r\nHEAD /livez?a=/b HTTP/1.0\n", "/livez"),
        (b"GET http://a/livez HTTP/1.1\r\n", "/livez"),
        (b"OPTIONS * HTTP/1.1\r\n", ""),
        (b"GET /livez HTTP/1.1", None),
        (b"", None),
        (b"PRI * HTTP/2.0\r\n", ""),
        (b"\x16\x03\x01\n", ""),
    ],
)
def test_the_path_of_a_request(ahead: bytes, path: str | None) -> None:
    assert request_path(ahead) == path


# Successors and the end -----------------------------------------------------------------------------------------------


def test_generations_take_over_from_each_other_under_load(loop: Loop) -> None:
    async def main() -> None:
        async with Fleet.of() as fleet:
            fleet.listen(FREE, places=2)
            workers = [fleet.start(f"0.{place}", place) for place in range(2)]
            async with Load(fleet.port) as load:
                for generation in range(1, 6):
                    successors = [fleet.start(f"{generation}.{place}", place) for place in range(2)]
                    await asyncio.gather(*(fleet.retire(worker) for worker in workers))
                    workers = successors
                    await load.more()
            assert {name[4] for name in load.answers} == set("012345")

    run(loop, main())


def test_generations_take_over_on_a_unix_socket(loop: Loop, tmp_path: Path) -> None:
    async def main() -> None:
        async with Fleet.of(tmp_path) as fleet:
            fleet.listen(UnixAddress("a.sock"), places=1)
            worker = fleet.start("0", 0)
            async with Load(str(tmp_path / "a.sock")) as load:
                for generation in range(1, 6):
                    successor = fleet.start(str(generation), 0)
                    await fleet.retire(worker)
                    worker = successor
                    await load.more()

    run(loop, main())


def test_everything_that_waits_is_served_when_the_host_stops(loop: Loop) -> None:
    async def main() -> None:
        async with Fleet.of() as fleet:
            fleet.listen(FREE, places=3)
            worker = fleet.start("w0", 0)
            clients = [await Client.to(fleet.port) for _ in range(30)]
            for client in clients:
                client.ask()
            fleet.sockets.refuse_new()
            stopping = asyncio.create_task(worker.stop())
            await fleet.distributor.take_all()
            fleet.distributor.leave(worker)
            for client in clients:
                assert await client.answer() == "200 w0"
            await stopping
            await close(clients)

    run(loop, main())
