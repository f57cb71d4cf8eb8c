"""Traces of real processes: workers under their supervisor, the end of a host, and a reload to another endpoint."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.collector import Collected, Collector, collecting
from tests.process.supervised import APP, Supervised, manifest, until
from tests.processes import Connection, Project, allowed

PATHS: dict[str, Any] = {"endpoints": [{"path": "/pid"}, {"path": "/sleep/{seconds}"}, {"path": "/exit/{code}"}]}


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as found:
        yield found


@pytest.fixture
def traced(project: Project) -> Project:
    project.write("main.py", APP)
    return project


def requested(address: str, count: int) -> Counter[int]:
    """How many of so many requests each process has answered, over as many connections."""
    with ExitStack() as stack:
        connections = [stack.enter_context(Connection(address)) for _ in range(count)]
        return Counter(int(connection.request("GET", "/pid").body) for connection in connections)


def by_process(spans: list[Collected]) -> Counter[int]:
    return Counter(int(span.resource["process.pid"]) for span in spans)


def exported(running: Supervised) -> float:
    return running.metric("pywatt_spans_exported_total")


def test_workers_hand_their_spans_to_the_supervisor_which_sends_all_of_them(
    traced: Project, collector: Collector
) -> None:
    manifest(traced, tracing={"endpoint": collector.url, "resource": {"team": "core"}}, module={"id": "m"}, **PATHS)
    running = Supervised(traced)
    asked = requested(running.address, 16)
    assert len(asked) == 2
    until(lambda: len(collector.named("GET /pid")) == 16)
    until(lambda: exported(running) == len(collector.everything()))
    found = collector.named("GET /pid")
    assert by_process(found) == asked
    places = {(span.resource["process.pid"], span.resource["pywatt.worker"]) for span in found}
    assert places == {(pid, place) for place, pid in running.workers().items()}
    assert len({span.resource["service.instance.id"] for span in found}) == 2
    assert {(span.service, span.resource["team"]) for span in found} == {("m", "core")}
    # Workers are forks of one process: no id may come twice.
    assert len({span.trace for span in found}) == len({span.id for span in found}) == 16
    # What is there at the end is sent as well, and a worker that is killed loses its own spans alone.
    pids = running.workers()
    requested(running.address, 4)
    os.kill(pids[1], signal.SIGKILL)
    running.until_workers(2, without=[pids[1]])
    before = len(collector.named("GET /pid"))
    asked = requested(running.address, 8)
    assert running.host.stop() == 0
    after = by_process(collector.named("GET /pid"))
    assert sum(after.values()) >= before + 8
    assert all(after[pid] >= count for pid, count in asked.items())


def test_a_reload_to_another_endpoint_loses_no_span(traced: Project, collector: Collector) -> None:
    manifest(traced, tracing=collector.url, **PATHS)
    running = Supervised(traced)
    with collecting() as other, Connection(running.address) as slow:
        requested(running.address, 4)
        slow.head("GET", "/sleep/1")
        manifest(traced, tracing=other.url, **PATHS)
        difference = json.loads(traced.cli("diff", "--json").stdout)
        assert ("tracing.endpoint", "rebuilt") in [(each["path"], each["action"]) for each in difference]
        verdict = running.reload()
        assert verdict["ok"], verdict
        assert slow.response().status == 200
        requested(running.address, 6)
        until(lambda: len(other.named("GET /pid")) == 6)
        collector.wait("GET /sleep/{seconds}")
        assert len(collector.named("GET /pid")) == 4
        until(lambda: exported(running) == len(collector.everything()) + len(other.everything()))  # it counts on
        # The end of the old generation, with its last spans, is not the beginning of a stop.
        running.until_workers(2)
        until(lambda: len(running.status()["workers"]) == 2)
        assert running.host.stop() == 0
        assert "forced to stop" not in str(running.host.logs)


def test_the_starts_of_workers_hang_below_the_start_and_the_reload_of_the_host(
    traced: Project, collector: Collector
) -> None:
    manifest(traced, tracing=collector.url, **PATHS)
    running = Supervised(traced)
    assert running.reload()["ok"]
    assert running.host.stop() == 0
    spans = {span.id: span for span in collector.everything()}
    for name in ("start", "reload"):
        (whole,) = collector.named(name)
        assert (whole.parent, whole.failed) == ("", False)
        workers = [span for span in collector.named("start worker") if span.trace == whole.trace]
        assert len({span.resource["pywatt.worker"] for span in workers}) == len(workers) == 2
        assert {spans[span.parent].name for span in workers} == {"start workers"}
        below = {span.name for span in spans.values() if span.parent == whole.id}
        assert {"import the code", "start workers"} <= below
        (loaded,) = {span.name for span in spans.values() if span.name.startswith("load ")}
        assert loaded == "load main:app"


def test_a_host_alone_sends_its_last_spans_at_its_end_and_with_the_headers_of_its_secrets(
    traced: Project, collector: Collector
) -> None:
    keys: dict[str, Any] = {"headers": {"authorization": "${secret:OTLP}"}, "endpoint": collector.url}
    traced.manifest(tracing=keys, **PATHS)
    host = traced.host(env={"OTLP": "Bearer long-enough"})
    assert host.get("/pid").status == 200
    assert host.stop() == 0
    assert [span.name for span in collector.spans()] == ["GET /pid"]
    assert collector.headers[0]["authorization"] == "Bearer long-enough"
    assert "long-enough" not in str(host.logs)


def test_variables_alone_switch_traces_on(traced: Project, collector: Collector) -> None:
    traced.manifest(**PATHS)
    host = traced.host(env={"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_SERVICE_NAME": "named"})
    assert host.get("/pid").status == 200
    assert host.stop() == 0
    assert [(span.service, span.name) for span in collector.spans()] == [("named", "GET /pid")]


def test_a_collector_that_never_answers_costs_requests_nothing_and_the_end_two_seconds(traced: Project) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        traced.manifest(tracing=f"http://127.0.0.1:{silent.getsockname()[1]}", metrics=True, **PATHS)
        host = traced.host()
        with host.connect() as connection:
            began = time.perf_counter()
            for _ in range(300):
                assert connection.request("GET", "/pid").status == 200
            assert time.perf_counter() - began < allowed(3.0)
        began = time.perf_counter()
        assert host.stop() == 0
        assert time.perf_counter() - began < allowed(4.0)
        assert "spans were not taken by" in str(host.logs)
