"""A worker's own paths: the supervisor answers, and what the worker decides by itself is decided as in one process."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from pywatt_host.http.edge import Answer
from pywatt_host.types import Receive, Scope, Send
from tests.hosting import PATIENCE, Hosted, Recorder, hosted, run

QUICK = {"interval": "1ms", "timeout": "2s", "start_period": "1h"}


class Supervisor:
    """Answers all questions in the same way, or raises."""

    def __init__(self, status: int = 200, *, error: Exception | None = None) -> None:
        self.status = status
        self.error = error
        self.asked: list[tuple[str, str, bool | None]] = []

    async def __call__(self, path: str, accept: str, details: bool | None) -> Answer:
        self.asked.append((path, accept, details))
        if self.error is not None:
            raise self.error
        body = f"host {path}".encode()
        return self.status, [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())], body


class Healthy(Recorder):
    """An application with a health path of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.status = 200
        self.asked = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == "/health":
            self.asked.set()
            await send({"type": "http.response.start", "status": self.status, "headers": []})
            await send({"type": "http.response.body", "body": b"of the application"})
            return
        await send({"type": "http.response.start", "status": 404, "headers": []})
        await send({"type": "http.response.body", "body": b"no such page"})

    async def until_check(self, host: Hosted, state: str) -> None:
        """Until the check of this application has this state."""
        async with asyncio.timeout(PATIENCE):
            while host.host._checks.report()[1]["checks"]["app"]["status"] != state:
                self.asked.clear()
                await self.asked.wait()


def test_the_supervisor_answers_health_probes_and_metrics() -> None:
    async def main() -> None:
        supervisor = Supervisor(status=503)
        async with hosted({"metrics": True}, Recorder(), host_answers=supervisor) as host:
            for path in ("/health", "/livez", "/readyz", "/metrics"):
                answer = await host.get(path, headers={"accept": "text/plain"})
                assert (answer.status, answer.body) == (503, f"host {path}".encode())
        assert supervisor.asked == [
            ("/health", "text/plain", True),
            ("/livez", "text/plain", None),
            ("/readyz", "text/plain", None),
            ("/metrics", "text/plain", None),
        ]

    run(main)


def test_the_worker_answers_by_itself_where_the_supervisor_fails() -> None:
    async def main() -> None:
        supervisor = Supervisor(error=ConnectionError("gone"))
        async with hosted({"metrics": True}, Recorder(), host_answers=supervisor) as host:
            assert (await host.get("/health")).json()["status"] == "healthy"
            assert (await host.get("/livez")).json() == {"status": "alive"}
            assert (await host.get("/readyz")).json() == {"status": "ready"}
            assert b"http_server_active_requests" in (await host.get("/metrics")).body
            assert len(supervisor.asked) == 4

    run(main)


def test_the_worker_decides_who_is_told_details() -> None:
    async def main() -> None:
        supervisor = Supervisor()
        async with hosted(None, Recorder(), host_answers=supervisor) as host:
            await host.get("/health")
            await host.get("/health", server=("192.0.2.1", 8080))
            await host.get("/health", server=("/run/notes.sock", None))
        for details in (True, False):
            async with hosted({"health": {"details": details}}, Recorder(), host_answers=supervisor) as host:
                await host.get("/health", server=("192.0.2.1", 8080))
        assert [details for _, _, details in supervisor.asked] == [True, False, True, True, False]

    run(main)


def test_the_worker_verifies_the_credential_of_a_scrape() -> None:
    async def main() -> None:
        supervisor = Supervisor()
        manifest = {"auth": {"key": {"type": "api_key", "keys": "k" * 32}}, "metrics": {"auth": "key"}}
        async with hosted(manifest, Recorder(), host_answers=supervisor) as host:
            assert (await host.get("/metrics")).status == 401
            assert (await host.get("/metrics", headers={"x-api-key": "x" * 32})).status == 401
            assert supervisor.asked == []
            assert (await host.get("/metrics", headers={"x-api-key": "k" * 32})).body == b"host /metrics"

    run(main)


def test_with_an_admin_listener_the_paths_are_there_alone() -> None:
    async def main() -> None:
        manifest = {"metrics": True, "server": {"admin": {"listen": "127.0.0.1:9090"}}}
        async with hosted(manifest, Recorder(), host_answers=Supervisor()) as host:
            assert (await host.get("/metrics", admin=True)).body == b"host /metrics"
            assert (await host.get("/metrics")).body == b"seen"

    run(main)


# Where the application serves the health path itself ------------------------------------------------------------------


def test_the_application_answers_while_the_host_is_healthy() -> None:
    async def main() -> None:
        supervisor, app = Supervisor(), Healthy()
        async with hosted({"health": QUICK}, app, host_answers=supervisor) as host:
            await app.until_check(host, "passing")
            assert (await host.get("/health")).body == b"of the application"
            supervisor.status = 503  # a check of the supervisor's own fails
            assert (await host.get("/health")).body == b"host /health"
            supervisor.error = ConnectionError("gone")
            assert (await host.get("/health")).body == b"of the application"

    run(main)


def test_the_application_tells_its_own_failure() -> None:
    async def main() -> None:
        app = Healthy()
        async with hosted({"health": QUICK}, app, host_answers=Supervisor(status=503)) as host:
            await app.until_check(host, "passing")
            app.status = 500
            await app.until_check(host, "failing")
            answer = await host.get("/health")
            assert (answer.status, answer.body) == (500, b"of the application")

    run(main)


def test_another_check_that_fails_brings_the_answer_of_the_host() -> None:
    async def main() -> None:
        supervisor, app = Supervisor(), Healthy()
        async with hosted({"health": QUICK}, app, host_answers=supervisor) as host:
            await app.until_check(host, "passing")

            async def fail() -> None:
                raise ConnectionError("no database")

            host.host._checks.add("db", fail)
            answer = await host.get("/health")
            assert (answer.status, answer.body) == (200, b"host /health")
            supervisor.error = ConnectionError("gone")
            document: dict[str, Any] = json.loads((await host.get("/health")).body)
            assert list(document["checks"]) == ["app", "db"]

    run(main)
