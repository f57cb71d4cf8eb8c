"""The gateway of a real `pywatt-host up` over TLS."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests.certificates import authority, chain_of, client_context, issued
from tests.orchestrator.test_up import Workspace
from tests.processes import PATIENCE, Project

APP = """
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise RuntimeError("declined")
    headers = {name.decode(): value.decode() for name, value in scope["headers"]}
    body = f"{scope['scheme']} {headers['host']} {headers.get('x-forwarded-client-cert')}".encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})
"""


async def refused(address: str) -> None:
    """A WebSocket to a module that speaks TLS: it gets there, and the application refuses it."""
    with pytest.raises(InvalidStatus, match="500"):
        await connect(f"{address.replace('https', 'wss')}/secure/ws", ssl=client_context(), proxy=None)


def write(folder: Path, leaf: trustme.LeafCert) -> None:
    for name, content in (("gateway.pem", chain_of(leaf)), ("gateway.key", leaf.private_key_pem.bytes())):
        (folder / f"{name}.new").write_bytes(content)
        os.replace(folder / f"{name}.new", folder / name)
    (folder / "secrets").mkdir(exist_ok=True)
    (folder / "secrets" / "GATEWAY_KEY").write_bytes(leaf.private_key_pem.bytes())


def shown(address: str) -> bytes:
    """The certificate that the gateway shows to a new connection, DER."""
    host, _, port = address.removeprefix("https://").rpartition(":")
    with (
        socket.create_connection((host, int(port)), PATIENCE) as plain,
        client_context().wrap_socket(plain, server_hostname=host) as secured,
    ):
        der = secured.getpeercert(True)
    assert der is not None
    return bytes(der)


def test_the_gateway_speaks_tls_and_takes_a_renewed_certificate(project: Project) -> None:
    first, second = issued(number=1), issued(number=2)
    write(project.folder, first)
    project.write("users/main.py", APP)
    project.write("users/pywatt.yaml", "app: main:app")
    tls = {"cert": "gateway.pem", "key": "${secret:GATEWAY_KEY}"}
    project.write("secure/main.py", APP)  # speaks TLS itself, also to the gateway
    own = {"cert": "../gateway.pem", "key": "../gateway.key"}
    project.write("secure/pywatt.yaml", json.dumps({"app": "main:app", "server": {"tls": own}}))
    workspace = Workspace(
        project,
        modules={"users": {"manifest": "users"}, "secure": {"manifest": "secure"}},
        gateway={"listen": "127.0.0.1:0", "tls": tls},
        secrets={"sources": [{"directory": "secrets"}], "interval": "500ms"},
    )
    address = workspace.ready()["listen"][0]
    assert address.startswith("https://127.0.0.1:")
    with httpx.Client(base_url=address, verify=client_context(), timeout=PATIENCE) as client:

        def health() -> dict[str, Any]:
            document: dict[str, Any] = client.get("/health").json()
            return document

        answer = client.get("/users/", headers={"x-forwarded-proto": "http", "x-forwarded-client-cert": "forged"})
        assert answer.text == f"https {address.removeprefix('https://')} None"
        assert client.get("/health").json()["status"] == "healthy"
        assert workspace.modules()["secure"][0]["listen"].startswith("https://")
        assert client.get("/secure/").text == answer.text
        asyncio.run(refused(address))
        assert shown(address) == ssl.PEM_cert_to_DER_cert(first.cert_chain_pems[0].bytes().decode())

        write(project.folder, second)
        workspace.up.wait_for(lambda line: "gateway.tls: gateway.pem is renewed" in line)
        assert shown(address) == ssl.PEM_cert_to_DER_cert(second.cert_chain_pems[0].bytes().decode())
        assert client.get("/users/").status_code == 200  # on the connection that it had

        (project.folder / "gateway.pem").write_bytes(authority("others").cert_pem.bytes())
        workspace.up.wait_for(lambda line: "gateway.tls." in line and "the certificate in use stays" in line)
        assert health()["status"] == "degraded"
        assert health()["tls"] == {"status": "failing"}
        assert shown(address) == ssl.PEM_cert_to_DER_cert(second.cert_chain_pems[0].bytes().decode())
        status = json.loads(project.cli("ps", "--json").stdout)
        (listed,) = [each for each in status if each.get("kind") == "workspace"]
        assert listed["tls"]["gateway.tls"]["fault"]["reason"] == "mismatch"
    assert workspace.up.stop() == 0


def test_a_certificate_that_cannot_be_used_ends_up_before_any_module_starts(project: Project) -> None:
    project.write("users/main.py", "def create(): raise SystemExit('it was started')")
    project.write("users/pywatt.yaml", "app: main:create")
    tls = {"cert": "gateway.pem", "key": "${secret:GATEWAY_KEY}"}
    project.write(
        "wattson.yaml",
        json.dumps({"gateway": {"listen": "127.0.0.1:0", "tls": tls}, "modules": {"users": {"manifest": "users"}}}),
    )
    done = project.cli("up", env={"GATEWAY_KEY": "no key"})
    assert done.returncode == 3
    assert "gateway.tls.cert: gateway.pem cannot be used: there is no such file" in done.stderr
    assert "it was started" not in done.stderr
    assert "Traceback" not in done.stderr
