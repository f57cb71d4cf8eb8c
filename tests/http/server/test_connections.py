"""Connections of clients, byte for byte: on our server under both event loops, and through the gateway of `up`."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Iterator
from typing import Any

import pytest

from pywatt_host.runtime.event_loop import loop_factory
from tests.http.server.answers import Answer, Client, read_answers
from tests.http.server.connections.case import HALF_CLOSE, LEAVE, PAUSE, RELEASE, Case, Expected, Until, get, request
from tests.http.server.connections.table import CASES
from tests.http.server.serving import BOUNDS, Served

_PROBE = get("/probe")
_PROBED = b'"path": "/probe"'
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:@/+=-]{1,128}").fullmatch
_LOOPS = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": loop_factory(),
    "gateway": loop_factory(),
    "TLS on asyncio": asyncio.new_event_loop,
    "TLS on uvloop": loop_factory(),
}


@pytest.fixture(scope="module", params=["asyncio", "uvloop", "gateway", "TLS on asyncio", "TLS on uvloop"])
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    with Served(request.param, _LOOPS[request.param], BOUNDS) as served:
        yield served
    assert not served.errors


@pytest.fixture(scope="module")
def barrier(served: Served) -> Iterator[Any]:
    """A second connection: when its request has been answered, the server has seen everything that was sent before."""
    with served.client() as client, Client(served.module_address) as module:

        def passed(turns: int = 1) -> None:
            for _ in range(turns):
                assert client.exchange(get("/barrier")).status == 200
                if served.target == "gateway":
                    assert module.exchange(get("/barrier")).status == 200

        yield passed


@pytest.mark.parametrize("given", CASES, ids=lambda given: given.name.replace(" ", "-"))
def test_a_connection(given: Case, served: Served, barrier: Any) -> None:
    case = given.at(served.target)
    served.app.seen.clear()
    served.app.released.clear()
    served.lines.clear()
    with served.client() as client:
        _carry_out(case, client, barrier, served)
        data = client.received
    _check_answers(case, data)
    _check_log(case, served, barrier, data)
    assert [f"{seen.method} {seen.path} {seen.body.decode('latin-1')}".rstrip() for seen in served.app.seen] == list(
        case.seen
    )
    assert not served.errors


def _carry_out(case: Case, client: Client, barrier: Any, served: Served) -> None:
    for step in case.send:
        if isinstance(step, bytes):
            client.send(step)
        elif step is PAUSE:
            barrier(4)  # a new connection is read in the fourth turn of the event loop
        elif step is HALF_CLOSE:
            client.half_close()
        elif step is RELEASE:
            served.call(served.app.released.set)
        elif step is LEAVE:
            client.sock.close()
            return
        elif isinstance(step, Until):
            client.until(step.text)
    if case.closes:
        client.rest()
        assert not client.reset or case.quietly, f"the connection was reset after {client.received!r}"
        return
    client.send(_PROBE)
    client.until(_PROBED)
    head, mark, _ = client.received.rpartition(b"HTTP/1.1 200 ")
    assert mark
    client.received = head


def _check_answers(case: Case, data: bytes) -> None:
    answers = read_answers(data, [expected.head for expected in case.answers if expected.status >= 200])
    assert [answer.status for answer in answers] == [expected.status for expected in case.answers], data
    for answer, expected in zip(answers, case.answers, strict=True):
        _check_answer(answer, expected)
    if case.closes and answers and not case.quietly:
        assert answers[-1].values("connection") == ["close"]
    if not case.closes:
        assert not any("close" in answer.values("connection") for answer in answers)


def _check_answer(answer: Answer, expected: Expected) -> None:
    fields = dict(answer.fields)
    if answer.status >= 200:
        for name in ("date", "x-request-id"):
            assert len(answer.values(name)) == 1, (name, answer)
        assert _REQUEST_ID(fields["x-request-id"])
    for field in expected.has:
        name, _, value = field.partition(": ")
        assert name in fields, (name, answer)
        assert not value or value in answer.values(name), (field, answer)
    for name in expected.lacks:
        assert name not in fields, (name, answer)
    assert expected.body in answer.body
    assert expected.exactly is None or answer.body == expected.exactly
    assert answer.whole == expected.whole, answer
    assert not expected.framing or answer.framing == expected.framing, answer


def _check_log(case: Case, served: Served, barrier: Any, data: bytes) -> None:
    """One line for each request, with the status and the id that were sent."""
    served.lines.wait(len(case.log))
    barrier()
    assert sorted(served.lines.texts) == sorted(case.log)
    heads = [expected.head for expected in case.answers if expected.status >= 200]
    logged = served.lines.by_id
    for answer in read_answers(data, heads):
        if answer.status >= 200:
            (request_id,) = answer.values("x-request-id")
            assert any(f" {answer.status}" in line for line in logged[request_id])


@pytest.mark.parametrize("size", [600_000, 8_000_000])
@pytest.mark.parametrize("declared", [True, False], ids=["declared", "in chunks"])
def test_a_large_upload_over_the_limit_is_told_so(served: Served, size: int, declared: bool) -> None:
    """The client is still sending when the answer arrives, and can read it afterwards."""
    with served.client() as client:
        framing = f"Content-Length: {size}" if declared else "Transfer-Encoding: chunked"
        client.send(request("POST", "/small", framing))
        if not declared:
            client.send(b"%x\r\n" % size)
        with contextlib.suppress(ConnectionError):
            for _ in range(size // 50_000):
                client.send(b"x" * 50_000)
        (answer,) = read_answers(client.rest())
    assert (answer.status, answer.whole, answer.values("connection")) == (413, True, ["close"])
