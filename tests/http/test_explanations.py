"""What refusals of the host say under `dev`, and that they say nothing of it otherwise."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pywatt_host.http.problem import send_problem
from pywatt_host.types import Receive, Scope, Send
from tests.hosting import Recorder, hosted, run, websocket

MANIFEST: dict[str, Any] = {
    "metrics": True,
    "endpoints": [
        {"path": "/"},
        {"path": "/small", "methods": ["POST"], "body": "1KiB"},
        {"path": "/rare", "rate_limit": "1/m"},
        {"path": "/late", "timeout": "20ms"},
    ],
}


@pytest.mark.parametrize(
    ("method", "path", "status", "detail"),
    [
        ("GET", "/x", 404, "no endpoint is declared for GET /x: add it to endpoints in the manifest"),
        ("POST", "/", 405, "/ is declared without POST: add it to its methods in endpoints in the manifest"),
        ("POST", "/metrics", 405, "/metrics is a path of the host (metrics.path in the manifest), which accepts GET"),
        ("POST", "/livez", 405, "(health.liveness in the manifest)"),
        (
            "GET",
            "/a%2Fb",
            400,
            "the path has an encoded slash; to pass such paths to the application, write server.paths",
        ),
        (
            "GET",
            "/a/../b",
            400,
            "the path has a dot segment; to pass such paths to the application, write server.paths: lenient",
        ),
        ("GET", "//", 400, "the path has an empty segment"),
        ("POST", "/small", 413, "the request body is longer than endpoints[1].body in the manifest, which is 1KiB"),
        ("GET", "/late", 504, "no response began within endpoints[3].timeout in the manifest, which is 20ms"),
    ],
)
def test_a_refusal_names_its_rule_and_the_key_that_would_change_it(
    method: str, path: str, status: int, detail: str
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        if scope["path"] == "/late":
            await asyncio.Event().wait()
        await send_problem(send, 404)

    async def main() -> None:
        body = [b"x" * 2000] if path == "/small" else []
        decoded = path.replace("%2F", "/")
        async with hosted(MANIFEST, app, explain=True) as host:
            answer = await host.request(method, decoded, body=body, raw_path=path.encode())
            assert answer.status == status
            assert detail in answer.json()["detail"]
            assert answer.header("content-type") == "application/problem+json"
        async with hosted(MANIFEST, app) as host:
            answer = await host.request(method, decoded, body=body, raw_path=path.encode())
            assert answer.status == status
            assert detail not in answer.json().get("detail", "")
            assert "manifest" not in answer.json().get("detail", "")

    run(main)


def test_a_rate_and_a_concurrency_are_told_as_the_manifest_writes_them() -> None:
    async def main() -> None:
        manifest = {**MANIFEST, "server": {"limits": {"concurrency": 1}}}
        begun, go = asyncio.Event(), asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            assert scope["type"] == "http"
            if scope["path"] == "/rare":
                begun.set()
                await go.wait()
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        async with hosted(manifest, app, explain=True) as host:
            first = host.start("GET", "/rare")
            await begun.wait()
            answer = await host.get("/rare")
            assert (answer.status, answer.json()["detail"]) == (
                429,
                "more requests than endpoints[2].rate_limit in the manifest, which is 1/m",
            )
            answer = await host.get("/")
            assert (answer.status, answer.json()["detail"]) == (
                503,
                "more requests at the same time than server.limits.concurrency in the manifest, which is 1",
            )
            go.set()
            await first.answer()

    run(main)


def test_a_streamed_body_over_the_limit_is_explained_as_well() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        if scope["path"] == "/health":
            await send_problem(send, 404)
        else:
            while (await receive())["type"] != "http.disconnect":
                pass

    async def main() -> None:
        async with hosted(MANIFEST, app, explain=True) as host:
            answer = await host.request("POST", "/small", body=[b"x" * 1000, b"x" * 1000])
            assert answer.status == 413
            assert "endpoints[1].body" in answer.json()["detail"]

    run(main)


def test_a_path_below_no_mount_says_where_applications_are_mounted() -> None:
    async def main() -> None:
        manifest = {"app": {"import_path": "under_test:app", "route_prefix": "/api"}}
        async with hosted(manifest, Recorder(), explain=True) as host:
            answer = await host.get("/other")
            assert answer.status == 404
            assert "app.route_prefix and mounts" in answer.json()["detail"]

    run(main)


def test_a_websocket_is_refused_with_an_explanation_where_the_server_can_carry_one() -> None:
    async def main() -> None:
        async with hosted(MANIFEST, Recorder(), explain=True) as host:
            sent = await websocket(host.app, "/ws", extensions={"websocket.http.response": {}})
            assert sent[0]["status"] == 404
            assert b"no endpoint is declared for WEBSOCKET /ws" in sent[1]["body"]

    run(main)


def test_control_characters_of_a_request_are_escaped() -> None:
    async def main() -> None:
        manifest = {**MANIFEST, "server": {"paths": "lenient"}}
        async with hosted(manifest, Recorder(), explain=True) as host:
            answer = await host.get("/\x1b[31m")
            assert "GET /\\x1b[31m:" in answer.json()["detail"]

    run(main)
