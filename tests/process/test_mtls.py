"""Client certificates over real connections: verified in the handshake, and a credential for single endpoints."""

from __future__ import annotations

import ssl

import httpx
import pytest
import trustme

from tests.certificates import authority, ca_pem, chain_of, client_context, issued
from tests.processes import PATIENCE, Project

APP = """
import json

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise RuntimeError("declined")
    body = json.dumps(scope.get("pywatt.claims", {})).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})
"""


def certificate(name: str, by: str = "clients") -> trustme.LeafCert:
    return authority(by).issue_cert(common_name=name, organization_name="Example", key_type=trustme.KeyType.ECDSA)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_certificate_opens_the_endpoints_that_allow_its_name(project: Project, workers: int) -> None:
    leaf = issued()
    for name, content in (
        ("server.pem", chain_of(leaf)),
        ("server.key", leaf.private_key_pem.bytes()),
        ("clients.pem", ca_pem("clients")),
    ):
        (project.folder / name).write_bytes(content)
        (project.folder / name).chmod(0o600)
    project.write("main.py", APP)
    tls = {"cert": "server.pem", "key": "server.key", "client_ca": "clients.pem", "client_cert": "optional"}
    project.manifest(
        server={"listen": "127.0.0.1:0", "tls": tls, "workers": workers},
        auth={"peer": {"type": "mtls", "subjects": ["CN=billing,*"]}},
        endpoints=[{"path": "/open", "auth": "none"}, {"path": "/peer", "auth": "peer"}],
    )
    host = project.host()
    address = host.ready["listen"][0]

    def client(leaf: trustme.LeafCert | None) -> httpx.Client:
        return httpx.Client(base_url=address, verify=client_context(leaf), timeout=PATIENCE)

    with client(None) as nobody, client(certificate("billing")) as billing, client(certificate("ops")) as ops:
        for _ in range(2):  # the second over the same connection
            assert [each.get("/open").status_code for each in (nobody, billing, ops)] == [200, 200, 200]
            refused = nobody.get("/peer")
            assert refused.status_code == 401
            assert refused.headers["www-authenticate"].startswith("ClientCertificate realm=")
            assert ops.get("/peer").status_code == 403
            claims = billing.get("/peer").json()
            assert claims["sub"].startswith("CN=billing,")
            assert claims["pywatt.auth"] == {"scheme": "peer", "type": "mtls"}
    # A certificate of another CA, with the right name: there is no connection, even where none is needed.
    with client(certificate("billing", by="others")) as stranger, pytest.raises((httpx.TransportError, ssl.SSLError)):
        stranger.get("/open")
    routes = project.cli("routes", "--json").stdout
    assert '"peer"' in routes
    token = project.cli("token", "--scheme", "peer")
    assert (
        token.returncode,
        "a scheme of type mtls has no tokens, since the client's certificate is the credential" in token.stderr,
    ) == (2, True)
    assert host.stop() == 0
