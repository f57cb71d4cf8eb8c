"""The module in any other ASGI server: `granian --interface asgi pywatt_host.asgi:app`.

The environment variable PYWATT_MANIFEST names the manifest (default: ./pywatt.yaml) or a Python file with a decorated
function. It is loaded when the server starts the lifespan. A warning then lists the keys of the manifest that have no
effect, since the server decides about them.
"""

from __future__ import annotations

import logging
import os
import sys
from contextlib import AsyncExitStack

from pywatt_host.build.host import build
from pywatt_host.decorator.scripts import load_script
from pywatt_host.exceptions import HostError
from pywatt_host.manifest import Source, load
from pywatt_host.manifest.values.names import script_of
from pywatt_host.observability.log_stream import LogStream
from pywatt_host.observability.logs import configured, standard_error
from pywatt_host.runtime.host import Surface
from pywatt_host.types import Receive, Scope, Send

logger = logging.getLogger("pywatt.host")

SERVER_KEYS = (  # keys of the manifest that another server decides about
    "server.listen",
    "server.tls",
    "server.admin",
    "server.control",
    "server.workers",
    "server.reload",
    "server.limits.header",
    "server.limits.backlog",
    "server.limits.connections",
    "server.limits.connections_per_client",
    "server.limits.websocket",
    "server.timeouts.header",
    "server.timeouts.keep_alive",
    "server.timeouts.body",
    "server.timeouts.write",
    "server.timeouts.drain_delay",
)


class HostedApp:
    """A whole host as an ASGI application: it loads its manifest and starts when the server starts the lifespan, and
    stops with it. Requests before that raise RuntimeError."""

    def __init__(self) -> None:
        self._surface: Surface | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif self._surface is None:
            raise RuntimeError("pywatt_host.asgi:app needs a server that runs the lifespan protocol")
        else:
            await self._surface.public(scope, receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        stream = standard_error()
        async with AsyncExitStack() as stack:
            try:
                await self._start(stack, stream)
            except HostError as error:
                text = stream.masked(str(error).encode("utf-8", "backslashreplace")).decode()  # the server logs it
                await send({"type": "lifespan.startup.failed", "message": text})
                return
            await send({"type": "lifespan.startup.complete"})
            await receive()
        self._surface = None
        await send({"type": "lifespan.shutdown.complete"})

    async def _start(self, stack: AsyncExitStack, stream: LogStream) -> None:
        target = os.environ.get("PYWATT_MANIFEST", "pywatt.yaml")
        script = script_of(target)
        decorated = load_script(script) if script is not None else None
        loaded = load(Source.file(target) if decorated is None else decorated.source())
        manifest = loaded.manifest
        terminal = sys.stderr.isatty()
        stack.enter_context(
            configured(manifest.logging, stream, terminal=terminal, colour=terminal and "NO_COLOR" not in os.environ)
        )
        for problem in loaded.warnings:
            logger.warning("%s", problem)
        ignored = [key for key in SERVER_KEYS if loaded.origin(key) != "default"]
        if ignored:
            logger.warning("these keys have no effect, since another server serves: %s", ", ".join(ignored))
        if manifest.server.admin is not None:
            logger.warning("server.admin has no listener in another server: health and metrics are not served")
        objects = decorated.objects if decorated is not None else {}
        self._surface = await stack.enter_async_context(build(manifest, stream=stream, objects=objects).application())
        if decorated is not None:
            decorated.keep_token(manifest)


app = HostedApp()
