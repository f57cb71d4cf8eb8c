"""The number of connections: who has to go when there are too many, and how long others wait."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace

import pytest

from pywatt_host.runtime.event_loop import loop_factory
from tests.hosting import PATIENCE
from tests.http.server.answers import Client
from tests.http.server.application import WHOLE
from tests.http.server.connections.case import get
from tests.http.server.serving import BOUNDS, Served

LOOPS: list[Callable[[], asyncio.AbstractEventLoop] | None] = [asyncio.new_event_loop, loop_factory()]


class Warnings(logging.Handler):
    """The warnings of the server, and a way to wait for one."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []
        self._more = threading.Condition()

    def emit(self, record: logging.LogRecord) -> None:
        with self._more:
            self.texts.append(record.getMessage())
            self._more.notify_all()

    def wait(self, text: str) -> None:
        with self._more:
            assert self._more.wait_for(lambda: any(text in line for line in self.texts), PATIENCE), self.texts


@pytest.fixture
def warnings() -> Iterator[Warnings]:
    handler, logger = Warnings(), logging.getLogger("pywatt.server")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


@pytest.fixture(params=LOOPS, ids=["asyncio", "default"])
def limited(request: pytest.FixtureRequest) -> Iterator[Served]:
    """A server that takes four connections."""
    with Served("direct", request.param, replace(BOUNDS, connections=4)) as served:
        yield served


def busy(served: Served, stack: ExitStack, count: int) -> list[Client]:
    """Connections with a request that runs."""
    clients = [stack.enter_context(Client(served.address)) for _ in range(count)]
    seen = threading.Semaphore(0)
    served.app.on_seen = seen.release
    for client in clients:
        client.send(get("/held"))
    for _ in clients:
        assert seen.acquire(timeout=PATIENCE)
    return clients


def closed(client: Client) -> bool:
    """Whether the server has ended the connection."""
    client.sock.settimeout(0.05)
    try:
        return client.sock.recv(1) == b""
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False
    finally:
        client.sock.settimeout(PATIENCE)


def test_idle_connections_of_the_client_that_holds_most_make_room(limited: Served) -> None:
    with ExitStack() as stack:
        greedy = [stack.enter_context(Client(limited.address, source="127.0.0.2")) for _ in range(3)]
        modest = stack.enter_context(Client(limited.address, source="127.0.0.3"))
        for client in (*greedy, modest):
            assert client.exchange(get("/echo")).status == 200
        another = stack.enter_context(Client(limited.address, source="127.0.0.4"))
        assert another.exchange(get("/echo")).status == 200
        assert any(closed(client) for client in greedy)
        assert modest.exchange(get("/echo")).status == 200


def test_as_many_connections_as_are_allowed_are_all_kept(limited: Served, warnings: Warnings) -> None:
    with ExitStack() as stack:
        clients: list[Client] = []
        for _ in range(4):
            clients.append(stack.enter_context(Client(limited.address)))
            for client in clients:
                assert client.exchange(get("/echo")).status == 200
    assert warnings.texts == []


def test_a_busy_connection_is_never_closed_and_the_next_one_waits(limited: Served, warnings: Warnings) -> None:
    with ExitStack() as stack:
        clients = busy(limited, stack, 4)
        another = stack.enter_context(Client(limited.address))
        another.send(get("/early"))
        warnings.wait("accepting is paused at 4 connections: over server.limits.connections")
        limited.call(limited.app.released.set)
        for client in clients:
            client.until(b"held")
        another.until(b"early")  # those before it are idle now


def test_a_connection_that_ends_lets_the_next_one_in(limited: Served, warnings: Warnings) -> None:
    with ExitStack() as stack:
        clients = busy(limited, stack, 4)
        another = stack.enter_context(Client(limited.address))
        another.send(get("/early"))
        warnings.wait("accepting is paused")
        clients[0].sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        clients[0].sock.close()
        another.until(b"early")


def test_an_answer_that_its_client_has_not_read_yet_is_not_cut_to_make_room(limited: Served) -> None:
    with ExitStack() as stack:
        slow = stack.enter_context(Client(limited.address, receive_buffer=4096))
        slow.send(get("/whole"))
        slow.until(b"\r\n\r\n")
        limited.lines.wait(1)  # the connection is idle, as far as requests go
        others = [stack.enter_context(Client(limited.address)) for _ in range(3)]
        for client in others:
            assert client.exchange(get("/echo")).status == 200
        another = stack.enter_context(Client(limited.address))
        assert another.exchange(get("/echo")).status == 200
        left = WHOLE - len(slow.received.partition(b"\r\n\r\n")[2])
        while left:
            slow.received = b""
            assert slow.read(), "cut"
            left -= len(slow.received)


def test_a_client_has_as_many_connections_as_it_may(warnings: Warnings) -> None:
    with (
        Served("direct", loop_factory(), replace(BOUNDS, connections_per_client=2)) as served,
        ExitStack() as stack,
    ):
        first, second = (stack.enter_context(Client(served.address, source="127.0.0.2")) for _ in range(2))
        for client in (first, second):
            assert client.exchange(get("/echo")).status == 200
        third = stack.enter_context(Client(served.address, source="127.0.0.2"))
        assert closed(third)
        warnings.wait("a connection of 127.0.0.2 is closed: over server.limits.connections_per_client")
        other = stack.enter_context(Client(served.address, source="127.0.0.3"))
        assert other.exchange(get("/echo")).status == 200
        first.send(get("/close"))
        first.rest()
        again = stack.enter_context(Client(served.address, source="127.0.0.2"))
        assert again.exchange(get("/echo")).status == 200
