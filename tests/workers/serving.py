"""Servers in one event loop as the workers of a host, the supervisor's side of their sockets, and clients."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from asyncio import TaskGroup
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pywatt_host.http.server.place import Place
from pywatt_host.http.server.server import Drain, HttpServer
from pywatt_host.http.server.serving import Bounds
from pywatt_host.manifest.values import Address, TcpAddress
from pywatt_host.net.listeners import Listener
from pywatt_host.net.passing import PassingChannel
from pywatt_host.net.tls_material import ListenerTls
from pywatt_host.runtime.event_loop import loop_factory
from pywatt_host.types import Receive, Scope, Send
from pywatt_host.workers.distributor import Distributor
from pywatt_host.workers.places import Change, ListeningSockets
from tests.hosting import PATIENCE

LOOPS: list[Callable[[], asyncio.AbstractEventLoop] | None] = [asyncio.new_event_loop, loop_factory()]
LOOP_NAMES = ["asyncio", "default"]
BOUNDS = Bounds(keep_alive=60.0, backlog=512)
FREE = TcpAddress("127.0.0.1", 0)
PROBES = ("/livez", "/metrics")


def run(loop: Callable[[], asyncio.AbstractEventLoop] | None, main: Coroutine[Any, Any, None]) -> None:
    """Run a test on an event loop, bounded in time."""

    async def bounded() -> None:
        async with asyncio.timeout(4 * PATIENCE):
            await main

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(bounded())


async def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - what is waited for sets no event
            await asyncio.sleep(0.002)


@dataclass(eq=False)
class Worker:
    """A server with a place. It is the target of a distributor as well."""

    name: str
    place: int
    fleet: Fleet
    listeners: list[tuple[int, socket.socket]] = field(default_factory=list)
    bounds: Bounds = BOUNDS
    responsive: bool = True
    connections: int = 0
    accepting: bool = False

    def __post_init__(self) -> None:
        near, far = socket.socketpair()
        self.channel, self.far = PassingChannel(near, far.dup()), PassingChannel(far)
        self.drain = Drain()
        tls = {number: self.fleet.tls[section] for number, section in self.fleet.sockets.tls.items()}
        self.at_place = Place(self.far, self, lambda: self.fleet.least(self), tls=tls)
        duplicates = [Listener(sock.dup(), owned=False, number=number) for number, sock in self.listeners]
        for listener in duplicates:
            listener.secure(tls.get(listener.number))
        self.server = HttpServer(self.name, self._app, duplicates, self.bounds, self.drain, self.at_place)
        self.served = 0
        self.released = asyncio.Event()  # lets requests to /held go on
        self._stop = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    def set(self, value: int) -> None:
        """The cell with the number of connections."""
        self.connections = value

    def take_back(self) -> int:
        return self.channel.take_back()

    def accept(self) -> None:
        self.accepting = True
        self.at_place.accept()

    async def stop(self, seconds: float = PATIENCE) -> None:
        """Drain, and wait for the end."""
        self.drain.deadline = time.monotonic() + seconds
        self._stop.set()
        await self._task

    def die(self) -> None:
        """End as a killed process does: what it has is closed, and the supervisor is told."""
        self.far.close()
        self.fleet.distributor.lost(self)

    async def _run(self) -> None:
        async with TaskGroup() as tasks, self.server.running(tasks):
            await self._stop.wait()
        self.accepting = False

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.served += 1
        if scope["path"] == "/held":
            await self.released.wait()
        body = self.name.encode()
        length = (b"content-length", str(len(body)).encode())
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        await send({"type": "http.response.body", "body": body})


class Fleet:
    """Sockets, a distributor, a server of the supervisor's own, and the workers."""

    def __init__(self, folder: Path = Path()) -> None:
        self.folder = folder
        self.sockets = ListeningSockets()
        self.workers: list[Worker] = []
        self.tls: dict[str, ListenerTls] = {}  # by TLS section
        self.own = HttpServer("supervisor", self._probe, [], BOUNDS, Drain())
        self.probes = 0

    @classmethod
    @asynccontextmanager
    async def of(cls, folder: Path = Path()) -> AsyncIterator[Fleet]:
        fleet = cls(folder)
        async with AsyncExitStack() as stack:
            tasks = await stack.enter_async_context(TaskGroup())
            await stack.enter_async_context(fleet.own.running(tasks))
            stack.callback(fleet.sockets.close)
            fleet.distributor = Distributor(fleet.sockets, host_paths=lambda: PROBES, serve=fleet.own.serve_once)
            stack.callback(fleet.distributor.close)
            yield fleet
            for worker in fleet.workers:
                fleet.distributor.leave(worker)
                await worker.stop(0.2)

    distributor: Distributor

    def prepare(self, *addresses: Address, places: int, tls: ListenerTls | None = None) -> Change:
        if tls is not None:
            self.tls[tls.key] = tls
        return self.sockets.prepare(
            addresses, key="server.listen", places=places, directory=self.folder, backlog=512, environ={},
            tls=[tls.key if tls is not None else None] * len(addresses),
        )  # fmt: skip

    def listen(self, *addresses: Address, places: int, tls: ListenerTls | None = None) -> None:
        self.prepare(*addresses, places=places, tls=tls).commit()

    def worker(self, name: str, place: int, bounds: Bounds = BOUNDS, change: Change | None = None) -> Worker:
        """A worker that does not accept yet."""
        worker = Worker(name, place, self, (change or self.sockets).of_place(place), bounds)
        self.workers.append(worker)
        return worker

    def start(self, name: str, place: int, **bounds: Any) -> Worker:
        """A worker that takes connections."""
        worker = self.worker(name, place, replace(BOUNDS, **bounds))
        self.join(worker)
        return worker

    def join(self, worker: Worker) -> None:
        worker.accept()
        self.distributor.join(worker)

    async def retire(self, worker: Worker) -> None:
        """Drain a worker whose successor accepts."""
        self.workers.remove(worker)
        worker.at_place.retire()
        self.distributor.leave(worker)
        await worker.stop()

    def least(self, worker: Worker) -> int | None:
        return min((each.connections for each in self.workers if each is not worker and each.accepting), default=None)

    @property
    def port(self) -> int:
        return int(self.sockets.addresses[0].rpartition(":")[2])

    async def _probe(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.probes += 1
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"up"})


