"""What workers ask of their supervisor: discovery, stores of the orchestrator, the host's own paths, snapshots."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from pywatt_host.exceptions import MessagingError
from pywatt_host.protocol.messages import (
    Announce,
    Discover,
    Discovered,
    Draining,
    GetHostPath,
    GetSnapshot,
    HeartbeatAck,
    HostPathAnswer,
    Provider,
    Register,
    Registered,
    ServiceOperation,
    ServiceOperationResult,
    ServiceRequest,
    ServiceResponse,
    Snapshot,
    WorkerFailed,
)
from pywatt_host.protocol.payload import Payload
from pywatt_host.workers.registrations import Registrations
from pywatt_host.workers.requests import WorkerRequests
from pywatt_host.workers.routing import WorkerRouting
from pywatt_host.workers.worker_process import WorkerProcess
from tests.hosting import run
from tests.workers.supervised import HEALTHY, SpokenWorker, until
from tests.workers.test_registrations import Registry


class Upstream:
    """An orchestrator with stores."""

    def __init__(self) -> None:
        self.providers: list[Provider] = []
        self.failure: MessagingError | None = None
        self.opened = 0
        self.operations: list[tuple[str, str]] = []
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def discover(self, service_type: str) -> list[Provider]:
        if self.failure is not None:
            raise self.failure
        return self.providers

    async def connect_store(self, service_type: str, config: Any, timeout: float) -> str:
        await self.go_on.wait()
        if self.failure is not None:
            raise self.failure
        self.opened += 1
        return f"c{self.opened}"

    async def operate_store(
        self, connection: str, service_type: str, operation: str, params: Any, timeout: float
    ) -> Any:
        self.operations.append((connection, operation))
        if self.failure is not None:
            raise self.failure
        return {"did": operation, "with": params}

    async def pass_on(self, target: str, payload: Payload, timeout: float, channel: str | None) -> Payload:
        raise AssertionError

    async def pass_event(self, topic: str, payload: Payload, channel: str | None) -> None:
        raise AssertionError


class Asked:
    def __init__(self) -> None:
        self.upstream = Upstream()
        self.registry = Registry()
        self.snapshots: list[tuple[WorkerProcess, list[Any]]] = []
        self.asked: list[GetHostPath] = []
        self.workers: list[SpokenWorker] = []
        self.requests = WorkerRequests(
            module_id="users",
            routing=WorkerRouting("users", self.upstream, list, lambda topic: None),
            registrations=Registrations("users", self.registry),
            upstream=self.upstream,
            secrets=lambda generation: pytest.fail("no secrets here"),
            snapshot=lambda worker, families: self.snapshots.append((worker, families)),
            host_path=self._host_path,
            healthy=lambda: True,
            drains=lambda worker: worker.set_state("draining"),
        )

    async def _host_path(self, message: GetHostPath) -> tuple[int, dict[str, str], str]:
        self.asked.append(message)
        if message.path == "/broken":
            raise MessagingError("unavailable", "it is broken")
        return 200, {"content-type": "text/plain"}, f"all of {message.path}"

    async def worker(self) -> SpokenWorker:
        worker = await SpokenWorker.opened(self.requests.dispatch, len(self.workers))
        self.workers.append(worker)
        return worker

    async def connection(self, worker: SpokenWorker) -> str:
        worker.say(ServiceRequest("s1", "Database", {"name": "default"}))
        answer = await worker.hear(ServiceResponse)
        assert answer.success
        assert answer.connection_id is not None
        return answer.connection_id

    async def operate(self, worker: SpokenWorker, connection: str, operation: str) -> ServiceOperationResult:
        worker.say(ServiceOperation(connection, "Database", operation, {"n": 1}, request_id="o1"))
        answer = await worker.hear(ServiceOperationResult)
        assert answer.request_id == "o1"
        return answer

    def dies(self, worker: SpokenWorker) -> None:
        worker.process.has_ended(-9)
        self.requests.gone(worker.process)


@asynccontextmanager
async def asked() -> AsyncIterator[Asked]:
    found = Asked()
    try:
        yield found
    finally:
        found.requests.close()
        for worker in found.workers:
            await worker.end()


def in_host(test: Callable[[Asked], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asked() as found:
            await test(found)

    run(main)


def provider(name: str, address: str) -> Provider:
    return Provider("x", "users", "api", name, None, address, {}, True)


# Stores of the orchestrator -------------------------------------------------------------------------------------------


def test_a_worker_opens_uses_and_closes_a_store_of_the_orchestrator() -> None:
    async def test(host: Asked) -> None:
        worker = await host.worker()
        connection = await host.connection(worker)
        result = await host.operate(worker, connection, "query")
        assert (result.success, result.result) == (True, {"did": "query", "with": {"n": 1}})
        assert (await host.operate(worker, connection, "close")).success
        refused = await host.operate(worker, connection, "query")
        assert (refused.success, refused.error) == (False, "connection: there is no such connection")
        host.dies(worker)
        await asyncio.sleep(0)
        assert host.upstream.operations == [("c1", "query"), ("c1", "close")]

    in_host(test)


def test_what_a_worker_had_open_is_closed_when_it_ends_and_nothing_of_other_workers() -> None:
    async def test(host: Asked) -> None:
        first, second = await host.worker(), await host.worker()
        mine, theirs = await host.connection(first), await host.connection(second)
        host.dies(first)
        await until(lambda: host.upstream.operations == [(mine, "close")])
        assert (await host.operate(second, theirs, "query")).success

    in_host(test)


def test_a_connection_that_opens_after_its_worker_has_ended_is_closed() -> None:
    async def test(host: Asked) -> None:
        worker = await host.worker()
        host.upstream.go_on.clear()
        worker.say(ServiceRequest("s1", "Database", None))
        await until(lambda: host.requests._tasks)
        host.dies(worker)
        host.upstream.go_on.set()
        await until(lambda: host.upstream.operations == [("c1", "close")])

    in_host(test)


def test_a_worker_cannot_use_the_connection_of_another_worker() -> None:
    async def test(host: Asked) -> None:
        first, second = await host.worker(), await host.worker()
        connection = await host.connection(first)
        refused = await host.operate(second, connection, "query")
        assert (refused.success, host.upstream.operations) == (False, [])

    in_host(test)


def test_an_error_of_the_orchestrator_is_told_to_the_worker() -> None:
    async def test(host: Asked) -> None:
        worker = await host.worker()
        connection = await host.connection(worker)
        host.upstream.failure = MessagingError("refused", "integrity: no duplicates")
        refused = await host.operate(worker, connection, "execute")
        assert (refused.success, refused.error) == (False, "integrity: no duplicates")
        worker.say(ServiceRequest("s2", "Database", None))
        answer = await worker.hear(ServiceResponse)
        assert (answer.id, answer.success, answer.error) == ("s2", False, "integrity: no duplicates")

    in_host(test)


# Discovery ------------------------------------------------------------------------------------------------------------


def test_a_worker_finds_what_the_orchestrator_knows_and_what_its_module_has_registered_once() -> None:
    async def test(host: Asked) -> None:
        worker = await host.worker()
        worker.say(Register("api", "users", "127.0.0.1:1", None, None, request_id="r1"))
        assert (await worker.hear(Registered)).success
        host.upstream.providers = [provider("users", "127.0.0.1:1"), provider("billing", "127.0.0.1:2")]
        worker.say(Discover("api", True, request_id="d1"))
        found = await worker.hear(Discovered)
        assert [(each.name, each.address) for each in found.providers] == [
            ("users", "127.0.0.1:1"),
            ("billing", "127.0.0.1:2"),
        ]
        assert found.request_id == "d1"

    in_host(test)


def test_without_an_orchestrator_a_worker_finds_what_its_module_has_registered() -> None:
    async def test(host: Asked) -> None:
        worker = await host.worker()
        host.upstream.failure = MessagingError("unavailable", "there is no orchestrator")
        worker.say(Register("api", "users", "127.0.0.1:1", None, None))
        await worker.hear(Registered)
        worker.say(Discover("api", True))
        found = await worker.hear(Discovered)
        assert [(each.name, each.is_healthy) for each in found.providers] == [("users", True)]
        host.upstream.failure = MessagingError("refused", "not today")
        worker.say(Discover("api", True))
        refused = await worker.hear(Discovered)
        assert (refused.success, refused.error) == (False, "not today")

    in_host(test)


# The rest -------------------------------------------------------------------------------------------------------------


def test_the_hosts_own_paths_are_answered_and_a_failure_leaves_the_worker_as_it_is() -> None:
    async def test(host: Asked) -> None:
        worker = await host.worker()
        worker.say(GetHostPath("/broken", "", None, request_id="g1"))
        worker.say(GetHostPath("/metrics", "text/plain", True, request_id="g2"))
        answer = await worker.hear(HostPathAnswer)
        assert (answer.status, answer.content, answer.request_id) == (200, "all of /metrics", "g2")
        assert [(each.path, each.accept, each.details) for each in host.asked] == [
            ("/broken", "", None),
            ("/metrics", "text/plain", True),
        ]
        assert worker.process.connection.open

    in_host(test)


def test_a_snapshot_answers_the_supervisor_or_comes_by_itself() -> None:
    async def test(host: Asked) -> None:
        worker = await host.worker()
        pulling = asyncio.create_task(worker.process.snapshot())
        asked = await worker.hear(GetSnapshot)
        worker.say(Snapshot([1], asked.request_id))
        assert await pulling == [1]
        worker.say(Snapshot([2]))
        await until(lambda: host.snapshots == [(worker.process, [2])])

    in_host(test)


def test_what_a_worker_says_of_itself_reaches_its_process() -> None:
    async def test(host: Asked) -> None:
        worker = await host.worker()
        worker.say(WorkerFailed(2, "it cannot start", "Traceback"))
        worker.say(Announce("127.0.0.1:1", ()))
        worker.say(HeartbeatAck(HEALTHY))
        worker.say(Draining())
        await until(lambda: worker.process.state == "draining")
        assert worker.process.failure == WorkerFailed(2, "it cannot start", "Traceback")
        assert worker.process.announce == Announce("127.0.0.1:1", ())
        assert worker.process.started.done()

    in_host(test)
