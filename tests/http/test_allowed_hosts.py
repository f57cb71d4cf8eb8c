"""`server.allowed_hosts`, and the origins of WebSockets under `dev` and `up`."""

from __future__ import annotations

from typing import Any

import pytest

from pywatt_host.http.allowed_hosts import (
    LOCAL_HOSTS,
    AllowedHosts,
    AllowedOrigins,
    HostCheck,
    host_name,
    named_in,
)
from pywatt_host.types import Headers
from tests.hosting import Hosted, Recorder, hosted, run, websocket

LISTED = AllowedHosts(["www.example.com", "*.example.org", "10.0.0.1", "[::1]", "Upper.Example."])
LOOPBACK = AllowedHosts([], loopback=True)
MANIFEST: dict[str, Any] = {"server": {"allowed_hosts": ["www.example.com"]}, "metrics": True}
UNDER_DEV = {LOCAL_HOSTS: ""}


def host(*values: str, forwarded: str = "") -> Headers:
    headers = [(b"accept", b"*/*"), *((b"host", value.encode()) for value in values)]
    return headers + ([(b"x-forwarded-host", forwarded.encode())] if forwarded else [])


def refused(check: HostCheck, path: str, *hosts: str, first: bool = False) -> int:
    """The status of a refusal; 0 for a request that is not refused. `first`: Host is the first field."""
    headers = host(*hosts)[first:]
    refusal = check.refusal({"type": "http", "headers": headers}, path)
    return refusal.status if refusal is not None else 0


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("www.example.com", "www.example.com"),
        ("WWW.Example.com:8080", "www.example.com"),
        ("www.example.com.:80", "www.example.com"),
        ("10.0.0.1:1", "10.0.0.1"),
        ("[::1]:8080", "::1"),
        ("[0:0:0:0:0:0:0:1]", "::1"),
        ("[::ffff:127.0.0.1]", "127.0.0.1"),
        ("[:::]", ""),
        ("a b", ""),
        ("a@b", ""),
        ("a:b:c", ""),
        ("a/b", ""),
        ("", ""),
        (":80", ""),
    ],
)
def test_hosts_are_compared_without_port_case_and_final_dot(value: str, name: str) -> None:
    assert host_name(value) == name


@pytest.mark.parametrize(
    ("value", "allowed"),
    [
        ("www.example.com", True),
        ("WWW.EXAMPLE.COM:443", True),
        ("www.example.com.", True),
        ("upper.example", True),
        ("a.example.org", True),
        ("b.a.example.org:1", True),
        ("example.org", False),
        ("badexample.org", False),
        (".example.org", True),  # no name that a resolver knows
        ("www.example.com.evil.example", False),
        ("evil.example", False),
        ("10.0.0.1:80", True),
        ("10.0.0.2", False),
        ("[::1]:80", True),
        ("[0::1]", True),
        ("localhost", False),
        ("www.example.com@evil.example", False),
        ("", False),
    ],
)
def test_names_patterns_and_addresses_are_allowed(value: str, allowed: bool) -> None:
    assert LISTED.host_allowed(value) is allowed
    assert LISTED.all_allowed(host(value)) is allowed


@pytest.mark.parametrize(
    ("value", "allowed"),
    [
        ("localhost:3000", True),
        ("api.localhost", True),
        ("LOCALHOST.", True),
        ("127.0.0.1", True),
        ("127.1.2.3:80", True),
        ("[::1]", True),
        ("[::ffff:127.0.0.1]", True),
        ("0.0.0.0", False),
        ("192.168.1.5", False),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("notlocalhost", False),
    ],
)
def test_loopback_names_are_those_that_no_other_machine_has(value: str, allowed: bool) -> None:
    assert LOOPBACK.host_allowed(value) is allowed


def test_an_asterisk_allows_every_host_and_none() -> None:
    everything = AllowedHosts(["a.example", "*"])
    assert everything.any
    assert everything.all_allowed([])
    assert everything.host_allowed("evil.example")


def test_a_request_without_host_is_not_allowed() -> None:
    assert not LISTED.all_allowed([])


def test_each_host_and_each_forwarded_host_has_to_be_allowed() -> None:
    assert LISTED.all_allowed(host("www.example.com", forwarded="a.example.org, 10.0.0.1"))
    assert not LISTED.all_allowed(host("www.example.com", forwarded="a.example.org, evil.example"))
    assert not LISTED.all_allowed(host("www.example.com", forwarded=" "))
    assert not LISTED.all_allowed(host("evil.example", forwarded="www.example.com"))
    assert not LISTED.all_allowed(host("www.example.com", "evil.example"))
    assert not LISTED.all_allowed([(b"x-forwarded-host", b"www.example.com")])


def test_the_hosts_that_are_remembered_are_allowed_and_bounded() -> None:
    check = HostCheck(AllowedHosts(["*.example.com"]))
    for number in range(10_000):
        assert refused(check, "/", f"h{number}.example.com", first=True) == 0
        assert refused(check, "/", f"h{number}.example", first=True) == 421
    assert 0 < len(check.known) <= 4096
    assert all(value.endswith(b".example.com") for _, value in check.known)
    check = HostCheck(AllowedHosts(["*.example.com"]))
    assert refused(check, "/", "x" * 300 + ".example.com", first=True) == 0
    assert check.known == set()


