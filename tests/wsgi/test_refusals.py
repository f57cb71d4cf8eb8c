"""What a host answers in place of a WSGI application, and the reason in its access log."""

from __future__ import annotations

import errno
import json
from typing import Any

import pytest

from pywatt_host.wsgi import received
from tests.hosting import hosted, run, websocket

REASON = "a WSGI application serves no WebSockets"


def hello(environ: Any, start_response: Any) -> list[bytes]:
    start_response("404 Not Found" if environ["PATH_INFO"] == "/health" else "200 OK", [])
    return [environ["wsgi.input"].read()]


@pytest.mark.parametrize("guarded", [False, True], ids=["open", "declared"])
def test_a_websocket_is_refused_with_a_reason(guarded: bool) -> None:
    async def main() -> None:
        endpoints = {"endpoints": [{"path": "/ws", "methods": ["WEBSOCKET"]}, {"path": "/after"}]} if guarded else {}
        async with hosted(endpoints, hello) as host:
            assert await websocket(host.app, "/ws") == [{"type": "websocket.close", "code": 1000}]
            start, body = await websocket(host.app, "/ws", extensions={"websocket.http.response": {}})
            assert (start["type"], start["status"]) == ("websocket.http.response.start", 403)
            assert json.loads(body["body"])["detail"] == "The application serves no WebSockets."
            await host.get("/after")
            lines = [line for line in host.access() if line["path"] == "/ws"]
            assert [(line["status"], line["reason"]) for line in lines] == [(403, REASON)] * 2
            assert "reason" not in host.access()[-1]

    run(main)


def test_a_body_over_the_limit_of_its_endpoint_gets_413_and_not_the_application() -> None:
    called = []

    def app(environ: Any, start_response: Any) -> Any:
        called.append(environ["PATH_INFO"])
        return hello(environ, start_response)

    async def main() -> None:
        manifest = {"endpoints": [{"path": "/small", "methods": ["POST"], "body": "100KiB"}]}
        async with hosted(manifest, app) as host:
            answer = await host.request("POST", "/small", body=[b"x" * 60_000] * 2)
            assert (answer.status, "/small" in called) == (413, False)
            assert host.access()[-1]["reason"] == "endpoints[0].body"
            assert (await host.request("POST", "/small", body=[b"x" * 50_000] * 2)).body == b"x" * 100_000

    run(main)


def test_a_body_that_cannot_be_stored_gets_507_with_a_reason(monkeypatch: Any) -> None:
    def no_room(**options: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(received, "TemporaryFile", no_room)

    async def main() -> None:
        async with hosted({}, hello) as host:
            answer = await host.request("POST", "/", body=[b"x" * 60_000] * 2)
            assert (answer.status, answer.json()["title"]) == (507, "Insufficient Storage")
            assert host.access()[-1]["reason"] == "the body could not be stored"
            (error,) = host.logs("pywatt.wsgi")
            assert "No space left on device" in error["message"]

    run(main)
