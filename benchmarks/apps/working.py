"""A raw ASGI application that computes for about a millisecond per request: what more processes are for. `/pid` says
which process answers."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

STEPS = 20_000  # of the sum: about a millisecond


async def app(
    scope: MutableMapping[str, Any],
    receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
    send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
) -> None:
    """Declines the lifespan by raising, as the specification allows."""
    if scope["type"] != "http":
        raise RuntimeError(f"this application does not speak {scope['type']}")
    body = b"%d" % (os.getpid() if scope["path"] == "/pid" else sum(range(STEPS)))
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
