"""A zygote, as the supervisor sees it: it is started, imports the code, and starts workers."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from pywatt_host.exceptions import HostError
from pywatt_host.supervision.child import Child
from pywatt_host.supervision.launch import path_options
from pywatt_host.supervision.process import describe_exit
from pywatt_host.workers.link import (
    CodeLoaded,
    Forked,
    Load,
    LoadFailed,
    Receiver,
    Start,
    WorkerEnded,
    WorkerSetup,
    send,
)

logger = logging.getLogger("pywatt.workers")

PROGRAM = "pywatt_host.workers.zygote"
_FORK_LIMIT = 5.0  # seconds; a fork takes milliseconds


class WorkerStartError(HostError):
    """A worker, or the code of all workers, could not start. `exit_code` is that of the host. `trace` is the
    application's own traceback. `reported`: the failing process has logged it already."""

    def __init__(self, message: str, exit_code: int, trace: str = "", *, reported: bool = False) -> None:
        self.message = message
        self.exit_code = exit_code
        self.trace = trace
        self.reported = reported
        super().__init__(message)


class CodeImportError(WorkerStartError):
    """The code of all workers could not be imported."""


class ZygoteProcess:
    """A process of PROGRAM. `worker_ended` is called with the key and the exit code of each of its workers that ends.

    Where the zygote itself ends unexpectedly (`lost`), its workers serve on; the end of their connections tells then
    that they have ended."""

    def __init__(self, child: Child, sock: socket.socket, worker_ended: Callable[[int, int], None]) -> None:
        self.lost = False  # it has ended, though nobody asked for that
        self.threads = 0  # that run in it beside the main one
        self._child = child
        self._sock = sock
        self._receiver = Receiver(sock, of_zygote=True)
        self._worker_ended = worker_ended
        self._loaded: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._forked: dict[int, asyncio.Future[int]] = {}
        self._became: int | None = None  # the key of the worker that the process has become
        self._closed = False
        self._watching = asyncio.get_running_loop().create_task(self._watch())
        asyncio.get_running_loop().add_reader(sock.fileno(), self._read)

    @classmethod
    async def start(cls, load: Load, worker_ended: Callable[[int, int], None]) -> ZygoteProcess:
        """Start the process and return once it has imported the code. Raises WorkerStartError, CodeImportError
        where it is the code that fails."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                child = await Child.start(
                    [sys.executable, *path_options(), "-m", PROGRAM, str(theirs.fileno())],
                    pass_fds=(theirs.fileno(),),
                    env=environment_of_workers(dict(os.environ)),
                    stdin=asyncio.subprocess.DEVNULL,
                )
            except OSError as error:
                ours.close()
                raise WorkerStartError(f"no process can be started: {error.strerror or error}", 3) from error
        ours.setblocking(False)
        zygote = cls(child, ours, worker_ended)
        try:
            await asyncio.to_thread(send, ours, load)
            await zygote._loaded
        except BaseException as error:
            zygote.close()
            zygote.kill()  # an import that hangs would go on
            if not isinstance(error, OSError):
                raise
            raise CodeImportError(f"the process that imports the code ended: {error.strerror or error}", 3) from error
        return zygote

    async def start_worker(self, key: int, setup: WorkerSetup, descriptors: Sequence[int], *, fork: bool) -> int:
        """Start a worker and return its process id. Raises WorkerStartError."""
        forked: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._forked[key] = forked
        try:
            send(self._sock, Start(key, setup, fork), descriptors)
        except OSError as error:
            self._forked.pop(key, None)
            raise WorkerStartError("the process that has imported the code has ended", 3) from error
        if not fork:
            self._became = key
            del self._forked[key]
            return self._child.pid
        try:
            async with asyncio.timeout(_FORK_LIMIT):
                return await forked
        except TimeoutError:
            text = f"the process that has imported the code did not answer for {_FORK_LIMIT:g}s"
            raise WorkerStartError(text, 3) from None
        finally:
            if not forked.done() or forked.cancelled():
                self.kill()  # it stands still, perhaps; the next attempt imports the code anew

    def _read(self) -> None:
        if self._sock.fileno() < 0:
            return
        for message, _ in self._receiver.receive():
            match message:
                case CodeLoaded(threads):
                    self.threads = threads
                    if not self._loaded.done():
                        self._loaded.set_result(None)
                case LoadFailed(code, text, trace):
                    if not self._loaded.done():
                        self._loaded.set_exception(CodeImportError(text, code, trace, reported=True))
                case Forked(key, pid):
                    forked = self._forked.pop(key, None)
                    if forked is not None and not forked.done():
                        forked.set_result(pid)
                case WorkerEnded(key, code):
                    self._worker_ended(key, code)
        if self._receiver.ended:
            asyncio.get_running_loop().remove_reader(self._sock.fileno())
            if self._became is None:
                self._child.kill()  # it has ended, or what it says cannot be read

    async def _watch(self) -> None:
        code = await self._child.wait()
        if not self._receiver.ended:
            self._read()
        if self._became is not None:
            self._worker_ended(self._became, code)
            self._release()
            return
        error = CodeImportError(f"the process that imports the code ended: {describe_exit(code)}", 3)
        waiting: list[asyncio.Future[Any]] = [self._loaded, *self._forked.values()]
        for each in waiting:
            if not each.done():
                each.set_exception(error)
                each.exception()  # retrieved, where nobody waits any more
        self._forked.clear()
        if not self._closed:
            self.lost = True
            logger.error("the process that has imported the code ended: %s", describe_exit(code))
        self._release()

    def close(self) -> None:
        """End the process. Its workers have ended."""
        self._closed = True
        if self._became is None:
            self._release()
            self.kill()  # it may stand still, and would not notice that the supervisor has gone

    def _release(self) -> None:
        if self._sock.fileno() >= 0:
            with suppress(OSError, ValueError):
                asyncio.get_running_loop().remove_reader(self._sock.fileno())
            self._sock.close()

    async def wait(self) -> None:
        """Return once the process has ended."""
        await asyncio.wait((self._watching,))

    def kill(self) -> None:
        """Kill the process at once. The workers that it has forked are not killed with it."""
        if not self._watching.done():
            self._child.kill()


def environment_of_workers(environ: dict[str, str]) -> dict[str, str]:
    """The environment without what belongs to the supervisor alone: the sockets and notifications of systemd."""
    own = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")
    return {name: value for name, value in environ.items() if name not in own}
