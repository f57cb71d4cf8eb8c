"""What the edge bounds: bodies, concurrency, rates, times; and what becomes of an application that raises."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pywatt_host.net.limits import GUESSES, Limits, LocalLimits
from pywatt_host.net.shared_limits import SharedLimits
from pywatt_host.observability.logs import ResponseCutError
from pywatt_host.types import Message, Receive, Scope, Send
from tests.hosting import Hosted, Recorder, hello, hosted, run, websocket


class Upload:
    """Reads the whole body, then answers its length."""

    def __init__(self) -> None:
        self.events: list[Message] = []
        self.read = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        self.events = []
        more = True
        while more:
            event = await receive()
            self.events.append(event)
            more = event.get("more_body", False)
            self.read.set()
        body = str(sum(len(event.get("body", b"")) for event in self.events)).encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})


class Gated:
    """Holds each request until it is let go."""

    def __init__(self) -> None:
        self.running = 0
        self.go = asyncio.Event()
        self._news = asyncio.Condition()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            raise RuntimeError("declined")
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})
        await self._count(1)
        try:
            await self.go.wait()
        finally:
            await self._count(-1)
        if scope["type"] == "http":
            await hello(scope, receive, send)

    async def _count(self, by: int) -> None:
        async with self._news:
            self.running += by
            self._news.notify_all()

    async def until(self, running: int) -> None:
        async with self._news:
            await self._news.wait_for(lambda: self.running == running)


def told(host: Hosted, status: int) -> list[str]:
    """The manifest keys that the edge's warnings name."""
    return [
        r["key"] for r in host.logs("pywatt.edge") if r["level"] == "warning" and r["message"].startswith(str(status))
    ]


# Bodies ---------------------------------------------------------------------------------------------------------------


def test_a_body_that_tells_its_length_is_refused_before_the_application() -> None:
    async def main() -> None:
        app = Recorder()
        async with hosted({"server": {"limits": {"body": "1KiB"}}}, app) as host:
            assert (await host.request("POST", "/", body=[b"x" * 1024])).status == 200
            answer = await host.request("POST", "/", body=[b"x" * 1025])
            assert (answer.status, answer.header("content-type")) == (413, "application/problem+json")
            assert answer.header("connection") == "close"
            assert len(app.scopes) == 1
            assert told(host, 413) == ["server.limits.body"]
            assert host.access()[-1]["reason"] == "server.limits.body"

    run(main)


def test_a_streamed_body_over_the_limit_is_a_disconnect_to_the_application_and_413_to_the_client() -> None:
    async def main() -> None:
        app = Upload()
        async with hosted({"health": False, "server": {"limits": {"body": "10B"}}}, app) as host:
            assert (await host.request("POST", "/", body=[b"12345", b"67890"])).body == b"10"
            answer = await host.request("POST", "/", body=[b"12345", b"67890", b"1", b"never read"])
            assert (answer.status, answer.header("connection"), answer.whole) == (413, "close", True)
            assert [event["type"] for event in app.events] == ["http.request", "http.request", "http.disconnect"]
            assert host.access()[-1]["status"] == 413

    run(main)


def test_after_a_413_the_application_sees_only_disconnects_and_its_own_answer_goes_nowhere() -> None:
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        for _ in range(3):
            seen.append((await receive())["type"])
        await hello(scope, receive, send)

    async def main() -> None:
        async with hosted({"health": False, "server": {"limits": {"body": "1B"}}}, app) as host:
            answer = await host.request("POST", "/", body=[b"12", b"34", b"56"])
            assert (answer.status, seen) == (413, ["http.disconnect"] * 3)

    run(main)


def test_a_length_that_is_no_number_counts_as_none_and_the_stream_is_bounded() -> None:
    async def main() -> None:
        async with hosted({"health": False, "server": {"limits": {"body": "3B"}}}, Upload()) as host:
            for length in ("-1", "1e9", "٣", "9" * 30):
                headers = [("content-length", length)] if length.isascii() else []
                assert (await host.request("POST", "/", headers=headers, body=[b"12", b"34"])).status == 413, length

    run(main)


