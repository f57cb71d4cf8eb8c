"""`pywatt-host up`, real: modules of ours and of the original's shapes, killed and asked in every way."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pywatt_host.manifest import Source
from pywatt_host.manifest.workspace import load_workspace
from tests.docs.pages import blocks
from tests.processes import PATIENCE, ROOT, Connection, Host, Project, allowed

PROGRAMS = Path(__file__).parent / "programs"
RUST = [sys.executable, str(PROGRAMS / "rust_shaped.py")]
PYTHON = [sys.executable, str(PROGRAMS / "python_shaped.py")]
GREETING = "good-morning-to-you"
APP = """
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise RuntimeError("declined")
    state = scope["state"]["pywatt"]
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept", "subprotocol": scope["subprotocols"][0]})
        text = (await receive())["text"]
        await send({"type": "websocket.send", "text": text + "!"})
        await send({"type": "websocket.close", "code": 4000, "reason": "done"})
        return
    if scope["path"] == "/ask":
        reply = await state.request(target="rusty", message={"type": "echo", "n": 1})
        body = f"{reply['from']} {reply['n']}".encode()
    elif scope["path"] == "/secret":
        body = (await state.get_secret("GREETING")).expose_secret().encode()
    elif scope["method"] == "POST":
        more, octets = True, 0
        while more:
            message = await receive()
            octets, more = octets + len(message["body"]), message["more_body"]
        body = str(octets).encode()
    else:
        body = f"{scope['client'][0]} {scope['scheme']} {dict(scope['headers'])[b'host'].decode()}".encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for octet in body:
        await send({"type": "http.response.body", "body": bytes([octet]), "more_body": True})
    await send({"type": "http.response.body", "body": b""})
