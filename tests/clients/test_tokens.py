"""Tokens for requests to others: got once for all, renewed in time, and sent to their origin alone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from pywatt_host import AppState, AuthError
from pywatt_host.clients import tokens as clients
from pywatt_host.clients.tokens import ClientToken, TokenAuth
from pywatt_host.manifest import Source, load
from pywatt_host.manifest.model import Client
from pywatt_host.testing.modules import PywattModule
from tests.auth.issuer import ISSUER, Clock, Issuer
from tests.hosting import run
from tests.processes import Project

OPTIONS = {
    "base_url": "https://billing.example",
    "token_url": f"{ISSUER}/token",
    "client_id": "us ers",
    "client_secret": "s:cr&t+/%",
}


class Side:
    def __init__(self, **options: Any) -> None:
        self.issuer = Issuer()
        self.clock = Clock()
        self.masked: list[tuple[str, str]] = []
        self.tokens = ClientToken(
            "billing", Client(**{**OPTIONS, **options}), lambda *it: self.masked.append(it), clock=self.clock
        )
        self.tokens.read({})
        self.web = self.issuer.client()

    async def token(self, **more: Any) -> str:
        return await self.tokens.token(self.web, **more)


def with_side(use: Callable[[Side], Awaitable[None]], **options: Any) -> None:
    async def main() -> None:
        side = Side(**options)
        async with side.web:
            await use(side)

    run(main)


def test_one_request_for_all_who_wait_and_one_token_until_shortly_before_its_end() -> None:
    async def use(side: Side) -> None:
        assert await asyncio.gather(*(side.token() for _ in range(200))) == ["token-number-1"] * 200
        side.clock.now += 89
        assert await side.token() == "token-number-1"
        side.clock.now += 2  # of its 100 seconds the last tenth begins: it is used, and the next one is got
        assert await side.token() == "token-number-1"
        assert side.tokens._fetching is not None
        await side.tokens._fetching
        assert await side.token() == "token-number-2"
        side.clock.now += 101
        assert await side.token() == "token-number-3"
        assert [name for name, _ in side.masked] == ["clients.billing"] * 3
        assert side.masked[0][1] == "token-number-1"

    with_side(use)


def test_id_and_secret_are_encoded_before_they_are_joined() -> None:
    async def use(side: Side) -> None:
        await side.token()
        who, form = side.issuer.grants[0]
        assert who == "us ers:s:cr&t+/%"
        assert form == {"grant_type": ["client_credentials"], "scope": ["read write"], "audience": ["billing"]}

    with_side(use, scopes=["read", "write"], audience="billing")


def test_they_can_be_sent_in_the_body() -> None:
    async def use(side: Side) -> None:
        await side.token()
        who, form = side.issuer.grants[0]
        assert (who, form["client_id"], form["client_secret"]) == ("", ["us ers"], ["s:cr&t+/%"])

    with_side(use, method="post")


def test_the_token_endpoint_is_found_in_the_metadata() -> None:
    async def use(side: Side) -> None:
        assert await side.token() == "token-number-1"
        assert side.issuer.asked == ["/.well-known/openid-configuration", "/token"]

    with_side(use, token_url=None, issuer=ISSUER)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (
            httpx.Response(401, json={"error": "invalid_client", "error_description": "s:cr&t+/%"}),
            "401, invalid_client",
        ),
        (httpx.Response(500, text="oops"), "the answer is 500"),
        (httpx.Response(200, json={"access_token": "x", "token_type": "mac"}), "no bearer token"),
        (httpx.Response(200, json={"token_type": "Bearer"}), "no bearer token"),
        (httpx.Response(200, json={"access_token": "a\r\nb: c", "token_type": "Bearer"}), "no bearer token"),
        (httpx.Response(302, headers={"location": "https://evil.example"}), "redirects are not followed"),
        (httpx.Response(200, json=["x"]), "the answer is 200"),
    ],
)
def test_why_there_is_no_token_is_said_without_the_secret(
    answer: httpx.Response, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def use(side: Side) -> None:
        side.issuer.answers["/token"] = answer
        with pytest.raises(AuthError, match=said) as caught:
            await side.token()
        assert "clients.billing" in str(caught.value)
        for _ in range(50):  # a service that is asked for much does not hammer the issuer
            with pytest.raises(AuthError):
                await side.token()
        assert len(side.issuer.asked) == 1
        assert "s:cr&t" not in str(caught.value) + caplog.text
        del side.issuer.answers["/token"]
        side.clock.now += 1
        assert await side.token() == "token-number-1"

    with_side(use)


def test_a_token_is_used_to_its_end_while_the_issuer_is_down() -> None:
    async def use(side: Side) -> None:
        await side.token()
        side.issuer.down = True
        side.clock.now += 95
        assert await side.token() == "token-number-1"
        await asyncio.sleep(0)
        assert await side.token() == "token-number-1"
        side.clock.now += 6
        with pytest.raises(AuthError, match="refused"):
            await side.token()

    with_side(use)


# With the clients of the application ----------------------------------------------------------------------------------

MANIFEST = f"""
app: x:y
clients:
  billing: {{base_url: "https://billing.example", token_url: "{ISSUER}/token", client_id: users, client_secret: secret}}
"""


class Target:
    """Everybody else on the network: takes down who was sent which credential."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []
        self.statuses: list[int] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.seen.append((str(request.url), request.headers.get("authorization", "")))
        if request.url.path == "/away":
            return httpx.Response(302, headers={"location": "https://evil.example/"})
        return httpx.Response(self.statuses.pop(0) if self.statuses else 200)


