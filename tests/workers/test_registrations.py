"""Services that workers register: once for the host, as long as any worker wants them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest

from pywatt_host.exceptions import MessagingError
from pywatt_host.protocol.messages import Deregister, Register, Registered
from pywatt_host.workers import registrations as registrations_module
from pywatt_host.workers.registrations import Registrations
from tests.hosting import run
from tests.workers.supervised import SpokenWorker, until


class Registry:
    """A discovery that keeps what it was asked for."""

    def __init__(self) -> None:
        self.registered: list[tuple[str, str, str]] = []
        self.gone: list[str] = []
        self.refusal = ""
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def register(
        self, name: str, service_type: str, address: str, version: str | None, metadata: Mapping[str, str] | None
    ) -> str:
        self.registered.append((name, service_type, address))
        self.metadata = metadata
        number = len(self.registered)
        await self.go_on.wait()
        if self.refusal:
            raise MessagingError("refused", self.refusal, name)
        return f"p{number}"

    async def deregister(self, service: str) -> None:
        self.gone.append(service)
        if self.refusal:
            raise MessagingError("lost", self.refusal, service)


class Registering:
    def __init__(self) -> None:
        self.registry = Registry()
        self.registrations = Registrations("users", self.registry)
        self.workers = [SpokenWorker(place).process for place in range(3)]

    async def register(self, worker: int, name: str = "users", address: str = "127.0.0.1:1", **more: Any) -> Registered:
        message = Register("api", name, address, more.get("version"), more.get("metadata"), more.get("request_id"))
        return await self.registrations.register(message, self.workers[worker])

    def deregister(self, worker: int, service: str) -> None:
        self.registrations.deregister(Deregister(service), self.workers[worker])

    def ends(self, worker: int) -> None:
        self.workers[worker].has_ended(0)
        self.registrations.gone(self.workers[worker])

    @property
    def known(self) -> list[str]:
        return [each.name for each in self.registrations.providers("api", healthy=True)]


def in_registry(test: Callable[[Registering], Awaitable[None]]) -> None:
    async def main() -> None:
        host = Registering()
        await test(host)
        host.registrations.close()

    run(main)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Services stay registered for a moment only."""
    monkeypatch.setattr(registrations_module, "_LINGER", 0.05)


def test_what_two_workers_register_is_registered_once_and_both_get_the_same_id() -> None:
    async def test(host: Registering) -> None:
        first, second = await asyncio.gather(host.register(0, request_id="a"), host.register(1, request_id="b"))
        assert (first.provider_id, second.provider_id) == ("p1", "p1")
        assert (first.request_id, second.request_id) == ("a", "b")
        assert len(host.registry.registered) == 1
        assert host.registry.metadata is None

    in_registry(test)


def test_it_is_deregistered_with_the_last_worker_that_wants_it() -> None:
    async def test(host: Registering) -> None:
        await host.register(0)
        await host.register(1)
        host.deregister(0, "p1")
        host.deregister(0, "p1")
        assert (host.registry.gone, host.known) == ([], ["users"])
        host.deregister(1, "users")
        await until(lambda: host.registry.gone == ["p1"])
        assert host.known == []
        host.deregister(1, "users")

    in_registry(test)


def test_a_successor_takes_over_what_a_worker_had_registered_when_it_ended(short: None) -> None:
    async def test(host: Registering) -> None:
        await host.register(0)
        host.ends(0)
        assert (await host.register(1)).provider_id == "p1"
        await asyncio.sleep(0.1)
        assert (host.registry.registered, host.registry.gone) == ([("users", "api", "127.0.0.1:1")], [])

    in_registry(test)


def test_what_no_successor_registers_is_deregistered_after_a_while(short: None) -> None:
    async def test(host: Registering) -> None:
        await host.register(0)
        await host.register(1)
        host.ends(0)
        await asyncio.sleep(0.1)
        assert host.known == ["users"]
        host.ends(1)
        assert host.known == ["users"]
        await until(lambda: host.registry.gone == ["p1"])
        assert host.known == []

    in_registry(test)


def test_a_worker_that_ends_while_it_registers_does_not_hold_the_service_for_ever(short: None) -> None:
    async def test(host: Registering) -> None:
        host.registry.go_on.clear()
        registering = asyncio.create_task(host.register(0))
        await until(lambda: host.registry.registered)
        host.ends(0)
        host.registry.go_on.set()
        await registering
        await until(lambda: host.registry.gone == ["p1"])
        assert host.known == []

    in_registry(test)


def test_a_service_whose_address_changes_is_registered_anew_and_old_ids_still_count() -> None:
    async def test(host: Registering) -> None:
        await host.register(0)
        assert (await host.register(1, address="127.0.0.1:2")).provider_id == "p2"
        assert [each.address for each in host.registrations.providers("api", healthy=True)] == ["127.0.0.1:2"]
        host.deregister(1, "p2")
        assert host.known == ["users"]
        host.deregister(0, "p1")
        await until(lambda: host.registry.gone == ["p2"])
        assert host.known == []

    in_registry(test)


def test_a_refusal_is_told_and_nothing_is_kept() -> None:
    async def test(host: Registering) -> None:
        host.registry.refusal = "the name is taken"
        answer = await host.register(0, request_id="a")
        assert (answer.success, answer.error, answer.request_id) == (False, "the name is taken", "a")
        assert host.known == []
        host.registry.refusal = ""
        assert (await host.register(0)).success

    in_registry(test)


def test_a_service_that_cannot_be_deregistered_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def test(host: Registering) -> None:
        await host.register(0)
        host.registry.refusal = "the channel broke"
        host.deregister(0, "p1")
        await until(lambda: caplog.records)

    in_registry(test)
    assert "service users could not be deregistered" in caplog.text


def test_providers_have_the_health_of_the_host_and_their_own_type_only() -> None:
    async def test(host: Registering) -> None:
        await host.register(0, version="1.0", metadata={"zone": "a"})
        assert host.registrations.providers("Database", healthy=True) == []
        (found,) = host.registrations.providers("api", healthy=False)
        assert (found.module_id, found.version, found.metadata) == ("users", "1.0", {"zone": "a"})
        assert (found.provider_id, found.is_healthy) == ("p1", False)

    in_registry(test)