"""


class Workspace:
    """A running `up`."""

    def __init__(self, project: Project, *arguments: str, **keys: Any) -> None:
        self.project = project
        if keys:
            timeouts = {"start": "30s", "stop": "5s", "heartbeat": "1s", **keys.pop("timeouts", {})}
            document = {"gateway": {"listen": "127.0.0.1:0"}, **keys, "timeouts": timeouts}
            project.write("wattson.yaml", json.dumps(document))
        command = [sys.executable, "-m", "pywatt_host", "up", "--log-format", "json", *arguments]
        self.up: Host = project.start(command, env={"GREETING": GREETING})
        self.up.patience = 2 * PATIENCE  # every application is imported twice: checked, then run

    def ready(self) -> dict[str, Any]:
        line = self.up.wait_for(lambda line: '"event":"ready"' in line and '"workspace"' in line)
        document: dict[str, Any] = json.loads(line)
        return document

    def gateway(self) -> str:
        """The address of the gateway, which is open before the modules are ready."""
        starting: dict[str, Any] = json.loads(self.up.wait_for('"event":"starting"'))
        return str(starting["listen"][0])

    def connect(self, *, early: bool = False) -> Connection:
        return Connection(self.gateway() if early else self.ready()["listen"][0])

    def get(self, path: str, *, early: bool = False) -> tuple[int, str]:
        with self.connect(early=early) as connection:
            response = connection.request("GET", path)
            return response.status, response.body.decode()

    def modules(self) -> dict[str, list[dict[str, Any]]]:
        """The processes of each module, as `ps` tells them."""
        done = self.project.cli("ps", "--json")
        (found,) = json.loads(done.stdout)
        return {module["id"]: module["replicas"] for module in found["modules"]}

    def ask(self, module: str, type: str, **content: Any) -> Any:
        done = self.project.cli("send", module, type, json.dumps(content))
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def users(project: Project) -> dict[str, Any]:
    """A manifest module."""
    project.write("users/main.py", APP)
    project.write(
        "users/pywatt.yaml",
        """
        app: main:app
        secrets: {rotate: true, keys: [GREETING]}
        metrics: true
        """,
    )
    return {"manifest": "users/pywatt.yaml", "channel": "ipc"}


def test_modules_of_all_shapes_live_together(project: Project, users: dict[str, Any]) -> None:
    workspace = Workspace(
        project,
        modules={
            "users": {**users, "depends_on": {"rusty": {"condition": "service_healthy"}}},
            "rusty": {"command": RUST, "channel": "ipc", "secrets": ["GREETING"]},
            "carriage": {"command": RUST, "channel": "tcp"},
            "snake": {"command": PYTHON, "secrets": ["GREETING"]},
        },
    )
    assert {module["id"] for module in workspace.ready()["modules"]} == {"users", "rusty", "carriage", "snake"}
    host = workspace.ready()["listen"][0].removeprefix("http://")
    # The gateway: by name and by announced path, streamed, and nothing that is the operator's.
    assert workspace.get("/users/x") == (200, "127.0.0.1 http localhost")
    assert workspace.get("/hello") == (200, "snake has /hello")
    status, seen = workspace.get("/carriage/things/7?q=1")
    headers = json.loads(seen)["headers"]
    assert (status, json.loads(seen)["path"], headers["x-forwarded-prefix"]) == (200, "/things/7?q=1", "/carriage")
    for path in ("/users/metrics", "/users/health", "/users/_pywatt/messages", "/snake/other", "/nobody"):
        assert workspace.get(path)[0] == 404, path
    with workspace.connect() as connection:
        assert connection.request("POST", "/rusty/things/1").status == 405
        assert connection.request("POST", "/users/upload", b"x" * 300_000).body == b"300000"
        connection.head("POST", "/users/upload", Transfer_Encoding="chunked")
        connection.send(b"5\r\nhello\r\n3\r\n...\r\n0\r\n\r\n")
        assert connection.response().body == b"8"
        assert connection.request("GET", "/users/../rusty/x").status == 400
    asyncio.run(websocket(f"ws://{host}/users/ws"))
    # Messages: from ours to the original's, from one of the original's to another, and with secrets.
    assert workspace.get("/users/ask") == (200, "rusty 1")
    relayed = workspace.ask("carriage", "relay", to="rusty", message={"type": "echo", "n": 2})
    assert (relayed["answer"]["from"], relayed["answer"]["n"]) == ("rusty", 2)
    lost = workspace.ask("carriage", "relay", to="nobody", message={"type": "echo"})
    assert lost["answer"]["code"] == "unknown_target"
    assert workspace.ask("rusty", "secret", name="GREETING")["length"] == len(GREETING)
    assert workspace.ask("snake", "anything") == {"type": "hello", "from": "snake"}
    refused = project.cli("send", "rusty", "nothing")
    assert (refused.returncode, "no_handler" in refused.stderr) == (1, True)
    # Rotation, by the command line; the Python-shaped one refuses it, and that is said.
    rotated = project.cli("rotate", "GREETING", "--json")
    outcome = json.loads(rotated.stdout)["acknowledged"]
    assert outcome == {"users": "success", "rusty": "success", "snake": "error: not mine"}
    assert rotated.returncode == 1
    # What it says: names, and no secret.
    assert project.cli("logs", "snake", "-n", "1", "--format", "text").stdout == "snake    | the greeting is ***\n"
    (line,) = project.cli("logs", "snake", "-n", "1").stdout.splitlines()
    assert {**json.loads(line), "time": ""} == {
        "time": "", "module": "snake", "replica": 1, "text": "the greeting is ***", "level": "info",
    }  # fmt: skip
    shown = project.cli("ps").stdout
    assert [line.split()[0] for line in shown.splitlines()[2:]] == ["users", "rusty", "carriage", "snake"]
    assert workspace.up.stop() == 0
    assert GREETING not in "\n".join(workspace.up.lines)
    assert any("a print that was forgotten" in line for line in workspace.up.lines)
    assert workspace.up.stdout == b""


async def websocket(url: str) -> None:
    from websockets.asyncio.client import connect
    from websockets.exceptions import ConnectionClosed, InvalidStatus

    async with asyncio.timeout(PATIENCE), connect(url, subprotocols=["chat"], proxy=None) as socket:  # type: ignore[list-item]
        assert socket.subprotocol == "chat"
        await socket.send("hello")
        assert await socket.recv() == "hello!"
        with pytest.raises(ConnectionClosed):
            await socket.recv()
        assert (socket.close_code, socket.close_reason) == (4000, "done")
    with pytest.raises(InvalidStatus) as refused:
        await connect(url.replace("/users/", "/rusty/"), proxy=None)
    assert refused.value.response.status_code == 404


def test_a_module_that_is_killed_is_back_in_two_seconds_and_nobody_else_loses_anything(
    project: Project, users: dict[str, Any]
) -> None:
    workspace = Workspace(
        project,
        modules={"users": users, "rusty": {"command": RUST, "channel": "ipc", "replicas": 2}},
    )
    workspace.ready()
    before = workspace.modules()
    os.kill(before["rusty"][0]["pid"], signal.SIGKILL)
    os.kill(before["users"][0]["pid"], signal.SIGKILL)
    killed, answers = time.monotonic(), 0
    with workspace.connect() as others, workspace.connect() as back:
        while True:
            assert others.request("GET", "/rusty/things/1").status == 200  # the other replica is there
            answers += 1
            if back.request("GET", "/users/x").status == 200:
                break
            assert time.monotonic() - killed < PATIENCE
    assert time.monotonic() - killed < allowed(2.0)
    assert workspace.get("/users/ask") == (200, "rusty 1")
    after = workspace.modules()
    assert after["users"][0]["restarts"] == 1
    assert after["rusty"][1]["pid"] == before["rusty"][1]["pid"]
    assert workspace.up.stop() == 0


def test_when_up_is_killed_every_module_leaves_and_the_next_start_cleans_up(
    project: Project, users: dict[str, Any]
) -> None:
    deaf = [sys.executable, "-c", DEAF]
    modules = {"users": users, "rusty": {"command": RUST, "channel": "ipc"}, "deaf": {"command": deaf}}
    workspace = Workspace(project, modules=modules)
    workspace.ready()
    pids = [replica["pid"] for replicas in workspace.modules().values() for replica in replicas]
    workspace.up.signal(signal.SIGKILL)
    workspace.up.wait()
    limit = time.monotonic() + PATIENCE
    while any(_alive(pid) for pid in pids):
        assert time.monotonic() < limit
        time.sleep(0.02)
    sockets = project.folder / "pywatt"
    left_over = set(sockets.iterdir())
    again = Workspace(project)
    again.ready()
    assert not left_over & set(sockets.glob("*.ipc"))
    assert again.up.stop() == 0


DEAF = """
import json, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
init = json.loads(sys.stdin.readline())
print(json.dumps({"op": "announce", "listen": "127.0.0.1:1", "endpoints": []}), flush=True)
for line in sys.stdin:
    op = json.loads(line)["op"]
    if op == "heartbeat":
        print(json.dumps({"op": "heartbeat_ack"}), flush=True)
    elif op == "shutdown":
        sys.exit(0)
