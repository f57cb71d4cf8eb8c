"""What is installed: both names, typed, the plugin, the templates; from a checkout and from a wheel."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.processes import ROOT

USER_CODE = """
from fastapi import FastAPI

from NAME import AnnouncedEndpoint, AppState, Host, Manifest, Secret, load_manifest, pywatt_module, run_module
from pywatt_host.fastapi import State
from pywatt_host.flask import app_state as flask_state
from pywatt_host.testing import PywattModule, StartWattson


@pywatt_module(
    endpoints=[AnnouncedEndpoint("/", methods=["GET", "POST"], body="1MiB")],
    secrets=["TOKEN"],
    metrics=True,
    framework="fastapi",
    manifest={"server": {"listen": ":8080"}},
)
async def create_app(app_state: AppState) -> FastAPI:
    app = FastAPI()
    token: Secret[str] = await app_state.get_secret("TOKEN")
    pages: Secret[int] = await app_state.get_secret("PAGES", int)
    app_state.metrics.counter("pages", labels=["kind"]).labels("a").inc(pages.expose_secret())

    @app_state.on_message("ping")
    async def ping(message: dict[str, str]) -> dict[str, str]:
        return {"said": message["text"] + token.expose_secret()}

    @app_state.health_check("store")
    def check() -> None: ...

    @app_state.on_startup
    async def begin() -> None:
        app_state.spawn(work, on_failure="restart")

    async def work() -> None:
        await app_state.http.get("http://127.0.0.1/")

    @app.get("/")
    async def root(state: State) -> dict[str, str]:
        return {"module_id": state.module_id}

    return app


def in_a_thread() -> str:
    return flask_state.sync.get_secret("TOKEN").expose_secret() + flask_state.sync.http.get("http://127.0.0.1/").text


async def test(pywatt_module: PywattModule, wattson: StartWattson) -> None:
    async with create_app({"module_id": "users"}) as app:
        host: Host = app.host
        manifest: Manifest = host.manifest
        assert manifest == load_manifest("pywatt.yaml")
    await create_app.aclose()
    code: int = run_module(create_app, ["--listen", ":9000"])
"""


def typed(folder: Path, name: str, cache: Path, **environ: str) -> None:
    pytest.importorskip("mypy")
    (folder / "user_code.py").write_text(USER_CODE.replace("NAME", name))
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(cache), "user_code.py"],
        cwd=folder,
        env={**{key: value for key, value in os.environ.items() if key != "MYPYPATH"}, **environ},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pywatt_host", "pywatt_sdk"])
def test_user_code_is_typed_with_this_installation(
    name: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    typed(tmp_path, name, tmp_path_factory.getbasetemp() / "mypy")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_wheel_has_both_names_the_plugin_and_the_templates_and_is_typed(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    wheels = tmp_path / "wheels"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", str(wheels), str(ROOT)], check=True, timeout=300)
    (wheel,) = wheels.glob("pywatt_host-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for wanted in ("pywatt_sdk/__init__.py", "pywatt_sdk/py.typed", "pywatt_host/py.typed"):
        assert wanted in names
    assert any(name.startswith("pywatt_host/scaffold/") and name.endswith(".txt") for name in names)
    assert zipfile.ZipFile(wheel).read("pywatt_host/cli/errors.md") == (ROOT / "docs" / "errors.md").read_bytes()
    assert [name for name in names if name.startswith(("tests/", "examples/", "docs/"))] == []
    (metadata,) = [name for name in names if name.endswith("entry_points.txt")]
    assert "[pytest11]\npywatt = pywatt_host.testing" in zipfile.ZipFile(wheel).read(metadata).decode()
    target = tmp_path / "installed"
    subprocess.run([*pip, "install", "--no-deps", "--target", str(target), str(wheel)], check=True, timeout=300)
    code = "import pywatt_sdk, pywatt_host; print(pywatt_sdk.__file__, pywatt_host.__file__, pywatt_sdk.AppState)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(target)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.count(str(target)) == 2
    folder = tmp_path / "user"
    folder.mkdir()
    typed(folder, "pywatt_sdk", tmp_path_factory.getbasetemp() / "mypy", MYPYPATH=str(target))