def test_an_endpoint_has_its_own_body_limit_or_none() -> None:
    endpoints = [
        {"path": "/small", "methods": ["POST"], "body": "2B"},
        {"path": "/any", "methods": ["POST"], "body": "off"},
        {"path": "/usual", "methods": ["POST"]},
    ]

    async def main() -> None:
        manifest = {"health": False, "endpoints": endpoints, "server": {"limits": {"body": "5B"}}}
        async with hosted(manifest, Upload()) as host:
            for path, length, status in [
                ("/small", 2, 200),
                ("/small", 3, 413),
                ("/usual", 5, 200),
                ("/usual", 6, 413),
                ("/any", 100_000, 200),
            ]:
                assert (await host.request("POST", path, body=[b"x" * length])).status == status, (path, length)
                assert (await host.request("POST", path, body=[b"x"] * min(length, 9))).status == status, (path, length)
            assert set(told(host, 413)) == {"endpoints[0].body", "server.limits.body"}

    run(main)


# Concurrency and rates ------------------------------------------------------------------------------------------------


def test_requests_over_the_concurrency_are_503_and_those_after_it_are_served() -> None:
    async def main() -> None:
        app = Gated()
        async with hosted({"health": False, "server": {"limits": {"concurrency": 2}}}, app) as host:
            running = [host.start("GET", f"/{number}") for number in range(2)]
            await app.until(2)
            answer = await host.get("/3")
            assert (answer.status, answer.header("retry-after")) == (503, "1")
            assert answer.header("content-type") == "application/problem+json"
            assert told(host, 503) == ["server.limits.concurrency"]
            app.go.set()
            assert [(await call.answer()).status for call in running] == [200, 200]
            assert (await host.get("/4")).status == 200

    run(main)


def test_an_endpoints_concurrency_is_its_own_and_a_cancelled_request_gives_its_place_back() -> None:
    async def main() -> None:
        app = Gated()
        endpoints = [{"path": "/slow", "concurrency": 1}, {"path": "/other"}]
        async with hosted({"health": False, "endpoints": endpoints}, app) as host:
            first = host.start("GET", "/slow")
            await app.until(1)
            assert (await host.get("/slow")).status == 503
            assert told(host, 503) == ["endpoints[0].concurrency"]
            first.task.cancel()
            await asyncio.wait([first.task])
            second, other = host.start("GET", "/slow"), host.start("GET", "/other")
            await app.until(2)
            app.go.set()
            assert ((await second.answer()).status, (await other.answer()).status) == (200, 200)

    run(main)


def test_websockets_are_bounded_by_their_endpoint_and_do_not_count_as_running() -> None:
    async def main() -> None:
        app = Gated()
        endpoints = [{"path": "/ws", "methods": ["WEBSOCKET"], "concurrency": 1}, {"path": "/"}]
        manifest = {"health": False, "endpoints": endpoints, "server": {"limits": {"concurrency": 1}}}
        async with hosted(manifest, app) as host:
            first = asyncio.create_task(websocket(host.app, "/ws"))
            await app.until(1)
            assert await websocket(host.app, "/ws") == [{"type": "websocket.close", "code": 1008}]
            request = host.start("GET", "/")
            await app.until(2)
            app.go.set()
            assert (await request.answer()).status == 200
            assert (await first)[0]["type"] == "websocket.accept"
            assert (await websocket(host.app, "/ws"))[0]["type"] == "websocket.accept"

    run(main)


def test_a_rate_is_per_client_and_over_it_429_says_when_to_come_again() -> None:
    now = [1000.0]
    limits = LocalLimits(lambda: now[0])

    async def main() -> None:
        async with hosted({"endpoints": [{"path": "/", "rate_limit": "2/m"}]}, Recorder(), limits=limits) as host:

            async def status(client: str) -> tuple[int, str]:
                answer = await host.get("/", client=(client, 1))
                return answer.status, answer.header("retry-after")

            assert [await status("192.0.2.1") for _ in range(3)] == [(200, ""), (200, ""), (429, "30")]
            assert await status("192.0.2.2") == (200, "")
            now[0] += 20
            refused, wait = await status("192.0.2.1")
            assert refused == 429
            assert wait in ("10", "11")  # rounded up
            now[0] += 10.001
            assert [await status("192.0.2.1") for _ in range(2)] == [(200, ""), (429, "30")]
            now[0] += 3600
            assert [(await status("192.0.2.1"))[0] for _ in range(3)] == [200, 200, 429]
            assert set(told(host, 429)) == {"endpoints[0].rate_limit"}

    run(main)


