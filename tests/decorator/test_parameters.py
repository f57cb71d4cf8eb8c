"""Each parameter of the decorator and its YAML twin make equal manifests; what cannot be is said, all at once."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest

from pywatt_host import AnnouncedEndpoint, AppState, ManifestError, pywatt_module
from pywatt_host.decorator.module import DecoratedModule
from pywatt_host.manifest import Source, load
from tests.processes import ROOT


def create_app(app_state: AppState) -> Any:
    raise NotImplementedError


def build_state(init: Any, secrets: Any) -> Any:
    raise NotImplementedError


def decorated(**arguments: Any) -> DecoratedModule:
    module = pywatt_module(**arguments)(create_app)
    assert isinstance(module, DecoratedModule)
    return module


def faults(**arguments: Any) -> list[str]:
    with pytest.raises(ManifestError) as caught:
        decorated(**arguments)
    place = r"tests/decorator/test_parameters\.py:\d+"
    assert all(re.fullmatch(place, problem.file) for problem in caught.value.problems)
    return [problem.what for problem in caught.value.problems]


ENDPOINTS = [
    AnnouncedEndpoint(path="/api/users", methods=["get", "POST"]),
    AnnouncedEndpoint("/ws", ["WEBSOCKET"], summary="News", timeout="5s", concurrency=3),
    AnnouncedEndpoint("/in", body="1MiB", rate_limit="10/s"),
]
TWINS: list[tuple[dict[str, Any], str]] = [
    ({}, ""),
    ({"secrets": ["A_URL", "API_KEY"], "rotate": True}, "secrets: {keys: [A_URL, API_KEY], rotate: true}"),
    ({"secrets": []}, "secrets: []"),
    ({"rotate": False}, "secrets: {rotate: false}"),
    (
        {"endpoints": ENDPOINTS},
        """
        endpoints:
          - {path: /api/users, methods: [GET, POST]}
          - {path: /ws, methods: [WEBSOCKET], summary: News, timeout: 5s, concurrency: 3}
          - {path: /in, body: 1MiB, rate_limit: 10/s}
        """,
    ),
    ({"endpoints": []}, "endpoints: []"),
    ({"health": "/healthz"}, "health: /healthz"),
    ({"health": False}, "health: false"),
    ({"health": {"path": "/h", "interval": "1s"}}, "health: {path: /h, interval: 1s}"),
    ({"metrics": True}, "metrics: true"),
    ({"metrics": False}, "metrics: false"),
    ({"metrics": "/m"}, "metrics: /m"),
    ({"metrics": {"buckets": [0.1, 1.0]}}, "metrics: {buckets: [0.1, 1.0]}"),
    (
        {"jwt_secret": "your-secret"},
        "auth: {jwt: {type: jwt, secret: your-secret, allow_weak_secret: true}}",
    ),
    (
        {"endpoints": [AnnouncedEndpoint("/a", auth="jwt"), AnnouncedEndpoint("/b", auth="none")]},
        """
        auth: {jwt: {type: jwt, secret: "${secret:JWT_SECRET}"}}
        endpoints: [{path: /a, auth: jwt}, {path: /b, auth: none}]
        """,
    ),
    (
        {
            "endpoints": [AnnouncedEndpoint("/a", auth={"scheme": ["key", "jwt"], "scopes": ["x"]})],
            "manifest": {"auth": {"key": {"type": "api_key", "keys": "k" * 20}}},
        },
        f"""
        auth: {{key: {{type: api_key, keys: {"k" * 20}}}, jwt: {{type: jwt, secret: "${{secret:JWT_SECRET}}"}}}}
        endpoints: [{{path: /a, auth: {{scheme: [key, jwt], scopes: [x]}}}}]
        """,
    ),
    ({"framework": "fastapi"}, ""),
    ({"state_builder": build_state}, "state: tests.decorator.test_parameters:build_state"),
    ({"enable_tcp": True}, "channels: {tcp: {listen: '127.0.0.1:9000'}}"),
    ({"enable_tcp": False, "tcp_config": {"port": 1}}, ""),
    (
        {"enable_tcp": True, "tcp_config": {"host": "::1", "port": 7, "token": "t" * 20}},
        f"channels: {{tcp: {{listen: '[::1]:7', token: {'t' * 20}}}}}",
    ),
    (
        {"enable_tcp": True, "tcp_config": {"connect": "10.0.0.5:9000", "required": True}},
        "channels: {tcp: {connect: '10.0.0.5:9000', required: true}}",
    ),
    (
        {"enable_tcp": True, "tcp_config": {"listen": "0.0.0.0:9", "tls": {"cert": "a", "key": "b", "client_ca": "c"}}},
        "channels: {tcp: {listen: '0.0.0.0:9', tls: {cert: a, key: b, client_ca: c}}}",
    ),
    ({"enable_ipc": True}, "channels: {ipc: {listen: .pywatt/test_parameters.sock}}"),
    (
        {"enable_ipc": True, "ipc_config": {"path": "run/a.sock", "mode": "0660"}},
        "channels: {ipc: {listen: run/a.sock, mode: '0660'}}",
    ),
    ({"enable_ipc": True, "ipc_config": {"connect": "/run/x"}}, "channels: {ipc: {connect: /run/x}}"),
    ({"enable_database": True}, "databases: {default: 'sqlite:///app.db'}"),
    ({"enable_database": False, "database_config": {"type": "sqlite"}}, ""),
    (
        {"enable_database": True, "database_config": {"type": "postgresql", "url": "..."}},
        "databases: {default: '${secret:DATABASE_URL}'}",
    ),
    (
        {"enable_database": True, "database_config": {"url": "mysql://u@h/d", "pool": {"max": 3}, "optional": True}},
        "databases: {default: {url: 'mysql://u@h/d', pool: {max: 3}, optional: true}}",
    ),
    ({"enable_cache": True}, "caches: {default: 'memory://'}"),
    (
        {"enable_cache": True, "cache_config": {"type": "redis", "url": "...", "ttl": "60s"}},
        "caches: {default: {url: '${secret:CACHE_URL}', ttl: 60s}}",
    ),
    (
        {"enable_cache": True, "cache_config": {"type": "redis", "url": "rediss://h:1/0"}},
        "caches: {default: 'rediss://h:1/0'}",
    ),
    ({"version": "1.4.0"}, "module: {version: 1.4.0}"),
    ({"config": {"page": 5, "deep": {"list": [1, None]}}}, "config: {page: 5, deep: {list: [1, null]}}"),
    (
        {"manifest": {"server": {"listen": ":1"}, "secrets": {"sources": ["env"]}}, "secrets": ["A"], "version": "2"},
        "{server: {listen: ':1'}, secrets: {sources: [env], keys: [A]}, module: {version: '2'}}",
    ),
]


@pytest.mark.parametrize(("arguments", "text"), TWINS, ids=[str(number) for number in range(len(TWINS))])
def test_a_decorator_and_its_yaml_twin_make_equal_manifests(arguments: dict[str, Any], text: str) -> None:
    module = decorated(**arguments)
    mine = load(module.source(), environ={}).manifest
    app = {"app": "tests.decorator.test_parameters:create_app"}
    import yaml

    written = yaml.safe_dump({**app, **(yaml.safe_load(text) or {})})
    assert load(Source.of_text(written, directory=ROOT), environ={}).manifest == mine


def test_every_parameter_has_its_twin_and_its_row_in_the_documentation() -> None:
    parameters = {name for name in inspect.signature(pywatt_module).parameters if name != "function"}
    tried = {name for arguments, _ in TWINS for name in arguments}
    assert tried == parameters
    table = (ROOT / "docs" / "decorator.md").read_text(encoding="utf-8").partition("## Parameters")[2]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == parameters


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"enable_database": True, "database_config": {"type": "postgre"}}, 'did you mean "postgres"?'),
        ({"enable_database": True, "database_config": {"type": "mysql", "url": "sqlite:///x"}}, "the type is mysql"),
        ({"enable_database": True, "database_config": {"url": "nothing"}}, "expected a URL with its scheme"),
        ({"enable_database": True, "database_config": {"uri": "sqlite:///x"}}, 'did you mean "url"?'),
        ({"enable_database": 1}, "expected True or False"),
        ({"enable_cache": True, "cache_config": {"type": "redis", "url": "memory://"}}, "the type is redis"),
        ({"cache_config": {"type": "redis"}}, "it has no effect without enable_cache=True"),
    ],
)
def test_stores_that_cannot_be_are_said(arguments: dict[str, Any], said: str) -> None:
    (fault,) = faults(**arguments)
    assert said in fault


def test_every_fault_is_reported_at_once_with_the_line_of_the_decorator() -> None:
    found = faults(
        endpoints=[AnnouncedEndpoint("/a", auth="jwt"), "/b"],
        jwt_secret=b"octets",
        secrets="API_KEY",
        framework="flsk",
        enable_tcp=True,
        tcp_config={"prt": 1, "port": "9000"},
    )
    assert found == [
        'secrets: expected a list of names (secrets=["DATABASE_URL"]; sources go into manifest=)',
        "endpoints[1]: expected an AnnouncedEndpoint, not str",
        'framework: "flsk" is not a known framework (did you mean "flask"?)',
        "jwt_secret: expected a string (or declare auth in manifest=, with a declared secret)",
        'tcp_config.prt: unknown key (did you mean "port"?)',
        "tcp_config.port: expected an integer",
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"metrics": True, "manifest": {"metrics": False}}, "`manifest` already has `metrics`"),
        ({"secrets": ["A"], "manifest": {"secrets": ["B"]}}, "`manifest` already has `secrets.keys`"),
        ({"rotate": True, "manifest": {"secrets": {"rotate": False}}}, "`manifest` already has `secrets.rotate`"),
        ({"jwt_secret": "x", "manifest": {"auth": {"jwt": {"secret": "y"}}}}, "`manifest` already has `auth.jwt`"),
        ({"endpoints": [AnnouncedEndpoint("/a", auth="jwtt")]}, '"jwtt" is not a declared scheme'),
        ({"manifest": {"app": "x:y"}}, "`app` is the decorated function itself"),
        ({"manifest": 5}, "expected a mapping in the form of a manifest file"),
        ({"config": {"x": object()}}, "a manifest cannot have this value"),
        ({"config": {"x": float("nan")}}, "a manifest cannot have this value"),
        ({"tcp_config": {"port": 1}}, "without enable_tcp=True"),
        ({"enable_ipc": "yes"}, "expected True or False"),
        ({"enable_tcp": True, "tcp_config": "x"}, "expected a mapping"),
        ({"enable_tcp": True, "tcp_config": {"port": 1, "listen": ":2"}}, "leave one of them out"),
        ({"enable_ipc": True, "ipc_config": {"path": "a", "listen": "b"}}, "leave one of them out"),
        ({"enable_tcp": True, "tcp_config": {"host": 5}}, "tcp_config.host: expected a string"),
        ({"endpoints": [AnnouncedEndpoint("/a", 5)]}, "endpoints[0].methods"),  # type: ignore[arg-type]
        ({"endpoints": [AnnouncedEndpoint("/a", None)]}, "endpoints[0].methods: the key has no value"),  # type: ignore[arg-type]
        ({"state_builder": 5}, "expected a function (init, secrets)"),
        ({"health": "healthz"}, '"healthz" is not a path prefix'),
        ({"manifest": {"sevrer": {}}}, 'did you mean "server"?'),
        ({"endpoints": [AnnouncedEndpoint("/a"), AnnouncedEndpoint("/a")]}, "matches the same requests"),
    ],
)
def test_arguments_that_cannot_be_are_faults(arguments: dict[str, Any], said: str) -> None:
    assert said in "\n".join(faults(**arguments))


def test_a_lambda_may_build_the_state_of_another() -> None:
    build: Any = lambda init, secrets: 5  # noqa: E731  # two functions without a name are what this is about
    module = pywatt_module(state_builder=build)(lambda app_state: None)
    assert module.objects[str(module.data["state"])] is build
    assert module.objects[module.import_path] is module


def test_arguments_are_never_interpolated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAGE", "5")
    module = decorated(config={"page": "${PAGE}"}, version="${PAGE}")
    manifest = load(module.source()).manifest
    assert (manifest.config["page"], manifest.module.version) == ("${PAGE}", "${PAGE}")


def test_overrides_lie_over_the_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    module = decorated(metrics=True)
    monkeypatch.setenv("PYWATT__METRICS", "false")
    assert not load(module.source()).manifest.metrics.enabled
    assert load(module.source(), overrides=["metrics=/m"]).manifest.metrics.path == "/m"


def test_an_override_counts_when_the_decorator_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYWATT__HEALTH", "/healthz")
    decorated(health="no path")


def test_a_tcp_channel_that_others_can_reach_gets_a_random_token() -> None:
    one, other = (decorated(enable_tcp=True, tcp_config={"host": "0.0.0.0", "port": 9000}) for _ in range(2))
    assert one.random_token != other.random_token
    assert len(one.random_token or "") > 40
    tcp = load(one.source(), environ={}).manifest.channels.tcp
    assert tcp is not None
    assert tcp.token == one.random_token
    assert decorated(enable_tcp=True).random_token is None
