"""Imports a configuration in this process, serves the manifest that it becomes, and asks it."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from pywatt_host.build.host import build
from pywatt_host.imports import Imported, import_configuration
from pywatt_host.manifest import Source, load
from pywatt_host.observability.log_stream import LogStream
from pywatt_host.observability.logs import configured
from tests.hosting import Hosted, run

# Tells what reaches it: the prefix and the path, the scheme, and a variable of the environment.
WSGI = """
import os

def application(environ, start_response):
    if environ["PATH_INFO"] in ("/health", "/missing"):
        start_response("404 Not Found", [("Content-Type", "text/plain")])
        return [b"nothing here"]
    length = len(environ["wsgi.input"].read())
    start_response("200 OK", [("Content-Type", "text/plain"), ("X-App", __name__)])
    told = [environ["REQUEST_METHOD"], environ["SCRIPT_NAME"], environ["PATH_INFO"], environ["wsgi.url_scheme"]]
    return [" ".join([*told, str(length), os.environ.get("MODE", "-")]).encode()]

def create(mode="made"):
    def made(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [mode.encode()]
    return made

second = create("second")
"""
ASGI = """
async def app(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError("declined")
    status = 404 if scope["path"] in ("/health", "/missing") else 200
    body = f"{scope['method']} {scope['root_path']} {scope['path']} {scope['scheme']} {scope['client'][0]}".encode()
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": body})
"""


@dataclass(frozen=True)
class Asked:
    """A request and what its answer has to be: the status, the body (None: any) and some headers."""

    path: str
    status: int = 200
    body: str | None = None
    method: str = "GET"
    headers: Mapping[str, str] = ()  # type: ignore[assignment]  # empty
    client: str = "127.0.0.1"
    sent: bytes = b""
    answered: Mapping[str, str] = ()  # type: ignore[assignment]  # empty


def project(folder: Path) -> None:
    """A folder with applications and static files."""
    for name, text in {
        "wsgi_one.py": WSGI,
        "shop/wsgi.py": WSGI,
        "asgi_one.py": ASGI,
        "www/static/site.css": "body {}",
        "www/static/docs/index.html": "the docs",
        "www/index.html": "the page",
    }.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def imported(
    kind: str, *words: str, folder: Path, environ: Mapping[str, str] | None = None, app: str | None = None
) -> Imported:
    """Import a configuration for a manifest in `folder`."""
    return import_configuration(kind, words, destination=folder, environ=environ or {}, app=app)


def keys(made: Imported, *kinds: str) -> set[str]:
    """The settings of the findings of these kinds."""
    return {finding.key for finding in made.findings if finding.kind in kinds}


@asynccontextmanager
async def served(text: str, folder: Path, environ: Mapping[str, str] | None = None) -> AsyncIterator[Hosted]:
    """Serve a manifest."""
    before, path, variables = set(sys.modules), sys.path[:], dict(os.environ)
    log = folder / "log"
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        stream = LogStream(fd)
        loaded = load(Source.of_text(text, directory=folder), environ=dict(environ or {}), profile="").manifest
        with configured(loaded.logging, stream, terminal=False, colour=False):
            host = build(loaded, dict(environ or {}), stream)
            async with host.application() as surface:
                yield Hosted(host, surface.public, surface.admin, log)
    finally:
        os.close(fd)
        sys.path[:] = path
        os.environ.clear()
        os.environ.update(variables)
        for name in set(sys.modules) - before:
            if getattr(sys.modules[name], "__file__", None) and str(folder) in str(sys.modules[name].__file__):
                del sys.modules[name]


def compare(text: str, folder: Path, expected: Iterable[Asked], environ: Mapping[str, str] | None = None) -> None:
    """Serve a manifest and compare its answers with those expected."""

    async def main() -> None:
        async with served(text, folder, environ) as host:
            for each in expected:
                answer = await host.request(
                    each.method,
                    each.path,
                    headers={"Host": "localhost", **dict(each.headers)},
                    body=_pieces(each.sent),
                    client=(each.client, 50000),
                )
                assert answer.status == each.status, (each, answer)
                if each.body is not None:
                    assert answer.body.decode() == each.body, each
                for name, value in dict(each.answered).items():
                    assert answer.header(name) == value, (each, answer.headers)

    run(main)


def _pieces(body: bytes) -> Sequence[bytes]:
    return [body] if body else []
