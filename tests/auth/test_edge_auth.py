"""What stands before the applications: who gets in, what the others are told, and what the application learns."""

from __future__ import annotations

import asyncio
import socket
import time
from types import SimpleNamespace
from typing import Any, cast, get_args

import httpx
import pytest
from flask import Flask
from joserfc.jwk import OKPKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from pywatt_host.auth.identity import Reason
from pywatt_host.auth.minting import Signer
from pywatt_host.starlette import app_state, claims
from pywatt_host.testing.client import ModuleClient
from pywatt_host.testing.modules import PywattModule
from pywatt_host.testing.websocket import WebSocketRefusedError
from tests.auth.tokens_for_tests import SECRET, signed
from tests.hosting import PATIENCE

JWT = {"jwt": {"secret": "${secret:JWT_SECRET}"}}
KEY = "k" * 32


async def told(request: Request) -> JSONResponse:
    return JSONResponse({"path": request.url.path, "claims": claims(request), "state": app_state(request).claims})


async def talk(socket: WebSocket) -> None:
    chosen = "chat" if "chat" in socket.scope["subprotocols"] else None
    await socket.accept(subprotocol=chosen)
    headers = [value.decode() for name, value in socket.scope["headers"] if name == b"sec-websocket-protocol"]
    await socket.send_json({"claims": claims(socket), "offered": socket.scope["subprotocols"], "header": headers})
    await socket.close()


def application() -> Starlette:
    methods = ["GET", "POST", "DELETE", "OPTIONS"]
    paths = ("/", "/open", "/private", "/admin", "/either", "/items/{id}", "/health")
    return Starlette(routes=[*(Route(path, told, methods=methods) for path in paths), WebSocketRoute("/ws", talk)])


def module(pywatt_module: PywattModule, endpoints: Any, auth: Any = JWT, **manifest: Any) -> ModuleClient:
    secrets = {"JWT_SECRET": SECRET, "KEYS": f"robot:{KEY}", "USERS": "ann:a password of hers"}
    document = {"app": application, "auth": auth, "endpoints": endpoints, "secrets": {"rotate": True}, **manifest}
    return pywatt_module(document, secrets=secrets)


def bearer(**claims: Any) -> dict[str, str]:
    return {"authorization": f"Bearer {signed(**claims)}"}


def challenges(answer: httpx.Response) -> list[str]:
    return answer.headers.get_list("www-authenticate")


def test_without_a_credential_an_endpoint_is_401_with_a_challenge_and_the_application_is_not_asked(
    pywatt_module: PywattModule,
) -> None:
    client = module(pywatt_module, [{"path": "/private", "auth": "jwt"}], module={"id": "users"})
    answer = client.get("/private")
    assert (answer.status_code, challenges(answer)) == (401, ['Bearer realm="users"'])
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json() == {"type": "about:blank", "title": "Unauthorized", "status": 401}


def test_a_credential_that_does_not_hold_is_told_nothing_but_that(pywatt_module: PywattModule) -> None:
    client = module(pywatt_module, [{"path": "/private", "auth": "jwt"}], module={"id": "users"})
    wrong = [
        client.get("/private", headers=bearer(exp=1)),
        client.get("/private", headers={"authorization": f"Bearer {signed()[:-2]}AA"}),
        client.get("/private", headers={"authorization": "Bearer x"}),
    ]
    assert {answer.status_code for answer in wrong} == {401}
    assert {tuple(challenges(answer)) for answer in wrong} == {('Bearer realm="users", error="invalid_token"',)}
    assert len({answer.content for answer in wrong}) == 1


def test_what_the_token_says_reaches_an_asgi_application(pywatt_module: PywattModule) -> None:
    client = module(pywatt_module, [{"path": "/private", "auth": "jwt"}, {"path": "/open", "auth": "none"}])
    said = client.get("/private", headers=bearer(sub="alice", roles=["a", "b"])).json()
    assert said["claims"]["sub"] == "alice"
    assert said["claims"]["roles"] == ["a", "b"]
    assert said["state"] == said["claims"]
    assert client.get("/open", headers=bearer(sub="alice")).json()["claims"] == {}


