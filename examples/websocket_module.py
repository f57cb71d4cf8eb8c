"""A chat over WebSockets. It also sends new lines as server-sent events; these streams end when the host stops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from pywatt_host import AnnouncedEndpoint, AppState, pywatt_module


@pywatt_module(
    endpoints=[
        AnnouncedEndpoint(path="/chat/{name}", methods=["WEBSOCKET"]),
        AnnouncedEndpoint(path="/lines"),
    ],
    framework="starlette",
)
def create_app(app_state: AppState) -> Starlette:
    present: dict[str, WebSocket] = {}
    lines: list[str] = []
    said = asyncio.Condition()

    async def chat(websocket: WebSocket) -> None:
        name: str = websocket.path_params["name"]
        await websocket.accept()
        present[name] = websocket
        try:
            async for text in websocket.iter_text():
                async with said:
                    lines.append(f"{name}: {text}")
                    said.notify_all()
                for other in tuple(present.values()):
                    await other.send_text(lines[-1])
        finally:
            present.pop(name, None)

    async def wake() -> None:
        await app_state.draining.wait()
        async with said:
            said.notify_all()

    async def events() -> AsyncIterator[str]:
        shown = len(lines)
        yield ": connected\n\n"
        while not app_state.draining.is_set():
            async with said:
                while len(lines) == shown and not app_state.draining.is_set():
                    await said.wait()
            for line in lines[shown:]:
                yield f"data: {line}\n\n"
            shown = len(lines)

    async def listen(request: Request) -> StreamingResponse:
        return StreamingResponse(events(), media_type="text/event-stream")

    app_state.spawn(wake)
    return Starlette(routes=[WebSocketRoute("/chat/{name}", chat), Route("/lines", listen)])
