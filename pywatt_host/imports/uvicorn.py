"""uvicorn: its command line, and its variables UVICORN_*."""

from __future__ import annotations

from collections.abc import Mapping

from pywatt_host.imports import common
from pywatt_host.imports.draft import Draft, Setting, tcp, wrong
from pywatt_host.imports.env_file import put_env_file
from pywatt_host.imports.findings import Place
from pywatt_host.imports.options import Option, parse, table
from pywatt_host.imports.servers import ServerCommand
from pywatt_host.imports.text import Template

OPTIONS = table("""
    host: --host
    port: --port
    uds: --uds
    fd: --fd
    reload: --reload = on
    reload_dirs: --reload-dir = list
    reload_includes: --reload-include = list
    reload_excludes: --reload-exclude = list
    reload_delay: --reload-delay
    workers: --workers
    loop: --loop
    http: --http
    http2: --http2 = on
    ws: --ws
    ws_max_size: --ws-max-size
    ws_max_queue: --ws-max-queue
    ws_ping_interval: --ws-ping-interval
    ws_ping_timeout: --ws-ping-timeout
    ws_per_message_deflate: --ws-per-message-deflate
    lifespan: --lifespan
    interface: --interface
    env_file: --env-file
    log_config: --log-config
    log_level: --log-level
    access_log: --access-log = on
    access_log: --no-access-log = off
    use_colors: --use-colors = on
    use_colors: --no-use-colors = off
    proxy_headers: --proxy-headers = on
    proxy_headers: --no-proxy-headers = off
    server_header: --server-header = on
    server_header: --no-server-header = off
    date_header: --date-header = on
    date_header: --no-date-header = off
    forwarded_allow_ips: --forwarded-allow-ips
    root_path: --root-path
    limit_concurrency: --limit-concurrency
    backlog: --backlog
    limit_max_requests: --limit-max-requests
    limit_max_requests_jitter: --limit-max-requests-jitter
    timeout_keep_alive: --timeout-keep-alive
    timeout_graceful_shutdown: --timeout-graceful-shutdown
    timeout_worker_healthcheck: --timeout-worker-healthcheck
    ssl_keyfile: --ssl-keyfile
    ssl_certfile: --ssl-certfile
    ssl_keyfile_password: --ssl-keyfile-password
    ssl_version: --ssl-version
    ssl_cert_reqs: --ssl-cert-reqs
    ssl_ca_certs: --ssl-ca-certs
    ssl_ciphers: --ssl-ciphers
    headers: --header = list
    app_dir: --app-dir
    h11_max_incomplete_event_size: --h11-max-incomplete-event-size
    reset_contextvars: --reset-contextvars = on
    factory: --factory = on
""")

_DEV = ("it is for development", "run `pywatt-host dev`, which restarts when a file changes")
_PROTOCOL = ("the host has one event loop and one parser", "")
_PING = ("the host pings WebSockets by itself", "")
_LOST = {
    "reload": _DEV,
    "reload_dirs": _DEV,
    "reload_includes": _DEV,
    "reload_excludes": _DEV,
    "reload_delay": _DEV,
    "loop": _PROTOCOL,
    "http": _PROTOCOL,
    "ws": ("WebSockets are always on", ""),
    "http2": ("the host speaks HTTP/1.1", "put a proxy that speaks HTTP/2 in front"),
    "ws_max_queue": _PING,
    "ws_ping_interval": _PING,
    "ws_ping_timeout": _PING,
    "lifespan": ("the host always runs the lifespan protocol; an application may decline", ""),
    "log_config": ("the host has log settings of its own", "logging.level and logging.loggers"),
    "use_colors": ("the host uses colours on a terminal only", "set NO_COLOR to switch them off"),
    "root_path": (
        "the path of a request has to contain app.route_prefix, and root_path is without an effect on matching",
        "set app.route_prefix if the proxy passes the prefix on, else set root_path in the application",
    ),
    "ssl_keyfile_password": ("keys are not encrypted", "write the key without a password, and protect the file"),
    "ssl_version": ("TLS 1.2 and newer", "server.tls.min_version"),
    "ssl_ciphers": ("the host uses modern ciphers", "server.tls.min_version"),
    "reset_contextvars": ("each request has a context of its own", ""),
}
_DEFAULT = ("auto", "on")  # values of `loop`, `http`, `ws` and `lifespan` that change nothing
_TLS = frozenset({"ssl_certfile", "ssl_keyfile", "ssl_ca_certs", "ssl_cert_reqs"})
_PREFIX = "UVICORN_"
_DECIDED = frozenset(
    {
        "host",
        "port",
        "uds",
        "fd",
        "app",
        "factory",
        "app_dir",
        "proxy_headers",
        "forwarded_allow_ips",
        "limit_max_requests_jitter",
    }
)


