"""Endpoints that need a client certificate: what a request with and without one gets."""

from __future__ import annotations

import ssl
from typing import Any

import pytest
from cryptography import x509

from pywatt_host.exceptions import ManifestError
from pywatt_host.manifest import Source, load
from pywatt_host.manifest.load import InitLayer
from pywatt_host.net.client_certificates import SCOPE_KEY, ClientCertificate
from pywatt_host.testing.modules import PywattModule
from pywatt_host.testing.websocket import WebSocketRefusedError
from tests.auth.certificates_for_tests import certificate
from tests.auth.tokens_for_tests import SECRET, signed
from tests.hosting import Hosted, Recorder, hosted, run, websocket

BILLING = certificate({"CN": "billing"}, {"O": "Example"}, sans=[x509.DNSName("billing.example")])
OPS = certificate({"CN": "ops"}, {"O": "Example"})
STRANGER = certificate({"CN": "stranger"}, {"O": "Example"})
TLS = {"cert": "a.pem", "key": "a.key", "client_ca": "ca.pem", "client_cert": "optional"}
MANIFEST: dict[str, Any] = {
    "module": {"id": "users"},
    "server": {"tls": TLS},
    "auth": {
        "peer": {"type": "mtls", "subjects": ["CN=billing,*", "DNS:*.example"]},
        "ops": {"type": "mtls", "subjects": "CN=ops,O=Example"},
        "jwt": {"secret": SECRET},
    },
    "endpoints": [
        {"path": "/open", "auth": "none"},
        {"path": "/peer", "auth": "peer"},
        {"path": "/either", "auth": ["ops", "peer"]},
        {"path": "/or-token", "auth": ["peer", "jwt"]},
        {"path": "/named", "auth": {"scheme": ["peer", "ops"], "claims": {"sans": "DNS:billing.example"}}},
        {"path": "/by-ca", "auth": {"scheme": "peer", "claims": {"issuer": "CN=Test CA"}}},
        {"path": "/ws", "methods": ["WEBSOCKET"], "auth": "peer"},
    ],
}


def shown(der: bytes) -> dict[str, Any]:
    """What the host's own listener puts into the scope."""
    return {"tls": {"client_cert_chain": [], SCOPE_KEY: ClientCertificate(der)}}


async def outcome(host: Hosted, path: str, der: bytes | None = None, **more: Any) -> tuple[int, str]:
    """The status, and the challenges."""
    extensions = {"extensions": shown(der)} if der is not None else {}
    answer = await host.get(path, scheme="https", **extensions, **more)
    return answer.status, answer.header("www-authenticate")


def test_certificates_open_the_endpoints_that_allow_their_names() -> None:
    challenge = 'ClientCertificate realm="users"'
    bearer = {"authorization": f"Bearer {signed()}"}

    async def main() -> None:
        recorder = Recorder()
        async with hosted(MANIFEST, recorder) as host:
            assert await outcome(host, "/open") == (200, "")
            assert await outcome(host, "/open", STRANGER) == (200, "")
            assert await outcome(host, "/peer") == (401, challenge)
            assert await outcome(host, "/peer", STRANGER) == (403, "")
            assert await outcome(host, "/peer", OPS) == (403, "")
            assert await outcome(host, "/peer", BILLING) == (200, "")
            assert recorder.scopes[-1]["pywatt.claims"]["sub"] == "CN=billing,O=Example"
            # Of several schemes for certificates, one that allows the certificate decides.
            assert await outcome(host, "/either", OPS) == (200, "")
            assert recorder.scopes[-1]["pywatt.claims"]["pywatt.auth"] == {"scheme": "ops", "type": "mtls"}
            assert await outcome(host, "/either", BILLING) == (200, "")
            assert await outcome(host, "/either", STRANGER) == (403, "")
            assert await outcome(host, "/named", BILLING) == (200, "")
            assert await outcome(host, "/named", OPS) == (403, "")
            assert await outcome(host, "/by-ca", BILLING) == (200, "")
            # The first scheme for which there is a credential decides alone.
            assert await outcome(host, "/or-token") == (401, f'{challenge}, Bearer realm="users"')
            assert await outcome(host, "/or-token", headers=bearer) == (200, "")
            assert await outcome(host, "/or-token", STRANGER, headers=bearer) == (403, "")
            counts = host.host.schemes.counts
            assert (counts["peer", "missing"], counts["peer", "subject"]) == (2, 3)
            access = [(each["path"], each["status"], each.get("subject"), each.get("reason")) for each in host.access()]
            assert ("/peer", 200, "CN=billing,O=Example", None) in access
            assert ("/peer", 403, None, "auth.peer: subject") in access
            assert "stranger" not in "".join(host.lines())

    run(main)


