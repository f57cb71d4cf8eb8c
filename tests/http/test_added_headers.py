"""`server.headers` under any ASGI server: on every response that has none of that name."""

from __future__ import annotations

from typing import Any

from pywatt_host.http.problem import send_problem
from pywatt_host.types import Receive, Scope, Send
from tests.hosting import hosted, run, websocket

MANIFEST: dict[str, Any] = {
    "server": {
        "headers": {"X-Frame-Options": "DENY", "Server": "ours"},
        "cors": {"allow_origins": ["https://app.example"]},
        "limits": {"body": "1B"},
    },
    "metrics": True,
}


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept", "headers": []})
        await send({"type": "websocket.close"})
    elif scope["path"] == "/raises":
        raise ValueError
    elif scope["path"] == "/own":
        headers = [(b"X-Frame-Options", b"SAMEORIGIN"), (b"server", b"mine"), (b"server", b"too")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body"})
    else:
        await send_problem(send, 404)


def test_every_response_has_them_once() -> None:
    async def main() -> None:
        async with hosted(MANIFEST, app) as host:
            preflight = {"Origin": "https://app.example", "Access-Control-Request-Method": "GET"}
            requests: list[tuple[str, str, int, dict[str, Any]]] = [
                ("GET", "/nowhere", 404, {}),
                ("GET", "/raises", 500, {}),
                ("GET", "/a//b", 400, {}),
                ("GET", "/livez", 200, {}),
                ("GET", "/metrics", 200, {}),
                ("POST", "/livez", 405, {}),
                ("POST", "/", 413, {"body": [b"too long"]}),
                ("OPTIONS", "/", 200, {"headers": preflight}),
            ]
            for method, path, status, more in requests:
                answer = await host.request(method, path, **more)
                assert answer.status == status, path
                found = [value for name, value in answer.headers if name == "x-frame-options"]
                assert (found, answer.header("server")) == (["DENY"], "ours"), path

    run(main)


def test_those_of_the_application_take_their_place() -> None:
    async def main() -> None:
        async with hosted(MANIFEST, app) as host:
            answer = await host.get("/own")
            assert [value for name, value in answer.headers if name.lower() == "x-frame-options"] == ["SAMEORIGIN"]
            assert answer.header("server") == "mine, too"

    run(main)


def test_a_websocket_has_them_where_it_is_refused() -> None:
    async def main() -> None:
        async with hosted({**MANIFEST, "endpoints": [{"path": "/ws", "methods": ["WEBSOCKET"]}]}, app) as host:
            more: dict[str, Any] = {"extensions": {"websocket.http.response": {}}}
            accepted = (await websocket(host.app, "/ws", **more))[0]
            assert [name for name, _ in accepted["headers"]] == [b"x-request-id"]
            refused = (await websocket(host.app, "/nowhere", **more))[0]
            assert refused["status"] == 404
            assert (b"x-frame-options", b"DENY") in refused["headers"]

    run(main)
