"""A value that changes in a source is in use within a second; one that is being written is left alone."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from pywatt_host.manifest.model.secrets import SecretKey
from pywatt_host.manifest.model.secrets import SecretSource as Declared
from pywatt_host.secrets import Masker, SecretStore
from pywatt_host.secrets.files import DirectorySource
from tests.hosting import PATIENCE, run
from tests.processes import allowed
from tests.secrets import places

FILES = {
    "dotenv": Declared(dotenv=".env"),
    "directory": Declared(directory="."),
    "file": Declared(file="secrets.yaml"),
}


def write(kind: str, folder: Path, values: Mapping[str, str]) -> None:
    if kind == "directory":
        for name, value in values.items():
            places.replace(folder / name, value)
    elif kind == "dotenv":
        places.replace(folder / ".env", "".join(f"{name}={value}\n" for name, value in values.items()))
    else:
        places.replace(folder / "secrets.yaml", "".join(f"{name}: {value}\n" for name, value in values.items()))


def store(names: str | Mapping[str, SecretKey], *sources: Any) -> SecretStore:
    keys = {name: SecretKey() for name in names.split()} if isinstance(names, str) else names
    return SecretStore(keys, sources, Masker())


class Follower:
    """Watches as the host does: what has changed is fetched again and installed."""

    def __init__(self, secrets: SecretStore) -> None:
        self.secrets = secrets
        self.rotations: list[frozenset[str]] = []
        self._news = asyncio.Condition()

    async def follow(self, interval: float) -> None:
        async with aclosing(self.secrets.watch(interval)) as changes:  # type: ignore[type-var]
            async for names in changes:
                self.secrets.install(await self.secrets.refresh(names))
                async with self._news:
                    self.rotations.append(names)
                    self._news.notify_all()

    async def until(self, **secret_values: str) -> None:
        def there() -> bool:
            return all(self.secrets.secret_values.get(name) == text for name, text in secret_values.items())

        async with self._news, asyncio.timeout(PATIENCE):
            await self._news.wait_for(there)


@asynccontextmanager
async def following(secrets: SecretStore, interval: float = 3600.0) -> AsyncIterator[Follower]:
    """With so long an interval, only what files show by themselves is seen."""
    follower = Follower(secrets)
    task = asyncio.create_task(follower.follow(interval))
    try:
        yield follower
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled(), task.exception()


async def looks(number: int = 1) -> None:
    """Long enough for the watch to have looked so often."""
    await asyncio.sleep(number * 0.6)


@pytest.mark.parametrize("kind", FILES)
def test_a_new_value_is_in_use_within_a_second(kind: str, tmp_path: Path) -> None:
    async def main() -> None:
        write(kind, tmp_path, {"A": "a-1", "B": "b-1"})
        secrets = store("A B", places.source(FILES[kind], tmp_path))
        await secrets.load()
        async with following(secrets) as follower:
            await looks()
            began = time.monotonic()
            write(kind, tmp_path, {"A": "a-2", "B": "b-1"})
            await follower.until(A="a-2", B="b-1")
            assert time.monotonic() - began < allowed(1.0)
            assert follower.rotations == [frozenset({"A"})]

    run(main)


def test_what_changed_between_loading_and_watching_is_found(tmp_path: Path) -> None:
    async def main() -> None:
        write("directory", tmp_path, {"A": "a-1"})
        secrets = store("A", places.source(FILES["directory"], tmp_path))
        await secrets.load()
        write("directory", tmp_path, {"A": "a-2"})
        async with following(secrets) as follower:
            await follower.until(A="a-2")

    run(main)


def test_a_swap_between_the_reading_of_two_files_is_seen_as_a_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        places.mount(tmp_path, {"A": "v1-a", "B": "v1-b"}, 1)
        secrets = store("A B", places.source(FILES["directory"], tmp_path))
        await secrets.load()
        read, swapped = DirectorySource.get, asyncio.Event()

        async def get(source: DirectorySource, name: str) -> str | None:
            if name == "B":
                await swapped.wait()
            text = await read(source, name)
            if not swapped.is_set():
                places.mount(tmp_path, {"A": "v2-a", "B": "v2-b"}, 2)
                swapped.set()
            return text

        monkeypatch.setattr(DirectorySource, "get", get)
        async with following(secrets) as follower:
            await follower.until(A="v2-a", B="v2-b")
            assert follower.rotations == [frozenset({"A", "B"})]

    run(main)


def test_a_swap_of_a_mounted_folder_is_seen_as_a_set(tmp_path: Path) -> None:
    """As Kubernetes does it, again and again by a thread: whoever reads gets values of one version."""

    async def main() -> None:
        places.mount(tmp_path, {"A": "v1-a", "B": "v1-b"}, 1)
        secrets = store("A B", places.source(FILES["directory"], tmp_path))
        await secrets.load()
        last, stop = 40, threading.Event()

        def swap() -> None:
            for version in range(2, last + 1):
                places.mount(tmp_path, {"A": f"v{version}-a", "B": f"v{version}-b"}, version)
                stop.wait(0.04)

        async with following(secrets) as follower:
            thread = threading.Thread(target=swap)
            thread.start()
            try:
                while thread.is_alive():
                    secret_values = secrets.secret_values
                    assert secret_values["A"].removesuffix("-a") == secret_values["B"].removesuffix("-b")
                    await asyncio.sleep(0.005)
            finally:
                stop.set()
                thread.join()
            await follower.until(A=f"v{last}-a", B=f"v{last}-b")

    run(main)


def test_a_file_that_is_written_in_pieces_is_taken_when_it_is_whole(tmp_path: Path) -> None:
    def write_slowly() -> None:
        with open(tmp_path / "A", "w") as file:  # empty from now on
            for piece in ("the-", "new-", "value-", "is-", "long"):
                time.sleep(0.1)
                file.write(piece)
                file.flush()

    async def main() -> None:
        write("directory", tmp_path, {"A": "the-old-value"})
        secrets = store("A", places.source(FILES["directory"], tmp_path))
        await secrets.load()
        async with following(secrets) as follower:
            await looks()
            await asyncio.to_thread(write_slowly)
            await follower.until(A="the-new-value-is-long")
            assert len(follower.rotations) == 1

    run(main)


@pytest.mark.parametrize("kind", FILES)
def test_a_value_that_is_gone_stays_and_none_is_taken_from_below(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        write(kind, tmp_path, {"A": "a-1", "C": "c-1"})
        keys = {"A": SecretKey(), "C": SecretKey(required=False, default="the default")}
        below = places.source(Declared(kind="env"), tmp_path, {"A": "old", "C": "old"})
        secrets = store(keys, places.source(FILES[kind], tmp_path), below)
        await secrets.load()
        async with following(secrets) as follower:
            await looks()
            for path in (".env", "secrets.yaml", "A", "C"):
                (tmp_path / path).unlink(missing_ok=True)
            await looks(2)
            assert follower.rotations == []
            assert not (await secrets.refresh(["A", "C"])).changed
            assert dict(secrets.secret_values) == {"A": "a-1", "C": "c-1"}
            write(kind, tmp_path, {"A": "a-2", "C": "c-1"})
            await follower.until(A="a-2")

    with caplog.at_level(logging.WARNING):
        run(main)
    label = {"dotenv": "dotenv .env", "directory": "directory .", "file": "file secrets.yaml"}[kind]
    assert f"Secret A is no longer in {label}; its last value stays in use" in caplog.messages


def test_what_cannot_be_used_leaves_the_old_value_is_told_once_and_looked_at_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        write("file", tmp_path, {"A": "1", "B": "2"})
        keys = {name: SecretKey(type="int") for name in "AB"}
        secrets = store(keys, places.source(FILES["file"], tmp_path))
        await secrets.load()
        async with following(secrets, interval=0.05) as follower:
            await looks()
            os.chmod(tmp_path / "secrets.yaml", 0o644)
            await looks(3)
            write("file", tmp_path, {"A": "hunter2", "B": "2"})
            await looks(3)
            assert follower.rotations == []
            write("file", tmp_path, {"A": "11", "B": "2"})
            await follower.until(A="11")

    with caplog.at_level(logging.WARNING):
        run(main)
    said = [message for message in caplog.messages if "shorter" not in message]
    assert said == [
        "file secrets.yaml has mode 0644, which lets other users access it; run chmod 600 on it; "
        "the value in use stays",
        "Secret A is not of type int; the value in use stays",
    ]


def test_one_source_that_is_broken_does_not_hold_up_what_another_has(tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "mounted").mkdir()
        write("directory", tmp_path / "mounted", {"A": "a-1"})
        write("file", tmp_path, {"B": "b-1"})
        directory = places.source(Declared(directory="mounted"), tmp_path)
        secrets = store("A B", directory, places.source(FILES["file"], tmp_path))
        await secrets.load()
        os.chmod(tmp_path / "secrets.yaml", 0o644)
        async with following(secrets) as follower:
            await looks()
            write("directory", tmp_path / "mounted", {"A": "a-2"})
            await follower.until(A="a-2", B="b-1")

    run(main)


def test_a_source_above_that_comes_to_have_a_value_wins(tmp_path: Path) -> None:
    async def main() -> None:
        environment = places.source(Declared(kind="env"), tmp_path, {"A": "from env"})
        secrets = store("A", places.source(FILES["directory"], tmp_path), environment)
        await secrets.load()
        assert secrets.secret_values["A"] == "from env"
        async with following(secrets) as follower:
            await looks()
            write("directory", tmp_path, {"A": "from directory"})
            await follower.until(A="from directory")

    run(main)


def test_sources_that_are_not_watched_are_not_asked_when_a_file_changes(tmp_path: Path) -> None:
    asked: list[str] = []

    async def fetch(name: str) -> str:
        asked.append(name)
        return "from the orchestrator"

    async def main() -> None:
        write("directory", tmp_path, {"A": "a-1"})
        orchestrator = places.source(Declared(kind="orchestrator"), tmp_path, fetch=fetch)
        secrets = store("A", orchestrator, places.source(FILES["directory"], tmp_path))
        await secrets.load()
        assert asked == ["A"]
        async with following(secrets) as follower:
            for number in range(2):
                write("directory", tmp_path, {"A": f"b-{number}"})
                await looks()
            assert follower.rotations == []
        assert asked == ["A"]
        assert secrets.secret_values["A"] == "from the orchestrator"

    run(main)


def test_nothing_that_can_change_is_nothing_to_watch(tmp_path: Path) -> None:
    async def main() -> None:
        secrets = store("A", places.source(Declared(kind="env"), tmp_path, {"A": "a"}))
        await secrets.load()
        assert [names async for names in secrets.watch(0.01)] == []

    run(main)


def test_vault_is_asked_each_interval_and_may_be_away_for_a_while(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("hvac", reason="the extra `vault` is not installed")

    async def main() -> None:
        with places.vault_server() as server:
            server.values = {"A": "vault-value-1"}
            secrets = store("A", places.source(server.declared(token=server.token), tmp_path))
            await secrets.load()
            async with following(secrets, interval=0.1) as follower:
                server.values = {"A": "vault-value-2"}
                await follower.until(A="vault-value-2")
                server.status = 503
                await looks(3)
                assert secrets.secret_values["A"] == "vault-value-2"
                server.values = {"A": "vault-value-3"}
                server.status = 200
                await follower.until(A="vault-value-3")

    with caplog.at_level(logging.WARNING):
        run(main)
    assert [each for each in caplog.messages if "Vault" in each] == [
        "vault secret/team/users: Vault answered VaultDown; the value in use stays"
    ]


def test_a_quiet_vault_is_not_asked_before_its_interval(tmp_path: Path) -> None:
    pytest.importorskip("hvac", reason="the extra `vault` is not installed")

    async def main() -> None:
        with places.vault_server() as server:
            server.values = {"A": "vault-value-1"}
            secrets = store("A", places.source(server.declared(token=server.token), tmp_path))
            await secrets.load()
            async with following(secrets):
                await looks(3)
            assert len(server.requests) == 1  # what was read at the start served the first look

    run(main)
