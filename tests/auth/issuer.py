"""An issuer without a socket: what it publishes, what it is asked, and its faults on demand."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any
from urllib.parse import parse_qs, unquote_plus

import httpx
from joserfc.jwk import RSAKey

from pywatt_host.auth.minting import Signer

ISSUER = "https://id.example"


class Clock:
    def __init__(self) -> None:
        self.now = 10_000.0

    def __call__(self) -> float:
        return self.now


class Issuer:
    """`answers` has, by path, what stands in the place of the usual answer; `gate` holds answers back while it is
    clear."""

    def __init__(self) -> None:
        self.keys: dict[str, RSAKey] = {}
        self.answers: dict[str, httpx.Response] = {}
        self.asked: list[str] = []
        self.grants: list[tuple[str, dict[str, list[str]]]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.down = False
        self.issued = 0
        self.token_answer: dict[str, Any] = {"token_type": "Bearer", "expires_in": 100}
        self.metadata: dict[str, Any] = {
            "issuer": ISSUER,
            "jwks_uri": f"{ISSUER}/jwks",
            "token_endpoint": f"{ISSUER}/token",
        }

    def publish(self, *kids: str) -> None:
        """Exactly these keys from now on; each kid has one key for good."""
        self.keys = {kid: self.keys.get(kid) or RSAKey.generate_key(2048) for kid in kids}

    def signed(self, kid: str, **claims: Any) -> bytes:
        return Signer(self.keys[kid], "RS256", kid).mint(claims).encode()

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.MockTransport(self._answer), follow_redirects=False)

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        self.asked.append(path)
        await self.gate.wait()
        if self.down:
            raise httpx.ConnectError("connection refused")
        if path in self.answers:
            return self.answers[path]
        if path == "/.well-known/openid-configuration":
            return httpx.Response(200, json=self.metadata)
        if path == "/jwks":
            public = [{**key.as_dict(private=False), "kid": kid, "use": "sig"} for kid, key in self.keys.items()]
            return httpx.Response(200, json={"keys": public})
        if path == "/token":
            return self._token(request)
        return httpx.Response(404)

    def _token(self, request: httpx.Request) -> httpx.Response:
        form = parse_qs(request.content.decode())
        who = ""
        authorization = request.headers.get("authorization", "")
        if authorization.startswith("Basic "):
            who = ":".join(unquote_plus(part) for part in base64.b64decode(authorization[6:]).decode().split(":"))
        self.grants.append((who, form))
        self.issued += 1
        return httpx.Response(
            200, text=json.dumps({"access_token": f"token-number-{self.issued}", **self.token_answer})
        )
