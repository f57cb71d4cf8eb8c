"""CORS by the host: preflights, simple requests, and the host's own refusals, which a script must be able to read."""

from __future__ import annotations

from typing import Any

from pywatt_host.types import Receive, Scope, Send
from tests.hosting import Recorder, hosted, run, websocket

ORIGIN = "https://app.example"
MANIFEST: dict[str, Any] = {
    "endpoints": [{"path": "/", "methods": ["GET", "PUT"]}],
    "server": {
        "cors": {
            "allow_origins": [ORIGIN],
            "allow_methods": ["GET", "PUT"],
            "allow_headers": ["Authorization"],
            "expose_headers": ["X-Request-ID"],
            "max_age": "1h",
        },
        "limits": {"body": "1B"},
    },
}


def test_a_preflight_is_answered_without_the_application() -> None:
    async def main() -> None:
        app = Recorder()
        async with hosted(MANIFEST, app) as host:
            asked = {"Origin": ORIGIN, "Access-Control-Request-Method": "PUT"}
            answer = await host.request("OPTIONS", "/", headers=asked)
            assert answer.status == 200
            assert answer.header("access-control-allow-origin") == ORIGIN
            assert "PUT" in answer.header("access-control-allow-methods")
            assert answer.header("access-control-max-age") == "3600"
            assert answer.header("x-request-id")
            stranger = await host.request("OPTIONS", "/", headers={**asked, "Origin": "https://evil.example"})
            assert (stranger.status, stranger.header("access-control-allow-origin")) == (400, "")
            assert app.scopes == []
            assert [line["status"] for line in host.access()] == [200, 400]

    run(main)


def test_a_simple_request_gets_the_headers_and_one_request_id() -> None:
    async def main() -> None:
        app = Recorder()
        async with hosted(MANIFEST, app) as host:
            answer = await host.get("/", headers={"Origin": ORIGIN})
            assert (answer.status, answer.body) == (200, b"seen")
            assert answer.header("access-control-allow-origin") == ORIGIN
            assert answer.header("access-control-expose-headers") == "X-Request-ID"
            assert len([name for name, _ in answer.headers if name == "x-request-id"]) == 1
            assert (await host.get("/", headers={"Origin": "https://evil.example"})).header(
                "access-control-allow-origin"
            ) == ""
            assert "pywatt.cors" not in app.scopes[-1]

    run(main)


def test_errors_that_the_host_makes_can_be_read_by_a_script() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        raise ValueError

    async def main() -> None:
        async with hosted({**MANIFEST, "health": False}, app) as host:
            for method, path, body, status in [
                ("GET", "/nowhere", [], 404),
                ("DELETE", "/", [], 405),
                ("GET", "/a//b", [], 400),
                ("PUT", "/", [b"too long"], 413),
                ("GET", "/", [], 500),
            ]:
                answer = await host.request(method, path, headers={"Origin": ORIGIN}, body=body)
                assert answer.status == status
                assert answer.header("access-control-allow-origin") == ORIGIN, status

    run(main)


def test_a_script_may_read_health_and_websockets_are_left_alone() -> None:
    async def main() -> None:
        async with hosted(MANIFEST, Recorder()) as host:
            answer = await host.get("/livez", headers={"Origin": ORIGIN})
            assert (answer.status, answer.header("access-control-allow-origin")) == (200, ORIGIN)
            assert host.access() == []
            assert (await websocket(host.app, "/", headers=[("Origin", ORIGIN)]))[0]["type"] == "websocket.close"

    run(main)