def test_a_page_of_another_site_has_a_name() -> None:
    for value in ("10.1.2.3:8080", "[fe80::1]", "localhost", "www.example.com"):
        assert LISTED.no_foreign_name(host(value)), value
    assert LISTED.no_foreign_name([])
    assert not LISTED.no_foreign_name(host("evil.example"))
    assert not LISTED.no_foreign_name(host("10.1.2.3", forwarded="evil.example"))


def test_probes_are_open_to_every_host_and_metrics_to_addresses() -> None:
    check = HostCheck(LISTED, ["/health"], ["/metrics"])

    def status(path: str, *hosts: str) -> int:
        return refused(check, path, *hosts)

    assert [status(path, "evil.example") for path in ("/health", "/metrics", "/")] == [0, 421, 421]
    assert [status(path, "10.9.9.9:80") for path in ("/health", "/metrics", "/")] == [0, 0, 421]
    assert [status(path) for path in ("/health", "/metrics", "/")] == [0, 0, 421]
    assert status("/", "www.example.com") == 0


def test_what_is_listened_on_becomes_patterns_without_wildcards() -> None:
    hosts = ["", "0.0.0.0", "::", "127.0.0.1", "::1", "box.lan"]
    assert named_in(hosts) == ["127.0.0.1", "[::1]", "box.lan"]


# Origins --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        (None, True),
        ("http://localhost:5173", True),
        ("http://127.0.0.1", True),
        ("http://[::1]:80", True),
        ("https://app.example", True),
        ("HTTPS://APP.example", True),
        ("https://a.pages.example", True),
        ("https://app.example.evil.example", False),
        ("https://x.pages.example.evil.example", False),
        ("https://evil.example", False),
        ("http://localhost.evil.example", False),
        ("http://localhost@evil.example", False),
        ("null", False),
        ("", False),
        ("localhost", False),
        ("file://", False),
    ],
)
def test_origins_of_allowed_hosts_and_of_cors_are_allowed(origin: str | None, allowed: bool) -> None:
    origins = AllowedOrigins(LOOPBACK, ["https://app.example"], r"https://[a-z]+\.pages\.example")
    assert origins.allow([(b"origin", origin.encode())] if origin is not None else []) is allowed


def test_every_origin_is_allowed_with_an_asterisk_and_each_of_several_counts() -> None:
    evil = [(b"origin", b"https://evil.example")]
    assert AllowedOrigins(LOOPBACK, ["*"]).allow(evil)
    assert AllowedOrigins(AllowedHosts(["*"])).allow(evil)
    assert not AllowedOrigins(LOOPBACK).allow([(b"origin", b"http://localhost"), *evil])


def test_an_expression_that_is_none_matches_nothing() -> None:
    assert not AllowedOrigins(LOOPBACK, pattern="(").allow([(b"origin", b"(")])


# In a host ------------------------------------------------------------------------------------------------------------


async def status_of(host: Hosted, path: str, name: str | None, **more: Any) -> int:
    headers = [("Host", name)] if name is not None else []
    return (await host.get(path, headers=headers, **more)).status


def test_another_host_is_421_before_everything_else() -> None:
    async def main() -> None:
        app = Recorder()
        server = {**MANIFEST["server"], "cors": {"allow_origins": ["*"]}}
        async with hosted({**MANIFEST, "server": server, "endpoints": [{"path": "/"}]}, app) as host:
            answer = await host.get("/", headers={"Host": "evil.example"})
            assert (answer.status, answer.header("content-type")) == (421, "application/problem+json")
            assert answer.json() == {"type": "about:blank", "title": "Misdirected Request", "status": 421}
            preflight = {"Host": "evil.example", "Origin": "https://a", "Access-Control-Request-Method": "GET"}
            assert (await host.request("OPTIONS", "/", headers=preflight)).status == 421
            assert await status_of(host, "/nowhere", "evil.example") == 421
            assert app.scopes == []
            assert await status_of(host, "/", "WWW.example.com:8080") == 200
            assert await status_of(host, "/", None) == 421
            assert {line["reason"] for line in host.access() if line["status"] == 421} == {"server.allowed_hosts"}

    run(main)


def test_a_websocket_for_another_host_is_refused_before_it_is_accepted() -> None:
    async def main() -> None:
        app = Recorder()
        async with hosted(MANIFEST, app) as host:
            extensions: dict[str, Any] = {"websocket.http.response": {}}
            sent = await websocket(host.app, "/", headers=[("Host", "evil.example")], extensions=extensions)
            assert (sent[0]["type"], sent[0]["status"]) == ("websocket.http.response.start", 421)
            assert app.scopes == []

    run(main)


