"""A module with two workers under a scripted orchestrator, over real pipes: the orchestrator sees one module."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.processes import PATIENCE, Project, allowed
from tests.scripted import Orchestrated

APP = """
import asyncio, os, sys, time
from pathlib import Path
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

AT_IMPORT = os.environ["KEY_URL"]
if Path("hold").exists():
    print("the import is held", file=sys.stderr, flush=True)
while Path("hold").exists():
    time.sleep(0.01)

def create_app(state):
    print("this is printed")
    os.write(1, b"so is this\\n")
    assert sys.stdin.read() == ""
    seen = []

    @state.on_message("who")
    async def who(message):
        return os.getpid()

    @state.on_message("echo")
    async def echo(message):
        return {"said": message["text"], "to": state.module_id}

    @state.on_message("crash")
    async def crash(message):
        raise ValueError("the stove is hot")

    @state.on_message("slow")
    async def slow(message):
        print(f"{os.getpid()} is slow", file=sys.stderr, flush=True)
        await asyncio.sleep(60)

    @state.on_message("seen")
    async def seen_events(message):
        return [os.getpid(), seen]

    @state.subscribe("orders.created")
    async def created(event):
        seen.append(event["n"])

    @state.on_rotation("KEY")
    async def rotated(secret):
        if Path(f"refuse-{os.getpid()}").exists():
            raise RuntimeError("I do not want it")

    async def key(request):
        secret = (await state.get_secret("KEY")).expose_secret()
        return PlainTextResponse(f"{os.getpid()} {secret} {os.environ['KEY_URL']} {AT_IMPORT}")

    async def ask(request):
        try:
            reply = await state.request("billing", {"type": "sum", "n": 2}, timeout=5)
        except Exception as error:
            return PlainTextResponse(f"{type(error).__name__} {error.code} {error}")
        return PlainTextResponse(str(reply))

    async def tell(request):
        await state.send_message(target="billing", message={"type": "note"})
        return Response(status_code=202)

    async def publish(request):
        await state.publish("orders.created", {"n": int(request.query_params["n"])})
        return PlainTextResponse(str(os.getpid()))

    async def find(request):
        provider = await state.register_service(name="users", service_type="api", address="auto")
        found = await state.discover_services("database")
        return PlainTextResponse(f"{provider} {[(each.name, each.address, each.is_healthy) for each in found]}")

    async def lingering(request):
        print("it lingers", file=sys.stderr, flush=True)
        await asyncio.sleep(float(request.query_params.get("seconds", 0.5)))
        return PlainTextResponse("done")

    async def echo_body(request):
        return Response(await request.body(), headers={"x-query": request.url.query, "x-pid": str(os.getpid())})

    return Starlette(routes=[
        Route("/key", key), Route("/ask", ask), Route("/tell", tell), Route("/find", find), Route("/publish", publish),
        Route("/lingering", lingering), Route("/echo/{rest:path}", echo_body, methods=["POST"]),
    ])
"""
EXTENSIONS = ["request_id", "error", "inline_payload", "health", "drain", "events", "deregister"]

Start = Callable[..., Orchestrated]


@pytest.fixture
def start(project: Project) -> Iterator[Start]:
    modules: list[Orchestrated] = []
    project.write("main.py", APP)

    def begin(
        manifest: dict[str, Any] | None = None, *, extensions: list[str] | None = None, **secrets: str
    ) -> Orchestrated:
        app = {"import_path": "main:create_app", "env": {"KEY_URL": "db://u:${secret:KEY}@h/"}}
        manifest = {"app": app, "secrets": {"rotate": True, "keys": {"KEY": {}}}, **(manifest or {})}
        manifest["server"] = {"workers": {"count": 2, **manifest.pop("workers", {})}, **manifest.get("server", {})}
        project.write("pywatt.yaml", json.dumps(manifest))
        module = Orchestrated(project.folder, init={"extensions": extensions} if extensions else None)
        modules.append(module)
        module.give(**(secrets or {"KEY": "first/value"}))
        return module

    yield begin
    for module in modules:
        module.end()


def announced(module: Orchestrated) -> str:
    return f"http://{module.hear('announce')['listen']}"


def in_background(call: Callable[[], Any]) -> Callable[[], Any]:
    """Call in a thread; what is returned waits for the result."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(call()), daemon=True)
    thread.start()

    def result() -> Any:
        thread.join(PATIENCE)
        return results[0]

    return result