def with_auth(use: Callable[[TokenAuth, Target, Issuer], Awaitable[None]], monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        issuer = Issuer()
        monkeypatch.setattr(clients, "client", issuer.client)
        tokens = TokenAuth(load(Source.of_text(MANIFEST), environ={}).manifest, dict, lambda *it: None)
        async with asyncio.TaskGroup() as tasks, tokens.running(tasks):
            await use(tokens, Target(), issuer)

    run(main)


def test_a_token_goes_to_its_origin_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    async def use(tokens: TokenAuth, target: Target, issuer: Issuer) -> None:
        async with httpx.AsyncClient(transport=httpx.MockTransport(target), auth=tokens, follow_redirects=True) as web:
            for url in ("https://billing.example/a", "https://BILLING.example:443/b"):
                await web.get(url)
            assert [credential for _, credential in target.seen] == ["Bearer token-number-1"] * 2
            target.seen.clear()
            for url in (
                "http://billing.example/",
                "https://billing.example:8443/",
                "https://x.billing.example/",
                "https://billing.example.evil.example/",
                "https://evil.example/billing.example",
                "https://billing-example/",
            ):
                await web.get(url)
            assert [credential for _, credential in target.seen] == [""] * 6
            target.seen.clear()
            await web.get("https://billing.example/away")
            assert target.seen[-1] == ("https://evil.example/", "")
            await web.get("https://billing.example/", headers={"Authorization": "Bearer my own"})
            assert target.seen[-1][1] == "Bearer my own"
            assert issuer.issued == 1

    with_auth(use, monkeypatch)


def test_a_token_that_is_not_taken_is_replaced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def use(tokens: TokenAuth, target: Target, issuer: Issuer) -> None:
        async with httpx.AsyncClient(transport=httpx.MockTransport(target), auth=tokens) as web:
            target.statuses = [401, 200]
            assert (await web.post("https://billing.example/", json={"a": 1})).status_code == 200
            assert [credential for _, credential in target.seen] == ["Bearer token-number-1", "Bearer token-number-2"]
            target.statuses = [401, 401]
            assert (await web.get("https://billing.example/")).status_code == 401
            assert issuer.issued == 3

            async def pieces() -> Any:
                yield b"once"

            target.statuses = [401]
            assert (await web.post("https://billing.example/", content=pieces())).status_code == 401

    with_auth(use, monkeypatch)


def test_a_blocking_client_gets_it_through_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    async def use(tokens: TokenAuth, target: Target, issuer: Issuer) -> None:
        def ask() -> list[int]:
            with httpx.Client(transport=httpx.MockTransport(target), auth=tokens) as web:
                target.statuses = [401, 200]
                return [web.get("https://billing.example/").status_code for _ in range(3)]

        assert await asyncio.to_thread(ask) == [200, 200, 200]
        assert issuer.issued == 2

    with_auth(use, monkeypatch)


def test_a_rotated_secret_is_for_the_next_token(monkeypatch: pytest.MonkeyPatch) -> None:
    text = MANIFEST.replace("client_secret: secret", 'client_secret: "${secret:BILLING}"')

    async def main() -> None:
        issuer = Issuer()
        monkeypatch.setattr(clients, "client", issuer.client)
        manifest = load(Source.of_text(text), environ={}).manifest
        tokens = TokenAuth(manifest, lambda: {"BILLING": "first"}, lambda *it: None)
        async with asyncio.TaskGroup() as tasks, tokens.running(tasks):
            (billing,) = tokens.dependants()
            assert billing.names == {"BILLING"}
            assert await tokens._token(billing) == "token-number-1"
            (await billing.prepare({"BILLING": "second"})).commit()
            assert await tokens._token(billing) == "token-number-1"
            assert await tokens._token(billing, instead_of="token-number-1") == "token-number-2"
            assert [who for who, _ in issuer.grants] == ["users:first", "users:second"]

    run(main)


OTHERS = """
import json

issued = 0

async def app(scope, receive, send):
    global issued
    if scope["type"] == "lifespan":
        raise RuntimeError("declined")
    given = dict(scope["headers"]).get(b"authorization", b"").decode()
    if scope["path"] == "/token":
        issued += 1
        said = {"access_token": f"the-token-with-number-{issued}", "token_type": "Bearer", "expires_in": 600}
    else:
        said = {"authorization": given}
    body = json.dumps(said).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})
"""


def test_the_client_of_a_running_module_brings_its_token_along(project: Project, pywatt_module: PywattModule) -> None:
    project.write("main.py", OTHERS)
    project.manifest(app="main:app")
    others = project.host().address

    def create_app(state: AppState) -> Any:
        async def asynchronously(request: Any) -> Any:
            said = (await state.http.get(f"{others}/data")).json()
            state.logger.info("it said %s", said)
            return JSONResponse(said)

        def blocking(request: Any) -> Any:
            return JSONResponse(state.sync.http.get(f"{others}/data").json())

        return Starlette(routes=[Route("/a", asynchronously), Route("/b", blocking)])

    client = {"base_url": others, "token_url": f"{others}/token", "client_id": "users"}
    secret = {"client_secret": "${secret:CLIENT_SECRET}"}
    module = pywatt_module(
        {"app": create_app, "clients": {"others": {**client, **secret}}}, secrets={"CLIENT_SECRET": "a secret of ours"}
    )
    for path in ("/a", "/b", "/a"):
        assert module.get(path).json() == {"authorization": "Bearer the-token-with-number-1"}
    assert "the-token-with-number" not in str(module.logs)
    assert "it said" in str(module.logs)
