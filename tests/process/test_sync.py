"""A Flask module in 16 threads whose every request waits in `app_state.sync`: no deadlock, while draining neither."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.processes import PATIENCE, Connection, Host, Project
from tests.scripted import Orchestrated

REQUESTS = 64
BOUND = 20.0  # seconds for what takes less than one on an idle machine

APP = """
    from flask import Flask, request

    def create_app(state):
        app = Flask(__name__)

        @app.get("/secret/<name>")
        def secret(name):
            return state.sync.get_secret(name).expose_secret()

        @app.get("/http")
        def http():
            return state.sync.http.get(request.args["url"], timeout=30).text

        @app.get("/held")
        def held():
            text = state.sync.http.get(request.args["url"], timeout=30).text
            return text + state.sync.get_secret("AFTER_" + request.args["n"]).expose_secret()

        @app.get("/plain")
        def plain():
            return "plain"

        return app
"""

OTHER = """
    import asyncio

    released, waiting = asyncio.Event(), 0

    async def app(scope, receive, send):
        global waiting
        if scope["type"] != "http" or scope["path"] == "/health":
            raise RuntimeError("declined")
        if scope["path"] == "/wait":
            waiting += 1
            await released.wait()
        elif scope["path"] == "/release":
            released.set()
        body = b"waiting %d" % waiting if scope["path"] == "/waiting" else b"other "
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})
"""


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Host]:
    """Another module, which holds requests for `/wait` until somebody asks for `/release`."""
    project = Project(tmp_path)
    project.write("main.py", OTHER)
    project.manifest()
    yield project.host()
    project.end()


def flask_module(project: Project, **manifest: Any) -> Host:
    project.write("main.py", APP)
    project.manifest(app={"import_path": "main:create_app", "threads": 16}, **manifest)
    secrets = {f"{kind}_{number}": f"value {number}" for kind in ("KEY", "AFTER") for number in range(REQUESTS)}
    return project.host(env=secrets)


class Clients:
    """One connection each, all of them at once."""

    def __init__(self, host: Host, paths: list[str]) -> None:
        self._connections = [host.connect() for _ in paths]
        for connection, path in zip(self._connections, paths, strict=True):
            connection.head("GET", path)

    def answers(self) -> list[tuple[int, bytes]]:
        """In the order of the paths."""
        found = []
        for connection in self._connections:
            with connection:
                response = connection.response()
                found.append((response.status, response.body))
        return found

    def leave(self) -> None:
        for connection in self._connections:
            connection.sock.close()


def test_64_requests_in_16_threads_get_secrets_that_have_to_be_fetched_first(project: Project) -> None:
    host = flask_module(project)
    numbers = range(REQUESTS)
    began = time.monotonic()
    asked = Clients(host, [f"/secret/KEY_{number}" for number in numbers])
    assert asked.answers() == [(200, f"value {number}".encode()) for number in numbers]
    assert time.monotonic() - began < BOUND
    assert host.stop() == 0


def test_64_requests_ask_the_module_itself_as_long_as_there_is_a_thread_left(project: Project) -> None:
    """With as many as there are threads, each would wait for one more: that no host can help. Eight leave eight."""
    host = flask_module(project)
    for _ in range(8):
        asked = Clients(host, [f"/http?url={host.address}/plain" for _ in range(8)])
        assert asked.answers() == [(200, b"plain")] * 8
    assert host.stop() == 0


def test_64_requests_ask_another_module(project: Project, other: Host) -> None:
    host = flask_module(project)
    began = time.monotonic()
    asked = Clients(host, [f"/http?url={other.address}/any" for _ in range(REQUESTS)])
    assert asked.answers() == [(200, b"other ")] * REQUESTS
    assert time.monotonic() - began < BOUND
    assert (host.stop(), other.stop()) == (0, 0)


def test_all_that_are_in_flight_when_it_is_told_to_stop_are_answered(project: Project, other: Host) -> None:
    """16 wait in `sync.http` for the other module and 48 for a thread; then comes the signal, then they go on, and get
    secrets that have to be fetched."""
    host = flask_module(project)
    asked = Clients(host, [f"/held?url={other.address}/wait&n={number}" for number in range(REQUESTS)])
    until_waiting(other, 16)
    began = time.monotonic()
    host.signal()
    host.wait_for("stopping: SIGTERM")
    assert other.get("/release").status == 200
    assert asked.answers() == [(200, f"other value {number}".encode()) for number in range(REQUESTS)]
    assert host.wait() == 0, "\n".join(host.lines)
    assert time.monotonic() - began < BOUND
    assert [entry for entry in host.logs if entry["level"] in ("error", "critical")] == []


def until_waiting(other: Host, number: int) -> None:
    deadline = time.monotonic() + PATIENCE
    with other.connect() as connection:
        while connection.request("GET", "/waiting").body != b"waiting %d" % number:
            assert time.monotonic() < deadline


def test_what_waits_beyond_the_limit_is_cut_and_the_process_leaves(project: Project, other: Host) -> None:
    host = flask_module(project, server={"timeouts": {"shutdown": "1s"}})
    asked = Clients(host, [f"/held?url={other.address}/wait&n=1"])
    until_waiting(other, 1)
    began = time.monotonic()
    assert host.stop() == 1
    assert time.monotonic() - began < BOUND
    assert any("1 WSGI threads of main:create_app still run" in line for line in host.lines)
    asked.leave()


# Under an orchestrator ------------------------------------------------------------------------------------------------

MESSAGES = """
    from flask import Flask, request

    from pywatt_host.flask import app_state

    app = Flask(__name__)

    @app.get("/ask/<int:number>")
    def ask(number):
        return str(app_state.sync.request("billing", {"type": "double", "number": number}, timeout=20)["doubled"])

    @app.get("/find")
    def find():
        provider = app_state.sync.register_service("users-api", "api", "127.0.0.1:1")
        return f"{provider} {[each.name for each in app_state.sync.discover_services('database')]}"
"""


def test_under_an_orchestrator_16_threads_ask_others_and_find_services_while_it_stops(project: Project) -> None:
    project.write("main.py", MESSAGES)
    project.write("pywatt.yaml", '{app: {import_path: "main:app", threads: 16}}')
    module = Orchestrated(project.folder)
    try:
        url = f"http://{module.hear('announce')['listen']}"
        found = ask(url, "/find")
        assert module.hear("register_service_provider")["name"] == "users-api"
        module.say(op="register_service_provider_response", success=True, provider_id="p1", error=None)
        module.hear("discover_service_providers")
        module.say(op="discover_service_providers_response", success=True, providers=[], error=None)
        assert found() == b"p1 []"
        answers = [ask(url, f"/ask/{number}") for number in range(16)]
        asked = [module.hear("route_to_module") for _ in range(16)]
        module.say(op="shutdown")
        module.wait_for("stopping: ")
        for each in asked:
            number = json.loads(bytes(each["payload"]["data"]))["content"]["number"]
            reply = {"data": list(json.dumps({"doubled": 2 * number}).encode()), "format": "Json"}
            module.say(
                op="routed_module_response",
                source_module_id="billing",
                request_id=each["request_id"],
                payload=reply,
            )
        assert [answer() for answer in answers] == [str(2 * number).encode() for number in range(16)]
        assert module.wait() == 0, "\n".join(module.lines)
    finally:
        module.end()


def ask(url: str, path: str) -> Any:
    """Ask at once; what is returned waits for the answer."""
    connection = Connection(url)
    connection.head("GET", path)

    def answer() -> bytes:
        with connection:
            response = connection.response()
        assert response.status == 200, response
        return response.body

    return answer
