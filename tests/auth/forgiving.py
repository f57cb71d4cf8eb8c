"""An application as forgiving as the worst known, over ASGI and WSGI: it reads paths and methods in every way that some
framework, server or file system does, and tells which handler that led to. Written into a folder and served from
there, so that it imports nothing of the tests."""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any
from urllib.parse import unquote

OVERRIDES = ("x-http-method-override", "x-http-method", "x-method-override")
ADDRESSES = ("x-original-url", "x-rewrite-url")


def _resolved(path: str) -> str:
    kept: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            if kept:
                kept.pop()
        elif segment not in (".", ""):
            kept.append(segment)
    return "/" + "/".join(kept)


def canonical(path: str) -> str:
    """What is left of a path when nobody objects to anything."""
    for _ in range(6):
        before = path
        path = unquote(path)
        path = unicodedata.normalize("NFKC", path)
        path = path.replace("\\", "/")
        path = re.split("[?#\0]", path, maxsplit=1)[0]
        path = re.sub(";[^/]*", "", path)
        path = "/".join(part if part in (".", "..") else part.strip(" \t\r\n").rstrip(".") for part in path.split("/"))
        path = _resolved(path)
        if path == before:
            break
    return path.casefold()


def handler(method: str, path: str, headers: dict[str, str]) -> str:
    """The name of the handler that this request is for."""
    for name in OVERRIDES:
        method = headers.get(name, method)
    for name in ADDRESSES:
        path = headers.get(name, path)
    path, method = canonical(path), method.upper()
    if path == "/admin" or path.startswith("/admin/"):
        return "protected"
    if path.startswith("/items/"):
        return "protected" if method == "DELETE" else "public"
    if path == "/ws":
        return "protected"
    return "public"


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        raise RuntimeError("declined")
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
    reached = handler(scope.get("method", "GET"), scope["path"], headers)
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept", "headers": [(b"x-reached", reached.encode())]})
        await send({"type": "websocket.close"})
        return
    body = json.dumps({"reached": reached}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


def wsgi(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    headers = {key[5:].lower().replace("_", "-"): value for key, value in environ.items() if key.startswith("HTTP_")}
    path = environ["PATH_INFO"].encode("latin-1").decode("utf-8", "replace")
    body = json.dumps({"reached": handler(environ["REQUEST_METHOD"], path, headers)}).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
