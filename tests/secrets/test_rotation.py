"""Rotation: all that depends on a secret goes over together, or nothing does."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pywatt_host.exceptions import SecretError
from pywatt_host.manifest import SecretTemplate
from pywatt_host.manifest.model import SecretKey
from pywatt_host.secrets import Masker, SecretStore
from pywatt_host.secrets.files import DirectorySource
from pywatt_host.secrets.rotation import EnvironmentDependant, Rotation
from tests.hosting import PATIENCE, hosted, run


class Recorder:
    """A dependant that says what was asked of it; it refuses one value."""

    name = "recorder"

    def __init__(self, *names: str, refuses: str = "") -> None:
        self.names = frozenset(names)
        self.events: list[str] = []
        self._refuses = refuses

    async def prepare(self, secret_values: Mapping[str, str]) -> Recorder:
        if self._refuses in secret_values.values():
            raise SecretError("it does not fit")
        self.events.append("prepare " + " ".join(secret_values[name] for name in sorted(self.names)))
        return self

    def commit(self) -> None:
        self.events.append("commit")

    def discard(self) -> None:
        self.events.append("discard")


class Folder:
    """Secrets as files, and the rotation over them."""

    def __init__(self, path: Path, **secrets: str) -> None:
        self.path = path
        self.put(**secrets)
        store = SecretStore({name: SecretKey() for name in secrets}, [DirectorySource(path, "secrets")], Masker())
        self.rotation = Rotation(store, rotate=True, interval=0.1)

    def put(self, **secrets: str) -> None:
        for name, value in secrets.items():
            staged = self.path / f".{name}"
            staged.write_text(value)
            os.replace(staged, self.path / name)

    def value(self, name: str) -> Any:
        return self.rotation.store.current(name).expose_secret()


def test_everything_prepares_before_anything_is_swapped(tmp_path: Path) -> None:
    async def main() -> None:
        folder = Folder(tmp_path, A="first-a", B="first-b")
        await folder.rotation.store.load()
        one, other, stranger = Recorder("A", "B"), Recorder("B"), Recorder("C")
        folder.rotation.register(one, other, stranger)
        seen: list[tuple[str, Any]] = []
        folder.rotation.on("A", lambda secret: seen.append((secret.expose_secret(), folder.value("A"))))
        folder.put(A="second-a", B="second-b")
        assert await folder.rotation.rotate(["A", "B", "UNKNOWN"], "a test") == ("A", "B")
        assert one.events == ["prepare second-a second-b", "commit"]
        assert other.events == ["prepare second-b", "commit"]
        assert stranger.events == []
        assert seen == [("second-a", "first-a")]
        assert (folder.value("A"), folder.value("B")) == ("second-a", "second-b")

    run(main)


def test_one_that_refuses_leaves_everything_as_it_was(tmp_path: Path) -> None:
    async def main() -> None:
        folder = Folder(tmp_path, A="first-a", B="first-b")
        rotation = folder.rotation
        await rotation.store.load()
        one = Recorder("A")
        rotation.register(one, Recorder("B", refuses="bad-value"))
        given: list[Any] = []
        rotation.on("A", lambda secret: given.append(secret.expose_secret()))
        folder.put(A="second-a", B="bad-value")
        with pytest.raises(SecretError, match="does not fit"):
            await rotation.rotate(["A", "B"], "a test")
        assert one.events == ["prepare second-a", "discard"]
        assert (folder.value("A"), folder.value("B")) == ("first-a", "first-b")
        assert given == []
        with pytest.raises(SecretError):
            rotation.check()
        assert rotation.counts == {"error": 1}
        folder.put(B="good-value")
        await rotation.rotate(["A", "B"], "a test")
        rotation.check()
        assert (folder.value("A"), folder.value("B")) == ("second-a", "good-value")

    run(main)


def test_a_hook_that_raises_refuses_and_those_before_it_get_the_old_value_again(tmp_path: Path) -> None:
    async def main() -> None:
        folder = Folder(tmp_path, A="first-a")
        await folder.rotation.store.load()
        given: list[Any] = []

        async def takes(secret: Any) -> None:
            given.append(secret.expose_secret())

        def raises(secret: Any) -> None:
            raise RuntimeError(secret.expose_secret())

        folder.rotation.on("A", takes)
        folder.rotation.on("A", raises)
        folder.put(A="second-a")
        with pytest.raises(SecretError) as caught:
            await folder.rotation.rotate(["A"], "a test")
        assert "second-a" not in str(caught.value)
        assert given == ["second-a", "first-a"]
        assert folder.value("A") == "first-a"

    run(main)


def test_one_rotation_has_one_answer_however_often_it_is_asked_for(tmp_path: Path) -> None:
    async def main() -> None:
        folder = Folder(tmp_path, A="first-a")
        await folder.rotation.store.load()
        recorder = Recorder("A")
        folder.rotation.register(recorder)
        folder.put(A="second-a")
        answers = await asyncio.gather(*(folder.rotation.rotated("r1", ["A"]) for _ in range(3)))
        assert answers == ["", "", ""]
        assert recorder.events == ["prepare second-a", "commit"]
        (folder.path / "A").write_bytes(b"\xff\xfe no text")
        assert "A" in await folder.rotation.rotated("r2", ["A"])
        assert folder.value("A") == "second-a"

    run(main)


def test_a_changed_file_is_in_use_within_a_second_in_os_environ_too(tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "secrets").mkdir()
        (tmp_path / "secrets" / "PASSWORD").write_text("before-it-changed\n")
        template = SecretTemplate.parse("db://u:${secret:PASSWORD}@h")
        manifest: dict[str, Any] = {
            "app": {"import_path": "under_test:app", "env": {"UNDER_TEST_URL": template}},
            "secrets": {"rotate": True, "sources": [{"directory": "secrets"}], "keys": {"PASSWORD": {}}},
        }

        async def app(scope: Any, receive: Any, send: Any) -> None:
            raise RuntimeError("declined")

        async with hosted(manifest, app, directory=tmp_path) as host:
            assert os.environ["UNDER_TEST_URL"] == "db://u:before-it-changed@h"
            rotated = asyncio.Event()
            loop = asyncio.get_running_loop()

            @host.state.on_rotation("PASSWORD")
            def tell(secret: Any) -> None:
                loop.call_soon_threadsafe(rotated.set)

            began = loop.time()
            staged = tmp_path / "staged"
            staged.write_text("after/it changed\n")
            os.replace(staged, tmp_path / "secrets" / "PASSWORD")
            async with asyncio.timeout(PATIENCE):
                await rotated.wait()
                await asyncio.sleep(0)  # the hook is told before the swap
                await host.host.rotation.rotate([], "a test, which waits for its turn")
            assert (await host.state.get_secret("PASSWORD")).expose_secret() == "after/it changed"
            assert loop.time() - began < 5  # a second where nothing else runs
            assert os.environ["UNDER_TEST_URL"] == "db://u:after%2Fit%20changed@h"
            host.state.logger.warning("the password is %s", "after/it changed")
            assert "after/it changed" not in "\n".join(host.lines())
            assert host.state.secrets["PASSWORD"].expose_secret() == "after/it changed"
        del os.environ["UNDER_TEST_URL"]

    run(main)


def test_the_environment_follows_at_the_swap_and_not_before() -> None:
    async def main() -> None:
        put: list[Mapping[str, str]] = []
        dependant = EnvironmentDependant("app.env", ["A"], put.append)
        prepared = await dependant.prepare({"A": "new"})
        assert put == []
        prepared.discard()
        assert put == []
        (await dependant.prepare({"A": "newer"})).commit()
        assert put == [{"A": "newer"}]

    run(main)
