"""The lines of modules: printed, kept, and passed to followers."""

from __future__ import annotations

import json
import os

from pywatt_host.observability.log_stream import LogStream
from pywatt_host.supervision.output import TAIL_LINES, Output
from tests.hosting import run


def written(style: str, *lines: bytes, colour: bool = False) -> str:
    read, write = os.pipe()
    output = Output(LogStream(write), style, colour, lambda text: text.replace("hidden", "***"))  # type: ignore[arg-type]
    output.declare("users", 1)
    output.declare("b", 2)
    for line in lines:
        output.write("users", 1, line)
        output.write("b", 2, line)
    os.close(write)
    with os.fdopen(read, "rb") as file:
        return file.read().decode()


def test_on_a_terminal_lines_are_prefixed_and_harmless() -> None:
    assert written("console", b"hidden \x1b[2Jtext\r") == "users | *** \\x1b[2Jtext\nb.2   | *** \\x1b[2Jtext\n"
    assert written("console", b"x", colour=True).startswith("\x1b[36musers\x1b[0m | x\n")
    record = b'{"time":"2026-11-23T01:02:03.004Z","level":"info","logger":"app","message":"hi","n":1}'
    assert written("console", record).splitlines()[0] == "users | 01:02:03.004 info app: hi n=1"


def test_in_json_every_line_is_an_object_that_names_its_module() -> None:
    first, second, third, _ = (
        json.loads(line) for line in written("json", b'{"message":"a hidden"}', b"plain \xff").splitlines()
    )
    assert first == {"message": "a ***", "module": "users"}
    assert second == {"message": "a ***", "module": "b", "replica": 2}
    assert (third["message"], third["level"], third["module"]) == ("plain \\xff", "info", "users")


def test_the_newest_lines_are_kept_and_followers_receive_each_new_line() -> None:
    async def main() -> None:
        output = Output(LogStream(os.open(os.devnull, os.O_WRONLY)), "json", False, str)
        output.declare("users", 1)
        with output.following() as lines:
            for number in range(TAIL_LINES + 5):
                output.write("users", 1, str(number).encode())
            assert [line.text for line in output.tail("users", 2)] == ["1003", "1004"]
            assert len(output.tail(None, 10_000)) == TAIL_LINES
            assert output.tail(None, 0) == []
            assert (await lines.get()).text == "5"  # the oldest were dropped

    run(main)
