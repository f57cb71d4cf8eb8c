"""The health of a host is that of its workers together: one that serves is enough, and what is wrong is told."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pywatt_host.manifest.model import Health
from pywatt_host.observability.health import Checks
from pywatt_host.workers.health import HostHealth, WorkerHealth
from tests.hosting import run

IDENTITY = {"module": {"id": "notes", "version": "1.0.0"}}
PASSING = {"db": {"status": "passing"}}
STARTING = {"db": {"status": "starting"}}


def failing(why: str = "ConnectionError: refused") -> dict[str, Any]:
    return {"db": {"status": "failing", "error": why}}


def worker(
    number: int, status: str | None = "healthy", checks: dict[str, Any] | None = None, *, responsive: bool = True
) -> WorkerHealth:
    report = {"status": status, "checks": PASSING if checks is None else checks} if status is not None else None
    return WorkerHealth(f"worker {number}", responsive, report)


class Supervised:
    """A HostHealth whose workers and own checks the test sets."""

    def __init__(self, *workers: WorkerHealth, wanted: int | None = None) -> None:
        self.own = Checks(Health(), IDENTITY)
        self.own.serving = True
        self.workers = list(workers)
        self.wanted = len(workers) if wanted is None else wanted
        self.health = HostHealth(self.own, lambda: self.workers, lambda: self.wanted)

    def status(self) -> tuple[int, str]:
        code, document = self.health.report()
        return code, document["status"]

    def checks(self, *, details: bool = True) -> dict[str, Any]:
        checks: dict[str, Any] = self.health.report(details)[1]["checks"]
        return checks

    async def own_check(self, name: str, error: Exception | None = None, *, optional: bool = False) -> None:
        """Add a check of the supervisor's own, and wait until it counts."""
        ran = asyncio.Event()

        async def check() -> None:
            ran.set()
            if error is not None:
                raise error

        self.own = Checks(Health.model_validate({"start_period": "1ms", "interval": "1ms"}), IDENTITY)
        self.own.add(name, check, optional=optional)
        self.own.serving = True
        async with asyncio.TaskGroup() as tasks, self.own.running(tasks):
            while self.own.report()[1]["checks"][name]["status"] == "starting":
                await ran.wait()
                ran.clear()
        self.health = HostHealth(self.own, lambda: self.workers, lambda: self.wanted)


def test_a_host_whose_workers_are_healthy_reports_as_one_process_does() -> None:
    host = Supervised(worker(0), worker(1))
    passing = {"status": "passing"}
    assert host.health.report() == (
        200,
        {"status": "healthy", **IDENTITY, "checks": {"db": passing, "workers": passing}},
    )
    assert host.health.readiness() == (200, {"status": "ready"})
    assert host.health.liveness() == (200, {"status": "alive"})
    assert host.health.heartbeat() == {"status": "healthy", "checks": {"db": passing, "workers": passing}}


def test_one_worker_that_cannot_serve_degrades_the_host_and_is_named() -> None:
    host = Supervised(worker(0), worker(1, "unhealthy", failing()))
    assert host.status() == (200, "degraded")
    assert host.checks() == {
        "db": {"status": "failing", "error": "worker 1: ConnectionError: refused"},
        "workers": {"status": "failing", "error": "1 of 2 workers can serve requests"},
    }
    assert host.health.readiness() == (200, {"status": "ready"})
    assert host.health.heartbeat()["status"] == "degraded"


def test_a_message_that_several_workers_have_is_told_once() -> None:
    host = Supervised(*(worker(number, "unhealthy", failing(why)) for number, why in enumerate(["a", "b", "a"])))
    assert host.checks()["db"]["error"] == "worker 0, worker 2: a; worker 1: b"


def test_messages_are_bounded() -> None:
    host = Supervised(*(worker(number, "unhealthy", failing(f"{number}" * 300)) for number in range(9)))
    assert len(host.checks()["db"]["error"]) == 1000


def test_no_worker_that_can_serve_makes_the_host_unhealthy_and_not_ready() -> None:
    host = Supervised(worker(0, "unhealthy", failing()), worker(1, "unhealthy", failing()))
    assert host.status() == (503, "unhealthy")
    assert host.health.readiness() == (
        503,
        {"status": "not ready", "checks": {"db": "failing", "workers": "failing"}},
    )
    assert host.health.liveness() == (200, {"status": "alive"})
    assert host.health.heartbeat()["status"] == "unhealthy"


