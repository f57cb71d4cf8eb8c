"""`pywatt_module.process`: a module as a process with workers, and a client for it."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from pywatt_host import AppState
from pywatt_host.exceptions import MessagingError, SecretError
from pywatt_host.testing import PywattModule

APP = """
import os
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

VERSION = 1

def create_app(state):
    @state.on_message("who")
    async def who(message):
        return [os.getpid(), message]

    @state.on_rotation("KEY")
    async def rotated(secret):
        if secret.expose_secret() == "refuse-this-one":
            raise RuntimeError("no")

    async def key(request):
        state.logger.info("the key is wanted")
        secret = await state.get_secret("KEY")
        return JSONResponse([os.getpid(), secret.expose_secret(), VERSION, os.environ.get("MODE")])

    return Starlette(routes=[Route("/key", key)])
"""
MANIFEST = "app: main:create_app\nsecrets: {rotate: true, keys: [KEY], sources: [orchestrator]}\n"


def top_level(state: AppState) -> Starlette:
    async def where(request: Request) -> JSONResponse:
        return JSONResponse(os.getpid())

    return Starlette(routes=[Route("/where", where)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "main.py").write_text(APP)
    (tmp_path / "pywatt.yaml").write_text(MANIFEST)
    return tmp_path


def answers(module: Any, wanted: int = 2) -> dict[int, Any]:
    """What each worker says at /key, by process id."""
    found: dict[int, Any] = {}
    for _ in range(200):
        pid, *rest = module.get("/key").json()
        found[pid] = rest
        if len(found) == wanted:
            break
    return found


def test_a_module_runs_with_workers(pywatt_module: PywattModule, folder: Path) -> None:
    module = pywatt_module.process(folder, workers=2, secrets={"KEY": "first-value"}, environ={"MODE": "test"})
    pids = module.worker_pids()
    assert len(pids) == 2
    found = answers(module)
    assert (set(found), list(found.values())) == (set(pids), [["first-value", 1, "test"]] * 2)
    replies = [module.deliver("who", {"n": number}) for number in range(4)]
    assert [reply[1]["n"] for reply in replies] == [0, 1, 2, 3]
    assert {reply[0] for reply in replies} == set(pids)
    with pytest.raises(MessagingError, match="nobody"):
        module.deliver("nobody")

    module.rotate(KEY="second-value")
    assert {value for value, *_ in answers(module).values()} == {"second-value"}
    with pytest.raises(SecretError, match="worker"):
        module.rotate(KEY="refuse-this-one")
    assert {value for value, *_ in answers(module).values()} == {"second-value"}

    os.kill(pids[0], signal.SIGKILL)
    module.process.wait_for("accepts connections")
    assert pids[0] not in module.worker_pids()

    (folder / "main.py").write_text(APP.replace("VERSION = 1", "VERSION = 2"))
    verdict = module.reload()
    assert (verdict["ok"], verdict["generation"]) == (True, 2)
    assert {version for _, version, _ in answers(module).values()} == {2}
    (folder / "main.py").write_text("import nothing_of_that_name\n")
    verdict = module.reload()
    assert (verdict["ok"], "nothing_of_that_name" in verdict["reason"]) == (False, True)
    assert "the key is wanted" in [record["message"] for record in module.logs]
    assert module.stop() == 0


def test_a_mapping_and_overrides(pywatt_module: PywattModule) -> None:
    manifest = {"app": top_level, "endpoints": [{"path": "/where"}]}
    module = pywatt_module.process(manifest, workers=3, overrides={"server.limits.body": "1KiB"})
    assert len(module.worker_pids()) == 3
    assert module.get("/where").json() in module.worker_pids()
    assert module.get("/elsewhere").status_code == 404
    assert module.post("/where", content=b"x" * 2000).status_code in (405, 413)
    with pytest.raises(SecretError, match="secrets="):
        module.rotate(KEY="value")


def test_an_import_path_as_a_single_process_on_a_unix_socket(pywatt_module: PywattModule, folder: Path) -> None:
    path = folder / "folder.sock"
    module = pywatt_module.process(
        {"app": "main:create_app"},
        workers=1,
        overrides={"server.listen": f"unix:{path}", "secrets.sources": ["env"]},
        environ={"KEY": "of-the-environment"},
    )
    assert path.is_socket()
    assert module.worker_pids() == []
    assert module.get("/key").json()[1] == "of-the-environment"


def test_a_module_that_cannot_start_shows_its_log(pywatt_module: PywattModule, tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text("import nothing_of_that_name\n")
    with pytest.raises(AssertionError, match="nothing_of_that_name"):
        pywatt_module.process({"app": "main:app"})


@pytest.mark.parametrize("what", [(lambda state: Starlette()), Starlette(), {"app": Starlette()}])
def test_what_another_process_cannot_import_is_refused(pywatt_module: PywattModule, what: Any) -> None:
    with pytest.raises(TypeError, match="cannot be imported by another process"):
        pywatt_module.process(what)


def test_in_the_process_of_the_tests_a_manifest_with_workers_is_served_by_one(
    pywatt_module: PywattModule, folder: Path
) -> None:
    (folder / "pywatt.yaml").write_text(MANIFEST + "server: {workers: 2, reload: signal}\n")
    client = pywatt_module(folder, secrets={"KEY": "first-value"})
    assert client.get("/key").json()[:2] == [os.getpid(), "first-value"]
    assert client.deliver("who", {})[0] == os.getpid()
    client.rotate(KEY="second-value")
    assert client.get("/key").json()[1] == "second-value"
