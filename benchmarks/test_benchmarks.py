"""The parts of the benchmarks that a wrong figure could come from."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import cycle
from pathlib import Path

import pytest

from benchmarks import channel_rows, channels, load, traces, wrk
from benchmarks.manifests import LONG, long_manifest
from benchmarks.report import throughput_table
from benchmarks.server import ServerError, started
from benchmarks.stacks import ECHO, Stack, Workload
from benchmarks.throughput import Comparison, Row, Slot

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"


@contextmanager
def answering(*answers: list[bytes]) -> Iterator[int]:
    """A server of one connection that gives each answer in its pieces, in turn and for ever; an empty one hangs up."""

    def serve() -> None:
        client, _ = listener.accept()
        with client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for pieces in cycle(answers):
                if not client.recv(65536) or not pieces:
                    return
                for piece in pieces:
                    client.sendall(piece)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(5)
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            thread.join(5)
    assert not thread.is_alive()


def slot(rate: float, cpu: float | None = None) -> Slot:
    return Slot(rate, cpu, 1.0, 0.5, 0.0)


def test_every_answer_counts_whole_in_pieces_or_of_another_length() -> None:
    longer = OK.replace(b"\r\n\r\n", b"\r\nx-more: header\r\n\r\n")
    with answering([OK], [OK[:30], OK[30:]], [longer]) as port, load.connect(port, "/", 1) as source:
        sample = source.run(0.1)
    assert sample.requests > 3
    assert sample.rate == sample.requests / sample.seconds


@pytest.mark.parametrize(
    ("later", "fault"),
    [
        ([OK.replace(b"200 OK", b"500 No")], "wrong answer"),
        ([OK.replace(b"hi", b"ho")], "wrong answer"),
        ([OK.replace(b"content-length: 2", b"transfer-encoding: chunked")], "without Content-Length"),
        ([], "closed the connection"),
    ],
)
def test_a_wrong_answer_or_none_ends_the_run(later: list[bytes], fault: str) -> None:
    with (
        answering([OK], later) as port,
        pytest.raises(load.LoadError, match=fault),
        load.connect(port, "/", 1) as source,
    ):
        source.run(1.0)


def test_a_refused_connection_is_a_load_error() -> None:
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        with pytest.raises(load.LoadError, match="failed"), load.connect(unheard.getsockname()[1], "/", 1):
            pass


def test_a_ratio_compares_slots_of_the_same_round_only() -> None:
    bare = Row("bare", slots=[slot(100, 1e-5), slot(1000, 1e-6), slot(10, 1e-4)])
    other = Row("other", slots=[slot(50, 2e-5), slot(500, 5e-6), slot(9, 1.5e-4)])
    assert other.ratio_to(bare) == 0.5
    assert other.added_cpu(bare) == pytest.approx(1e-5)
    assert Row("mute", slots=[slot(1)] * 3).added_cpu(bare) is None


def test_a_row_without_figures_is_shown_with_its_reason() -> None:
    stacks = tuple(Stack(name, (), ()) for name in ("bare", "gone", "broken"))
    rows = (Row("bare", slots=[slot(10)]), Row("gone", skipped="x is not installed"), Row("broken", fault="exit 3"))
    workload = Workload("title", "/", stacks, ("bare", "gone"))
    table = throughput_table(Comparison(workload, rows, Row("the load", slots=[slot(20)])))
    assert "gone: left out, x is not installed" in table
    assert "broken: FAULT, exit 3" in table
    assert "at least 2.0 x bare: LESS THAN 3" in table


def test_a_stack_that_needs_what_is_not_there_says_so() -> None:
    assert Stack("a", (), ("json", "no_such_module.inside")).missing() == "no_such_module.inside"
    assert Stack("b", (), ("json",)).missing() is None


def test_a_server_is_watched_and_gone_at_the_end(tmp_path: Path) -> None:
    with started(ECHO, tmp_path, None) as server:
        assert server.wait_ready() > 0
        with load.connect(server.port, "/", 2) as source:
            assert source.run(0.05).requests >= 2
    with pytest.raises(load.LoadError), load.connect(server.port, "/", 1):
        pass


def test_a_server_that_leaves_is_a_fault_with_its_last_words(tmp_path: Path) -> None:
    broken = Stack("broken", ("benchmarks.no_such_module",), ())
    with started(broken, tmp_path, None) as server, pytest.raises(ServerError, match=r"left with 1: .*no_such_module"):
        server.wait_ready()


def test_the_long_manifest_is_as_long_as_it_says() -> None:
    assert len(long_manifest().splitlines()) == LONG


def test_what_wrk_prints_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "wrk"
    fake.write_text("#!/bin/sh\necho '  62450 requests in 2.00s, 7.86MB read'\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with wrk.connect(1, "/", 1) as source:
        sample = source.run(2.0)
    assert (sample.requests, sample.seconds) == (62450, 2.0)
    fake.write_text("#!/bin/sh\necho '  10 requests in 2.00s, 1MB read'\necho '  Non-2xx or 3xx responses: 3'\n")
    with wrk.connect(1, "/", 1) as source, pytest.raises(load.LoadError, match="wrong answers"):
        source.run(2.0)


def test_a_channel_s_ratio_is_that_of_the_same_round() -> None:
    baseline, row = channels.Row("base", unused), channels.Row("row", unused)
    baseline.rates[1], row.rates[1] = [10.0, 1000.0, 100.0], [20.0, 1500.0, 400.0]
    assert row.ratio_to(baseline, 1) == 2.0
    baseline.rates[64], row.rates[64] = [1.0] * 3, [3.0] * 3
    shown = channels.table([baseline, row]).splitlines()[-1]
    assert shown == "| row | 400 | 2.00 | 3 | 3.00 |"


def test_a_channel_that_fails_is_said_to_have_failed() -> None:
    row = channels.Row("row", unused, fault="it fell over")
    assert "FAULT, it fell over" in channels.table([channels.Row("base", unused, skipped="not there"), row])


def unused(folder: Path) -> AbstractContextManager[channel_rows.Measure]:
    raise AssertionError("never started")


def test_peers_of_the_baseline_answer_each_other(tmp_path: Path) -> None:
    with channel_rows.raw(tmp_path) as measure:
        assert measure(1, 0.05) > 0
        assert measure(8, 0.05) > 0


def test_a_span_costs_more_where_tracing_is_on() -> None:
    request, request_off, call, call_off = (cost.microseconds for cost in traces.costs(1))
    assert request > request_off >= -0.01
    assert call > call_off > 0
