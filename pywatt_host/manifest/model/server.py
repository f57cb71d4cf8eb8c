"""`server`: where the host listens, which proxies it trusts, and its limits and timeouts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal, TypeAlias, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from pywatt_host.manifest.model.base import Deferred, Section, Short, key, required
from pywatt_host.manifest.model.tls import (
    DeclaredTls,
    Listener,
    ListenOptions,
    OwnTls,
    PublicTls,
    ServerTls,
    address_of,
    declared,
)
from pywatt_host.manifest.model.workers import Reload, ReloadMode, Workers
from pywatt_host.manifest.values import (
    Address,
    AllowedHost,
    Bool,
    CountOrOff,
    Duration,
    DurationOrOff,
    Int,
    Listen,
    MediaRange,
    PositiveDuration,
    Proxy,
    ResponseHeaders,
    Size,
    SizeOrOff,
    TcpAddress,
    UnixAddress,
    as_list,
)

_Listeners = TypeVar("_Listeners", bound="tuple[Address | ListenOptions, ...]")


def _no_address_twice(listeners: _Listeners) -> _Listeners:
    addresses = [address_of(each) for each in listeners]
    for number, address in enumerate(addresses):
        if address in addresses[:number] and not (isinstance(address, TcpAddress) and address.port == 0):
            raise PydanticCustomError("address", "{address} is given twice", {"address": str(address)})
    return listeners


# One address, or a list of addresses.
Addresses: TypeAlias = Annotated[
    tuple[Listen, ...],
    Field(strict=False, min_length=1, json_schema_extra={"x-one-or-list": True}),
    BeforeValidator(as_list),
    AfterValidator(_no_address_twice),
]
# The same, where each may have TLS settings of its own.
Listeners: TypeAlias = Annotated[
    tuple[Listener, ...],
    Field(strict=False, min_length=1, json_schema_extra={"x-one-or-list": True}),
    BeforeValidator(as_list),
    AfterValidator(_no_address_twice),
]


class Admin(Section):
    """A separate listener for health and metrics, which are then served on it and nowhere else."""

    listen: Addresses = required("Address of the admin listener, or a list of addresses.", "127.0.0.1:9090")
    tls: Annotated[ServerTls, Deferred()] | None = key(
        None,
        "TLS settings of the admin listener. `server.tls` does not apply to it. If omitted, it is plain HTTP.",
        {"cert": "tls/admin.pem", "key": "tls/admin.key"},
    )


class Cors(Section):
    """Cross-origin resource sharing (CORS), handled by the host (Fetch standard)."""

    allow_origins: tuple[str, ...] = key(
        (), 'Origins that may read responses. `["*"]` allows any origin.', ["https://app.example"], strict=False
    )
    allow_origin_regex: str | None = key(
        None, "Regular expression for origins that may read responses.", r"https://.*\.example"
    )
    allow_methods: tuple[str, ...] = key(
        ("GET",), 'Methods that a preflight response allows. `["*"]` allows all methods.', ["GET", "POST"], strict=False
    )
    allow_headers: tuple[str, ...] = key(
        (),
        'Request headers that a preflight response allows. `["*"]` allows all headers.',
        ["Authorization"],
        strict=False,
    )
    allow_credentials: Bool = key(False, "Whether the client may send cookies and Authorization.", True)
    expose_headers: tuple[str, ...] = key(
        (), "Response headers that a script may read.", ["X-Request-ID"], strict=False
    )
    max_age: Duration = key(600.0, "How long a browser may keep a preflight response.", "1h")


class Compress(Section):
    """Compression of responses with gzip, for clients that accept it."""

    enabled: Bool = key(
        True, "Whether responses are compressed. `compress: true` is short for `{enabled: true}`.", False
    )
    min_size: Size = key(
        1024,
        "Smallest body that is compressed. A response without Content-Length is compressed whatever its size.",
        "4KiB",
    )
    types: tuple[MediaRange, ...] = key(
        (
            "text/*",
            "application/json",
            "application/*+json",
            "application/x-ndjson",
            "application/javascript",
            "application/xml",
            "application/*+xml",
            "application/wasm",
            "application/openmetrics-text",
            "image/svg+xml",
            "font/ttf",
            "font/otf",
        ),
        "Media types that are compressed, without their parameters: `text/html`, `text/*`, `application/*+json`."
        " Event streams never are.",
        ["text/*", "application/json"],
        strict=False,
        min_length=1,
    )
    level: Int = key(6, "Effort of the compression: from 1, the fastest, to 9, the smallest.", 1, ge=1, le=9)


class WebSocketLimits(Section):
    """Limits on WebSockets."""

    message: Size = key(
        16 * 1024**2,
        "Maximum size of a message that a client sends, after decompression. Above it, the host closes the WebSocket"
        " with code 1009.",
        "1MiB",
    )
    compression: Bool = key(
        True, "Whether the host agrees to compress messages, if the client offers it (permessage-deflate).", False
    )
    connections: CountOrOff = key(
        10_000,
        "Number of WebSockets that may be open at the same time. Above it, the response is 503. `off`: no limit.",
        500,
    )


class Limits(Section):
    """Limits on what a client may send, on open connections, and on requests that run at the same time."""

    body: SizeOrOff = key(
        10 * 1024**2, "Maximum size of a request body. Above it, the response is 413. `off`: no limit.", "100MiB"
    )
    header: Size = key(
        64 * 1024, "Maximum size of a request head (request line and headers). Above it, the response is 431.", "16KiB"
    )
    concurrency: Int = key(
        1000,
        "Number of requests that may run at the same time. Above it, the response is 503. Open connections do not"
        " count.",
        200,
        ge=1,
        le=1_000_000,
    )
    backlog: Int = key(
        2048, "Number of connections that the kernel may queue before the host accepts them.", 511, ge=1, le=65535
    )
    connections: CountOrOff = key(
        10_000,
        "Number of connections that may be open at the same time. When it is reached, the host closes idle connections"
        " of the client that holds the most, and accepts no other connection until one ends. `off`: no limit.",
        2000,
    )
    connections_per_client: CountOrOff = key(
        None,
        "Number of connections that one client may have open at the same time. The host closes further connections at"
        " once. A client is an IPv4 address or an IPv6 /64 network. Trusted proxies and Unix sockets are not counted."
        " `off`: no limit.",
        100,
    )
    websocket: WebSocketLimits = key(WebSocketLimits, "Limits on WebSockets.", {"message": "1MiB"})


class Timeouts(Section):
    """How long the host waits for requests, responses, and its own shutdown."""

    header: PositiveDuration = key(
        10.0,
        "How long a whole request head may take to arrive. Then the response is 408 and the connection is closed.",
        "5s",
    )
    keep_alive: PositiveDuration = key(
        5.0, "How long the host waits for the next request on an idle connection.", "75s"
    )
    request: DurationOrOff = key(
        None, "How long a response may take to start. Then the response is 504. `off`: no limit.", "30s"
    )
    body: DurationOrOff = key(
        30.0,
        "How long a request body may arrive too slowly while the host waits for it: with fewer than 256 bytes per"
        " second on average. Then the response is 408 and the connection is closed. `off`: no limit.",
        "1m",
    )
    write: DurationOrOff = key(
        30.0,
        "How long the client may take bytes of a response too slowly while they wait to be sent: fewer than 256 bytes"
        " per second on average. Then the connection is closed. `off`: no limit.",
        "1m",
    )
    drain_delay: Duration = key(
        0.0,
        "How long the host stays open after it becomes unready and before it closes the listener, so that load"
        " balancers notice.",
        "5s",
    )
    shutdown: PositiveDuration = key(
        25.0,
        "How long running requests may take to finish when the host stops. Requests that still run after that are"
        " cut off.",
        "60s",
    )


class Server(Section):
    """Where the host listens, which proxies it trusts, and its limits and timeouts."""

    listeners: Listeners = key(
        (TcpAddress("127.0.0.1", 8080),),
        "Where to listen: `host:port`, `[::1]:port`, `:port` (every interface), port 0 (any free port),"
        " `unix:PATH`, `fd:N`, `systemd`, `{unix: PATH, mode, group}`, `{address, tls}`, or a list of these.",
        "127.0.0.1:8080",
        ":8080",
        "unix:run/users.sock",
        ["127.0.0.1:8080", "unix:run/users.sock"],
        {"address": ":8443", "tls": {"cert": "tls/server.pem", "key": "tls/server.key"}},
        alias="listen",
    )
    tls: Annotated[PublicTls, Deferred()] | None = key(
        None,
        "TLS settings of the TCP listeners in `listen` that have none of their own. If omitted, they are plain HTTP.",
        {"cert": "tls/server.pem", "key": "tls/server.key", "redirect": ":8080"},
    )
    admin: Admin | None = key(
        None,
        "A separate listener for health and metrics, which are then served only there. If omitted, they are served"
        " on the public listener.",
        {"listen": "127.0.0.1:9090"},
    )
    control: Annotated[str, Field(min_length=1)] = key(
        "auto",
        "Private control socket (0600) for `pywatt-host ps` and `stop`. `auto`: in $XDG_RUNTIME_DIR/pywatt,"
        " otherwise in .pywatt beside the manifest. `off`: no socket. Any other value is its path.",
        "off",
        "run/control.sock",
    )
    workers: Annotated[Workers, Short(text="count", integer=True), Deferred()] = key(
        Workers,
        "How many processes serve the application. A number, or `auto`, is short for `{count: ...}`.",
        4,
        "auto",
        {"count": "auto", "recycle": {"memory": "512MiB"}},
    )
    reload: Reload = key(
        None,
        "What makes the host read its manifest and its code again, without losing a request. `signal`: SIGHUP and"
        " `pywatt-host reload`. `watch`: these, and a changed manifest, env file or secret directory. `off`: nothing."
        " If omitted: `signal` with more than one worker, otherwise `off`.",
        "signal",
        "watch",
    )
    paths: Literal["strict", "lenient"] = key(
        "strict",
        "`strict` answers 400 to encoded slashes, dot segments, backslashes, NUL and empty segments. `lenient`"
        " passes them to the application.",
        "lenient",
    )
    trusted_proxies: tuple[Proxy, ...] = key(
        (),
        "Proxies whose forwarding headers the host trusts: addresses, networks, or `unix` for the Unix listener."
        " The host removes the forwarding headers of all other clients. FORWARDED_ALLOW_IPS adds to this list.",
        ["10.0.0.0/8", "unix"],
        strict=False,
    )
    allowed_hosts: tuple[AllowedHost, ...] | None = key(
        None,
        "Names that clients may use for this host in the Host header: `name`, `*.name` for all names below one,"
        " addresses, or `*` for any. A request with another Host is answered with 421. If omitted: any in `run`, and"
        " loopback names in `dev` and `up`.",
        ["www.example.com", "*.example.com"],
        strict=False,
        min_length=1,
    )
    headers: ResponseHeaders = key(
        dict,
        "Headers that the host puts on every response that has none of that name.",
        {"Strict-Transport-Security": "max-age=63072000"},
    )
    compress: Annotated[Compress, Short(flag="enabled")] = key(
        lambda: Compress.model_construct(enabled=False),
        "Compression of responses with gzip: `true`, or a mapping with its options.",
        True,
        {"min_size": "4KiB", "level": 1},
    )
    cors: Cors | None = key(
        None,
        "Cross-origin resource sharing (CORS), handled by the host. If omitted, the host does nothing about it.",
        {"allow_origins": ["https://app.example"]},
    )
    limits: Limits = key(
        Limits,
        "Limits on what a client may send, on open connections, and on requests that run at the same time.",
        {"body": "100MiB"},
    )
    timeouts: Timeouts = key(
        Timeouts, "How long the host waits for requests, responses, and its own shutdown.", {"request": "30s"}
    )

    @property
    def listen(self) -> tuple[Address, ...]:
        """The addresses to listen on."""
        return tuple(address_of(each) for each in self.listeners)

    def own_tls(self, number: int) -> OwnTls | None:
        """What the listener with this number says about TLS itself: settings, `off`, or nothing."""
        listener = self.listeners[number]
        return listener.tls if isinstance(listener, ListenOptions) else None

    def tls_of(self, number: int) -> DeclaredTls | None:
        """The TLS settings of the listener with this number: its own, or `server.tls`. None for plain HTTP, which
        Unix sockets always have."""
        own = self.own_tls(number)
        if own == "off" or isinstance(self.listen[number], UnixAddress):
            return None
        if own is not None:
            return declared(("server", "listen", number, "tls"), own)
        return declared(("server", "tls"), self.tls) if self.tls is not None else None

    @property
    def redirects(self) -> TcpAddress | None:
        """The address that redirects to a TLS listener; None where there is none, or no TLS listener."""
        numbers = range(len(self.listeners))
        return self.tls.redirect if self.tls is not None and any(self.tls_of(each) for each in numbers) else None

    def declared_tls(self) -> Iterator[DeclaredTls]:
        """Every TLS section of the listeners, each once: `server.tls`, those of single listeners, and
        `server.admin.tls`."""
        if self.tls is not None:
            yield declared(("server", "tls"), self.tls)
        for number, listener in enumerate(self.listeners):
            if isinstance(listener, ListenOptions) and isinstance(listener.tls, ServerTls):
                yield declared(("server", "listen", number, "tls"), listener.tls)
        if self.admin is not None and self.admin.tls is not None:
            yield declared(("server", "admin", "tls"), self.admin.tls)

    @property
    def reload_mode(self) -> ReloadMode:
        """`reload`, or its default: signal with more than one worker, otherwise off."""
        if self.reload is not None:
            return self.reload
        return "signal" if self.workers.resolved() > 1 else "off"

    @property
    def supervised(self) -> bool:
        """Whether the process that was started is a supervisor, and workers serve: there is more than one worker, or
        the host reloads."""
        return self.workers.resolved() > 1 or self.reload_mode != "off"
