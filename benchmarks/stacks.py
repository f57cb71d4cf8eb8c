"""The stacks that are compared, as data: what to start, with what beside it, and against which rows to set it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from benchmarks.manifests import host_manifest

APPS = "benchmarks.apps"
_GLUED_LOGGING = Path(__file__).parent / "apps" / "glued_logging.json"
_FAST = ("--loop", "uvloop", "--http", "httptools")


@dataclass(frozen=True, slots=True)
class HostRun:
    """How the host serves an application: its manifest is written when its port is known."""

    app: str
    full: bool
    interface: str = "asgi"
    paths: tuple[str, ...] = ("/",)
    tokens: bool = False
    workers: int = 1
    reload: bool = False
    tls: bool = False
    tracing: str = ""  # the value of the key

    def manifest(self, port: int) -> str:
        return host_manifest(
            self.app, port, interface=self.interface, paths=self.paths, full=self.full, tokens=self.tokens,
            workers=self.workers, reload=self.reload, tls=self.tls, tracing=self.tracing,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Stack:
    """One row. `{port}` in the arguments becomes its port, `{manifest}` the path of `host`'s manifest, and `{folder}`
    the folder with that.

    A stack that `logs` must write something for each request, or its row is a fault. One with `tls` has
    `certificate.pem` and `key.pem` in its folder.
    """

    name: str
    arguments: tuple[str, ...]
    needs: tuple[str, ...]
    logs: bool = False
    host: HostRun | None = None
    tls: bool = False

    def missing(self) -> str | None:
        """The first module that this stack needs and this interpreter has not."""
        return next((module for module in self.needs if not installed(module)), None)

    def command(self, port: int, manifest: Path) -> list[str]:
        return [
            sys.executable,
            "-m",
            *(part.format(port=port, manifest=manifest, folder=manifest.parent) for part in self.arguments),
        ]


@dataclass(frozen=True, slots=True)
class Workload:
    """Stacks that serve the same application, all asked for `path`. Ratios are set against the rows of `against`.

    The first of `against` is the baseline: without it there is nothing to compare.
    """

    title: str
    path: str
    stacks: tuple[Stack, ...]
    against: tuple[str, ...]


def installed(module: str) -> bool:
    """Whether this interpreter, which the stacks run on as well, could import `module`."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _uvicorn(name: str, app: str, *options: str, needs: tuple[str, ...] = (), logs: bool = False) -> Stack:
    arguments = ("uvicorn", "--host", "127.0.0.1", "--port", "{port}", *options, f"{APPS}.{app}")
    return Stack(name, arguments, ("uvicorn", "uvloop", "httptools", *needs), logs)


def _bare(name: str, app: str, *needs: str) -> Stack:
    return _uvicorn(name, app, *_FAST, "--no-access-log", needs=needs)


def _glued(name: str, app: str) -> Stack:
    needs = ("starlette", "joserfc", "prometheus_fastapi_instrumentator", "asgi_correlation_id", "pythonjsonlogger")
    return _uvicorn(name, app, *_FAST, "--log-config", str(_GLUED_LOGGING), needs=needs, logs=True)


def _host(name: str, run: HostRun, *needs: str) -> Stack:
    arguments = ("pywatt_host", "run", "{manifest}")
    return Stack(name, arguments, ("pywatt_host.__main__", *needs), logs=run.full, host=run)


BARE = "bare uvicorn"
LOGGED = "bare with its own access log"
DEFAULT = "default uvicorn"
GLUED = "hand-glued"
FULL = "host, everything on"
NONE = "host, nothing on"
GTHREAD = "gunicorn gthread"
WAITRESS = "waitress"


def _edge(title: str, path: str, app: str, glued: str, paths: tuple[str, ...], *needs: str) -> Workload:
    stacks = (
        _bare(BARE, app, *needs),
        _uvicorn(LOGGED, app, *_FAST, needs=needs, logs=True),
        _uvicorn(DEFAULT, app, "--loop", "asyncio", "--http", "h11", needs=("h11", *needs), logs=True),
        _glued(GLUED, glued),
        Stack(
            "granian, nothing on",
            ("granian", "--interface", "asginl", "--http", "1", "--no-ws", "--port", "{port}", f"{APPS}.{app}"),
            ("granian", "uvloop", *needs),
        ),
        _host(FULL, HostRun(f"{APPS}.{app}", full=True, paths=paths, tokens=True), *needs),
        _host(NONE, HostRun(f"{APPS}.{app}", full=False), *needs),
    )
    return Workload(title, path, stacks, (BARE, DEFAULT, GLUED))


