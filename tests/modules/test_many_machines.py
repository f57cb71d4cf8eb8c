"""Modules over NATS: found and lost, replicas that share work, a server that is started anew, a link that is cut."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nats
import pytest

from tests import servers
from tests.modules.cut import Link
from tests.modules.talking import Module, module
from tests.processes import PATIENCE, Project, allowed
from tests.servers import MissingServerError, Server

LEASE = 4.0  # seconds, where a test waits for its end; a busy machine may be late to renew a shorter one


@pytest.fixture
def own_nats(tmp_path: Path) -> Iterator[Server]:
    """One that a test may kill."""
    try:
        server = servers.nats(tmp_path)
    except MissingServerError as error:
        pytest.skip(str(error))
    server.start()
    yield server
    server.kill()


def channels(url: str, prefix: str, **more: Any) -> dict[str, Any]:
    nats = {"servers": url, "prefix": prefix, "lease": "30s", **more}
    return {"channels": {"nats": nats, "limits": {"handshake": "1s" if "required" in more else "10s"}}}


def register(name: str, kind: str) -> dict[str, Any]:
    return {"services": {"register": [{"name": name, "type": kind, "version": "1.2", "metadata": {"v": "1"}}]}}


def ready(*modules: Module) -> None:
    for each in modules:
        assert each.host.ready


def until_health(of: Module, wanted: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while (answer := of.host.get("/health")).json()["status"] != wanted:
        assert time.monotonic() < deadline, answer.body
        time.sleep(0.02)
    assert answer.status == 200


@pytest.mark.slow
def test_a_provider_is_found_and_one_that_is_killed_is_gone_within_its_lease(
    project: Project, nats_server: Server
) -> None:
    keys = channels(nats_server.url, "found", lease=f"{LEASE:g}s")
    users = [module(project, f"users-{number}", **keys, **register("users-api", "api")) for number in (1, 2)]
    asking = module(project, "asking", **keys)
    ready(*users, asking)
    found = asking.until("discover", lambda found: len(found) == 2, type="api")
    assert {each["address"] for each in found} == {each.host.address for each in users}
    assert [(each["module_id"], each["is_healthy"], each["metadata"]) for each in found] == [
        ("users", True, {"v": "1"})
    ] * 2
    # Every module says where it is, without being told to.
    assert len(asking.until("discover", lambda found: len(found) == 3, type="module")) == 3

    # By its module id, and by the name of its service.
    for name in ("users", "users-api"):
        told = [asking.do("get", url=f"module://{name}/who") for _ in range(4)]
        assert {each["status"] for each in told} == {200}

    # One that stops takes back what it offers before it is gone; one that is killed is forgotten with its lease.
    assert users[0].host.stop() == 0
    assert len(asking.until("discover", lambda found: len(found) == 1, type="api")) == 1
    began = time.monotonic()
    users[1].host.end()
    asking.until("discover", lambda found: not found, type="api")
    assert time.monotonic() - began < allowed(LEASE)
    assert asking.code("request", target="users", message={"type": "double", "n": 1})[0] == "unavailable"


def test_a_service_is_registered_and_taken_back_while_the_module_runs(project: Project, nats_server: Server) -> None:
    keys = channels(nats_server.url, "while")
    users, asking = module(project, "users", **keys), module(project, "asking", **keys)
    ready(users, asking)
    provider = users.do("register_service", name="users-api", service_type="api", metadata={"a": "b"})
    assert provider.startswith("users.")
    (found,) = asking.until("discover", bool, type="api")
    assert (found["address"], found["metadata"]) == (users.host.address, {"a": "b"})
    users.do("register_service", name="users-api", service_type="api", address="10.0.0.7:1")
    found = asking.until("discover", lambda found: [each["address"] for each in found] == ["10.0.0.7:1"], type="api")
    users.do("deregister_service", service="users-api")
    asking.until("discover", lambda found: not found, type="api")
    assert users.code("deregister_service", service="users-api")[0] == "unknown_target"


def test_no_service_has_the_id_of_another_module_whatever_its_process_writes(
    project: Project, nats_server: Server
) -> None:
    keys = channels(nats_server.url, "names")
    users, evil = module(project, "users", **keys), module(project, "evil", **keys)
    ready(users, evil)
    assert len(evil.until("discover", lambda found: len(found) == 2, type="module")) == 2
    code, text = evil.code("register_service", name="Users", service_type="api", address="127.0.0.1:1")
    assert (code, "the id of another module on NATS" in text) == ("refused", True)
    assert evil.do("register_service", name="evil", service_type="api", address="127.0.0.1:1")

    async def write() -> None:
        client = await nats.connect(nats_server.url)
        bucket = await client.jetstream().key_value("names-services")
        for number, name in enumerate(("users", "other"), 7):
            entry = {"service_type": {"Custom": "api"}, "name": name, "address": "127.0.0.1:1", "is_healthy": True}
            await bucket.put(f"evil.0.{number}", json.dumps(entry).encode())
        await client.close()

    asyncio.run(write())
    asking = module(project, "asking", **keys)
    ready(asking)
    found = asking.until("discover", lambda found: len(found) == 2, type="api")
    assert {each["name"] for each in found} == {"evil", "other"}
    told = [asking.do("get", url="module://users/who") for _ in range(3)]
    assert [each["status"] for each in told] == [200] * 3


def test_three_replicas_share_what_comes_and_each_hears_what_is_published(
    project: Project, nats_server: Server
) -> None:
    keys = channels(nats_server.url, "share")
    users = [module(project, f"users-{number}", **keys) for number in (1, 2, 3)]
    asking = module(project, "asking", **keys)
    ready(*users, asking)
    answers = [asking.ask("users", "double", n=number) for number in range(90)]
    assert [each["n"] for each in answers] == [2 * number for number in range(90)]
    shares = Counter(each["pid"] for each in answers)
    assert len(shares) == 3
    assert min(shares.values()) >= 10
    asking.do("publish", topic="news.all", message={"text": "for all"})
    for each in users:
        assert [one["text"] for one in each.until("heard", bool)] == ["for all"]
    # One that drains finishes what it has; nothing is lost meanwhile.
    users[0].host.signal(signal.SIGTERM)
    assert all(asking.ask("users", "double", n=number)["n"] == 2 * number for number in range(60))
    assert users[0].host.wait() == 0


@pytest.mark.parametrize("delivery", ["at_most_once", "at_least_once"])
def test_two_workers_share_what_comes_and_handle_each_message_once(
    project: Project, nats_server: Server, delivery: str
) -> None:
    keys = channels(nats_server.url, f"workers-{delivery}", delivery=delivery)
    users, asking = module(project, "users", **keys, server={"workers": 2}), module(project, "asking", **keys)
    ready(users, asking)
    file = project.folder / "handled"
    for number in range(40):
        message = {"type": "work", "n": number, "file": str(file)}
        asking.do("send_message", target="users", message=message)
    asking.until("handled", lambda _: file.exists() and len(file.read_text().split()) >= 40)
    assert sorted(map(int, file.read_text().split())) == list(range(40))
    shares = Counter(asking.ask("users", "double", n=number)["pid"] for number in range(40))
    assert len(shares) == 2
    assert min(shares.values()) >= 5
    asking.do("publish", topic="news.all", message={"text": "for all"})
    assert [one["text"] for one in users.until("heard", bool)] == ["for all"]
    assert users.host.stop() == 0


def test_a_server_that_is_started_anew_is_found_again_and_everything_goes_on(
    project: Project, own_nats: Server
) -> None:
    """Restarted while messages are on their way: requests wait and are answered, services are registered anew."""
    keys = channels(own_nats.url, "again")
    users = module(project, "users", **keys, **register("users-api", "api"))
    asking = module(project, "asking", **keys, health={"interval": "100ms"})
    ready(users, asking)
    asking.until("discover", bool, type="api")
    for stop in (own_nats.stop, own_nats.kill):
        stop()
        until_health(asking, "degraded")
        own_nats.start()
        assert asking.ask("users", "double", n=21)["n"] == 42
        asking.until("discover", bool, type="api")
        asking.do("publish", topic="news.all", message={"text": "again"})
        users.until("heard", bool)
    until_health(asking, "healthy")


@pytest.mark.slow
def test_a_link_that_is_cut_and_healed_carries_again(project: Project, nats_server: Server) -> None:
    link = Link(nats_server.port)
    lease = f"{LEASE:g}s"
    asking = module(project, "asking", **channels(f"nats://127.0.0.1:{link.port}", "cut", lease=lease))
    users = module(project, "users", **channels(nats_server.url, "cut", lease=lease), **register("users-api", "api"))
    ready(users, asking)
    asking.until("discover", bool, type="api")
    link.cut()
    asking.host.wait_for("the connection is lost")
    assert asking.code("request", target="users", message={"type": "double", "n": 1}, timeout=0.5)[0] == "timeout"
    assert asking.do("discover", type="api")  # those that were there last
    link.heal()
    assert asking.ask("users", "double", n=1)["n"] == 2
    users.host.end()
    asking.until("discover", lambda found: not found, type="api")


@pytest.mark.slow
def test_a_start_without_a_server_waits_for_it_or_ends_where_it_is_required(project: Project, own_nats: Server) -> None:
    own_nats.stop()
    refused = module(project, "refused", **channels(own_nats.url, "start", required=True))
    assert refused.host.wait() == 4
    assert "channel nats" in refused.host.lines[-1]
    users, asking = (module(project, name, **channels(own_nats.url, "start")) for name in ("users", "asking"))
    ready(users, asking)
    code, text = asking.code("request", target="users", message={"type": "double", "n": 1}, timeout=0.3)
    assert (code, "NATS is not connected" in text) == ("unavailable", True)
    own_nats.start()
    for each in (users, asking):
        each.host.wait_for("channel nats is connected")
    assert asking.until("request", bool, target="users", message={"type": "double", "n": 1})["n"] == 2


# At least once --------------------------------------------------------------------------------------------------------


def test_what_is_kept_outlives_the_receiver_and_the_server_and_is_handled(project: Project, own_nats: Server) -> None:
    keys = channels(own_nats.url, "keep", delivery="at_least_once", ack_wait="1s", max_deliver=3)
    users, asking = module(project, "users", **keys), module(project, "asking", **keys)
    ready(users, asking)
    asking.do("send_message", target="users", message={"type": "work", "n": 0})
    users.until("handled", bool)
    users.host.end()  # nobody is there to take them
    for number in range(1, 11):
        asking.do("send_message", target="users", message={"type": "work", "n": number})
    own_nats.kill()
    own_nats.start()
    asking.do("send_message", target="users", message={"type": "work", "n": 11})  # waits for the server
    users = module(project, "users", **keys)
    handled = users.until("handled", lambda handled: len({each["n"] for each in handled}) == 11)
    assert {each["n"] for each in handled} == set(range(1, 12))
    assert {(each["source"], each["vouched_by"]) for each in handled} == {("asking", "nats")}


def test_what_fails_is_tried_again_and_put_aside_after_so_many_tries(project: Project, nats_server: Server) -> None:
    keys = channels(nats_server.url, "tries", delivery="at_least_once", ack_wait="1s", max_deliver=3)
    users, asking = module(project, "users", **keys), module(project, "asking", **keys)
    ready(users, asking)
    for message in (
        {"type": "work", "n": 1, "fails": 1},
        {"type": "work", "n": 2, "fails": 99},
        {"type": "order", "number": "none"},
        {"type": "nothing"},
    ):
        asking.do("send_message", target="users", message=message)
    (handled,) = users.until("handled", bool)
    assert (handled["n"], handled["attempt"]) == (1, 2)
    users.host.wait_for("is a dead letter after 3 attempts")

    async def dead() -> dict[str, str]:
        client = await nats.connect(nats_server.url)
        try:
            subscription = await client.jetstream().subscribe("tries.dead.>", ordered_consumer=True)
            found: dict[str, str] = {}
            while len(found) < 3:
                message = await subscription.next_msg(PATIENCE)
                assert message.subject == "tries.dead.users.asking"
                assert message.headers is not None
                found[message.headers["Pywatt-Reason"].partition(":")[0]] = message.headers["Pywatt-Attempts"]
            return found
        finally:
            await client.close()

    assert asyncio.run(dead()) == {"handler_failed": "3", "invalid_message": "1", "no_handler": "1"}
    assert len(users.do("handled")) == 1


def test_a_message_that_ends_its_process_each_time_is_put_aside_too(project: Project, nats_server: Server) -> None:
    keys = channels(nats_server.url, "crash", delivery="at_least_once", ack_wait="500ms", max_deliver=2)
    asking = module(project, "asking", **keys)
    ready(asking)
    asking.do("send_message", target="users", message={"type": "work", "n": 1, "crash": True})
    file = project.folder / "handled"
    asking.do("send_message", target="users", message={"type": "work", "n": 2, "file": str(file)})
    for _ in range(3):  # with the other one, twice, then by itself
        users = module(project, "users", **keys)
        assert users.host.wait() == 9
    users = module(project, "users", **keys)
    users.host.wait_for("is a dead letter")
    users.until("handled", lambda handled: file.exists())  # the one that was beside it each time
    assert set(file.read_text().split()) == {"2"}
    assert sum("is a dead letter" in line for line in users.host.lines) == 1


def until_it_refuses_connections(of: Module) -> None:
    port = int(of.host.ready["listen"][0].rpartition(":")[2])
    try:
        while True:
            socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        pass


@pytest.mark.slow  # what it had fetched and not begun comes to another module after ack_wait
def test_a_module_that_stops_leaves_what_it_has_not_begun_to_another(project: Project, nats_server: Server) -> None:
    keys = channels(nats_server.url, "leave", delivery="at_least_once", ack_wait="10s")
    first, asking = module(project, "users-1", **keys), module(project, "asking", **keys)
    ready(first, asking)
    there = project.folder / "there"
    for number in range(12):  # the first keeps the handler, which takes one at a time, until the other module is there
        until = {"file": str(there)} if number == 0 else {}
        asking.do("send_message", target="users", message={"type": "one", "n": number, **until})
    first.until("handled", bool)
    second = module(project, "users-2", **keys)
    ready(second)
    first.host.signal(signal.SIGTERM)
    until_it_refuses_connections(first)  # from then on it begins no more messages
    there.touch()
    assert first.host.wait() == 0
    # Each has been handled once, some by the one and the rest, that it had not begun, by the other.
    done = second.until("handled", lambda handled: ["end", 11] in handled)
    assert 0 < len(done) < 24


# Who may say what -----------------------------------------------------------------------------------------------------

PERMITTED = """
authorization {
  users = [
    { user: users, password: of-users-1, permissions: {
      publish: ["p.*.*.users", "p.event.users.>", "$KV.p-services.users.>", "$JS.API.>", "$JS.ACK.>"]
      subscribe: ["_INBOX.users.>", "p.message.users.*", "p.event.>", "$KV.p-services.>"]
      allow_responses: true } }
    { user: billing, password: of-billing-1, permissions: {
      publish: ["p.*.*.billing", "p.event.billing.>", "$KV.p-services.billing.>", "$JS.API.>", "$JS.ACK.>"]
      subscribe: ["_INBOX.billing.>", "p.message.billing.*", "p.event.>", "$KV.p-services.>"]
      allow_responses: true } }
  ]
}
"""


def test_a_module_cannot_speak_for_another_where_permissions_hold_it(project: Project, tmp_path: Path) -> None:
    server = servers.nats(tmp_path, PERMITTED)
    server.start()
    try:

        def keys(user: str) -> dict[str, Any]:
            return channels(server.url, "p", user=user, password=f"of-{user}-1")

        users, billing = module(project, "users", **keys("users")), module(project, "billing", **keys("billing"))
        forger = module(project, "forged", **keys("billing"))  # says that it is another module
        ready(users, billing, forger)
        answer = billing.ask("users", "double", n=1)
        assert (answer["source"], answer["vouched_by"]) == ("billing", "nats")
        code, _ = forger.code("request", target="users", message={"type": "double", "n": 1}, timeout=1)
        assert code in ("timeout", "unavailable")
        forger.host.wait_for("permissions violation")
        wrong = module(project, "wrong", **channels(server.url, "p", user="users", password="x", required=True))
        assert wrong.host.wait() == 4
        assert "authorization" in wrong.host.lines[-1].lower()
    finally:
        server.kill()
