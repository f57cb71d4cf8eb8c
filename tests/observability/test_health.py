"""Health, liveness and readiness: what checks say, when they count, and the application's own word."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from pywatt_host.exceptions import HostError, SecretError
from pywatt_host.types import Receive, Scope, Send
from tests.hosting import PATIENCE, Hosted, Recorder, hosted, run

QUICK = {"interval": "1ms", "timeout": "20ms", "retries": 3, "start_period": "1h"}


class Patient:
    """A check whose outcome the test sets, and whose runs it can wait for."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.runs = 0
        self._news = asyncio.Condition()

    async def __call__(self) -> None:
        async with self._news:
            self.runs += 1
            self._news.notify_all()
        if self.error is not None:
            raise self.error

    async def more_runs(self, number: int) -> None:
        """Until it has begun so many more times; the results of all but the last are in by then."""
        async with self._news, asyncio.timeout(PATIENCE):
            wanted = self.runs + number
            await self._news.wait_for(lambda: self.runs >= wanted)


def check_of(patient: Patient) -> Any:
    async def check() -> None:
        await patient()

    return check


def factory(**checks: Any) -> Any:
    def create_app(state: Any) -> Recorder:
        for name, check in checks.items():
            state.health_check(name)(check)
        return Recorder()

    return create_app


async def until(host: Hosted, path: str, status: int) -> Any:
    """The document that a path of the host answers with, once it has that status."""
    async with asyncio.timeout(PATIENCE):
        while True:
            answer = await host.get(path)
            if answer.status == status:
                return answer.json() if answer.body.startswith(b"{") else None
            await asyncio.sleep(0.001)


async def until_checks(host: Hosted, **states: str) -> Any:
    """The full report, once the checks are in these states."""
    async with asyncio.timeout(PATIENCE):
        while True:
            document = (await host.get("/health")).json()
            if {name: check["status"] for name, check in document["checks"].items()} == states:
                return document
            await asyncio.sleep(0.001)


def test_without_checks_all_is_well_and_the_module_is_named() -> None:
    async def main() -> None:
        module = {"id": "users", "version": "1.4.0", "description": "Accounts", "labels": {"team": "core"}}
        async with hosted({"module": module}, Recorder()) as host:
            answer = await host.get("/health")
            assert answer.json() == {"status": "healthy", "module": module, "checks": {}}
            assert answer.header("cache-control") == "no-store"
            assert (await host.get("/readyz")).json() == {"status": "ready"}
            assert (await host.get("/livez")).json() == {"status": "alive"}

    run(main)


def test_the_paths_are_the_manifests_and_can_be_off() -> None:
    async def main() -> None:
        health = {"path": "/h", "liveness": "/l", "readiness": "/r"}
        async with hosted({"health": health, "endpoints": []}, Recorder()) as host:
            assert [(await host.get(path)).status for path in ("/h", "/l", "/r", "/livez")] == [200, 200, 200, 404]
        async with hosted({"health": False, "endpoints": []}, Recorder()) as host:
            assert [(await host.get(path)).status for path in ("/health", "/livez", "/readyz")] == [404, 404, 404]

    run(main)


def test_a_check_that_comes_later_begins_at_once_and_ends_with_the_host() -> None:
    async def main() -> None:
        patient = Patient()
        async with hosted({"health": {"interval": "1h"}}, Recorder()) as host:
            host.state.health_check("late")(check_of(patient))
            await until_checks(host, late="passing")
            assert patient.runs == 1

    run(main)


def test_a_check_that_fails_in_the_start_period_is_starting_and_then_passes() -> None:
    async def main() -> None:
        patient = Patient(OSError("not yet"))
        async with hosted({"health": {**QUICK, "timeout": "20s"}}, factory(db=check_of(patient))) as host:
            await patient.more_runs(5)
            answer = await host.get("/health")
            assert (answer.status, answer.json()["status"]) == (503, "starting")
            assert answer.json()["checks"] == {"db": {"status": "starting", "error": "OSError: not yet"}}
            readiness = await host.get("/readyz")
            assert (readiness.status, readiness.json()["checks"]) == (503, {"db": "starting"})
            assert (await host.get("/livez")).status == 200
            patient.error = None
            assert (await until(host, "/health", 200))["checks"] == {"db": {"status": "passing"}}
            assert (await host.get("/readyz")).status == 200

    run(main)


def test_after_the_start_period_the_first_failure_counts() -> None:
    async def main() -> None:
        patient = Patient(OSError("no"))
        health = {**QUICK, "start_period": "1ms", "retries": 1000}
        async with hosted({"health": health}, factory(db=check_of(patient))) as host:
            document = await until_checks(host, db="failing")
            assert document["status"] == "unhealthy"
            assert document["checks"]["db"] == {"status": "failing", "error": "OSError: no"}

    run(main)


def test_a_check_that_has_passed_fails_after_as_many_failures_as_retries_and_not_before() -> None:
    from pywatt_host.observability.health import Check

    check = Check("db", lambda: None)
    check.passed()
    for failure in range(1, 4):
        assert check.state == "passing", failure
        check.failed("no", retries=3, in_start_period=True)
    assert check.state == "failing"
    check.passed()
    check.failed("no", retries=3, in_start_period=False)
    assert (check.state, check.failures) == ("passing", 1)


