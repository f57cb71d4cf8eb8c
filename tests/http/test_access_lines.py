"""The access log: one line a request, valid whatever a client sends, and silent where it should be."""

from __future__ import annotations

import asyncio
import json
import logging
import tempfile
from collections.abc import Sequence
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pywatt_host.http.accesslog import LineAccessLog
from pywatt_host.http.exchange import Plan, WrappedExchange
from pywatt_host.observability.log_stream import LogStream
from pywatt_host.observability.metrics import NoCells
from tests.hosting import Recorder, hello, hosted, http_scope, run


def written(
    style: Literal["json", "console"], exclude: Sequence[str] = (), worker: int | None = None, **scope: Any
) -> bytes:
    """What the log writes for a request that was answered with 200."""

    async def main() -> bytes:
        with tempfile.TemporaryFile() as file:
            stream = LogStream(file.fileno())
            log = LineAccessLog(stream, style, exclude, worker=worker)

            async def send(message: Any) -> None: ...

            plan = Plan("/r", NoCells())
            exchange = WrappedExchange({**http_scope("GET", "/"), **scope}, send)
            exchange.plan, exchange.observe = plan, lambda done: log.write([done])
            exchange.request_id = b"r1"
            exchange.status = 200
            exchange.finish()
            file.seek(0)
            return file.read()

    return asyncio.run(main())


@given(path=st.text().map(lambda text: "/" + text))
def test_a_json_line_is_one_valid_line_whatever_the_path_holds(path: str) -> None:
    line = written("json", path=path)
    assert line.count(b"\n") == 1
    document = json.loads(line)
    assert list(document)[:4] == ["time", "level", "logger", "message"]
    if path.isprintable() and "\\" not in path:
        assert document["path"] == path


@given(path=st.text(st.characters(categories=["Cs", "Cc", "Lu"])).map(lambda text: "/" + text))
def test_lone_surrogates_and_control_characters_are_no_exception(path: str) -> None:
    assert json.loads(written("json", path=path))["status"] == 200
    console = written("console", path=path)
    assert console.count(b"\n") == 1
    assert b"\x1b" not in console
    assert b"\r" not in console


@pytest.mark.parametrize("character", ["\x85", "\u2028", "\u2029", "\x9b", "\x7f"])
def test_no_character_that_ends_a_line_or_steers_a_terminal_is_written_as_it_is(character: str) -> None:
    console = written("console", path=f"/{character}x").decode()
    assert character not in console
    assert len(console.splitlines()) == 1


def test_a_line_says_what_was_asked_and_what_became_of_it_and_leaves_the_query_out() -> None:
    async def main() -> None:
        async with hosted({"endpoints": [{"path": "/users/{id}"}]}, hello) as host:
            await host.get("/users/7", query_string=b"token=hunter2", headers={"X-Request-ID": "r1"})
            (line,) = host.access()
            assert "hunter2" not in str(host.lines())
            assert line.pop("time").endswith("Z")
            assert 0 <= line.pop("duration_ms") < 60_000
            assert line == {
                "level": "info",
                "logger": "pywatt.access",
                "message": "GET /users/7 200",
                "method": "GET",
                "path": "/users/7",
                "route": "/users/{id}",
                "status": 200,
                "bytes": len("GET /users/7"),
                "client": "203.0.113.9",
                "request_id": "r1",
            }

    run(main)


def test_probes_and_metrics_are_never_logged_and_excluded_paths_neither() -> None:
    async def main() -> None:
        manifest = {"metrics": True, "logging": {"access": {"exclude": ["/static", "/quiet/"]}}}
        async with hosted(manifest, Recorder()) as host:
            for path in ("/health", "/livez", "/readyz", "/metrics", "/static", "/static/a.css", "/quiet/x"):
                await host.get(path)
            assert host.access() == []
            for path in ("/statics", "/quiets", "/healthy", "/x/static"):
                await host.get(path)
            assert [line["path"] for line in host.access()] == ["/statics", "/quiets", "/healthy", "/x/static"]

    run(main)


def test_the_access_log_can_be_off() -> None:
    async def main() -> None:
        async with hosted({"logging": {"access": False}}, Recorder()) as host:
            await host.get("/")
            assert host.lines() == []

    run(main)


def test_lines_and_records_keep_their_order() -> None:
    async def main() -> None:
        async with hosted({}, Recorder()) as host:
            await host.get("/first")
            logging.getLogger("x").warning("between")
            await host.get("/second")
            assert [record["message"] for record in host.logs()] == ["GET /first 200", "between", "GET /second 200"]

    run(main)


def test_a_console_line_is_for_people() -> None:
    async def main() -> None:
        async with hosted({"logging": {"format": "console"}}, Recorder()) as host:
            await host.get("/a\x1b[31m", raw_path=b"/x")
            await host.get("/b")
            refused, served = host.lines()
            assert " GET /b 200 " in served
            assert "\x1b" not in refused

    run(main)


def test_lines_of_a_worker_name_it() -> None:
    assert json.loads(written("json", worker=2))["worker"] == 2
    assert written("console", worker=2).endswith(b" worker=2\n")
    assert b"worker" not in written("json") + written("console")
