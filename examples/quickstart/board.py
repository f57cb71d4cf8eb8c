"""A board of notes: routes with a parameter, server-sent events, a WebSocket, a metric, a health check."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from pywatt_host import AppState

LONGEST_COUNTDOWN = 60


class Board:
    """Notes in memory, by number."""

    def __init__(self, state: AppState, capacity: int) -> None:
        self.notes: dict[int, str] = {}
        self.capacity = capacity
        self._last = 0
        self._written = state.metrics.counter("notes_written", "Notes written since the start.")
        state.metrics.gauge("notes", "Notes on the board.").set_function(lambda: len(self.notes))

    def write(self, text: str) -> int:
        self._last += 1
        self.notes[self._last] = text
        self._written.inc()
        return self._last

    def check(self) -> None:
        """Health check: raise an error when the board is full."""
        if len(self.notes) >= self.capacity:
            raise RuntimeError(f"the board is full ({self.capacity} notes)")


def create_app(state: AppState, capacity: int) -> Starlette:
    board = Board(state, capacity)
    state.health_check("board")(board.check)

    @state.on_startup
    def say_what_to_try() -> None:
        server = state.manifest.server
        address = url(server.listen[0])
        admin = url(server.admin.listen[0]) if server.admin is not None else address
        state.logger.info("try: curl -d 'buy milk' %s/notes", address)
        state.logger.info("try: curl %s/notes/1", address)
        state.logger.info("try: curl -N %s/countdown/5", address)
        state.logger.info("try: curl %s/health %s/metrics", admin, admin)

    def note(request: Request) -> tuple[int, str]:
        try:
            number = int(request.path_params["id"])
            return number, board.notes[number]
        except (ValueError, KeyError):
            raise HTTPException(404, "no such note") from None

    async def index(request: Request) -> Response:
        return JSONResponse({"module": state.module_id, "notes": len(board.notes)})

    async def list_notes(request: Request) -> Response:
        return JSONResponse([{"id": number, "text": text} for number, text in board.notes.items()])

    async def write_note(request: Request) -> Response:
        text = (await request.body()).decode("utf-8", "replace")
        if len(board.notes) >= board.capacity:
            raise HTTPException(409, "the board is full")
        number = board.write(text)
        state.logger.info("note %d written", number, extra={"note": number})
        return JSONResponse({"id": number}, status_code=201, headers={"location": f"/notes/{number}"})

    async def read_note(request: Request) -> Response:
        number, text = note(request)
        return JSONResponse({"id": number, "text": text})

    async def remove_note(request: Request) -> Response:
        number, _ = note(request)
        del board.notes[number]
        return Response(status_code=204)

    return Starlette(
        routes=[
            Route("/", index),
            Route("/notes", list_notes, methods=["GET"]),
            Route("/notes", write_note, methods=["POST"]),
            Route("/notes/{id}", read_note, methods=["GET"]),
            Route("/notes/{id}", remove_note, methods=["DELETE"]),
            Route("/countdown/{seconds}", countdown),
            WebSocketRoute("/echo", echo),
        ]
    )


def url(address: object) -> str:
    """The URL of a declared address, for curl. `:8080` means every interface, so that localhost reaches it."""
    text = str(address)
    return f"http://localhost{text}" if text.startswith(":") else f"http://{text}"


async def countdown(request: Request) -> Response:
    """Send one event per second. The stream ends by itself, so that the host need not cut it when it stops."""
    try:
        seconds = min(int(request.path_params["seconds"]), LONGEST_COUNTDOWN)
    except ValueError:
        raise HTTPException(404, "seconds is a number") from None

    async def events() -> AsyncIterator[str]:
        for left in range(seconds, 0, -1):
            yield f"data: {left}\n\n"
            await asyncio.sleep(1)
        yield "data: lift-off\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")


async def echo(websocket: WebSocket) -> None:
    await websocket.accept()
    async for text in websocket.iter_text():
        await websocket.send_text(text)
