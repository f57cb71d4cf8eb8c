"""Two hosts in processes of their own, over each channel: the same suite for all of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import trustme

from tests.auth.tokens_for_tests import SECRET, signed
from tests.modules.talking import Module, module
from tests.processes import Project
from tests.servers import Server, free_port

TOKEN = "a-token-of-the-channel-1"
CHANNELS = ("ipc", "tcp", "http", "nats")


@dataclass
class Two:
    """`users` and `billing`, each of which may ask the other."""

    channel: str
    users: Module
    billing: Module


def keys_for(channel: str, folder: Any, nats: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the manifests of both say: in `ipc` and `tcp` users listens and billing connects itself."""
    if channel == "nats":
        channels = {"channels": {"nats": {"servers": nats, "lease": "2s"}}}
        return channels, channels
    if channel == "ipc":
        path = f"{folder}/users.sock"
        peer = {"name": "users", "type": "module", "address": f"unix:{path}"}
        return {"channels": {"ipc": {"listen": path}}}, {"services": {"static": [peer]}}
    port, other = free_port(), free_port()
    if channel == "tcp":
        peer = {"name": "users", "type": "module", "address": f"tcp://127.0.0.1:{port}", "token": TOKEN}
        listen = {"channels": {"tcp": {"listen": f"127.0.0.1:{port}", "token": TOKEN}}}
        return listen, {"services": {"static": [peer]}}
    http: dict[str, Any] = {"channels": {"http": {"token": TOKEN}}}
    there = {"name": "billing", "type": "module", "address": f"127.0.0.1:{other}"}
    here = {"name": "users", "type": "module", "address": f"http://127.0.0.1:{port}"}
    return (
        {**http, "server": {"listen": f"127.0.0.1:{port}"}, "services": {"static": [there]}},
        {**http, "server": {"listen": f"127.0.0.1:{other}"}, "services": {"static": [here]}},
    )


def _pairs() -> Iterator[Any]:
    """Each channel between two processes, and between two hosts with two workers each."""
    for workers in (1, 2):
        for channel in CHANNELS:
            slow = channel == "http" or (workers == 2 and channel != "ipc")
            name = channel if workers == 1 else f"{channel}, {workers} workers"
            yield pytest.param((channel, workers), marks=[pytest.mark.slow] if slow else [], id=name)


@pytest.fixture(params=_pairs())
def two(request: pytest.FixtureRequest, project: Project, nats_server: Server) -> Iterator[Two]:
    channel, workers = request.param
    users, billing = keys_for(channel, project.folder, nats_server.url)
    for keys in (users, billing):
        keys["server"] = {**keys.get("server", {}), "workers": workers}
    pair = Two(channel, module(project, "users", **users), module(project, "billing", **billing))
    assert pair.users.host.ready
    assert pair.billing.host.ready
    if channel in ("ipc", "tcp"):
        pair.billing.host.wait_for("is connected to")
    yield pair
    assert pair.users.host.stop() == 0
    assert pair.billing.host.stop() == 0


def test_two_hosts_talk(two: Two) -> None:
    """One test for each channel, since processes take long to start: what it shows stands beside each step."""
    users, billing = two.users, two.billing
    # Both ask, whoever has connected to whom, and know who asks over which channel.
    answer = billing.ask("users", "double", n=21)
    assert (answer["n"], answer["by"], answer["source"], answer["channel"]) == (42, "users", "billing", two.channel)
    assert answer["vouched_by"] == ("nats" if two.channel == "nats" else "")
    answer = users.ask("billing", "double", n=4)
    assert (answer["n"], answer["by"], answer["source"], answer["channel"]) == (8, "billing", "users", two.channel)

    # A typed handler, which is no coroutine, gets what it is annotated with; what does not fit is said field by field.
    assert billing.ask("users", "order", number=7)["number"] == 7
    message = {"type": "order", "number": "seven"}
    code, text = billing.code("request", target="users", message=message)
    assert code == "invalid_message"
    assert "number: Input should be a valid integer" in text
    assert "seven" not in text

    # Errors of the other side come with its code and its words.
    assert billing.code("request", target="users", message={"type": "nothing"})[0] == "no_handler"
    code, text = billing.code("request", target="users", message={"type": "fail"})
    assert code == "handler_failed"
    error_id = text.partition("(error ")[2].partition(" ")[0]
    wanted = f"the handler raised an exception (error {error_id} in the log of its module)"
    assert text == f"users: {wanted} (handler_failed)"
    assert "it is broken" in users.host.wait_for(error_id)
    assert billing.ask("users", "double", n=1)["n"] == 2  # a handler that raised has ended nothing
    slow = {"type": "slow", "seconds": 30}
    assert billing.code("request", target="users", message=slow, timeout=0.3)[0] == "timeout"
    assert billing.code("request_long", target="users", octets=17 * 1024**2)[0] == "too_large"

    # What is sent arrives; what is published arrives once at everyone who subscribed, the publisher among them.
    billing.do("send_message", target="users", message={"type": "slow", "seconds": 0, "n": 5})
    handled = users.until("handled", bool)
    assert [(each["n"], each["source"]) for each in handled] == [(5, "billing")]
    billing.do("publish", topic="news.all", message={"text": "from billing"})
    users.do("publish", topic="news.all", message={"text": "from users"})
    for each in (users, billing):
        heard = each.until("heard", lambda heard: len(heard) >= 2)
        found = {(one["text"], one["source"]) for one in heard}
        assert found == {("from billing", "billing"), ("from users", "users")}
        assert len(heard) == 2

    # A channel may be forced; one that does not lead there is said so, with the key.
    assert billing.ask("users", "double", n=3, channel=two.channel)["channel"] == two.channel
    assert users.ask("billing", "double", n=3, channel=two.channel)["channel"] == two.channel
    other = "nats" if two.channel == "http" else "http"
    code, text = billing.code("request", target="users", message={"type": "double", "n": 1}, channel=other)
    assert (code, f"there is no channel {other} to it" in text) == ("unavailable", True)
    code, text = billing.code("request", target="nobody", message={"type": "double"}, timeout=5)
    assert code == "unavailable"


