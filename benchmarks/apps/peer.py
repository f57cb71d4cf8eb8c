"""Two modules that talk: `answering` answers, `asking` measures how often it is answered when it is told to."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextvars import Context
from typing import Any
from urllib.parse import parse_qs

from pywatt_host import AppState

Scope = MutableMapping[str, Any]
# About 200 octets of JSON, as in the goals.
MESSAGE = {"type": "order", "id": 123456, "customer": "a" * 60, "items": [1, 2, 3, 4, 5], "note": "b" * 70}


def answering(state: AppState) -> Callable[..., Awaitable[None]]:
    @state.on_message("order")
    async def take(message: dict[str, Any]) -> dict[str, Any]:
        return message

    return _nothing


def asking(state: AppState) -> Callable[..., Awaitable[None]]:
    async def ask(deadline: float) -> int:
        count = 0
        while time.perf_counter() < deadline:
            reply = await state.request("answering", MESSAGE, timeout=10.0)
            assert reply["id"] == MESSAGE["id"]
            count += 1
        return count

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["path"] != "/measure":
            await _nothing(scope, receive, send)
            return
        query = {name: values[0] for name, values in parse_qs(scope["query_string"].decode()).items()}
        began = time.perf_counter()
        deadline = began + float(query["seconds"])
        # A context of their own: otherwise each message would carry the identity of this HTTP request.
        loop = asyncio.get_running_loop()
        asking = [loop.create_task(ask(deadline), context=Context()) for _ in range(int(query["in_flight"]))]
        counts = await asyncio.gather(*asking)
        rate = sum(counts) / (time.perf_counter() - began)
        await _answer(send, 200, json.dumps({"rate": rate}).encode())

    return app


async def _nothing(scope: Scope, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        raise RuntimeError("no part in the lifespan")
    await _answer(send, 404, b"{}")


async def _answer(send: Any, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
