"""Who a request is and from where: request ids, traces, forwarding headers."""

from __future__ import annotations

import logging
import re

import pytest

from pywatt_host.types import Receive, Scope, Send
from tests.hosting import Hosted, Recorder, hosted, run, websocket

MADE = re.compile(r"[0-9a-f]{32}\Z")
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
FORGED = {
    "Forwarded": "for=10.0.0.1",
    "X-Forwarded-For": "10.0.0.1",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Host": "evil.example",
    "X-Forwarded-Anything": "1",
    "X-Real-IP": "10.0.0.1",
    "X-Original-URL": "/admin",
    "X-Rewrite-URL": "/admin",
    "X-HTTP-Method-Override": "DELETE",
}


@pytest.mark.parametrize("sane", ["abc", "0f8e-1.2_3:4@5/6+7=", "a" * 128])
def test_a_sane_request_id_is_taken_over(sane: str) -> None:
    async def main() -> None:
        app = Recorder()
        async with hosted({}, app) as host:
            answer = await host.get("/", headers={"X-Request-ID": sane})
            assert answer.header("x-request-id") == sane
            assert app.header("x-request-id") == [sane]
            assert host.access()[-1]["request_id"] == sane

    run(main)


@pytest.mark.parametrize("odd", ["", "a b", "a" * 129, 'x"y', "é", "a,b", "<script>", "a\n"])
def test_an_unfit_request_id_is_replaced_everywhere(odd: str) -> None:
    async def main() -> None:
        app = Recorder()
        async with hosted({}, app) as host:
            answer = await host.get("/", headers={"X-Request-ID": odd})
            assert MADE.match(answer.header("x-request-id"))
            assert app.header("x-request-id") == [answer.header("x-request-id")]

    run(main)


def test_of_several_request_ids_none_is_believed() -> None:
    async def main() -> None:
        for ids in (["one", "two"], ["one", "two", "three"], ["a", "b", "c", "d"], ["same", "same"]):
            app = Recorder()
            async with hosted({}, app) as host:
                answer = await host.get("/", headers=[("X-Request-ID", each) for each in ids])
                assert MADE.match(answer.header("x-request-id")), ids
                assert app.header("x-request-id") == [answer.header("x-request-id")]

    run(main)


