"""A client that counts what a reload costs: kept connections and new ones, each failed request with its kind.

A kept connection whose end the client has seen is opened again without a failure, as careful clients do. Every other
request that gets no whole 200 is a failure; none is sent again.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field

ANSWER_TIMEOUT = 5.0  # seconds for a connection, and for a whole answer
_PAUSE_AFTER_FAILURE = 0.02  # seconds, so that a server that is gone is not asked thousands of times
_PAUSE_BETWEEN_NEW = 0.002  # seconds: each closed connection keeps a port for a minute
_LONGEST_HEAD = 65536  # bytes


@dataclass(slots=True)
class Tally:
    """What came of the requests. `versions` are the bodies of successes, `failures` counts by kind."""

    made: int = 0
    versions: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)

    @property
    def failed(self) -> int:
        return self.failures.total()


class FailedError(Exception):
    """A request got no whole 200; the text is the kind of failure."""


class ReloadClient:
    """Asks `/` on `kept` connections with one request in flight each, and on new connections one after the other from
    `new` tasks, until `stop`."""

    def __init__(self, port: int, *, kept: int, new: int) -> None:
        self.tally = Tally()
        self._port = port
        self._stopping = False
        loads = [self._ask_kept] * kept + [self._ask_new] * new
        self._tasks = [asyncio.create_task(load()) for load in loads]

    def turn(self) -> Tally:
        """What was counted since the last turn."""
        done, self.tally = self.tally, Tally()
        return done

    async def stop(self) -> Tally:
        """Let every request end, then give what was counted since the last turn."""
        self._stopping = True
        await asyncio.gather(*self._tasks)
        return self.turn()

    async def wait_for(self, version: str, seconds: float) -> bool:
        """Whether this version answers within so many seconds."""
        limit = asyncio.get_running_loop().time() + seconds
        while version not in self.tally.versions:
            if asyncio.get_running_loop().time() > limit:
                return False
            await asyncio.sleep(0.01)
        return True

    async def _ask_kept(self) -> None:
        connection: Connection | None = None
        while not self._stopping:
            if connection is not None and connection.ended:
                connection.close()
                connection = None
            connection = await self._ask(connection)
        if connection is not None:
            connection.close()

    async def _ask_new(self) -> None:
        while not self._stopping:
            connection = await self._ask(None)
            if connection is not None:
                connection.close()
            await asyncio.sleep(_PAUSE_BETWEEN_NEW)

    async def _ask(self, connection: Connection | None) -> Connection | None:
        """Make one request; the connection, where it can be used again."""
        self.tally.made += 1
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                if connection is None:
                    connection = await Connection.open(self._port)
                self.tally.versions[await connection.ask()] += 1
        except (FailedError, TimeoutError) as error:
            self.tally.failures[str(error) or "no answer"] += 1
            if connection is not None:
                connection.close()
            await asyncio.sleep(_PAUSE_AFTER_FAILURE)
            return None
        return connection


class Connection:
    """One connection to the server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._closing = False

    @classmethod
    async def open(cls, port: int) -> Connection:
        try:
            return cls(*await asyncio.open_connection("127.0.0.1", port, limit=_LONGEST_HEAD))
        except OSError as error:
            raise FailedError("refused") from error

    @property
    def ended(self) -> bool:
        """Whether the server has said or shown that it takes no further request here."""
        return self._closing or self._reader.at_eof() or self._writer.transport.is_closing()

    async def ask(self) -> str:
        """The body of the answer. Raises FailedError."""
        try:
            self._writer.write(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            length = next((line[15:] for line in head.split("\r\n") if line.startswith("content-length:")), None)
            if length is None:
                raise FailedError("wrong answer")
            body = await self._reader.readexactly(int(length))
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError) as error:
            raise FailedError("cut") from error
        if not head.startswith("http/1.1 200"):
            raise FailedError(f"status {head[9:12]}")
        self._closing = "\r\nconnection: close" in head
        return body.decode("latin-1")

    def close(self) -> None:
        with suppress(OSError):
            self._writer.close()
