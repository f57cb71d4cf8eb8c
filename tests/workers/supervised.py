"""Workers without processes, as a supervisor sees them: what they are told is read by the test, what they say is said
by the test."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any, TypeVar

from pywatt_host.peers.connection import Dispatch
from pywatt_host.protocol.codec import line, read
from pywatt_host.protocol.messages import EXTENSIONS, Announce, Heartbeat, HeartbeatAck, Message, Shutdown
from pywatt_host.workers.worker_process import WorkerProcess
from tests.hosting import PATIENCE

FRAME = 64 * 1024
HEALTHY: dict[str, Any] = {"status": "healthy", "checks": {}, "requests": 0}

Heard = TypeVar("Heard")


class SpokenWorker:
    """A real WorkerProcess, and the end of its connection that the worker has. It answers pings while `answers` is
    true; every other message waits until the test hears it."""

    def __init__(self, place: int = 0, generation: int = 1, key: int | None = None) -> None:
        self.changes = 0
        self.answers = True
        self.report = dict(HEALTHY)
        self.process = WorkerProcess(
            key if key is not None else place + 1,
            place,
            place,
            generation,
            connections=lambda slot: 0,
            changed=self._changed,
        )
        self._heard: asyncio.Queue[Any] = asyncio.Queue()
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter
        self._listening: asyncio.Task[None] | None = None
        self._passing: socket.socket

    def _changed(self, worker: WorkerProcess) -> None:
        self.changes += 1

    @classmethod
    async def opened(
        cls, dispatch: Dispatch, place: int = 0, *, generation: int = 1, key: int | None = None
    ) -> SpokenWorker:
        """A worker that has its connection and has said nothing yet."""
        worker = cls(place, generation, key)
        await worker.open(dispatch)
        return worker

    async def open(self, dispatch: Dispatch) -> None:
        theirs, self._passing = await self.process.open(dispatch, FRAME)
        await self.take(theirs)

    async def take(self, theirs: socket.socket) -> None:
        """Read from and write to this end of a connection."""
        self._reader, self._writer = await asyncio.open_unix_connection(sock=theirs, limit=FRAME)
        self._listening = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        while data := await self._reader.readline():
            message = read(data)
            if isinstance(message, Heartbeat):
                if self.answers:
                    self.say(HeartbeatAck(self.report))
            else:
                self._heard.put_nowait(message)

    def say(self, message: Message) -> None:
        self._writer.write(line(message, EXTENSIONS))

    def write(self, data: bytes) -> None:
        self._writer.write(data)

    async def start(self) -> None:
        """Announce itself, and wait until the supervisor counts it as ready."""
        self.say(Announce("127.0.0.1:1", ()))
        async with asyncio.timeout(PATIENCE):
            await self.process.started

    async def hear(self, kind: type[Heard]) -> Heard:
        """The next message, which has to be of this kind."""
        async with asyncio.timeout(PATIENCE):
            message = await self._heard.get()
        assert isinstance(message, kind), message
        return message

    async def nothing_more(self) -> None:
        """Fail where the supervisor has sent anything that the test has not heard."""
        self.process.connection.send(Shutdown())
        await self.hear(Shutdown)

    def leave(self) -> None:
        """The other end of the connection is closed."""
        self._writer.close()

    async def end(self) -> None:
        """Close everything."""
        if self._listening is not None:
            self._listening.cancel()
            self._writer.close()
            self._passing.close()
        if not self.process.ended.done():
            self.process.has_ended(0)


async def until(condition: Callable[[], object]) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - what is waited for sets no event
            await asyncio.sleep(0.002)
