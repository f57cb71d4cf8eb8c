"""The parts of the suites `workers` and `reload` that a wrong figure could come from."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from benchmarks import reload, report, workers
from benchmarks.manifests import host_manifest
from benchmarks.reload_client import ReloadClient, Tally
from benchmarks.server import ServerError, started
from benchmarks.stacks import Stack
from benchmarks.worker_stacks import MEMORY, RELOAD, SPREAD, THROUGHPUT, WORKERS

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\none"
TIMEOUT = 10.0  # seconds for one test
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def tally(serve: Serve, *, kept: int, new: int, enough: Callable[[Tally], bool]) -> Tally:
    """What a client counts against a server, once it is enough."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def main() -> Tally:
        async with asyncio.timeout(TIMEOUT):
            server = await asyncio.start_server(handle, "127.0.0.1", 0)
            client = ReloadClient(server.sockets[0].getsockname()[1], kept=kept, new=new)
            while not enough(client.tally):  # noqa: ASYNC110 - the client counts, and tells nobody
                await asyncio.sleep(0.005)
            counted = await client.stop()
            server.close()
            return counted

    return asyncio.run(main())


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)


def test_answers_are_counted_by_version_on_kept_and_new_connections() -> None:
    counted = tally(answer, kept=2, new=1, enough=lambda tally: tally.versions.total() > 50)
    assert counted.failed == 0
    assert counted.versions == Counter(one=counted.made)


def test_an_end_between_two_requests_is_no_failure() -> None:
    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))

    counted = tally(once, kept=2, new=0, enough=lambda tally: tally.versions.total() > 20)
    assert counted.failures == Counter()


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        (b"", "cut"),
        (OK[:-1], "cut"),
        (OK[:20], "cut"),
        (OK.replace(b"200 OK", b"503 No"), "status 503"),
        (b"HTTP/1.1 200 OK\r\n\r\n", "wrong answer"),
    ],
)
def test_every_request_without_a_whole_200_is_a_failure_of_its_kind(given: bytes, kind: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(given)

    counted = tally(serve, kept=1, new=1, enough=lambda tally: tally.failed > 2)
    assert set(counted.failures) == {kind}
    assert counted.made == counted.failed + counted.versions.total()


def test_a_refused_connection_is_a_failure() -> None:
    async def main() -> None:
        server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()
        client = ReloadClient(port, kept=1, new=0)
        assert not await client.wait_for("one", 0.1)
        assert set((await client.stop()).failures) == {"refused"}

    asyncio.run(main())


def test_a_turn_of_the_tally_begins_at_nothing() -> None:
    async def main() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        client = ReloadClient(server.sockets[0].getsockname()[1], kept=1, new=0)
        assert await client.wait_for("one", TIMEOUT)
        first = client.turn()
        assert first.made > 0
        assert client.tally.made == 0
        await client.stop()
        server.close()

    asyncio.run(main())


def row(**more: object) -> reload.ReloadRow:
    return reload.ReloadRow(**{"name": "a server", "turns": 2, "made": 1000, "reloads": 3, **more})  # type: ignore[arg-type]


def test_the_reload_table_says_what_failed_and_what_is_left() -> None:
    table = report.reload_table(
        [
            row(failures=Counter(cut=2), survived=2),
            row(name="another", broken_made=50, broken_failures=Counter(refused=40, cut=1)),
            row(name="a third", survived=1),
            row(name="missing", skipped="x is not installed"),
        ]
    )
    lines = {re.split(r"\s{2,}", line)[0]: line for line in table.splitlines()}
    assert re.split(r"\s{2,}", lines["a server"])[1:] == ["1,000", "2", "3 of 4", "0", "0", "the old code serves on"]
    assert re.split(r"\s{2,}", lines["another"])[4:] == ["50", "41", "gone"]
    assert lines["a third"].endswith("serves on in 1 of 2")
    assert "missing: left out, x is not installed" in table
    assert "another, broken code: 40 refused, 1 cut" in table


def test_the_tables_of_workers_have_the_median_and_the_worst_spread_and_the_smallest_memory() -> None:
    spreads = [workers.Spread("a", ratios=[1.0, 1.25, 2.0]), workers.Spread("b", fault="it left")]
    memories = [workers.Memory("a", own=[30 * 2**20, 20 * 2**20], total=80 * 2**20), workers.Memory("b", skipped="no")]
    first, second = workers.tables(spreads, memories)
    assert first[1:] == [["a", "1.25", "2.00"], ["b", "-"]]
    assert second[1:] == [["a", "20.0", "80.0"], ["b", "-"]]
    text = report.workers_tables(spreads, memories)
    assert "b: FAULT, it left" in text
    assert "b: left out, no" in text
    assert [each["title"] for each in workers.data(spreads, memories)] == ["spread", "memory"]


def test_the_host_is_a_row_of_every_table_and_its_manifest_has_the_workers() -> None:
    for stacks in (THROUGHPUT.stacks, SPREAD, MEMORY, RELOAD):
        hosts = [stack.host for stack in stacks if stack.host is not None and stack.host.workers == 2]
        assert hosts
    assert set(THROUGHPUT.against) <= {stack.name for stack in THROUGHPUT.stacks}
    assert ", workers: 2, reload: signal}" in host_manifest("a:b", 1, full=False, workers=2, reload=True)
    assert "workers" not in host_manifest("a:b", 1, full=False)


@pytest.mark.slow
def test_the_spread_and_the_memory_of_a_real_server(tmp_path: Path) -> None:
    (stack,) = (stack for stack in SPREAD if stack.name == "uvicorn, 2 workers")
    with started(stack, tmp_path, None) as server:
        met = workers._meet(server)
        assert len(met) == WORKERS
        assert 1.0 <= workers.spread_of(server.port, 8) <= 2.0
        own = [server.private_memory(pid) for pid in met]
        assert 0 < sum(own) < server.proportional_memory()


@pytest.mark.slow
def test_a_turn_of_a_real_server_reloads_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reload, "SHORTEST_LOOK", 0.1)
    (stack,) = (stack for stack in RELOAD if stack.name == "uvicorn, 2 workers")
    row = reload.ReloadRow(stack.name)
    reload.turn(stack, row, 0.3, tmp_path)
    assert (row.turns, row.reloads) == (1, 2)
    assert row.made > 10
    assert row.measured


def test_a_server_that_does_not_start_is_a_fault(tmp_path: Path) -> None:
    stack = Stack("broken", ("benchmarks.no_such_module",), ())
    with pytest.raises(ServerError, match="no_such_module"):
        reload.turn(stack, reload.ReloadRow("broken"), 0.1, tmp_path)
