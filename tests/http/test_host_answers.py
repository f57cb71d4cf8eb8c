"""A worker passes the host's own paths on to its supervisor, and answers by itself where the supervisor cannot."""

from __future__ import annotations

import asyncio
import logging

import pytest

from pywatt_host.http.edge import Answer
from pywatt_host.http.host_answers import AskingPaths
from pywatt_host.types import Scope
from tests.hosting import http_scope, run

OF_HOST: Answer = (200, [], b"of the host")
OF_WORKER: Answer = (200, [], b"of the worker")


async def own(scope: Scope) -> Answer:
    return OF_WORKER


def test_the_supervisor_is_told_path_accept_header_and_details() -> None:
    asked = []

    async def ask(path: str, accept: str, details: bool | None) -> Answer:
        asked.append((path, accept, details))
        return OF_HOST

    async def main() -> None:
        paths = AskingPaths(ask)
        scope = http_scope("GET", "/metrics", [("accept", "text/plain"), ("Accept", "*/*")])
        assert await paths.path("/metrics", own)(scope) == OF_HOST
        assert await paths.path("/health", own, False)(http_scope("GET", "/health")) == OF_HOST
        assert asked == [("/metrics", "text/plain,*/*", None), ("/health", "", False)]

    run(main)


@pytest.mark.parametrize("error", [ConnectionError("gone"), ValueError("not JSON"), RuntimeError()])
def test_a_supervisor_that_fails_is_told_once_until_it_answers_again(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    failing = True

    async def ask(path: str, accept: str, details: bool | None) -> Answer:
        if failing:
            raise error
        return OF_HOST

    async def main() -> None:
        nonlocal failing
        answer = AskingPaths(ask).path("/readyz", own)
        scope = http_scope("GET", "/readyz")
        for failing in (True, True, False, True):
            assert await answer(scope) == (OF_WORKER if failing else OF_HOST)

    with caplog.at_level(logging.WARNING, "pywatt.edge"):
        run(main)
    assert [record.getMessage() for record in caplog.records] == 2 * [
        f"the supervisor does not answer /readyz: {error!r}; this worker answers by itself"
    ]


def test_a_supervisor_that_does_not_answer_in_time_is_not_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    given_up = asyncio.Event()

    async def ask(path: str, accept: str, details: bool | None) -> Answer:
        try:
            await asyncio.Event().wait()
        finally:
            given_up.set()
        return OF_HOST

    async def main() -> None:
        answer = AskingPaths(ask, timeout=0.01).path("/livez", own)
        assert await answer(http_scope("GET", "/livez")) == OF_WORKER
        assert given_up.is_set()

    run(main)
    assert "no answer within 0.01s" in caplog.text


def test_a_request_that_is_cut_is_not_answered() -> None:
    async def main() -> None:
        asked = asyncio.Event()

        async def ask(path: str, accept: str, details: bool | None) -> Answer:
            asked.set()
            await asyncio.Event().wait()
            return OF_HOST

        request = asyncio.ensure_future(AskingPaths(ask).path("/livez", own)(http_scope("GET", "/livez")))
        await asked.wait()
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request

    run(main)
