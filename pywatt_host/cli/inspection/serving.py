"""In the child process: a manifest is served once, in the process, and asked for each route of its application.

No handler of the application runs for this: a recorder stands between the host and the application, and answers in its
place. What is found out is whether the host lets each request through. Only a path that no route has is asked of the
application itself: its answer shows whether it serves paths that are not in its table.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pywatt_host.app.applications import Application
from pywatt_host.build.host import build
from pywatt_host.cli.inspection.result import Served
from pywatt_host.exceptions import HostError
from pywatt_host.http.inprocess import TooLargeError, request
from pywatt_host.manifest import Source, load
from pywatt_host.manifest.values.paths import is_parameter, shape
from pywatt_host.observability.log_stream import LogStream
from pywatt_host.types import ASGIApp, Message, Receive, Scope, Send

_ANY = ("GET", "POST", "WEBSOCKET")  # what is asked where a route has every method
_ANSWER_LIMIT = 5.0  # seconds in which the application answers one request
_MOST_REFUSED = 5  # requests that are named


class _Recorder:
    """Stands in front of an application: it notes that a request has come this far, and answers it. Where `passing`, it
    passes requests on."""

    def __init__(self) -> None:
        self.passing = False
        self.reached = False

    def around(self, app: ASGIApp) -> ASGIApp:
        """The recorder in front of `app`."""

        async def recorded(scope: Scope, receive: Receive, send: Send) -> None:
            if self.passing:
                await app(scope, receive, send)
                return
            self.reached = True
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1000})
                return
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        return recorded


async def serve_once(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Serve the manifest of the question, and ask for each of its routes."""
    source = Source.of_text(asked["serve"], directory=Path(asked["directory"]))
    # The folder of the manifest may not exist yet.
    overrides = (f"app.working_dir={json.dumps(asked['working_dir'])}", "logging.access=false", "logging.level=warning")
    manifest = load(source, profile="", overrides=overrides).manifest
    host = build(manifest, stream=LogStream(2))
    recorder = _Recorder()
    application = host.applications.all[0]
    application.wrap = recorder.around
    try:
        async with host.application(listening=False) as surface:
            own = {manifest.health.path, manifest.health.liveness, manifest.health.readiness, manifest.metrics.path}
            wanted = [(path, methods) for path, methods in asked["requests"] if path not in own]
            return asdict(await _asked(surface.public, application, recorder, wanted, asked["requests"]))
    except (HostError, ExceptionGroup) as error:
        first: BaseException = error
        while isinstance(first, ExceptionGroup):
            first = first.exceptions[0]
        return asdict(Served(failure=str(first), trace=trace_of(first)))


async def _asked(
    public: ASGIApp, application: Application, recorder: _Recorder, wanted: Iterable[Any], known: Iterable[Any]
) -> Served:
    """Ask for all wanted paths. The host may answer others of the known ones itself, such as that of health."""
    number, refused = 0, []
    for path, methods in wanted:
        for method in _ANY if "*" in methods else methods:
            recorder.reached = False
            status = await _ask(public, method, _sample(path))
            number += 1
            if not recorder.reached:
                refused.append(f"{method} {path} ({status})")
    recorder.passing = True
    return Served(number, tuple(refused[:_MOST_REFUSED]), len(refused), await _unlisted(application, known))


async def _unlisted(application: Application, known: Iterable[Any]) -> str:
    """Why the running application answers paths that are not in its table; empty if nothing shows that it does."""
    before = {shape(path) for path, _ in known}
    if not {shape(route.path) for route in application.reread() or ()} <= before:
        return "it makes routes when it starts"
    assert application.mount is not None
    if any(path.count("/") == 1 and is_parameter(path[1:]) for path, _ in known):
        return ""  # there is no path that no route has
    path = f"/pywatt-host-init-{secrets.token_hex(8)}"
    try:
        async with asyncio.timeout(_ANSWER_LIMIT):
            status, _, _ = await request(application.mount, path)
    except (TimeoutError, TooLargeError):
        return f"it answers paths that are in no route, such as {path}"
    except Exception:  # named boundary: the application; what has no answer is no page
        return ""
    return "" if status in (404, 405, 501) else f"it answers paths that are in no route with {status}"


async def _ask(public: ASGIApp, method: str, path: str) -> int:
    """The status of the host's answer; 0 where it failed."""
    if method == "WEBSOCKET":
        return await _ask_websocket(public, path)
    try:
        status, _, _ = await request(public, path, method=method)
    except TooLargeError:
        return 0
    return status


async def _ask_websocket(public: ASGIApp, path: str) -> int:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.disconnect", "code": 1000} if sent else {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope: Scope = {
        "type": "websocket",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "scheme": "ws",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"localhost")],
        "subprotocols": [],
        "client": None,
        "server": ("localhost", None),
        "state": {},
        "extensions": {},
    }
    await public(scope, receive, send)
    return 403


def _sample(template: str) -> str:
    """A path of the template."""
    return "/".join("1" if is_parameter(part) else part for part in template.split("/"))


def trace_of(error: BaseException) -> str:
    """What the application's own code raised, as Python shows it; empty where it raised nothing."""
    return "".join(traceback.format_exception(error.__cause__)).rstrip() if error.__cause__ is not None else ""
