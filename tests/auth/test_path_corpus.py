"""No protected handler is reached without a token, through any way in, however forgiving the application is."""

from __future__ import annotations

import json
import re
import shutil
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.auth import forgiving
from tests.auth.tokens_for_tests import SECRET, signed
from tests.processes import PATIENCE, Host, Project

CASES: list[dict[str, Any]] = json.loads(Path(__file__).with_name("paths.json").read_text(encoding="utf-8"))
LISTED = [
    {"path": "/", "auth": "none"},
    {"path": "/{page}", "auth": "none"},
    {"path": "/public/{rest:path}", "methods": ["GET", "POST"], "auth": "none"},
    {"path": "/items/{id}", "auth": "none"},
    {"path": "/items/{id}", "methods": ["DELETE"], "auth": "jwt"},
    {"path": "/admin", "auth": "jwt"},
    {"path": "/admin/{rest:path}", "methods": ["*"], "auth": "jwt"},
    {"path": "/ws", "methods": ["WEBSOCKET"], "auth": "jwt"},
]
AUTO = {
    "from": "auto",
    "auth": "jwt",
    "rules": [
        {"path": "/", "auth": "none"},
        {"path": "/public/{rest:path}", "auth": "none"},
        {"path": "/items/{id}", "methods": ["GET"], "auth": "none"},
    ],
}
SHAPES: dict[str, tuple[Any, dict[str, Any]]] = {
    "listed": (LISTED, {}),
    "auto": (AUTO, {}),
    "listed, lenient": (LISTED, {"paths": "lenient"}),
    "auto, lenient": (AUTO, {"paths": "lenient"}),
    "listed, behind a trusted proxy": (LISTED, {"trusted_proxies": ["127.0.0.1"]}),
    "auto, lenient, behind a trusted proxy": (AUTO, {"paths": "lenient", "trusted_proxies": ["127.0.0.1"]}),
}
UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


def request_bytes(case: dict[str, Any], token: str) -> bytes:
    if "raw" in case:
        return str(case["raw"]).encode("latin-1")
    headers = {"Host": "module.example", **case.get("headers", {})}
    headers |= UPGRADE if case.get("websocket") else {"Connection": "close"}
    if case["expect"] == "token":
        headers["Authorization"] = f"Bearer {token}"
    head = f"{case.get('method', 'GET')} {case['target']} HTTP/1.1\r\n"
    return (head + "".join(f"{name}: {value}\r\n" for name, value in headers.items()) + "\r\n").encode("latin-1")


def answers(host: Host, sent: bytes) -> bytes:
    """All that comes back until the other side closes, or has switched protocols."""
    parts = urlsplit(host.address)
    with socket.create_connection((parts.hostname, parts.port), timeout=PATIENCE) as sock:
        sock.sendall(sent)
        received = b""
        while not (received.startswith(b"HTTP/1.1 101") and b"\r\n\r\n" in received) and (piece := sock.recv(65536)):
            received += piece
        return received


@pytest.mark.parametrize("interface", ["asgi", "wsgi"])
@pytest.mark.parametrize("shape", SHAPES)
def test_nobody_gets_round_a_guard(project: Project, shape: str, interface: str) -> None:
    endpoints, server = SHAPES[shape]
    shutil.copy(forgiving.__file__, project.folder / "main.py")
    project.manifest(
        app={"import_path": f"main:{interface}", "interface": interface},
        auth={"jwt": {"secret": SECRET}},
        endpoints=endpoints,
        server={**server, "timeouts": {"header": "1s", "keep_alive": "100ms"}},
        health=False,
    )
    host = project.host()
    token = signed()
    wrong: list[str] = []
    for case in CASES:
        received = answers(host, request_bytes(case, token))
        statuses = [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3})", received)]
        reached = b"protected" in received
        fine = bool(statuses) or "raw" in case or case["target"] in ("", None)
        fine = fine and all(status < 500 or status == 501 for status in statuses)
        if case["expect"] == "closed":
            fine = fine and not reached
        elif case["expect"] == "public":
            # Under `auto` the default covers what no rule excepts: POST and HEAD go with their rule.
            fine = fine and statuses == [200] and not reached
        else:
            fine = fine and statuses == [200] and reached
        if not fine:
            wrong.append(f"{case['id']}: {case.get('method', 'GET')} {case['target']} -> {statuses} {received[-60:]!r}")
    assert wrong == []
    assert not any("Traceback" in line for line in host.lines)


def test_the_corpus_is_large_and_says_why() -> None:
    assert len({case["id"] for case in CASES}) == len(CASES)
    assert sum(case["expect"] == "closed" for case in CASES) >= 150
    assert sum(case["expect"] == "public" for case in CASES) >= 30
    assert all(case["why"] for case in CASES)