def test_claims_are_each_requests_own(pywatt_module: PywattModule) -> None:
    async def grab(request: Request) -> JSONResponse:
        mine = claims(request)
        mine["roles"].append("admin")
        return JSONResponse(claims(request)["roles"])

    app = Starlette(routes=[Route("/", grab)])
    document = {"app": lambda: app, "auth": JWT, "endpoints": [{"path": "/", "auth": "jwt"}]}
    client = pywatt_module(document, secrets={"JWT_SECRET": SECRET})
    headers = bearer(roles=["user"])
    assert [client.get("/", headers=headers).json() for _ in range(3)] == [["user", "admin"]] * 3


def test_what_the_token_says_reaches_flask(pywatt_module: PywattModule) -> None:
    from pywatt_host.flask import app_state as flask_state
    from pywatt_host.flask import claims as flask_claims

    app = Flask(__name__)

    @app.get("/private")
    def private() -> dict[str, Any]:
        return {"sub": flask_claims["sub"], "environ": dict(flask_claims), "state": flask_state.claims}

    @app.get("/open")
    def open_to_all() -> dict[str, Any]:
        return {"claims": dict(flask_claims)}

    document = {
        "app": lambda: app,
        "auth": JWT,
        "endpoints": [{"path": "/private", "auth": "jwt"}, {"path": "/open", "auth": "none"}],
    }
    client = pywatt_module(document, secrets={"JWT_SECRET": SECRET})
    said = client.get("/private", headers=bearer(sub="alice")).json()
    assert said["sub"] == said["environ"]["sub"] == said["state"]["sub"] == "alice"
    assert client.get("/open").json() == {"claims": {}}


def test_what_the_token_says_reaches_fastapi(pywatt_module: PywattModule) -> None:
    from fastapi import Depends, FastAPI

    from pywatt_host.fastapi import claims as of_request

    app = FastAPI()

    @app.get("/me")
    async def me(claims: dict[str, Any] = Depends(of_request)) -> str:  # noqa: B008 -- as FastAPI has it
        return str(claims["sub"])

    document = {"app": lambda: app, "auth": JWT, "endpoints": {"from": "auto", "auth": "jwt"}}
    client = pywatt_module(document, secrets={"JWT_SECRET": SECRET})
    assert client.with_claims(sub="alice").get("/me").json() == "alice"
    assert client.get("/docs").status_code == 401


@pytest.mark.parametrize(
    ("wanted", "claims", "status"),
    [
        ({"scopes": ["read"]}, {"scope": "write read"}, 200),
        ({"scopes": ["read"]}, {"scp": ["read"]}, 200),
        ({"scopes": ["read"]}, {"scp": "read"}, 200),
        ({"scopes": ["read", "write"]}, {"scope": "write", "scp": ["read"]}, 200),
        ({"scopes": ["read", "write"]}, {"scope": "read"}, 403),
        ({"scopes": ["read"]}, {}, 403),
        ({"scopes": ["read"]}, {"scope": "readwrite"}, 403),
        ({"scopes": ["read"]}, {"scope": ["read"]}, 200),
        ({"scopes": ["read"]}, {"scope": "READ"}, 403),
        ({"scopes": "read"}, {"scope": "read"}, 200),
        ({"claims": {"role": "admin"}}, {"role": "admin"}, 200),
        ({"claims": {"role": "admin"}}, {"role": "user"}, 403),
        ({"claims": {"role": "admin"}}, {}, 403),
        ({"claims": {"role": ["owner", "admin"]}}, {"role": "admin"}, 200),
        ({"claims": {"role": "admin"}}, {"role": ["user", "admin"]}, 200),
        ({"claims": {"role": "admin"}}, {"role": []}, 403),
        ({"claims": {"role": "admin"}}, {"role": None, "sub": "admin"}, 403),
        ({"claims": {"realm.roles": "admin"}}, {"realm": {"roles": ["admin"]}}, 200),
        ({"claims": {"realm.roles": "admin"}}, {"realm": "roles admin"}, 403),
        ({"claims": {"realm.roles": "admin"}}, {"realm": {}}, 403),
        ({"claims": {"https://x.example/role": "admin"}}, {"https://x.example/role": "admin"}, 200),
        ({"claims": {"level": 3}}, {"level": 3}, 200),
        ({"claims": {"level": 3}}, {"level": "3"}, 403),
        ({"claims": {"level": 1}}, {"level": True}, 403),
        ({"claims": {"verified": True}}, {"verified": True}, 200),
        ({"claims": {"verified": True}}, {"verified": 1}, 403),
        ({"claims": {"verified": True}}, {"verified": "true"}, 403),
        ({"claims": {"a": "1", "b": "2"}}, {"a": "1"}, 403),
        ({"claims": {"a": "1", "b": "2"}}, {"a": "1", "b": "2"}, 200),
    ],
)
def test_scopes_and_claims_decide(
    pywatt_module: PywattModule, wanted: dict[str, Any], claims: dict[str, Any], status: int
) -> None:
    client = module(pywatt_module, [{"path": "/admin", "auth": {"scheme": "jwt", **wanted}}])
    answers = [client.get("/admin", headers=bearer(**claims)) for _ in range(2)]  # the second is remembered
    assert [answer.status_code for answer in answers] == [status, status]
    if status == 403 and "scopes" in wanted:
        assert 'error="insufficient_scope"' in challenges(answers[0])[0]
        assert "read" in challenges(answers[0])[0]