def test_every_response_has_one_request_id_and_each_its_own() -> None:
    async def claims(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-request-id", b"mine")]})
        await send({"type": "http.response.body", "body": b""})

    async def main() -> None:
        async with hosted({"metrics": True, "endpoints": [{"path": "/"}]}, claims) as host:
            seen = set()
            for path in ("/", "/", "/nowhere", "/a//b", "/livez", "/metrics"):
                found = (await host.get(path)).header("x-request-id")
                assert MADE.match(found), path
                seen.add(found)
            assert len(seen) == 6

    run(main)


def test_the_applications_own_records_carry_request_id_and_trace() -> None:
    async def logs(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        logging.getLogger("shop").warning("sold %s", "out")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def main() -> None:
        async with hosted({"health": False}, logs) as host:
            await host.get("/", headers={"X-Request-ID": "r1", "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"})
            await host.get("/", headers={"X-Request-ID": "r2"})
            first, second = host.logs("shop")
            assert (first["message"], first["request_id"], first["trace_id"]) == ("sold out", "r1", TRACE)
            assert (second["request_id"], "trace_id" in second) == ("r2", False)
            assert [line.get("trace_id") for line in host.access()] == [TRACE, None]

    run(main)


@pytest.mark.parametrize(
    "odd",
    [
        f"00-{TRACE.upper()}-00f067aa0ba902b7-01",
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
        f"00-{TRACE}-00f067aa0ba902b7",
        f"00-{TRACE}-00f067aa0ba902b7-01\n",
        f"00-{TRACE[:-1]}-00f067aa0ba902b7-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-00f067aa0ba902b7-01-more",
        f"ff-{TRACE}-00f067aa0ba902b7-01",
        'x"} {"level":"forged"',
    ],
)
def test_a_traceparent_of_another_form_is_no_trace(odd: str) -> None:
    async def main() -> None:
        async with hosted({}, Recorder()) as host:
            assert (await host.get("/", headers={"traceparent": odd})).status == 200
            assert "trace_id" not in host.access()[-1]

    run(main)


# Forwarding -----------------------------------------------------------------------------------------------------------


def forwarding_names(app: Recorder) -> set[str]:
    names = {name.decode() for name, _ in app.scopes[-1]["headers"]}
    return names & {name.lower() for name in FORGED}


def warnings(host: Hosted) -> list[str]:
    found = [record for record in host.logs("pywatt.edge") if record.get("key") == "server.trusted_proxies"]
    return [record["peer"] for record in found if "peer" in record]


def test_forwarding_headers_of_a_stranger_are_removed_and_the_rest_stays() -> None:
    async def main() -> None:
        app = Recorder()
        async with hosted({}, app) as host:
            await host.get("/", headers={**FORGED, "Accept": "text/html", "X-Forward": "kept"})
            assert forwarding_names(app) == set()
            assert app.header("accept") == ["text/html"]
            assert app.header("x-forward") == ["kept"]
            assert (app.scopes[-1]["scheme"], app.scopes[-1]["client"][0]) == ("http", "203.0.113.9")

    run(main)


def test_each_forgeable_header_is_removed_also_when_it_comes_alone() -> None:
    async def main() -> None:
        app = Recorder()
        async with hosted({}, app) as host:
            for name, value in FORGED.items():
                await host.get("/", headers={name: value})
                assert forwarding_names(app) == set(), name

    run(main)


def test_a_dropped_forwarded_proto_is_logged_once_for_each_peer_and_names_the_key() -> None:
    async def main() -> None:
        async with hosted({}, Recorder()) as host:
            for peer in ("203.0.113.1", "203.0.113.2", "203.0.113.1", "203.0.113.2"):
                await host.get("/", headers={"X-Forwarded-Proto": "https"}, client=(peer, 1))
                await host.get("/", headers={"X-Forwarded-For": "10.0.0.1"}, client=(peer, 1))
            assert warnings(host) == ["203.0.113.1", "203.0.113.2"]

    run(main)


@pytest.mark.parametrize(
    ("trusted", "environ", "client"),
    [
        (["203.0.113.9"], {}, ("203.0.113.9", 1)),
        (["203.0.113.0/24"], {}, ("203.0.113.200", 1)),
        (["10.0.0.0/8"], {}, ("::ffff:10.1.2.3", 1)),
        (["fd00::/8"], {}, ("fd00::1", 1)),
        (["unix"], {}, None),
        ([], {"FORWARDED_ALLOW_IPS": "192.0.2.1, 203.0.113.9"}, ("203.0.113.9", 1)),
        ([], {"FORWARDED_ALLOW_IPS": "*"}, ("203.0.113.9", 1)),
        ([], {"FORWARDED_ALLOW_IPS": "*"}, None),
    ],
)
def test_a_trusted_proxy_is_believed(
    trusted: list[str], environ: dict[str, str], client: tuple[str, int] | None
) -> None:
    async def main() -> None:
        app = Recorder()
        async with hosted({"server": {"trusted_proxies": trusted}}, app, environ=environ) as host:
            await host.get(
                "/", headers={"X-Forwarded-For": "198.51.100.7", "X-Forwarded-Proto": "https"}, client=client
            )
            assert (app.scopes[-1]["scheme"], app.scopes[-1]["client"]) == ("https", ("198.51.100.7", 0))
            assert host.access()[-1]["client"] == "198.51.100.7"
            assert warnings(host) == []

    run(main)


@pytest.mark.parametrize(
    ("trusted", "client"),
    [(["203.0.113.9"], ("203.0.113.10", 1)), (["10.0.0.0/8"], None), (["unix"], ("127.0.0.1", 1)), ([], ("::1", 1))],
)
def test_whoever_is_not_named_is_not_believed(trusted: list[str], client: tuple[str, int] | None) -> None:
    async def main() -> None:
        app = Recorder()
        async with hosted({"server": {"trusted_proxies": trusted}}, app) as host:
            await host.get(
                "/", headers={"X-Forwarded-For": "198.51.100.7", "X-Forwarded-Proto": "https"}, client=client
            )
            assert (app.scopes[-1]["scheme"], app.scopes[-1]["client"]) == ("http", client)

    run(main)


@pytest.mark.parametrize(
    ("forwarded_for", "seen"),
    [
        ("evil, 198.51.100.7, 203.0.113.8", "198.51.100.7"),
        ("1.2.3.4, 198.51.100.7", "198.51.100.7"),
        ("203.0.113.1, 203.0.113.2", "203.0.113.1"),
        ("198.51.100.7:4711", "198.51.100.7"),
        ("[2001:db8::1]:443", "2001:db8::1"),
        ("2001:db8::1", "2001:db8::1"),
        ("198.51.100.7, unknown", "203.0.113.9"),
        ("", "203.0.113.9"),
        ('198.51.100.7"}', "203.0.113.9"),
    ],
)
def test_the_client_is_the_rightmost_address_that_is_no_proxy(forwarded_for: str, seen: str) -> None:
    async def main() -> None:
        app = Recorder()
        async with hosted({"server": {"trusted_proxies": ["203.0.113.0/24"]}}, app) as host:
            await host.get("/", headers={"X-Forwarded-For": forwarded_for})
            assert app.scopes[-1]["client"][0] == seen

    run(main)


def test_a_forwarded_scheme_is_one_of_the_known_and_that_of_the_nearest_proxy() -> None:
    async def main() -> None:
        app = Recorder()
        async with hosted({"server": {"trusted_proxies": ["203.0.113.9"]}}, app) as host:
            for proto, scheme in [
                ("HTTPS", "https"),
                ("http, https", "https"),
                ("javascript", "http"),
                ("wss", "https"),
            ]:
                await host.get("/", headers={"X-Forwarded-Proto": proto})
                assert app.scopes[-1]["scheme"] == scheme, proto

    run(main)


def test_websockets_lose_forged_headers_and_get_wss_from_a_trusted_proxy() -> None:
    scopes: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "websocket"
        scopes.append(scope)
        await send({"type": "websocket.accept"})

    async def main() -> None:
        async with hosted({"health": False, "server": {"trusted_proxies": ["127.0.0.1"]}}, app) as host:
            headers = list(FORGED.items())
            await websocket(host.app, "/", headers=headers)
            assert not {name.decode() for name, _ in scopes[-1]["headers"]} & {name.lower() for name in FORGED}
            assert scopes[-1]["scheme"] == "ws"
            await websocket(host.app, "/", headers=headers, client=("127.0.0.1", 1))
            assert scopes[-1]["scheme"] == "wss"

    run(main)
