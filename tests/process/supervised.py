"""A host with workers under test: its application, its processes, clients that ask without a pause, and its reloads."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from pywatt_host.runtime.control_client import ask
from tests.processes import PATIENCE, Connection, Host, Project, any_certificate

T = TypeVar("T")

APP = """
    import asyncio
    import os
    import sys
    import time

    VERSION = "one"
    kept = []

    async def answer(send, body, status=200):
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            raise RuntimeError("declined")
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.send", "text": VERSION})
            while (await receive())["type"] == "websocket.receive":
                pass
            return
        path, _, argument = scope["path"].lstrip("/").partition("/")
        if path == "pid":
            await answer(send, b"%d" % os.getpid())
        elif path == "sleep":
            await asyncio.sleep(float(argument))
            await answer(send, VERSION.encode())
        elif path == "held":  # until the test has written a file of that name
            while not os.path.exists(os.path.join(os.path.dirname(__file__), argument)):
                await asyncio.sleep(0.01)
            await answer(send, VERSION.encode())
        elif path == "block":
            print("blocked", os.getpid(), file=sys.stderr, flush=True)
            time.sleep(float(argument))
            await answer(send, b"unblocked")
        elif path == "exit":
            os._exit(int(argument))
        elif path == "grow":
            kept.append(os.urandom(int(argument)))
            await answer(send, b"%d" % os.getpid())
        elif path == "env":
            await answer(send, os.environ.get(argument, "").encode())
        elif path == "events":
            kind = [(b"content-type", b"text/event-stream")]
            await send({"type": "http.response.start", "status": 200, "headers": kind})
            await send({"type": "http.response.body", "body": b"data: 1\\n\\n", "more_body": True})
            while (await receive())["type"] != "http.disconnect":
                pass
            await send({"type": "http.response.body", "body": b"data: over\\n\\n"})
        elif path == "health":
            await answer(send, b"", 404)
        else:
            await answer(send, VERSION.encode())
"""


def manifest(project: Project, server: dict[str, Any] | None = None, **keys: Any) -> None:
    """Two workers that log no requests."""
    keys = {"logging": {"access": False}, "metrics": True, **keys}
    project.manifest(server={"workers": 2, **(server or {})}, **keys)


def version(project: Project, name: str) -> None:
    """Give the application another version."""
    project.write("main.py", APP.replace('VERSION = "one"', f'VERSION = "{name}"'))


class Supervised:
    """A running host with workers: what its control socket says, and its processes."""

    def __init__(self, project: Project, *arguments: str, **environ: str) -> None:
        self.project = project
        self.host: Host = project.host(*arguments, env=environ)
        self.address = self.host.address

    @property
    def socket(self) -> Path:
        (path,) = (self.project.folder / "pywatt").glob(f"*-{self.host.child.pid}.sock")
        return path

    def status(self) -> dict[str, Any]:
        return ask(self.socket, "GET", "/status", timeout=PATIENCE)

    def workers(self, state: str = "accepting") -> dict[int, int]:
        """The process of each worker in a state, by place from 1 on."""
        return {each["worker"]: each["pid"] for each in self.status()["workers"] if each["state"] == state}

    def until_workers(self, count: int = 2, *, without: Collection[int] = ()) -> dict[int, int]:
        """Wait until so many workers accept, none of them among the processes `without`."""
        return until(
            lambda: found if len(found := self.workers()) == count and not {*found.values()} & {*without} else None
        )

    def until_only(self, count: int) -> None:
        """Wait until there are so many workers, and beside them only the process that has imported their code."""
        until(lambda: len(self.status()["workers"]) == count and len(self.processes()) == count + 1)

    def reload(self) -> dict[str, Any]:
        """Reload, and return the verdict."""
        return ask(self.socket, "POST", "/reload", {}, PATIENCE)

    def release(self, name: str) -> None:
        """Let the application answer what waits at `/held/NAME`."""
        self.project.write(name, "")

    def processes(self) -> set[int]:
        """The processes below the supervisor."""
        return descendants(self.host.child.pid)

    def zygote(self) -> int:
        """The process that has imported the code of the only generation."""
        (found,) = self.processes() - {*self.workers().values()}
        return found

    def health(self) -> dict[str, Any]:
        document: dict[str, Any] = self.host.get("/health", self.address).json()
        return document

    def metric(self, name: str, address: str = "", path: str = "/metrics") -> float:
        """The sum over all samples of a metric; `name` may go on with labels."""
        text = self.host.get(path, address or self.address).body.decode()
        samples = [line.rpartition(" ") for line in text.splitlines() if line.startswith(name)]
        return sum(float(value) for sample, _, value in samples if sample[len(name) : len(name) + 1] in ("", "{", ","))


def until(condition: Callable[[], T | None], patience: float = PATIENCE) -> T:
    """Wait until a function returns something."""
    deadline = time.monotonic() + patience
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, "the condition did not become true"
        time.sleep(0.02)


def until_refused(running: Supervised) -> None:
    """Wait until connections are refused: then each worker knows that the host stops."""
    host, _, port = running.address.removeprefix("http://").rpartition(":")
    deadline = time.monotonic() + PATIENCE
    with suppress(ConnectionRefusedError):
        while True:
            with suppress(TimeoutError):  # the last handshakes are being waited for
                socket.create_connection((host, int(port)), timeout=0.1).close()
            assert time.monotonic() < deadline, "connections are still accepted"
            time.sleep(0.02)


def descendants(pid: int) -> set[int]:
    """The processes below one."""
    children: dict[int, list[int]] = {}
    for line in subprocess.check_output(["ps", "-eo", "pid=,ppid=,stat="], text=True).splitlines():
        child, parent, state = line.split()
        if not state.startswith("Z"):
            children.setdefault(int(parent), []).append(int(child))
    found: set[int] = set()
    todo = [pid]
    while todo:
        below = children.get(todo.pop(), [])
        found.update(below)
        todo += below
    return found


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and is not waited for does not."""
    shown = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(shown.strip()) and not shown.startswith("Z")


