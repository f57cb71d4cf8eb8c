"""ASGI 3 without a framework: a lifespan, a request, and the AppState in the scope."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await lifespan(scope, receive, send)
    elif scope["type"] == "http":
        await greet(scope, send)
    else:
        await receive()
        await send({"type": "websocket.close", "code": 1000})


async def lifespan(scope: Scope, receive: Receive, send: Send) -> None:
    """Set up the state that every request gets."""
    await receive()
    scope["state"]["punctuation"] = "!"
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


async def greet(scope: Scope, send: Send) -> None:
    state = scope["state"]
    text = f"{state['pywatt'].config['greeting']}{state['punctuation']} You asked for {scope['path']}\n"
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain; charset=utf-8")]}
    )
    await send({"type": "http.response.body", "body": text.encode()})