def keys(module: Orchestrated, address: str, workers: int = 2) -> dict[int, list[str]]:
    """What each worker knows of the secret, by process id: its value, the environment now, and that at the import."""
    found: dict[int, list[str]] = {}
    limit = time.monotonic() + PATIENCE
    while len(found) < workers and time.monotonic() < limit:
        pid, *rest = module.get("/key", address).body.decode().split(" ")
        found[int(pid)] = rest
    assert len(found) == workers
    return found


def test_the_orchestrator_sees_one_module(start: Start) -> None:
    module = start()
    said = module.hear("announce")
    assert {"path": "/key", "methods": ["GET"]} in said["endpoints"]
    assert "extensions" not in said
    module.say(op="heartbeat")
    assert module.hear("heartbeat_ack") == {"op": "heartbeat_ack"}
    address = f"http://{said['listen']}"
    url = "db://u:first%2Fvalue@h/"
    assert list(keys(module, address).values()) == [["first/value", url, url]] * 2
    assert module.silent()  # the secret was fetched once, by one handshake
    module.say(op="shutdown")
    assert module.wait() == 0
    assert all(json.loads(line) for line in module.raw)
    assert module.silent()
    for printed in ("this is printed", "so is this"):
        assert module.lines.count(printed) == 2


def test_health_is_that_of_all_workers_and_the_drain_is_told_once(start: Start) -> None:
    module = start(extensions=EXTENSIONS)
    assert module.hear("subscribe")["topic"] == "orders.created"
    said = module.hear("announce")
    assert set(said["extensions"]) == set(EXTENSIONS)
    module.say(op="heartbeat")
    health = module.hear("heartbeat_ack")["health"]
    assert (health["status"], health["checks"]["workers"]["status"]) == ("healthy", "passing")
    module.say(op="shutdown")
    module.hear("draining")
    assert module.wait() == 0
    assert module.silent()


def test_a_secret_rotates_for_both_workers_or_for_none_and_is_acknowledged_once(start: Start, project: Project) -> None:
    module = start()
    address = announced(module)
    module.say(op="rotated", keys=["KEY", "UNUSED"], rotation_id="r1")
    module.give(KEY="second-value")
    assert module.hear("rotation_ack") == {"op": "rotation_ack", "rotation_id": "r1", "status": "success"}
    old, new = "db://u:first%2Fvalue@h/", "db://u:second-value@h/"
    found = keys(module, address)
    assert list(found.values()) == [["second-value", new, old]] * 2
    project.write(f"refuse-{min(found)}", "")
    module.say(op="rotated", keys=["KEY"], rotation_id="r2")
    module.give(KEY="third-value")
    refused = module.hear("rotation_ack")
    assert (refused["rotation_id"], refused["status"]) == ("r2", "error")
    assert "worker " in refused["message"]
    assert "third-value" not in refused["message"]
    assert list(keys(module, address).values()) == [["second-value", new, old]] * 2
    module.say(op="heartbeat")
    module.hear("heartbeat_ack")
    assert module.silent()
    module.say(op="shutdown")
    assert module.wait() == 0
    for value in ("first/value", "second-value", "third-value", "first%2Fvalue"):
        assert value not in "\n".join(module.lines)


def test_the_successor_of_a_killed_worker_imports_the_code_with_the_rotated_secret(start: Start) -> None:
    module = start()
    address = announced(module)
    before = keys(module, address)
    module.say(op="rotated", keys=["KEY"], rotation_id="r1")
    module.give(KEY="second-value")
    assert module.hear("rotation_ack")["status"] == "success"
    killed = min(before)
    os.kill(killed, signal.SIGKILL)
    module.wait_for(lambda line: "accepts connections" in line)
    new = "db://u:second-value@h/"
    found = keys(module, address)
    (successor,) = found.keys() - before.keys()
    assert found[successor] == ["second-value", new, new]
    assert module.silent()


def test_a_rotation_during_a_reload_holds_for_the_new_generation(start: Start, project: Project) -> None:
    module = start()
    address = announced(module)
    before = keys(module, address)
    project.write("hold", "")
    module.signal(signal.SIGHUP)
    module.give(KEY="first/value")
    module.wait_for("the import is held")
    module.say(op="rotated", keys=["KEY"], rotation_id="r1")
    module.give(KEY="second-value")
    assert module.hear("rotation_ack")["status"] == "success"
    (project.folder / "hold").unlink()
    module.give(KEY="second-value")
    assert module.hear("announce")
    found: dict[int, list[str]] = {}
    limit = time.monotonic() + PATIENCE
    while len(found.keys() - before.keys()) < 2 and time.monotonic() < limit:
        pid, *rest = module.get("/key", address).body.decode().split(" ")
        found[int(pid)] = rest
    assert {found[pid][0] for pid in found.keys() - before.keys()} == {"second-value"}
    assert module.silent()


