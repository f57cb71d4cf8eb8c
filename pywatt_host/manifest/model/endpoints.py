"""`endpoints`: which paths and methods exist, and the limits of each of them."""

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
    """The limits for the requests of one endpoint. If a key is omitted, the limit of `server` applies."""

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
        "Number of requests that may run here at the same time. Above it, the response is 503. If omitted, there"
        " is no separate limit.",
        20,
        ge=1,
        le=1_000_000,
    )
    rate_limit: RateLimit | None = key(
        None,
        "Number of requests per unit of time, counted in all workers together for each subject, or for each client"
        " address if there is no subject. Above it, the response is 429 with Retry-After.",
        "100/s",
    )
    auth: Auth = key(
        None,
        "Who may send requests here: the name of a scheme in `auth`, a list of names, `none` (everyone), or a mapping.",
        "jwt",
        ["jwt", "key"],
        {"scheme": "jwt", "scopes": ["admin"]},
    )


class Endpoint(EndpointOptions):
    """One endpoint: a path template and its methods."""

    path: EndpointPath = required(
        "Path template. `{id}` matches one segment, `{rest:path}` the rest of the path. Literal segments take"
        " precedence over `{id}`, and `{id}` over `{rest:path}`.",
        "/api/users/{id}",
    )
    methods: Methods = key(
        ("GET",),
        'Methods of the endpoint. `["*"]` stands for all methods and for WebSockets, `WEBSOCKET` for WebSockets. GET'
        " includes HEAD.",
        ["GET", "POST"],
    )
    summary: str | None = key(
        None, "One line that says what the endpoint does, shown by `pywatt-host routes`.", "List users"
    )


class Rule(EndpointOptions):
    """Options for those of the application's own routes that match a path template."""

    path: EndpointPath = required("Path template. A slash at its end makes no difference.", "/public/{rest:path}")
    methods: Methods = key(
        ("*",), 'Methods that the rule applies to. `["*"]`, the default, stands for all methods.', ["POST"]
    )
    summary: str | None = key(
        None, "One line that says what the rule is for, shown by `pywatt-host routes`.", "Public pages"
    )


class AutoEndpoints(Section):
    """The application's own routes as the endpoints."""

    source: Literal["auto"] = Field(
        "auto", alias="from", description="`auto`: the endpoints are the application's own routes.", examples=["auto"]
    )
    auth: Auth = key(
        None,
        "Who may send requests that no rule says anything else about. It takes the same forms as `auth` of an"
        " endpoint.",
        "jwt",
        "none",
    )
    rules: tuple[Rule, ...] = key(
        (), "Options for routes that match a path.", [{"path": "/upload", "body": "1GiB"}], strict=False
    )


def endpoints_kind(value: Any) -> str:
    """Tell which of the two forms of `endpoints` a value has."""
    return "list" if isinstance(value, list | tuple) else "auto"


Endpoints: TypeAlias = Annotated[
    Annotated[AutoEndpoints, Tag("auto")] | Annotated[tuple[Endpoint, ...], Field(strict=False), Tag("list")],
    Discriminator(endpoints_kind),
]
