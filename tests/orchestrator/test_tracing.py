"""Where the modules of a workspace send their spans."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pywatt_host.manifest import Source
from pywatt_host.manifest.workspace import load_workspace
from pywatt_host.observability.trace_settings import COLLECTOR, Destination
from pywatt_host.orchestrator.launch import module_launch
from pywatt_host.orchestrator.tracing import NoWorkspaceTracing, WorkspaceTracing, make_workspace_tracing
from pywatt_host.secrets import Masker


def tracing(folder: Path, key: str = "", environ: dict[str, str] | None = None) -> tuple[Any, Any]:
    text = f"modules: {{m: {{command: [m]}}}}\n{key}\n"
    workspace = load_workspace(Source.of_text(text, name="wattson.yaml", directory=folder), environ={}).workspace
    made = make_workspace_tracing(workspace, environ or {}, dict, Masker(), lambda: 1.0)
    for listener in made.bind():
        listener.close()
    return made, workspace


def test_a_host_of_ours_is_told_the_collector_and_where_its_spans_are_passed_on(tmp_path: Path) -> None:
    made, _ = tracing(tmp_path)
    url, token = made.variables("m", {}, ours=True)[COLLECTOR].split()
    assert url.startswith("http://127.0.0.1:")
    assert len(token) > 30
    made, _ = tracing(tmp_path, environ={"OTEL_EXPORTER_OTLP_ENDPOINT": "http://otel:4318"})
    _, token, *passed_on = made.variables("m", {}, ours=True)[COLLECTOR].split()
    assert Destination("http://otel:4318/v1/traces").is_among(passed_on, token)
    assert "otel" not in " ".join(passed_on)
    made, _ = tracing(tmp_path, "tracing: 'https://otel.example'")
    _, token, *passed_on = made.variables("m", {}, ours=True)[COLLECTOR].split()
    assert Destination("https://otel.example/v1/traces").is_among(passed_on, token)
    assert not Destination("https://otel.example/v1/traces").is_among(passed_on, "another")


def test_another_program_gets_the_variables_of_opentelemetry_unless_it_has_its_own(tmp_path: Path) -> None:
    made, _ = tracing(tmp_path)
    given = made.variables("m", {}, ours=False)
    assert given["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"].endswith("/v1/traces")
    assert given["OTEL_EXPORTER_OTLP_TRACES_HEADERS"].startswith("x-pywatt-token=")
    assert (given["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"], given["OTEL_SERVICE_NAME"]) == ("http/protobuf", "m")
    assert made.variables("m", {"OTEL_SERVICE_NAME": "mine"}, ours=False)["OTEL_SERVICE_NAME"] == "mine"
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_TRACES_EXPORTER"):
        assert made.variables("m", {name: "x"}, ours=False) == {}


@pytest.mark.parametrize("off", [{"OTEL_SDK_DISABLED": "true"}, {"OTEL_TRACES_EXPORTER": "none"}])
def test_another_program_whose_traces_are_switched_off_is_left_alone(tmp_path: Path, off: dict[str, str]) -> None:
    assert tracing(tmp_path)[0].variables("m", off, ours=False) == {}
    assert tracing(tmp_path, environ=off)[0].variables("m", {}, ours=False) == {}
    inherited, _ = tracing(tmp_path, environ={"OTEL_SDK_DISABLED": "true"})
    assert inherited.variables("m", {"OTEL_SDK_DISABLED": "false"}, ours=False) != {}


def test_a_module_does_not_inherit_the_name_of_up(tmp_path: Path) -> None:
    made, workspace = tracing(tmp_path)
    environ = {"OTEL_SERVICE_NAME": "up", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://otel:4318", "PYWATT_COLLECTOR": "x y"}
    variables = made.variables("m", {}, ours=False)
    launch = module_launch("m", workspace.modules["m"], workspace, environ, (), variables)
    assert launch.environ["OTEL_SERVICE_NAME"] == "m"
    assert launch.environ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"] == variables["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"]
    assert "PYWATT_COLLECTOR" not in launch.environ
    assert "OTEL_SERVICE_NAME" not in module_launch("m", workspace.modules["m"], workspace, environ).environ


def test_traces_of_a_workspace_are_on_unless_it_says_otherwise(tmp_path: Path) -> None:
    assert isinstance(tracing(tmp_path)[0], WorkspaceTracing)
    made, _ = tracing(tmp_path, "tracing: false", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://otel:4318"})
    assert isinstance(made, NoWorkspaceTracing)
    assert made.variables("m", {}, ours=True) == made.variables("m", {}, ours=False) == {}


def test_the_secrets_of_its_headers_are_secrets_of_the_workspace(tmp_path: Path) -> None:
    _, workspace = tracing(tmp_path, 'tracing: {endpoint: "https://o", headers: {key: "${secret:OTLP}"}}')
    assert "OTLP" in workspace.secret_keys