# Time -----------------------------------------------------------------------------------------------------------------


def test_a_response_that_does_not_start_in_time_is_504_and_the_application_is_cancelled() -> None:
    cancelled: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        if scope["path"] == "/fast":
            return await hello(scope, receive, send)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(scope["path"])
            raise

    async def main() -> None:
        manifest = {
            "health": False,
            "endpoints": [{"path": "/slow"}, {"path": "/fast"}, {"path": "/own", "timeout": "10ms"}],
            "server": {"timeouts": {"request": "50ms"}},
        }
        async with hosted(manifest, app) as host:
            answer = await host.get("/slow")
            assert (answer.status, answer.header("content-type")) == (504, "application/problem+json")
            assert (await host.get("/own")).status == 504
            assert cancelled == ["/slow", "/own"]
            assert told(host, 504) == ["server.timeouts.request", "endpoints[2].timeout"]
            assert (await host.get("/fast")).status == 200
            assert host.host.applications.all[0].mount is not None

    run(main)


def test_once_the_response_has_started_it_may_take_its_time_and_an_endpoint_may_have_no_limit() -> None:
    started, go = asyncio.Event(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        if scope["path"] == "/stream":
            await send({"type": "http.response.start", "status": 200, "headers": []})
        started.set()
        await go.wait()
        if scope["path"] != "/stream":
            await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"at last"})

    async def main() -> None:
        loop = asyncio.get_running_loop()
        endpoints = [{"path": "/stream"}, {"path": "/patient", "timeout": "off"}, {"path": "/late"}]
        manifest = {"health": False, "endpoints": endpoints, "server": {"timeouts": {"request": "30ms"}}}
        async with hosted(manifest, app) as host:
            for path in ("/stream", "/patient"):
                started.clear()
                go.clear()
                call = host.start("GET", path)
                await started.wait()
                # A request begun later with the limit has been timed out: the limit is long past for this one.
                assert (await host.get("/late")).status == 504
                loop.call_later(0.05, go.set)
                assert (await call.answer()).body == b"at last", path

    run(main)


def test_a_timeout_error_of_the_applications_own_is_no_504() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        raise TimeoutError("its own")

    async def main() -> None:
        async with hosted({"health": False, "server": {"timeouts": {"request": "10s"}}}, app) as host:
            assert (await host.get("/")).status == 500

    run(main)


# Exceptions -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limits", [{}, {"timeouts": {"request": "10s"}}, {"cors": {"allow_origins": ["*"]}}])
def test_an_exception_is_a_500_that_tells_nothing_and_a_log_record_that_tells_all(limits: dict[str, Any]) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        raise ValueError("password=hunter2")

    async def main() -> None:
        async with hosted({"health": False, "metrics": True, "server": limits}, app) as host:
            answer = await host.get("/x", headers={"X-Request-ID": "r9"})
            assert (answer.status, answer.header("content-type"), answer.whole) == (
                500,
                "application/problem+json",
                True,
            )
            assert answer.json() == {
                "type": "about:blank",
                "title": "Internal Server Error",
                "status": 500,
                "request_id": "r9",
            }
            record = host.logs("pywatt.app")[-1]
            assert "hunter2" in record["exception"]
            assert record["request_id"] == "r9"
            assert (host.access()[-1]["status"], host.access()[-1]["reason"]) == (500, "application raised")

    run(main)