ALL = {
    "jwt": {"secret": "${secret:JWT_SECRET}"},
    "key": {"type": "api_key", "keys": "${secret:KEYS}"},
    "ops": {"type": "basic", "users": "${secret:USERS}"},
}


def test_of_several_schemes_the_one_that_presents_itself_decides(pywatt_module: PywattModule) -> None:
    client = module(pywatt_module, [{"path": "/either", "auth": ["jwt", "key", "ops"]}], ALL, module={"id": "users"})

    def asked(**headers: str) -> tuple[int, str]:
        answer = client.get("/either", headers={name.replace("_", "-"): value for name, value in headers.items()})
        return answer.status_code, answer.json().get("claims", {}).get("sub", "")

    basic = httpx.BasicAuth("ann", "a password of hers")._auth_header
    wrong = httpx.BasicAuth("ann", "not hers")._auth_header
    assert asked(**bearer(sub="alice")) == (200, "alice")
    assert asked(x_api_key=KEY) == (200, "robot")
    assert asked(authorization=basic) == (200, "ann")
    assert asked(authorization=wrong)[0] == 401
    assert asked(x_api_key="wrong")[0] == 401
    # The first credential decides: a second one that is valid does not help a request whose first one is not.
    assert asked(authorization="Bearer x", x_api_key=KEY)[0] == 401
    assert asked(x_api_key=KEY, **bearer(sub="alice")) == (200, "alice")
    answer = client.get("/either")
    assert answer.status_code == 401
    assert [value.partition(" ")[0] for value in challenges(answer)] == ["Bearer", "ApiKey", "Basic"]


def test_two_schemes_of_tokens_are_told_apart_by_what_they_take(pywatt_module: PywattModule) -> None:
    other = "o" * 40
    auth = {
        "ours": {"type": "jwt", "secret": "${secret:JWT_SECRET}", "issuer": "us"},
        "theirs": {"type": "jwt", "secret": other, "issuer": "them"},
    }
    client = module(pywatt_module, [{"path": "/either", "auth": ["ours", "theirs"]}], auth)
    assert client.get("/either", headers=bearer(iss="us")).status_code == 200
    assert client.get("/either", headers={"authorization": f"Bearer {signed(other, iss='them')}"}).status_code == 200
    assert client.get("/either", headers={"authorization": f"Bearer {signed(other, iss='us')}"}).status_code == 401
    assert client.get("/either", headers=bearer(iss="them")).status_code == 401
    assert client.get("/either", headers=bearer(iss="nobody")).status_code == 401


def test_a_default_covers_every_route_that_no_rule_excepts(pywatt_module: PywattModule) -> None:
    endpoints = {"from": "auto", "auth": "jwt", "rules": [{"path": "/open", "auth": "none"}]}
    client = module(pywatt_module, endpoints)
    status = {path: client.get(path).status_code for path in ("/", "/open", "/private", "/items/1", "/nowhere")}
    assert status == {"/": 401, "/open": 200, "/private": 401, "/items/1": 401, "/nowhere": 401}
    assert client.with_claims().get("/nowhere").status_code == 404
    assert client.get("/open/").status_code != 401


def test_a_rule_for_one_method_leaves_the_others_to_the_default(pywatt_module: PywattModule) -> None:
    endpoints = {"from": "auto", "auth": "jwt", "rules": [{"path": "/items/{id}", "methods": ["GET"], "auth": "none"}]}
    client = module(pywatt_module, endpoints)
    status = {name: client.request(name, "/items/1").status_code for name in ("GET", "HEAD", "DELETE", "OPTIONS")}
    assert status == {"GET": 200, "HEAD": 200, "DELETE": 401, "OPTIONS": 401}