def test_a_message_with_another_token_is_let_in_nowhere(project: Project) -> None:
    port, http_port = free_port(), free_port()
    users = module(
        project, "users", server={"listen": f"127.0.0.1:{http_port}"},
        channels={"tcp": {"listen": f"127.0.0.1:{port}", "token": TOKEN}, "http": {"token": TOKEN}},
    )  # fmt: skip
    static = [
        {"name": "users", "type": "module", "address": f"tcp://127.0.0.1:{port}", "token": "another"},
        {"name": "users", "type": "module", "address": f"127.0.0.1:{http_port}", "token": "another"},
    ]
    stranger = module(project, "stranger", services={"static": static})
    assert users.host.ready
    assert stranger.host.ready
    code, text = stranger.code("request", target="users", message={"type": "double", "n": 1}, timeout=3)
    assert (code, "token" in text) == ("refused", True)
    code, text = stranger.code("request", target="users", message={"type": "double", "n": 1}, timeout=1, channel="tcp")
    assert code == "unavailable"
    assert users.do("handled") == []
    users.host.wait_for("refused: the token is missing or wrong (channels.http.token)")
    assert TOKEN not in "\n".join(users.host.lines + stranger.host.lines)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_token_of_a_channel_is_no_credential_of_a_message(project: Project, workers: int) -> None:
    """A handler that requires authentication verifies what comes with the message, in workers as well."""
    port = free_port()
    users = module(
        project, "users", server={"workers": workers}, auth={"jwt": {"secret": SECRET}}, env={"GUARDED": "yes"},
        channels={"tcp": {"listen": f"127.0.0.1:{port}", "token": TOKEN}},
    )  # fmt: skip
    peer = {"name": "users", "type": "module", "address": f"tcp://127.0.0.1:{port}", "token": TOKEN}
    billing = module(project, "billing", services={"static": [peer]})
    assert users.host.ready
    assert billing.host.ready
    billing.host.wait_for("is connected to")
    message = {"type": "guarded"}
    for _ in range(2 * workers):
        for authorization in (None, "Bearer forged", f"Bearer {TOKEN}"):
            code, _ = billing.code("request", target="users", message=message, authorization=authorization)
            assert code == "unauthorized"
        answer = billing.do("request", target="users", message=message, authorization=f"Bearer {signed(sub='ann')}")
        assert (answer["sub"], answer["vouched_by"], answer["source"]) == ("ann", "", "billing")
    assert users.host.stop() == 0


