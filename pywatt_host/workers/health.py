"""The health of a host with several workers: the reports of all workers and the supervisor's own checks, as one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from pywatt_host.observability.health import Checks, CheckState

_MAX_MESSAGE_LENGTH = 1000  # characters; of all workers together
_SEVERITY: dict[Any, int] = {"passing": 0, "starting": 1, "failing": 2}


class WorkerHealth(NamedTuple):
    """What the supervisor knows of one worker.

    `name` is how messages call it, such as `worker 1`. `responsive` says whether it answers. `report` is its newest
    answer to a heartbeat, with `status` and `checks`; None until the first one.
    """

    name: str
    responsive: bool
    report: Mapping[str, Any] | None

    @property
    def is_ready(self) -> bool:
        """Whether it can serve requests: it answers, no check that counts fails, and it does not drain."""
        return self.responsive and self.report is not None and self.report["status"] in ("healthy", "degraded")

    @property
    def is_starting(self) -> bool:
        """Whether all that it lacks is the first result of a check."""
        if not self.responsive or self.is_ready:
            return False
        if self.report is None:
            return True
        return {check["status"] for check in self.report["checks"].values()} - {"passing"} == {"starting"}


class _Check:
    """The worst state of one check, and why, by message: the workers that have told it."""

    def __init__(self) -> None:
        self.state: CheckState = "passing"
        self.why: dict[str, list[str]] = {}

    def add(self, state: CheckState, message: str, source: str = "") -> None:
        if _SEVERITY.get(state, 2) > _SEVERITY[self.state]:
            self.state = state
        if message:
            self.why.setdefault(message, []).append(source)

    def document(self, *, details: bool) -> dict[str, Any]:
        told = ((", ".join(filter(None, sources)), message) for message, sources in self.why.items())
        error = "; ".join(f"{sources}: {message}" if sources else message for sources, message in told)
        if not details or not error:
            return {"status": self.state}
        return {"status": self.state, "error": error[:_MAX_MESSAGE_LENGTH]}


class HostHealth:
    """Answers for the whole host, in the form of `observability.health.Checks`.

    Each check has the worst state that a worker reports. To these come the supervisor's own checks, a check `workers`
    (it fails where a worker is missing or cannot serve), and after the first reload a check `reload` (it fails where
    the last one was refused). The host is unhealthy where no worker can serve or a check of the supervisor's own fails
    that counts; any other failure leaves it degraded, because the other workers serve.
    """

    def __init__(
        self,
        own: Checks,
        workers: Callable[[], Sequence[WorkerHealth]],
        wanted: Callable[[], int],
        looping: Callable[[], bool] = lambda: False,
    ) -> None:
        """`own` are the supervisor's checks, which also know whether the host serves and drains. `workers` are those
        that take connections now or are about to, without the ones that a reload has replaced. `wanted` says how many
        there should be, `looping` whether workers end again and again."""
        self._own = own
        self._workers = workers
        self._wanted = wanted
        self._looping = looping
        self._refused: str | None = None
        self._reloads = False

    def reload_refused(self, reason: str | None) -> None:
        """A reload was refused for this reason; None: it was done."""
        self._reloads, self._refused = True, reason

    def report(self, details: bool = True) -> tuple[int, dict[str, Any]]:
        """The HTTP status and the body of the health report. Without `details` it contains the names and states of the
        checks, but not why they fail."""
        _, own = self._own.report()
        workers = self._workers()
        checks = self._checks(own["checks"], workers)
        status = self._status(own["status"], workers, checks)
        documents = {name: check.document(details=details) for name, check in checks.items()}
        return 200 if status in ("healthy", "degraded") else 503, {**own, "status": status, "checks": documents}

    def readiness(self) -> tuple[int, dict[str, Any]]:
        """The HTTP status and the body of the readiness probe: 200 as long as one worker is ready, and the supervisor's
        own checks pass."""
        status, document = self._own.readiness()
        workers = self._workers()
        if any(worker.is_ready for worker in workers) or (status != 200 and "checks" not in document):
            return status, document
        checks = {name: check.state for name, check in self._checks({}, workers).items() if check.state != "passing"}
        return 503, {"status": "not ready", "checks": {**document.get("checks", {}), **checks}}

    def liveness(self) -> tuple[int, dict[str, Any]]:
        """The HTTP status and the body of the liveness probe: the supervisor answers."""
        return self._own.liveness()

    def heartbeat(self) -> dict[str, Any]:
        """The report that heartbeats of an orchestrator are answered with (protocol extension `health`)."""
        status, report = self.report()
        healthy = status == 200 and not self._own.draining
        return {"status": report["status"] if healthy else "unhealthy", "checks": report["checks"]}

    def _checks(self, own: Mapping[str, Any], workers: Sequence[WorkerHealth]) -> dict[str, _Check]:
        checks: dict[str, _Check] = {}

        def check(name: str) -> _Check:
            return checks.setdefault(name, _Check())

        for name, result in own.items():
            check(name).add(result["status"], result.get("error", ""))
        some_ready = any(worker.is_ready for worker in workers)
        for worker in workers:
            if worker.report is None or not worker.responsive or (worker.is_starting and some_ready):
                continue  # a worker that starts beside others, such as a successor, says nothing about the host yet
            for name, result in worker.report["checks"].items():
                check(name).add(result["status"], result.get("error", ""), worker.name)
        state, why = self._of_workers(workers)
        check("workers").add(state, why)
        if self._reloads:
            check("reload").add("passing" if self._refused is None else "failing", self._refused or "")
        return checks

    def _of_workers(self, workers: Sequence[WorkerHealth]) -> tuple[CheckState, str]:
        """State and message of the check `workers`."""
        if self._looping():
            return "failing", "workers end again and again soon after their start"
        wanted = self._wanted()
        ready = sum(worker.is_ready for worker in workers)
        if ready >= wanted:
            return "passing", ""
        silent = [worker.name for worker in workers if not worker.responsive]
        starting = [worker for worker in workers if worker.is_starting]
        if ready + len(starting) >= wanted or not (self._own.serving or workers):
            return "starting", ""
        why = f"{ready} of {wanted} workers can serve requests"
        if silent:
            why += f" ({', '.join(silent)}: no answer)"
        return "failing", why

    def _status(self, own: str, workers: Sequence[WorkerHealth], checks: Mapping[str, _Check]) -> str:
        if own == "unhealthy":
            return "unhealthy"
        if not any(worker.is_ready for worker in workers):
            return "starting" if checks["workers"].state == "starting" else "unhealthy"
        if own == "starting":
            return "starting"
        missing = checks["workers"].state != "passing"
        return "degraded" if missing or any(check.state == "failing" for check in checks.values()) else "healthy"