while True:
    time.sleep(1)
"""


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return sys.platform != "linux"


def program(*lines: str) -> list[str]:
    """A module that reads its init, then runs these lines."""
    return [sys.executable, "-c", "\n".join(["import sys, time", "sys.stdin.readline()", *lines])]


def test_modules_that_misbehave_harm_nobody(project: Project) -> None:
    announce = """print('{"listen": "127.0.0.1:1", "endpoints": []}', flush=True)"""
    workspace = Workspace(
        project,
        timeouts={"start": "3s", "heartbeat": "200ms"},
        limits={"frame": "1KiB"},
        modules={
            "good": {"command": RUST},
            "garbage": {"command": program("[print('\\x1b[2Jnonsense') for _ in range(500)]", "time.sleep(60)")},
            "silent": {"command": program("time.sleep(60)"), "restart": "no"},
            "crash": {"command": program("sys.exit(3)")},
            "endless": {"command": program("print('x' * 100_000, flush=True)", "time.sleep(60)")},
            "stuck": {"command": program(announce, "time.sleep(60)"), "restart": "no"},
            "missing": {"command": ["./no-such-program"], "restart": "no"},
            "waiting": {"command": RUST, "depends_on": ["silent"]},
        },
    )
    workspace.up.wait_for("good is healthy")
    assert workspace.get("/good/things/1", early=True)[0] == 200
    assert workspace.get("/crash/x", early=True)[0] == 503
    assert workspace.get("/health", early=True)[0] == 503
    for text in (
        "silent has ended (no announce within 3s",
        "crash has ended (exit code 3); it is started again in",
        "endless is killed: its standard output cannot be read",
        "stuck is killed: no answer to 3 heartbeats",
        "./no-such-program: No such file or directory",
        "garbage sent data that is not part of the protocol",
    ):
        workspace.up.wait_for(text)
    states = {id: replicas[0]["state"] for id, replicas in workspace.modules().items()}
    assert (states["good"], states["silent"], states["missing"]) == ("running", "failed", "failed")
    assert states["waiting"] == "waiting"
    assert not any('"event":"ready"' in line and '"workspace"' in line for line in workspace.up.lines)
    assert sum("\\\\x1b[2Jnonsense" in line for line in workspace.up.lines) <= 100
    assert workspace.up.stop() == 1
    # What modules write to their standard error is theirs: one whose reader has gone may well complain.
    ours = [line for line in workspace.up.lines if '"logger":"output"' not in line]
    assert [line for line in ours if "Fatal error" in line or "Traceback" in line] == []


def test_a_pause_of_up_is_not_held_against_a_module_that_has_answered_meanwhile(project: Project) -> None:
    slow = program(
        "import json",
        """print('{"listen": "127.0.0.1:1", "endpoints": []}', flush=True)""",
        "for number, line in enumerate(sys.stdin):",
        "    if json.loads(line)['op'] == 'shutdown':",
        "        break",
        "    print('asked', number, file=sys.stderr, flush=True)",
        "    time.sleep(0.3)",
        """    print('{"op": "heartbeat_ack"}', flush=True)""",
    )
    workspace = Workspace(project, limits={"heartbeat_missed": 1}, modules={"slow": {"command": slow}})
    workspace.ready()
    before = len(workspace.up.lines)
    workspace.up.wait_for(lambda line: '"asked' in line and line in workspace.up.lines[before:])
    workspace.up.signal(signal.SIGSTOP)
    time.sleep(3.0)  # longer than the second within which a heartbeat has to be answered
    workspace.up.signal(signal.SIGCONT)
    before = len(workspace.up.lines)
    workspace.up.wait_for(lambda line: '"asked' in line and line in workspace.up.lines[before:])
    (replica,) = workspace.modules()["slow"]
    assert (replica["state"], replica["restarts"]) == ("running", 0)
    assert [line for line in workspace.up.lines if "is killed" in line] == []
    assert workspace.up.stop() == 0


def test_a_module_without_a_listener_is_reached_over_its_channel(project: Project) -> None:
    code = RUST[1]
    silent = f"""