EDGE = (
    _edge("edge, raw ASGI", "/", "raw:app", "glued:raw_app", ("/",)),
    _edge("edge, Starlette route", "/users/42", "starlette_app:app", "glued:app", ("/", "/users/{id}"), "starlette"),
)

_PAIR = ("{folder}/certificate.pem", "{folder}/key.pem")


def _over_tls(name: str, full: bool) -> Stack:
    run = HostRun(f"{APPS}.raw:app", full=full, paths=("/",), tokens=True, tls=True)
    arguments = ("pywatt_host", "run", "{manifest}")
    return Stack(name, arguments, ("pywatt_host.__main__", "cryptography"), logs=full, host=run, tls=True)


TLS = Workload(
    "TLS, raw ASGI",
    "/",
    (
        _bare(BARE, "raw:app"),
        Stack(
            "bare uvicorn, TLS",
            ("uvicorn", "--port", "{port}", *_FAST, "--no-access-log", "--ssl-certfile", _PAIR[0],
             "--ssl-keyfile", _PAIR[1], f"{APPS}.raw:app"),
            ("uvicorn", "uvloop", "httptools", "cryptography"),
            tls=True,
        ),
        Stack(
            "granian, TLS",
            ("granian", "--interface", "asginl", "--http", "1", "--no-ws", "--port", "{port}", "--ssl-certificate",
             _PAIR[0], "--ssl-keyfile", _PAIR[1], f"{APPS}.raw:app"),
            ("granian", "uvloop", "cryptography"),
            tls=True,
        ),
        _host(FULL, HostRun(f"{APPS}.raw:app", full=True, paths=("/",), tokens=True)),
        _over_tls("host, everything on, TLS", full=True),
        _host(NONE, HostRun(f"{APPS}.raw:app", full=False)),
        _over_tls("host, nothing on, TLS", full=False),
    ),
    (BARE, FULL, NONE),
)  # fmt: skip

_FLASK = f"{APPS}.flask_app:app"
_FLASK_FULL = HostRun(_FLASK, full=True, interface="wsgi", tokens=True)
_FLASK_NONE = HostRun(_FLASK, full=False, interface="wsgi")

WSGI = Workload(
    "WSGI, Flask (bare uvicorn serves the raw ASGI application)",
    "/",
    (
        _bare(BARE, "raw:app"),
        _bare("a2wsgi on uvicorn", "flask_a2wsgi:app", "flask", "a2wsgi"),
        Stack(
            GTHREAD,
            ("gunicorn", "-k", "gthread", "--workers", "1", "--threads", "16", "-b", "127.0.0.1:{port}", _FLASK),
            ("gunicorn", "flask"),
        ),
        Stack(WAITRESS, ("waitress", "--listen=127.0.0.1:{port}", "--threads=16", _FLASK), ("waitress", "flask")),
        Stack(
            "granian",
            ("granian", "--interface", "wsgi", "--port", "{port}", "--blocking-threads", "16", _FLASK),
            ("granian", "flask"),
        ),
        _host(FULL, _FLASK_FULL, "flask"),
        _host(NONE, _FLASK_NONE, "flask"),
    ),
    (BARE, GTHREAD, WAITRESS),
)

STARTUP = Workload(
    "start-up, from starting the process to the first 200",
    "/",
    (
        _bare("uvicorn, raw app", "raw:app"),
        _bare("uvicorn, Starlette", "starlette_app:app", "starlette"),
        _glued("hand-glued, Starlette", "glued:app"),
        Stack(
            "granian, raw app",
            ("granian", "--interface", "asgi", "--port", "{port}", f"{APPS}.raw:app"),
            ("granian",),
        ),
        _host("host, everything on, raw app", HostRun(f"{APPS}.raw:app", full=True)),
        _host("host, everything on, Starlette", HostRun(f"{APPS}.starlette_app:app", full=True), "starlette"),
        _host("host, everything on with tokens, raw app", HostRun(f"{APPS}.raw:app", full=True, tokens=True)),
        _host("host, nothing on, raw app", HostRun(f"{APPS}.raw:app", full=False)),
    ),
    ("uvicorn, raw app",),
)

ECHO = Stack("the load alone", (f"{APPS}.echo", "{port}"), ())
