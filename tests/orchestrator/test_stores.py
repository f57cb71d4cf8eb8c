"""Stores of a workspace, used by its modules as orchestrator:NAME: real processes, a real wire."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from typing import Any

from tests.orchestrator.test_up import Workspace
from tests.processes import PATIENCE, Project

APP = """
import asyncio
from fastapi import FastAPI

def create_app(state):
    app = FastAPI()
    db, cache = state.db, state.cache

    @app.get("/add/{text}")
    async def add(text: str):
        async with db.transaction() as connection:
            await connection.execute("INSERT INTO notes (text) VALUES ($1)", text)
            return await connection.fetchval("SELECT count(*) FROM notes")

    @app.get("/notes")
    async def notes():
        return [row.text async for row in db.iterate("SELECT text FROM notes ORDER BY id", chunk=2)]

    @app.get("/count")
    async def count():
        return await cache.increment("count")

    @app.get("/wrong")
    async def wrong():
        try:
            await db.execute("INSERT INTO notes (id, text) VALUES (1, 'again')")
        except Exception as error:
            return [type(error).__name__, error.code, str(error)]

    @app.get("/large")
    async def large():
        try:
            await db.fetch("SELECT zeroblob(15000000) AS blob")
        except Exception as error:
            return [error.code, str(error)]

    @app.get("/hold")
    async def hold():
        async with db.transaction() as connection:
            await connection.execute("INSERT INTO notes (text) VALUES ('never')")
            print("holding", flush=True)
            await asyncio.Event().wait()

    return app
"""


def workspace_of(project: Project, **keys: Any) -> Workspace:
    project.write("one/main.py", APP)
    project.write("schema.sql", "CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT NOT NULL);\n")
    module = {
        "app": "main:create_app",
        "databases": {"default": "orchestrator:shared"},
        "caches": {"default": {"url": "orchestrator:shared", "namespace": "together"}},
        "health": {"interval": "200ms"},
    }
    project.write("one/pywatt.yaml", json.dumps(module))
    modules = {
        name: {"manifest": "one/pywatt.yaml", "channel": channel} for name, channel in keys.pop("channels").items()
    }
    return Workspace(
        project,
        modules=modules,
        databases={"shared": {"url": "sqlite:///shared.db", "init": "schema.sql"}},
        caches={"shared": "memory://"},
        **keys,
    )


def test_modules_share_a_database_and_a_cache_over_every_channel(project: Project) -> None:
    workspace = workspace_of(project, channels={"one": "stdio", "two": "ipc", "three": "tcp"})
    workspace.ready()
    assert [workspace.get(f"/{module}/add/{module}") for module in ("one", "two", "three")] == [
        (200, "1"), (200, "2"), (200, "3"),
    ]  # fmt: skip
    assert workspace.get("/two/notes") == (200, '["one","two","three"]')
    assert [workspace.get(f"/{module}/count")[1] for module in ("one", "two", "three")] == ["1", "2", "3"]
    name, code, text = json.loads(workspace.get("/three/wrong")[1])
    assert (name, code) == ("StoreError", "integrity")
    assert text == "databases.default: UNIQUE constraint failed: notes.id"
    code, text = json.loads(workspace.get("/two/large")[1])
    assert code == "arguments"
    assert "read it with iterate" in text
    assert workspace.get("/two/notes")[0] == 200


def test_what_a_killed_module_had_begun_is_rolled_back(project: Project) -> None:
    workspace = workspace_of(project, channels={"one": "ipc", "two": "stdio"})
    workspace.ready()
    with workspace.connect() as connection:
        connection.head("GET", "/one/hold")
        workspace.up.wait_for("holding")
        (replica,) = workspace.modules()["one"]
        os.kill(replica["pid"], signal.SIGKILL)
        assert workspace.get("/two/add/after") == (200, "1")  # nobody holds the lock any more
        deadline = time.monotonic() + PATIENCE
        while workspace.get("/one/notes") != (200, '["after"]'):  # it has been started again
            assert time.monotonic() < deadline


def test_a_store_that_nobody_declares_is_named(project: Project) -> None:
    project.write("one/main.py", APP)
    module = {
        "app": "main:create_app",
        "databases": {"default": "orchestrator:nothing"},
        "caches": {"default": "memory://"},
    }
    project.write("one/pywatt.yaml", json.dumps(module))
    workspace = Workspace(
        project, modules={"one": {"manifest": "one/pywatt.yaml", "restart": "no"}}, caches={"shared": "memory://"}
    )
    line = workspace.up.wait_for("databases.default: there is no store")
    assert "'nothing' of the type Database (the workspace declares none)" in line


def test_a_store_that_cannot_be_reached_keeps_the_workspace_from_starting(project: Project) -> None:
    project.write("one/main.py", APP)
    project.write("one/pywatt.yaml", json.dumps({"app": "main:create_app"}))
    workspace = Workspace(
        project,
        modules={"one": {"manifest": "one/pywatt.yaml"}},
        databases={"shared": "postgresql://users:hidden-password@127.0.0.1:1/users"},
        timeouts={"start": "2s"},
    )
    assert workspace.up.wait() == 3
    said = "\n".join(workspace.up.lines)
    # On a busy machine not even the first attempt has an end in two seconds.
    ends = (r"postgresql://users:\*\*\*@127\.0\.0\.1:1/users: could not connect", "the server does not answer")
    assert re.search(f"databases.shared: ({'|'.join(ends)})", said)
    assert "hidden-password" not in said
