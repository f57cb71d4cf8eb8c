"""An ASGI application that does what the path of a request says: it echoes, streams, waits, or makes a mistake."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from pywatt_host.types import Headers, Message, Receive, Scope, Send

WHOLE = 8_000_000  # bytes of the answer of `/whole`, which is sent at once
_LENGTH_2: Headers = [(b"content-length", b"2")]


@dataclass(slots=True)
class Seen:
    """A request as the application sees it."""

    method: str
    path: str
    query: bytes
    version: str
    headers: list[tuple[bytes, bytes]]
    body: bytes = b""
    disconnected: bool = False  # before the whole body had arrived
    scheme: str = "http"
    client: Any = None
    extensions: Any = None

    def values(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key == name]


@dataclass(slots=True)
class Application:
    """Keeps what it has seen. `released` lets the requests to `/held` go on."""

    seen: list[Seen] = field(default_factory=list)
    released: asyncio.Event = field(default_factory=asyncio.Event)
    on_seen: Callable[[], None] = lambda: None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        seen = Seen(
            scope.get("method", "WEBSOCKET"), scope["path"], scope["query_string"], scope["http_version"],
            list(scope["headers"]), scheme=scope["scheme"], client=scope["client"],
            extensions=scope.get("extensions"),
        )  # fmt: skip
        if not seen.path.startswith(("/probe", "/barrier")):
            self.seen.append(seen)
            self.on_seen()
        kind, _, name = seen.path[1:].partition("/")
        if scope["type"] == "websocket":
            await WEBSOCKETS[name](receive, send)
        elif kind == "fault":
            await FAULTS[name](send)
        elif kind == "cut":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"part", "more_body": True})
            await CUTS[name](send)
        elif kind == "held":
            await self.released.wait()
            if name == "fault":
                raise ValueError("no")
            await answer(send, b"held")
        else:
            await ANSWERS.get(kind, _echo)(seen, receive, send)


async def answer(send: Send, body: bytes, status: int = 200, headers: Headers = ()) -> None:  # type: ignore[assignment]
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [length, *headers]})
    await send({"type": "http.response.body", "body": body})


async def read(seen: Seen, receive: Receive) -> bool:
    """Read the whole body; False where the client left before its end."""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            seen.disconnected = True
            return False
        seen.body += message.get("body", b"")
        if not message.get("more_body", False):
            return True


async def _echo(seen: Seen, receive: Receive, send: Send) -> None:
    if await read(seen, receive):
        document = {
            "method": seen.method, "path": seen.path, "query": seen.query.decode("latin-1"), "version": seen.version,
            "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in seen.headers],
            "body": seen.body.decode("latin-1"),
        }  # fmt: skip
        await answer(send, json.dumps(document).encode())


async def _early(seen: Seen, receive: Receive, send: Send) -> None:
    await answer(send, b"early")


async def _status(seen: Seen, receive: Receive, send: Send) -> None:
    """Answers with the status in the path, and with a body whatever that is."""
    status = int(seen.path.rpartition("/")[2])
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": b"body"})


async def _stream(seen: Seen, receive: Receive, send: Send) -> None:
    await read(seen, receive)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for piece in (b"one", b"", b"two"):
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _disconnected(seen: Seen, receive: Receive, send: Send) -> None:
    """Waits until the client has left, and returns without an answer."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _large(seen: Seen, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(400):
        await send({"type": "http.response.body", "body": bytes(65536), "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _whole(seen: Seen, receive: Receive, send: Send) -> None:
    await answer(send, bytes(WHOLE))


async def _headers(seen: Seen, receive: Receive, send: Send) -> None:
    """Sets fields that the connection decides about."""
    fields: Headers = [
        (b"Date", b"Mon, 01 Jan 2024 00:00:00 GMT"), (b"Transfer-Encoding", b"chunked"), (b"Keep-Alive", b"timeout=5"),
        (b"X-Request-ID", b"of-the-application"), (b"Connection", b"x-private"),
    ]  # fmt: skip
    await answer(send, b"fields", headers=fields)


async def _close(seen: Seen, receive: Receive, send: Send) -> None:
    await answer(send, b"bye", headers=[(b"Connection", b"close")])


async def _polls(seen: Seen, receive: Receive, send: Send) -> None:
    """Looks for a disconnect while it works, as frameworks do."""
    await read(seen, receive)
    listening = asyncio.ensure_future(receive())
    await asyncio.sleep(0)
    listening.cancel()
    await answer(send, b"polled")


ANSWERS: dict[str, Callable[[Seen, Receive, Send], Awaitable[None]]] = {
    "early": _early, "status": _status, "stream": _stream, "disconnected": _disconnected, "large": _large,
    "whole": _whole, "headers": _headers, "close": _close, "polls": _polls,
}  # fmt: skip


# Faults before anything has left ----------------------------------------------------------------------------------


def _starting(*headers: Any, status: Any = 200, body: bytes = b"ok") -> Callable[[Send], Awaitable[None]]:
    async def fault(send: Send) -> None:
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return fault


def _raising(error: BaseException, *, started: bool = True) -> Callable[[Send], Awaitable[None]]:
    async def fault(send: Send) -> None:
        if started:
            await send({"type": "http.response.start", "status": 200, "headers": _LENGTH_2})
        raise error

    return fault


def _sending(*messages: Message) -> Callable[[Send], Awaitable[None]]:
    async def fault(send: Send) -> None:
        for message in messages:
            await send(message)

    return fault


_START: Message = {"type": "http.response.start", "status": 200, "headers": _LENGTH_2}
FAULTS: dict[str, Callable[[Send], Awaitable[None]]] = {
    "length-letters": _starting((b"content-length", b"2x")),
    "length-negative": _starting((b"content-length", b"-2")),
    "length-empty": _starting((b"content-length", b"")),
    "length-twice": _starting((b"content-length", b"2"), (b"content-length", b"3")),
    "line-end": _starting((b"x-a", b"1\r\nx-b: 2")),
    "line-feed": _starting((b"x-a", b"1\nx-b: 2")),
    "nul": _starting((b"x-a", b"1\x00")),
    "name-space": _starting((b"x a", b"1")),
    "name-empty": _starting((b"", b"1")),
    "name-line-end": _starting((b"x\r\nset-cookie: a=b", b"1")),
    "text-name": _starting(("x-a", b"1")),
    "text-value": _starting((b"x-a", "1")),
    "three-parts": _starting((b"x-a", b"1", b"2")),
    "headers-none": _sending({"type": "http.response.start", "status": 200, "headers": None}),
    "no-status": _sending({"type": "http.response.start", "headers": []}),
    "status-low": _starting(status=99),
    "status-interim": _starting(status=100),
    "status-switching": _starting(status=101),
    "status-high": _starting(status=1000),
    "status-text": _starting(status="200"),
    "status-none": _starting(status=None),
    "body-long": _starting(*_LENGTH_2, body=b"long"),
    "body-short": _starting(*_LENGTH_2, body=b"1"),
    "body-text": _starting(body="text"),  # type: ignore[arg-type]
    "start-twice": _sending(_START, _START),
    "body-first": _sending({"type": "http.response.body", "body": b"ok"}),
    "unknown-message": _sending({"type": "http.response.something"}),
    "no-type": _sending({}),
    "returns": _sending(),
    "returns-after-head": _sending(_START),
    "raises": _raising(ValueError("no"), started=False),
    "raises-after-head": _raising(ValueError("no")),
    "exit": _raising(SystemExit(3)),
    "exit-first": _raising(SystemExit(3), started=False),
    "cancelled": _raising(asyncio.CancelledError(), started=False),
    "interrupt": _raising(KeyboardInterrupt(), started=False),
}
# Faults after a part of the response has left
CUTS: dict[str, Callable[[Send], Awaitable[None]]] = {
    "raises": _raising(ValueError("no"), started=False),
    "returns": _sending(),
    "exit": _raising(SystemExit(3), started=False),
    "cancelled": _raising(asyncio.CancelledError(), started=False),
    "start-again": _sending(_START),
}


# WebSockets -------------------------------------------------------------------------------------------------------


async def _accept(receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.accept"})


async def _ws_echo(receive: Receive, send: Send) -> None:
    await _accept(receive, send)
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", **{key: message[key] for key in ("text", "bytes") if key in message}})


async def _ws_raises_first(receive: Receive, send: Send) -> None:
    raise ValueError("no")


async def _ws_raises(receive: Receive, send: Send) -> None:
    await _accept(receive, send)
    raise ValueError("no")


async def _ws_exits(receive: Receive, send: Send) -> None:
    await _accept(receive, send)
    raise SystemExit(3)


async def _ws_returns_first(receive: Receive, send: Send) -> None:
    return


async def _ws_refuses(receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.close", "code": 1008})


async def _ws_refuses_with_status(receive: Receive, send: Send) -> None:
    await receive()
    headers: Headers = [(b"content-length", b"2"), (b"x-why", b"tea")]
    await send({"type": "websocket.http.response.start", "status": 418, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": b"no"})


async def _ws_closes(receive: Receive, send: Send) -> None:
    await _accept(receive, send)
    await send({"type": "websocket.close", "code": 4000, "reason": "done"})


async def _ws_floods(receive: Receive, send: Send) -> None:
    await _accept(receive, send)
    while True:
        await send({"type": "websocket.send", "bytes": bytes(65536)})


async def _ws_bad_header(receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.accept", "headers": [(b"x-a", b"1\r\nx-b: 2")]})


WEBSOCKETS: dict[str, Callable[[Receive, Send], Awaitable[None]]] = {
    "echo": _ws_echo, "raises-first": _ws_raises_first, "raises": _ws_raises, "exits": _ws_exits,
    "returns-first": _ws_returns_first, "refuses": _ws_refuses, "refuses-with-status": _ws_refuses_with_status,
    "closes": _ws_closes, "floods": _ws_floods, "bad-header": _ws_bad_header,
}  # fmt: skip
