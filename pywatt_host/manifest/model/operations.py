"""`health`, `metrics` and `logging`: what operators see."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from pywatt_host.manifest.model.auth import Auth
from pywatt_host.manifest.model.base import Section, Short, key
from pywatt_host.manifest.values import Bool, Float, Format, Int, PositiveDuration, Prefix

Level: TypeAlias = Literal["debug", "info", "warning", "error", "critical"]
LabelName: TypeAlias = Annotated[
    str,
    Field(pattern=r"^[a-zA-Z_][a-zA-Z0-9_]*$", max_length=100),
    Format("a label name", "use letters, digits and underscores; do not start with a digit"),
]
LoggedPath: TypeAlias = Annotated[str, Field(pattern=r"^/"), Format("a path", "start it with a slash")]


class Health(Section):
    """The paths for health, liveness and readiness."""

    enabled: Bool = key(
        True, "Whether the host serves the three paths. `health: false` is short for `{enabled: false}`.", False
    )
    path: Prefix = key("/health", "Path of the full report, which contains every check.", "/healthz")
    liveness: Prefix = key(
        "/livez",
        "Path that answers 200 as long as the process answers. It never depends on databases or caches.",
        "/live",
    )
    readiness: Prefix = key(
        "/readyz",
        "Path that answers 200 when every check passes. When the host drains, this path answers 503 first.",
        "/ready",
    )
    interval: PositiveDuration = key(
        5.0, "How often each check runs. Responses in between report the last result.", "10s"
    )
    timeout: PositiveDuration = key(
        2.0, "How long one run of a check may take. A longer run counts as a failure.", "500ms"
    )
    retries: Int = key(
        3, "Number of failures in a row after which a check that passed before counts as failing.", 1, ge=1, le=1000
    )
    start_period: PositiveDuration = key(
        10.0, "How long after the start a check that has not passed yet counts as starting, not as failing.", "1m"
    )
    details: Bool | None = key(
        None,
        "Whether the reports contain errors, addresses and other details of the checks. If omitted, they do on"
        " `server.admin`, on loopback addresses and on Unix sockets. Other reports contain names and states only.",
        False,
    )

    @model_validator(mode="after")
    def _paths_differ(self) -> Health:
        if len({self.path, self.liveness, self.readiness}) < 3:
            raise PydanticCustomError("conflict", "path, liveness and readiness must differ", {})
        return self


def _increasing(buckets: tuple[float, ...]) -> tuple[float, ...]:
    if any(low >= high for low, high in pairwise(buckets)):
        raise PydanticCustomError("buckets", "bucket bounds must increase", {})
    return buckets


class Metrics(Section):
    """Metrics in the text formats of Prometheus and OpenMetrics."""

    enabled: Bool = key(
        True, "Whether the host collects and serves metrics. `metrics: true` is short for `{enabled: true}`.", False
    )
    path: Prefix = key("/metrics", "Path that serves the metrics.", "/internal/metrics")
    buckets: Annotated[
        tuple[Annotated[Float, Field(gt=0, lt=1e9)], ...],
        Field(strict=False, min_length=1, max_length=50),
        AfterValidator(_increasing),
    ] = key(
        (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
        "Upper bounds of the request duration histogram, in seconds. The default is the one that OpenTelemetry uses.",
        [0.005, 0.05, 0.5],
    )
    labels: dict[LabelName, str] = key(dict, "Labels that are added to every series.", {"team": "core"})
    auth: Auth = key(
        None,
        "Who may read the metrics. It takes the same forms as `auth` of an endpoint. If omitted, everyone may read"
        " them.",
        "ops",
    )


class AccessLog(Section):
    """The access log: one line for each request."""

    enabled: Bool = key(
        True,
        "Whether requests are logged, whatever `logging.level` is. Requests for probes and metrics are never logged.",
        False,
    )
    exclude: tuple[LoggedPath, ...] = key(
        (), "Paths that are not logged, each with all paths below it.", ["/static"], strict=False
    )


class Logging(Section):
    """Log settings. The host always logs to standard error."""

    level: Level = key("info", "Lowest level that is logged.", "debug")
    format: Literal["auto", "json", "console"] = key(
        "auto",
        "`json`: one JSON object per line. `console`: lines for people. `auto`: console on a terminal, otherwise json.",
        "json",
    )
    access: Annotated[AccessLog, Short(flag="enabled")] = key(
        AccessLog,
        "The access log, one line for each request: `true`, `false` or `{exclude: [...]}`.",
        {"exclude": ["/static"]},
    )
    loggers: dict[Annotated[str, Field(min_length=1)], Level] = key(
        dict, "Levels of individual loggers, by name.", {"sqlalchemy.engine": "warning"}
    )
    redact: tuple[Annotated[str, Field(min_length=1)], ...] = key(
        (),
        "Names of log fields whose values are shown as ***. Letter case does not matter.",
        ["authorization"],
        strict=False,
    )
