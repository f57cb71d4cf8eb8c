"""`health`, `metrics` and `logging`: what operators see."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from pywatt_host.manifest.model.auth import Auth
from pywatt_host.manifest.model.base import Section, Short, key
from pywatt_host.manifest.values import Bool, Float, Int, PositiveDuration, Prefix

Level: TypeAlias = Literal["debug", "info", "warning", "error", "critical"]


class Health(Section):
    """Health, liveness and readiness, as HTTP paths."""

    enabled: Bool = key(True, "Whether the three paths are served. `health: false` is short for it.", False)
    path: Prefix = key("/health", "The full report, with every check.", "/healthz")
    liveness: Prefix = key("/livez", "200 as long as the process answers; never depends on stores.", "/live")
    readiness: Prefix = key("/readyz", "200 when every check passes; 503 first when draining.", "/ready")
    interval: PositiveDuration = key(5.0, "How often each check runs; answers in between are the last result.", "10s")
    timeout: PositiveDuration = key(2.0, "How long one run of a check may take; longer is a failure.", "500ms")
    retries: Int = key(3, "Failures in a row after which a check that passed counts as failing.", 1, ge=1, le=1000)
    start_period: PositiveDuration = key(
        10.0, "After the start a check that has not passed yet counts as starting, not as failing, for so long.", "1m"
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
    """Prometheus and OpenMetrics text."""

    enabled: Bool = key(True, "Whether metrics are collected and served. `metrics: true` is short for it.", False)
    path: Prefix = key("/metrics", "Where they are served.", "/internal/metrics")
    buckets: Annotated[
        tuple[Annotated[Float, Field(gt=0, lt=1e9)], ...],
        Field(strict=False, min_length=1, max_length=50),
        AfterValidator(_increasing),
    ] = key(
        (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
        "Upper bounds of the request duration histogram, in seconds (the default is OpenTelemetry's).",
        [0.005, 0.05, 0.5],
    )
    labels: dict[Annotated[str, Field(pattern=r"^[a-zA-Z_][a-zA-Z0-9_]*$", max_length=100)], str] = key(
        dict, "Labels put on every series.", {"team": "core"}
    )
    auth: Auth = key(None, "Who may scrape: as `auth` of an endpoint. Left out: everybody.", "ops")


class AccessLog(Section):
    """One line per request."""

    enabled: Bool = key(True, "Whether requests are logged. Probes and metrics never are.", False)
    exclude: tuple[Annotated[str, Field(pattern=r"^/")], ...] = key(
        (), "Paths that are not logged, each with everything below it.", ["/static"], strict=False
    )


class Logging(Section):
    """Logs, always on standard error."""

    level: Level = key("info", "Least level that is logged.", "debug")
    format: Literal["auto", "json", "console"] = key(
        "auto", "`json`: one object a line; `console`: for people; `auto`: console on a terminal, else json.", "json"
    )
    access: Annotated[AccessLog, Short(flag="enabled")] = key(
        AccessLog, "One line per request: `true`, `false` or `{exclude: [...]}`.", {"exclude": ["/static"]}
    )
    loggers: dict[Annotated[str, Field(min_length=1)], Level] = key(
        dict, "Levels of single loggers, by name.", {"sqlalchemy.engine": "warning"}
    )
    redact: tuple[Annotated[str, Field(min_length=1)], ...] = key(
        (), "Names of log fields whose values are shown as ***, whatever their case.", ["authorization"], strict=False
    )
