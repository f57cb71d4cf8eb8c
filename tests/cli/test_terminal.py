"""Commands print what another process says on a control socket, and that process cannot control the terminal."""

from __future__ import annotations

import json
import os
import socketserver
import threading
import unicodedata
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from tests.processes import Project

HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m\r\x7fx"
ESCAPED = "\\x1b]0;owned\\x07\\x1b[2J\\x9b31m\\r\\x7fx"

REPLICA = {"replica": 1, "pid": 1, "state": HOSTILE, "healthy": False, "restarts": 1, "since": 0, "listen": HOSTILE}
STATUS = {
    "kind": "workspace",
    "module": {"id": f"up{HOSTILE}", "version": HOSTILE},
    "pid": os.getpid(),
    "started": 0,
    "status": HOSTILE,
    "listen": [HOSTILE],
    "modules": [{"id": "users", "replicas": [REPLICA]}, {"id": HOSTILE, "replicas": [REPLICA, REPLICA]}],
}
ANSWERS: dict[str, Any] = {
    "/status": STATUS,
    "/logs": {"time": "", "module": HOSTILE, "replica": 1, "text": HOSTILE},
    "/rotate": {"changed": True, "acknowledged": {HOSTILE: HOSTILE}},
    "/send": {"reply": {"a": HOSTILE}},
    "/stop": {"status": HOSTILE},
}


class Impostor(BaseHTTPRequestHandler):
    """Another user's process on a control socket."""

    answers: dict[str, Any] = ANSWERS
    status = 200

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        # Raw: a JSON parser accepts control characters above U+001F as they are.
        body = json.dumps(self.answers[path], ensure_ascii=False).encode() + b"\n"
        self.send_response(200 if path == "/status" else self.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))  # else the client may not get rid of it
        self.do_GET()

    def address_string(self) -> str:
        return "unix"

    def log_message(self, format: str, *args: Any) -> None: ...


class Listening(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


@pytest.fixture
def impostor(tmp_path: Path) -> Iterator[tuple[Path, type[Impostor]]]:
    handler = type("Handler", (Impostor,), {})
    path = tmp_path / "c.sock"
    with Listening(os.fspath(path), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield path, handler
        server.shutdown()
        thread.join()


def controls(text: str) -> str:
    return "".join(char for char in text if unicodedata.category(char) == "Cc" and char != "\n")


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["ps"], [f"up{ESCAPED}", f"  {ESCAPED}.1", f"{ESCAPED} (restarts: 1)"]),
        (["ps", "--json"], []),
        (["logs", "--format", "text"], [f"{ESCAPED}.1 | {ESCAPED}"]),
        (["logs"], []),
        (["logs", "--json"], []),
        (["rotate", "KEY"], [f"KEY is rotated in up{ESCAPED}", f"  {ESCAPED}: {ESCAPED}"]),
        (["send", "users", "hello"], ["\\u009b31m"]),
        (["send", "users", "hello", "--json"], ["\\u009b31m"]),
        (["stop"], [f"up{ESCAPED} ("]),
    ],
)
def test_no_command_prints_control_characters_of_others(
    project: Project, impostor: tuple[Path, type[Impostor]], arguments: list[str], shown: list[str]
) -> None:
    done = project.cli(*arguments, "--control", str(impostor[0]))
    assert controls(done.stdout + done.stderr) == ""
    for text in shown:
        assert text in done.stdout + done.stderr
    if "--json" in arguments or arguments in (["logs"], ["send", "users", "hello"]):
        assert json.dumps(HOSTILE)[1:-1] in json.dumps(json.loads(done.stdout))  # the value is the same


@pytest.mark.parametrize("arguments", [["rotate", "KEY"], ["send", "users", "hello"]])
def test_nor_do_errors(project: Project, impostor: tuple[Path, type[Impostor]], arguments: list[str]) -> None:
    path, handler = impostor
    for status, answer in ((409, {"detail": HOSTILE}), (200, {"error": {"code": HOSTILE, "message": HOSTILE}})):
        if arguments[0] == "rotate" and status == 200:
            continue
        handler.status = status
        handler.answers = {**ANSWERS, "/rotate": answer, "/send": answer}
        done = project.cli(*arguments, "--control", str(path))
        assert controls(done.stdout + done.stderr) == ""
        assert (done.returncode, ESCAPED in done.stderr) == (1, True)


def test_names_in_a_usage_error_are_escaped(project: Project, impostor: tuple[Path, type[Impostor]]) -> None:
    place = project.folder / ".pywatt"
    place.mkdir(mode=0o700)
    for name in ("a.sock", "b.sock"):
        (place / name).symlink_to(impostor[0])
    handler = impostor[1]
    handler.answers = {"/status": {**STATUS, "pid": -1}}
    for arguments in (["stop"], ["rotate", "KEY"]):
        done = project.cli(*arguments, env={"XDG_RUNTIME_DIR": ""})
        assert done.returncode == 2
        assert controls(done.stdout + done.stderr) == ""
        assert ESCAPED in done.stderr.replace("\n", "")