def test_a_method_that_nobody_declared_is_no_way_round_another_ones_guard(pywatt_module: PywattModule) -> None:
    endpoints = {"from": "auto", "auth": "none", "rules": [{"path": "/private", "methods": ["GET"], "auth": "jwt"}]}
    client = module(pywatt_module, endpoints)
    assert client.get("/private").status_code == 401
    assert client.head("/private").status_code == 401
    assert client.post("/private").status_code == 200  # the manifest says so
    assert client.request("PROPFIND", "/private").status_code == 405
    assert client.request("get", "/private").status_code in (401, 405)


@pytest.mark.parametrize("endpoints", ["auto", [{"path": "/", "auth": "jwt"}]])
def test_a_health_path_that_the_application_serves_is_open(pywatt_module: PywattModule, endpoints: Any) -> None:
    if endpoints == "auto":
        endpoints = {"from": "auto", "auth": "jwt"}
    client = module(pywatt_module, endpoints)
    assert [client.get(path).status_code for path in ("/", "/health", "/livez", "/readyz")] == [401, 200, 200, 200]
    assert client.get("/health").json()["path"] == "/health"


def test_a_health_path_that_asks_for_something_is_asked_for_it(pywatt_module: PywattModule) -> None:
    client = module(pywatt_module, {"from": "auto", "rules": [{"path": "/health", "auth": "jwt"}]})
    assert client.get("/health").status_code == 401
    assert client.with_claims().get("/health").status_code == 200


def test_metrics_ask_and_count(pywatt_module: PywattModule) -> None:
    client = module(pywatt_module, [{"path": "/private", "auth": "jwt"}], ALL, metrics={"auth": ["ops", "key"]})
    assert client.get("/metrics").status_code == 401
    client.get("/private")
    client.get("/private", headers=bearer(exp=1))
    text = client.get("/metrics", headers={"x-api-key": KEY}).text
    assert 'pywatt_auth_failures_total{reason="missing",scheme="jwt"} 1.0' in text
    assert 'pywatt_auth_failures_total{reason="expired",scheme="jwt"} 1.0' in text
    assert 'pywatt_auth_failures_total{reason="missing",scheme="ops"} 1.0' in text


def test_the_access_log_has_the_subject_or_the_reason_and_never_the_token(pywatt_module: PywattModule) -> None:
    scoped = {"scheme": "jwt", "scopes": ["admin"]}
    endpoints = [{"path": "/private", "auth": "jwt"}, {"path": "/admin", "auth": scoped}]
    client = module(pywatt_module, endpoints)
    odd = 'Jürgen "x"\n\x1b[31m'
    client.get("/private", headers=bearer(sub=odd))
    client.get("/private", headers=bearer(exp=1))
    client.get("/admin", headers=bearer(sub="ann"))
    lines = [line for line in client.logs if line["logger"] == "pywatt.access"]
    assert [(line["status"], line.get("subject"), line.get("reason")) for line in lines] == [
        (200, odd, None),
        (401, None, "auth.jwt: expired"),
        (403, "ann", "auth.jwt: scope"),
    ]
    assert "eyJ" not in str(client.logs)


def test_rates_count_by_subject_and_refused_credentials_by_address(pywatt_module: PywattModule) -> None:
    client = module(pywatt_module, [{"path": "/private", "auth": "jwt", "rate_limit": "2/h"}])
    alice, bob = client.with_claims(sub="alice"), client.with_claims(sub="bob")
    assert [alice.get("/private").status_code for _ in range(3)] == [200, 200, 429]
    assert [bob.get("/private").status_code for _ in range(2)] == [200, 200]
    assert [client.get("/private").status_code for _ in range(3)] == [401, 401, 429]
    assert int(client.get("/private").headers["retry-after"]) > 0
    assert client.with_claims(sub="@127.0.0.1").get("/private").status_code == 429


def test_a_body_limit_is_not_told_to_whom_nobody_knows(pywatt_module: PywattModule) -> None:
    client = module(pywatt_module, [{"path": "/private", "methods": ["POST"], "auth": "jwt", "body": "10B"}])
    assert client.post("/private", content=b"x" * 11).status_code == 401
    assert client.with_claims().post("/private", content=b"x" * 11).status_code == 413


