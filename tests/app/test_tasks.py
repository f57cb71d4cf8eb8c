"""Background tasks: `app_state.spawn`, what a crash does, and how they end."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from pywatt_host.app import tasks
from pywatt_host.exceptions import AppLoadError
from pywatt_host.types import ASGIApp, Receive, Scope, Send
from tests.hosting import PATIENCE, Hosted, Recorder, hello, hosted, run

QUICK = {"health": {"interval": "1ms", "start_period": "1ms"}}


class Heard(logging.Handler):
    """The messages of tasks and host, which can be waited for, and which outlive the host."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []
        self._waiting: dict[str, asyncio.Event] = {}

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())
        self._waiting.pop(record.getMessage(), asyncio.Event()).set()

    async def until(self, message: str) -> None:
        if message not in self.messages:
            async with asyncio.timeout(PATIENCE):
                await self._waiting.setdefault(message, asyncio.Event()).wait()


@pytest.fixture
def heard() -> Iterator[Heard]:
    heard = Heard()
    loggers = [logging.getLogger(name) for name in ("pywatt.tasks", "pywatt.host", "pywatt.health")]
    for logger in loggers:
        logger.addHandler(heard)
    yield heard
    for logger in loggers:
        logger.removeHandler(heard)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousandths of seconds for what are seconds."""
    for name in ("_FIRST_RESTART_DELAY", "_LONGEST_RESTART_DELAY"):
        monkeypatch.setattr(tasks, name, getattr(tasks, name) / 1000)


async def crash() -> None:
    raise ValueError("out of coffee")


async def forever() -> None:
    await asyncio.Event().wait()


def crashes(host: Hosted) -> list[dict[str, Any]]:
    return [record for record in host.logs("pywatt.tasks") if record["message"].endswith(" crashed")]


async def metrics(host: Hosted) -> list[str]:
    lines = (await host.get("/metrics")).body.decode().splitlines()
    return [line for line in lines if line.startswith("pywatt_task")]


# What may be spawned --------------------------------------------------------------------------------------------------


def test_a_coroutine_and_a_coroutine_function_run_in_the_background() -> None:
    async def main() -> None:
        done: list[str] = []

        async def work(what: str = "function") -> None:
            done.append(what)

        async with hosted(app=hello) as host:
            spawned = [host.state.spawn(work("coroutine")), host.state.spawn(work)]
            assert done == []
            assert await asyncio.gather(*spawned) == [None, None]
            assert done == ["coroutine", "function"]
            assert host.logs("pywatt.tasks") == []

    run(main)


def test_what_makes_an_awaitable_will_do_as_well() -> None:
    async def main() -> None:
        seen: list[str] = []

        async def note(text: str) -> None:
            seen.append(text)

        async with hosted(app=hello) as host:
            await host.state.spawn(functools.partial(note, "partial"))
            await host.state.spawn(lambda: note("lambda"))
        assert seen == ["partial", "lambda"]

    run(main)


@pytest.mark.parametrize(
    ("work", "on_failure", "error", "says"),
    [
        (forever, "restart", TypeError, "a coroutine object cannot be restarted: give spawn the coroutine function"),
        (forever, "ignore", ValueError, "on_failure must be log, restart or unready, not 'ignore'"),
        (lambda: 42, "log", TypeError, "spawn takes a coroutine or a coroutine function, not int"),
    ],
)
def test_what_cannot_be_spawned_is_refused_at_once_and_its_coroutine_is_closed(
    work: Callable[[], Any], on_failure: Any, error: type[Exception], says: str
) -> None:
    async def main() -> None:
        async with hosted(app=hello) as host:
            with pytest.raises(error) as raised:
                host.state.spawn(work(), on_failure=on_failure)  # left open, it would warn
            assert str(raised.value) == says

    run(main)


def test_a_function_that_is_not_async_crashes_with_a_line_that_says_so() -> None:
    def plain() -> int:
        return 42

    async def main() -> None:
        async with hosted(app=hello) as host:
            await host.state.spawn(plain)  # type: ignore[arg-type]
            assert "TypeError: plain is not a coroutine function: it returned int" in crashes(host)[0]["exception"]

    run(main)


def test_spawn_in_a_thread_says_what_to_use_there() -> None:
    async def main() -> None:
        async with hosted(app=hello) as host:
            with pytest.raises(RuntimeError, match=r"use app_state\.sync\.spawn in threads"):
                await asyncio.to_thread(lambda: host.state.spawn(forever()))

    run(main)


def test_spawn_on_another_event_loop_is_refused_since_the_task_would_die_with_it() -> None:
    async def main() -> None:
        async with hosted(app=hello) as host:

            async def elsewhere() -> None:  # as Flask runs its async views
                host.state.spawn(forever())

            with pytest.raises(RuntimeError, match=r"use app_state\.sync\.spawn in threads"):
                await asyncio.to_thread(lambda: asyncio.run(elsewhere()))

    run(main)


def test_a_coroutine_that_is_spawned_twice_crashes_once_and_runs_on() -> None:
    async def main() -> None:
        go, ended = asyncio.Event(), asyncio.Event()

        async def work() -> None:
            await go.wait()
            ended.set()

        async with hosted(app=hello) as host:
            coroutine = work()
            first, second = host.state.spawn(coroutine), host.state.spawn(coroutine)
            await second
            go.set()
            await first
            assert ended.is_set()
            assert len(crashes(host)) == 1

    run(main)


# A crash --------------------------------------------------------------------------------------------------------------


def test_a_crash_is_logged_with_the_users_traceback_alone_and_counted() -> None:
    async def main() -> None:
        async with hosted({"metrics": True}, hello) as host:
            await host.state.spawn(crash)
            (record,) = crashes(host)
            assert (record["level"], record["message"], record["task"]) == ("error", "the task crash crashed", "crash")
            assert record["exception"].endswith("ValueError: out of coffee")
            assert record["exception"].count("  File ") == 1
            assert await metrics(host) == ["pywatt_tasks_running 0.0", 'pywatt_task_crashes_total{task="crash"} 1.0']
            assert (await host.get("/readyz")).status == 200

    run(main)


def test_a_secret_in_a_crash_is_masked(heard: Heard) -> None:
    async def main() -> None:
        async def leak() -> None:
            raise ValueError((await host.state.get_secret("TOKEN")).expose_secret())

        async with hosted({"secrets": ["TOKEN"], **QUICK}, hello, environ={"TOKEN": "tell-nobody-this"}) as host:
            await host.state.spawn(leak, on_failure="unready")
            assert "ValueError: ***" in crashes(host)[0]["exception"]
            await heard.until("check task leak fails: RuntimeError: crashed with ValueError: ***")
            check = (await host.get("/health")).json()["checks"]["task leak"]
            assert check == {"status": "failing", "error": "RuntimeError: crashed with ValueError: ***"}

    run(main)


def test_the_end_of_the_process_is_not_a_tasks_to_ask_for() -> None:
    async def main() -> None:
        async def leave() -> None:
            raise SystemExit("usage: ...")

        async with hosted(app=hello) as host:
            await host.state.spawn(leave)
            assert crashes(host)[0]["exception"].endswith("SystemExit: usage: ...")
            assert (await host.get("/x")).status == 200

    run(main)


def test_a_task_that_waits_for_something_cancelled_has_crashed_and_one_that_is_cancelled_has_not() -> None:
    async def main() -> None:
        async def wait_for_nobody() -> None:
            gone = asyncio.ensure_future(forever())
            gone.cancel()
            await gone

        async with hosted(app=hello) as host:
            await host.state.spawn(wait_for_nobody)
            assert [record["task"] for record in crashes(host)] == ["wait_for_nobody"]
            cancelled = host.state.spawn(forever)
            cancelled.cancel()
            await asyncio.wait([cancelled])
            assert cancelled.cancelled()
            assert len(crashes(host)) == 1

    run(main)


# Names and metrics ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("work", "name", "called"),
    [
        (crash, None, "crash"),
        (crash, "", "crash"),
        (crash, "kettle", "kettle"),
        (functools.partial(functools.partial(crash)), None, "crash"),
        (lambda: asyncio.wait_for(crash(), PATIENCE), None, "<lambda>"),
    ],
)
def test_a_task_is_called_what_the_caller_says_else_what_its_function_is(
    work: Callable[[], Awaitable[None]], name: str | None, called: str
) -> None:
    async def main() -> None:
        async with hosted(app=hello) as host:
            task = host.state.spawn(work, name=name)
            assert task.get_name() == called
            await task
            assert crashes(host)[0]["task"] == called

    run(main)


def test_there_are_no_metrics_until_there_is_a_task_and_then_they_stay() -> None:
    async def main() -> None:
        async with hosted({"metrics": True}, hello) as host:
            assert await metrics(host) == []
            going = [host.state.spawn(forever), host.state.spawn(forever)]
            assert await metrics(host) == ["pywatt_tasks_running 2.0"]
            for task in going:
                task.cancel()
            await asyncio.wait(going)
            assert await metrics(host) == ["pywatt_tasks_running 0.0"]

    run(main)


# Restart --------------------------------------------------------------------------------------------------------------


def flaky(times: int, runs: list[int]) -> Callable[[], Awaitable[None]]:
    async def work() -> None:
        runs.append(1)
        if len(runs) <= times:
            raise ConnectionError(f"attempt {len(runs)}")

    return work


def pauses(heard: Heard) -> list[str]:
    """As they would be, without `quick`."""
    restarts = [line for line in heard.messages if " restarts in " in line]
    return [f"{float(line.rpartition(' in ')[2].removesuffix(' s')) * 1000:g}s" for line in restarts]


def test_a_task_is_started_again_after_longer_and_longer_pauses_until_it_ends_by_itself(heard: Heard) -> None:
    async def main() -> None:
        runs: list[int] = []
        async with hosted({"metrics": True}, hello) as host:
            await host.state.spawn(flaky(8, runs), name="flaky", on_failure="restart")
            assert len(runs) == 9
            assert 'pywatt_task_crashes_total{task="flaky"} 8.0' in await metrics(host)
        assert heard.messages[:2] == ["the task flaky crashed", "the task flaky restarts in 0.001 s"]
        assert pauses(heard) == ["1s", "2s", "4s", "8s", "16s", "32s", "60s", "60s"]

    run(main)


def test_after_a_run_that_was_long_enough_the_pauses_begin_anew(heard: Heard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "_STABLE_AFTER", 0.0)

    async def main() -> None:
        async with hosted(app=hello) as host:
            await host.state.spawn(flaky(3, []), on_failure="restart")
        assert pauses(heard) == ["1s", "1s", "1s"]

    run(main)


def test_a_task_that_crashes_while_it_is_cancelled_is_not_started_again(heard: Heard) -> None:
    async def main() -> None:
        began = asyncio.Event()

        async def messy() -> None:
            assert not began.is_set()
            began.set()
            try:
                await asyncio.Event().wait()
            finally:
                raise OSError("cannot close")

        async with hosted(app=hello) as host:
            task = host.state.spawn(messy, on_failure="restart")
            await began.wait()
        assert task.done()
        assert heard.messages == ["the task messy crashed"]

    run(main)


def test_a_task_that_waits_to_be_started_again_ends_with_the_host(
    heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "_FIRST_RESTART_DELAY", 3600.0)

    async def main() -> None:
        async with hosted(app=hello) as host:
            task = host.state.spawn(crash, on_failure="restart")
            await heard.until("the task crash restarts in 3600 s")
        assert task.cancelled()

    run(main)


# Unready --------------------------------------------------------------------------------------------------------------


def test_a_crash_that_matters_makes_readiness_and_health_fail_from_then_on_and_names_the_task() -> None:
    async def main() -> None:
        async with hosted({"health": {"interval": "1h"}}, Recorder()) as host:
            going = host.state.spawn(forever, name="well", on_failure="unready")
            assert (await host.get("/readyz")).status == 200
            await host.state.spawn(crash, name="poller", on_failure="unready")
            ready = await host.get("/readyz")  # at once, whatever `health.interval` is
            assert (ready.status, ready.json()["checks"].keys()) == (503, {"task poller"})
            health = await host.get("/health")
            assert health.status == 503
            assert health.json()["checks"].keys() == {"task poller"}
            assert (await host.get("/livez")).status == 200
            await host.state.spawn(crash, name="poller", on_failure="unready")  # again: the same check
            assert len((await host.get("/health")).json()["checks"]) == 1
            assert not going.done()

    run(main)


def test_a_crash_before_the_host_serves_keeps_it_from_becoming_ready(heard: Heard) -> None:
    async def create_app(state: Any) -> ASGIApp:
        await state.spawn(crash, on_failure="unready")
        return hello

    async def main() -> None:
        async with hosted(QUICK, create_app) as host:
            assert (await host.get("/readyz")).status == 503
            await heard.until("check task crash fails: RuntimeError: crashed with ValueError: out of coffee")
            assert (await host.get("/health")).json()["status"] == "unhealthy"

    run(main)


# From requests --------------------------------------------------------------------------------------------------------


def test_a_task_outlives_the_request_that_spawned_it_and_does_not_log_as_it() -> None:
    async def main() -> None:
        go = asyncio.Event()
        spawned: list[asyncio.Task[None]] = []

        def create_app(state: Any) -> ASGIApp:
            async def work() -> None:
                await go.wait()
                state.logger.info("done later")

            async def app(scope: Scope, receive: Receive, send: Send) -> None:
                if scope["path"] == "/spawn":
                    state.logger.info("asked")
                    spawned.append(state.spawn(work))
                await hello(scope, receive, send)

            return app

        async with hosted(app=create_app) as host:
            assert (await host.get("/spawn", headers={"x-request-id": "abc"})).status == 200
            go.set()
            await spawned[0]
            asked, later = host.logs("app")
            assert asked["request_id"] == "abc"
            assert (later["message"], "request_id" in later) == ("done later", False)

    run(main)


# The end --------------------------------------------------------------------------------------------------------------


def test_the_host_cancels_what_runs_waits_for_it_and_runs_the_shutdown_hooks_after_that() -> None:
    events: list[str] = []

    async def main() -> None:
        async def work() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0.01)
                events.append("task ended")

        async def before_it_begins() -> None:
            events.append("never")

        async with hosted(app=hello) as host:

            @host.state.on_shutdown
            async def hook() -> None:
                events.append("hook")
                with pytest.raises(RuntimeError, match="the host is stopping: no new task can start"):
                    host.state.spawn(forever())

            host.state.spawn(work)
            await host.get("/x")
            host.state.spawn(before_it_begins())  # its coroutine is closed, and nothing warns
            events.append("leaving")
        assert events == ["leaving", "task ended", "hook"]

    run(main)


def test_while_draining_a_task_may_still_begin() -> None:
    async def main() -> None:
        done: list[str] = []

        async def last_words(state: Any) -> None:
            await state.draining.wait()

            async def more() -> None:
                done.append("more")

            await state.spawn(more)

        async with hosted(app=hello) as host:
            assert not host.state.draining.is_set()
            asked = asyncio.ensure_future(last_words(host.state))
            host.host._begin_draining()
            await asked
        assert done == ["more"]

    run(main)


def test_tasks_of_an_application_that_then_fails_to_start_are_cancelled() -> None:
    ended: list[str] = []

    async def create_app(state: Any) -> ASGIApp:
        async def work() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.append("cancelled")

        state.spawn(work)
        await asyncio.sleep(0)
        raise LookupError("no such table")

    async def main() -> None:
        with pytest.raises(AppLoadError, match="the factory raised LookupError: no such table"):
            async with hosted(app=create_app):
                pass
        assert ended == ["cancelled"]

    run(main)


def stubborn(release: asyncio.Event) -> Callable[[], Awaitable[None]]:
    async def ignores_it() -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    return ignores_it


def test_a_task_that_ignores_its_cancellation_is_named_and_not_waited_for_beyond_the_limit(heard: Heard) -> None:
    async def main() -> None:
        release = asyncio.Event()
        async with hosted({"server": {"timeouts": {"shutdown": "10ms"}}}, hello) as host:
            task = host.state.spawn(stubborn(release))
            await host.get("/x")
        assert not task.done()
        assert heard.messages == ["the task ignores_it was cancelled, but does not end", "tasks did not stop in time"]
        release.set()
        await task

    run(main)


def test_nor_is_one_whose_application_has_failed_to_start(heard: Heard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "_UNWIND_TIMEOUT", 0.01)

    async def main() -> None:
        release = asyncio.Event()
        spawned: list[asyncio.Task[None]] = []

        async def create_app(state: Any) -> ASGIApp:
            spawned.append(state.spawn(stubborn(release)))
            await asyncio.sleep(0)
            raise LookupError("no such table")

        with pytest.raises(AppLoadError, match="the factory raised LookupError"):
            async with hosted(app=create_app):
                pass
        assert heard.messages == ["the task ignores_it was cancelled, but does not end"]
        release.set()
        await spawned[0]

    run(main)
