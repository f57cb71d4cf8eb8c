"""A real process that has few descriptors, or that stands still: no connection pays for it."""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.processes import Project

_DESCRIPTORS = 64
_CLIENTS = 80
_TICKS = os.sysconf("SC_CLK_TCK")


def processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def silent(*socks: socket.socket, seconds: float) -> bool:
    """Whether nothing arrives in so many seconds, on any of these."""
    return not select.select(socks, (), (), seconds)[0]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_without_descriptors_connections_wait_and_none_is_closed(project: Project) -> None:
    project.write("main.py", HELD)
    project.manifest(health={"enabled": False})
    run = f"ulimit -n {_DESCRIPTORS}; exec {sys.executable} -m pywatt_host run --log-format json"
    host = project.executed(["sh", "-c", run])
    pid = int(host.ready["pid"])
    with ExitStack() as stack:
        clients = [stack.enter_context(host.connect()) for _ in range(_CLIENTS)]
        for client in clients:
            client.head("GET", "/held", Connection="close")
        host.wait_for("accepting is paused")
        before = processor_seconds(pid)
        assert silent(*(client.sock for client in clients), seconds=1.0)
        assert processor_seconds(pid) - before < 0.5
        (project.folder / "release").touch()
        for client in clients:
            assert client.response().status == 200
    warnings = [line for line in host.logs if "accepting is paused" in line["message"]]
    assert warnings
    assert all(line["key"] == "the limit on open files (LimitNOFILE, ulimit -n)" for line in warnings)
    assert len(warnings) < 60  # at most one a second
    assert host.stop() == 0


HELD = """
import asyncio, os

async def app(scope, receive, send):
    assert scope["type"] == "http"
    while scope["path"] == "/held" and not os.path.exists("release"):
        await asyncio.sleep(0.05)
    body = b""
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message["body"]
        more = message["more_body"]
    length = str(len(body)).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
    await send({"type": "http.response.body", "body": body})
"""


def test_a_process_that_stood_still_holds_that_against_no_connection(project: Project) -> None:
    project.write("main.py", HELD)
    project.manifest(
        server={"timeouts": dict.fromkeys(("header", "body", "write", "keep_alive"), "1s")}, health={"enabled": False}
    )
    host = project.host()
    with host.connect() as fresh, host.connect() as head, host.connect() as body, host.connect() as idle:
        assert idle.request("GET", "/").status == 200
        head.send("GET / HTTP/1.1\r\nHo")
        body.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbo")
        host.signal(signal.SIGSTOP)
        assert silent(fresh.sock, head.sock, body.sock, idle.sock, seconds=3.0)
        host.signal(signal.SIGCONT)
        fresh.head("GET", "/")
        head.send("st: x\r\n\r\n")
        body.send("dy")
        idle.head("GET", "/")
        for client in (fresh, head, body, idle):
            assert client.response().status == 200
    assert host.stop() == 0
