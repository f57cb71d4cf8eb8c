"""The settings of gunicorn, and what each becomes in a manifest."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TypeAlias

from pywatt_host.imports import common
from pywatt_host.imports.draft import Draft, Setting, wrong
from pywatt_host.imports.findings import Place, UnreadableError
from pywatt_host.imports.gunicorn_table import HOOKS, LOST
from pywatt_host.imports.python_kinds import Cores, CoresText, Decided, Unknown
from pywatt_host.imports.shell_words import Word
from pywatt_host.imports.text import Template, Text, Written, written

SYSTEMD = "systemd"  # the address that stands for the sockets of a unit
_DEFAULT_PORT = 8000
_GREEN = ("gevent", "eventlet", "tornado")
_MAX_THREADS = 1024
_MAX_WORKERS = 512
_Handler: TypeAlias = Callable[[Draft, Setting, Mapping[str, Setting]], None]


def fill(
    draft: Draft, found: dict[str, Setting], variables: Mapping[str, Word] | None = None, place: Place | None = None
) -> None:
    settings: dict[str, Setting] = {}
    for name, setting in found.items():
        if isinstance(setting.value, Unknown) and name not in HOOKS:
            draft.lost(
                setting,
                f"cannot be read without running the file: {setting.value.reason}",
                "write it into the manifest by hand",
            )
        elif setting.value is not None:
            settings[name] = setting
    common.choose_application(draft, settings.get("wsgi_app"), "application")
    _chdir(draft, settings)
    _proxies(draft, settings)
    for name, word in (variables or {}).items():
        if name not in ("GUNICORN_CMD_ARGS", "WEB_CONCURRENCY") and place is not None:
            _variable(draft, Setting("environment", None, place), name, word.text)
    for name, setting in settings.items():
        handler = _HANDLERS.get(name)
        if handler is not None:
            handler(draft, setting, settings)
        elif name in HOOKS:
            draft.lost(setting, "a hook is Python code that gunicorn calls", HOOKS[name])
        elif name in LOST:
            message, hint = LOST[name]
            if _changes_something(setting):
                draft.lost(setting, message, hint)
        elif name not in _WITH_OTHERS:
            draft.lost(setting, "the manifest has no such key")
        cores = _cores(setting.value)
        if cores:
            message = f"{cores} was computed on this machine, which has {os.cpu_count()} cores"
            auto = "write server.workers: auto for one worker for each core"
            draft.differs(setting, message, auto if name == "workers" else "write the value for the other machine")
        if isinstance(setting.value, Decided):
            draft.differs(setting, "variables of the environment decide it, and were taken as they are now")
    _finish(draft, settings, (variables or {}).get("PORT"))


def _cores(value: object) -> str:
    """What was computed out of the number of cores; empty for nothing."""
    if isinstance(value, Cores):
        return str(int(value))
    defaults = [each.default for each in value.variables] if isinstance(value, Template) else []
    return next((str(each) for each in defaults if isinstance(each, CoresText)), "")


_WITH_OTHERS = frozenset(
    {
        "wsgi_app",
        "certfile",
        "keyfile",
        "ca_certs",
        "cert_reqs",
        "worker_class",
        "threads",
        "forwarded_allow_ips",
        "chdir",
        "pythonpath",
        "max_requests_jitter",
    }
    | {"umask"}
)


def _changes_something(setting: Setting) -> bool:
    return setting.value not in (False, "", [], {}, 0, "off")


def _finish(draft: Draft, settings: dict[str, Setting], set_port: Word | None) -> None:
    if draft.get("server.listen") is None:
        port = draft.environ.get("PORT", "")
        if set_port is not None and set_port.text:
            draft.put("server.listen", written(Template.joined(":", set_port.text)))
        elif port.isdecimal():
            draft.put("server.listen", f":{port}")
            draft.differs(
                Setting("bind", None, Place("PORT")),
                "gunicorn takes the port from the variable PORT, which is set here",
            )
        elif draft.has_port:
            draft.put("server.listen", Written(f":${{PORT:-{_DEFAULT_PORT}}}"))
        else:
            draft.put("server.listen", f"127.0.0.1:{_DEFAULT_PORT}")
    _threads(draft, settings)
    umask = settings.get("umask")
    common.unix_mode(draft, _octal(umask) if umask is not None else 0)
    if umask is not None:
        draft.lost(
            umask,
            "the host does not set the umask of the process",
            "set UMask= in the systemd unit; the mode of a Unix socket is in server.listen",
        )
    common.tls_of(draft, settings, "certfile", "keyfile", "ca_certs")
    if draft.get("server.tls") is not None:
        common.client_certificates(draft, settings.get("cert_reqs"))
    if draft.get("server.limits.body") is None:
        draft.put("server.limits.body", "off")  # gunicorn has no limit
    draft.data["server"].setdefault("paths", "lenient")  # gunicorn passes every path on


def _octal(setting: Setting) -> int:
    if isinstance(setting.value, int):
        return setting.value & 0o777
    try:
        return int(str(setting.value), 0 if str(setting.value).startswith("0o") else 8) & 0o777
    except ValueError:
        raise wrong(setting, "an octal number") from None


def _chdir(draft: Draft, settings: dict[str, Setting]) -> None:
    """The folder of the application. gunicorn also makes it the working directory."""
    chdir, pythonpath = settings.get("chdir"), settings.get("pythonpath")
    given = "."
    if chdir is not None:
        given = draft.plain(chdir)
        draft.folder = draft.folder / given
        hint = f"start pywatt-host in {given}, if the application opens files by relative paths"
        draft.differs(chdir, "the host does not change the working directory", hint)
        given = given if os.path.isabs(given) else "."
    else:
        common.settle_folder(draft)
    folders = [each for each in draft.plain(pythonpath).split(",") if each] if pythonpath is not None else []
    home = next((each for each in folders if common.has_module(draft, draft.folder / each)), None)
    for more in folders:
        if more != home and pythonpath is not None:
            message = f"app.working_dir is one folder, and {more[:80]} is a further one"
            draft.lost(pythonpath, message, "add it to PYTHONPATH")
    draft.put_working_dir(home if home is not None else given)


def _proxies(draft: Draft, settings: dict[str, Setting]) -> None:
    setting = settings.get("forwarded_allow_ips") or Setting(
        "forwarded_allow_ips", "127.0.0.1,::1", Place("the default of gunicorn")
    )
    common.trust(draft, setting, draft.text(setting))
    if not _serves_asgi(draft, settings):
        message = "X-Forwarded-For of a trusted proxy also sets the client's address, which gunicorn leaves alone"
        draft.differs(setting, message)


def _serves_asgi(draft: Draft, settings: Mapping[str, Setting]) -> bool:
    kind = _kind(draft, settings)
    return kind is not None and _is_asgi(kind)


def _kind(draft: Draft, settings: Mapping[str, Setting]) -> str | None:
    """The class of workers in lower case, with variables as they are now; None if it is Python code."""
    setting = settings.get("worker_class")
    if setting is None:
        return "sync"
    return draft.plain(setting).lower() if isinstance(setting.value, str | Template) else None


def _is_asgi(kind: str) -> bool:
    """Whether a class of workers serves ASGI applications."""
    return "uvicorn" in kind or "asgi" in kind.rpartition(".")[2]


def _bind(draft: Draft, setting: Setting, settings: Mapping[str, Setting]) -> None:
    if setting.value == SYSTEMD:
        draft.put("server.listen", SYSTEMD)
        draft.add("server.trusted_proxies", "unix")
        draft.differs(
            setting,
            "the sockets of a unit take the place of every address, as before",
            "start pywatt-host with the same .socket unit, or write addresses under server.listen",
        )
        return
    value = setting.value if isinstance(setting.value, list | tuple) else [setting.value]
    texts: list[Text] = []
    for each in value:
        text = draft.text(Setting(setting.name, each, setting.place))
        texts += [part.strip() for part in text.split(",") if part.strip()] if isinstance(text, str) else [text]
    draft.put_listen(setting, [common.address(setting, text, _DEFAULT_PORT) for text in texts])
    if any(str(each).startswith("unix:") for each in texts):
        draft.add("server.trusted_proxies", "unix")


def _workers(draft: Draft, setting: Setting, settings: Mapping[str, Setting]) -> None:
    draft.put_count("server.workers.count", setting, _MAX_WORKERS)


def _threads(draft: Draft, settings: Mapping[str, Setting]) -> None:
    """gunicorn's sync worker answers one request at a time, and so does the imported manifest."""
    kind_setting = settings.get("worker_class")
    kind = _kind(draft, settings)
    threads = settings.get("threads")
    if kind is None:
        assert kind_setting is not None
        draft.lost(kind_setting, "the class of the worker is Python code", "the host detects WSGI and ASGI by itself")
        return
    if _is_asgi(kind):
        draft.put("app.interface", "asgi")
        if threads is not None:
            draft.differs(threads, "an ASGI application has no threads of the server")
        return
    draft.put("app.interface", "wsgi")
    green = next((each for each in _GREEN if each in kind), None)
    if green is not None and kind_setting is not None:
        draft.lost(
            kind_setting,
            f"{green} is not supported: the host runs a WSGI application in threads",
            "app.threads is how many requests run at the same time; remove monkey patching from the application",
        )
        draft.put("app.threads", 16)
        return
    if kind_setting is not None and kind not in ("sync", "gthread") and not kind.startswith("gunicorn.workers."):
        draft.lost(
            kind_setting, f'the worker "{kind[:60]}" is code of its own', "the host detects WSGI and ASGI by itself"
        )
    if threads is None or not draft.put_count("app.threads", threads, _MAX_THREADS):
        draft.put("app.threads", 1)


