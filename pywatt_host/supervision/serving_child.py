"""The process that serves under `dev`, as its parent sees it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from asyncio import StreamReader, StreamWriter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from pywatt_host.supervision.child import Child
from pywatt_host.supervision.launch import path_options
from pywatt_host.supervision.process import StopPolicy, describe_exit

PROGRAM = "pywatt_host.cli.served"
SHUTDOWN_TIMEOUT = 2.0  # seconds that running requests have; the child cuts those that still run
_STOP = StopPolicy(signal.SIGTERM, SHUTDOWN_TIMEOUT + 1.5)
_MAX_EVENT_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class ChildReady:
    """The child serves requests. `caches_templates`: its framework keeps templates in memory."""

    caches_templates: bool = False


@dataclass(frozen=True, slots=True)
class ChildFailed:
    """The child could not start, or it ended by itself. `printed`: it has printed `detail` itself."""

    detail: str
    exit_code: int
    printed: bool = True


@dataclass(frozen=True, slots=True)
class ChildStopped:
    """The child stopped because its control socket was asked to."""


ChildEvent = ChildReady | ChildFailed | ChildStopped


class ServingChild:
    """A running process of PROGRAM and the socket on which it reports its events. The child stops by itself when its
    parent ends, since its end of the socket is closed then."""

    def __init__(self, child: Child, reader: StreamReader, writer: StreamWriter) -> None:
        self._child = child
        self._reader = reader
        self._writer = writer
        self._failure: ChildFailed | None = None

    @classmethod
    async def start(
        cls,
        arguments: Sequence[str],
        descriptors: Mapping[str, Sequence[int]],
        *,
        announce: bool = True,
        environ: Mapping[str, str] = MappingProxyType({}),
    ) -> ServingChild:
        """Start PROGRAM with the arguments of `run`. The child inherits standard input, output and error, and the
        `descriptors` of listening sockets by manifest key. With `announce` it prints the ready line. `environ` is added
        to the environment that the child inherits."""
        ours, theirs = socket.socketpair()
        with theirs:
            setup = {"parent": theirs.fileno(), "announces": announce, "listening": descriptors}
            child = await Child.start(
                [sys.executable, *path_options(), "-m", PROGRAM, json.dumps(setup), *arguments],
                pass_fds=(theirs.fileno(), *(fd for each in descriptors.values() for fd in each)),
                env={**os.environ, **environ},
            )
        reader, writer = await asyncio.open_connection(sock=ours, limit=_MAX_EVENT_BYTES)
        return cls(child, reader, writer)

    async def next_event(self) -> ChildEvent:
        """Wait for the next event of the child; ChildFailed once the child has ended."""
        while True:
            try:
                line = await self._reader.readline()
            except (ConnectionError, ValueError):
                line = b""
            if not line:
                code = await self._child.wait()
                return self._failure or ChildFailed(f"the process ended: {describe_exit(code)}", code, printed=False)
            event = json.loads(line)
            if event["event"] == "ready":
                return ChildReady(bool(event["templates"]))
            if event["event"] == "stopped":
                return ChildStopped()
            self._failure = ChildFailed(str(event["detail"]), int(event["code"]))

    def kill(self) -> None:
        """Kill the child and its group at once."""
        self._child.kill()

    async def stop(self) -> bool:
        """Stop the child, and kill it if it takes too long. Returns whether it had to be killed."""
        killed = await self._child.stop(_STOP)
        self._writer.close()
        return killed
