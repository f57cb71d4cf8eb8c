"""The handshake on standard input."""

from __future__ import annotations

import os

import orjson
import pytest

from pywatt_host.channels.stdio import Descriptors, handshake
from pywatt_host.exceptions import ProtocolError
from tests.hosting import PATIENCE

INIT = {"orchestrator_api": "http://127.0.0.1:9900", "module_id": "users", "env": {}, "listen": "127.0.0.1:0"}


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "standard input ended"),
        (b'{"op":"init"', "standard input ended"),
        (b"nonsense\n", "not an init message: not valid JSON"),
        (b'{"op":"heartbeat"}\n', "'heartbeat' and not init"),
        (b'{"op":"init"}\n', "module_id"),
        (b"x" * (1024**2 + 1), "longer than 1 MiB"),
    ],
)
def test_a_first_line_that_is_no_init_is_refused(data: bytes, why: str) -> None:
    reading, writing = os.pipe()
    child = os.fork() if len(data) > 4096 else -1
    if child == 0:  # more than a pipe holds
        try:
            while data:
                data = data[os.write(writing, data) :]
        finally:
            os._exit(0)
    if child == -1:
        os.write(writing, data)
    os.close(writing)
    try:
        with pytest.raises(ProtocolError, match=why) as caught:
            handshake(Descriptors(reading, -1), PATIENCE)
        assert caught.value.exit_code == 4
    finally:
        os.close(reading)
        if child > 0:
            os.waitpid(child, 0)


def test_without_any_line_the_handshake_ends_in_its_time_also_where_single_bytes_come() -> None:
    reading, writing = os.pipe()
    os.write(writing, b'{"op"')
    with pytest.raises(ProtocolError, match=r"channels\.limits\.handshake"):
        handshake(Descriptors(reading, -1), 0.1)
    os.close(reading)
    os.close(writing)


def test_what_came_with_the_init_is_kept() -> None:
    reading, writing = os.pipe()
    os.write(writing, orjson.dumps({**INIT, "env": {"A": "\u2028"}}) + b'\n{"op":"heartbeat"}\n{"op"')
    greeting = handshake(Descriptors(reading, -1), PATIENCE)
    assert greeting.init.env == {"A": "\u2028"}
    assert greeting.rest == b'{"op":"heartbeat"}\n{"op"'
    os.close(reading)
    os.close(writing)