def test_probes_reach_health_and_metrics_by_address() -> None:
    async def main() -> None:
        async with hosted(MANIFEST, Recorder()) as host:
            for path in ("/health", "/livez", "/readyz", "/metrics"):
                assert await status_of(host, path, "10.0.0.7:8080") == 200, path
                assert await status_of(host, path, None) == 200, path
            assert await status_of(host, "/health", "evil.example") == 200
            assert await status_of(host, "/metrics", "evil.example") == 421

    run(main)


def test_details_of_checks_are_not_told_to_a_foreign_name() -> None:
    async def main() -> None:
        async with hosted(MANIFEST, Recorder()) as host:

            @host.state.health_check("store")
            async def check() -> None:
                raise RuntimeError("postgres at 10.1.1.1")

            for name, told in [("127.0.0.1:8080", True), ("www.example.com", True), ("evil.example", False)]:
                answer = await host.get("/health", headers={"Host": name}, server=("127.0.0.1", 8080))
                assert ("postgres" in answer.body.decode()) is told, name

    run(main)


def test_both_hosts_of_a_trusted_proxy_count_and_those_of_others_do_not() -> None:
    async def main() -> None:
        server = {"allowed_hosts": ["www.example.com", "backend"], "trusted_proxies": ["10.0.0.0/8"]}
        async with hosted({"server": server}, Recorder()) as host:
            for client, name, forwarded, status in [
                ("10.0.0.1", "backend", "www.example.com", 200),
                ("10.0.0.1", "backend", "evil.example", 421),
                ("10.0.0.1", "evil.example", "www.example.com", 421),
                ("203.0.113.9", "www.example.com", "evil.example", 200),  # removed
            ]:
                headers = {"Host": name, "X-Forwarded-Host": forwarded}
                assert (await host.get("/", headers=headers, client=(client, 1))).status == status, (client, name)

    run(main)


def test_any_host_is_allowed_without_the_key() -> None:
    async def main() -> None:
        async with hosted({}, Recorder()) as host:
            assert await status_of(host, "/", "evil.example") == 200
            assert await status_of(host, "/", None) == 200
            sent = await websocket(host.app, "/", headers=[("Host", "a"), ("Origin", "https://evil.example")])
            assert sent[0]["type"] == "http.response.start"  # the application has been called

    run(main)


def test_under_dev_loopback_names_are_allowed_and_the_body_names_the_key() -> None:
    async def main() -> None:
        for manifest in ({}, {"server": {"allowed_hosts": ["www.example.com"]}}):
            async with hosted(manifest, Recorder(), environ=UNDER_DEV, explain=True) as host:
                answer = await host.get("/", headers={"Host": "evil.example"})
                assert answer.status == 421
                assert "server.allowed_hosts" in answer.json()["detail"]
                assert await status_of(host, "/", "localhost:8080") == 200
                assert await status_of(host, "/", "www.example.com") == (200 if manifest else 421)
        async with hosted({}, Recorder(), environ={LOCAL_HOSTS: "box.lan,users"}) as host:
            assert [await status_of(host, "/", name) for name in ("box.lan", "users", "a.lan")] == [200, 200, 421]
        async with hosted({"server": {"allowed_hosts": ["*"]}}, Recorder(), environ=UNDER_DEV) as host:
            assert await status_of(host, "/", "evil.example") == 200

    run(main)


def test_under_dev_websockets_of_other_sites_are_403() -> None:
    async def main() -> None:
        manifest = {"server": {"cors": {"allow_origins": ["https://app.example"]}}}
        async with hosted(manifest, Recorder(), environ=UNDER_DEV, explain=True) as host:

            async def first(origin: str) -> Any:
                headers = [("Host", "localhost"), ("Origin", origin)]
                return (await websocket(host.app, "/", headers=headers, extensions={"websocket.http.response": {}}))[0]

            refused = await first("https://evil.example")
            assert (refused["type"], refused["status"]) == ("websocket.http.response.start", 403)
            for origin in ("http://localhost:5173", "https://app.example"):
                assert (await first(origin))["type"] == "http.response.start", origin
            assert host.access()[0]["reason"] == "the Origin of a WebSocket (server.cors.allow_origins)"

    run(main)


def test_under_dev_the_admin_listener_answers_to_addresses_and_loopback_names() -> None:
    async def main() -> None:
        manifest = {"server": {"admin": {"listen": "127.0.0.1:0"}, "allowed_hosts": ["www.example.com"]}}
        async with hosted(manifest, Recorder(), environ=UNDER_DEV) as host:
            assert await status_of(host, "/health", "evil.example", admin=True) == 421
            assert await status_of(host, "/health", "10.0.0.7", admin=True) == 200
            assert await status_of(host, "/health", "localhost", admin=True) == 200
        async with hosted(manifest, Recorder()) as host:
            assert await status_of(host, "/health", "evil.example", admin=True) == 200
            assert await status_of(host, "/livez", "evil.example") == 421  # a path of the application here

    run(main)


def test_messages_are_open_to_every_host() -> None:
    async def main() -> None:
        manifest = {**MANIFEST, "channels": {"http": {"token": "a-token-of-sixteen"}}}
        async with hosted(manifest, Recorder()) as host:
            assert await status_of(host, "/_pywatt/messages", "10.0.0.7") != 421

    run(main)
