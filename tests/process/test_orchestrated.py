"""A real module under a scripted orchestrator, over real pipes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.processes import PATIENCE, Project, allowed, environment
from tests.scripted import Orchestrated

APP = """
import asyncio, os, subprocess, sys
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

def create_app(state):
    print("this is printed")
    os.write(1, b"so is this\\n")
    subprocess.run([sys.executable, "-c", "print('and this, by a child')"], check=True)
    assert sys.stdin.read() == ""
    taken = []

    @state.on_message("echo")
    async def echo(message):
        return {"said": message["text"], "to": state.module_id}

    @state.on_message("sync")
    def in_a_thread(message):
        return [1, 2, 3]

    @state.on_message("crash")
    async def crash(message):
        raise ValueError("the stove is hot")

    @state.on_message("slow")
    async def slow(message):
        print("it is slow", file=sys.stderr, flush=True)
        await asyncio.sleep(60)

    @state.on_rotation("KEY")
    async def rotated(secret):
        if secret.expose_secret() == "refuse-this-one":
            raise RuntimeError("I do not want it")
        taken.append(secret.expose_secret())

    async def key(request):
        secret = await state.get_secret("KEY")
        return PlainTextResponse(f"{secret.expose_secret()} {os.environ['KEY_URL']} {len(taken)} {secret}")

    async def ask(request):
        try:
            reply = await state.request("billing", {"type": "sum", "n": 2}, timeout=5)
        except Exception as error:
            return PlainTextResponse(f"{type(error).__name__} {error.code} {error}")
        return PlainTextResponse(str(reply))

    async def tell(request):
        await state.send_message(target="billing", message={"type": "note"})
        return Response(status_code=202)

    async def find(request):
        provider = await state.register_service(name="users", service_type="api", address="127.0.0.1:1")
        found = await state.discover_services("database")
        return PlainTextResponse(f"{provider} {[(each.name, each.address, each.is_healthy) for each in found]}")

    async def long(request):
        return Response(b"x" * 5_000_000)

    async def endless(request):
        async def parts():
            while True:
                yield b"x" * 100_000
                await asyncio.sleep(0)
        return StreamingResponse(parts())

    async def lingering(request):
        print("it lingers", flush=True)
        await asyncio.sleep(0.5)
        return PlainTextResponse("done")

    async def echo_body(request):
        return Response(await request.body(), headers={"x-query": request.url.query})

    return Starlette(routes=[
        Route("/key", key), Route("/ask", ask), Route("/tell", tell), Route("/find", find), Route("/long", long),
        Route("/endless", endless), Route("/lingering", lingering),
        Route("/echo/{rest:path}", echo_body, methods=["POST"]),
    ])
