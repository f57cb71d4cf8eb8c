"""TLS on our server, under both event loops: handshakes, client certificates, new terms, and closing."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest

from pywatt_host.net.client_certificates import CIPHER_KEY, SCOPE_KEY
from pywatt_host.net.tls_material import TlsMaterial, TlsTerms
from pywatt_host.runtime.event_loop import loop_factory
from tests.certificates import HOST, TlsClient, ca_pem, client_context, issued, material
from tests.hosting import PATIENCE
from tests.http.server.answers import Client
from tests.http.server.connections.case import get, post
from tests.http.server.connections.upgrades import closing, frame, handshake, server_frame
from tests.http.server.serving import BOUNDS, Served

TLS_1_2, TLS_1_3 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
CLIENT = "billing.example"


def mutual(by: str = "clients", **more: Any) -> TlsMaterial:
    return material(client_ca=ca_pem(by), **{"demands": "required", **more})


@pytest.fixture(scope="module", params=[asyncio.new_event_loop, loop_factory()], ids=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(scope="module")
def shared(loop: Any) -> Iterator[Served]:
    with Served("TLS", loop, BOUNDS) as served:
        yield served


@pytest.fixture
def served(shared: Served) -> Iterator[Served]:
    shared.app.seen.clear()
    shared.failed.clear()
    use(shared, material())
    yield shared
    assert not shared.errors


def use(served: Served, new: TlsMaterial) -> None:
    """New terms hold from now on."""
    tls = served.tls
    assert tls is not None
    served.call(lambda: tls.use(TlsTerms(new)))


def until(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.005)


# Handshakes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [TLS_1_2, TLS_1_3])
def test_a_request_knows_that_it_came_over_tls(served: Served, version: ssl.TLSVersion) -> None:
    with TlsClient(served.address, client_context(version=version)) as client:
        assert client.exchange(get("/echo")).status == 200
    (seen,) = served.app.seen
    assert seen.scheme == "https"
    tls = seen.extensions["tls"]
    assert tls["tls_version"] == int(version)
    assert tls["cipher_suite"] == {TLS_1_2: 0xC02C, TLS_1_3: 0x1302}[version]
    assert tls[CIPHER_KEY] == {TLS_1_2: "ECDHE-ECDSA-AES256-GCM-SHA384", TLS_1_3: "TLS_AES_256_GCM_SHA384"}[version]
    assert tls["server_cert"] == issued().cert_chain_pems[0].bytes().decode()
    absent = {"client_cert_chain": (), "client_cert_name": None, "client_cert_error": None, SCOPE_KEY: None}
    assert {key: tls[key] for key in absent} == absent


def test_a_plain_connection_has_no_tls_in_its_scope(loop: Any) -> None:
    with Served("direct", loop, BOUNDS) as plain, plain.client() as client:
        assert client.exchange(get("/echo")).status == 200
        (seen,) = plain.app.seen
        assert (seen.scheme, seen.extensions) == ("http", None)


@pytest.mark.parametrize(("offered", "chosen"), [(["h2", "http/1.1"], "http/1.1"), (["h2"], None), ([], None)])
def test_http_1_1_is_chosen_and_a_client_that_offers_something_else_gets_it_too(
    served: Served, offered: list[str], chosen: str | None
) -> None:
    context = client_context()
    if offered:
        context.set_alpn_protocols(offered)
    with TlsClient(served.address, context) as client:
        assert client.tls.selected_alpn_protocol() == chosen
        assert client.exchange(get("/echo")).status == 200


def test_suites_without_forward_secrecy_or_authenticated_encryption_are_refused(served: Served) -> None:
    context = client_context(version=TLS_1_2)
    context.set_ciphers("AES256-GCM-SHA384:ECDHE-ECDSA-AES256-SHA384:ECDHE-RSA-AES256-SHA384")
    with pytest.raises(ssl.SSLError):
        TlsClient(served.address, context)
    until(lambda: served.failed == {"cipher": 1})


def test_plain_http_is_answered_with_400(served: Served) -> None:
    with Client(served.address) as client:
        client.send(get("/echo"))
        answer = client.rest()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"HTTPS only" in answer
    assert served.failed == {"plain_http": 1}
    assert served.app.seen == []


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (bytes(range(40)), "not_tls"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "not_tls"),
        (b"\x16\x03\x01\x00\x05hello", None),
    ],
)
def test_the_bytes_of_a_port_scanner_end_the_connection(served: Served, sent: bytes, reason: str | None) -> None:
    with Client(served.address) as client:
        client.send(sent)
        assert not client.rest().startswith(b"HTTP")
    until(lambda: served.failed.total() == 1)
    assert reason is None or served.failed == {reason: 1}


def test_a_client_that_leaves_before_its_handshake_or_within_it_is_no_fault(served: Served) -> None:
    Client(served.address).sock.close()  # as the checks of balancers do
    with TlsClient(served.address, handshake=False) as client:
        client.sock.sendall(client.hello()[:20])
    until(lambda: served.failed == {"closed": 1})


def test_a_slow_handshake_keeps_nobody_else_waiting(served: Served) -> None:
    with ExitStack() as stack:
        slow = [stack.enter_context(TlsClient(served.address, handshake=False)) for _ in range(20)]
        hellos = [client.hello() for client in slow]
        for client, hello in zip(slow, hellos, strict=True):
            client.sock.sendall(hello[:50])
        with TlsClient(served.address) as quick:
            assert quick.exchange(get("/echo")).status == 200
        for client, hello in zip(slow, hellos, strict=True):
            client.sock.sendall(hello[50:])
            client.handshake()
            assert client.exchange(get("/echo")).status == 200


def test_a_handshake_that_takes_too_long_is_ended(loop: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pywatt.server")
    with Served("TLS", loop, replace(BOUNDS, header_seconds=0.2)) as served:
        with TlsClient(served.address, handshake=False) as client:
            client.sock.sendall(client.hello()[:50])
            assert client.sock.recv(1000) == b""
        with Client(served.address) as silent:
            assert silent.rest() == b""
        until(lambda: served.failed == {"timeout": 1})
    (message,) = [each.message for each in caplog.records if "handshake" in each.message]
    assert message == f"a TLS handshake of {HOST} has failed: it took longer than server.timeouts.header"


def test_failed_handshakes_are_logged_now_and_then_only(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pywatt.server")
    for _ in range(30):
        with Client(served.address) as client:
            client.send(b"\x00")
            client.rest()
    assert served.failed == {"not_tls": 30}
    assert len(caplog.records) <= 2


def test_handshakes_count_as_connections_of_their_client(loop: Any) -> None:
    with Served("TLS", loop, replace(BOUNDS, connections_per_client=2)) as served, ExitStack() as stack:
        pending = [stack.enter_context(TlsClient(served.address, handshake=False)) for _ in range(2)]
        for client in pending:
            client.sock.sendall(client.hello()[:50])
        with Client(served.address) as refused:
            assert refused.rest() == b""
        pending[0].sock.close()
        until(lambda: served.failed == {"closed": 1})
        with TlsClient(served.address) as third:
            assert third.exchange(get("/echo")).status == 200


# Client certificates --------------------------------------------------------------------------------------------------


def refused(served: Served, context: ssl.SSLContext) -> None:
    """The server refuses a client: in the handshake, or (TLS 1.3) right after what the client takes for its end."""
    with (
        pytest.raises((ssl.SSLError, EOFError, ConnectionResetError)),
        TlsClient(served.address, context) as client,
    ):
        client.exchange(get("/echo"))


@pytest.mark.parametrize("version", [TLS_1_2, TLS_1_3])
def test_a_client_needs_a_certificate_of_the_authority(served: Served, version: ssl.TLSVersion) -> None:
    use(served, mutual())
    refused(served, client_context(version=version))
    refused(served, client_context(issued(CLIENT, "others"), version=version))
    until(lambda: served.failed == {"no_certificate": 1, "certificate": 1})
    certificate = issued(CLIENT, "clients", 7)
    with TlsClient(served.address, client_context(certificate, version=version)) as client:
        assert client.exchange(get("/echo")).status == 200
    (seen,) = served.app.seen
    tls = seen.extensions["tls"]
    assert tls["client_cert_chain"] == (certificate.cert_chain_pems[0].bytes().decode(),)
    assert f"CN={CLIENT} 7" in tls["client_cert_name"]
    assert tls[SCOPE_KEY].names == (f"DNS:{CLIENT}",)


@pytest.mark.parametrize("version", [TLS_1_2, TLS_1_3])
def test_where_certificates_are_optional_one_that_is_not_valid_is_refused_all_the_same(
    served: Served, version: ssl.TLSVersion
) -> None:
    use(served, mutual(demands="optional"))
    for context in (client_context(version=version), client_context(issued(CLIENT, "clients"), version=version)):
        with TlsClient(served.address, context) as client:
            assert client.exchange(get("/echo")).status == 200
    assert [seen.extensions["tls"][SCOPE_KEY] is not None for seen in served.app.seen] == [False, True]
    refused(served, client_context(issued(CLIENT, "others"), version=version))


def test_a_client_that_supports_only_an_old_version_is_refused(served: Served) -> None:
    use(served, material(min_version="1.3"))
    with pytest.raises(ssl.SSLError):
        TlsClient(served.address, client_context(version=TLS_1_2))
    until(lambda: served.failed == {"version": 1})


def test_a_client_that_refuses_the_certificate_of_the_server_is_counted(served: Served) -> None:
    with pytest.raises(ssl.SSLError):
        TlsClient(served.address, ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    until(lambda: served.failed == {"refused": 1})


# New terms ------------------------------------------------------------------------------------------------------------


def test_the_next_connection_gets_a_renewed_certificate_and_those_that_there_are_go_on(served: Served) -> None:
    with TlsClient(served.address) as kept:
        assert kept.exchange(get("/echo")).values("connection") == []
        use(served, material(1))
        with TlsClient(served.address) as new:
            assert new.exchange(get("/echo")).status == 200
            assert new.certificate != kept.certificate
        assert kept.exchange(get("/echo")).values("connection") == []


def test_a_handshake_that_has_begun_ends_with_the_terms_that_it_began_with(served: Served) -> None:
    with TlsClient(served.address, handshake=False) as client:
        hello = client.hello()
        client.sock.sendall(hello[:50])
        with TlsClient(served.address) as other:  # the server has seen those bytes
            before = other.certificate
        use(served, material(1))
        client.sock.sendall(hello[50:])
        client.handshake()
        assert client.certificate == before


@pytest.mark.parametrize("stricter", [mutual(), mutual(demands="optional"), material(min_version="1.3")])
def test_where_the_rules_for_clients_change_kept_connections_end_after_their_next_response(
    served: Served, stricter: TlsMaterial
) -> None:
    with TlsClient(served.address) as kept, TlsClient(served.address) as unused:
        assert kept.exchange(get("/echo")).values("connection") == []
        use(served, stricter)
        for client in (kept, unused):
            assert client.exchange(get("/echo")).values("connection") == ["close"]
            assert client.read() is False


def session_of(served: Served, context: ssl.SSLContext) -> ssl.SSLSession:
    """A session that can be resumed. In TLS 1.3, tickets arrive after the handshake."""
    with TlsClient(served.address, context) as client:
        assert client.exchange(get("/echo")).status == 200
        session = client.tls.session
        assert session is not None
        return session


@pytest.mark.parametrize("version", [TLS_1_2, TLS_1_3])
def test_a_session_is_resumed_under_the_terms_that_it_began_under_and_under_no_others(
    served: Served, version: ssl.TLSVersion
) -> None:
    context = client_context(version=version)
    session = session_of(served, context)
    with TlsClient(served.address, context, session) as client:
        assert client.exchange(get("/echo")).status == 200
        assert client.tls.session_reused is True
    use(served, material(1))
    with TlsClient(served.address, context, session) as client:
        assert client.exchange(get("/echo")).status == 200
        assert client.tls.session_reused is False


@pytest.mark.parametrize("version", [TLS_1_2, TLS_1_3])
def test_a_changed_authority_holds_for_resumed_sessions(served: Served, version: ssl.TLSVersion) -> None:
    use(served, mutual("clients"))
    context = client_context(issued(CLIENT, "clients"), version=version)
    session = session_of(served, context)
    with TlsClient(served.address, context, session) as client:
        assert client.exchange(get("/echo")).status == 200
        assert client.tls.session_reused is True
    use(served, mutual("others"))
    with (
        pytest.raises((ssl.SSLError, EOFError, ConnectionResetError)),
        TlsClient(served.address, context, session) as client,
    ):
        client.exchange(get("/echo"))
    assert len(served.app.seen) == 2


def test_a_changed_minimum_version_holds_for_resumed_sessions(served: Served) -> None:
    context = client_context(version=TLS_1_2)
    session = session_of(served, context)
    use(served, material(min_version="1.3"))
    with pytest.raises(ssl.SSLError):
        TlsClient(served.address, context, session)


# Bytes both ways ------------------------------------------------------------------------------------------------------


def test_a_websocket_is_served_over_tls(served: Served) -> None:
    with served.client() as client:
        client.send(handshake("/ws/echo"))
        client.until(b"\r\n\r\n")
        client.received = b""
        client.send(frame(b"hello", 1))
        client.until(server_frame(b"hello", 1))
        client.send(frame((1000).to_bytes(2, "big"), 8))
        assert client.rest().endswith(closing(1000))
    (seen,) = served.app.seen
    assert seen.scheme == "wss"
    assert seen.extensions["tls"]["tls_version"] == int(TLS_1_3)


def test_a_large_body_arrives_whole_both_ways(served: Served) -> None:
    body = bytes(range(256)) * 350
    with served.client() as client:
        assert client.exchange(post("/echo", body)).status == 200
    (seen,) = served.app.seen
    assert seen.body == body
    with served.client() as client:
        client.send(get("/whole"))
        while len(client.received) < 8_000_000:
            assert client.read()


def test_a_slow_client_gets_all_of_its_response(loop: Any) -> None:
    """What waits for the client counts as unsent, so that the connection is not taken for an idle one."""
    bounds = replace(BOUNDS, keep_alive=0.2)
    with Served("TLS", loop, bounds) as served, TlsClient(served.address, receive_buffer=4096) as client:
        client.send(get("/whole"))
        client.until(b"\r\n\r\n")
        time.sleep(1.0)
        while len(client.received) < 8_000_000:
            assert client.read()


def test_broken_records_end_the_connection(served: Served) -> None:
    with served.client() as client:
        assert client.exchange(get("/echo")).status == 200
        client.sock.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
        client.received = b""
        with pytest.raises(ssl.SSLError):  # the alert
            client.rest()
        assert client.received == b""


# Draining -------------------------------------------------------------------------------------------------------------


def test_a_handshake_that_has_begun_is_completed_and_its_request_answered_while_the_server_drains(loop: Any) -> None:
    bounds = replace(BOUNDS, keep_alive=0.1)  # which bounds how long idle connections stay while it drains
    with ExitStack() as stack:
        served = stack.enter_context(Served("TLS", loop, bounds))
        begun = stack.enter_context(TlsClient(served.address, handshake=False))
        idle = stack.enter_context(TlsClient(served.address))
        hello = begun.hello()
        begun.sock.sendall(hello[:50])
        with TlsClient(served.address) as other:
            other.exchange(get("/echo"))
        served.stop()
        assert idle.rest() == b""  # closed: nothing is under way there
        begun.sock.sendall(hello[50:])
        begun.handshake()
        assert begun.exchange(get("/echo")).values("connection") == ["close"]
    assert not served.errors


def test_a_handshake_is_not_waited_for_beyond_the_deadline(loop: Any) -> None:
    with Served("TLS", loop, BOUNDS) as served, TlsClient(served.address, handshake=False) as client:
        client.sock.sendall(client.hello()[:50])
        with TlsClient(served.address) as other:
            other.exchange(get("/echo"))
        served.stop(0.2)
        began = time.monotonic()
        try:
            assert client.sock.recv(1000) == b""
        except ConnectionResetError:
            pass
        assert time.monotonic() - began < PATIENCE / 2
