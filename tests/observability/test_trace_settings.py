"""What the manifest and the variables OTEL_* say together about traces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pywatt_host.manifest import Source, load
from pywatt_host.observability.trace_settings import (
    COLLECTOR,
    Batching,
    Destination,
    TraceSettings,
    read_settings,
    rendered,
)

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
HERE = "http://localhost:4318/v1/traces"


def settings(environ: dict[str, str] | None = None, tracing: str | None = None) -> TraceSettings:
    text = "app: main:app\n" + (f"tracing: {tracing}\n" if tracing is not None else "")
    manifest = load(Source.of_text(text, directory=Path.cwd()), environ={}).manifest
    return read_settings(
        manifest.tracing,
        environ or {},
        name="users",
        version="1.2",
        directory=Path("/srv/users"),
        sdk="0.1.0",
    )


def url(environ: dict[str, str] | None = None, tracing: str | None = None) -> str | None:
    found = settings(environ, tracing)
    assert found.warnings == ()
    return found.destinations[0].url if found.destinations else None


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({ENDPOINT: ""}, None),
        ({ENDPOINT: "http://otel:4318"}, "http://otel:4318/v1/traces"),
        ({ENDPOINT: "http://otel:4318/base/"}, "http://otel:4318/base/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://otel:4318/here"}, "http://otel:4318/here"),
        ({ENDPOINT: "http://a", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://b/v1/traces"}, "http://b/v1/traces"),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, HERE),
        ({"OTEL_TRACES_EXPORTER": "none", ENDPOINT: "http://a"}, None),
        ({"OTEL_SDK_DISABLED": "true", ENDPOINT: "http://a"}, None),
        ({"OTEL_SDK_DISABLED": "false", ENDPOINT: "http://a"}, "http://a/v1/traces"),
    ],
)
def test_variables_alone_switch_traces_on_and_off(environ: dict[str, str], expected: str | None) -> None:
    assert url(environ) == expected


@pytest.mark.parametrize(
    ("tracing", "environ", "expected"),
    [
        ("true", {}, HERE),
        ("true", {ENDPOINT: "http://a"}, "http://a/v1/traces"),
        ("true", {"OTEL_SDK_DISABLED": "true"}, None),
        ("true", {"OTEL_TRACES_EXPORTER": "none"}, None),
        ("http://m:1", {ENDPOINT: "http://a", "OTEL_SDK_DISABLED": "true"}, "http://m:1/v1/traces"),
        ("http://m:1", {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "http://m:1/v1/traces"),
        ("http://m:1/x/v1/traces", {}, "http://m:1/x/v1/traces"),
        ("{sample: 0.5}", {ENDPOINT: "http://a"}, "http://a/v1/traces"),
    ],
)
def test_an_endpoint_of_the_manifest_wins_over_the_variables(
    tracing: str, environ: dict[str, str], expected: str | None
) -> None:
    assert url(environ, tracing) == expected


@pytest.mark.parametrize(
    ("environ", "warning", "sent"),
    [
        ({ENDPOINT: "localhost:4317"}, f"{ENDPOINT} is not an http or https URL; no spans are sent there", False),
        ({ENDPOINT: "http://h:99999"}, f"{ENDPOINT} is not an http or https URL; no spans are sent there", False),
        (
            {ENDPOINT: "http://u:secret@h"},
            f"{ENDPOINT}: a user or a password in its URL is not sent; use headers",
            True,
        ),
        (
            {"OTEL_TRACES_EXPORTER": "console,otlp"},
            "OTEL_TRACES_EXPORTER=console is not known; the exporters are otlp and none",
            True,
        ),
        (
            {ENDPOINT: "http://h", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"},
            "OTEL_EXPORTER_OTLP_PROTOCOL=http/json is not supported; http/protobuf is used",
            True,
        ),
        (
            {ENDPOINT: "http://h", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc"},
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=grpc is not supported; no spans are sent; set it to http/protobuf, and"
            " the endpoint to the port for that (usually 4318)",
            False,
        ),
        (
            {ENDPOINT: "http://h", "OTEL_TRACES_SAMPLER": "jaeger_remote"},
            "OTEL_TRACES_SAMPLER=jaeger_remote is not known; parentbased_always_on is used",
            True,
        ),
        (
            {ENDPOINT: "http://h", "OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "nan"},
            "OTEL_TRACES_SAMPLER_ARG=nan is not a number from 0 to 1; 1 is used",
            True,
        ),
        (
            {ENDPOINT: "http://h", "OTEL_BSP_SCHEDULE_DELAY": "1s"},
            "OTEL_BSP_SCHEDULE_DELAY=1s is not a number from 1 to 1000000; 1000 is used",
            True,
        ),
        (
            {ENDPOINT: "http://h", "OTEL_EXPORTER_OTLP_COMPRESSION": "zstd"},
            "OTEL_EXPORTER_OTLP_COMPRESSION=zstd is not known; nothing is compressed",
            True,
        ),
        (
            {ENDPOINT: "http://h", "OTEL_EXPORTER_OTLP_HEADERS": "secret-without-a-name"},
            "OTEL_EXPORTER_OTLP_HEADERS has an entry that is not NAME=VALUE; it is ignored",
            True,
        ),
        (
            {ENDPOINT: "http://h", "OTEL_RESOURCE_ATTRIBUTES": "a"},
            "OTEL_RESOURCE_ATTRIBUTES has an entry that is not NAME=VALUE; it is ignored",
            True,
        ),
    ],
)
def test_what_a_variable_cannot_say_is_a_warning_without_a_credential(
    environ: dict[str, str], warning: str, sent: bool
) -> None:
    found = settings(environ)
    assert found.warnings == (warning,)
    assert bool(found.destinations) is sent
    assert "secret" not in "".join(found.warnings)
    assert "secret" not in repr(found)


@pytest.mark.parametrize(
    ("sampler", "argument", "expected"),
    [
        ("", "", (1.0, True)),
        ("always_on", "", (1.0, False)),
        ("always_off", "", (0.0, False)),
        ("traceidratio", "0.25", (0.25, False)),
        ("traceidratio", "", (1.0, False)),
        ("parentbased_always_on", "", (1.0, True)),
        ("parentbased_always_off", "", (0.0, True)),
        ("parentbased_traceidratio", "0.5", (0.5, True)),
    ],
)
def test_the_samplers_of_opentelemetry(sampler: str, argument: str, expected: tuple[float, bool]) -> None:
    environ = {ENDPOINT: "http://h", "OTEL_TRACES_SAMPLER": sampler, "OTEL_TRACES_SAMPLER_ARG": argument}
    found = settings(environ)
    assert ((found.ratio, found.parent_based), found.warnings) == (expected, ())
    assert settings(environ, "{sample: 0.1}").ratio == 0.1


def test_headers_are_those_of_the_endpoint() -> None:
    """Headers of variables may be credentials: they do not go to the endpoint of the manifest."""
    environ = {ENDPOINT: "http://h", "OTEL_EXPORTER_OTLP_HEADERS": "Api-Key=a%20b, x=1"}
    assert settings(environ).destinations[0].headers == {"api-key": "a b", "x": "1"}
    more = {**environ, "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "y=2"}
    assert settings(more).destinations[0].headers == {"y": "2"}
    found = settings(environ, '{endpoint: "http://m", headers: {Authorization: "${secret:OTLP}"}}').destinations[0]
    assert list(found.headers) == ["authorization"]
    assert rendered(found.headers, {}) is None
    assert rendered(found.headers, {"OTLP": "Bearer t"}) == {"authorization": "Bearer t"}


def test_the_settings_of_batches_and_requests() -> None:
    environ = {
        "OTEL_EXPORTER_OTLP_TIMEOUT": "2500",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
        "OTEL_EXPORTER_OTLP_CERTIFICATE": "ca.pem",
        "OTEL_EXPORTER_OTLP_CLIENT_KEY": "/k.pem",
        "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": "c.pem",
        "OTEL_BSP_MAX_QUEUE_SIZE": "100",
        "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "50",
        "OTEL_BSP_SCHEDULE_DELAY": "200",
        "OTEL_BSP_EXPORT_TIMEOUT": "3000",
        "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "64",
    }
    found = settings(environ, "true")
    destination = found.destinations[0]
    assert (destination.timeout, destination.compress) == (2.5, True)
    files = (destination.certificate, destination.client_key, destination.client_certificate)
    assert files == ("/srv/users/ca.pem", "/k.pem", "/srv/users/c.pem")
    assert found.batching == (type(found.batching))(100, 0.2, 50, 3.0)
    assert found.batching.slice == 50
    assert (Batching().slice, found.longest) == (512, 64)


def test_the_resource_names_the_module_and_can_be_overridden() -> None:
    resource = settings({}, "true").resource
    assert (resource["service.name"], resource["service.version"]) == ("users", "1.2")
    assert {"service.instance.id", "host.name", "process.pid", "telemetry.sdk.name"} < set(resource)
    environ = {"OTEL_RESOURCE_ATTRIBUTES": "team=core,service.name=x,place=a%2Cb", "OTEL_SERVICE_NAME": "y"}
    found = settings(environ, "{resource: {team: web}}").resource
    assert (found["service.name"], found["team"], found["place"]) == ("y", "web", "a,b")
    assert settings({}, "true").resource["service.instance.id"] != resource["service.instance.id"]


def test_a_module_of_up_sends_to_its_collector_too_but_not_twice_to_one_endpoint() -> None:
    def urls(environ: dict[str, Any], tracing: str | None = None) -> list[str]:
        return [each.url for each in settings(environ, tracing).destinations]

    collector = {COLLECTOR: "http://127.0.0.1:5000 token"}
    a, with_key = Destination("http://a/v1/traces"), Destination("http://a/v1/traces", {"key": "its"})
    passing = {COLLECTOR: f"http://127.0.0.1:5000 token {a.fingerprint('token', headers=False)}"}
    passing_with_key = {COLLECTOR: f"{passing[COLLECTOR]} {with_key.fingerprint('token')}"}
    own = "http://127.0.0.1:5000/v1/traces"
    assert urls(collector) == [own]
    assert settings(collector).destinations[0].headers == {"x-pywatt-token": "token"}
    assert urls({**collector, ENDPOINT: "http://a"}) == ["http://a/v1/traces", own]
    assert urls({**passing, ENDPOINT: "http://a"}) == [own]
    assert urls({**passing, ENDPOINT: "http://b"}) == ["http://b/v1/traces", own]
    assert urls(passing, '{endpoint: "http://a", headers: {key: mine}}') == ["http://a/v1/traces", own]
    assert urls({**passing_with_key, ENDPOINT: "http://a", "OTEL_EXPORTER_OTLP_HEADERS": "key=its"}) == [own]
    assert urls({**passing_with_key, ENDPOINT: "http://a", "OTEL_EXPORTER_OTLP_HEADERS": "key=other"}) != [own]


@pytest.mark.parametrize("off", [{"OTEL_SDK_DISABLED": "True"}, {"OTEL_TRACES_EXPORTER": "none"}])
def test_variables_that_switch_traces_off_keep_a_module_from_sending_to_up_as_well(off: dict[str, str]) -> None:
    collector = {COLLECTOR: "http://127.0.0.1:5000 token"}
    assert settings({**collector, **off}).destinations == ()
    assert settings({**collector, **off}, "true").destinations == ()
    # An endpoint of the manifest wins over the variables, and says nothing about `up`.
    assert [each.url for each in settings({**collector, **off}, "'http://a'").destinations] == ["http://a/v1/traces"]
    assert len(settings({**collector, "OTEL_TRACES_EXPORTER": "none,otlp"}).destinations) == 2
