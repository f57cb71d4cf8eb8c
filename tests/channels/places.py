"""Where the two ends of a channel meet: a Unix socket in a folder, or a port of this machine, with TLS or without."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypeAlias

import orjson
import trustme

from pywatt_host.channels.sockets import Target, TcpTarget, UnixTarget
from pywatt_host.manifest.model.channels import ChannelTls
from pywatt_host.manifest.values import TcpAddress, UnixAddress
from pywatt_host.net.listeners import bind
from pywatt_host.net.tls import client_context, server_context
from pywatt_host.peers.acceptor import PeerListener
from pywatt_host.peers.client import PeerClient, PeerHandlers
from pywatt_host.peers.connection import PeerConnection
from pywatt_host.peers.reconnecting import Connector
from pywatt_host.peers.server import PeerServer
from pywatt_host.protocol.messages import HttpRequest, HttpResponse, RoutedMessage, RouteToModule
from tests.hosting import PATIENCE

Kind: TypeAlias = Literal["ipc", "tcp", "tls", "mtls"]
KINDS: tuple[Kind, ...] = ("ipc", "tcp", "tls", "mtls")
LOOPS = ("asyncio", *(("uvloop",) if find_spec("uvloop") else ()))
FRAME = 256 * 1024

Main: TypeAlias = Callable[[], Awaitable[None]]
Document: TypeAlias = dict[str, Any]


def run_on(loop: str, main: Main) -> None:
    """Run a test's coroutine to its end on that kind of loop. Whatever the loop was told to complain about, such as an
    exception that nobody retrieved, fails the test."""
    complaints: list[Mapping[str, Any]] = []

    async def bounded() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        try:
            async with asyncio.timeout(2 * PATIENCE):
                await main()
        finally:
            while _servers:  # a server that a failed test leaves open keeps uvloop from closing
                _servers.pop().close()
            while _links:
                _links.pop().abort()
            await asyncio.sleep(0.01)  # so that what was aborted is told so
            gc.collect()

    factory = import_module("uvloop").new_event_loop if loop == "uvloop" else None
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(bounded())
    gc.collect()
    assert complaints == []


class Certificates:
    """An authority, and what it has signed: one certificate for this machine and one for a client."""

    def __init__(self, folder: Path) -> None:
        authority, self._folder = trustme.CA(), folder
        authority.cert_pem.write_to_path(folder / "ca.pem")
        trustme.CA().cert_pem.write_to_path(folder / "other.pem")
        for name, identity in (("server", "127.0.0.1"), ("client", "users.example")):
            issued = authority.issue_cert(identity)
            issued.private_key_pem.write_to_path(folder / f"{name}.key")
            issued.cert_chain_pems[0].write_to_path(folder / f"{name}.pem")

    def server(self, *, mutual: bool) -> ssl.SSLContext:
        tls = ChannelTls(cert="server.pem", key="server.key", client_ca="ca.pem" if mutual else None)
        return server_context(tls, self._folder.joinpath)

    def client(self, *, own: bool, ca: str = "ca.pem") -> ssl.SSLContext:
        pair: Document = {"cert": "client.pem", "key": "client.key"} if own else {}
        return client_context(ChannelTls(ca=ca, **pair), self._folder.joinpath)


@dataclass(slots=True)
class Place:
    """An address that both ends know. The port stays ours while nobody listens there."""

    kind: Kind
    folder: Path
    certificates: Certificates | None
    _reserved: socket.socket | None = None
    port: int = 0

    def __post_init__(self) -> None:
        if self.kind != "ipc":
            self._reserved = socket.socket()
            self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._reserved.bind(("127.0.0.1", 0))
            self.port = self._reserved.getsockname()[1]

    def leave(self) -> None:
        if self._reserved is not None:
            self._reserved.close()

    @property
    def path(self) -> Path:
        return self.folder / "peers.sock"

    @property
    def channel(self) -> Literal["ipc", "tcp"]:
        return "ipc" if self.kind == "ipc" else "tcp"

    @property
    def server_tls(self) -> ssl.SSLContext | None:
        return self.certificates.server(mutual=self.kind == "mtls") if self.certificates else None

    @property
    def client_tls(self) -> ssl.SSLContext | None:
        return self.certificates.client(own=self.kind == "mtls") if self.certificates else None

    @property
    def target(self) -> Target:
        if self.kind == "ipc":
            return UnixTarget(str(self.path))
        return TcpTarget("127.0.0.1", self.port, self.client_tls)

    def door(self, tokens: Callable[[], tuple[str, ...]] = tuple, *, mode: int = 0o600) -> PeerListener:
        """Bound, for a Listening."""
        address = UnixAddress(str(self.path), mode) if self.kind == "ipc" else TcpAddress("127.0.0.1", self.port)
        (listener,) = bind([address], key=f"channels.{self.channel}.listen", directory=self.folder, backlog=128)
        return PeerListener(self.channel, listener, tokens, self.server_tls)

    async def open(self) -> Link:
        """A client of asyncio's own."""
        if self.kind == "ipc":
            return Link(*await asyncio.open_unix_connection(str(self.path)))
        return Link(*await asyncio.open_connection("127.0.0.1", self.port, ssl=self.client_tls))

    async def serve(self, taken: Callable[[Link], None]) -> asyncio.AbstractServer:
        """A server of asyncio's own."""

        async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            taken(Link(reader, writer))

        if self.kind == "ipc":
            self.path.unlink(missing_ok=True)
            return await asyncio.start_unix_server(take, str(self.path))
        return await asyncio.start_server(take, "127.0.0.1", self.port, ssl=self.server_tls)