def from_command(command: ServerCommand, draft: Draft) -> None:
    """Fill in a manifest from a command line and the variables UVICORN_*."""
    draft.findings += command.findings
    line = parse(command.words, OPTIONS, command.place.file, "uvicorn")
    settings = _variables(draft, command)
    settings |= {setting.name: setting for setting in line.settings}
    for number, word in enumerate(line.words):
        place = Place(command.place.file, word.line)
        if number == 0:
            settings["app"] = Setting("app", word.text, place)
        else:
            draft.lost(Setting("arguments", None, place), "a word after the application")
    if command.folder is not None:
        draft.folder = draft.folder / draft.plain(Setting("cd", command.folder, command.place))
        settings.setdefault("app_dir", Setting("app_dir", str(draft.folder), command.place))
    _fill(draft, settings)
    for name, word in command.variables.items():
        if not name.startswith(_PREFIX) and name not in ("WEB_CONCURRENCY", "FORWARDED_ALLOW_IPS"):
            draft.put_variable(Setting("environment", None, command.place), name, word.text)


def _variables(draft: Draft, command: ServerCommand) -> dict[str, Setting]:
    """The settings of the variables of the command and of the environment."""
    found: dict[str, Setting] = {}
    names = {option.name: option for option in OPTIONS}
    values = {name: Setting(name, value, Place(name)) for name, value in draft.environ.items()}
    values |= {name: Setting(name, word.text, command.place) for name, word in command.variables.items()}
    special = {"WEB_CONCURRENCY": "workers", "FORWARDED_ALLOW_IPS": "forwarded_allow_ips", "UVICORN_APP": "app"}
    for variable, setting in values.items():
        name = special.get(variable, variable.removeprefix(_PREFIX).lower())
        option: Option | None = names.get(name)
        if variable not in special and (not variable.startswith(_PREFIX) or option is None):
            if variable.startswith(_PREFIX):
                draft.lost(setting, "uvicorn has no such option")
            continue
        if setting.value == "":
            continue
        value = setting.value
        if option is not None and option.kind == "list":
            value = value.split() if isinstance(value, str) else [value]
        elif option is not None and option.kind in ("on", "off"):
            value = draft.flag(setting)
        found[name] = Setting(name, value, setting.place)
    return found


def _fill(draft: Draft, settings: Mapping[str, Setting]) -> None:
    common.choose_application(draft, settings.get("app"), "app")
    app_dir = settings.get("app_dir")
    if app_dir is None:
        common.settle_folder(draft)
    draft.put_working_dir(draft.plain(app_dir) if app_dir is not None else ".")
    if "factory" in settings and draft.flag(settings["factory"]):
        draft.put("app.factory", True)
    _listen(draft, settings)
    _trusted(draft, settings)
    for name, setting in settings.items():
        if name in _LOST:
            if setting.value not in _DEFAULT and setting.value not in (False, ""):
                draft.lost(setting, *_LOST[name])
        elif name not in _TLS and name not in _DECIDED:
            _take(draft, setting, settings)
    common.tls_of(draft, dict(settings), "ssl_certfile", "ssl_keyfile", "ssl_ca_certs")
    if draft.get("server.tls") is not None:
        common.client_certificates(draft, settings.get("ssl_cert_reqs"))
    draft.put("server.limits.body", "off")  # uvicorn has no limit
    draft.put("server.paths", "lenient")  # uvicorn passes every path on