def _timeout(draft: Draft, setting: Setting, settings: Mapping[str, Setting]) -> None:
    """The sync worker is killed when a request takes longer. Workers of other kinds only have to be alive."""
    if not _is_sync(draft, settings):
        if draft.number(setting) == 0:
            draft.lost(setting, "a worker that does not answer is always replaced", "set server.workers.ping_limit")
            return
        draft.put_seconds("server.workers.ping_limit", setting)
        return
    draft.put_seconds("server.timeouts.request", setting, off_at_zero=True)
    draft.differs(
        setting,
        "gunicorn kills a worker whose request takes longer; the host answers 504 and the thread goes on",
        "server.timeouts.request",
    )


def _is_sync(draft: Draft, settings: Mapping[str, Setting]) -> bool:
    kind, threads = _kind(draft, settings), settings.get("threads")
    if threads is not None and _now(draft, threads) != "1":
        return False  # gunicorn takes its gthread worker then
    return kind is not None and kind.rpartition(".")[2] in ("sync", "syncworker")


def _now(draft: Draft, setting: Setting) -> str:
    """The value as a text, with variables as they are now; empty if one of them is not set."""
    value = setting.value
    return (value.value(draft.environ) or "" if isinstance(value, Template) else str(value)).strip()


def _recycle(draft: Draft, setting: Setting, settings: Mapping[str, Setting]) -> None:
    common.recycle(draft, setting, settings.get("max_requests_jitter"))


