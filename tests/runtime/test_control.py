"""The control socket: where it is, what it answers."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pywatt_host.exceptions import BindError, HostError, MessagingError, SecretError
from pywatt_host.runtime.control import ControlApp, control_folders, control_path
from tests.hosting import Answer, Call, http_scope, run, websocket
from tests.processes import Project


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


def test_it_rotates_and_sends_where_the_host_can() -> None:
    async def rotate(name: str) -> dict[str, Any]:
        if name != "TOKEN":
            raise SecretError(f"there is no secret {name}")
        return {"rotation_id": "1", "acknowledged": {}}

    async def send(type: str, content: Mapping[str, Any], timeout: float) -> Any:
        if type != "sum":
            raise MessagingError("no_handler", "nobody", "users")
        return [content["a"] + 1, timeout]

    app = ControlApp(dict, lambda why: None, rotate, send)

    async def ask(path: str, body: object, app: ControlApp = app) -> Answer:
        octets = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await Call(app, http_scope("POST", path), [octets[:3], octets[3:]]).answer()

    async def main() -> None:
        assert (await ask("/rotate", {"name": "TOKEN"})).json() == {"rotation_id": "1", "acknowledged": {}}
        refused = await ask("/rotate", {"name": "OTHER"})
        assert (refused.status, refused.json()["detail"]) == (409, "there is no secret OTHER")
        assert (await ask("/send", {"type": "sum", "content": {"a": 1}})).json() == {"reply": [2, 30.0]}
        assert (await ask("/send", {"type": "x"})).json() == {"error": {"code": "no_handler", "message": "nobody"}}
        for body in (b"{", b"[]", {"type": 1}, {"type": "x", "content": []}, {"type": "x", "timeout": 0}):
            assert (await ask("/send", body)).status == 400, body
            assert (await ask("/rotate", body)).status == 400, body
        assert (await ask("/send", {"type": "x" * (16 * 1024**2)})).status == 400
        plain = ControlApp(dict, lambda why: None)
        for path in ("/rotate", "/send"):
            assert (await ask(path, {"name": "TOKEN"}, plain)).status == 404

    run(main)


def test_it_reloads_and_tells_the_manifest_where_the_host_can() -> None:
    asked: list[str] = []

    async def reload(module: str) -> dict[str, Any]:
        asked.append(module)
        if module == "gone":
            raise HostError("there is no module gone")
        return {"ok": False, "reason": "the token is hunter22"}

    def mask(text: str) -> str:
        return text.replace("hunter22", "***")

    app = ControlApp(dict, lambda why: None, mask=mask, reload=reload, manifest=lambda: {"manifest": {"a": "hunter22"}})

    async def ask(body: bytes, app: ControlApp = app) -> Answer:
        return await Call(app, http_scope("POST", "/reload"), [body]).answer()

    async def main() -> None:
        assert (await ask(b"")).json() == {"ok": False, "reason": "the token is ***"}
        assert (await ask(b'{"module": "users"}')).status == 200
        refused = await ask(b'{"module": "gone"}')
        assert (refused.status, refused.json()["detail"]) == (409, "there is no module gone")
        assert (await ask(b'{"module": 1}')).status == 400
        assert asked == ["", "users", "gone"]
        assert (await Call(app, http_scope("GET", "/manifest")).answer()).json() == {"manifest": {"a": "***"}}
        plain = ControlApp(dict, lambda why: None)
        missing = await ask(b"", plain)
        assert missing.status == 404
        assert "server.reload" in missing.json()["detail"]
        assert (await Call(plain, http_scope("GET", "/manifest")).answer()).status == 404

    run(main)


@pytest.mark.parametrize("how", ["link", "mode"])
@pytest.mark.parametrize("setting", ["auto", ".pywatt/control.sock"])
def test_a_folder_that_others_may_change_is_refused(tmp_path: Path, how: str, setting: str) -> None:
    folder = tmp_path / ".pywatt"
    if how == "link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        folder.symlink_to(tmp_path / "elsewhere")
    else:
        folder.mkdir()
        folder.chmod(0o777)
    why = "it is a symbolic link" if how == "link" else "other users may write to it (mode 0777)"
    with pytest.raises(BindError) as caught:
        control_path(setting, "users", tmp_path, {}, "control")
    assert (caught.value.key, caught.value.hint) == ("control", "it must belong to this user, with mode 0700")
    assert caught.value.message == f"the folder {folder} is not private: {why}"


def test_the_runtime_directory_is_checked_as_well(tmp_path: Path) -> None:
    (tmp_path / "pywatt").mkdir()
    (tmp_path / "pywatt").chmod(0o770)
    with pytest.raises(BindError, match="other users may write to it"):
        control_path("auto", "users", tmp_path, {"XDG_RUNTIME_DIR": str(tmp_path)})


def test_a_path_may_be_where_others_cannot_replace_the_socket(tmp_path: Path) -> None:
    shared = tmp_path / "run"
    shared.mkdir()
    shared.chmod(0o1777)
    assert control_path("run/c.sock", "users", tmp_path, {}) == shared / "c.sock"
    assert control_path("missing/c.sock", "users", tmp_path, {}) == tmp_path / "missing" / "c.sock"
    shared.chmod(0o777)
    with pytest.raises(BindError, match=r"the folder .*/run is not private: other users may write to it"):
        control_path("run/c.sock", "users", tmp_path, {})


APP = """
async def app(scope, receive, send):
    raise RuntimeError("no request is sent")
"""


def test_auto_is_a_warning_and_a_path_is_an_error(project: Project) -> None:
    project.write("main.py", APP)
    (project.folder / ".pywatt").mkdir()
    (project.folder / ".pywatt").chmod(0o777)
    project.manifest()
    no_runtime = {"XDG_RUNTIME_DIR": ""}
    host = project.host(env=no_runtime)
    assert host.ready
    (line,) = [line for line in host.logs if line["message"].startswith("no control socket: ")]
    assert (line["level"], line["key"]) == ("warning", "server.control")
    assert "is not private: other users may write to it (mode 0777) (it must belong to this user" in line["message"]
    assert host.stop() == 0
    faulty: dict[str, dict[str, Any]] = {
        "server.control": {"server": {"control": ".pywatt/control.sock"}},
        "channels.ipc.listen": {"channels": {"ipc": {"listen": ".pywatt/peers.sock"}}},
    }
    for key, manifest in faulty.items():
        project.manifest(**manifest)
        host = project.host(env=no_runtime)
        assert host.wait() == 3
        (line,) = [line for line in host.logs if f"{key}: cannot listen on" in line["message"]]
        assert line["level"] == "critical"
        assert "is not private: other users may write to it (mode 0777)" in line["message"]