import json, runpy, sys
sys.argv = [{code!r}]
names = runpy.run_path({code!r})
init = json.loads(sys.stdin.readline())
module = names["Module"](init)
module.server.shutdown()
module.server.server_close()
module.run()
"""
    workspace = Workspace(project, modules={"quiet": {"command": [sys.executable, "-c", silent]}})
    assert workspace.get("/quiet/things/9?x=1") == (200, "GET /things/9?x=1 over the channel")
    assert workspace.up.stop() == 0


def test_one_module_is_stopped_and_the_last_one_ends_up(project: Project) -> None:
    workspace = Workspace(project, modules={"a": {"command": RUST}, "b": {"command": RUST, "depends_on": ["a"]}})
    workspace.ready()
    assert project.cli("stop", "b").returncode == 0
    workspace.up.wait_for("b begins")
    limit = time.monotonic() + PATIENCE
    while workspace.modules()["b"][0]["state"] != "ended":
        assert time.monotonic() < limit
    assert workspace.get("/b/things/1")[0] == 503
    assert project.cli("stop", "a").returncode == 0
    assert workspace.up.wait() == 0
    assert "no module is left" in "\n".join(workspace.up.lines)


def test_a_watched_source_rotates_by_itself(project: Project, users: dict[str, Any]) -> None:
    project.write(".env", "GREETING=the-first-of-them\n")
    workspace = Workspace(project, secrets={"sources": [{"dotenv": ".env"}]}, modules={"users": users})
    assert workspace.get("/users/secret") == (200, "the-first-of-them")
    (project.folder / ".new").write_text("GREETING=the-second-of-them\n")
    (project.folder / ".new").rename(project.folder / ".env")
    workspace.up.wait_for('"acknowledged":{"users":"success"}')
    assert workspace.get("/users/secret") == (200, "the-second-of-them")
    assert workspace.up.stop() == 0
    assert not any("of-them" in line for line in workspace.up.lines)


def test_several_manifests_need_no_workspace(project: Project) -> None:
    for name in ("one", "two"):
        project.write(f"{name}/main_{name}.py", APP)
        project.write(f"{name}/pywatt.yaml", f"app: main_{name}:app\n")
    workspace = Workspace(project, "one", "two/pywatt.yaml")
    # The gateway is where it always is, when nobody says another place: somebody else may have it.
    line = workspace.up.wait_for(lambda line: '"workspace"' in line or "gateway.listen" in line)
    if '"workspace"' in line:
        assert [module["id"] for module in json.loads(line)["modules"]] == ["one", "two"]
        assert workspace.up.stop() == 0
    else:
        assert workspace.up.wait() == 3


def test_nothing_is_started_where_the_workspace_or_a_manifest_is_faulty(project: Project) -> None:
    project.write("users/pywatt.yaml", "app: main:app\nserver: {listen: 1}\n")
    project.write("users/main.py", APP)
    project.write("wattson.yaml", "modules: {users: {manifest: users/pywatt.yaml}, other: {command: [./never]}}\n")
    faulty = project.cli("up")
    assert faulty.returncode == 2
    assert "listen" in faulty.stderr
    assert "never" not in faulty.stderr
    project.write("wattson.yaml", "modules: {a: {command: [x], depends_on: [b]}, b: {command: [x], depends_on: [a]}}\n")
    cycle = project.cli("up")
    assert (cycle.returncode, "a -> b -> a" in cycle.stderr) == (2, True)
    gateway = "gateway: {listen: 127.0.0.1:0}"
    project.write("wattson.yaml", f"{gateway}\nsecrets: {{keys: [NO_SUCH_SECRET]}}\nmodules: {{a: {{command: [x]}}}}\n")
    missing = project.cli("up")
    assert (missing.returncode, "NO_SUCH_SECRET" in missing.stderr) == (3, True)


def test_the_schema_of_the_workspace_is_printed(project: Project) -> None:
    done = project.cli("schema", "workspace")
    assert "depends_on" in json.dumps(json.loads(done.stdout))


STUBBORN = DEAF.replace("sys.exit(0)", "pass")


def test_a_module_that_does_not_stop_is_killed_and_that_is_said(project: Project) -> None:
    workspace = Workspace(
        project, timeouts={"stop": "300ms"}, modules={"deaf": {"command": [sys.executable, "-c", STUBBORN]}}
    )
    workspace.ready()
    assert workspace.up.stop() == 1
    assert any(
        "did not end within 0.3s of shutdown (timeouts.stop); it gets SIGTERM" in line for line in workspace.up.lines
    )


def test_a_second_signal_kills_at_once(project: Project) -> None:
    workspace = Workspace(
        project, timeouts={"stop": "1h"}, modules={"deaf": {"command": [sys.executable, "-c", STUBBORN]}}
    )
    workspace.ready()
    workspace.up.signal(signal.SIGINT)
    workspace.up.wait_for("stopping: SIGINT")
    workspace.up.signal(signal.SIGINT)
    assert workspace.up.wait() == 1


def test_what_depends_on_a_module_is_stopped_before_it(project: Project) -> None:
    workspace = Workspace(
        project, modules={"base": {"command": RUST}, "top": {"command": RUST, "depends_on": ["base"]}}
    )
    workspace.ready()
    order = [line for line in workspace.up.lines if "begins" in line]
    assert ["base begins" in order[0], "top begins" in order[1]] == [True, True]
    os.kill(workspace.modules()["top"][0]["pid"], signal.SIGSTOP)  # so that it takes its time to stop
    workspace.up.signal()
    workspace.up.wait_for("stopping: SIGTERM")
    base = workspace.modules()["base"][0]
    assert base["state"] == "running"
    os.kill(workspace.modules()["top"][0]["pid"], signal.SIGCONT)
    assert workspace.up.wait() == 0


def test_the_workspace_of_the_documents_is_right(tmp_path: Path) -> None:
    shown, *_ = (block for block in blocks(ROOT / "docs" / "up.md") if block.info == "workspace")
    for name in ("shop", "prices"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "pywatt.yaml").write_text("app: main:app\n")
    source = Source.of_text(shown.text, name="wattson.yaml", directory=tmp_path)
    assert set(load_workspace(source, environ={}).workspace.modules) == {"shop", "prices"}


SLOW = """
import asyncio

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise RuntimeError("declined")
    if scope["path"] == "/stream":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
    else:
        await send({"type": "http.response.start", "status": 413, "headers": [(b"content-length", b"5")]})
        await send({"type": "http.response.body", "body": b"enough"[:5]})
        return
    while (await receive())["type"] != "http.disconnect":
        pass
    scope["state"]["pywatt"].logger.warning("the client has left")
"""


def test_streams_begin_at_once_end_with_their_client_and_early_answers_get_through(project: Project) -> None:
    project.write("slow/main.py", SLOW)
    project.write("slow/pywatt.yaml", "app: main:app\nhealth: false\n")
    workspace = Workspace(project, modules={"slow": {"manifest": "slow"}})
    with workspace.connect() as connection:
        connection.head("GET", "/slow/stream")
        connection.response_head()
        assert connection.chunk() == b"first"
    workspace.up.wait_for("the client has left")
    with workspace.connect() as connection:
        connection.head("POST", "/slow/upload", Content_Length="1000000")
        assert connection.response_head()[0] == 413
    assert workspace.up.stop() == 0
    assert not any("pywatt.gateway" in line for line in workspace.up.lines)
