"""The lifespan protocol with applications that take part, decline, fail, or do neither properly."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pywatt_host.app.lifespan import lifespan
from pywatt_host.exceptions import AppLoadError
from pywatt_host.types import Receive, Scope, Send
from tests.hosting import run


async def declines_by_raising(scope: Scope, receive: Receive, send: Send) -> None:
    assert scope["type"] == "http"


async def declines_by_raising_later(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    raise NotImplementedError


async def declines_by_returning(scope: Scope, receive: Receive, send: Send) -> None:
    return


async def takes_part(scope: Scope, receive: Receive, send: Send) -> None:
    scope["state"]["events"].append((await receive())["type"])
    await send({"type": "lifespan.startup.complete"})
    scope["state"]["events"].append((await receive())["type"])
    await send({"type": "lifespan.shutdown.complete"})


async def returns_after_the_start(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})


@pytest.mark.parametrize("app", [declines_by_raising, declines_by_raising_later, declines_by_returning])
def test_an_application_may_decline(app: Any) -> None:
    async def main() -> None:
        async with lifespan(app, {}, "main:app") as taking_part:
            assert not taking_part

    run(main)


@pytest.mark.parametrize(
    ("app", "said"),
    [
        (declines_by_raising, "main:app left its lifespan by AssertionError"),
        (declines_by_raising_later, "main:app left its lifespan by NotImplementedError; "),
    ],
)
def test_an_application_that_raises_is_named_with_its_exception_and_the_consequence(
    app: Any, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "pywatt.app")

    async def main() -> None:
        async with lifespan(app, {}, "main:app"):
            pass

    run(main)
    (record,) = caplog.records
    assert record.levelname == "INFO"
    assert record.message.startswith(said)
    assert "it is served without a lifespan" in record.message
    assert bool(record.exc_info) == (app is declines_by_raising_later)


def test_an_application_that_returns_has_no_lifespan_and_that_is_nothing_to_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "pywatt.app")

    async def main() -> None:
        async with lifespan(declines_by_returning, {}, "main:app"):
            pass

    run(main)
    assert caplog.records == []


def test_an_application_that_exits_while_it_starts_has_failed() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        raise SystemExit(3)

    async def main() -> None:
        with pytest.raises(AppLoadError, match="SystemExit"):
            async with lifespan(app, {}, "main:app"):
                pytest.fail("it has not started")

    run(main)


def test_an_application_that_takes_part_is_asked_to_start_and_to_stop_and_fills_the_state() -> None:
    async def main() -> None:
        state: dict[str, Any] = {"events": []}
        async with lifespan(takes_part, state, "main:app") as taking_part:
            assert taking_part
            assert state["events"] == ["lifespan.startup"]
        assert state["events"] == ["lifespan.startup", "lifespan.shutdown"]

    run(main)


def test_an_application_may_return_after_its_start() -> None:
    async def main() -> None:
        async with lifespan(returns_after_the_start, {}, "main:app") as taking_part:
            assert taking_part

    run(main)


@pytest.mark.parametrize(("message", "said"), [("no database\n", "no database"), ("", "no reason given")])
def test_a_failed_start_is_an_error_with_the_applications_words(message: str, said: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": message})

    async def main() -> None:
        with pytest.raises(AppLoadError) as caught:
            async with lifespan(app, {}, "main:app"):
                pytest.fail("it has not started")
        assert (caught.value.reason, caught.value.message) == (
            "lifespan-failed",
            f"the application failed to start: {said}",
        )

    run(main)


@pytest.mark.parametrize("how", ["says so", "raises"])
def test_a_failed_stop_is_logged_and_holds_nobody_up(how: str, caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        if how == "raises":
            raise RuntimeError("stuck")
        await send({"type": "lifespan.shutdown.failed", "message": "stuck"})

    async def main() -> None:
        async with lifespan(app, {}, "main:app", lambda: failed.append(True)):
            pass

    failed: list[bool] = []
    run(main)
    assert failed == [True]
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert "main:app failed to stop" in record.message
    assert "stuck" in caplog.text


def test_a_caller_that_is_cancelled_takes_the_application_with_it() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def main() -> None:
        async def caller() -> None:
            async with lifespan(app, {}, "main:app"):
                pytest.fail("it has not started")

        task = asyncio.create_task(caller())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended.is_set()

    run(main)
