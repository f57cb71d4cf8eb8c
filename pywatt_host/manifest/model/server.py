"""`server`: where the host listens, whom it trusts and what it bounds."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from pywatt_host.manifest.model.base import Section, key, required
from pywatt_host.manifest.values import (
    Address,
    Bool,
    Duration,
    DurationOrOff,
    Int,
    Listen,
    PositiveDuration,
    Proxy,
    Size,
    SizeOrOff,
    TcpAddress,
    as_list,
)


def _no_address_twice(addresses: tuple[Address, ...]) -> tuple[Address, ...]:
    for number, address in enumerate(addresses):
        if address in addresses[:number] and not (isinstance(address, TcpAddress) and address.port == 0):
            raise PydanticCustomError("address", "{address} stands twice", {"address": str(address)})
    return addresses


# Accepts one address or a list of them; the schema generator reads the same from ONE_OR_LIST.
Listeners: TypeAlias = Annotated[
    tuple[Listen, ...],
    Field(strict=False, min_length=1, json_schema_extra={"x-one-or-list": True}),
    BeforeValidator(as_list),
    AfterValidator(_no_address_twice),
]


class Admin(Section):
    """A listener of its own for health and metrics, which are then served there and only there."""

    listen: Listeners = required("Address of the admin listener.", "127.0.0.1:9090")


class Cors(Section):
    """Cross-origin resource sharing, answered by the host (Fetch standard)."""

    allow_origins: tuple[str, ...] = key(
        (), 'Origins that may read responses; ["*"] for any.', ["https://app.example"], strict=False
    )
    allow_origin_regex: str | None = key(
        None, "Origins that may read responses, as a regular expression.", r"https://.*\.example"
    )
    allow_methods: tuple[str, ...] = key(
        ("GET",), 'Methods that a preflight allows; ["*"] for all.', ["GET", "POST"], strict=False
    )
    allow_headers: tuple[str, ...] = key(
        (), 'Request headers that a preflight allows; ["*"] for all.', ["Authorization"], strict=False
    )
    allow_credentials: Bool = key(False, "Whether cookies and Authorization may be sent.", True)
    expose_headers: tuple[str, ...] = key(
        (), "Response headers that a script may read.", ["X-Request-ID"], strict=False
    )
    max_age: Duration = key(600.0, "How long a browser may keep a preflight's answer.", "1h")


class Limits(Section):
    """Bounds on what a client may send and on how much runs at once."""

    body: SizeOrOff = key(10 * 1024**2, "Largest request body; above it 413. `off` for none.", "100MiB")
    header: Size = key(64 * 1024, "Largest request head (request line and headers); above it 431.", "16KiB")
    concurrency: Int = key(
        1000, "Requests that may run at once (open connections do not count); above it 503.", 200, ge=1, le=1_000_000
    )
    backlog: Int = key(2048, "Connections that the kernel may queue before they are accepted.", 511, ge=1, le=65535)


class Timeouts(Section):
    """How long the host waits, for whom."""

    header: PositiveDuration = key(
        10.0, "For a whole request head to arrive; then 408 and the connection is closed.", "5s"
    )
    keep_alive: PositiveDuration = key(5.0, "For the next request on an idle connection.", "75s")
    request: DurationOrOff = key(None, "For a response to start; then 504. `off` for no limit.", "30s")
    drain_delay: Duration = key(
        0.0, "Between going unready and closing the listener, for load balancers to notice.", "5s"
    )
    shutdown: PositiveDuration = key(25.0, "For running requests to finish when stopping; what is left is cut.", "60s")


class Server(Section):
    """Where the host listens, whom it trusts and what it bounds."""

    listen: Listeners = key(
        (TcpAddress("127.0.0.1", 8080),),
        "Where to listen: `host:port`, `[::1]:port`, `:port` (every interface), port 0 for any free one, `unix:PATH`,"
        " `fd:N`, `systemd`, `{unix: PATH, mode, group}`, or a list of these.",
        "127.0.0.1:8080",
        ":8080",
        "unix:run/users.sock",
        ["127.0.0.1:8080", "unix:run/users.sock"],
    )
    admin: Admin | None = key(
        None,
        "A listener of its own for health and metrics, which are then served only there.",
        {"listen": "127.0.0.1:9090"},
    )
    control: Annotated[str, Field(min_length=1)] = key(
        "auto",
        "Private control socket (0600) for `pywatt-host ps` and `stop`: `auto` (in $XDG_RUNTIME_DIR/pywatt, else"
        " .pywatt beside the manifest), `off`, or a path.",
        "off",
        "run/control.sock",
    )
    paths: Literal["strict", "lenient"] = key(
        "strict",
        "`strict` answers 400 to encoded slashes, dot segments, backslashes, NUL and empty segments; `lenient` passes"
        " them on.",
        "lenient",
    )
    trusted_proxies: tuple[Proxy, ...] = key(
        (),
        "Peers whose forwarding headers count: addresses, networks, or `unix` for the Unix listener. From others those"
        " headers are removed. FORWARDED_ALLOW_IPS adds to it.",
        ["10.0.0.0/8", "unix"],
        strict=False,
    )
    cors: Cors | None = key(
        None, "Cross-origin resource sharing, answered by the host.", {"allow_origins": ["https://app.example"]}
    )
    limits: Limits = key(Limits, "Bounds on what a client may send and on how much runs at once.", {"body": "100MiB"})
    timeouts: Timeouts = key(Timeouts, "How long the host waits, for whom.", {"request": "30s"})
