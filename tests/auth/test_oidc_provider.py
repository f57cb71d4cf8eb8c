"""Tokens of a real OpenID Connect provider (npm's oidc-provider), found by discovery and verified by a running host."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote_plus

import httpx
import pytest

from pywatt_host.auth.fetching import client
from pywatt_host.clients.tokens import ClientToken
from pywatt_host.manifest.model import Client
from tests.processes import PATIENCE, Host, Project

HERE = Path(__file__).parent / "provider"
SECRET = "a secret: with & other + signs / %"
APP = """
import json

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise RuntimeError("declined")
    body = json.dumps(scope["pywatt.claims"]).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})
"""


@pytest.fixture(scope="module")
def issuer() -> Iterator[str]:
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not here")
    with tempfile.TemporaryDirectory(prefix="pywatt-issuer") as folder:
        for name in ("package.json", "provider.mjs"):
            shutil.copy(HERE / name, folder)
        install = ["npm", "install", "--no-audit", "--no-fund", "--loglevel=error"]
        done = subprocess.run(install, cwd=folder, capture_output=True, text=True, timeout=100, check=False)
        if done.returncode:
            pytest.skip(f"oidc-provider cannot be installed: {done.stderr.strip()[-200:]}")
        environ = {**os.environ, "CLIENT_SECRET": SECRET}
        with subprocess.Popen(
            ["node", "provider.mjs"],
            cwd=folder,
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as process:
            try:
                assert process.stdout is not None
                yield process.stdout.readline().strip()
            finally:
                process.kill()


def token(issuer: str, resource: str = "urn:users", scope: str = "read") -> str:
    """By our own client, which finds the token endpoint in the issuer's metadata."""
    options = Client(base_url="https://x.example", issuer=issuer, client_id="users", client_secret=SECRET)

    async def main() -> str:
        if resource == "urn:users":
            tokens = ClientToken("it", options.model_copy(update={"scopes": (scope,)}), lambda *it: None)
            tokens.read({})
            async with client() as web:
                return await tokens.token(web)
        # RFC 8707: a token for another resource, which our client has no key for.
        form = {"grant_type": "client_credentials", "scope": scope, "resource": resource}
        async with httpx.AsyncClient() as web:
            answer = await web.post(f"{issuer}/token", data=form, auth=("users", quote_plus(SECRET)))
            found: str = answer.json()["access_token"]
            return found

    return asyncio.run(main())


@pytest.fixture
def host(project: Project, issuer: str) -> Host:
    project.write("main.py", APP)
    project.manifest(
        app="main:app",
        auth={"sso": {"type": "oidc", "issuer": issuer, "audience": "users", "leeway": "0s"}},
        endpoints=[
            {"path": "/read", "auth": {"scheme": "sso", "scopes": ["read"]}},
            {"path": "/write", "auth": {"scheme": "sso", "scopes": ["write"]}},
        ],
    )
    return project.host()


def asked(host: Host, path: str, with_token: str) -> int:
    return host.get(path, Authorization=f"Bearer {with_token}").status


@pytest.mark.slow
def test_tokens_of_a_real_provider_pass_and_others_do_not(host: Host, issuer: str) -> None:
    good = token(issuer)
    answer = host.get("/read", Authorization=f"Bearer {good}")
    assert answer.status == 200, host.lines
    said = answer.json()
    assert (said["iss"], said["aud"], said["scope"]) == (issuer, "users", "read")
    assert asked(host, "/write", good) == 403
    assert asked(host, "/write", token(issuer, scope="write")) == 200
    head, payload, signature = good.split(".")
    assert asked(host, "/read", f"{head}.{payload}.{signature[:-8]}AAAAAAAA") == 401
    assert asked(host, "/read", f"{head}.{payload[:-4]}AAAA.{signature}") == 401
    assert host.get("/read").status == 401


@pytest.mark.slow
def test_a_token_for_somebody_else_and_one_that_has_ended_are_refused(host: Host, issuer: str) -> None:
    assert asked(host, "/read", token(issuer, "urn:others")) == 401
    short = token(issuer, "urn:short")
    assert asked(host, "/read", short) == 200
    began = time.monotonic()
    while asked(host, "/read", short) != 401:
        assert time.monotonic() - began < PATIENCE
    for reason in ("auth.sso: audience", "auth.sso: expired"):
        assert host.wait_for(lambda line, reason=reason: reason in line)  # type: ignore[misc]