def test_no_header_takes_the_place_of_a_certificate() -> None:
    forged = {
        "x-forwarded-client-cert": 'Hash=1;Subject="CN=billing,O=Example";URI=',
        "x-ssl-client-s-dn": "CN=billing,O=Example",
        "x-ssl-client-verify": "SUCCESS",
        "client-cert": ":MIIB:",
    }

    async def main() -> None:
        trusting = {**MANIFEST, "server": {"tls": TLS, "trusted_proxies": ["203.0.113.9"]}}
        async with hosted(trusting, Recorder()) as host:
            assert (await outcome(host, "/peer", headers=forged))[0] == 401

    run(main)


def test_a_websocket_is_refused_before_it_is_accepted() -> None:
    async def main() -> None:
        async with hosted(MANIFEST, Recorder()) as host:
            for extensions, status in (({}, 401), (shown(STRANGER), 403)):
                extensions = {"websocket.http.response": {}, **extensions}
                sent = await websocket(host.app, "/ws", scheme="wss", extensions=extensions)
                assert sent[0]["status"] == status

    run(main)


def test_another_server_may_tell_the_certificate() -> None:
    pem = ssl.DER_cert_to_PEM_cert(BILLING)

    async def main() -> None:
        async with hosted(MANIFEST, Recorder()) as host:
            for tls, status in (
                ({"client_cert_chain": [pem], "client_cert_error": None}, 200),
                ({"client_cert_chain": [pem], "client_cert_error": "unable to get local issuer certificate"}, 401),
                ({"client_cert_chain": [], "client_cert_error": None}, 401),
                ({"client_cert_chain": ["-----BEGIN nonsense"]}, 401),
            ):
                assert (await host.get("/peer", extensions={"tls": tls})).status == status

    run(main)


def test_a_message_carries_no_certificate() -> None:
    async def main() -> None:
        async with hosted(MANIFEST, Recorder()) as host:
            with pytest.raises(ValueError, match="has the type mtls, and messages have no client certificates"):
                host.state.on_message("ping", auth="peer")

    run(main)


@pytest.mark.parametrize(
    ("server", "code"),
    [
        ({}, "no-client-certificates"),
        ({"tls": {"cert": "a.pem", "key": "a.key"}}, "no-client-certificates"),
        ({"tls": TLS, "listen": "unix:x.sock"}, "no-client-certificates"),
        ({"tls": TLS, "listen": {"address": ":8443", "tls": "off"}}, "no-client-certificates"),
        ({"tls": TLS}, ""),
        ({"listen": [{"address": ":8443", "tls": TLS}]}, ""),
    ],
)
def test_a_scheme_needs_a_listener_that_asks_for_certificates(server: dict[str, Any], code: str) -> None:
    source = Source.of_data({**MANIFEST, "app": "x:y", "server": server}, name="test")
    if not code:
        assert load(source, environ={}).warnings == ()
        return
    with pytest.raises(ManifestError) as caught:
        load(source, environ={})
    assert {problem.code for problem in caught.value.problems} == {code}


def test_the_listener_of_an_orchestrator_is_not_judged_by_the_manifest() -> None:
    source = Source.of_data({**MANIFEST, "app": "x:y", "server": {}}, name="test")
    assert load(source, environ={}, init=InitLayer(listen="unix:/run/x.sock")).manifest.auth


def test_tests_of_users_show_certificates_without_a_handshake(pywatt_module: PywattModule) -> None:
    recorder = Recorder()
    client = pywatt_module({**MANIFEST, "app": lambda: recorder}, secrets={})
    assert client.get("/peer").status_code == 401
    assert client.with_certificate("CN=other").get("/peer").status_code == 403
    billing = client.with_certificate("CN=billing,O=Example", "DNS:billing.example", "URI:spiffe://td/a")
    assert billing.get("/peer").status_code == 200
    assert recorder.scopes[-1]["scheme"] == "https"
    assert recorder.scopes[-1]["pywatt.claims"]["sans"] == ["DNS:billing.example", "URI:spiffe://td/a"]
    assert billing.get("/named").status_code == 200
    with pytest.raises(WebSocketRefusedError), client.with_certificate("CN=other").websocket("/ws"):
        pass
    with pytest.raises(ValueError, match="not an alternative name"):
        client.with_certificate("CN=billing", "billing.example")
