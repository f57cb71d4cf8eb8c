"""Makes the environ of PEP 3333 from an ASGI scope. It has the same keys as a2wsgi's `build_environ`, without its bugs.

`tests/wsgi/test_environ.py` lists and tests the differences from a2wsgi, with the reason for each.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from pywatt_host.manifest.values.paths import below
from pywatt_host.net.client_certificates import client_certificate
from pywatt_host.types import Environ, Scope
from pywatt_host.wsgi.error_log import ErrorLog
from pywatt_host.wsgi.tls import tls_variables

_DEFAULT_PORTS = {"https": "443", "http": "80"}


def build_environ(scope: Scope, body: Any, errors: ErrorLog, length: int | None = None) -> Environ:
    """Return the environ of one HTTP request. Every CGI value is a native string of latin-1 characters.

    `length` is the number of bytes of the body, where it has been received. The application then gets a body without
    Transfer-Encoding: a Content-Length instead, and no Trailer (RFC 9112 section 7.1.3).

    `scope["path"]` is the full path with its prefix, as ASGI 3 requires; a path without the prefix works too. Nothing
    is read from the environment of the process.
    """
    root_path, path, query = scope.get("root_path", ""), scope["path"], scope.get("query_string", b"")
    script_name, path_info = ("", path) if not root_path and path.isascii() else _split_path(root_path, path)
    scheme = scope.get("scheme", "http")
    environ: Environ = {
        "REQUEST_METHOD": scope["method"],
        "SCRIPT_NAME": script_name,
        "PATH_INFO": path_info,
        "QUERY_STRING": query.decode("latin-1") if query else "",
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
    else:  # a Unix socket: its path is not a host name, but PEP 3333 requires both values
        environ["SERVER_NAME"], environ["SERVER_PORT"] = "localhost", _DEFAULT_PORTS.get(scheme, "80")
    client = scope.get("client")
    if client:
        environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = client[0] or "", str(client[1] or 0)
    else:
        environ["REMOTE_ADDR"] = ""

    for name, raw in scope["headers"]:
        key = _environ_key(name)
        if key is None:
            continue
        value = raw.decode("latin-1")
        if key in environ:
            value = environ[key] + ("; " if key == "HTTP_COOKIE" else ",") + value
        environ[key] = value
    if length is not None:
        if environ.pop("HTTP_TRANSFER_ENCODING", None) is not None:
            environ.pop("HTTP_TRAILER", None)
            environ["CONTENT_LENGTH"] = str(length)
        elif length and "CONTENT_LENGTH" not in environ:  # HTTP/2 and HTTP/3
            environ["CONTENT_LENGTH"] = str(length)

    extensions = scope.get("extensions")
    if extensions and "tls" in extensions:
        environ.update(tls_variables(extensions["tls"], client_certificate(scope)))
    state = scope.get("state")
    if state and "pywatt" in state:
        environ["pywatt.state"] = state["pywatt"]
    if "pywatt.claims" in scope:
        environ["pywatt.claims"] = scope["pywatt.claims"]
    return environ


def _split_path(root_path: str, path: str) -> tuple[str, str]:
    """Return SCRIPT_NAME and PATH_INFO. `/app` is a prefix of `/app` and `/app/x`, but not of `/application`."""
    return _as_latin1(root_path.rstrip("/")), _as_latin1(below(root_path, path))


def _as_latin1(text: str) -> str:
    """Return the UTF-8 bytes of the text as latin-1 characters."""
    return text if text.isascii() else text.encode("utf-8", "surrogateescape").decode("latin-1")


@lru_cache(maxsize=1024)
def _environ_key(name: bytes) -> str | None:
    """Return the environ's key for a header, or None for a header that is left out.

    `X_User` would have the same key as `X-User`, so that a client could forge a header of a proxy. `Proxy` would have
    the key HTTP_PROXY, which HTTP clients written for CGI use as their proxy (CVE-2016-5385, "httpoxy").
    """
    lower = name.lower()
    if b"_" in lower or lower == b"proxy":
        return None
    key = lower.decode("latin-1").upper().replace("-", "_")
    return key if key in ("CONTENT_LENGTH", "CONTENT_TYPE") else "HTTP_" + key
