"""`pywatt_host.asgi:app`: a whole host behind another server's lifespan."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from pywatt_host.asgi import HostedApp
from pywatt_host.types import Message
from tests.hosting import MODULE, Call, http_scope, importable, run


class Server:
    """The lifespan of another server."""

    def __init__(self, app: HostedApp) -> None:
        self._inbox: asyncio.Queue[Message] = asyncio.Queue()
        self._outbox: asyncio.Queue[Message] = asyncio.Queue()
        scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
        self.task = asyncio.create_task(app(scope, self._inbox.get, self._outbox.put))

    async def tell(self, phase: str) -> Message:
        self._inbox.put_nowait({"type": f"lifespan.{phase}"})
        return await self._outbox.get()


async def application(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        raise RuntimeError("declined")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hosted"})


@pytest.fixture
def manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "pywatt.yaml"
    monkeypatch.setenv("PYWATT_MANIFEST", str(path))
    limits = "{backlog: 7, body: 1B, websocket: {message: 1MiB}}"
    server = f"{{workers: 2, reload: watch, limits: {limits}, timeouts: {{write: off}}}}"
    path.write_text(f"app: {MODULE}:app\nendpoints: [{{path: /}}]\nserver: {server}\n")
    return path


def test_it_serves_between_start_and_stop_of_the_servers_lifespan(manifest: Path) -> None:
    async def main() -> None:
        app = HostedApp()
        with importable(app=application):
            server = Server(app)
            assert await server.tell("startup") == {"type": "lifespan.startup.complete"}
            assert (await Call(app, http_scope("GET", "/")).answer()).body == b"hosted"
            assert (await Call(app, http_scope("GET", "/other")).answer()).status == 404
            assert (await Call(app, http_scope("GET", "/readyz")).answer()).status == 200
            assert await server.tell("shutdown") == {"type": "lifespan.shutdown.complete"}
            await server.task
            with pytest.raises(RuntimeError, match="runs the lifespan protocol"):
                await Call(app, http_scope("GET", "/")).answer()

    run(main)


def test_keys_that_the_server_owns_are_listed_once_at_start(manifest: Path, capfd: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        with importable(app=application):
            server = Server(HostedApp())
            await server.tell("startup")
            await server.tell("shutdown")
            await server.task

    run(main)
    words = "have no effect, since another server serves"
    told = [line for line in capfd.readouterr().err.splitlines() if words in line]
    assert len(told) == 1
    for key in (
        "server.workers",
        "server.reload",
        "server.limits.backlog",
        "server.limits.websocket",
        "server.timeouts.write",
    ):
        assert key in told[0]
    assert "server.limits.body" not in told[0]


@pytest.mark.parametrize(
    ("text", "words"), [("app: [", "pywatt.yaml:2:1: "), ("app: nowhere:app\nhealth: false\n", "no module `nowhere`")]
)
def test_what_cannot_start_fails_the_lifespan_with_the_reason(manifest: Path, text: str, words: str) -> None:
    manifest.write_text(text)

    async def main() -> None:
        with importable():
            server = Server(HostedApp())
            message = await server.tell("startup")
            assert message["type"] == "lifespan.startup.failed"
            assert words in message["message"]
            await server.task

    run(main)


def test_what_the_server_is_told_about_a_failed_start_has_no_secret_in_it(
    manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY", 'it\'s "a" secret/1')

    async def failing(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        text = {"url": f"postgresql://{os.environ['KEY']}"}
        await send({"type": "lifespan.startup.failed", "message": repr(text)})

    manifest.write_text(f"app: {MODULE}:app\nsecrets: [KEY]\n")

    async def main() -> None:
        with importable(app=failing):
            message = await Server(HostedApp()).tell("startup")
        assert message["type"] == "lifespan.startup.failed"
        assert "postgresql://***" in message["message"]
        assert "secret" not in message["message"]

    run(main)
