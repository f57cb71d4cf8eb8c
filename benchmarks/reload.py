"""A reload under load: what two good ones cost, and whether the old code serves on after a broken one."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.reload_client import Connection, FailedError, ReloadClient
from benchmarks.server import Server, ServerError, started
from benchmarks.stacks import Stack
from benchmarks.worker_stacks import RELOAD

TURNS = 3  # at most, of each stack
KEPT, NEW = 16, 2  # connections that are kept, and tasks that open a new one for each request
RELOAD_TIMEOUT = 15.0  # seconds until the new code answers
SHORTEST_LOOK = 8.0  # seconds of load after broken code was to be loaded
# Texts of unequal length: Python tells two sources of the same second apart by that.
_VERSIONS = ("one", "second", "the third")
_APP = '''\
"""Answers with the version of its code."""


async def app(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError("only HTTP is spoken here")
    body = b"{version}"
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
    await send({{"type": "http.response.start", "status": 200, "headers": headers}})
    await send({{"type": "http.response.body", "body": body}})
'''
_BROKEN = "def app(scope, receive, send: this is no Python\n"


@dataclass(slots=True)
class ReloadRow:
    """A stack: requests that were made and failed during good reloads and after broken code, all turns together."""

    name: str
    fault: str | None = None
    skipped: str | None = None
    made: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    reloads: int = 0  # good ones whose code answered
    turns: int = 0
    broken_made: int = 0
    broken_failures: Counter[str] = field(default_factory=Counter)
    survived: int = 0  # turns at whose end the old code still answered

    @property
    def measured(self) -> bool:
        return self.fault is None and self.skipped is None and self.turns > 0

    def afterwards(self) -> str:
        """What is there after a reload of broken code."""
        if self.survived == self.turns:
            return "the old code serves on"
        return "gone" if self.survived == 0 else f"serves on in {self.survived} of {self.turns}"


def measure(seconds: float, rounds: int, folder: Path, say: Callable[[str], None]) -> list[ReloadRow]:
    """Each stack gets its turn in each round, one at a time, in an order that rotates."""
    rows = {stack.name: ReloadRow(stack.name) for stack in RELOAD}
    turns = min(rounds, TURNS)
    for number in range(turns):
        by = number % len(RELOAD)
        for place, stack in enumerate((*RELOAD[by:], *RELOAD[:by])):
            row = rows[stack.name]
            missing = stack.missing()
            if missing is not None:
                row.skipped = f"{missing} is not installed"
            if row.skipped or row.fault:
                continue
            say(f"reload: {stack.name}, turn {number + 1} of {turns}")
            own = folder / f"reload-{number}-{place}"
            own.mkdir()
            try:
                turn(stack, row, seconds, own)
            except ServerError as error:
                row.fault = str(error)
    return list(rows.values())


def turn(stack: Stack, row: ReloadRow, seconds: float, folder: Path) -> None:
    """Start the stack in its own folder, reload it twice and then with broken code, and add what came of it to the row.
    Raises ServerError where it does not start."""
    code = folder / "served.py"
    code.write_text(_APP.format(version=_VERSIONS[0]))
    with started(stack, folder, None) as server:
        server.wait_ready()
        asyncio.run(_load(server, row, code, seconds))
    row.turns += 1


async def _load(server: Server, row: ReloadRow, code: Path, seconds: float) -> None:
    client = ReloadClient(server.port, kept=KEPT, new=NEW)
    await asyncio.sleep(seconds)
    for version in _VERSIONS[1:]:
        _reload(server, code, _APP.format(version=version))
        row.reloads += await client.wait_for(version, RELOAD_TIMEOUT)
        await asyncio.sleep(seconds)
    good = client.turn()
    row.made += good.made
    row.failures += good.failures
    _reload(server, code, _BROKEN)
    await asyncio.sleep(max(seconds, SHORTEST_LOOK))
    broken = await client.stop()
    row.broken_made += broken.made
    row.broken_failures += broken.failures
    row.survived += await _answers(server.port, _VERSIONS[-1])


def _reload(server: Server, code: Path, text: str) -> None:
    code.write_text(text)
    server.hang_up()


async def _answers(port: int, version: str) -> bool:
    """Whether a new connection gets an answer of this version."""
    try:
        async with asyncio.timeout(RELOAD_TIMEOUT):
            connection = await Connection.open(port)
            try:
                return await connection.ask() == version
            finally:
                connection.close()
    except (FailedError, TimeoutError):
        return False


def cells(rows: Sequence[ReloadRow]) -> list[list[str]]:
    """The cells of the table, with their heads."""
    lines = [["stack", "requests", "failed", "good reloads", "requests, broken code", "failed", "afterwards"]]
    for row in rows:
        if not row.measured:
            lines.append([row.name, "-"])
            continue
        good = f"{row.reloads} of {row.turns * (len(_VERSIONS) - 1)}"
        figures = [f"{row.made:,}", f"{row.failures.total():,}", good]
        figures += [f"{row.broken_made:,}", f"{row.broken_failures.total():,}", row.afterwards()]
        lines.append([row.name, *figures])
    return lines


def data(rows: Sequence[ReloadRow]) -> dict[str, Any]:
    return {"title": "reload", "rows": [asdict(row) for row in rows]}
