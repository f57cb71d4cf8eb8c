"""hypercorn: its command line, and its configuration in TOML or Python, which is read without being run."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from pywatt_host.imports import common
from pywatt_host.imports.draft import Draft, Setting
from pywatt_host.imports.findings import Place, UnreadableError
from pywatt_host.imports.inputs import read_text
from pywatt_host.imports.options import parse, table
from pywatt_host.imports.python_kinds import Cores, Unknown
from pywatt_host.imports.python_settings import python_settings
from pywatt_host.imports.servers import ServerCommand
from pywatt_host.imports.text import Template, Text

OPTIONS = table("""
    access_log: --access-log
    accesslog: --access-logfile
    access_log_format: --access-logformat
    backlog: --backlog
    bind: -b --bind = list
    ca_certs: --ca-certs
    certfile: --certfile
    cert_reqs: --cert-reqs
    ciphers: --ciphers
    config: -c --config
    daemon: -D --daemon = on
    debug: --debug = on
    error_log: --error-log
    errorlog: --error-logfile --log-file
    graceful_timeout: --graceful-timeout
    read_timeout: --read-timeout
    max_requests: --max-requests
    max_requests_jitter: --max-requests-jitter
    group: -g --group
    worker_class: -k --worker-class
    keep_alive_timeout: --keep-alive
    keyfile: --keyfile
    keyfile_password: --keyfile-password
    insecure_bind: --insecure-bind = list
    logconfig: --log-config
    loglevel: --log-level
    pid_path: -p --pid
    quic_bind: --quic-bind = list
    use_reloader: --reload = on
    root_path: --root-path
    server_names: --server-name = list
    statsd_host: --statsd-host
    statsd_prefix: --statsd-prefix
    umask: -m --umask
    user: -u --user
    verify_mode: --verify-mode
    websocket_ping_interval: --websocket-ping-interval
    workers: -w --workers