def framed(document: Any, format: int = 1) -> bytes:
    payload = document if isinstance(document, bytes) else orjson.dumps(document)
    return struct.pack(">IB", len(payload), format) + payload


_links: list[Link] = []  # of the test that runs; closed at its end
_servers: list[asyncio.AbstractServer] = []  # the same


class Link:
    """One connection of a foreign peer, which knows the protocol's tables and nothing else."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        _links.append(self)

    def say(self, op: str, **members: Any) -> None:
        self.raw(framed({"op": op, **members}))

    def raw(self, octets: bytes) -> None:
        self.writer.write(octets)

    async def hear(self, op: str) -> Document:
        """The next operation, which has to be this one; bare, or in an envelope of exactly three members."""
        async with asyncio.timeout(PATIENCE):
            length, format = struct.unpack(">IB", await self.reader.readexactly(5))
            assert format == 1
            document: Document = orjson.loads(await self.reader.readexactly(length))
        if "content" in document:
            assert set(document) == {"id", "content", "metadata"}
            document = document["content"]
        assert document["op"] == op, document
        return document

    async def ended(self) -> bytes:
        """What still comes until the other side has closed."""
        rest = b""
        try:
            async with asyncio.timeout(PATIENCE):
                while piece := await self.reader.read(65536):
                    rest += piece
        except OSError:
            pass  # a reset is an end too
        self.abort()
        return rest

    async def close(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except OSError:
            pass

    def abort(self) -> None:
        try:
            self.writer.transport.abort()
        except AttributeError:
            pass  # asyncio's, where it was closed with something left to send, has no loop any more


@dataclass(slots=True)
class Orchestrator:
    """A foreign one, at a place: accepts, and says what the test makes it say."""

    place: Place
    links: list[Link] = field(default_factory=list)
    _new: asyncio.Queue[Link] = field(default_factory=asyncio.Queue)
    _server: asyncio.AbstractServer | None = None

    async def open(self) -> None:
        self._server = await self.place.serve(self._take)
        _servers.append(self._server)

    def _take(self, link: Link) -> None:
        self.links.append(link)
        self._new.put_nowait(link)

    async def accepted(self, **expected: Any) -> Link:
        """The next connection, after its identify."""
        async with asyncio.timeout(PATIENCE):
            link = await self._new.get()
        identify = await link.hear("identify")
        for name, value in expected.items():
            assert identify.get(name) == value
        return link

    async def die(self) -> None:
        """At once, with all connections."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for link in self.links:
            link.abort()
        self.links.clear()
        await asyncio.sleep(0)


@dataclass(slots=True)
class Heard:
    """What an uplink was told by the orchestrator, and its answers."""

    messages: list[tuple[RoutedMessage, PeerConnection]] = field(default_factory=list)
    rotations: list[tuple[str, Sequence[str]]] = field(default_factory=list)
    shutdowns: list[str] = field(default_factory=list)
    losses: list[str] = field(default_factory=list)
    answer: asyncio.Event = field(default_factory=asyncio.Event)

    async def http(self, request: HttpRequest) -> HttpResponse:
        await self.answer.wait()
        return HttpResponse(request.request_id, 200, {}, b"here")

    async def rotated(self, rotation_id: str, keys: Sequence[str]) -> str:
        self.rotations.append((rotation_id, keys))
        return ""

    def handlers(self) -> PeerHandlers:
        return PeerHandlers(
            health=lambda: {"status": "healthy", "checks": {}},
            http=self.http,
            message=lambda message, connection: self.messages.append((message, connection)),
            rotated=self.rotated,
            shutdown=self.shutdowns.append,
            lost=self.losses.append,
        )


def uplink(*connectors: Connector, heard: Heard | None = None, timeout: float = PATIENCE, **more: Any) -> PeerClient:
    return PeerClient(
        "users",
        connectors,
        **{
            "handshake": None,
            "frame_limit": FRAME,
            "handshake_timeout": timeout,
            "heartbeats_missed": 3,
            "handlers": (heard or Heard()).handlers(),
            **more,
        },
    )


def listening(*doors: PeerListener, timeout: float = PATIENCE, message: Any = None, frame: int = FRAME) -> PeerServer:
    """Answers messages with nothing, unless `message` does."""

    def ignore(message: RouteToModule, connection: PeerConnection) -> None:
        return

    peers = PeerServer(
        "users", frame_limit=frame, handshake_timeout=timeout, message=message or ignore, health=lambda: {"status": "x"}
    )
    peers.listeners += doors
    return peers


async def good(place: Place, module_id: str = "billing") -> Link:
    """Let in, as its heartbeat shows."""
    link = await place.open()
    link.say("identify", module_id=module_id)
    await beats(link)
    return link


async def beats(link: Link) -> None:
    link.say("heartbeat")
    await link.hear("heartbeat_ack")


async def until(true: Callable[[], bool]) -> None:
    """Where there is no event to wait for: what other tasks do next."""
    async with asyncio.timeout(PATIENCE):
        while not true():  # noqa: ASYNC110 -- see above
            await asyncio.sleep(0.005)


def descriptors() -> int:
    """How many this process has open."""
    return len(os.listdir("/dev/fd"))