def test_a_failure_and_a_recovery_are_logged_once_each() -> None:
    async def main() -> None:
        patient = Patient()
        async with hosted({"health": QUICK}, factory(db=check_of(patient))) as host:
            await until(host, "/readyz", 200)
            patient.error = OSError("gone\naway")
            document = await until(host, "/health", 503)
            assert document["status"] == "unhealthy"
            await patient.more_runs(5)
            patient.error = None
            await until(host, "/health", 200)
            assert [record["message"] for record in host.logs("pywatt.health")] == [
                "check db fails: OSError: gone\naway",
                "check db passes again",
            ]

    run(main)


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Holds a thread until the test is over."""
    event = threading.Event()
    yield event
    event.set()


def test_a_check_that_takes_too_long_fails_and_a_sync_one_that_hangs_holds_one_thread_only(
    gate: threading.Event,
) -> None:
    entered: list[int] = []

    def hangs() -> None:
        entered.append(1)
        gate.wait(PATIENCE)

    async def forever() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        health = {**QUICK, "start_period": "1ms"}
        async with hosted({"health": health}, factory(sync=hangs, coroutine=forever)) as host:
            document = await until_checks(host, sync="failing", coroutine="failing")
            assert document["checks"]["sync"]["error"] == "no answer within 0.02s"
            patient = Patient()
            host.state.health_check("later")(check_of(patient))
            await patient.more_runs(30)  # meanwhile the others were due again and again
            assert entered == [1]
            gate.set()
            await until_checks(host, sync="passing", coroutine="failing", later="passing")

    run(main)


def test_checks_may_be_sync_or_return_an_awaitable_and_names_are_unique() -> None:
    async def main() -> None:
        async def inner() -> None:
            raise RuntimeError("inner")

        async with hosted({"health": {**QUICK, "start_period": "1ms"}}, Recorder()) as host:
            host.state.health_check("plain")(lambda: None)
            host.state.health_check("lazy")(lambda: inner())  # noqa: PLW0108 -- a plain function that returns an awaitable
            with pytest.raises(ValueError, match="'plain'"):
                host.state.health_check("plain")(lambda: None)
            checks = (await until_checks(host, plain="passing", lazy="failing"))["checks"]
            assert checks["lazy"]["error"] == "RuntimeError: inner"

    run(main)


def test_readiness_goes_first_when_draining_and_liveness_stays() -> None:
    async def main() -> None:
        async with hosted({}, Recorder()) as host:
            assert (await host.get("/readyz")).status == 200
            host.host._checks.draining = True
            answer = await host.get("/readyz")
            assert (answer.status, answer.json()) == (503, {"status": "draining"})
            assert (await host.get("/livez")).status == 200
            assert (await host.get("/health")).status == 200

    run(main)


# Details -------------------------------------------------------------------------------------------------------------

FULL = {"db": {"status": "failing", "error": "OSError: 10.0.0.7 refused"}}
BRIEF = {"db": {"status": "failing"}}


async def reports(health: dict[str, Any], *servers: Any, admin: bool = False) -> list[Any]:
    """The checks of the report to requests whose connections were accepted on these addresses."""
    manifest = {
        "health": {**QUICK, "start_period": "1ms", "retries": 1, **health},
        "server": {"admin": {"listen": "127.0.0.1:0"}} if admin else {},
    }
    async with hosted(manifest, Recorder()) as host:
        patient = Patient(OSError("10.0.0.7 refused"))
        host.state.health_check("db")(check_of(patient))
        await patient.more_runs(20)
        found = []
        for server in servers:
            ready = await host.get("/readyz", server=server, admin=admin)
            assert ready.json() == {"status": "not ready", "checks": {"db": "failing"}}
            found.append((await host.get("/health", server=server, admin=admin)).json()["checks"])
        return found


LOCAL = [("127.0.0.1", 8080), ("127.9.9.9", 80), ("::1", 8080), ("::ffff:127.0.0.1", 8080), ("/run/x.sock", None)]
OTHERS = [("10.0.0.1", 8080), ("::ffff:10.0.0.1", 8080), ("2001:db8::1", 80), ("example.org", 443), None]


def test_a_report_has_details_where_the_connection_was_accepted_locally() -> None:
    async def main() -> None:
        assert await reports({}, *LOCAL) == [FULL] * len(LOCAL)
        assert await reports({}, *OTHERS) == [BRIEF] * len(OTHERS)

    run(main)


def test_the_admin_listener_has_details_wherever_it_is() -> None:
    async def main() -> None:
        assert await reports({}, *LOCAL, *OTHERS, admin=True) == [FULL] * (len(LOCAL) + len(OTHERS))

    run(main)


@pytest.mark.parametrize(("details", "expected"), [(True, FULL), (False, BRIEF)])
@pytest.mark.parametrize("admin", [False, True])
def test_the_key_decides_for_every_listener(details: bool, expected: Any, admin: bool) -> None:
    async def main() -> None:
        assert await reports({"details": details}, LOCAL[0], OTHERS[0], admin=admin) == [expected] * 2

    run(main)


def test_the_report_in_place_of_the_applications_answer_is_judged_too() -> None:
    async def main() -> None:
        async with hosted({"health": {**QUICK, "start_period": "1ms"}}, opaque({"code": 200})) as host:
            await until(host, "/readyz", 200)
            patient = Patient(OSError("gone"))
            host.state.health_check("db")(check_of(patient))
            await patient.more_runs(3)
            answer = await host.get("/health", server=("10.0.0.1", 8080))
            assert answer.status == 503
            assert "error" not in answer.json()["checks"]["db"]

    run(main)


# The application's own health path ------------------------------------------------------------------------------------


def opaque(status: dict[str, int]) -> Any:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            raise RuntimeError("declined")
        code = status["code"] if scope["path"] == "/health" else 404
        await send({"type": "http.response.start", "status": code, "headers": [(b"x-own", b"yes")]})
        await send({"type": "http.response.body", "body": b"own words"})

    return app


def test_an_opaque_application_that_answers_its_health_path_keeps_it() -> None:
    async def main() -> None:
        status = {"code": 200}
        async with hosted({"health": QUICK, "metrics": True}, opaque(status)) as host:
            await until(host, "/readyz", 200)
            answer = await host.get("/health")
            assert (answer.status, answer.body, answer.header("x-own")) == (200, b"own words", "yes")
            assert host.access() == []
            assert (await host.get("/livez")).json() == {"status": "alive"}
            status["code"] = 500
            await until(host, "/readyz", 503)
            answer = await host.get("/health")
            assert (answer.status, answer.body) == (500, b"own words")

    run(main)


def test_an_opaque_application_without_one_leaves_it_to_the_host() -> None:
    async def main() -> None:
        async with hosted({}, opaque({"code": 404})) as host:
            assert (await host.get("/health")).json()["checks"] == {}

    run(main)


def test_another_check_that_fails_makes_it_the_hosts_report_with_503() -> None:
    async def main() -> None:
        async with hosted({"health": {**QUICK, "start_period": "1ms"}}, opaque({"code": 200})) as host:
            await until(host, "/readyz", 200)
            patient = Patient(OSError("gone"))
            host.state.health_check("db")(check_of(patient))
            await patient.more_runs(3)
            answer = await host.get("/health")
            assert answer.status == 503
            assert answer.json()["checks"]["db"]["error"] == "OSError: gone"
            assert answer.json()["checks"]["app"] == {"status": "passing"}
            patient.error = None
            await until(host, "/readyz", 200)
            assert (await host.get("/health")).body == b"own words"

    run(main)


def framework_app(kind: str, path: str) -> Any:
    if kind == "fastapi":
        import fastapi

        api = fastapi.FastAPI()
        api.get(path)(lambda: {"own": "words"})
        return api
    import flask

    app = flask.Flask("own")
    app.add_url_rule(path, "own", lambda: {"own": "words"})
    return app


@pytest.mark.parametrize("kind", ["fastapi", "flask"])
def test_a_route_table_tells_whether_the_application_serves_the_path(kind: str) -> None:
    async def main() -> None:
        async with hosted({"health": QUICK}, framework_app(kind, "/health")) as host:
            await until(host, "/readyz", 200)
            assert (await host.get("/health")).json() == {"own": "words"}
        async with hosted({}, framework_app(kind, "/elsewhere")) as host:
            assert (await host.get("/health")).json()["checks"] == {}

    run(main)


def test_a_catch_all_route_is_no_health_path() -> None:
    async def main() -> None:
        async with hosted({}, framework_app("fastapi", "/{anything:path}")) as host:
            assert (await host.get("/health")).json()["status"] == "healthy"

    run(main)


def test_a_list_of_endpoints_does_not_hide_the_applications_health_path() -> None:
    async def main() -> None:
        manifest = {"health": QUICK, "endpoints": [{"path": "/health"}]}
        async with hosted(manifest, framework_app("fastapi", "/health")) as host:
            await until(host, "/readyz", 200)
            assert (await host.get("/health")).json() == {"own": "words"}

    run(main)


def test_a_check_whose_result_is_known_counts_in_the_very_next_report() -> None:
    error: list[HostError] = []

    def check() -> None:
        if error:
            raise error[0]

    async def main() -> None:
        async with hosted({"health": {"interval": "1h"}}, Recorder()) as host:
            host.host._checks.add("known", check, optional=True, known=True)
            assert (await host.get("/health")).json()["status"] == "healthy"
            error.append(SecretError("it is not there"))
            answer = await host.get("/health")
            assert (answer.status, answer.json()["status"]) == (200, "degraded")
            assert answer.json()["checks"]["known"] == {"status": "failing", "error": "SecretError: it is not there"}
            assert (await host.get("/readyz")).status == 200
            error.clear()
            assert (await host.get("/health")).json()["status"] == "healthy"

    run(main)
