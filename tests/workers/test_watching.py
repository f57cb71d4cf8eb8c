"""`server.reload: watch`: which files count, and when a change is told."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from pywatt_host.manifest import Manifest, Source, load
from pywatt_host.workers import watching
from pywatt_host.workers.watching import look, watch, watched_paths
from tests.hosting import run
from tests.workers.supervised import until


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "_POLL_INTERVAL", 0.01)
    monkeypatch.setattr(watching, "_DEBOUNCE", 0.05)


class Watched:
    def __init__(self, folder: Path) -> None:
        self.paths: list[Path] = []
        self.folder = folder
        self.looks = 0
        self.changes: list[str] = []

    def _paths(self) -> list[Path]:
        self.looks += 1
        return list(self.paths)

    async def looked(self) -> None:
        """Return after the next whole look."""
        before = self.looks
        await until(lambda: self.looks >= before + 2)

    def write(self, name: str, text: str = "first") -> Path:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path


def in_folder(folder: Path, test: Callable[[Watched], Awaitable[None]], *names: str) -> None:
    @asynccontextmanager
    async def watched() -> AsyncIterator[Watched]:
        found = Watched(folder)
        found.paths = [found.write(name) for name in names]
        task = asyncio.create_task(watch(found._paths, look(found.paths), found.changes.append))
        try:
            await found.looked()
            yield found
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def main() -> None:
        async with watched() as found:
            await test(found)

    run(main)


def test_a_change_is_told_once_and_nothing_without_one(tmp_path: Path) -> None:
    async def test(host: Watched) -> None:
        await host.looked()
        assert host.changes == []
        host.write("pywatt.yaml", "second")
        await until(lambda: host.changes)
        await host.looked()
        assert host.changes == ["pywatt.yaml changed"]
        host.write("pywatt.yaml", "third")
        await until(lambda: len(host.changes) == 2)

    in_folder(tmp_path, test, "pywatt.yaml")


def test_files_that_change_together_are_one_change(tmp_path: Path) -> None:
    async def test(host: Watched) -> None:
        host.write("pywatt.yaml", "second")
        host.write(".env", "A=2")
        await until(lambda: host.changes)
        await host.looked()
        assert host.changes == ["pywatt.yaml, .env changed"]

    in_folder(tmp_path, test, "pywatt.yaml", ".env")


def test_a_file_that_is_still_being_written_is_waited_for(tmp_path: Path) -> None:
    async def test(host: Watched) -> None:
        for number in range(10):
            host.write("pywatt.yaml", "x" * number)
            await asyncio.sleep(0.02)
        assert host.changes == []
        await until(lambda: host.changes)
        await host.looked()
        assert len(host.changes) == 1

    in_folder(tmp_path, test, "pywatt.yaml")


def test_a_file_that_is_removed_and_comes_back_is_a_change_each_time(tmp_path: Path) -> None:
    async def test(host: Watched) -> None:
        (host.folder / "pywatt.yaml").unlink()
        await until(lambda: len(host.changes) == 1)
        host.write("pywatt.yaml", "again")
        await until(lambda: len(host.changes) == 2)

    in_folder(tmp_path, test, "pywatt.yaml")


def test_a_file_that_is_replaced_at_once_is_one_change(tmp_path: Path) -> None:
    async def test(host: Watched) -> None:
        new = host.write("new", "first")
        new.rename(host.folder / "pywatt.yaml")
        await until(lambda: host.changes)
        await host.looked()
        assert host.changes == ["pywatt.yaml changed"]

    in_folder(tmp_path, test, "pywatt.yaml")


def test_a_mounted_configmap_changes_when_its_link_moves(tmp_path: Path) -> None:
    for version in ("1", "2"):
        (tmp_path / f"..{version}").mkdir()
        (tmp_path / f"..{version}" / "pywatt.yaml").write_text(version)
    (tmp_path / "..data").symlink_to("..1")

    async def test(host: Watched) -> None:
        link = host.folder / "pywatt.yaml"
        link.symlink_to("..data/pywatt.yaml")
        host.paths = [link, host.folder]
        await host.looked()
        moved = host.folder / "..tmp"
        moved.symlink_to("..2")
        os.replace(moved, host.folder / "..data")
        await until(lambda: host.changes)
        await host.looked()
        assert host.changes == [f"pywatt.yaml, {host.folder.name} changed"]

    in_folder(tmp_path, test)


def test_in_a_directory_any_file_counts_also_beside_a_link_that_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "broken").symlink_to("nowhere")
    (tmp_path / "secrets" / "KEY").write_text("first")

    async def test(host: Watched) -> None:
        host.paths = [host.folder / "secrets"]
        await host.looked()
        host.write("secrets/KEY", "second")
        await until(lambda: len(host.changes) == 1)
        host.write("secrets/NEW")
        await until(lambda: len(host.changes) == 2)
        (host.folder / "secrets" / "KEY").unlink()
        await until(lambda: len(host.changes) == 3)

    in_folder(tmp_path, test)


def test_what_is_watched_from_now_on_is_no_change_by_itself(tmp_path: Path) -> None:
    async def test(host: Watched) -> None:
        new = host.write("new.yaml")
        host.paths = [new]
        await host.looked()
        await host.looked()
        assert host.changes == []
        host.write("new.yaml", "second")
        await until(lambda: host.changes)
        host.paths = []
        host.write("new.yaml", "third")
        await host.looked()
        assert host.changes == ["new.yaml changed"]

    in_folder(tmp_path, test, "old.yaml")


def manifest(folder: Path, secrets: Any) -> Manifest:
    path = folder / "pywatt.yaml"
    path.write_text(json.dumps({"app": "main:app", "server": {"workers": 2, "reload": "watch"}, "secrets": secrets}))
    return load(Source.file(path), environ={}).manifest


def test_the_manifest_the_env_file_and_the_files_of_secrets_are_watched(tmp_path: Path) -> None:
    env_file = tmp_path / "prod.env"
    sources = [{"dotenv": ".env"}, {"directory": "secrets"}, {"file": "all.yaml"}, "env"]
    found = watched_paths(manifest(tmp_path, {"sources": sources}), env_file)
    assert found == [tmp_path / name for name in ("pywatt.yaml", "prod.env", ".env", "secrets", "all.yaml")]


def test_the_schema_of_config_is_watched(tmp_path: Path) -> None:
    (tmp_path / "config.schema.json").write_text("{}")
    data = {"app": "main:app", "config_schema": "config.schema.json"}
    watched = load(Source.of_data(data, name="code", directory=tmp_path), environ={}).manifest
    assert watched_paths(watched, None) == [tmp_path / "config.schema.json"]


def test_secrets_that_rotate_by_themselves_are_not_watched(tmp_path: Path) -> None:
    sources = [{"dotenv": ".env"}, {"directory": "secrets"}]
    assert watched_paths(manifest(tmp_path, {"rotate": True, "sources": sources}), None) == [tmp_path / "pywatt.yaml"]