def _raw_env(draft: Draft, setting: Setting, settings: Mapping[str, Setting]) -> None:
    values = setting.value if isinstance(setting.value, list | tuple) else [setting.value]
    for each in values:
        text = draft.text(Setting(setting.name, each, setting.place))
        first = text if isinstance(text, str) else text.parts[0]
        start = first if isinstance(first, str) else ""
        name, equals, value = start.partition("=")
        if not equals:
            raise UnreadableError(setting.place, "an entry of raw_env is not NAME=value")
        rest = text.parts[1:] if isinstance(text, Template) else ()
        _variable(draft, setting, name, Template.joined(value, *(Template((part,)) for part in rest)))


def _variable(draft: Draft, setting: Setting, name: str, value: Text) -> None:
    if name == "SCRIPT_NAME" and isinstance(value, str):  # gunicorn divides the path there
        draft.put("app.route_prefix", "/" + value.strip("/"))
        draft.differs(setting, "SCRIPT_NAME became app.route_prefix: a path outside of it is 404")
    elif name == "FORWARDED_ALLOW_IPS":
        common.trust(draft, Setting(name, value, setting.place), value)
    else:
        draft.put_variable(setting, name, value)


def _seconds(key: str) -> _Handler:
    return lambda draft, setting, settings: draft.put_seconds(key, setting)


