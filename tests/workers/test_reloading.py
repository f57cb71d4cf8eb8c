"""Reloads: one at a time, all requests meanwhile share the next one, and what is wrong leaves the old generation."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from pywatt_host.exceptions import BindError, SecretError
from pywatt_host.manifest import Manifest, Source, load
from pywatt_host.observability.spans import SpanBuffer, Tracer
from pywatt_host.observability.start_spans import StartSpans
from pywatt_host.supervision.reading import READ_LIMIT
from pywatt_host.workers.reloading import RefusedReloadError, Reloading
from pywatt_host.workers.zygote_process import WorkerStartError
from tests.collector import recorded
from tests.hosting import run
from tests.workers.supervised import until

GOOD = "app: main:app\nserver: {workers: 2}\n"


class Reloaded:
    """A reloading without processes. `text` is the manifest on disk."""

    def __init__(self, read_limit: float = READ_LIMIT) -> None:
        self.blocked: threading.Event | None = None
        self.tracer = Tracer(SpanBuffer())
        self.text = GOOD
        self.generation, self.manifest = 1, self.load()
        self.begun = 0
        self.told: list[dict[str, Any]] = []
        self.begins: list[Manifest] = []
        self.failure: BaseException | None = None
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.running = 0
        self.reloading = Reloading(
            self.load,
            lambda: (self.generation, self.manifest),
            self._begin,
            self._count,
            self.told.append,
            lambda text: text.replace("s3cret-value", "***"),
            StartSpans(lambda: self.tracer),
            read_limit=read_limit,
        )

    def load(self) -> Manifest:
        if self.blocked is not None:
            self.blocked.wait(60)
        return load(Source.of_text(self.text), environ={}).manifest

    def _count(self) -> None:
        self.begun += 1

    async def _begin(self, manifest: Manifest) -> int:
        self.running += 1
        assert self.running == 1
        self.begins.append(manifest)
        try:
            await self.go_on.wait()
            if self.failure is not None:
                raise self.failure
        finally:
            self.running -= 1
        self.generation, self.manifest = self.generation + 1, manifest
        return self.generation

    def ask(self, why: str = "the test") -> asyncio.Task[dict[str, Any]]:
        return asyncio.create_task(self.reloading.reload(why))


@asynccontextmanager
async def reloaded() -> AsyncIterator[Reloaded]:
    found = Reloaded()
    try:
        yield found
    finally:
        await found.reloading.close()


def in_host(test: Callable[[Reloaded], Awaitable[None]]) -> None:
    async def main() -> None:
        async with reloaded() as found:
            await test(found)

    run(main)


# A manifest that cannot be read ---------------------------------------------------------------------------------------


def test_a_manifest_that_is_not_read_in_time_is_refused_and_holds_up_nothing() -> None:
    began = time.monotonic()

    async def main() -> None:
        host = Reloaded(read_limit=0.05)
        host.blocked = threading.Event()
        verdict = await host.ask()
        assert (verdict["ok"], verdict["stage"], verdict["exit_code"]) == (False, "manifest", 2)
        assert verdict["reason"].startswith("reading the manifest takes longer than 0.05 s; ")
        host.blocked.set()
        host.blocked = None
        assert (await host.ask())["ok"]
        await host.reloading.close()

    run(main)
    assert time.monotonic() - began < 30


def test_a_host_that_stops_does_not_wait_for_a_manifest() -> None:
    began = time.monotonic()

    async def main() -> None:
        host = Reloaded()
        host.blocked = threading.Event()
        asked = host.ask()
        await until(lambda: host.reloading.under_way)
        await host.reloading.close()
        assert (await asked)["stage"] == "stopping"

    run(main)
    assert time.monotonic() - began < 30


# Good ones ------------------------------------------------------------------------------------------------------------


def test_a_good_reload_says_which_generation_is_in_use_and_what_has_changed() -> None:
    async def test(host: Reloaded) -> None:
        host.text = GOOD + "config: {greeting: hello}\n"
        verdict = await host.ask()
        assert verdict.pop("seconds") >= 0
        (change,) = verdict.pop("changes")
        assert (change["path"], change["action"]) == ("config.greeting", "rebuilt")
        assert {key: value for key, value in verdict.items() if value is not None} == {
            "ok": True,
            "generation": 2,
            "exit_code": 0,
        }
        assert (host.begun, len(host.told)) == (1, 1)
        assert host.reloading.last is not None
        assert host.reloading.last["generation"] == 2
        assert host.reloading.last["time"] > 0
        assert not host.reloading.under_way

    in_host(test)


def test_a_reload_without_a_change_makes_a_new_generation_too() -> None:
    async def test(host: Reloaded) -> None:
        verdict = await host.ask()
        assert (verdict["generation"], verdict["changes"]) == (2, [])

    in_host(test)


def test_all_requests_during_a_reload_share_the_next_one() -> None:
    async def test(host: Reloaded) -> None:
        host.go_on.clear()
        first = host.ask()
        await until(lambda: host.running)
        assert host.reloading.under_way
        host.text = GOOD + "config: {greeting: hello}\n"  # too late for the first
        others = [host.ask() for _ in range(5)]
        await asyncio.sleep(0.01)
        host.go_on.set()
        assert (await first)["generation"] == 2
        verdicts = await asyncio.gather(*others)
        assert [verdict["generation"] for verdict in verdicts] == [3] * 5
        assert len(host.begins) == 2
        assert host.begins[1].config == {"greeting": "hello"}

    in_host(test)


def test_one_that_asks_again_at_once_does_not_begin_beside_the_next_one() -> None:
    async def test(host: Reloaded) -> None:
        host.go_on.clear()

        async def twice() -> list[int]:
            return [(await host.reloading.reload("again"))["generation"] for _ in range(2)]

        first = asyncio.create_task(twice())
        await until(lambda: host.running)
        second = host.ask()
        await asyncio.sleep(0.01)
        host.go_on.set()
        assert await first == [2, 3]
        assert (await second)["generation"] == 3
        assert len(host.begins) == 2

    in_host(test)


def test_a_request_during_the_shared_reload_gets_one_of_its_own() -> None:
    async def test(host: Reloaded) -> None:
        host.go_on.clear()
        first = host.ask()
        await until(lambda: len(host.begins) == 1)
        second = host.ask()
        await asyncio.sleep(0.01)
        host.go_on.set()
        host.go_on.clear()
        assert (await first)["generation"] == 2
        await until(lambda: len(host.begins) == 2)
        third = host.ask()
        await asyncio.sleep(0.01)
        host.go_on.set()
        assert [(await each)["generation"] for each in (second, third)] == [3, 4]

    in_host(test)


def test_who_leaves_does_not_end_the_reload() -> None:
    async def test(host: Reloaded) -> None:
        host.go_on.clear()
        first = host.ask()
        await until(lambda: host.running)
        first.cancel()
        second = host.ask()
        await asyncio.sleep(0.01)
        host.go_on.set()
        assert (await second)["generation"] == 3
        assert [verdict["ok"] for verdict in host.told] == [True, True]

    in_host(test)


def test_the_manifest_is_read_in_a_thread() -> None:
    async def test(host: Reloaded) -> None:
        threads: list[threading.Thread] = []
        read = host.load

        def reading() -> Manifest:
            threads.append(threading.current_thread())
            return read()

        host.reloading._load = reading
        assert (await host.ask())["ok"]
        assert threads != [threading.main_thread()]

    in_host(test)


# Refused ones ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "failure", "stage", "code", "reason"),
    [
        ("app: main:app\nserver: {wokers: 2}\n", None, "manifest", 2, "2:10: server.wokers"),
        ("app: [unclosed\n", None, "manifest", 2, ":"),
        (GOOD + "module: {id: other}\n", None, "plan", 2, "module.id: "),
        (GOOD, SecretError("Secret KEY was not found"), "secrets", 3, "Secret KEY was not found"),
        (GOOD, WorkerStartError("worker 1 was not ready", 3), "start", 3, "worker 1 was not ready"),
        (GOOD, WorkerStartError("it failed", 2, "Traceback: s3cret-value\n"), "start", 2, "it failed\nTraceback: ***"),
        (GOOD, WorkerStartError("it failed", 4), "start", 3, "it failed"),
        (GOOD, RefusedReloadError("secrets", 3, "not now"), "secrets", 3, "not now"),
    ],
)
def test_a_reload_that_is_refused_says_at_which_stage_and_why(
    text: str, failure: BaseException | None, stage: str, code: int, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, "pywatt.workers")

    async def test(host: Reloaded) -> None:
        host.text, host.failure = text, failure
        verdict = await host.ask()
        assert (verdict["ok"], verdict["stage"], verdict["exit_code"]) == (False, stage, code)
        assert verdict["generation"] == 1
        assert reason in verdict["reason"]
        assert host.told == [verdict]
        host.text, host.failure = GOOD, None
        assert (await host.ask())["ok"]

    in_host(test)
    assert f"reload: refused ({stage}); generation 1 serves on: " in caplog.text
    assert "s3cret" not in caplog.text


@pytest.mark.parametrize(
    "failure",
    [
        BindError("server.listen", "127.0.0.1:80", "it is taken"),
        OSError(24, "Too many open files"),
        ValueError("a fault of this package"),
    ],
    ids=["address", "descriptors", "anything"],
)
def test_whatever_else_goes_wrong_is_a_verdict_too(failure: Exception) -> None:
    async def test(host: Reloaded) -> None:
        host.failure = failure
        verdict = await host.ask()
        assert (verdict["ok"], verdict["exit_code"], verdict["generation"]) == (False, 3, 1)
        assert str(failure.args[-1]) in verdict["reason"]
        host.failure = None
        assert (await host.ask())["ok"]

    in_host(test)


def test_a_host_that_stops_ends_the_reload_and_refuses_others() -> None:
    async def main() -> None:
        host = Reloaded()
        host.go_on.clear()
        first = host.ask()
        await until(lambda: host.running)
        second = host.ask()
        await asyncio.sleep(0.01)
        await host.reloading.close()
        assert host.running == 0
        for each in (first, second):
            verdict = await each
            assert (verdict["ok"], verdict["exit_code"]) == (False, 3)
            assert "stopping" in verdict["reason"]
        verdict = await host.ask()
        assert (verdict["ok"], verdict["reason"]) == (False, "the host is stopping")
        assert len(host.begins) == 1

    run(main)


def test_a_reload_has_a_span_with_its_stage_and_its_verdict() -> None:
    async def test(found: Reloaded) -> None:
        assert (await found.ask("by hand"))["ok"]
        (span,) = [span for span in recorded(found.tracer) if span.name == "reload"]
        assert (span.kind, span.parent, span.failed) == ("internal", "", False)
        assert span.attributes == {"pywatt.reload.reason": "by hand", "pywatt.generation": 2}
        found.failure = SecretError("Secret KEY was not found")
        assert not (await found.ask())["ok"]
        (span,) = [span for span in recorded(found.tracer) if span.name == "reload"]
        assert (span.failed, span.attributes["error.type"]) == (True, "refused")
        assert span.attributes["pywatt.reload.stage"] == "secrets"

    in_host(test)


def test_a_reload_that_the_stop_ends_is_a_span_that_says_so() -> None:
    async def test(found: Reloaded) -> None:
        found.go_on.clear()
        asked = found.ask()
        await until(lambda: bool(found.begins))
        await found.reloading.close()
        await asked
        (span,) = [span for span in recorded(found.tracer) if span.name == "reload"]
        assert span.attributes["error.type"] == "CancelledError"

    in_host(test)