def test_an_exception_after_the_start_cuts_the_connection_and_is_logged_once() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise ValueError("in the middle")

    async def main() -> None:
        async with hosted({"health": False}, app) as host:
            call = host.start("GET", "/")
            with pytest.raises(ResponseCutError):
                await call.answer()
            assert call.body == b"half"
            assert [message["type"] for message in call.sent] == ["http.response.start", "http.response.body"]
            assert len([r for r in host.logs() if "exception" in r]) == 1
            line = host.access()[-1]
            assert (line["status"], line["reason"], line["bytes"]) == (200, "application raised", 4)

    run(main)


def test_a_client_that_leaves_is_seen_by_the_application_and_logged_as_499() -> None:
    left = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        while (await receive())["type"] != "http.disconnect":
            pass
        left.set()

    async def main() -> None:
        async with hosted({"health": False}, app) as host:
            call = host.start("GET", "/")
            call.leave()
            await call.task
            assert left.is_set()
            assert call.sent == []
            assert host.access()[-1]["status"] == 499

    run(main)


# Over several processes -----------------------------------------------------------------------------------------------


@contextmanager
def two_workers() -> Iterator[tuple[Limits, Limits]]:
    """What two workers of one host have; here both are in this process."""
    shared = SharedLimits.create()
    first, second = (SharedLimits.attach(os.dup(shared.descriptor), shared.assign()) for _ in range(2))
    try:
        yield first, second
    finally:
        for each in (first, second, shared):
            each.close()


@pytest.mark.parametrize("key", ["server", "endpoint", "rule"])
def test_concurrency_holds_for_all_workers_together_in_each_generation(key: str) -> None:
    async def main() -> None:
        endpoint: dict[str, Any] = {"path": "/{p:path}", "methods": ["GET", "POST"], "concurrency": 3}
        other = {"path": "/other", "concurrency": 1}
        manifests: dict[str, list[Any]] = {
            "server": [{"server": {"limits": {"concurrency": 3}}}] * 2,
            "endpoint": [
                {"endpoints": [endpoint]},
                {"endpoints": [other, {**endpoint, "methods": ["POST", "GET"]}]},  # a reload has changed the order
            ],
            "rule": [{"endpoints": {"rules": [endpoint]}}, {"endpoints": {"rules": [other, endpoint]}}],
        }
        old, new = ({"health": False, **each} for each in manifests[key])
        app = Gated()
        with two_workers() as (one, two):
            async with hosted(old, app, limits=one) as first, hosted(new, app, limits=two) as second:
                requests = [host.start("GET", "/") for host in (first, first, second)]
                await app.until(3)
                for host in (first, second):
                    refused = await host.get("/")
                    assert (refused.status, refused.header("retry-after")) == (503, "1")
                app.go.set()
                assert [(await request.answer()).status for request in requests] == [200] * 3
                assert (await second.get("/")).status == 200

    run(main)


def test_a_rate_holds_for_all_workers_together_and_a_reload_gives_no_fresh_budget() -> None:
    async def main() -> None:
        endpoint, other = {"path": "/", "rate_limit": "3/h"}, {"path": "/other", "rate_limit": "1/h"}
        with two_workers() as (one, two):
            async with hosted({"endpoints": [endpoint]}, Recorder(), limits=one) as host:
                assert [(await host.get("/")).status for _ in range(2)] == [200, 200]
            async with hosted({"endpoints": [other, endpoint]}, Recorder(), limits=two) as host:
                assert [(await host.get(path)).status for path in ("/", "/", "/other")] == [200, 429, 200]

    run(main)


def test_guesses_on_the_metrics_are_limited_for_all_workers_together() -> None:
    async def main() -> None:
        manifest = {
            "auth": {"robots": {"type": "api_key", "keys": f"robot:{'k' * 32}"}},
            "metrics": {"auth": "robots"},
            "health": False,
        }
        wrong = {"x-api-key": "w" * 32}
        with two_workers() as (one, two):
            async with (
                hosted(manifest, Recorder(), limits=one) as first,
                hosted(manifest, Recorder(), limits=two) as second,
            ):
                hosts = [first, second] * (GUESSES.count // 2)
                assert {(await host.get("/metrics", headers=wrong)).status for host in hosts} == {401}
                assert [(await host.get("/metrics", headers=wrong)).status for host in (first, second)] == [429, 429]

    run(main)
