"""From an ASGI scope to the environ of PEP 3333: the keys of a2wsgi's `build_environ`, with its faults mended.

What differs from a2wsgi, and why, is listed and held in place by `tests/wsgi/test_environ.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from pywatt_host.types import Environ, Scope

log = logging.getLogger("pywatt.wsgi")

_LONGEST_LINE = 8192
_DEFAULT_PORTS = {"https": "443", "http": "80"}


def build_environ(scope: Scope, body: Any, errors: ErrorLog) -> Environ:
    """The environ of one HTTP request, in which every CGI value is a native string of latin-1 characters.

    `scope["path"]` is the full path, prefix included, as ASGI 3 has it; a server that leaves the prefix out is
    understood too. Nothing is read from the environment of the process.
    """
    script_name, path_info = _split_path(scope.get("root_path", ""), scope["path"])
    scheme = scope.get("scheme", "http")
    environ: Environ = {
        "REQUEST_METHOD": scope["method"],
        "SCRIPT_NAME": script_name,
        "PATH_INFO": path_info,
        "QUERY_STRING": scope.get("query_string", b"").decode("latin-1"),
        "SERVER_PROTOCOL": "HTTP/" + scope["http_version"],
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scheme,
        "wsgi.input": body,
        "wsgi.input_terminated": True,
        "wsgi.errors": errors,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        "asgi.scope": scope,
    }

    server = scope.get("server")
    if server and server[1] is not None:
        environ["SERVER_NAME"], environ["SERVER_PORT"] = server[0] or "localhost", str(server[1])
    else:  # a Unix socket, whose path is no host name; PEP 3333 wants both all the same
        environ["SERVER_NAME"], environ["SERVER_PORT"] = "localhost", _DEFAULT_PORTS.get(scheme, "80")
    client = scope.get("client")
    if client:
        environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = client[0] or "", str(client[1] or 0)
    else:
        environ["REMOTE_ADDR"] = ""

    for name, octets in scope["headers"]:
        key = _environ_key(name)
        if key is None:
            continue
        value = octets.decode("latin-1")
        if key in environ:
            value = environ[key] + ("; " if key == "HTTP_COOKIE" else ",") + value
        environ[key] = value
    if "HTTP_TRANSFER_ENCODING" in environ:  # RFC 9112 section 6.3: it overrides Content-Length
        environ.pop("CONTENT_LENGTH", None)

    state = scope.get("state")
    if state and "pywatt" in state:
        environ["pywatt.state"] = state["pywatt"]
    if "pywatt.claims" in scope:
        environ["pywatt.claims"] = scope["pywatt.claims"]
    return environ


def _split_path(root_path: str, path: str) -> tuple[str, str]:
    """SCRIPT_NAME and PATH_INFO: `/app` is a prefix of `/app` and `/app/x`, and not of `/application`."""
    root = root_path.rstrip("/")
    if root and path.startswith(root) and path[len(root) : len(root) + 1] in ("", "/"):
        path = path[len(root) :]
    return _octets_as_text(root), _octets_as_text(path)


def _octets_as_text(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "surrogateescape").decode("latin-1")


@lru_cache(maxsize=1024)
def _environ_key(name: bytes) -> str | None:
    """The environ's key for a header, None for one that must not get in.

    `X_User` would land on the key of `X-User`, so a client could forge what a proxy sets; `Proxy` would land on
    HTTP_PROXY, which CGI-minded HTTP clients take for their proxy (CVE-2016-5385, "httpoxy").
    """
    lower = name.lower()
    if b"_" in lower or lower == b"proxy":
        return None
    key = lower.decode("latin-1").upper().replace("-", "_")
    return key if key in ("CONTENT_LENGTH", "CONTENT_TYPE") else "HTTP_" + key


class ErrorLog:
    """`wsgi.errors` of one request: a text stream, each non-blank line of which is one log record of level error."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = ""

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"wsgi.errors is a text stream: str wanted, not {type(text).__name__}")
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._emit(line)
        if len(self._rest) > _LONGEST_LINE:
            self.flush()
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        rest, self._rest = self._rest, ""
        self._emit(rest)

    @staticmethod
    def _emit(line: str) -> None:
        if line and not line.isspace():
            log.error("%s", line.removesuffix("\r"))