def test_messages_are_answered_by_the_workers_in_turn_and_once(start: Start) -> None:
    module = start()
    announced(module)
    answers = [module.message({"type": "who"}) for _ in range(8)]
    assert sorted(answers.count(pid) for pid in set(answers)) == [4, 4]
    assert module.message({"type": "echo", "text": "hi"}) == {"said": "hi", "to": "users"}
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
    soon = {"content": {"type": "slow"}, "metadata": {"properties": {"deadline": time.time() + 0.2}}}
    assert module.message(soon)["code"] == "timeout"
    module.say(op="heartbeat")
    module.hear("heartbeat_ack")
    assert module.silent()


def test_a_worker_that_is_killed_while_it_handles_a_message_is_answered_for_once(start: Start) -> None:
    module = start()
    announced(module)
    payload = {"data": list(b'{"type": "slow"}'), "format": "Json"}
    module.say(op="routed_module_message", source_module_id="b", original_request_id="m1", payload=payload)
    pid = int(module.wait_for(" is slow").split()[0])
    os.kill(pid, signal.SIGKILL)
    answer = module.hear("route_to_module", request_id="m1", target_module_id="b")
    content = json.loads(bytes(answer["payload"]["data"]))
    assert (content["type"], content["code"]) == ("error", "handler_failed")
    assert {module.message({"type": "who"}) for _ in range(4)}.isdisjoint({pid})
    assert module.silent()


def test_workers_ask_others_and_find_services_through_their_supervisor(start: Start) -> None:
    module = start()
    address = announced(module)

    def get(path: str) -> Callable[[], Any]:
        return in_background(lambda: module.get(path, address).body)

    answer = get("/ask")
    asked = module.hear("route_to_module", target_module_id="billing")
    content = json.loads(bytes(asked["payload"]["data"]))
    assert content["content"] == {"type": "sum", "n": 2}
    assert 0 < content["metadata"]["properties"]["deadline"] - time.time() <= 5
    reply = {"data": list(b'{"sum": 4}'), "format": "Json"}
    module.say(op="routed_module_response", source_module_id="billing", request_id=asked["request_id"], payload=reply)
    assert answer() == b"{'sum': 4}"
    answer = get("/ask")
    asked = module.hear("route_to_module")
    error = {"data": list(b'{"type":"error","code":"no_handler","message":"never heard"}'), "format": "Json"}
    module.say(op="routed_module_response", source_module_id="billing", request_id=asked["request_id"], payload=error)
    assert answer() == b"MessagingError no_handler billing: never heard (no_handler)"
    get("/tell")()
    assert json.loads(bytes(module.hear("route_to_module")["payload"]["data"]))["content"] == {"type": "note"}

    provider: dict[str, Any] = {
        "provider_id": "p2", "module_id": "pg", "service_type": "Database", "name": "main", "version": None,
        "address": "10.0.0.1:5432", "metadata": {}, "is_healthy": False,
    }  # fmt: skip
    for number in range(4):  # both workers register the same
        answer = get("/find")
        if number == 0:
            assert module.hear("register_service_provider") == {
                "op": "register_service_provider", "service_type": {"Custom": "api"}, "name": "users",
                "version": None, "address": address, "metadata": None,
            }  # fmt: skip
            module.say(op="register_service_provider_response", success=True, provider_id="p1", error=None)
        assert module.hear("discover_service_providers")["service_type"] == "Database"
        module.say(op="discover_service_providers_response", success=True, providers=[provider], error=None)
        assert answer() == b"p1 [('main', '10.0.0.1:5432', False)]"


def test_events_reach_each_worker_once_and_go_out_once(start: Start) -> None:
    module = start(extensions=EXTENSIONS)
    module.hear("subscribe", topic="orders.created")
    address = announced(module)
    event = {"json": {"id": "e1", "content": {"n": 1}, "metadata": {}}}
    module.say(op="event", topic="orders.created", source_module_id="billing", payload=event)
    publisher = int(module.get("/publish?n=2", address).body)
    out = module.hear("publish", topic="orders.created")
    assert out["payload"]["json"]["content"] == {"n": 2}
    # An orchestrator passes an event to all that have subscribed, also to its publisher.
    module.say(op="event", topic="orders.created", source_module_id="users", payload=out["payload"])
    seen: dict[int, list[int]] = {}
    limit = time.monotonic() + PATIENCE
    while len(seen) < 2 or any(len(each) < 2 for each in seen.values()):
        assert time.monotonic() < limit
        pid, events = _reply(module, {"type": "seen"})
        seen[pid] = events
    assert publisher in seen
    assert [sorted(each) for each in seen.values()] == [[1, 2], [1, 2]]
    assert module.silent()


