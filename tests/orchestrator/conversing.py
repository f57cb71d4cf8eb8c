"""Replicas without processes: what they are sent is kept, what they say is said by the test."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson

from pywatt_host.manifest.model.workspace import WorkspaceModule
from pywatt_host.orchestrator.module import Module
from pywatt_host.orchestrator.replica import Replica, Terms
from pywatt_host.peers.connection import Dispatch, PeerConnection
from pywatt_host.protocol.codec import Lines, line
from pywatt_host.protocol.messages import Announce, HeartbeatAck, Init
from pywatt_host.supervision.launch import Launch

LIMIT = 64 * 1024


class Pipe(asyncio.Transport):
    """Keeps what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.stuck = 0  # octets that nobody takes

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        return

    abort = close

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        return

    def get_write_buffer_size(self) -> int:
        return self.stuck

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


class Around:
    """Surroundings of replicas that live nowhere."""

    def __init__(self) -> None:
        self.table: Dispatch = {}

    def dispatch(self) -> Dispatch:
        return self.table

    def init(self, replica: Replica) -> Init:
        return Init("", replica.module)

    def line(self, replica: Replica, octets: bytes) -> None:
        return

    def changed(self) -> None:
        return

    def gone(self, replica: Replica) -> None:
        return


class Peer:
    """One replica and the other end of its connection."""

    def __init__(self, module: str, around: Around, number: int = 1) -> None:
        terms = Terms(module, "on-failure", 1.0, 1.0, 5.0, 3, LIMIT, _no_launch)
        self.replica = Replica(terms, number, f"{module}.{number}", around)
        self.pipe = Pipe()
        self.connection = PeerConnection(
            "stdio", module, Lines(LIMIT), line, around.table, lambda connection, why: None, limit=LIMIT
        )
        self.connection.wire.connection_made(self.pipe)
        self.replica.adopt(self.connection)

    def up(self) -> Peer:
        self.replica.state = "starting"
        self.replica.announced(Announce("127.0.0.1:1"))
        self.replica.beaten(HeartbeatAck())
        self.received()
        return self

    def says(self, message: dict[str, Any]) -> None:
        self.connection.wire.data_received(orjson.dumps(message) + b"\n")

    def received(self) -> list[dict[str, Any]]:
        """What it was sent since the last time."""
        found = [orjson.loads(each) for each in self.pipe.written.splitlines()]
        self.pipe.written = b""
        return found


def _no_launch() -> Launch:
    raise AssertionError("nothing is started here")


def module_of(*peers: Peer, hidden: frozenset[str] = frozenset(), **declared: Any) -> Module:
    id = peers[0].replica.module
    return Module(id, WorkspaceModule(command=("x",), **declared), [peer.replica for peer in peers], hidden)


def route(target: str, request_id: str, content: Any, **properties: Any) -> dict[str, Any]:
    """`route_to_module` as the original writes it."""
    document = {"content": content, "metadata": {"properties": properties}} if properties else content
    payload = {"data": list(orjson.dumps(document)), "format": "Json"}
    return {
        "op": "route_to_module",
        "target_module_id": target,
        "target_endpoint": "",
        "request_id": request_id,
        "payload": payload,
    }


def content_of(message: dict[str, Any]) -> Any:
    return orjson.loads(bytes(message["payload"]["data"]))
