"""What is compared with more than one worker, as data: the throughput, the spread, the memory, and the reload."""

from __future__ import annotations

from benchmarks.stacks import APPS, HostRun, Stack, Workload

WORKERS = 2
ONE = "uvicorn, 1 worker"
HOST_ONE = "host, 1 worker, nothing on"
_HOST = ("pywatt_host", "run", "{manifest}")
_FAST = ("--loop", "uvloop", "--http", "httptools", "--no-access-log")
_UVICORN_WORKER = "uvicorn_worker.UvicornWorker"


def _host(
    name: str, app: str, *, workers: int, full: bool = False, tokens: bool = False, reload: bool = False
) -> Stack:
    run = HostRun(app, full=full, paths=("/", "/pid"), tokens=tokens, workers=workers, reload=reload)
    return Stack(name, _HOST, ("pywatt_host.__main__",), logs=full, host=run)


def _uvicorn(name: str, app: str, workers: int) -> Stack:
    arguments = ("uvicorn", "--host", "127.0.0.1", "--port", "{port}", "--workers", f"{workers}", *_FAST, app)
    return Stack(name, arguments, ("uvicorn", "uvloop", "httptools"))


def _gunicorn(name: str, app: str, kind: str, *needs: str) -> Stack:
    options = ("--workers", f"{WORKERS}", "-b", "127.0.0.1:{port}", "--no-control-socket")
    return Stack(name, ("gunicorn", "-k", kind, *options, app), ("gunicorn", *needs))


def _granian(name: str, app: str) -> Stack:
    options = ("--interface", "asginl", "--http", "1", "--no-ws", "--port", "{port}", "--workers", f"{WORKERS}")
    return Stack(name, ("granian", *options, app), ("granian", "uvloop"))


def _others(app: str) -> tuple[Stack, ...]:
    return (
        _uvicorn(f"uvicorn, {WORKERS} workers", app, WORKERS),
        _gunicorn(f"gunicorn and uvicorn-worker, {WORKERS} workers", app, _UVICORN_WORKER, "uvicorn_worker"),
        _gunicorn(f"gunicorn's own ASGI, {WORKERS} workers", app, "asgi"),
        _granian(f"granian, {WORKERS} workers", app),
    )


_WORKING, _THIRTY = f"{APPS}.working:app", f"{APPS}.thirty:app"
_FULL, _NONE = f"host, {WORKERS} workers, everything on", f"host, {WORKERS} workers, nothing on"

THROUGHPUT = Workload(
    "workers, an application that computes",
    "/",
    (
        _uvicorn(ONE, _WORKING, 1),
        *_others(_WORKING),
        _host("host, 1 worker, everything on", _WORKING, workers=1, full=True, tokens=True),
        _host(HOST_ONE, _WORKING, workers=1),
        _host(_FULL, _WORKING, workers=WORKERS, full=True, tokens=True),
        _host(_NONE, _WORKING, workers=WORKERS),
    ),
    (ONE, HOST_ONE),
)

# Everything on, without tokens: the one who asks for the pid has none.
SPREAD = (
    *_others(_WORKING),
    _host(_FULL, _WORKING, workers=WORKERS, full=True),
    _host(_NONE, _WORKING, workers=WORKERS),
)

MEMORY = (*_others(_THIRTY), _host(_FULL, _THIRTY, workers=WORKERS, full=True), _host(_NONE, _THIRTY, workers=WORKERS))

RELOAD_APP = "served:app"
RELOAD = (*_others(RELOAD_APP), _host(_NONE, RELOAD_APP, workers=WORKERS, reload=True))