@asynccontextmanager
async def _closing(writer: asyncio.StreamWriter) -> AsyncIterator[None]:
    """Close a connection. That of TLS has been closed when the server has closed its side."""
    secure = writer.get_extra_info("sslcontext") is not None
    try:
        yield
    finally:
        writer.close()
        if secure:
            with suppress(OSError):
                await writer.wait_closed()


class Load:
    """Clients that ask for `/pid` without a pause, some on connections that they keep and some on a new one each time.

    `faults` has what went wrong, with the process that had answered last on the same connection (0: none had).
    """

    def __init__(self, address: str, kept: int = 6, fresh: int = 2) -> None:
        self.faults: list[tuple[int, str]] = []
        self.answers: Counter[int] = Counter()  # by process
        self.slowest = 0.0  # seconds for an answer
        self._address = address
        self._over = False
        self._count = kept, fresh
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self) -> Load:
        self._thread.start()
        self.more(20)
        return self

    def stop(self) -> None:
        """Ask no more; do not wait for what is asked."""
        self._over = True

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._thread.join(PATIENCE)

    def more(self, count: int = 50) -> None:
        """Wait until so many more requests were answered."""
        wanted = self.answers.total() + count
        until(lambda: self.answers.total() >= wanted)

    async def _run(self) -> None:
        kept, fresh = self._count
        await asyncio.gather(*(self._ask(keeps=number < kept) for number in range(kept + fresh)))

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._address.startswith("unix:"):
            return await asyncio.open_unix_connection(self._address.removeprefix("unix:"))
        host, _, port = self._address.removeprefix("http://").removeprefix("https://").rpartition(":")
        context = any_certificate() if self._address.startswith("https://") else None
        return await asyncio.open_connection(host, int(port), ssl=context)

    async def _ask(self, *, keeps: bool) -> None:
        while not self._over:
            last, began = 0, time.monotonic()
            try:
                async with asyncio.timeout(PATIENCE):
                    reader, writer = await self._open()
                open_ = True
                async with _closing(writer):
                    while open_ and not self._over:
                        began = time.monotonic()
                        async with asyncio.timeout(PATIENCE):
                            last, open_ = await self._request(reader, writer)
                        self.slowest = max(self.slowest, time.monotonic() - began)
                        self.answers[last] += 1
                        open_ = open_ and keeps
                        await asyncio.sleep(0.004)
            except (OSError, EOFError, ValueError) as error:
                self.faults.append((last, f"{error!r} after {time.monotonic() - began:.3f}s"))
                await asyncio.sleep(0.05)

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[int, bool]:
        """The process that answers, and whether the connection stays open."""
        writer.write(b"GET /pid HTTP/1.1\r\nHost: x\r\n\r\n")
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        body = await reader.readexactly(int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0]))
        if b" 200 " not in head[:13]:
            raise ValueError(f"{head[:40]!r}")
        return int(body), b"connection: close" not in head


def connections_to_each(running: Supervised, stack: ExitStack) -> dict[int, Connection]:
    """A kept connection to each worker, by process."""
    found: dict[int, Connection] = {}
    while found.keys() != {*running.workers().values()}:
        connection = stack.enter_context(Connection(running.address))
        found[int(connection.request("GET", "/pid").body)] = connection
    return found


def block(running: Supervised, connections: dict[int, Connection]) -> None:
    """Block the event loops of these workers."""
    for pid, connection in connections.items():
        connection.head("GET", "/block/60")
        running.host.wait_for(f"blocked {pid}")


def only_of(load: Load, victims: set[int], fresh: int = 2) -> None:
    """Only requests of these processes were lost: at most one of each client that opens new connections, which knows no
    process before the first answer."""
    others = [fault for fault in load.faults if fault[0] not in victims]
    assert len([fault for fault in others if fault[0] == 0]) <= fresh, load.faults
    assert all(fault[0] == 0 for fault in others), load.faults
