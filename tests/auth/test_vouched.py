"""What verified a credential stands in its claims, for applications and for handlers of messages, which may name the
schemes that they take."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable
from typing import Any

import pytest

from pywatt_host.app.state import AppState
from pywatt_host.exceptions import MessagingError
from pywatt_host.testing.modules import PywattModule
from tests.auth.tokens_for_tests import SECRET, signed
from tests.hosting import PATIENCE, Hosted, Recorder, hosted, run

KEY = "k" * 32
AUTH: dict[str, Any] = {
    "jwt": {"secret": SECRET},
    "sso": {"type": "oidc", "issuer": "https://id.example", "audience": "users", "secret": SECRET[::-1]},
    "robots": {"type": "api_key", "keys": f"robot:{KEY}"},
    "ops": {"type": "basic", "users": "ann:right one"},
}
BASIC = "Basic " + b64encode(b"ann:right one").decode()
SSO = "Bearer " + signed(SECRET[::-1], iss="https://id.example", aud="users")
HEADERS: dict[str, Callable[[], dict[str, str]]] = {
    "jwt": lambda: {"authorization": f"Bearer {signed()}"},
    "sso": lambda: {"authorization": SSO},
    "robots": lambda: {"x-api-key": KEY},
    "ops": lambda: {"authorization": BASIC},
}
KINDS = {"jwt": "jwt", "sso": "oidc", "robots": "api_key", "ops": "basic"}
FORGED = {"scheme": "ops", "type": "basic"}


def wsgi(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [])
    return [json.dumps(environ["pywatt.claims"]).encode()]


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(scope["pywatt.claims"]).encode()})


@pytest.mark.parametrize("app", [asgi, wsgi])
def test_the_claims_say_which_scheme_has_verified_the_credential(app: Any) -> None:
    async def main() -> None:
        manifest = {"auth": AUTH, "endpoints": [{"path": "/", "auth": list(AUTH)}]}
        async with hosted(manifest, app) as host:
            for scheme, headers in HEADERS.items():
                for _ in range(2):  # verified, then remembered
                    claims = (await host.get("/", headers=headers())).json()
                    assert claims["pywatt.auth"] == {"scheme": scheme, "type": KINDS[scheme]}
            more: dict[str, Any] = {"pywatt.auth": FORGED, "list": [1]}
            forged = {"authorization": f"Bearer {signed(**more)}"}
            for _ in range(2):
                claims = (await host.get("/", headers=forged)).json()
                assert (claims["pywatt.auth"], claims["list"]) == ({"scheme": "jwt", "type": "jwt"}, [1])

    run(main)


@pytest.mark.parametrize(("name", "expected"), [("pywatt.auth.scheme", 403), ("pywatt.auth.type", 403), ("role", 200)])
def test_a_requirement_of_the_hosts_own_claim_is_not_met_by_the_token(name: str, expected: int) -> None:
    """Neither by a claim of that name, nor by one at the path that the dots describe."""

    async def main() -> None:
        endpoints = [{"path": "/", "auth": {"scheme": ["jwt", "ops"], "claims": {name: ["ops", "basic"]}}}]
        auth = {name: AUTH[name] for name in ("jwt", "ops")}
        async with hosted({"auth": auth, "endpoints": endpoints}, Recorder()) as host:
            tokens: list[dict[str, Any]] = [{"pywatt.auth": FORGED}, {"pywatt": {"auth": FORGED}}, {name: "ops"}]
            for more in tokens:
                headers = {"authorization": f"Bearer {signed(**({'role': 'ops'} | more))}"}
                assert (await host.get("/", headers=headers)).status == expected
            if expected == 403:
                assert (await host.get("/", headers={"authorization": BASIC})).status == 200

    run(main)


async def asked(state: AppState, authorization: str | None) -> Any:
    try:
        return await state.request(state.module_id, {"type": "it"}, PATIENCE, authorization)
    except MessagingError as error:
        return error.code


async def control(host: Hosted) -> Any:
    """A message from the control socket, which has no credential."""
    try:
        return await host.host.channels.messages.handlers.deliver("it", {}, PATIENCE)
    except MessagingError as error:
        return error.code


async def posted(host: Hosted, authorization: str | None) -> Any:
    """A message by HTTP, as another module sends it."""
    properties = {} if authorization is None else {"authorization": authorization}
    message = {"content": {"type": "it"}, "metadata": {"source": "other", "properties": properties}}
    headers = {"content-type": "application/json", "authorization": f"Bearer {KEY}"}
    answer = await host.request("POST", "/_pywatt/messages", headers=headers, body=[json.dumps(message).encode()])
    content = answer.json()["content"]
    return content["code"] if content.get("type") == "error" else content


@pytest.mark.parametrize("channels", [{}, {"http": {"token": KEY}}])
@pytest.mark.parametrize(
    ("auth", "allowed"),
    [("jwt", {"jwt"}), (["jwt", "ops"], {"jwt", "ops"}), (["sso"], {"sso"}), ("ops", {"ops"}), ((), {*KINDS, "none"})],
)
def test_a_handler_of_messages_names_the_schemes_that_it_takes(channels: Any, auth: Any, allowed: set[str]) -> None:
    async def main() -> None:
        manifest = {"auth": AUTH, "channels": channels, "endpoints": [{"path": "/", "auth": list(AUTH)}]}
        async with hosted(manifest, Recorder()) as host:
            called: list[Any] = []

            @host.state.on_message("it", auth=auth)
            async def it(message: Any) -> Any:
                called.append(message)
                return host.state.claims.get("pywatt.auth", {})

            credentials = {name: HEADERS[name]()["authorization"] for name in ("jwt", "sso", "ops")}
            for name, credential in {**credentials, "none": None}.items():
                answers = [await asked(host.state, credential)]
                answers += [await posted(host, credential)] if channels else []
                vouched = {"scheme": name, "type": KINDS[name]} if name in KINDS else {}
                assert answers == [vouched if name in allowed else "unauthorized"] * len(answers), name
            invalid = f"Bearer {signed('x' * 40)}"
            assert await asked(host.state, invalid) == ("unauthorized" if auth else "handler_failed")
            count = len(called)
            assert await control(host) == ("unauthorized" if auth else {})
            assert len(called) == (count if auth else count + 1)

    run(main)


@pytest.mark.parametrize(
    ("auth", "words"),
    [
        ("jtw", r"'jtw' is not a declared scheme \(declared: jwt, sso, robots, ops\)"),
        (["jwt", "robots"], "'robots' has the type api_key, and messages have no API keys"),
    ],
)
def test_a_handler_cannot_name_a_scheme_that_messages_have_no_credentials_of(auth: Any, words: str) -> None:
    async def main() -> None:
        manifest = {"auth": AUTH, "endpoints": [{"path": "/", "auth": list(AUTH)}]}
        async with hosted(manifest, Recorder()) as host:
            with pytest.raises(ValueError, match=words):
                host.state.on_message("it", auth=auth)

    run(main)


def test_the_test_kit_delivers_messages_with_the_credential_of_the_client(pywatt_module: PywattModule) -> None:
    client = pywatt_module(
        {"app": Recorder(), "auth": {"jwt": AUTH["jwt"]}, "endpoints": [{"path": "/", "auth": "jwt"}]}
    )

    @client.state.on_message("refund", auth="jwt")
    async def refund(message: Any) -> Any:
        return [client.state.claims["sub"], client.state.claims["pywatt.auth"]["scheme"]]

    assert client.with_claims(sub="ann").deliver("refund") == ["ann", "jwt"]
    with pytest.raises(MessagingError, match=r"requires a credential of jwt, and there is none \(unauthorized\)"):
        client.deliver("refund")
