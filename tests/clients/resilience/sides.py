"""What the tests of resilience share: a clock that stands still, manifests, servers that answer as they are told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import httpx
import yaml

from pywatt_host.clients.resilience.targets import Resilience
from pywatt_host.manifest import Source, load
from pywatt_host.manifest.model import Manifest
from pywatt_host.manifest.model.base import Section, complete

S = TypeVar("S", bound=Section)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def options(kind: type[S], **given: Any) -> S:
    complete(kind)
    return kind.model_validate(given)


def manifest(target: dict[str, Any] | None = None, clients: dict[str, Any] | None = None, **policies: Any) -> Manifest:
    """One whose module `users` is a target with the policies `p`."""
    document: dict[str, Any] = {"app": "main:app", "resiliency": {"policies": policies, "targets": {}}}
    if target is not None:
        document["resiliency"]["targets"]["modules"] = {"users": target}
    if clients is not None:
        document |= {"clients": clients}
        document["resiliency"]["targets"]["clients"] = {name: {"retry": "p"} for name in clients}
    return load(Source.of_text(yaml.safe_dump(document)), environ={}).manifest


def resilience(
    *,
    timeout: str | None = None,
    retry: dict[str, Any] | None = None,
    breaker: dict[str, Any] | None = None,
    clock: Callable[[], float] | None = None,
) -> Resilience:
    """For the module `users`. Waits are drawn as nothing."""
    policies: dict[str, Any] = {}
    for kind, given in (("timeouts", timeout), ("retries", retry), ("circuit_breakers", breaker)):
        if given is not None:
            policies[kind] = {"p": given}
    names = {"timeout": timeout, "retry": retry, "circuit_breaker": breaker}
    made = manifest({key: "p" for key, given in names.items() if given is not None}, **policies)
    return Resilience(made, draw=lambda: 0.0, **({"clock": clock} if clock is not None else {}))


class Side:
    """A server that answers with the statuses it is given, then 200, and keeps what it was asked. Status 0 closes the
    connection without an answer; -1 never answers."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.statuses: list[int] = []
        self.heads: list[httpx.Headers] = []
        self.lines: list[str] = []
        self.bodies: list[bytes] = []
        self.extra = ""  # further header lines
        self.asked = asyncio.Event()
        self.address = ""
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[Any] | None] = set()

    async def start(self, socket: Path | None = None) -> None:
        if socket is not None:
            self._server = await asyncio.start_unix_server(self._serve, socket)
            self.address = f"http+unix:{socket}"
        else:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
            self.address = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def kill(self) -> None:
        """No new connections, and none of those that there are."""
        if self._server is not None:
            self._server.close()
            for _ in range(10):  # turns of the event loop, until a connection that was just accepted is served
                await asyncio.sleep(0)
            for writer in self._writers:
                writer.close()
            await asyncio.gather(*filter(None, self._tasks), return_exceptions=True)
            await self._server.wait_closed()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.add(asyncio.current_task())
        self._writers.add(writer)
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while await self._answer(reader, writer):
                pass
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        self._writers.discard(writer)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        line, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        head = httpx.Headers([(each.split(": ")[0], each.split(": ")[1]) for each in lines if each])
        body = await reader.readexactly(int(head.get("content-length", 0)))
        while "chunked" in head.get("transfer-encoding", ""):
            size = int(await reader.readuntil(b"\r\n"), 16)
            body += (await reader.readexactly(size + 2))[:-2]
            if size == 0:
                break
        self.lines.append(line)
        self.heads.append(head)
        self.bodies.append(body)
        self.asked.set()
        status = self.statuses.pop(0) if self.statuses else 200
        if status == -1:
            await reader.read()
        if status <= 0:
            return False
        said = self.name.encode()
        writer.write(f"HTTP/1.1 {status} X\r\n{self.extra}Content-Length: {len(said)}\r\n\r\n".encode() + said)
        await writer.drain()
        return True


@asynccontextmanager
async def side(name: str = "one", socket: Path | None = None) -> AsyncIterator[Side]:
    made = Side(name)
    await made.start(socket)
    try:
        yield made
    finally:
        await made.kill()
