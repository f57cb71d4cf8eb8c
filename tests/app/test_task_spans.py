"""The spans of background tasks: a trace for each run, with a link to what has spawned it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pywatt_host.app import tasks
from pywatt_host.app.tasks import Tasks
from pywatt_host.observability.context import active_trace
from pywatt_host.observability.health import Checks
from pywatt_host.observability.spans import SpanBuffer, Tracer
from tests.collector import collecting, recorded
from tests.hosting import hello, hosted, run


def test_a_task_that_a_request_spawns_is_a_trace_linked_to_the_request() -> None:
    spawned: list[asyncio.Task[None]] = []

    async def main() -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            spawned.append(host.state.spawn(work, name="mail"))
            await hello(scope, receive, send)

        async def work() -> None:
            await host.state.cache.set("key", 1)

        async with hosted({"tracing": collector.url, "caches": {"default": {"url": "memory://"}}}, app) as host:
            await host.get("/order")
            await asyncio.gather(*spawned)

    with collecting() as collector:
        run(main)
        (server,) = [span for span in collector.spans() if span.kind == "server"]
        task, inner = collector.wait("task mail", "set caches.default")
    assert (task.kind, task.parent, task.links) == ("internal", "", (server.id,))
    assert task.trace != server.trace
    assert (inner.trace, inner.parent) == (task.trace, task.id)
    assert task.attributes["pywatt.task"] == "mail"


def tasks_of(tracer: Tracer) -> Tasks:
    class NoChecks(Checks):
        def __init__(self) -> None:
            return

    return Tasks(NoChecks(), tracer)


def test_what_a_task_of_the_start_does_begins_traces_of_its_own() -> None:
    """Such a task often runs until the host stops: one trace with all that it does would have no end."""
    tracer = Tracer(SpanBuffer())

    async def main() -> None:
        async def poll() -> None:
            for _ in range(2):
                assert active_trace() is None
                with tracer.span("query"):
                    pass

        await tasks_of(tracer).spawn(poll, "poller", "log")

    run(main)
    first, second, task = recorded(tracer)
    assert len({first.trace, second.trace, task.trace}) == 3
    assert (task.name, task.parent, task.links) == ("task poller", "", ())


def test_each_run_of_a_task_that_is_restarted_has_a_span_and_a_crash_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tasks, "_FIRST_RESTART_DELAY", 0.001)
    tracer = Tracer(SpanBuffer())

    async def main() -> None:
        runs = iter((LookupError, None))

        async def work() -> None:
            error = next(runs)
            if error is not None:
                raise error("with a secret")

        with tracer.span("around"):
            task = tasks_of(tracer).spawn(work, "worker", "restart")
        await task

    run(main)
    around, first, second = recorded(tracer)
    assert first.links == second.links == (around.id,)
    assert [(span.failed, span.attributes.get("error.type")) for span in (first, second)] == [
        (True, "LookupError"), (False, None),
    ]  # fmt: skip
    assert first.trace != second.trace


def test_a_task_that_the_stop_ends_is_no_error() -> None:
    tracer = Tracer(SpanBuffer())

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            service = tasks_of(tracer)
            async with service.running(group):
                service.spawn(asyncio.Event().wait, "endless", "log")
                await asyncio.sleep(0)

    run(main)
    (span,) = recorded(tracer)
    assert (span.name, span.failed) == ("task endless", False)