""")

_HTTP2 = ("the host speaks HTTP/1.1", "put a proxy that speaks HTTP/2 or 3 in front")
_STDERR = "collect standard error with systemd or the container"
_LOST = {
    "access_log_format": ("the fields of the access log are fixed", "logging.format is json or console"),
    "alpn_protocols": _HTTP2,
    "alt_svc_headers": _HTTP2,
    "quic_bind": _HTTP2,
    "h2_max_concurrent_streams": _HTTP2,
    "h2_max_header_list_size": _HTTP2,
    "h2_max_inbound_frame_size": _HTTP2,
    "h11_pass_raw_headers": ("the host passes names of headers in lower case", ""),
    "ciphers": ("the host uses modern ciphers", "server.tls.min_version"),
    "daemon": ("the host stays in the foreground", "run it with systemd: pywatt-host export systemd"),
    "debug": ("it is for development", "run `pywatt-host dev`"),
    "use_reloader": ("it is for development", "run `pywatt-host dev`, which restarts when a file changes"),
    "dogstatsd_tags": ("the host sends nothing to statsd", "metrics.labels"),
    "statsd_prefix": ("the host sends nothing to statsd", "metrics"),
    "errorlog": ("the host logs to standard error, not to a file", _STDERR),
    "error_log": ("the host logs to standard error, not to a file", _STDERR),
    "group": ("the host does not change its group", "set Group= in the systemd unit, or USER in the Dockerfile"),
    "user": ("the host does not change its user", "set User= in the systemd unit, or USER in the Dockerfile"),
    "umask": ("the host does not set the umask of the process", "set UMask= in the systemd unit"),
    "include_date_header": ("the host always sends Date", ""),
    "include_server_header": ("the host sends no Server header", ""),
    "keep_alive_max_requests": ("a connection may carry any number of requests", ""),
    "keyfile_password": ("keys are not encrypted", "write the key without a password, and protect the file"),
    "logconfig": ("the host has log settings of its own", "logging.level and logging.loggers"),
    "logconfig_dict": ("the host has log settings of its own", "logging.level and logging.loggers"),
    "logger_class": ("the host has a logger of its own", "logging.format is json or console"),
    "max_app_queue_size": ("the host bounds what it reads ahead by itself", ""),
    "pid_path": ("the host writes no file with its process id", "pywatt-host ps"),
    "root_path": (
        "the path of a request has to contain app.route_prefix, and root_path is without an effect on matching",
        "set app.route_prefix if the proxy passes the prefix on, else set root_path in the application",
    ),
    "ssl_handshake_timeout": ("a handshake counts under server.timeouts.header", ""),
    "verify_flags": ("the host verifies client certificates by its own rules", "server.tls.client_ca"),
    "websocket_ping_interval": ("the host pings WebSockets by itself", ""),
    "worker_class": (
        "the host runs applications with asyncio and uvloop",
        "an application that needs trio needs another server",
    ),
    "proxy_mode": ("server.trusted_proxies names the proxies", "server.trusted_proxies"),
    "startup_timeout": ("the time for the start of one worker", "server.workers.start_limit"),
}
_USUAL = {"worker_class": ("asyncio", "uvloop"), "errorlog": ("-",), "error_log": ("-",), "root_path": ("",)}
_DEFAULT_ON = frozenset({"include_date_header", "include_server_header"})
_TLS = frozenset(
    {"certfile", "keyfile", "ca_certs", "cert_reqs", "verify_mode", "max_requests_jitter", "insecure_bind"}
)
NAMES = frozenset({option.name for option in OPTIONS} | set(_LOST)) | {
    "application_path",
    "shutdown_timeout",
    "statsd_host",
    "websocket_max_message_size",
    "h11_max_incomplete_size",
    "wsgi_max_body_size",
}
_BODY = 16 * 1024**2  # of a WSGI application
_PORT = 8000


def from_file(path: Path, name: str, draft: Draft) -> None:
    """Fill in a manifest from a configuration file."""
    _fill(draft, _config(path, name, draft), None)


def from_command(command: ServerCommand, draft: Draft) -> None:
    """Fill in a manifest from a command line and the configuration file that it names."""
    draft.findings += command.findings
    line = parse(command.words, OPTIONS, command.place.file, "hypercorn")
    given = {setting.name: setting for setting in line.settings}
    config = given.pop("config", None)
    settings: dict[str, Setting] = {}
    if command.folder is not None:
        draft.folder = draft.folder / draft.plain(Setting("cd", command.folder, command.place))
    if config is not None:
        text = draft.plain(config)
        text = text.removeprefix("file:")
        if text.startswith("python:"):
            text = text.removeprefix("python:").replace(".", "/") + ".py"
        common.there(draft.folder / text, config)
        settings = _config(draft.folder / text, os.path.relpath(draft.folder / text), draft)
    settings |= given
    app = None
    for number, word in enumerate(line.words):
        place = Place(command.place.file, word.line)
        if number == 0:
            app = Setting("application", word.text, place)
        else:
            draft.lost(Setting("arguments", None, place), "a word after the application")
    _fill(draft, settings, app)
    for name, word in command.variables.items():
        draft.put_variable(Setting("environment", None, command.place), name, word.text)


def _config(path: Path, name: str, draft: Draft) -> dict[str, Setting]:
    if path.suffix == ".py":
        return python_settings(path, name, draft, NAMES)
    text = read_text(path, name)
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UnreadableError(Place(name, _line_of(str(error))), f"this is not TOML: {str(error)[:100]}") from None
    except RecursionError:
        raise UnreadableError(Place(name), "the file is nested too deeply") from None
    return {key: Setting(key, value, Place(name, _line(text, key))) for key, value in data.items()}


def _line_of(message: str) -> int:
    words = message.replace(",", " ").split()
    return next((int(after) for word, after in pairwise(words) if word == "line" and after.isdecimal()), 0)


def _line(text: str, key: str) -> int:
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip(" [\"'").startswith(key):
            return number
    return 0


def _fill(draft: Draft, found: Mapping[str, Setting], app: Setting | None) -> None:
    settings: dict[str, Setting] = {}
    for name, setting in found.items():
        if isinstance(setting.value, Unknown):
            draft.lost(
                setting,
                f"cannot be read without running the file: {setting.value.reason}",
                "write it into the manifest by hand",
            )
        elif setting.value is not None:
            settings[name] = setting
    app = app or settings.pop("application_path", None)
    settings.pop("application_path", None)
    if app is not None and isinstance(app.value, str) and draft.app is None:
        kind, colon, rest = app.value.partition(":")
        if colon and kind in ("asgi", "wsgi") and ":" in rest:
            draft.put("app.interface", kind)
            app = Setting(app.name, rest, app.place)
    common.choose_application(draft, app, "app")
    common.settle_folder(draft)
    draft.put_working_dir(".")
    draft.put("server.listen", f"127.0.0.1:{_PORT}")
    for name, setting in settings.items():
        if name in _LOST:
            usual = _USUAL.get(name, ())
            switched = bool(setting.value) if name not in _DEFAULT_ON else True
            if (
                setting.value not in usual
                and switched
                and not (name in _DEFAULT_ON and name == "include_date_header" and setting.value)
            ):
                draft.lost(setting, *_LOST[name])
        elif name not in _TLS:
            _take(draft, setting, settings)
    common.tls_of(draft, settings, "certfile", "keyfile", "ca_certs")
    if draft.get("server.tls") is not None:
        common.client_certificates(draft, settings.get("cert_reqs") or settings.get("verify_mode"))
        _insecure(draft, settings.get("insecure_bind"))
    elif "insecure_bind" in settings:
        draft.lost(settings["insecure_bind"], "there is no certificate, so hypercorn does not use it")
    _body(draft, settings)
    draft.put("server.paths", "lenient")


def _body(draft: Draft, settings: Mapping[str, Setting]) -> None:
    """hypercorn bounds the bodies of WSGI applications only."""
    limit = settings.get("wsgi_max_body_size")
    if limit is not None:
        common.bytes_limit(draft, "server.limits.body", limit)
    elif draft.get("app.interface") == "wsgi":
        draft.put("server.limits.body", "16MiB")
    else:
        draft.put("server.limits.body", "off")


def _addresses(draft: Draft, setting: Setting) -> list[Any]:
    values = setting.value if isinstance(setting.value, list | tuple) else [setting.value]
    texts: list[Text] = [draft.text(Setting(setting.name, each, setting.place)) for each in values]
    return [common.address(setting, text, _PORT) for text in texts]


def _insecure(draft: Draft, setting: Setting | None) -> None:
    """Addresses with plain HTTP beside those with TLS."""
    if setting is None:
        return
    listen = draft.get("server.listen")
    first = listen if isinstance(listen, list) else [listen]
    draft.put("server.listen", [*first, *({"address": each, "tls": "off"} for each in _addresses(draft, setting))])


def _take(draft: Draft, setting: Setting, settings: Mapping[str, Setting]) -> None:
    name = setting.name
    if name == "bind":
        draft.put_listen(setting, _addresses(draft, setting))
        common.unix_mode(draft, 0)
    elif name == "workers":
        draft.put_count("server.workers.count", setting, 512)
        if isinstance(setting.value, Cores):
            draft.differs(setting, f"{int(setting.value)} was computed on this machine", "server.workers: auto")
    elif name in ("accesslog", "access_log"):
        draft.put("logging.access", True)
        if setting.value != "-":
            draft.lost(setting, "the host writes its access log to standard error, not to a file", _STDERR)
    elif name == "loglevel":
        common.level(draft, setting)
    elif name == "backlog":
        draft.put_count("server.limits.backlog", setting, 65535)
    elif name in ("graceful_timeout", "shutdown_timeout"):
        if name == "graceful_timeout" or "graceful_timeout" not in settings:
            draft.put_seconds("server.timeouts.shutdown", setting)
        else:
            draft.lost(setting, "the host has one time for its stop", "server.timeouts.shutdown")
    elif name == "keep_alive_timeout":
        draft.put_seconds("server.timeouts.keep_alive", setting)
    elif name == "read_timeout":
        draft.put_seconds("server.timeouts.body", setting, off_at_zero=True)
    elif name == "max_requests":
        common.recycle(draft, setting, settings.get("max_requests_jitter"))
    elif name == "server_names":
        _names(draft, setting)
    elif name == "statsd_host":
        draft.put("metrics", True)
        draft.differs(setting, "the host sends nothing to statsd; it serves numbers for Prometheus at /metrics")
    elif name == "websocket_max_message_size":
        common.bytes_limit(draft, "server.limits.websocket.message", setting)
    elif name == "h11_max_incomplete_size":
        common.bytes_limit(draft, "server.limits.header", setting)
    elif name != "wsgi_max_body_size":
        draft.lost(setting, "hypercorn has no such setting, or the manifest has no such key")


def _names(draft: Draft, setting: Setting) -> None:
    values = setting.value if isinstance(setting.value, list | tuple) else [setting.value]
    names = [each.value(draft.environ) or "" if isinstance(each, Template) else str(each) for each in values]
    if names:
        draft.put("server.allowed_hosts", [each.partition(":")[0] for each in names])
        draft.differs(setting, "another Host gets the status 421, and not 404")
