"""A host started in this process, and a client for its ASGI application that can hold back its messages."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from pywatt_host.build.host import build
from pywatt_host.http.host_answers import HostAnswers
from pywatt_host.http.problem import send_problem
from pywatt_host.manifest import Source, load
from pywatt_host.net.limits import Limits
from pywatt_host.observability.log_stream import LogStream
from pywatt_host.observability.logs import configured
from pywatt_host.runtime.host import Host
from pywatt_host.types import ASGIApp, Message, Receive, Scope, Send

PATIENCE = 20.0  # seconds until something that never happens fails its test; no test waits that long when all is well


def run(main: Callable[[], Awaitable[None]]) -> None:
    """Run a test's coroutine to its end, which has to come."""

    async def bounded() -> None:
        async with asyncio.timeout(2 * PATIENCE):
            await main()

    asyncio.run(bounded())


@dataclass(frozen=True, slots=True)
class Answer:
    """A response as a client sees it. `whole`: its end has arrived."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    whole: bool

    def header(self, name: str) -> str:
        """All values of a header, joined by commas; empty where there is none."""
        return ", ".join(value for key, value in self.headers if key == name.lower())

    def json(self) -> Any:
        return json.loads(self.body)


async def _called(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    await app(scope, receive, send)


class Call:
    """One request that goes on by itself. Without `more`, its body is complete."""

    def __init__(self, app: ASGIApp, scope: Scope, pieces: Sequence[bytes] = (), *, more: bool = False) -> None:
        self.scope = scope
        self.sent: list[Message] = []
        self._news = asyncio.Condition()
        self._inbox: asyncio.Queue[Message] = asyncio.Queue()
        pieces = list(pieces) or ([] if more else [b""])
        for number, piece in enumerate(pieces, 1):
            self.feed(piece, more=more or number < len(pieces))
        self.task: asyncio.Task[None] = asyncio.create_task(_called(app, scope, self._receive, self._send))

    def feed(self, piece: bytes, *, more: bool = True) -> None:
        self._inbox.put_nowait({"type": "http.request", "body": piece, "more_body": more})

    def leave(self) -> None:
        """The client goes away."""
        self._inbox.put_nowait({"type": "http.disconnect"})

    async def _receive(self) -> Message:
        return await self._inbox.get()

    async def _send(self, message: Message) -> None:
        async with self._news:
            self.sent.append(message)
            self._news.notify_all()

    async def until_sent(self, octets: bytes) -> None:
        async with self._news, asyncio.timeout(PATIENCE):
            await self._news.wait_for(lambda: octets in self.body)

    @property
    def body(self) -> bytes:
        return b"".join(m.get("body", b"") for m in self.sent if m["type"] == "http.response.body")

    async def answer(self) -> Answer:
        """The response, once the application has returned. Raises what it raised."""
        async with asyncio.timeout(PATIENCE):
            await self.task
        starts = [m for m in self.sent if m["type"] == "http.response.start"]
        assert len(starts) == 1, f"{len(starts)} responses were started"
        ends = [m for m in self.sent if m["type"] == "http.response.body" and not m.get("more_body", False)]
        assert len(ends) <= 1
        headers = [(name.decode(), value.decode("latin-1")) for name, value in starts[0].get("headers", ())]
        return Answer(starts[0]["status"], headers, self.body, bool(ends))


class Hosted:
    """A started host. `app` is its public application, `admin` that of the admin listener."""

    def __init__(self, host: Host, app: ASGIApp, admin: ASGIApp | None, log: Path) -> None:
        self.host = host
        self.state = host.state
        self.app = app
        self.admin = admin
        self._log = log

    def start(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
        body: Sequence[bytes] = (),
        more: bool = False,
        admin: bool = False,
        **scope: Any,
    ) -> Call:
        """Send a request. `scope` overrides single keys; the length of a body is told where it is one piece."""
        pairs = list(headers.items() if isinstance(headers, Mapping) else headers)
        names = {name.lower() for name, _ in pairs}
        if (body or more) and not names & {"content-length", "transfer-encoding"}:
            streamed = more or len(body) > 1
            pairs.append(("transfer-encoding", "chunked") if streamed else ("content-length", str(len(body[0]))))
        app = self.admin if admin else self.app
        assert app is not None
        return Call(app, http_scope(method, path, pairs, **scope), body, more=more)

    async def request(self, method: str, path: str, **more: Any) -> Answer:
        return await self.start(method, path, **more).answer()

    async def get(self, path: str, **more: Any) -> Answer:
        return await self.request("GET", path, **more)

    def lines(self) -> list[str]:
        return self._log.read_text(encoding="utf-8").splitlines()

    def logs(self, logger: str = "") -> list[dict[str, Any]]:
        """What has been logged so far, by that logger and those below it."""
        records: list[dict[str, Any]] = [json.loads(line) for line in self.lines()]
        return [record for record in records if (record["logger"] + ".").startswith(logger + "." if logger else "")]

    def access(self) -> list[dict[str, Any]]:
        return self.logs("pywatt.access")


def http_scope(method: str, path: str, headers: Sequence[tuple[str, str]] = (), **more: Any) -> Scope:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode("utf-8", "surrogateescape"),
        "query_string": b"",
        "root_path": "",
        "server": ("127.0.0.1", 8080),
        "client": ("203.0.113.9", 50000),
        "state": {},
        **more,
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in headers],
    }


async def websocket(
    app: ASGIApp, path: str, *incoming: str, headers: Sequence[tuple[str, str]] = (), **more: Any
) -> list[Message]:
    """What the application sends on a WebSocket that says `incoming`, then waits until it is over."""
    sent: list[Message] = []
    inbox: list[Message] = [{"type": "websocket.connect"}]
    inbox += [{"type": "websocket.receive", "text": text} for text in incoming]
    inbox += [{"type": "websocket.disconnect", "code": 1000}]

    async def receive() -> Message:
        return inbox.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    scope = http_scope("GET", path, headers, **{"type": "websocket", "scheme": "ws", "subprotocols": [], **more})
    del scope["method"]
    async with asyncio.timeout(PATIENCE):
        # A task of its own, as each connection has: what the edge sets in the context stays there.
        await asyncio.create_task(_called(app, scope, receive, send))
    return sent


MODULE = "under_test"


@contextmanager
def importable(**attributes: Any) -> Iterator[None]:
    """A module named `under_test` with these attributes, for as long as the block runs."""
    module = ModuleType(MODULE)
    vars(module).update(attributes)
    path = sys.path[:]
    before = sys.modules.get(MODULE)  # of a host around this one
    sys.modules[MODULE] = module
    try:
        yield
    finally:
        del sys.modules[MODULE]
        if before is not None:
            sys.modules[MODULE] = before
        sys.path[:] = path


@asynccontextmanager
async def hosted(
    manifest: Mapping[str, Any] | None = None,
    app: Any = None,
    *,
    environ: Mapping[str, str] | None = None,
    directory: Path | None = None,
    explain: bool = False,
    limits: Limits | None = None,
    host_answers: HostAnswers | None = None,
    **apps: Any,
) -> AsyncIterator[Hosted]:
    """Start a host for `app` (and for `apps`, which a manifest mounts as `under_test:NAME`)."""
    with tempfile.TemporaryDirectory() as folder, importable(app=app, **apps):
        log = Path(folder) / "log"
        fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            stream = LogStream(fd)
            data = {**({"app": f"{MODULE}:app"} if app is not None else {}), **(manifest or {})}
            loaded = load(
                Source.of_data(data, name="test", directory=directory or Path(folder)), environ=environ or {}
            ).manifest
            with configured(loaded.logging, stream, terminal=False, colour=False):
                host = build(loaded, environ or {}, stream, explain=explain, limits=limits, host_answers=host_answers)
                async with host.application() as surface:
                    yield Hosted(host, surface.public, surface.admin, log)
        finally:
            os.close(fd)


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers every request with its method and path; takes no part in the lifespan protocol."""
    assert scope["type"] == "http"
    body = f"{scope['method']} {scope['path']}".encode()
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


class Recorder:
    """Answers 200 and keeps the scopes that it was called with. It has no health path of its own."""

    def __init__(self) -> None:
        self.scopes: list[Scope] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return
        if scope["path"] in ("/health", "/h"):
            await send_problem(send, 404)
            return
        self.scopes.append(scope)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"seen"})

    def header(self, name: str) -> list[str]:
        """The values of a header in the newest request."""
        return [value.decode() for key, value in self.scopes[-1]["headers"] if key == name.encode()]