def test_details_are_told_only_where_they_are_wanted() -> None:
    host = Supervised(worker(0), worker(1, "unhealthy", failing()))
    host.health.reload_refused("main.py: SyntaxError")
    failed = {"status": "failing"}
    assert host.checks(details=False) == {"db": failed, "workers": failed, "reload": failed}


def test_a_check_that_a_worker_can_do_without_degrades_the_host() -> None:
    host = Supervised(worker(0), worker(1, "degraded", failing()))
    assert host.status() == (200, "degraded")
    assert host.checks()["workers"] == {"status": "passing"}


def test_a_worker_that_does_not_answer_does_not_count_whatever_it_said_last() -> None:
    host = Supervised(worker(0), worker(1, responsive=False))
    assert host.status() == (200, "degraded")
    assert host.checks()["workers"]["error"] == "1 of 2 workers can serve requests (worker 1: no answer)"
    host.workers = [worker(0, responsive=False), worker(1, "degraded", failing(), responsive=False)]
    assert host.status() == (503, "unhealthy")
    assert host.health.readiness()[0] == 503
    assert list(host.checks()) == ["workers"]


def test_fewer_workers_than_wanted_degrade_the_host() -> None:
    host = Supervised(worker(0), wanted=2)
    assert host.status() == (200, "degraded")
    assert host.health.readiness()[0] == 200
    host.workers = []
    assert host.status() == (503, "unhealthy")
    assert host.health.readiness() == (503, {"status": "not ready", "checks": {"workers": "failing"}})


@pytest.mark.parametrize("starting", [worker(1, None), worker(1, "unhealthy", STARTING)])
def test_a_worker_that_starts_is_no_failure(starting: WorkerHealth) -> None:
    host = Supervised(worker(0), starting)
    assert host.status() == (200, "degraded")
    assert host.checks() == {"db": {"status": "passing"}, "workers": {"status": "starting"}}
    host.wanted = 1  # it is a successor, which starts beside the one that it replaces
    assert host.status() == (200, "healthy")
    host.workers, host.wanted = [starting], 1
    assert host.status() == (503, "starting")
    assert host.health.readiness()[1]["checks"]["workers"] == "starting"


def test_before_the_first_worker_the_host_starts() -> None:
    host = Supervised(wanted=2)
    host.own.serving = False
    assert host.status() == (503, "starting")
    assert host.health.readiness() == (503, {"status": "starting"})


def test_a_host_that_drains_is_not_ready_whatever_its_workers_say() -> None:
    host = Supervised(worker(0), worker(1))
    host.own.draining = True
    assert host.health.readiness() == (503, {"status": "draining"})
    assert host.health.liveness()[0] == 200
    assert host.health.heartbeat()["status"] == "unhealthy"


def test_a_refused_reload_degrades_the_host_until_the_next_one_is_done() -> None:
    host = Supervised(worker(0))
    assert "reload" not in host.checks()
    host.health.reload_refused("main.py, line 3: SyntaxError")
    assert host.status() == (200, "degraded")
    assert host.health.readiness()[0] == 200
    assert host.checks()["reload"] == {"status": "failing", "error": "main.py, line 3: SyntaxError"}
    host.health.reload_refused(None)
    assert host.status() == (200, "healthy")
    assert host.checks()["reload"] == {"status": "passing"}


def test_the_supervisors_own_checks_count_as_in_one_process() -> None:
    async def main() -> None:
        host = Supervised(worker(0))
        await host.own_check("channel:ipc", ConnectionError("gone"))
        assert host.status() == (503, "unhealthy")
        assert host.checks()["channel:ipc"] == {"status": "failing", "error": "ConnectionError: gone"}
        assert host.health.readiness() == (503, {"status": "not ready", "checks": {"channel:ipc": "failing"}})
        await host.own_check("secrets", ConnectionError("gone"), optional=True)
        assert host.status() == (200, "degraded")
        assert host.health.readiness()[0] == 200
        await host.own_check("secrets")
        assert host.status() == (200, "healthy")

    run(main)


def test_a_check_of_the_supervisor_and_of_workers_has_the_worst_state() -> None:
    async def main() -> None:
        host = Supervised(worker(0, "degraded", {"secrets": {"status": "failing", "error": "old"}}), worker(1))
        await host.own_check("secrets", optional=True)
        assert host.checks()["secrets"] == {"status": "failing", "error": "worker 0: old"}

    run(main)
