"""Secrets of a generation: all workers have the new values, or all have the old ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from pywatt_host.exceptions import SecretError
from pywatt_host.manifest.model.secrets import SecretKey
from pywatt_host.protocol.messages import Error, GetSecret, Rotated, RotationAck, SecretValue
from pywatt_host.secrets import Masker, SecretStore
from pywatt_host.secrets.rotation import Rotation
from pywatt_host.workers import worker_secrets as worker_secrets_module
from pywatt_host.workers.worker_secrets import WorkerSecrets
from tests.hosting import run
from tests.workers.supervised import SpokenWorker, until


class Vault:
    """A source of secrets whose values the test changes."""

    label = "the test"
    watched = False

    def __init__(self, **values: str) -> None:
        self.values: dict[str, str] = values
        self.asked: list[str] = []

    async def get(self, name: str) -> str | None:
        self.asked.append(name)
        return self.values.get(name)

    def identity(self) -> object:
        return None


class Slow:
    """A dependant of the rotation that prepares when the test lets it, and refuses if it says so."""

    name = "slow"
    names = frozenset({"KEY"})

    def __init__(self) -> None:
        self.begun, self.go_on = asyncio.Event(), asyncio.Event()
        self.refusal = ""

    async def prepare(self, secret_values: Mapping[str, str]) -> Slow:
        self.begun.set()
        await self.go_on.wait()
        if self.refusal:
            raise SecretError(self.refusal)
        return self

    def commit(self) -> None:
        return

    def discard(self) -> None:
        return


class Rotating:
    """Secrets in rotation, and workers that have them."""

    def __init__(self) -> None:
        self.vault = Vault(KEY="first-value", OTHER="other-value")
        keys = {"KEY": SecretKey(), "OTHER": SecretKey(), "OPTIONAL": SecretKey(required=False)}
        self.store = SecretStore(keys, [self.vault], Masker())
        self.rotation = Rotation(self.store, rotate=True, interval=60.0)
        self.workers: list[SpokenWorker] = []
        self.opened: list[SpokenWorker] = []  # those that have ended as well
        self.secrets = WorkerSecrets(self.store, lambda: [each.process for each in self.workers])
        self.rotation.register(self.secrets)
        self.committed: list[frozenset[str]] = []
        self.secrets.on_rotated = self.committed.append
        self.dispatch: Any = {
            GetSecret: self.secrets.get,
            RotationAck: lambda message, peer: self.secrets.acknowledged(message, peer.owner),
        }

    async def worker(self, *fetched: str) -> SpokenWorker:
        worker = await SpokenWorker.opened(self.dispatch, len(self.workers))
        self.workers.append(worker)
        self.opened.append(worker)
        for name in fetched:
            await self.fetch(worker, name)
        return worker

    @staticmethod
    async def fetch(worker: SpokenWorker, name: str) -> str:
        worker.say(GetSecret(name))
        return (await worker.hear(SecretValue)).value

    def rotate(self, **values: str) -> asyncio.Task[tuple[str, ...]]:
        self.vault.values |= values
        return asyncio.create_task(self.rotation.rotate(list(values), "the test"))

    async def takes(self, worker: SpokenWorker, why: str = "") -> str:
        """The worker is told, fetches the new value and acknowledges it. Returns that value."""
        told = await worker.hear(Rotated)
        assert told.keys == ("KEY",)
        value = await self.fetch(worker, "KEY")
        worker.say(RotationAck(told.rotation_id, "error" if why else "success", why or None))
        return value

    def dies(self, worker: SpokenWorker) -> None:
        self.workers.remove(worker)
        worker.process.has_ended(-9)
        self.secrets.gone(worker.process)


@asynccontextmanager
async def rotating() -> AsyncIterator[Rotating]:
    found = Rotating()
    await found.store.load()
    try:
        yield found
    finally:
        for worker in found.opened:
            await worker.end()


def in_rotation(test: Callable[[Rotating], Awaitable[None]]) -> None:
    async def main() -> None:
        async with rotating() as found:
            await test(found)

    run(main)


def test_a_secret_is_fetched_once_for_all_workers() -> None:
    async def test(host: Rotating) -> None:
        await host.worker("KEY")
        await host.worker("KEY", "OTHER")
        assert host.vault.asked.count("KEY") == 1

    in_rotation(test)


def test_an_undeclared_secret_is_searched_when_a_worker_asks_for_it_and_rotates_then() -> None:
    async def test(host: Rotating) -> None:
        worker = await host.worker("KEY")
        host.vault.values["LATER"] = "later-value"
        assert await host.fetch(worker, "LATER") == "later-value"
        for name in ("NOWHERE", "OPTIONAL", "not a name"):
            worker.say(GetSecret(name))
            refused = await worker.hear(Error)
            assert (refused.code, name in refused.message) == ("unknown_secret", True)
        rotation = host.rotate(LATER="latest-value")
        told = await worker.hear(Rotated)
        assert told.keys == ("LATER",)
        assert await host.fetch(worker, "LATER") == "latest-value"
        worker.say(RotationAck(told.rotation_id, "success", None))
        assert await rotation == ("LATER",)

    in_rotation(test)


def test_a_rotation_is_over_once_all_workers_have_acknowledged_it() -> None:
    async def test(host: Rotating) -> None:
        first, second, third = await host.worker("KEY"), await host.worker("KEY"), await host.worker("OTHER")
        rotation = host.rotate(KEY="second-value")
        assert await host.takes(first) == "second-value"
        assert host.store.secret_values["KEY"] == "first-value"
        assert not rotation.done()
        assert await host.takes(second) == "second-value"
        assert await rotation == ("KEY",)
        assert host.store.secret_values["KEY"] == "second-value"
        assert host.committed == [frozenset({"KEY"})]
        for worker in (first, second, third):
            await worker.nothing_more()

    in_rotation(test)


def test_where_one_worker_refuses_all_have_the_old_value_again_and_the_rotation_fails_with_its_name() -> None:
    async def test(host: Rotating) -> None:
        first, second = await host.worker("KEY"), await host.worker("KEY")
        rotation = host.rotate(KEY="second-value")
        await host.takes(first)
        await host.takes(second, "the hook does not want it")
        assert [await host.takes(each) for each in (first, second)] == ["first-value", "first-value"]
        with pytest.raises(SecretError, match="worker 2: the hook does not want it"):
            await rotation
        assert host.store.secret_values["KEY"] == "first-value"
        assert host.committed == []
        assert await host.fetch(first, "KEY") == "first-value"
        rotation = host.rotate(KEY="third-value")
        assert [await host.takes(each) for each in (first, second)] == ["third-value", "third-value"]
        assert await rotation == ("KEY",)

    in_rotation(test)


def test_a_worker_that_does_not_acknowledge_in_time_makes_the_rotation_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_secrets_module, "_ACKNOWLEDGE_TIMEOUT", 0.1)

    async def test(host: Rotating) -> None:
        first, second = await host.worker("KEY"), await host.worker("KEY")
        rotation = host.rotate(KEY="second-value")
        await host.takes(first)
        await second.hear(Rotated)
        assert await host.takes(first) == "first-value"
        with pytest.raises(SecretError, match="worker 2 did not answer"):
            await rotation
        assert (await second.hear(Rotated)).keys == ("KEY",)
        assert await host.fetch(second, "KEY") == "first-value"

    in_rotation(test)


def test_a_worker_that_ends_during_a_rotation_does_not_hold_it_up() -> None:
    async def test(host: Rotating) -> None:
        first, second = await host.worker("KEY"), await host.worker("KEY")
        rotation = host.rotate(KEY="second-value")
        await second.hear(Rotated)
        host.dies(second)
        await host.takes(first)
        assert await rotation == ("KEY",)

    in_rotation(test)


def test_a_worker_whose_connection_has_ended_does_not_hold_it_up() -> None:
    async def test(host: Rotating) -> None:
        first, second = await host.worker("KEY"), await host.worker("KEY")
        second.leave()
        await until(lambda: not second.process.connection.open)
        rotation = host.rotate(KEY="second-value")
        await host.takes(first)
        assert await rotation == ("KEY",)

    in_rotation(test)


def test_a_worker_that_starts_during_a_rotation_has_the_new_value_and_the_old_one_where_it_is_refused() -> None:
    async def test(host: Rotating) -> None:
        first = await host.worker("KEY")
        rotation = host.rotate(KEY="second-value")
        await first.hear(Rotated)
        late = await host.worker("KEY")
        assert await host.fetch(late, "KEY") == "second-value"
        first.say(RotationAck((await _again(host, first)).rotation_id, "error", "no"))
        assert await host.takes(late) == "first-value"
        assert await host.takes(first) == "first-value"
        with pytest.raises(SecretError, match="worker 1: no"):
            await rotation

    async def _again(host: Rotating, worker: SpokenWorker) -> Rotated:
        ((rotation_id, _),) = host.secrets._waiting.items()
        return Rotated(("KEY",), rotation_id)

    in_rotation(test)


def test_where_another_part_of_the_host_refuses_the_workers_have_the_old_value_again() -> None:
    async def test(host: Rotating) -> None:
        slow = Slow()
        host.rotation.register(slow)
        worker = await host.worker("KEY")
        rotation = host.rotate(KEY="second-value")
        assert await host.takes(worker) == "second-value"
        await slow.begun.wait()
        late = await host.worker("KEY")  # starts while the other part prepares
        slow.refusal = "no"
        slow.go_on.set()
        with pytest.raises(SecretError, match="no"):
            await rotation
        assert [await host.takes(each) for each in (worker, late)] == ["first-value", "first-value"]

    in_rotation(test)


def test_a_worker_that_fetches_a_secret_while_another_part_prepares_is_told_of_the_new_value() -> None:
    async def test(host: Rotating) -> None:
        slow = Slow()
        host.rotation._dependants.insert(0, slow)
        worker = await host.worker("OTHER")
        rotation = host.rotate(KEY="second-value")
        await slow.begun.wait()
        assert await host.fetch(worker, "KEY") == "first-value"
        slow.go_on.set()
        assert await host.takes(worker) == "second-value"
        assert await rotation == ("KEY",)

    in_rotation(test)


def test_a_worker_that_is_the_first_to_fetch_a_secret_during_its_rotation_has_the_new_value() -> None:
    async def test(host: Rotating) -> None:
        slow = Slow()
        host.rotation.register(slow)
        worker = await host.worker("OTHER")
        rotation = host.rotate(KEY="second-value")
        await slow.begun.wait()
        assert await host.fetch(worker, "KEY") == "second-value"
        slow.go_on.set()
        assert await rotation == ("KEY",)
        await worker.nothing_more()

    in_rotation(test)


def test_an_acknowledgement_that_nobody_waits_for_and_a_second_one_change_nothing() -> None:
    async def test(host: Rotating) -> None:
        first, second = await host.worker("KEY"), await host.worker("KEY")
        first.say(RotationAck("unknown", "error", "old"))
        rotation = host.rotate(KEY="second-value")
        told = await first.hear(Rotated)
        first.say(RotationAck(told.rotation_id, "success", None))
        first.say(RotationAck(told.rotation_id, "error", "twice"))
        await host.takes(second)
        assert await rotation == ("KEY",)

    in_rotation(test)
