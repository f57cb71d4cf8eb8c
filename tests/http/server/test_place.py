"""A server with a place: when it accepts, what it gives away, and what it takes before it ends."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from asyncio import TaskGroup
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from pywatt_host.http.server.place import Place
from pywatt_host.http.server.server import Drain, HttpServer
from pywatt_host.net.listeners import Listener
from pywatt_host.net.passing import UNCONFIRMED, PassingChannel
from tests.hosting import PATIENCE
from tests.http.server.application import Application
from tests.workers.serving import BOUNDS, LOOP_NAMES, LOOPS, Client, close, run, until

Loop: TypeAlias = Callable[[], asyncio.AbstractEventLoop] | None


@pytest.fixture(params=LOOPS, ids=LOOP_NAMES)
def loop(request: pytest.FixtureRequest) -> Loop:
    found: Loop = request.param
    return found


class Placed:
    """A server with a place, and the other end of its channel."""

    def __init__(self, sock: socket.socket, **bounds: Any) -> None:
        self.sock = sock
        near, far = socket.socketpair()
        self.near = PassingChannel(near)  # of the supervisor
        self.connections = 0
        self.least: int | None = None
        self.place = Place(PassingChannel(far), self, lambda: self.least)
        self.drain = Drain()
        self.app = Application()
        listener = Listener(sock.dup(), owned=False, number=3)
        self.server = HttpServer("test", self.app, [listener], replace(BOUNDS, **bounds), self.drain, self.place)
        self._stop = asyncio.Event()
        self.running = asyncio.create_task(self._run())

    def set(self, value: int) -> None:
        self.connections = value

    async def _run(self) -> None:
        async with TaskGroup() as tasks, self.server.running(tasks):
            await self._stop.wait()

    def stop(self, seconds: float = PATIENCE) -> None:
        """Begin to drain."""
        self.drain.deadline = time.monotonic() + seconds
        self._stop.set()

    async def passed(self, source: str | None = None) -> Client:
        """A connection that the supervisor accepts and passes."""
        with socket.create_server(("127.0.0.1", 0)) as own:
            client = await Client.to(own.getsockname()[1], source)
            sock, _ = own.accept()
            assert self.near.send(sock, 3)
            sock.close()
            return client


@asynccontextmanager
async def placed(accepting: bool = True, **bounds: Any) -> AsyncIterator[tuple[Placed, int]]:
    """A server with a place at a port of this machine."""
    with socket.create_server(("127.0.0.1", 0), backlog=200) as sock:
        sock.setblocking(False)
        found = Placed(sock, **bounds)
        if accepting:
            found.place.accept()
        try:
            yield found, sock.getsockname()[1]
        finally:
            found.near.finish()
            found.stop(0.2)
            await found.running
            found.near.close()


def accepted(sock: socket.socket) -> int:
    """How many connections wait at a socket."""
    count = 0
    while True:
        try:
            sock.accept()[0].close()
        except BlockingIOError:
            return count
        count += 1


def test_it_leaves_everything_alone_until_it_is_told_to_accept(loop: Loop) -> None:
    async def main() -> None:
        async with placed(accepting=False) as (server, port):
            own, passed = await Client.to(port), await server.passed()
            await asyncio.sleep(0.05)
            assert server.connections == 0
            server.place.accept()
            for client in (own, passed):
                assert await client.get("/echo") != ""
            assert server.connections == 2
            await close((own, passed))
            await until(lambda: server.connections == 0)
            assert server.near.receive() == []
            assert server.near.unconfirmed == 0

    run(loop, main())


# Giving away ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("least", "kept"), [(None, 8), (0, 1), (3, 4), (40, 8)])
def test_it_keeps_at_most_one_more_than_the_least_loaded_worker(loop: Loop, least: int | None, kept: int) -> None:
    async def main() -> None:
        async with placed() as (server, port):
            server.least = least
            clients = [await Client.to(port) for _ in range(8)]
            given: list[tuple[int, socket.socket]] = []
            while server.connections + len(given) < 8:
                await asyncio.sleep(0)
                given += server.near.receive()
            assert server.connections == kept
            for number, sock in given:
                assert number == 3
                sock.close()
            await close(clients)

    run(loop, main())


def test_what_the_channel_has_no_room_for_is_kept(loop: Loop) -> None:
    async def main() -> None:
        async with placed() as (server, port):
            server.least = 0
            clients = [await Client.to(port) for _ in range(UNCONFIRMED + 10)]
            await until(lambda: server.connections == 10)
            assert await clients[-1].get("/echo") != ""
            server.near.close()  # the supervisor has gone
            client = await Client.to(port)
            assert await client.get("/echo") != ""
            await close((*clients, client))

    run(loop, main())


# Limits ---------------------------------------------------------------------------------------------------------------


def test_a_client_has_as_many_passed_connections_as_it_may(loop: Loop) -> None:
    async def main() -> None:
        async with placed(connections_per_client=2) as (server, port):
            clients = [await Client.to(port, "127.0.0.2"), await server.passed("127.0.0.2")]
            for client in clients:
                assert await client.get("/echo") != ""
            one_more = await server.passed("127.0.0.2")
            assert await one_more.ended()
            other = await server.passed("127.0.0.3")
            assert await other.get("/echo") != ""
            await close((*clients, one_more, other))

    run(loop, main())


def test_passed_connections_wait_in_the_channel_while_there_are_too_many(loop: Loop) -> None:
    async def main() -> None:
        async with placed(connections=2) as (server, _port):
            clients = [await server.passed() for _ in range(4)]
            for client in clients:
                client.ask("/held")
            await until(lambda: len(server.app.seen) == 2)
            await until(lambda: not server.near.waiting() and server.near.unconfirmed == 2)
            assert server.connections == 2
            server.app.released.set()
            for client in clients:
                assert await client.answer() == "200 held"
                await client.close()

    run(loop, main())


# The end --------------------------------------------------------------------------------------------------------------


def test_one_that_retires_leaves_the_queue_to_its_successor(loop: Loop) -> None:
    async def main() -> None:
        async with placed() as (server, port):
            client = await Client.to(port)
            assert await client.get("/echo") != ""
            server.place.retire()
            waiting = [await Client.to(port) for _ in range(5)]
            server.stop()
            passed = await server.passed()
            passed.ask("/held")
            await until(lambda: len(server.app.seen) == 2)
            assert not server.running.done()
            server.near.finish()
            server.app.released.set()
            assert await passed.answer() == "200 held"
            assert passed.closed
            await client.close()
            await server.running
            assert accepted(server.sock) == 5
            late = await Client.to(port)  # the socket listens on
            await close((*waiting, passed, late))

    run(loop, main())


def test_one_that_does_not_retire_takes_all_that_waits(loop: Loop) -> None:
    async def main() -> None:
        async with placed(connections=1) as (server, port):
            clients = [await Client.to(port) for _ in range(5)]
            for client in clients:
                client.ask("/held")
            await until(lambda: len(server.app.seen) == 1)
            server.stop()
            server.near.finish()
            server.app.released.set()
            for client in clients:
                assert await client.answer() == "200 held"
                assert client.closed
            await server.running
            await close(clients)

    run(loop, main())


def test_a_passed_connection_gets_time_for_its_request_while_the_server_drains(loop: Loop) -> None:
    async def main() -> None:
        async with placed() as (server, _port):
            server.place.retire()
            server.stop()
            await asyncio.sleep(0.9)  # nearly all of the time for idle connections
            client = await server.passed()
            server.near.finish()
            await asyncio.sleep(0.3)
            assert await client.get("/echo") != ""
            await client.close()
            await server.running

    run(loop, main())


def test_a_supervisor_that_never_finishes_is_not_waited_for_beyond_the_deadline(loop: Loop) -> None:
    async def main() -> None:
        async with placed() as (server, _port):
            server.place.retire()
            server.stop(0.1)
            await server.running
            assert server.near.receive() == []
            assert server.near.ended  # it learns that nothing more is taken
            assert server.drain.cut == 0

    run(loop, main())


def test_the_paths_and_sockets_of_the_supervisor_stay(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "a.sock"
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(path))
            sock.listen()
            sock.setblocking(False)
            before = set(os.listdir("/dev/fd"))
            server = Placed(sock)
            server.place.accept()
            client = await Client.to(str(path))
            assert await client.get("/echo") != ""
            await client.close()
            server.near.finish()
            server.stop()
            await server.running
            server.near.close()
            assert path.exists()
            assert set(os.listdir("/dev/fd")) == before
            await (await Client.to(str(path))).close()

    run(None, main())


# Single requests ------------------------------------------------------------------------------------------------------


def test_a_connection_that_was_accepted_elsewhere_is_closed_after_one_request(loop: Loop) -> None:
    async def main() -> None:
        async with placed() as (server, _port):
            with socket.create_server(("127.0.0.1", 0)) as own:
                client = await Client.to(own.getsockname()[1])
                client.ask("/echo")
                sock, _ = own.accept()
                sock.setblocking(False)
                server.server.serve_once(sock)
                assert (await client.answer()).startswith("200 ")
                assert client.closed
                assert await client.ended()
                await client.close()

    run(loop, main())


def test_a_server_that_does_not_run_closes_what_it_should_serve() -> None:
    near, far = socket.socketpair()
    with near, far:
        HttpServer("test", Application(), [], BOUNDS, Drain()).serve_once(far)
        assert near.recv(1) == b""
