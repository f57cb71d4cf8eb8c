"""build() makes objects and touches nothing; what it makes is what the manifest says."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from pywatt_host import AppState, Host, Manifest, load_manifest
from pywatt_host.build.host import build
from pywatt_host.manifest import Source, load
from tests.hosting import Recorder, hosted, run


def test_building_touches_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def touched(*_: object, **__: object) -> None:
        raise AssertionError("build touched the world")

    (tmp_path / "pywatt.yaml").write_text(
        "app: nowhere:app\nmetrics: true\nserver: {listen: [unix:s.sock, ':1'], cors: {allow_origins: ['*']}}\n"
    )
    manifest = load_manifest(tmp_path, environ={})
    monkeypatch.setattr(socket, "socket", touched)
    monkeypatch.setattr(os, "mkdir", touched)
    host = build(manifest, {})
    assert isinstance(host, Host)
    assert isinstance(host.manifest, Manifest)
    assert os.listdir(tmp_path) == ["pywatt.yaml"]


def test_the_state_is_the_applications_view_of_its_manifest(tmp_path: Path) -> None:
    data = {"app": "main:app", "config": {"a": 1}, "module": {"id": "users"}}
    manifest = load(Source.of_data(data, name="test", directory=tmp_path), environ={}).manifest
    state = build(manifest, {}).state
    assert isinstance(state, AppState)
    assert (state.module_id, dict(state.config), state.manifest) == ("users", {"a": 1}, manifest)
    assert state.logger.name == "app.users"
    assert repr(state) == "<AppState users>"


def test_the_folder_names_the_module(tmp_path: Path) -> None:
    folder = tmp_path / "billing"
    folder.mkdir()
    manifest = load(Source.of_data({"app": "main:app"}, name="test", directory=folder), environ={}).manifest
    assert build(manifest, {}).state.module_id == "billing"


def test_one_manifest_can_be_built_again_and_again() -> None:
    async def main() -> None:
        for _ in range(2):
            app = Recorder()
            async with hosted({"metrics": True}, app) as host:
                assert (await host.get("/")).status == 200
                assert (await host.get("/metrics")).body.count(b"http_server_request_duration_seconds_count{") == 1

    run(main)
