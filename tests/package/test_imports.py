"""Pay only for what is declared: what a process has loaded after it did one thing, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.processes import Project, environment

# Everything that takes long to import, or that not every host needs.
HEAVY = (
    "a2wsgi",
    "aiocache",
    "aiosqlite",
    "authlib",
    "bcrypt",
    "click",
    "cryptography",
    "databases",
    "django",
    "dotenv",
    "fastapi",
    "flask",
    "h11",
    "httptools",
    "httpx",
    "hvac",
    "hypothesis",
    "joserfc",
    "jsonschema",
    "litestar",
    "opentelemetry",
    "orjson",
    "prometheus_client",
    "pydantic",
    "pydantic_settings",
    "pywatt_host.auth.schemes",
    "pywatt_host.build.host",
    "pywatt_host.http.static",
    "pywatt_host.cli.inspection",
    "pywatt_host.build.channels",
    "pywatt_host.manifest.schema.json_schema",
    "pywatt_host.observability.app_spans",
    "pywatt_host.observability.exposition",
    "pywatt_host.observability.otlp",
    "pywatt_host.observability.otlp_http",
    "pywatt_host.observability.span_export",
    "pywatt_host.observability.trace_settings",
    "pywatt_host.orchestrator",
    "pywatt_host.protocol",
    "pywatt_host.clients.resilience",
    "pywatt_host.stores.kinds",
    "pywatt_host.stores.service",
    "pywatt_host.wsgi",
    "quart",
    "redis",
    "sqlalchemy",
    "starlette",
    "uvicorn",
    "uvloop",
    "websockets",
    "werkzeug",
    "yaml",
)
RAW = "async def app(scope, receive, send): raise RuntimeError('declined')\n"


def loaded(project: Project, code: str) -> set[str]:
    """The heavy modules that are there once `code` has run."""
    tail = f"\nimport sys, json\nprint(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    done = subprocess.run(
        [sys.executable, "-c", code + tail],
        capture_output=True,
        text=True,
        cwd=project.folder,
        env=environment(project.folder),
        timeout=60,
        check=True,
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def of_running(project: Project, *asked: str, **manifest: Any) -> set[str]:
    """The heavy modules of a running host, as its application tells them, once it has been asked for these paths."""
    project.write(
        "probe.py",
        f"""
        import json, sys

        async def app(scope, receive, send):
            if scope["type"] != "http" or scope["path"] == "/health":
                raise RuntimeError("declined")
            body = json.dumps([name for name in {HEAVY!r} if name in sys.modules]).encode()
            await send({{"type": "http.response.start", "status": 200, "headers": []}})
            await send({{"type": "http.response.body", "body": body}})
        """,
    )
    mounts = manifest.pop("mounts", [])
    project.manifest(app={"import_path": "probe:app", "route_prefix": "/probe"}, mounts=mounts, **manifest)
    host = project.host()
    with host.connect() as connection:
        for path in asked:
            assert connection.request("GET", path).status == 200, path
        found = set(connection.request("GET", "/probe").json())
    assert host.stop() == 0
    return found


def test_the_package_itself_costs_nothing(project: Project) -> None:
    assert loaded(project, "import pywatt_host") == set()


def test_names_of_the_package_are_loaded_when_they_are_used(project: Project) -> None:
    assert loaded(project, "from pywatt_host import HostError, ManifestError") == set()
    assert loaded(project, "from pywatt_host import load_manifest") <= {"pydantic", "yaml", "orjson"}


@pytest.mark.parametrize(
    ("arguments", "allowed"),
    [
        (["--help"], {"click"}),
        (["--version"], {"click"}),
        (
            ["validate", "--no-import", "pywatt.yaml"],
            {"click", "pydantic", "yaml", "jsonschema", "pywatt_host.manifest.schema.json_schema"},
        ),
        (["config", "pywatt.yaml"], {"click", "pydantic", "yaml"}),
        (["ps"], {"click"}),
    ],
)
def test_a_verb_loads_what_it_needs(project: Project, arguments: list[str], allowed: set[str]) -> None:
    project.write("main.py", RAW)
    project.manifest()
    code = f"from pywatt_host.cli import main\ntry:\n    main({arguments!r})\nexcept SystemExit as end:\n"
    code += "    assert not end.code"
    assert loaded(project, code) - allowed == set()


# a2wsgi: uvicorn's own configuration imports it where it is installed.
STORES = {"pywatt_host.stores.kinds", "pywatt_host.stores.service"}
TRACING = {f"pywatt_host.observability.{name}" for name in ("otlp", "span_export", "trace_settings")}
SERVER = {
    "a2wsgi",
    "click",
    "httptools",
    "uvloop",
    "h11",
    "uvicorn",
    "pydantic",
    "yaml",
    "orjson",
    "pywatt_host.build.host",
}


def test_a_raw_asgi_application_with_everything_switched_on_that_costs_nothing(project: Project) -> None:
    found = of_running(project, metrics=True, endpoints=[{"path": "/probe"}])
    assert found <= SERVER, found - SERVER


@pytest.mark.parametrize(
    ("manifest", "asked", "brings"),
    [
        ({"metrics": True}, ["/metrics"], {"prometheus_client", "pywatt_host.observability.exposition"}),
        ({"mounts": [{"route_prefix": "/w", "import_path": "w:app"}]}, [], {"pywatt_host.wsgi"}),
        ({"mounts": [{"route_prefix": "/s", "directory": "."}]}, [], {"starlette", "pywatt_host.http.static"}),
        ({"server": {"cors": {"allow_origins": ["*"]}}}, [], {"starlette"}),
        (
            {"auth": {"jwt": {"secret": "s" * 32}}},
            [],
            {"cryptography", "joserfc", "pywatt_host.auth.schemes"},
        ),
        ({"auth": {"api_key": {"keys": "k" * 20}}}, [], {"pywatt_host.auth.schemes"}),
        ({"databases": {"default": "sqlite:///a.db"}}, [], {"aiosqlite", *STORES}),
        ({"caches": {"default": "memory://"}}, [], STORES),
        ({"resiliency": {"targets": {"modules": {"users": {}}}}}, [], {"pywatt_host.clients.resilience"}),
        ({"tracing": "http://127.0.0.1:1"}, [], TRACING),
    ],
    ids=[
        "a scrape",
        "a WSGI application",
        "static files",
        "cors",
        "tokens",
        "keys",
        "sqlite",
        "memory",
        "policies",
        "traces",
    ],
)
def test_each_feature_brings_its_own(
    project: Project, manifest: dict[str, Any], asked: list[str], brings: set[str]
) -> None:
    project.write("w.py", "def app(environ, start_response):\n    start_response('200 OK', [])\n    return []\n")
    found = of_running(project, *asked, **manifest)
    assert brings <= found
    # What those import by themselves is theirs.
    assert found - SERVER - brings <= {"starlette", "prometheus_client", "bcrypt"}, found


def test_requests_to_others_without_policies_load_none(project: Project) -> None:
    code = "from pywatt_host.clients.http import HttpClients\nHttpClients().client()\nHttpClients().blocking()"
    found = loaded(project, code)
    assert "httpx" in found
    assert "pywatt_host.clients.resilience" not in found


def test_an_override_from_the_environment_loads_its_reader_and_nothing_else_does(project: Project) -> None:
    project.write("main.py", RAW)
    project.manifest()
    code = "import os\n{}from pywatt_host import load_manifest\nload_manifest(environ={})"
    assert "pydantic_settings" not in loaded(project, code.format("", "{}"))
    assert "pydantic_settings" in loaded(project, code.format("", "{'PYWATT__LOGGING__LEVEL': 'debug'}"))


def test_no_public_name_is_that_of_a_module_which_would_take_its_place() -> None:
    import pywatt_host

    home = Path(pywatt_host.__file__).parent
    assert [name for name in pywatt_host.__all__ if (home / name).exists() or (home / f"{name}.py").exists()] == []
    for name in pywatt_host.__all__:
        assert getattr(pywatt_host, name)
    assert set(pywatt_host.__all__) <= set(dir(pywatt_host))
    with pytest.raises(AttributeError, match="nonsense"):
        pywatt_host.nonsense  # noqa: B018
