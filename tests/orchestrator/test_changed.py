"""Modules whose files change are reloaded one after the other, and once more where they change meanwhile."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from pywatt_host.orchestrator.changed import ChangedModules
from tests.hosting import run
from tests.orchestrator.test_up import Workspace
from tests.process.supervised import until
from tests.processes import Project


class Reloads:
    """Reloads that end when the test says so."""

    def __init__(self) -> None:
        self.begun: asyncio.Queue[str] = asyncio.Queue()
        self.end = asyncio.Event()
        self.running = ""
        self.given_up: list[str] = []

    async def reload(self, module: str) -> None:
        self.running = module
        self.begun.put_nowait(module)
        await self.end.wait()
        self.end.clear()

    def give_up(self, module: str, why: str) -> None:
        if module == self.running:
            self.given_up.append(why)
            self.end.set()


def test_a_change_during_a_reload_gives_it_up_and_reloads_again() -> None:
    async def main() -> None:
        reloads: Any = Reloads()
        again: list[int] = []
        changed = ChangedModules(Path("/"), lambda: again.append(1))
        running = asyncio.ensure_future(changed.reload(reloads))
        changed.note("a", {Path("/a.py")})
        assert await reloads.begun.get() == "a"
        changed.note("b", {Path("/b.py")})
        assert reloads.given_up == []  # it is about another module
        changed.note("a", {Path("/a.py"), Path("/c.py")})
        assert len(reloads.given_up) == 1
        assert await reloads.begun.get() == "b"
        reloads.end.set()
        assert await reloads.begun.get() == "a"
        reloads.end.set()
        for _ in range(5):
            await asyncio.sleep(0)
        assert reloads.begun.empty()
        assert len(again) == 3
        running.cancel()

    run(main)


APP = """
import time
{first}
def create():
    {second}
    async def app(scope, receive, send):
        if scope["type"] == "http":
            await send({{"type": "http.response.start", "status": 200, "headers": []}})
            await send({{"type": "http.response.body", "body": b"{body}"}})
    return app
"""


def test_up_watch_restarts_what_changes_says_why_it_cannot_and_recovers(project: Project) -> None:
    def write(name: str, body: str, *, first: str = "", second: str = "") -> None:
        project.write(f"{name}/main.py", APP.format(body=body, first=first, second=second or "pass"))

    for name in ("shop", "late"):
        project.write(f"{name}/pywatt.yaml", "app: main:create\nhealth: false\n")
    write("shop", "one")
    write("late", "late", first="no_such_name")
    workspace = Workspace(
        project,
        "--watch",
        timeouts={"start": "60s", "stop": "30s"},
        modules={"shop": {"manifest": "shop"}, "late": {"manifest": "late"}},
    )
    # The import of one module is at fault: that is said, and the other one runs.
    workspace.up.wait_for("late/pywatt.yaml:1:6")
    workspace.up.wait_for("shop is healthy")
    workspace.up.wait_for("late has ended (exit code 3)")
    write("late", "late")
    workspace.ready()
    # A start that hangs is given up when the file changes again.
    write("shop", "two", second="time.sleep(600)")
    workspace.up.wait_for("reloading shop")
    write("shop", "three", first="no_such_name")
    workspace.up.wait_for("the reload was refused: shop: the new process did not start (exit code 3)")
    assert workspace.get("/shop/") == (200, "one")
    assert "refused" in workspace.get("/health")[1]
    write("shop", "four")
    until(lambda: workspace.get("/shop/") == (200, "four"))
    assert workspace.get("/late/") == (200, "late")
    project.write("wattson.yaml", "{}")
    workspace.up.wait_for("wattson.yaml has changed; up reads it only when it starts")
    assert workspace.up.stop() == 0