def _connects(module: Orchestrated, address: str) -> bool:
    try:
        module.connect(address).sock.close()
    except OSError:
        return False
    return True


def _reply(module: Orchestrated, content: dict[str, Any]) -> Any:
    module.say(op="routed_module_message", source_module_id="b", original_request_id="r", payload={"json": content})
    return module.hear("route_to_module", request_id="r")["payload"]["json"]


def test_requests_over_the_channel_are_served_by_the_workers(start: Start) -> None:
    module = start({"server": {"limits": {"body": "100KiB"}}})
    announced(module)
    status, headers, body = module.http("POST", "/echo/a%20b?q=1", b"hello", **{"X-Request-ID": "abc"})
    assert (status, body, headers["x-query"], headers["x-request-id"]) == (200, b"hello", "q=1", "abc")
    pids = [module.http("POST", "/echo/x", b"")[1]["x-pid"] for _ in range(6)]
    assert sorted(pids.count(pid) for pid in set(pids)) == [3, 3]
    assert module.http("GET", "/nowhere")[0] == 404
    assert module.http("GET", "/health")[0] == 200
    status, headers, _ = module.http("POST", "/echo/x", b"x" * 200_000)
    assert (status, headers["content-type"]) == (413, "application/problem+json")
    assert module.http("GET", "no-slash")[0] == 400
    assert module.http("GET", "/a/%2e%2e/key")[0] == 400


def test_losing_the_orchestrator_lets_requests_finish_and_leaves_with_5(start: Start) -> None:
    module = start()
    address = announced(module)
    pids = keys(module, address)
    with module.connect(address) as connection:
        connection.head("GET", "/lingering")
        module.wait_for("it lingers")
        module.leave()
        assert connection.response().body == b"done"
    assert module.wait() == 5
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.slow
def test_an_orchestrator_that_falls_silent_is_lost_for_all_workers(start: Start) -> None:
    module = start({"channels": {"limits": {"heartbeat_missed": 2}}})
    address = announced(module)
    pids = keys(module, address)
    for _ in range(3):
        module.say(op="heartbeat")
        module.hear("heartbeat_ack")
    assert module.wait() == 5
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.slow
def test_a_rotation_under_load_and_a_reload_lose_nothing(start: Start, project: Project) -> None:
    module = start()
    address = announced(module)
    stop = threading.Event()

    def load() -> list[int]:
        with module.connect(address) as connection:
            statuses = []
            while not stop.is_set():
                response = connection.request("GET", "/key")
                statuses.append(response.status)
                if response.headers.get("connection") == "close":
                    connection.__exit__()
                    connection.__init__(address)  # type: ignore[misc]
            return statuses

    with ThreadPoolExecutor(4) as pool:
        loads = [pool.submit(load) for _ in range(4)]
        try:
            for number in range(5):
                module.say(op="rotated", keys=["KEY"], rotation_id=f"r{number}")
                module.give(KEY=f"value-number-{number}")
                assert module.hear("rotation_ack")["status"] == "success"
                assert {each[0] for each in keys(module, address).values()} == {f"value-number-{number}"}
            module.signal(signal.SIGHUP)
            module.give(KEY="value-number-4")
            module.hear("announce")
            module.say(op="rotated", keys=["KEY"], rotation_id="after")
            module.give(KEY="value-after-the-reload")
            assert module.hear("rotation_ack")["status"] == "success"
            assert {each[0] for each in keys(module, address).values()} >= {"value-after-the-reload"}
        finally:
            stop.set()
        statuses = [status for each in loads for status in each.result(PATIENCE)]
    assert len(statuses) > 20
    assert set(statuses) == {200}
    module.say(op="shutdown")
    assert module.wait() == 0


@pytest.mark.slow
def test_while_the_host_drains_a_new_connection_is_refused_at_once(start: Start) -> None:
    module = start()
    address = announced(module)
    with module.connect(address) as connection:
        connection.head("GET", "/lingering?seconds=5")
        module.wait_for("it lingers")
        module.say(op="shutdown")
        began = time.monotonic()
        while _connects(module, address):
            assert time.monotonic() - began < allowed(1.0)
        assert connection.response().body == b"done"
    assert module.wait() == 0