def test_what_is_posted_may_be_anything(project: Project) -> None:
    """Bad requests to the door are answered in order, and nothing of them reaches a handler."""
    users = module(project, "users", channels={"http": {"token": TOKEN}, "limits": {"frame": "64KiB"}})
    path, good = "/_pywatt/messages", {"content": {"type": "double", "n": 1}, "metadata": {"source": "me"}}
    authorization = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    with users.host.connect() as connection:
        assert connection.request("GET", path).status == 405
        for header in ("", "Bearer", "Bearer x", f"Basic {TOKEN}", f"Bearer {TOKEN} x"):
            answer = connection.request("POST", path, json.dumps(good).encode(), Authorization=header)
            assert (answer.status, answer.headers["www-authenticate"]) == (401, 'bearer realm="messages"')
        for name, value, status in (("Origin", "http://evil.example", 403), ("Content-Type", "text/plain", 415)):
            headers = {**authorization, name: value}
            assert connection.request("POST", path, json.dumps(good).encode(), **headers).status == status
        for body in (b"", b"{", b"[1]", b"\xff", b'{"a":1,"a":2}', b"[" * 100, b'"text"'):
            answer = connection.request("POST", path, body, **authorization)
            assert answer.status in (200, 400)
            assert answer.status == 400 or answer.json()["content"]["code"] == "invalid_message"
        elsewhere = {**good, "metadata": {"destination": "billing"}}
        answer = connection.request("POST", path, json.dumps(elsewhere).encode(), **authorization)
        assert answer.json()["content"]["code"] == "unknown_target"
        answer = connection.request("POST", path, json.dumps({**good, "id": "7"}).encode(), **authorization)
        assert (answer.status, answer.json()["id"], answer.json()["content"]["n"]) == (200, "7", 2)
    with users.host.connect() as connection:
        assert connection.request("POST", path, b"x" * 70_000, **authorization).status == 413
    assert users.do("handled") == []


def test_one_source_may_not_send_more_than_its_rate(project: Project, nats_server: Server) -> None:
    channels = {"nats": {"servers": nats_server.url, "prefix": "rate"}, "limits": {"rate": "5/m"}}
    users, billing = module(project, "users", channels=channels), module(project, "billing", channels=channels)
    assert users.host.ready
    assert billing.host.ready
    for number in range(5):
        assert billing.ask("users", "double", n=number)["n"] == 2 * number
    code, text = billing.code("request", target="users", message={"type": "double", "n": 1})
    assert (code, "channels.limits.rate" in text) == ("handler_failed", True)
    assert users.ask("users", "double", n=1)["source"] == "users"  # others are not held up


def test_a_handler_with_a_concurrency_of_one_handles_one_after_the_other(project: Project) -> None:
    users = module(project, "users")
    for number in range(5):
        users.do("send_message", target="users", message={"type": "one", "n": number})
    handled = users.until("handled", lambda handled: len(handled) == 10)
    assert handled == [[step, number] for number in range(5) for step in ("begin", "end")]


def test_a_client_certificate_vouches_for_the_name_that_it_has(project: Project) -> None:
    authority, port = trustme.CA(), free_port()
    authority.cert_pem.write_to_path(str(project.folder / "ca.pem"))
    for name in ("localhost", "billing"):
        file = str(project.folder / f"{name}.pem")
        authority.issue_cert(name).private_key_and_cert_chain_pem.write_to_path(file)

    def tls(name: str, **more: str) -> dict[str, str]:
        return {"cert": f"../{name}.pem", "key": f"../{name}.pem", **more}

    listen = {"tcp": {"listen": f"127.0.0.1:{port}", "tls": tls("localhost", client_ca="../ca.pem")}}
    users = module(project, "users", channels=listen)
    peer = {"name": "users", "type": "module", "address": f"tcp://localhost:{port}"}
    static = [{**peer, "tls": tls("billing", ca="../ca.pem")}]
    billing = module(project, "billing", services={"static": static})
    forger = module(project, "stock", services={"static": static})  # with billing's certificate
    assert users.host.ready
    for each, vouched_by in ((billing, "certificate"), (forger, "")):
        assert each.host.ready
        each.host.wait_for("channel tcp is connected")
        assert each.ask("users", "double", n=1)["vouched_by"] == vouched_by
    strangers = module(project, "stranger", services={"static": [{**peer, "tls": {"ca": "../ca.pem"}}]})
    assert strangers.host.ready
    code, _ = strangers.code("request", target="users", message={"type": "double", "n": 1}, timeout=1)
    assert code == "unavailable"


def test_hosts_that_are_connected_to_go_and_come_back(project: Project) -> None:
    """The one that listens is killed and started anew: what asks it waits, and is answered."""
    path = f"{project.folder}/users.sock"
    billing = module(
        project, "billing", services={"static": [{"name": "users", "type": "module", "address": f"unix:{path}"}]}
    )
    assert billing.host.ready  # also where the other one is not there yet
    billing.host.wait_for("it is tried again")
    users = module(project, "users", channels={"ipc": {"listen": path}})
    assert billing.ask("users", "double", n=1)["n"] == 2
    users.host.end()
    billing.host.wait_for("the other side closed it")
    users = module(project, "users", channels={"ipc": {"listen": path}})
    assert billing.ask("users", "double", n=2)["n"] == 4
    users.do("publish", topic="news.all", message={"text": "again"})
    assert [each["text"] for each in billing.until("heard", bool)] == ["again"]
