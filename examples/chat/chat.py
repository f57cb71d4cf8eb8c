"""A chat in one or several processes: WebSockets connect the browsers, publish and subscribe connects the processes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from pywatt_host import AppState

PAGE = """<!doctype html>
<title>Chat</title>
<form><input autofocus placeholder="Say something"></form>
<pre></pre>
<script>
const name = prompt("Your name?") || "somebody"
const socket = new WebSocket(location.href.replace(/^http/, "ws") + "ws/" + encodeURIComponent(name))
const lines = document.querySelector("pre"), input = document.querySelector("input")
socket.onmessage = event => { lines.textContent += event.data + "\\n" }
document.querySelector("form").onsubmit = event => {
  event.preventDefault()
  socket.send(input.value)
  input.value = ""
}
</script>
"""


@dataclass
class Line:
    who: str
    text: str


def create_app(state: AppState) -> Starlette:
    present: set[WebSocket] = set()

    @state.subscribe("chat.lines")
    async def show(line: Line) -> None:
        for browser in tuple(present):
            try:
                await browser.send_text(f"{line.who}: {line.text}")
            except (RuntimeError, WebSocketDisconnect):  # the browser has disconnected
                present.discard(browser)

    async def browser(websocket: WebSocket) -> None:
        await websocket.accept()
        present.add(websocket)
        try:
            async for text in websocket.iter_text():
                line: dict[str, Any] = {"who": websocket.path_params["name"], "text": text[:1000]}
                await state.publish("chat.lines", line)
        finally:
            present.discard(websocket)

    async def page(request: Request) -> HTMLResponse:
        return HTMLResponse(PAGE)

    return Starlette(routes=[Route("/", page), WebSocketRoute("/ws/{name}", browser)])
