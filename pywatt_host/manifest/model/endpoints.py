"""`endpoints`: which paths and methods exist, and what bounds each of them."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, Discriminator, Field, Tag

from pywatt_host.manifest.model.auth import Auth
from pywatt_host.manifest.model.base import Section, key, required
from pywatt_host.manifest.values import DurationOrOff, EndpointPath, Int, Method, RateLimit, SizeOrOff, as_list

# One method or a list of them.
Methods: TypeAlias = Annotated[
    tuple[Method, ...],
    Field(strict=False, min_length=1),
    BeforeValidator(as_list),
]


class EndpointOptions(Section):
    """What bounds the requests of one endpoint. What is left out is taken from `server`."""

    timeout: DurationOrOff = key(
        None,
        "Overrides server.timeouts.request here.",
        "5s",
        "off",
        json_schema_extra={"default": "server.timeouts.request"},
    )
    body: SizeOrOff = key(
        None, "Overrides server.limits.body here.", "1MiB", "off", json_schema_extra={"default": "server.limits.body"}
    )
    concurrency: Int | None = key(
        None,
        "Requests of this endpoint that may run at once; above it 503. Left out: no limit of its own.",
        20,
        ge=1,
        le=1_000_000,
    )
    rate_limit: RateLimit | None = key(
        None,
        "Requests per time, in this process, of one subject, else of one client address; above it 429 with"
        " Retry-After.",
        "100/s",
    )
    auth: Auth = key(
        None,
        "Who may ask: the name of a scheme of `auth`, a list of them, `none`, or a mapping.",
        "jwt",
        ["jwt", "key"],
        {"scheme": "jwt", "scopes": ["admin"]},
    )


class Endpoint(EndpointOptions):
    """One endpoint: a path template and its methods."""

    path: EndpointPath = required(
        "Path template: `{id}` is one segment, `{rest:path}` the rest. Literal segments win over `{id}`, that over"
        " `{rest:path}`.",
        "/api/users/{id}",
    )
    methods: Methods = key(
        ("GET",), 'Methods; `["*"]` for all, `WEBSOCKET` for WebSockets. GET brings HEAD with it.', ["GET", "POST"]
    )
    summary: str | None = key(None, "One line on what it does, shown by `pywatt-host routes`.", "List users")


class Rule(EndpointOptions):
    """Options for the application's own routes that fit a path template."""

    path: EndpointPath = required("Path template; a trailing slash is covered as well.", "/public/{rest:path}")
    methods: Methods = key(("*",), 'Methods the rule is for; `["*"]`, the default, for all.', ["POST"])
    summary: str | None = key(None, "One line on what it is for, shown by `pywatt-host routes`.", "Public pages")


class AutoEndpoints(Section):
    """The application's own routes are the endpoints."""

    source: Literal["auto"] = Field(
        "auto", alias="from", description="`auto`: the endpoints are the application's own routes.", examples=["auto"]
    )
    auth: Auth = key(
        None, "Who may ask for what no rule says something else of: as `auth` of an endpoint.", "jwt", "none"
    )
    rules: tuple[Rule, ...] = key(
        (), "Options for routes that fit a path.", [{"path": "/upload", "body": "1GiB"}], strict=False
    )


def endpoints_kind(value: Any) -> str:
    """Which of the two forms of `endpoints` a value is."""
    return "list" if isinstance(value, list | tuple) else "auto"


Endpoints: TypeAlias = Annotated[
    Annotated[AutoEndpoints, Tag("auto")] | Annotated[tuple[Endpoint, ...], Field(strict=False), Tag("list")],
    Discriminator(endpoints_kind),
]
