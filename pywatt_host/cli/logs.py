"""`logs`: prints what the modules of an `up` wrote to standard error."""

from __future__ import annotations

import json
import re
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click
from pydantic_core import PydanticCustomError

from pywatt_host.cli.options import coloured
from pywatt_host.cli.param_types import FloatType, PatternType
from pywatt_host.cli.running import Running, control_option, folder_option, only, running_hosts
from pywatt_host.cli.terminal import echo_json
from pywatt_host.manifest.values import parse_duration
from pywatt_host.runtime.control_client import UnixConnection
from pywatt_host.supervision.rendering import ModuleLines, record_of

_LINES = 1000  # lines that `up` keeps of each module
_LEVELS = ("debug", "info", "warning", "error", "critical")


class _Since(FloatType):
    """A moment: how long ago, or a date and time. In seconds since the epoch."""

    name = "since"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        try:
            return time.time() - parse_duration(value)
        except PydanticCustomError:
            pass
        try:
            return datetime.fromisoformat(value).timestamp()  # a time without an offset is local time
        except (ValueError, OverflowError, OSError):  # the last two: years that the system's clock does not know
            self.fail(f"{value!r} is neither a duration, such as 10m, nor a time, such as 2026-11-30T18:00", param, ctx)


class _Pattern(PatternType):
    name = "pattern"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> re.Pattern[str]:
        if isinstance(value, re.Pattern):
            return value
        try:
            return re.compile(value)
        except re.error as error:
            self.fail(f"{value!r} is not a regular expression: {error}", param, ctx)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Which lines are printed."""

    since: float | None
    level: str | None
    pattern: re.Pattern[str] | None

    def takes(self, line: dict[str, Any]) -> bool:
        if self.since is not None and _seconds(line["time"]) < self.since:
            return False
        if self.level is not None and _LEVELS.index(level_of(line["text"])) < _LEVELS.index(self.level):
            return False
        return self.pattern is None or self.pattern.search(line["text"]) is not None


@click.command()
@click.argument("module", required=False)
@click.option("--follow", "-f", is_flag=True, help="Continue with every new line until Ctrl-C.")
@click.option(
    "--lines",
    "-n",
    type=click.IntRange(0, _LINES),
    default=_LINES,
    help="Print only the last N lines, of those that the other options select. Default: all lines that are kept.",
)
@click.option("--since", type=_Since(), metavar="TIME", help="Only lines since then: 10m, 2h, or 2026-11-30T18:00.")
@click.option(
    "--level", type=click.Choice(_LEVELS), help="Only lines of this level or above; plain text counts as info."
)
@click.option(
    "--grep", "pattern", type=_Pattern(), metavar="PATTERN", help="Only lines that match a regular expression."
)
@click.option(
    "--format",
    "style",
    type=click.Choice(["auto", "text", "json"]),
    default="auto",
    show_default=True,
    help="auto: text on a terminal, else JSON.",
)
@folder_option
@control_option
@click.option("--json", "as_json", is_flag=True, help="Same as --format json: one JSON object per line.")
def logs(
    module: str | None,
    follow: bool,
    lines: int,
    since: float | None,
    level: str | None,
    pattern: re.Pattern[str] | None,
    style: str,
    folder: Path,
    control: Path | None,
    as_json: bool,
) -> int:
    """Print what the modules of an `up` wrote to standard error: all modules, or one. On a terminal, the lines look as
    `up` prints them; elsewhere they are JSON, one object per line.

    \b
    Examples:
      pywatt-host logs users -n 20
      pywatt-host logs -f --level warning
      pywatt-host logs --since 10m --grep 'timeout|refused'
      pywatt-host logs --format text > log.txt
    """
    found = [each for each in running_hosts(folder.absolute(), control) if each.is_workspace]
    what = f'up with a module "{module}"' if module else "up"
    up = only([each for each in found if module is None or module in each.modules], what)
    plain = style == "text" or (style == "auto" and sys.stdout.isatty() and not as_json)
    shown = ModuleLines(
        {each["id"]: len(each["replicas"]) for each in up.status["modules"]}, colour=coloured(sys.stdout)
    )
    wanted = _Wanted(since, level, pattern)
    try:
        for line in _lines(up, module, wanted, lines, follow=follow):
            if plain:
                click.echo(shown.render(line["module"], line["replica"], line["text"]), color=True)
            else:
                echo_json({**line, "level": level_of(line["text"])}, indent=None)
    except KeyboardInterrupt:
        pass
    return 0


def _lines(up: Running, module: str | None, wanted: _Wanted, most: int, *, follow: bool) -> Iterator[dict[str, Any]]:
    """The last `most` wanted lines that are kept; with `follow` also each further one."""
    target = "/logs?" + (f"module={quote(module)}&" if module else "") + ("follow=1" if follow else "")
    connection = UnixConnection(up.socket, None)
    kept: deque[dict[str, Any]] | None = deque(maxlen=most)
    try:
        connection.request("GET", target)
        response = connection.getresponse()
        while text := response.readline():
            if not text.strip():  # the lines that were kept end here
                yield from kept or ()
                kept = None
                continue
            line = json.loads(text)
            if not wanted.takes(line):
                continue
            if kept is None:
                yield line
            else:
                kept.append(line)
        yield from kept or ()
    finally:
        connection.close()


def level_of(text: str) -> str:
    """The level of a line: that of the log record in it, else `info`."""
    level = str((record_of(text) or {}).get("level", "info")).lower()
    level = {"warn": "warning", "fatal": "critical", "trace": "debug"}.get(level, level)
    return level if level in _LEVELS else "info"


def _seconds(moment: str) -> float:
    """A time of RFC 3339, in seconds since the epoch; 0 where it is none."""
    try:
        found = datetime.fromisoformat(moment)
    except ValueError:
        return 0.0
    return (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).timestamp()
