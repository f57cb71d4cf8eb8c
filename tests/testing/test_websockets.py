"""`client.websocket`: both directions, and every way in which it can end."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from pywatt_host.testing import ModuleClient, PywattModule, WebSocketClosedError, WebSocketRefusedError


async def echo(websocket: WebSocket) -> None:
    offered = websocket.scope["subprotocols"]
    await websocket.accept(
        offered[-1] if offered else None, headers=[(b"x-who", websocket.headers.get("x-who", "").encode())]
    )
    async for text in websocket.iter_text():
        if text == "bytes":
            await websocket.send_bytes(b"\x00\x01")
        elif text == "close":
            await websocket.close(4001, "enough")
            return
        elif text == "return":
            return
        elif text == "raise":
            raise ValueError("boom")
        else:
            await websocket.send_text(text)


async def refuse(websocket: WebSocket) -> None:
    await websocket.close(4403)


async def answer(websocket: WebSocket) -> None:
    await websocket.send_denial_response(PlainTextResponse("pay first", 402, {"x-price": "3"}))


async def fail(websocket: WebSocket) -> None:
    raise HTTPException(418)


@pytest.fixture
def client(pywatt_module: PywattModule) -> ModuleClient:
    views = {"echo": echo, "refuse": refuse, "answer": answer, "fail": fail}
    return pywatt_module(Starlette(routes=[WebSocketRoute(f"/{name}", view) for name, view in views.items()]))


def test_texts_bytes_and_json_go_both_ways(client: ModuleClient) -> None:
    with client.websocket("/echo?a=1", headers={"X-Who": "me"}, subprotocols=["a", "b"]) as socket:
        assert socket.subprotocol == "b"
        assert ("x-who", "me") in socket.headers
        socket.send_text("hi")
        assert socket.receive_text() == "hi"
        socket.send_json({"n": 1})
        assert socket.receive_json() == {"n": 1}
        socket.send_text("bytes")
        assert socket.receive_bytes() == b"\x00\x01"
        socket.send_text("more")
        with pytest.raises(AssertionError, match="the next message has no bytes"):
            socket.receive_bytes()
        with pytest.raises(TimeoutError):
            socket.receive_text(timeout=0.1)


@pytest.mark.parametrize(
    ("said", "code", "reason"), [("close", 4001, "enough"), ("return", 1006, ""), ("raise", 1011, "")]
)
def test_the_code_with_which_the_module_closes_is_told(client: ModuleClient, said: str, code: int, reason: str) -> None:
    with client.websocket("/echo") as socket:
        socket.send_text(said)
        with pytest.raises(WebSocketClosedError) as closed:
            socket.receive_text()
        assert (closed.value.code, closed.value.reason) == (code, reason)
        with pytest.raises(WebSocketClosedError):
            socket.receive_text()


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [("/refuse", 403, b""), ("/answer", 402, b"pay first"), ("/fail", 418, b""), ("/nowhere", 403, b"")],
)
def test_a_refusal_tells_its_status(client: ModuleClient, path: str, status: int, body: bytes) -> None:
    with pytest.raises(WebSocketRefusedError) as refused:
        client.websocket(path)
    assert refused.value.status == status
    assert body in refused.value.body


def test_the_host_refuses_what_no_endpoint_takes(pywatt_module: PywattModule) -> None:
    client = pywatt_module({"app": Starlette(), "endpoints": [{"path": "/x"}]})
    with pytest.raises(WebSocketRefusedError) as refused:
        client.websocket("/ws")
    assert refused.value.status == 404


def test_leaving_tells_the_application_with_which_code(pywatt_module: PywattModule) -> None:
    left: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            raise RuntimeError("declined")
        await receive()
        await send({"type": "websocket.accept"})
        left.append((await receive())["code"])
        with pytest.raises(OSError, match="has closed"):
            await send({"type": "websocket.send", "text": "too late"})

    client = pywatt_module({"app": app, "health": False})
    with client.websocket("/"):
        pass
    client.websocket("/").close(4002)
    client.websocket("/")  # the test ends without a word
    assert left == [1000, 4002]
    pywatt_module.stop()
    assert left == [1000, 4002, 1006]