def test_preflight_is_answered_without_a_credential_and_refusals_carry_the_cors_headers(
    pywatt_module: PywattModule,
) -> None:
    cors = {"cors": {"allow_origins": ["https://x.example"], "allow_headers": ["authorization"]}}
    client = module(pywatt_module, [{"path": "/private", "auth": "jwt"}], server=cors)
    asked = {
        "origin": "https://x.example",
        "access-control-request-method": "GET",
        "access-control-request-headers": "authorization",
    }
    assert client.options("/private", headers=asked).status_code == 200
    refused = client.get("/private", headers={"origin": "https://x.example"})
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, "https://x.example")
    allowed = client.get("/private", headers={"origin": "https://x.example", **bearer()})
    assert allowed.status_code == 200
    assert client.options("/private").status_code == 405


WS = [{"path": "/ws", "methods": ["WEBSOCKET"], "auth": "jwt"}]


def test_a_websocket_brings_its_token_in_the_header(pywatt_module: PywattModule) -> None:
    client = module(pywatt_module, WS)
    with client.websocket("/ws", headers=bearer(sub="alice"), subprotocols=["chat"]) as socket:
        said = socket.receive_json()
    assert said["claims"]["sub"] == "alice"
    assert (socket.subprotocol, said["offered"]) == ("chat", ["chat"])


@pytest.mark.parametrize(
    ("offered", "chosen", "left"),
    [(["bearer", "TOKEN"], "bearer", []), (["chat", "bearer", "TOKEN"], "chat", ["chat"])],
)
def test_a_websocket_of_a_browser_brings_its_token_as_a_subprotocol(
    pywatt_module: PywattModule, offered: list[str], chosen: str, left: list[str]
) -> None:
    client = module(pywatt_module, WS)
    token = signed(sub="alice")
    with client.websocket("/ws", subprotocols=[token if each == "TOKEN" else each for each in offered]) as socket:
        said = socket.receive_json()
    assert (socket.subprotocol, said["offered"], said["claims"]["sub"]) == (chosen, left, "alice")
    assert token not in str(said["header"])


@pytest.mark.parametrize(
    ("headers", "offered", "path"),
    [
        ({}, [], "/ws"),
        ({"authorization": "Bearer x"}, [], "/ws"),
        ({}, ["bearer"], "/ws"),
        ({}, ["bearer", "x"], "/ws"),
        ({}, [], "/ws?access_token=TOKEN"),
        ({}, [], "/ws?token=TOKEN"),
        ({"authorization": "Bearer TOKEN"}, ["bearer", "TOKEN"], "/ws"),  # twice: which of them counts?
        ({"cookie": "token=TOKEN"}, [], "/ws"),
    ],
)
def test_a_websocket_without_a_token_that_holds_is_refused_before_it_is_accepted(
    pywatt_module: PywattModule, headers: dict[str, str], offered: list[str], path: str
) -> None:
    client = module(pywatt_module, WS)
    token = signed()
    with (
        pytest.raises(WebSocketRefusedError) as refused,
        client.websocket(
            path.replace("TOKEN", token),
            headers={name: value.replace("TOKEN", token) for name, value in headers.items()},
            subprotocols=[each.replace("TOKEN", token) for each in offered],
        ),
    ):
        pass
    assert refused.value.status == 401


def test_a_rotated_secret_holds_at_once_and_the_one_before_it_for_a_while(pywatt_module: PywattModule) -> None:
    client = module(pywatt_module, [{"path": "/private", "auth": "jwt"}])
    new = "n" * 40
    before, after = bearer(), {"authorization": f"Bearer {signed(new)}"}
    assert client.get("/private", headers=after).status_code == 401
    client.rotate(JWT_SECRET=new)
    assert [client.get("/private", headers=headers).status_code for headers in (before, after)] == [200, 200]


def test_with_previous_off_what_was_rotated_away_is_refused_at_once(pywatt_module: PywattModule) -> None:
    auth = {"jwt": {"secret": "${secret:JWT_SECRET}", "previous": "off"}}
    client = module(pywatt_module, [{"path": "/private", "auth": "jwt"}], auth)
    before = bearer()
    assert client.get("/private", headers=before).status_code == 200
    client.rotate(JWT_SECRET="n" * 40)
    assert client.get("/private", headers=before).status_code == 401