class Client:
    """A connection that stays open."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.closed = False  # the last answer said so

    @classmethod
    async def to(cls, target: int | str, source: str | None = None, tls: ssl.SSLContext | None = None) -> Client:
        """Connect to a port of this machine, or to a Unix socket. With `tls`, this waits for the handshake."""
        if isinstance(target, str):
            return cls(*await asyncio.open_unix_connection(target))
        local = (source, 0) if source is not None else None
        return cls(*await asyncio.open_connection("127.0.0.1", target, local_addr=local, ssl=tls))

    def ask(self, path: str = "/") -> None:
        self._writer.write(b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % path.encode())

    async def answer(self) -> str:
        """The status and the body of the next answer."""
        async with asyncio.timeout(PATIENCE):
            head = await self._reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            body = await self._reader.readexactly(length)
        self.closed = b"connection: close" in head.lower()
        return f"{head.split()[1].decode()} {body.decode()}"

    async def get(self, path: str = "/") -> str:
        self.ask(path)
        return await self.answer()

    async def ended(self) -> bool:
        """Wait until the server has closed the connection; False where it sends more."""
        async with asyncio.timeout(PATIENCE):
            return await self._reader.read(1) == b""

    async def close(self) -> None:
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except OSError:
            pass  # it was reset


class Load:
    """Clients that connect again and again, and clients that keep their connections; every fault is kept."""

    def __init__(self, target: int | str) -> None:
        self.target = target
        self.faults: list[str] = []
        self.answers: Counter[str] = Counter()
        self._stop = False
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Load:
        self._tasks = [asyncio.create_task(self._run(kept)) for kept in (False, False, True, True)]
        await self.more(20)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop = True
        await asyncio.gather(*self._tasks)
        assert self.faults == []

    async def more(self, count: int = 50) -> None:
        """Wait until so many more requests were answered."""
        wanted = self.answers.total() + count
        await until(lambda: self.answers.total() >= wanted or bool(self.faults))

    async def _run(self, kept: bool) -> None:
        client: Client | None = None
        while not self._stop and not self.faults:
            try:
                if client is None:
                    client = await Client.to(self.target)
                self.answers[await client.get()] += 1
                if not kept or client.closed:
                    await client.close()
                    client = None
            except (OSError, EOFError, TimeoutError) as error:
                self.faults.append(repr(error))
        if client is not None:
            await client.close()


async def connect_many(target: int | str, count: int) -> tuple[list[Client], Counter[str]]:
    """Kept connections, one after the other, and how many each worker has."""
    clients: list[Client] = []
    found: Counter[str] = Counter()
    for _ in range(count):
        client = await Client.to(target)
        clients.append(client)
        found[await client.get()] += 1
    return clients, found


async def close(clients: Iterable[Client]) -> None:
    for client in clients:
        await client.close()
