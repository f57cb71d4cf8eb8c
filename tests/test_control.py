"""The control socket: where it is, what it answers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from pywatt_host.control import ControlApp, control_folders, control_path
from tests.hosting import Answer, Call, http_scope, run, websocket


def test_it_is_in_the_runtime_directory_else_beside_the_manifest(tmp_path: Path) -> None:
    runtime, folder = tmp_path / "run", tmp_path / "module"
    runtime.mkdir()
    folder.mkdir()
    name = f"users-{os.getpid()}.sock"
    with_runtime = {"XDG_RUNTIME_DIR": str(runtime)}
    assert control_path("auto", "users", folder, with_runtime) == runtime / "pywatt" / name
    assert (runtime / "pywatt").stat().st_mode & 0o777 == 0o700
    assert control_path("auto", "users", folder, {}) == folder / ".pywatt" / name
    assert control_folders(folder, {"XDG_RUNTIME_DIR": str(tmp_path / "gone")}) == [folder / ".pywatt"]
    assert control_path("run/c.sock", "users", folder, with_runtime) == folder / "run" / "c.sock"
    assert control_path("off", "users", folder, with_runtime) is None


def test_a_folder_that_cannot_be_made_is_an_oserror(tmp_path: Path) -> None:
    (tmp_path / ".pywatt").write_text("in the way")
    with pytest.raises(OSError, match=r"\.pywatt"):
        control_path("auto", "users", tmp_path, {})


def test_it_tells_the_status_stops_when_asked_and_knows_nothing_else() -> None:
    stopped: list[str] = []
    app = ControlApp(lambda: {"pid": 7}, stopped.append)

    async def ask(method: str, path: str) -> Answer:
        return await Call(app, http_scope(method, path)).answer()

    async def main() -> None:
        assert (await ask("GET", "/status")).json() == {"pid": 7}
        for method, path in (("GET", "/stop"), ("POST", "/status"), ("GET", "/"), ("PUT", "/stop")):
            assert (await ask(method, path)).status == 404
        assert stopped == []
        assert (await ask("POST", "/stop")).status == 202
        assert stopped == ["asked over the control socket"]
        sent: list[Any] = await websocket(app, "/status")
        assert sent == [{"type": "websocket.close", "code": 1008}]

    run(main)