def _listen(draft: Draft, settings: Mapping[str, Setting]) -> None:
    if "uds" in settings:
        path = draft.text(settings["uds"])
        draft.put("server.listen", {"unix": path.written() if isinstance(path, Template) else path, "mode": "0666"})
    elif "fd" in settings:
        draft.put("server.listen", f"fd:{draft.plain(settings['fd'])}")
    else:
        host = draft.text(settings["host"]) if "host" in settings else "127.0.0.1"
        port = settings["port"].value if "port" in settings else 8000
        if isinstance(port, str) and not (port.strip().isdecimal() and int(port) <= 65535):
            raise wrong(settings["port"], "a port")
        draft.put("server.listen", tcp(host, port))


def _trusted(draft: Draft, settings: Mapping[str, Setting]) -> None:
    headers = settings.get("proxy_headers")
    allowed = settings.get("forwarded_allow_ips")
    if headers is not None and not draft.flag(headers):
        if allowed is not None:
            draft.lost(allowed, "--no-proxy-headers switches it off")
        return
    setting = allowed or Setting("forwarded_allow_ips", "127.0.0.1", Place("the default of uvicorn"))
    common.trust(draft, setting, draft.text(setting))


def _take(draft: Draft, setting: Setting, settings: Mapping[str, Setting]) -> None:
    name = setting.name
    if name == "workers":
        draft.put_count("server.workers.count", setting, 512)
    elif name == "interface":
        _interface(draft, setting)
    elif name == "env_file":
        put_env_file(draft, setting)
    elif name == "log_level":
        common.level(draft, setting)
    elif name == "access_log":
        draft.put("logging.access", draft.flag(setting))
    elif name == "limit_concurrency":
        draft.put_count("server.limits.concurrency", setting, 1_000_000)
        draft.differs(setting, "the host counts running requests, and not connections")
    elif name == "limit_max_requests":
        common.recycle(draft, setting, settings.get("limit_max_requests_jitter"))
    elif name == "backlog":
        draft.put_count("server.limits.backlog", setting, 65535)
    elif name == "timeout_keep_alive":
        draft.put_seconds("server.timeouts.keep_alive", setting)
    elif name == "timeout_graceful_shutdown":
        draft.put_seconds("server.timeouts.shutdown", setting)
    elif name == "timeout_worker_healthcheck":
        draft.put_seconds("server.workers.ping_limit", setting)
    elif name == "h11_max_incomplete_event_size":
        common.bytes_limit(draft, "server.limits.header", setting)
    elif name == "ws_max_size":
        common.bytes_limit(draft, "server.limits.websocket.message", setting)
    elif name == "ws_per_message_deflate":
        draft.put("server.limits.websocket.compression", draft.flag(setting))
    elif name == "headers":
        for each in setting.value:
            text = draft.plain(Setting(name, each, setting.place))
            header, colon, value = text.partition(":")
            common.header(draft, setting, header.strip(), value.strip()) if colon else draft.lost(
                setting, "a header without a colon"
            )
    elif name in ("server_header", "date_header"):
        _own_header(draft, setting)


def _interface(draft: Draft, setting: Setting) -> None:
    text = draft.plain(setting)
    if text in ("wsgi", "asgi3"):
        draft.put("app.interface", text.rstrip("3"))
    elif text == "asgi2":
        draft.lost(
            setting,
            "ASGI 2 is not supported",
            "wrap the application with asgiref.compatibility.guarantee_single_callable",
        )


def _own_header(draft: Draft, setting: Setting) -> None:
    if setting.name == "server_header" and draft.flag(setting):
        draft.lost(
            setting, "the host sends no Server header", "server.headers: {Server: uvicorn}, if a client needs it"
        )
    elif setting.name == "date_header" and not draft.flag(setting):
        draft.lost(setting, "the host always sends Date")
