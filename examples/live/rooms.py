"""Rooms: clients send text over a WebSocket, and listeners of the room receive it as server-sent events."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from pywatt_host import AppState

END = "END"  # as a message in a room, it ends the streams of all listeners


def create_app(state: AppState) -> Starlette:
    listeners: dict[str, set[asyncio.Queue[str]]] = defaultdict(set)
    listening = state.metrics.gauge("room_listeners", "Streams that are open.", labels=["room"])

    async def say(websocket: WebSocket) -> None:
        await websocket.accept()
        async for text in websocket.iter_text():
            heard = listeners[websocket.path_params["room"]]
            for queue in heard:
                queue.put_nowait(text)
            await websocket.send_text(f"heard by {len(heard)}")

    async def listen(request: Request) -> Response:
        room: str = request.path_params["room"]

        async def events() -> AsyncIterator[str]:
            queue: asyncio.Queue[str] = asyncio.Queue()
            listeners[room].add(queue)
            listening.labels(room).inc()
            try:
                yield ": listening\n\n"
                while (text := await queue.get()) != END:
                    yield f"data: {text}\n\n"
            finally:  # runs also when the client disconnects: the host tells the application
                listeners[room].discard(queue)
                listening.labels(room).dec()

        return StreamingResponse(events(), media_type="text/event-stream")

    return Starlette(routes=[WebSocketRoute("/rooms/{room}", say), Route("/rooms/{room}/events", listen)])
