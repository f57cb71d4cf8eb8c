"""Who asks, on real sockets: tokens of the command line, WebSockets, the gateway of `up`, rotation under load."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.auth.tokens_for_tests import SECRET, signed
from tests.processes import PATIENCE, Connection, Host, Project
from tests.scripted import Orchestrated

APP = """
import json

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise RuntimeError("declined")
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": scope["pywatt.claims"]["sub"]})
        await send({"type": "websocket.close"})
        return
    body = json.dumps(scope.get("pywatt.claims", {})).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})
"""
AUTH = {"jwt": {"secret": "${secret:JWT_SECRET}"}}
ENDPOINTS = [
    {"path": "/open", "auth": "none"},
    {"path": "/private", "auth": "jwt"},
    {"path": "/ws", "methods": ["WEBSOCKET"], "auth": "jwt"},
]


@pytest.fixture
def module(project: Project) -> Project:
    project.write("main.py", APP)
    project.manifest(app="main:app", auth=AUTH, endpoints=ENDPOINTS, module={"id": "users"})
    return project


def started(project: Project) -> Host:
    return project.host(env={"JWT_SECRET": SECRET})


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_a_token_of_the_command_line_is_taken(module: Project) -> None:
    host = started(module)
    done = module.cli("token", "--sub", "ann", "--scope", "read", "--claim", 'roles=["a"]', env={"JWT_SECRET": SECRET})
    assert done.returncode == 0, done.stderr
    answer = host.get("/private", **bearer(done.stdout.strip()))
    assert answer.status == 200
    said = answer.json()
    assert (said["sub"], said["scope"], said["roles"]) == ("ann", "read", ["a"])
    assert 3590 <= said["exp"] - time.time() <= 3600
    assert host.get("/private").status == 401
    assert host.get("/private").headers["www-authenticate"] == 'bearer realm="users"'


def test_the_secret_of_a_token_is_found_in_the_env_file_beside_the_manifest(module: Project) -> None:
    module.write(".env", f"JWT_SECRET={SECRET}\n")
    done = module.cli("token", "--json", "--expires", "10m")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["claims"]["exp"] - document["claims"]["iat"] == 600
    assert document["token"].count(".") == 2


@pytest.mark.parametrize(
    ("auth", "arguments", "code", "said"),
    [
        ({}, [], 2, "no scheme of `auth` has a secret"),
        ({"sso": {"type": "jwt", "jwks_url": "https://x.example"}}, [], 2, "no scheme of `auth` has a secret"),
        ({"sso": {"type": "jwt", "jwks_url": "https://x.example"}}, ["--scheme", "sso"], 2, "issuer signs its tokens"),
        (AUTH, ["--scheme", "jtw"], 2, "not a declared scheme (declared: jwt)"),
        ({**AUTH, "b": {"type": "jwt", "secret": "b" * 40}}, [], 2, "Choose one with --scheme jwt or b"),
        (AUTH, [], 3, "Secret JWT_SECRET was not found"),
        ({"jwt": {"secret": "${secret:SHORT}"}}, [], 3, "less than 32 bytes"),
        (AUTH, ["--claim", "x"], 2, "not KEY=VALUE"),
        (AUTH, ["--expires", "1 day"], 2, "not a duration"),
        (AUTH, ["--expires", "0s"], 2, "between one second and a hundred years"),
    ],
)
def test_why_no_token_can_be_made_is_one_line(
    project: Project, auth: dict[str, Any], arguments: list[str], code: int, said: str
) -> None:
    project.write("main.py", APP)
    project.manifest(app="main:app", auth=auth)
    done = project.cli("token", *arguments, env={"SHORT": "a short one"})
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert "a short one" not in done.stderr
    assert done.stdout == ""


def test_a_start_with_a_weak_secret_ends_with_3_and_nothing_of_it(module: Project) -> None:
    host = module.host(env={"JWT_SECRET": "much too short"})
    assert host.wait() == 3
    text = "\n".join(host.lines)
    assert "auth.jwt.secret" in text
    assert "32 bytes" in text
    assert "much too short" not in text
    assert "Traceback" not in text


HANDSHAKE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec_WebSocket_Version": "13",
    "Sec_WebSocket_Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


def handshake(host: Host, path: str = "/ws", **headers: str) -> tuple[int, dict[str, str]]:
    with host.connect() as connection:
        connection.head("GET", path, **HANDSHAKE, **headers)
        return connection.response_head()


def test_a_websocket_is_refused_before_it_is_accepted(module: Project) -> None:
    host = started(module)
    token = signed(sub="ann")
    status, headers = handshake(host)
    assert (status, headers["www-authenticate"]) == (401, 'bearer realm="users"')
    assert handshake(host, f"/ws?token={token}&access_token={token}")[0] == 401
    assert handshake(host, Sec_WebSocket_Protocol="bearer, x")[0] == 401
    assert handshake(host, **bearer(token))[0] == 101
    status, headers = handshake(host, Sec_WebSocket_Protocol=f"bearer, {token}")
    assert (status, headers["sec-websocket-protocol"]) == (101, "bearer")
    assert token not in "\n".join(host.lines)
    assert not any('"level":"error"' in line for line in host.lines)


def test_the_gateway_of_up_hands_credentials_on_and_the_module_decides(project: Project) -> None:
    project.write("users/main.py", APP)
    document = {"app": "main:app", "auth": AUTH, "endpoints": ENDPOINTS, "secrets": {"sources": ["orchestrator"]}}
    project.write("users/pywatt.yaml", json.dumps(document))
    project.write(
        "wattson.yaml", json.dumps({"gateway": {"listen": "127.0.0.1:0"}, "modules": {"users": {"manifest": "users"}}})
    )
    up = project.start([sys.executable, "-m", "pywatt_host", "up", "--log-format", "json"], env={"JWT_SECRET": SECRET})
    line = up.wait_for(lambda line: '"event":"ready"' in line and '"workspace"' in line)
    address = json.loads(line)["listen"][0]
    for prefix in ("/users", ""):
        with Connection(address) as connection:
            assert connection.request("GET", f"{prefix}/open").status == 200
            refused = connection.request("GET", f"{prefix}/private")
            assert (refused.status, refused.headers["www-authenticate"]) == (401, 'bearer realm="users"')
            assert connection.request("GET", f"{prefix}/private", b"", **bearer("x")).status == 401
            assert (
                connection.request("GET", f"{prefix}/private", b"", **bearer(signed(sub="ann"))).json()["sub"] == "ann"
            )
        with Connection(address) as connection:
            connection.head("GET", f"{prefix}/ws", **HANDSHAKE, Sec_WebSocket_Protocol=f"bearer, {signed()}")
            status, headers = connection.response_head()
            assert (status, headers["sec-websocket-protocol"]) == (101, "bearer")
        with Connection(address) as connection:
            connection.head("GET", f"{prefix}/ws", **HANDSHAKE)
            assert connection.response_head()[0] in (401, 403)


def test_what_is_announced_names_what_guards_it(module: Project) -> None:
    module.manifest(
        app="main:app",
        auth={**AUTH, "key": {"type": "api_key", "keys": "k" * 20}},
        endpoints=[
            {"path": "/open", "auth": "none"},
            {"path": "/private", "methods": ["GET"], "auth": "jwt"},
            {"path": "/private", "methods": ["POST"], "auth": ["jwt", "key"]},
        ],
    )
    orchestrated = Orchestrated(module.folder)
    try:
        orchestrated.give(JWT_SECRET=SECRET)
        assert orchestrated.hear("announce")["endpoints"] == [
            {"path": "/open", "methods": ["GET"]},
            {"path": "/private", "methods": ["GET"], "auth": "jwt"},
            {"path": "/private", "methods": ["POST"], "auth": "jwt,key"},
            {"path": "/health", "methods": ["GET"]},
        ]
        orchestrated.say(op="shutdown")
        assert orchestrated.wait() == 0
    finally:
        orchestrated.end()


def test_a_folder_of_files_is_guarded_as_any_application(module: Project) -> None:
    module.write("files/report.txt", "for members")
    module.manifest(
        app="main:app",
        mounts=[{"route_prefix": "/files", "directory": "files"}],
        auth=AUTH,
        endpoints=[{"path": "/open", "auth": "none"}, {"path": "/files/{name:path}", "auth": "jwt"}],
    )
    host = started(module)
    assert host.get("/files/report.txt").status == 401
    assert host.get("/files/report.txt", **bearer(signed())).body == b"for members"


ROTATIONS = 50


class _Load:
    """Clients whose tokens are signed with the newest or the one before it, as those of an issuer that rotates are."""

    def __init__(self, address: str, token: Any) -> None:
        self.faults: list[str] = []
        self.answers = {200: 0, 401: 0}
        self._address = address
        self._token = token
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(4)]
        for thread in self._threads:
            thread.start()

    def _ask(self, number: int) -> None:
        try:
            with Connection(self._address) as connection:
                while not self._over.is_set():
                    good = number != 0
                    headers = bearer(self._token() if good else signed("z" * 40))
                    status = connection.request("GET", "/private", b"", **headers).status
                    if status != (200 if good else 401):
                        self.faults.append(f"{status} in place of {'200' if good else '401'}")
                    self.answers[status] = self.answers.get(status, 0) + 1
        except (OSError, EOFError) as error:
            self.faults.append(repr(error))

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(PATIENCE)


@pytest.mark.slow
def test_fifty_rotations_of_the_key_under_load_without_one_wrong_answer(project: Project, tmp_path: Path) -> None:
    """The issuer signs with a new secret only once it is in use here, and with the one before it until then."""
    project.write("main.py", APP)
    folder = project.folder / "secrets"
    folder.mkdir()

    def put(secret: str) -> None:
        staged = folder / ".JWT_SECRET"
        staged.write_text(secret)
        os.replace(staged, folder / "JWT_SECRET")

    secrets = [f"the secret with number {number:04} of them" for number in range(ROTATIONS + 1)]
    put(secrets[0])
    project.manifest(
        app="main:app",
        auth=AUTH,
        endpoints=ENDPOINTS,
        secrets={"rotate": True, "sources": [{"directory": "secrets"}]},
        logging={"access": False},
    )
    host = project.host()
    current = [secrets[0]]
    address = host.address
    load = _Load(address, lambda: signed(current[-1]))
    try:
        for secret in secrets[1:]:
            put(secret)
            began = time.monotonic()
            with Connection(address) as connection:
                while connection.request("GET", "/private", b"", **bearer(signed(secret))).status != 200:
                    assert time.monotonic() - began < PATIENCE
            current.append(secret)
    finally:
        load.stop()
    assert load.faults == []
    assert load.answers[200] > ROTATIONS
    assert load.answers[401] > ROTATIONS
