"""Threads, admission, back-pressure, disconnects and cancellation: nothing is left behind."""

import asyncio
import contextvars
import itertools
import json
import logging
import subprocess
import sys
import threading
from typing import Any

import pytest


class Endless:
    """A response without an end that tells of its close()."""

    def __init__(self) -> None:
        self.produced = self.closes = 0
        self.closed = threading.Event()

    def __call__(self, environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        return self

    def __iter__(self) -> Any:
        while True:
            self.produced += 1
            yield b"tick"

    def close(self) -> None:
        self.closes += 1
        self.closed.set()


class Gate:
    """An app that stays inside until it is let go."""

    def __init__(self) -> None:
        self.entered, self.go = threading.Semaphore(0), threading.Event()
        self.calls = 0
        self.threads: set[str] = set()

    def __call__(self, environ: Any, start_response: Any) -> Any:
        self.calls += 1
        self.threads.add(threading.current_thread().name)
        self.entered.release()
        assert self.go.wait(10)
        start_response("200 OK", [])
        return [b"done"]

    async def inside(self, count: int) -> None:
        for _ in range(count):
            assert await asyncio.to_thread(self.entered.acquire, timeout=10)


def hello(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [])
    return [b"hello"]


# Streaming and back-pressure ------------------------------------------------------------------------------------------


def test_a_chunk_reaches_the_client_before_the_next_one_is_asked_for(drive: Any, client: Any) -> None:
    go = threading.Event()

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        yield b"first"
        assert go.wait(10)
        yield b"second"

    async def scenario(bridge: Any) -> None:
        caller = client()
        task = asyncio.create_task(caller.call(bridge))
        await caller.until_sent(b"first")
        assert not task.done()
        go.set()
        await task
        assert caller.body == b"firstsecond"
        assert caller.whole

    drive(app, scenario)


def test_a_slow_client_holds_the_generator_back(drive: Any, client: Any) -> None:
    app = Endless()

    async def scenario(bridge: Any) -> None:
        caller = client(slow=True)
        task = asyncio.create_task(caller.call(bridge))
        for allowed in range(1, 20):
            caller.allowed.release()
            async with caller.news:
                await caller.news.wait_for(lambda allowed=allowed: len(caller.sent) >= allowed)
            assert app.produced <= allowed + 6
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    drive(app, scenario)
    assert app.closes == 1


def test_large_chunks_run_ahead_by_bytes_and_not_by_number(drive: Any, client: Any) -> None:
    produced = []

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        for number in range(10):
            produced.append(number)
            yield b"x" * 100_000

    async def scenario(bridge: Any) -> None:
        caller = client(slow=True)
        task = asyncio.create_task(caller.call(bridge))
        caller.allowed.release()
        async with caller.news:
            await caller.news.wait_for(lambda: len(caller.sent) == 1)
        assert len(produced) <= 2
        for _ in range(20):
            caller.allowed.release()
        await task
        assert len(caller.body) == 1_000_000

    drive(app, scenario)


def test_a_response_may_be_streamed_while_the_request_is_still_read(drive: Any, client: Any) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        for line in environ["wsgi.input"]:
            yield line.upper()

    async def scenario(bridge: Any) -> None:
        caller = client(b"a\n", more=True, asking=True)
        task = asyncio.create_task(caller.call(bridge))
        await caller.until_sent(b"A\n")
        caller.upload(b"b\n")
        await caller.until_sent(b"B\n")
        caller.upload(b"", more=False)
        await task
        assert caller.body == b"A\nB\n"
        assert caller.whole

    drive(app, scenario)


# Disconnects ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [False, True], ids=["body read", "body unread"])
def test_a_disconnect_closes_an_endless_response_though_send_goes_on_silently(
    drive: Any, client: Any, happened: Any, more: Any
) -> None:
    app = Endless()

    async def scenario(bridge: Any) -> None:
        caller = client(more=more, asking=more)
        task = asyncio.create_task(caller.call(bridge))
        await caller.until_sent(b"tick")
        caller.disconnect()
        await happened(app.closed)
        await task
        assert (bridge.running, app.closes) == (0, 1)

    drive(app, scenario)


def test_a_disconnect_behind_a_large_unread_body_is_noticed_too(drive: Any, client: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("pywatt_host.wsgi.upload.POLL_SECONDS", 0.001)
    app = Endless()

    async def scenario(bridge: Any) -> None:
        caller = client(*[b"x" * 100_000] * 3, more=True, asking=True)
        caller.disconnect()
        await caller.call(bridge)
        assert app.closes == 1

    drive(app, scenario)


def test_a_generator_is_closed_at_its_yield(drive: Any, client: Any) -> None:
    ended = threading.Event()

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        try:
            while True:
                yield b"tick"
        except GeneratorExit:
            ended.set()
            raise

    async def scenario(bridge: Any) -> None:
        caller = client()
        task = asyncio.create_task(caller.call(bridge))
        await caller.until_sent(b"tick")
        caller.disconnect()
        await task

    drive(app, scenario)
    assert ended.is_set()


def test_an_app_that_only_waits_with_empty_chunks_learns_of_the_disconnect(
    drive: Any, client: Any, happened: Any
) -> None:
    waiting, closed = threading.Event(), threading.Event()

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        try:
            while True:
                waiting.set()
                yield b""
        finally:
            closed.set()

    async def scenario(bridge: Any) -> None:
        caller = client()
        task = asyncio.create_task(caller.call(bridge))
        await happened(waiting)
        caller.disconnect()
        await happened(closed)
        await task

    drive(app, scenario)


def test_write_to_a_client_that_is_gone_raises_in_the_app(drive: Any, client: Any, happened: Any) -> None:
    raised = threading.Event()

    def app(environ: Any, start_response: Any) -> Any:
        write = start_response("200 OK", [])
        with pytest.raises(ConnectionError):
            list(map(write, itertools.repeat(b"tick")))
        raised.set()
        return []

    async def scenario(bridge: Any) -> None:
        caller = client()
        task = asyncio.create_task(caller.call(bridge))
        await caller.until_sent(b"tick")
        caller.disconnect()
        await happened(raised)
        await task

    drive(app, scenario)


def test_a_send_that_raises_ends_the_call_and_frees_the_thread(drive: Any, client: Any, happened: Any) -> None:
    app = Endless()

    async def scenario(bridge: Any) -> None:
        caller = client(slow=True)
        task = asyncio.create_task(caller.call(bridge))
        caller.allowed.release()
        async with caller.news:
            await caller.news.wait_for(lambda: len(caller.sent) == 1)
        caller.send_error = OSError("broken pipe")
        caller.allowed.release()
        with pytest.raises(OSError, match="broken pipe"):
            await task
        await happened(app.closed)

    drive(app, scenario)
    assert app.closes == 1


def test_one_response_at_once_starts_no_watch(answer: Any) -> None:
    caller = answer(hello)
    assert caller.received == 0


def test_a_server_that_only_repeats_the_request_does_not_make_the_watch_spin(drive: Any, client: Any) -> None:
    go = threading.Event()

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        yield b"one"
        assert go.wait(10)
        yield b"two"

    async def scenario(bridge: Any) -> None:
        caller = client()

        async def receive() -> Any:
            caller.received += 1
            return {"type": "http.request", "body": b"", "more_body": False}

        task = asyncio.create_task(bridge(caller.scope, receive, caller.send))
        await caller.until_sent(b"one")
        go.set()
        await task
        assert caller.body == b"onetwo"
        assert caller.received <= 2

    drive(app, scenario)


# Cancellation ---------------------------------------------------------------------------------------------------------


def test_cancelled_calls_leave_no_thread_behind(drive: Any, client: Any) -> None:
    """As many as there are threads, four times over; each has filled its window and waits for the client."""

    async def scenario(bridge: Any) -> None:
        for _ in range(4):
            callers = [client(slow=True) for _ in range(3)]
            tasks = [asyncio.create_task(caller.call(bridge)) for caller in callers]
            for caller in callers:
                caller.allowed.release()
                async with caller.news:
                    await caller.news.wait_for(lambda caller=caller: caller.sent)
            for task in tasks:
                task.cancel()
            assert all(
                isinstance(result, asyncio.CancelledError)
                for result in await asyncio.gather(*tasks, return_exceptions=True)
            )
        caller = client()
        task = asyncio.create_task(caller.call(bridge))
        await caller.until_sent(b"tick")
        caller.disconnect()
        await task

    apps = []

    def app(environ: Any, start_response: Any) -> Any:
        apps.append(Endless())
        return apps[-1](environ, start_response)

    drive(app, scenario, threads=3)
    assert [app.closes for app in apps] == [1] * 13


def test_a_cancelled_call_returns_at_once_and_its_thread_counts_until_the_app_returns(drive: Any, client: Any) -> None:
    gate = Gate()

    async def scenario(bridge: Any) -> None:
        task = asyncio.create_task(client().call(bridge))
        await gate.inside(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert bridge.running == 1
        assert await bridge.aclose(0) == 1
        gate.go.set()

    drive(gate, scenario)


def test_a_cancelled_read_ends(drive: Any, client: Any, happened: Any) -> None:
    reading, ended = threading.Event(), threading.Event()

    def app(environ: Any, start_response: Any) -> Any:
        reading.set()
        with pytest.raises(OSError):
            environ["wsgi.input"].read()
        ended.set()
        return []

    async def scenario(bridge: Any) -> None:
        task = asyncio.create_task(client(b"x", more=True, asking=True).call(bridge))
        await happened(reading)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await happened(ended)

    drive(app, scenario)


def test_what_an_app_raises_when_nobody_waits_any_more_is_logged(drive: Any, client: Any, caplog: Any) -> None:
    entered, go = threading.Event(), threading.Event()

    def app(environ: Any, start_response: Any) -> Any:
        entered.set()
        assert go.wait(10)
        raise KeyError("too late")

    async def scenario(bridge: Any) -> None:
        task = asyncio.create_task(client().call(bridge))
        assert await asyncio.to_thread(entered.wait, 10)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        go.set()
        assert await bridge.aclose(10) == 0
        await asyncio.sleep(0)

    drive(app, scenario)
    assert "too late" in caplog.text


def test_a_cancelled_waiting_request_is_never_run(drive: Any, client: Any) -> None:
    gate = Gate()

    async def scenario(bridge: Any) -> None:
        first = asyncio.create_task(client().call(bridge))
        await gate.inside(1)
        waiting = [asyncio.create_task(client().call(bridge)) for _ in range(3)]
        for _ in range(3):  # let the three get in line
            await asyncio.sleep(0)
        waiting[1].cancel()
        await asyncio.gather(waiting[1], return_exceptions=True)
        assert (bridge.running, bridge.waiting) == (1, 2)
        gate.go.set()
        await asyncio.gather(first, waiting[0], waiting[2])

    drive(gate, scenario, threads=1)
    assert gate.calls == 3


# Admission and closing ------------------------------------------------------------------------------------------------


def test_more_than_is_admitted_is_refused_with_503_and_one_warning(drive: Any, client: Any, caplog: Any) -> None:
    gate = Gate()

    async def scenario(bridge: Any) -> None:
        admitted = [asyncio.create_task(client().call(bridge)) for _ in range(4)]
        await gate.inside(2)
        refused = [client(), client(), client(method="HEAD"), client(b"body")]
        for caller in refused:
            await caller.call(bridge)
        assert [caller.status for caller in refused] == [503] * 4
        assert refused[0].header[b"retry-after"] == b"1"
        assert refused[0].header[b"content-type"] == b"application/problem+json"
        problem = json.loads(refused[0].body)
        assert (problem["type"], problem["title"], problem["status"]) == ("about:blank", "Service Unavailable", 503)
        assert refused[2].body == b""
        assert refused[3].received == 0, "the body of a refused request is not asked for"
        gate.go.set()
        await asyncio.gather(*admitted)

    drive(gate, scenario, threads=2, admission=4)
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "app.threads" in warnings[0].getMessage()


def test_requests_that_wait_for_a_thread_are_told_of_once_a_second_with_the_key_of_their_application(
    drive: Any, client: Any, caplog: Any, monkeypatch: Any
) -> None:
    gate = Gate()

    def warnings() -> list[Any]:
        return [record for record in caplog.records if record.levelno == logging.WARNING]

    async def scenario(bridge: Any) -> None:
        tasks = [asyncio.create_task(client().call(bridge)) for _ in range(2)]
        await gate.inside(2)
        assert warnings() == [], "all threads are busy, but no request waits"
        tasks += [asyncio.create_task(client().call(bridge)) for _ in range(3)]
        await asyncio.sleep(0)
        assert [(record.key, record.waiting, record.running) for record in warnings()] == [("mounts[1].threads", 1, 2)]
        assert "mounts[1].threads" in warnings()[0].getMessage()
        monkeypatch.setattr("pywatt_host.wsgi.app._WARN_INTERVAL", 0)
        tasks.append(asyncio.create_task(client().call(bridge)))
        await asyncio.sleep(0)
        assert warnings()[-1].waiting == 4
        gate.go.set()
        await asyncio.gather(*tasks)

    drive(gate, scenario, threads=2, name="mounts[1]")


def test_requests_that_arrive_all_at_once_are_told_of_as_well(
    drive: Any, client: Any, caplog: Any, happened: Any
) -> None:
    """They wait before the first thread has begun, and no further request arrives."""
    gate = Gate()

    async def scenario(bridge: Any) -> None:
        tasks = [asyncio.create_task(client().call(bridge)) for _ in range(5)]
        await gate.inside(2)
        gate.go.set()
        await asyncio.gather(*tasks)

    drive(gate, scenario, threads=2)
    assert [record.key for record in caplog.records if record.levelno == logging.WARNING] == ["app.threads"]


def test_closing_refuses_what_waits_and_waits_for_what_runs_without_holding_the_loop(drive: Any, client: Any) -> None:
    gate = Gate()

    async def scenario(bridge: Any) -> None:
        running, waiting = client(), client()
        tasks = [asyncio.create_task(caller.call(bridge)) for caller in (running, waiting)]
        await gate.inside(1)
        closing = asyncio.create_task(bridge.aclose(10))
        await tasks[1]
        assert waiting.status == 503
        late = client()
        await late.call(bridge)
        assert late.status == 503
        assert not closing.done()
        gate.go.set()
        assert await closing == 0
        await tasks[0]
        assert running.status == 200

    drive(gate, scenario, threads=1)
    assert gate.calls == 1


def test_closing_sends_the_threads_home(drive: Any, client: Any) -> None:
    async def scenario(bridge: Any) -> None:
        await client().call(bridge)
        workers = [thread for thread in threading.enumerate() if thread.name.startswith("wsgi-homing-")]
        assert len(workers) == 1
        assert await bridge.aclose(1) == 0
        await asyncio.to_thread(workers[0].join, 10)
        assert not workers[0].is_alive()

    drive(hello, scenario, name="homing")


def test_a_wedged_thread_does_not_hold_the_process_at_its_exit() -> None:
    code = """
import asyncio, threading
from pywatt_host.wsgi import WsgiApp
inside = threading.Event()
def app(environ, start_response):
    inside.set()
    threading.Event().wait()
async def main():
    bridge = WsgiApp(app)
    scope = {"type": "http", "http_version": "1.1", "method": "GET", "path": "/", "headers": []}
    task = asyncio.create_task(bridge(scope, None, None))
    await asyncio.to_thread(inside.wait)
    task.cancel()
    print(await bridge.aclose(0.01))
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")


# Threads --------------------------------------------------------------------------------------------------------------


def test_threads_are_daemons_with_names_started_as_needed_and_used_again(drive: Any, client: Any) -> None:
    names: list[tuple[str, bool]] = []

    def app(environ: Any, start_response: Any) -> Any:
        names.append((threading.current_thread().name, threading.current_thread().daemon))
        return hello(environ, start_response)

    async def scenario(bridge: Any) -> None:
        for _ in range(5):
            await client().call(bridge)

    drive(app, scenario, name="users")
    assert len(names) == 5
    assert set(names) <= {("wsgi-users-1", True), ("wsgi-users-2", True)}


def test_as_many_requests_run_at_a_time_as_there_are_threads(drive: Any, client: Any) -> None:
    gate = Gate()

    async def scenario(bridge: Any) -> None:
        tasks = [asyncio.create_task(client().call(bridge)) for _ in range(7)]
        await gate.inside(4)
        assert (bridge.running, bridge.waiting) == (4, 3)
        gate.go.set()
        await asyncio.gather(*tasks)
        assert (bridge.running, bridge.waiting) == (0, 0)

    drive(gate, scenario, threads=4)
    assert gate.calls == 7
    assert len(gate.threads) == 4


def test_nothing_is_lost_when_many_requests_come_and_go_at_once(drive: Any, client: Any) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        body = environ["wsgi.input"].read()
        return [body] if len(body) % 2 else iter([body[:3], body[3:]])

    async def scenario(bridge: Any) -> None:
        async def one(number: int) -> None:
            body = b"%d" % number * (number % 7 + 1)
            caller = client(body[:2], body[2:])
            task = asyncio.create_task(caller.call(bridge))
            if number % 5 == 0:
                for _ in range(number % 11):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            else:
                await task
                assert caller.body == body
                assert caller.whole

        await asyncio.gather(*(one(number) for number in range(600)))
        assert bridge.waiting == 0

    drive(app, scenario, threads=5)


def test_the_app_runs_in_a_copy_of_the_requests_context(drive: Any, client: Any) -> None:
    request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="none")
    seen = []

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        seen.append(request_id.get())
        request_id.set("changed by the app")
        yield b"x"
        seen.append(request_id.get())

    async def scenario(bridge: Any) -> None:
        request_id.set("r1")
        await client().call(bridge)
        assert request_id.get() == "r1"
        request_id.set("r2")
        await client().call(bridge)

    drive(app, scenario, threads=1)
    assert seen == ["r1", "changed by the app", "r2", "changed by the app"]


def test_a_fault_of_the_bridge_itself_does_not_kill_a_thread(caplog: Any) -> None:
    from pywatt_host.wsgi.threads import Threads

    done = threading.Event()

    class Faulty:
        def run(self) -> None:
            raise SystemExit

        def settle(self) -> None:
            raise KeyError

    class Good(Faulty):
        def run(self) -> None:
            pass

        def settle(self) -> None:
            done.set()

    threads: Threads[Faulty] = Threads(1, "faulty")
    threads.submit(Faulty())
    threads.submit(Good())
    assert done.wait(10)
    assert threads.running == 0
    threads.close()
    assert "the WSGI bridge failed" in caplog.text


def test_no_thread_to_be_had_is_an_error_and_not_a_hang(drive: Any, client: Any, monkeypatch: Any) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def scenario(bridge: Any) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            with pytest.raises(RuntimeError, match="would not start a thread"):
                await client().call(bridge)
        caller = client()
        await caller.call(bridge)
        assert caller.body == b"hello"

    drive(hello, scenario)


# What is no request ---------------------------------------------------------------------------------------------------


def test_a_websocket_is_refused_before_it_is_accepted(drive: Any) -> None:
    sent = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message["type"])

    async def scenario(bridge: Any) -> None:
        await bridge({"type": "websocket", "path": "/"}, receive, send)
        with pytest.raises(ValueError, match="lifespan"):
            await bridge({"type": "lifespan"}, receive, send)

    drive(hello, scenario)
    assert sent == ["websocket.close"]