"""

Start = Callable[..., Orchestrated]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    modules: list[Orchestrated] = []
    project = Project(tmp_path)
    project.write("main.py", APP)

    def begin(
        *arguments: str,
        manifest: dict[str, Any] | None = None,
        init: dict[str, Any] | None = None,
        env: dict[str, str] | None = None,
        secrets: dict[str, str] | None = None,
        greet: bool = True,
    ) -> Orchestrated:
        app = {"import_path": "main:create_app", "env": {"KEY_URL": "db://u:${secret:KEY}@h/"}}
        document = {"app": app, "secrets": {"rotate": True, "keys": {"KEY": {}}}, **(manifest or {})}
        project.write("pywatt.yaml", json.dumps(document))
        module = Orchestrated(tmp_path, *arguments, init=init, env=env, greet=greet)
        modules.append(module)
        if greet:
            module.give(**(secrets or {"KEY": "first/value"}))
        return module

    yield begin
    for module in modules:
        module.end()


def announced(module: Orchestrated) -> dict[str, Any]:
    return module.hear("announce")


def test_a_module_lives_and_dies_under_its_orchestrator_and_what_it_prints_never_reaches_the_protocol(
    start: Start,
) -> None:
    module = start()
    said = announced(module)
    host, port = said["listen"].rsplit(":", 1)
    assert (host, int(port) > 0) == ("127.0.0.1", True)
    assert {"path": "/key", "methods": ["GET"]} in said["endpoints"]
    assert "extensions" not in said
    module.say(op="heartbeat")
    assert module.hear("heartbeat_ack") == {"op": "heartbeat_ack"}
    assert module.get("/key", f"http://{said['listen']}").body == b"first/value db://u:first%2Fvalue@h/ 0 ***"
    module.say(op="shutdown")
    assert module.wait() == 0
    assert all(json.loads(line) for line in module.raw)
    for printed in ("this is printed", "so is this", "and this, by a child"):
        assert printed in module.lines


def test_extensions_are_used_where_they_are_offered_and_nowhere_else(start: Start) -> None:
    everything = [
        "request_id",
        "error",
        "inline_payload",
        "target_endpoint",
        "health",
        "drain",
        "events",
        "deregister",
        "other",
    ]
    module = start(init={"extensions": everything}, greet=False)
    module.say(orchestrator_api="", module_id="users", env={}, listen="127.0.0.1:0", extensions=everything)
    asked = module.hear("get_secret")
    module.say(op="secret", name="KEY", value="first-value", request_id=asked["request_id"])
    assert set(announced(module)["extensions"]) == set(everything) - {"other", "target_endpoint"}
    module.say(op="heartbeat")
    health = module.hear("heartbeat_ack")["health"]
    assert health["status"] in ("healthy", "degraded", "unhealthy")
    payload = {"json": {"type": "echo", "text": "hi"}}
    module.say(op="routed_module_message", source_module_id="b", original_request_id="1", payload=payload)
    assert module.hear("route_to_module")["payload"] == {"json": {"said": "hi", "to": "users"}}
    module.say(op="shutdown")
    assert module.hear("draining")
    assert module.wait() == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_messages_are_answered_once_whatever_becomes_of_them(start: Start, workers: int) -> None:
    module = start(manifest={"server": {"workers": workers}})
    announced(module)
    assert module.message({"type": "echo", "text": "hi"}) == {"said": "hi", "to": "users"}
    assert module.message({"type": "sync"}) == [1, 2, 3]
    enveloped = {"id": "1", "content": {"type": "echo", "text": "in an envelope"}, "metadata": {}}
    assert module.message(enveloped)["said"] == "in an envelope"
    for content, code, text in (
        ({"type": "crash"}, "handler_failed", "the handler raised an exception (error "),
        ({"type": "nobody"}, "no_handler", "nobody"),
        ({"text": "no type"}, "invalid_message", "type"),
        (b"{not json", "invalid_message", "JSON"),
        (b'{"type": "echo", "type": "crash"}', "invalid_message", "duplicate member"),
    ):
        reply = module.message(content)
        assert (reply["type"], reply["code"]) == ("error", code), reply
        assert text in reply["message"]
        assert "stove" not in reply["message"]
    soon = {"content": {"type": "slow"}, "metadata": {"properties": {"deadline": time.time() + 0.2}}}
    assert module.message(soon)["code"] == "timeout"
    assert "Traceback" not in str(module.raw)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_module_asks_others_and_finds_services(start: Start, workers: int) -> None:
    module = start(manifest={"server": {"workers": workers}})
    address = f"http://{announced(module)['listen']}"
    answers: list[bytes] = []

    def get(path: str) -> threading.Thread:
        thread = threading.Thread(target=lambda: answers.append(module.get(path, address).body))
        thread.start()
        return thread

    thread = get("/ask")
    asked = module.hear("route_to_module")
    content = json.loads(bytes(asked["payload"]["data"]))
    assert content["content"] == {"type": "sum", "n": 2}
    assert 0 < content["metadata"]["properties"]["deadline"] - time.time() <= 5
    reply = {"data": list(b'{"sum": 4}'), "format": "Json"}
    module.say(op="routed_module_response", source_module_id="billing", request_id=asked["request_id"], payload=reply)
    thread.join(PATIENCE)
    assert answers.pop() == b"{'sum': 4}"
    thread = get("/ask")
    asked = module.hear("route_to_module")
    error = {"data": list(b'{"type":"error","code":"no_handler","message":"never heard"}'), "format": "Json"}
    module.say(op="routed_module_response", source_module_id="billing", request_id=asked["request_id"], payload=error)
    thread.join(PATIENCE)
    assert answers.pop() == b"MessagingError no_handler billing: never heard (no_handler)"
    thread = get("/find")
    wanted = module.hear("register_service_provider")
    assert wanted == {
        "op": "register_service_provider", "service_type": {"Custom": "api"}, "name": "users", "version": None,
        "address": "127.0.0.1:1", "metadata": None,
    }  # fmt: skip
    module.say(op="register_service_provider_response", success=True, provider_id="p1", error=None)
    assert module.hear("discover_service_providers")["service_type"] == "Database"
    provider: dict[str, Any] = {
        "provider_id": "p2", "module_id": "pg", "service_type": "Database", "name": "main", "version": None,
        "address": "10.0.0.1:5432", "metadata": {}, "is_healthy": False,
    }  # fmt: skip
    module.say(op="discover_service_providers_response", success=True, providers=[provider], error=None)
    thread.join(PATIENCE)
    assert answers.pop() == b"p1 [('main', '10.0.0.1:5432', False)]"
    thread = get("/tell")
    thread.join(PATIENCE)
    assert json.loads(bytes(module.hear("route_to_module")["payload"]["data"]))["content"] == {"type": "note"}


def test_requests_over_the_channel_go_through_edge_and_application(start: Start) -> None:
    module = start(manifest={"server": {"limits": {"body": "100KiB"}}})
    announced(module)
    status, headers, body = module.http("POST", "/echo/a%20b?q=1", b"hello", **{"X-Request-ID": "abc"})
    assert (status, body, headers["x-query"], headers["x-request-id"]) == (200, b"hello", "q=1", "abc")
    assert module.http("GET", "/nowhere")[0] == 404
    assert module.http("GET", "/health")[0] in (200, 503)
    status, headers, body = module.http("POST", "/echo/x", b"x" * 200_000)
    assert (status, headers["content-type"]) == (413, "application/problem+json")
    for path in ("/long", "/endless"):
        assert module.http("GET", path)[0] == 502, path
    assert module.http("GET", "no-slash")[0] == 400
    assert module.http("GET", "/key", None, **{"bad header": "x"})[0] == 400
    assert module.http("GET", "/a/%2e%2e/key")[0] == 400
    module.say(op="shutdown")
    assert module.wait() == 0


def test_a_secret_rotates_for_everything_that_depends_on_it_and_is_acknowledged_once(start: Start) -> None:
    module = start()
    announced(module)
    module.say(op="rotated", keys=["KEY", "UNUSED"], rotation_id="r1")
    module.give(KEY="second-value")
    assert module.hear("rotation_ack") == {"op": "rotation_ack", "rotation_id": "r1", "status": "success"}
    assert module.http("GET", "/key")[2] == b"second-value db://u:second-value@h/ 1 ***"
    module.say(op="rotated", keys=["KEY"], rotation_id="r2")
    module.give(KEY="refuse-this-one")
    refused = module.hear("rotation_ack")
    assert (refused["rotation_id"], refused["status"]) == ("r2", "error")
    assert "refuse-this-one" not in refused["message"]
    assert module.http("GET", "/key")[2] == b"second-value db://u:second-value@h/ 1 ***"
    module.say(op="rotated", keys=["KEY"], rotation_id="r1")  # said again, as after a lost acknowledgement
    assert module.hear("rotation_ack")["status"] == "success"
    module.say(op="shutdown")
    assert module.wait() == 0
    for value in ("first/value", "second-value", "refuse-this-one", "first%2Fvalue"):
        assert value not in "\n".join(module.lines)


def test_rotation_that_is_not_wanted_is_refused(start: Start) -> None:
    module = start(manifest={"secrets": ["KEY"]})
    announced(module)
    module.say(op="rotated", keys=["KEY"], rotation_id="r1")
    answer = module.hear("rotation_ack")
    assert (answer["status"], "secrets.rotate" in answer["message"]) == ("error", True)


@pytest.mark.parametrize(
    ("sent", "text"),
    [
        (b"", "ended before"),
        (b"not json\n", "not valid JSON"),
        (b'{"op": "heartbeat"}\n', "'heartbeat' and not init"),
        (b'{"orchestrator_api": "x", "module_id": 5}\n', "module_id is not a string"),
        (b"x" * (1024 * 1024 + 10), "longer than 1 MiB"),
        (None, "within 0.3s"),
    ],
)
def test_without_an_init_the_module_leaves_with_4_and_announces_nothing(
    start: Start, sent: bytes | None, text: str
) -> None:
    module = start(manifest={"channels": {"limits": {"handshake": "300ms"}}}, greet=False)
    if sent is not None:
        try:
            module.write(sent)
        except BrokenPipeError:
            pass
        if not sent:
            module.leave()
    assert module.wait() == 4
    assert module.raw == []
    assert len([line for line in module.lines if text in line]) == 1
    assert "Traceback" not in "\n".join(module.lines)


def test_hostile_lines_are_logged_and_passed_over(start: Start) -> None:
    module = start()
    announced(module)
    deep = b'{"op":"heartbeat","x":' + b"[" * 100 + b"]" * 100 + b"}"
    for line in (b"garbage", b"[]", b'{"op":5}', b'{"op":"secret","name":"KEY"}', b'{"op":"heartbeat","op":"x"}', deep):
        module.write(line + b"\n")
    module.write(b'{"op":"no_such_thing"}\n\xff\xfe\n\n{"op":"heartbeat"}\n')
    module.hear("heartbeat_ack")
    deadline = time.monotonic() + PATIENCE  # standard error is another pipe than that of the answer
    while True:
        records = [each for each in module.logs if each["logger"] == "pywatt.channels" and each["level"] == "warning"]
        if len(records) >= 7 or time.monotonic() > deadline:
            break
        time.sleep(0.02)
    assert len(records) == 7
    assert all(len(each["message"]) < 300 for each in records)
    module.say(op="shutdown")
    assert module.wait() == 0


def test_losing_the_orchestrator_lets_requests_finish_and_leaves_with_5(start: Start) -> None:
    module = start()
    address = announced(module)["listen"]
    with module.connect(f"http://{address}") as connection:
        connection.head("GET", "/lingering")
        module.wait_for("it lingers")
        module.leave()
        assert connection.response().body == b"done"
    assert module.wait() == 5
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", int(address.rsplit(":", 1)[1])), 1)


def test_heartbeats_that_stop_mean_that_nobody_is_there(start: Start) -> None:
    module = start(manifest={"channels": {"limits": {"heartbeat_missed": 1}}})
    announced(module)
    for _ in range(3):
        module.say(op="heartbeat")
        module.hear("heartbeat_ack")
    assert module.wait() == 5
    assert any("no heartbeat" in line for line in module.lines)


def test_a_pause_of_the_module_is_not_held_against_its_orchestrator_but_silence_is(
    start: Start,
) -> None:
    module = start(manifest={"channels": {"limits": {"heartbeat_missed": 1}}})
    announced(module)
    for _ in range(3):
        module.say(op="heartbeat")
        module.hear("heartbeat_ack")
    module.signal(signal.SIGSTOP)
    time.sleep(3.0)  # longer than the second after which the orchestrator counts as lost: the machine was suspended
    module.signal(signal.SIGCONT)
    time.sleep(0.5)  # the orchestrator goes on in its own time
    for _ in range(2):
        module.say(op="heartbeat")
        module.hear("heartbeat_ack")
    began = time.monotonic()
    assert module.wait() == 5
    assert time.monotonic() - began < allowed(2.0)
    assert [line for line in module.lines if "no heartbeat for 1 intervals of" in line]


def test_the_orchestrator_is_taken_for_one_only_where_something_says_so(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.write("main.py", "async def app(scope, receive, send): raise RuntimeError\n")
    project.manifest(app={"import_path": "main:app", "interface": "asgi"}, health=False)
    try:
        host = project.host("--standalone", env={"PYWATT_MODULE_ID": "x"})
        assert host.ready["module"] == tmp_path.name
        assert host.stop() == 0
        host = project.host(env={"PYWATT_MODULE_ID": "x"})  # standard input is /dev/null
        assert host.wait() == 4
        project.manifest(app={"import_path": "main:app", "interface": "asgi"}, channels={"stdio": "required"})
        assert project.host().wait() == 4
        assert project.cli_process("run", "--standalone", "--orchestrated").returncode == 2
    finally:
        project.end()


def test_init_says_who_the_module_is_where_it_listens_and_what_its_environment_is(start: Start, tmp_path: Path) -> None:
    manifest = {"module": {"id": "mine", "version": "${V}"}, "server": {"listen": "127.0.0.1:1"}}
    module = start(manifest=manifest, init={"listen": {"Unix": str(tmp_path / "s")}, "env": {"V": "2.0"}})
    assert announced(module)["listen"] == str(tmp_path / "s")
    assert module.ready["module"] == "users"
    assert module.ready["version"] == "2.0"
    module.say(op="shutdown")
    assert module.wait() == 0


def test_missing_secrets_are_all_named_with_the_sources_that_were_asked(start: Start) -> None:
    everything = ["request_id", "error"]
    module = start(
        manifest={"secrets": {"keys": {"KEY": {"description": "Opens the door"}, "OTHER": {}}}},
        greet=False,
    )
    module.say(orchestrator_api="", module_id="users", env={}, listen="127.0.0.1:0", extensions=everything)
    for _ in range(2):
        asked = module.hear("get_secret")
        answer = {
            "in_reply_to": "get_secret",
            "code": "unknown_secret",
            "message": "none",
            "request_id": asked["request_id"],
        }
        module.say(op="error", **answer)
    assert module.wait() == 3
    record = next(each for each in module.logs if each["level"] == "critical")["message"]
    for text in ("KEY", "OTHER", "Opens the door", "orchestrator", "env"):
        assert text in record


def test_the_conversation_is_written_down_without_a_secret_in_it(start: Start, tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    module = start("--trace-protocol", str(trace), init={"auth_token": "token-of-the-orchestrator"})
    announced(module)
    assert module.http("GET", "/key", None, Authorization="Bearer abcdefgh")[0] == 200
    module.message({"type": "echo", "text": "first/value"})
    module.say(op="shutdown")
    assert module.wait() == 0
    text = trace.read_text()
    assert oct(trace.stat().st_mode & 0o777) == "0o600"
    for secret in ("first/value", "token-of-the-orchestrator", "abcdefgh", "first%2Fvalue"):
        assert secret not in text
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line["message"]["op"] for line in lines if line["direction"] == "in"].count("http_request") == 1
    assert any(line["message"].get("value") == "***" for line in lines)


def test_messages_by_http_need_the_token_of_the_orchestrator_where_the_manifest_has_none(start: Start) -> None:
    module = start(manifest={"channels": {"http": {}}}, init={"auth_token": "token-of-the-orchestrator"})
    url = f"http://{announced(module)['listen']}/_pywatt/messages"
    body = {"type": "echo", "text": "hello"}
    assert httpx.post(url, json=body).status_code == 401
    answer = httpx.post(url, json=body, headers={"authorization": "Bearer token-of-the-orchestrator"})
    assert (answer.status_code, answer.json()["content"]["said"]) == (200, "hello")
    module.say(op="shutdown")
    assert module.wait() == 0


def test_a_signal_stops_an_orchestrated_module_as_any_other(start: Start) -> None:
    module = start()
    announced(module)
    os.kill(module.child.pid, signal.SIGTERM)
    assert module.wait() == 0


@pytest.mark.parametrize("which", ["input", "output"])
def test_a_file_in_place_of_a_pipe_is_said_and_ends_with_4(tmp_path: Path, which: str) -> None:
    """libuv ends the process where it is given such a descriptor."""
    project = Project(tmp_path)
    project.write("main.py", "async def app(scope, receive, send): raise RuntimeError\n")
    project.manifest(app={"import_path": "main:app", "interface": "asgi"}, health=False)
    init = json.dumps({"orchestrator_api": "", "module_id": "users", "listen": "127.0.0.1:0"}).encode() + b"\n"
    given = tmp_path / "init"
    given.write_bytes(init)
    command = [sys.executable, "-m", "pywatt_host", "run", "--orchestrated", "--log-format", "json"]
    with given.open("rb") as file, (tmp_path / "out").open("wb") as out:
        pipe = subprocess.PIPE
        reading, writing = (file, pipe) if which == "input" else (pipe, out)
        child = subprocess.Popen(
            command, stdin=reading, stdout=writing, stderr=pipe, cwd=tmp_path, env=environment(tmp_path)
        )
        _, said = child.communicate(None if which == "input" else init, timeout=PATIENCE)
    assert child.returncode == 4, said
    assert f"standard {which} is a file".encode() in said
    assert b"Traceback" not in said


def test_a_host_that_dies_before_it_has_answered_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.write("main.py", APP)
    project.manifest(app={"import_path": "main:create_app", "env": {"KEY_URL": "x"}}, module={"id": "users"})
    try:
        host = project.host(env={"KEY": "some-secret"})
        assert host.ready
        asking = subprocess.Popen(
            [sys.executable, "-m", "pywatt_host", "send", "users", "slow"],
            stderr=subprocess.PIPE, cwd=tmp_path, env=environment(tmp_path),
        )  # fmt: skip
        host.wait_for("it is slow")
        host.signal(signal.SIGKILL)
        _, said = asking.communicate(timeout=PATIENCE)
        assert (asking.returncode, said.count(b"\n")) == (1, 1)
        assert b"the connection closed before the answer arrived" in said
    finally:
        project.end()