def test_a_rotation_to_a_secret_that_is_too_short_is_refused_and_changes_nothing(pywatt_module: PywattModule) -> None:
    from pywatt_host import SecretError

    client = module(pywatt_module, [{"path": "/private", "auth": "jwt"}])
    with pytest.raises(SecretError, match=r"auth\.jwt\.secret.*32 bytes") as refused:
        client.rotate(JWT_SECRET="too short")
    assert "too short" not in str(refused.value).replace("it is too short", "")
    assert client.get("/private", headers=bearer()).status_code == 200


def test_a_start_without_a_usable_key_names_it(pywatt_module: PywattModule) -> None:
    from pywatt_host.exceptions import AuthError

    document = {"app": application, "auth": JWT, "endpoints": [{"path": "/", "auth": "jwt"}]}
    with pytest.raises(AuthError, match=r"auth\.jwt\.secret.*32 bytes") as failed:
        pywatt_module(document, secrets={"JWT_SECRET": "a short one"})
    assert "a short one" not in str(failed.value)
    assert failed.value.exit_code == 3


def test_a_request_over_a_channel_is_asked_as_any_other(pywatt_module: PywattModule) -> None:
    from pywatt_host.messaging.http_requests import ChannelRequests
    from pywatt_host.protocol.messages import HttpRequest

    client = module(pywatt_module, [{"path": "/private", "auth": "jwt"}])

    async def asked() -> list[int]:
        async with asyncio.TaskGroup() as tasks:
            unary = ChannelRequests(lambda: client._module.app, body=None, frame=1 << 20, timeout=5)
            async with unary.running(tasks):
                requests = [
                    HttpRequest("1", "GET", "/private", {}, None),
                    HttpRequest("2", "GET", "/private", {"Authorization": f"Bearer {signed()}"}, None),
                    HttpRequest("3", "GET", "/private", {"authorization": "Bearer x"}, None),
                ]
                return [(await unary(each)).status_code for each in requests]

    assert client.run(asked()) == [401, 200, 401]


def test_messages_bring_credentials_that_are_verified_here(pywatt_module: PywattModule) -> None:
    from pywatt_host import MessagingError

    client = module(pywatt_module, [{"path": "/private", "auth": "jwt"}])
    vouch = client.host.schemes.vouch
    assert vouch is not None
    assert client.run(vouch(f"Bearer {signed(sub='alice')}"))["sub"] == "alice"
    with pytest.raises(MessagingError, match="is not valid for this module"):
        client.run(vouch("Bearer x"))


def test_an_issuer_that_is_down_does_not_keep_the_host_from_starting(pywatt_module: PywattModule) -> None:
    with socket.socket() as nobody:  # bound, and nobody listens
        nobody.bind(("127.0.0.1", 0))
        issuer = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        auth = {"sso": {"type": "oidc", "issuer": issuer, "audience": "users"}}
        health = {"path": "/status", "start_period": "1ms"}
        client = module(pywatt_module, [{"path": "/private", "auth": "sso"}], auth, health=health)
        assert client.get("/readyz").status_code == 200
        until = time.monotonic() + PATIENCE
        while client.get("/status").json()["status"] != "degraded":  # once the first look at the issuer is over
            assert time.monotonic() < until
        assert client.get("/private").status_code == 401
        token = Signer(OKPKey.generate_key("Ed25519"), "EdDSA", "1").mint({"iss": issuer, "aud": "users", "exp": 4e9})
        answer = client.get("/private", headers={"authorization": f"Bearer {token}"})
        assert (answer.status_code, answer.headers["retry-after"].isdigit()) == (503, True)
        assert client.with_claims().get("/private").status_code == 200


def test_dev_says_why() -> None:
    from pywatt_host.http.explanation import _AUTH_REASONS, Explanations
    from pywatt_host.manifest import Source, load

    manifest = load(Source.of_text("app: x:y\n")).manifest
    explain = Explanations(manifest)
    said = explain(cast("Any", SimpleNamespace(method="GET", path="/", plan=None)), 401, "auth.jwt: expired")
    assert said == "the token or certificate has expired; see auth.jwt in the manifest"
    assert set(_AUTH_REASONS) == set(get_args(Reason))
