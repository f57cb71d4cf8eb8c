"""`up` with a module that has workers: the workspace sees one process, which is asked, rotated and stopped as any."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import Any

from tests.orchestrator.test_up import RUST, Workspace
from tests.processes import PATIENCE, Project
from tests.testing.test_wattson_fixture import soon_gone

APP = """
import asyncio, os, sys
from fastapi import FastAPI

def create_app(state):
    app = FastAPI()
    db, heard = state.db, []

    @state.on_message("who")
    async def who(message):
        return [os.getpid(), (await state.get_secret("GREETING")).expose_secret() == message.get("greeting")]

    @state.on_message("heard")
    async def what_was_heard(message):
        return [os.getpid(), heard]

    @state.subscribe("news.all")
    async def news(event):
        heard.append(event["text"])

    @state.on_rotation("GREETING")
    async def rotated(secret):
        if secret.expose_secret() == "nobody-wants-this":
            raise RuntimeError("no")

    @app.get("/pid")
    async def pid():
        return os.getpid()

    @app.get("/ask")
    async def ask():
        reply = await state.request(target="rusty", message={"type": "echo", "n": 1})
        return [reply["from"], reply["n"]]

    @app.get("/publish/{text}")
    async def publish(text: str):
        await state.publish("news.all", {"text": text})

    @app.get("/find")
    async def find():
        await state.register_service(name="users-api", service_type="api", address="auto")
        return [[each.name, each.address, each.module_id] for each in await state.discover_services("api")]

    @app.get("/add/{text}")
    async def add(text: str):
        async with db.transaction() as connection:
            await connection.execute("INSERT INTO notes (text) VALUES ($1)", text)
            return await connection.fetchval("SELECT count(*) FROM notes")

    @app.get("/hold")
    async def hold():
        async with db.transaction() as connection:
            await connection.execute("INSERT INTO notes (text) VALUES ('never')")
            print(f"holding {os.getpid()}", file=sys.stderr, flush=True)
            await asyncio.Event().wait()

    return app
"""


def workspace_of(project: Project, channel: str = "ipc", **more: Any) -> Workspace:
    project.write("users/main.py", APP)
    project.write("schema.sql", "CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT NOT NULL);\n")
    module = {
        "app": "main:create_app",
        "server": {"workers": 2},
        "secrets": {"rotate": True, "keys": ["GREETING"]},
        "databases": {"default": "orchestrator:shared"},
    }
    project.write("users/pywatt.yaml", json.dumps(module))
    project.write("greeting/GREETING", "good-morning")
    workspace = Workspace(
        project,
        modules={
            "users": {"manifest": "users/pywatt.yaml", "channel": channel},
            "rusty": {"command": RUST, "channel": "ipc"},
        },
        secrets={"sources": [{"directory": "greeting"}]},
        databases={"shared": {"url": "sqlite:///shared.db", "init": "schema.sql"}},
        **more,
    )
    workspace.ready()
    return workspace


def until(workspace: Workspace, path: str, status: int = 200) -> str:
    """The body of the first answer with this status."""
    limit = time.monotonic() + PATIENCE
    while True:
        got, body = workspace.get(path)
        if got == status:
            return body
        assert time.monotonic() < limit, (got, body)


def test_a_module_with_workers_lives_in_a_workspace(project: Project) -> None:
    workspace = workspace_of(project)
    # One process, whose workers answer requests of the gateway and messages in turn.
    (replica,) = workspace.modules()["users"]
    workers: set[int] = set()
    limit = time.monotonic() + PATIENCE
    while len(workers) < 2:  # a worker takes messages once its checks have passed
        pid, same = workspace.ask("users", "who", greeting="good-morning")
        assert same
        workers.add(pid)
        assert time.monotonic() < limit
    assert replica["pid"] not in workers
    assert int(workspace.get("/users/pid")[1]) in workers

    # What a worker asks, publishes and registers goes through its supervisor.
    assert workspace.get("/users/ask") == (200, '["rusty",1]')
    assert workspace.get("/users/publish/hello")[0] == 200
    heard: dict[int, list[str]] = {}
    limit = time.monotonic() + PATIENCE
    while len(heard) < 2 or not all(heard.values()):
        pid, texts = workspace.ask("users", "heard")
        heard[pid] = texts
        assert time.monotonic() < limit
    assert list(heard.values()) == [["hello"], ["hello"]]
    for _ in range(4):
        ((name, address, module),) = json.loads(workspace.get("/users/find")[1])
        assert (name, module) == ("users-api", "users")
        assert address.startswith("http://127.0.0.1:")

    # A secret rotates for both workers, or for none.
    project.write("greeting/GREETING", "good-evening")
    rotated = project.cli("rotate", "GREETING", "--json")
    assert rotated.returncode == 0, rotated.stderr
    assert {workspace.ask("users", "who", greeting="good-evening")[1] for _ in range(4)} == {True}
    project.write("greeting/GREETING", "nobody-wants-this")
    refused = project.cli("rotate", "GREETING")
    assert refused.returncode == 1
    assert "worker" in refused.stdout + refused.stderr
    assert {workspace.ask("users", "who", greeting="good-evening")[1] for _ in range(4)} == {True}

    # The log of a worker is that of its module, and the module stops as one.
    assert "users | " in project.cli("logs", "users", "--format", "text").stdout
    assert project.cli("stop", "users").returncode == 0
    assert all(soon_gone(pid) for pid in workers)
    assert workspace.up.stop() == 0


def test_what_a_killed_worker_had_begun_in_a_shared_database_is_rolled_back(project: Project) -> None:
    workspace = workspace_of(project, channel="stdio")
    with workspace.connect() as connection:
        connection.head("GET", "/users/hold")
        line = workspace.up.wait_for("holding ")
        pid = int(line.partition("holding ")[2].partition('"')[0])
        os.kill(pid, signal.SIGKILL)
        assert until(workspace, "/users/add/after") == "1"
    assert workspace.up.stop() == 0