def _preload(draft: Draft, setting: Setting, settings: Mapping[str, Setting]) -> None:
    draft.put("server.workers.start", "fork" if draft.flag(setting) else "auto")


def _backlog(draft: Draft, setting: Setting, settings: Mapping[str, Setting]) -> None:
    draft.put_count("server.limits.backlog", setting, 65535)


def _connections(draft: Draft, setting: Setting, settings: Mapping[str, Setting]) -> None:
    draft.lost(
        setting,
        "it counts the connections of one worker",
        "server.limits.connections counts those of the host, and server.limits.concurrency its running requests",
    )


def _accesslog(draft: Draft, setting: Setting, settings: Mapping[str, Setting]) -> None:
    if draft.plain(setting) == "":
        return  # no access log, which is the default of gunicorn
    draft.put("logging.access", True)
    if _is_file(draft, setting):
        message = "the host writes its access log to standard error, not to a file"
        draft.lost(setting, message, "collect it with systemd or the container")


def _errorlog(draft: Draft, setting: Setting, settings: Mapping[str, Setting]) -> None:
    if _is_file(draft, setting):
        message = "the host logs to standard error, not to a file"
        draft.lost(setting, message, "collect it with systemd or the container")


def _is_file(draft: Draft, setting: Setting) -> bool:
    """Whether a log goes to a file, and not to standard output or standard error."""
    return draft.plain(setting) not in ("", "-", "/dev/stdout", "/dev/stderr")


def _level(draft: Draft, setting: Setting, settings: Mapping[str, Setting]) -> None:
    common.level(draft, setting)


def _reload(draft: Draft, setting: Setting, settings: Mapping[str, Setting]) -> None:
    if draft.flag(setting):
        draft.lost(setting, "it is for development", "run `pywatt-host dev`, which restarts when a file changes")


def _head_limit(draft: Draft, setting: Setting, settings: Mapping[str, Setting]) -> None:
    draft.lost(
        setting, "the host has one limit for the whole head of a request, 64KiB by default", "server.limits.header"
    )


def _statsd(draft: Draft, setting: Setting, settings: Mapping[str, Setting]) -> None:
    draft.put("metrics", True)
    draft.differs(setting, "the host sends nothing to statsd; it serves numbers for Prometheus at /metrics")


def _websocket(draft: Draft, setting: Setting, settings: Mapping[str, Setting]) -> None:
    common.bytes_limit(draft, "server.limits.websocket.message", setting)


def _proc_name(draft: Draft, setting: Setting, settings: Mapping[str, Setting]) -> None:
    draft.lost(
        setting,
        "the host does not change the name of its process",
        "module.id names the module in logs, health and `pywatt-host ps`",
    )


_HANDLERS: dict[str, _Handler] = {
    "bind": _bind,
    "workers": _workers,
    "timeout": _timeout,
    "graceful_timeout": _seconds("server.timeouts.shutdown"),
    "keepalive": _seconds("server.timeouts.keep_alive"),
    "max_requests": _recycle,
    "preload_app": _preload,
    "raw_env": _raw_env,
    "backlog": _backlog,
    "worker_connections": _connections,
    "accesslog": _accesslog,
    "errorlog": _errorlog,
    "loglevel": _level,
    "reload": _reload,
    "limit_request_line": _head_limit,
    "limit_request_fields": _head_limit,
    "limit_request_field_size": _head_limit,
    "statsd_host": _statsd,
    "websocket_max_message_size": _websocket,
    "proc_name": _proc_name,
}
