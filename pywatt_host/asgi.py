"""The same application in any other ASGI server: `granian --interface asgi pywatt_host.asgi:app`.

The manifest is PYWATT_MANIFEST (default: ./pywatt.yaml; also a Python file with a decorated function), loaded in the
lifespan. The keys that such a server owns
itself are listed once at start.
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
from pywatt_host.observability.logs import configured, standard_error
from pywatt_host.runtime.host import Surface
from pywatt_host.types import Receive, Scope, Send

logger = logging.getLogger("pywatt.host")

SERVER_KEYS = (
    "server.listen",
    "server.admin",
    "server.control",
    "server.limits.header",
    "server.limits.backlog",
    "server.timeouts.header",
    "server.timeouts.keep_alive",
    "server.timeouts.drain_delay",
)


class HostedApp:
    """An ASGI application that is a whole host: it loads its manifest when the server starts its lifespan."""

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
        async with AsyncExitStack() as stack:
            try:
                await self._start(stack)
            except HostError as error:
                await send({"type": "lifespan.startup.failed", "message": str(error)})
                return
            await send({"type": "lifespan.startup.complete"})
            await receive()
        self._surface = None
        await send({"type": "lifespan.shutdown.complete"})

    async def _start(self, stack: AsyncExitStack) -> None:
        target = os.environ.get("PYWATT_MANIFEST", "pywatt.yaml")
        script = script_of(target)
        decorated = load_script(script) if script is not None else None
        loaded = load(Source.file(target) if decorated is None else decorated.source())
        manifest, stream = loaded.manifest, standard_error()
        terminal = sys.stderr.isatty()
        stack.enter_context(
            configured(manifest.logging, stream, terminal=terminal, colour=terminal and "NO_COLOR" not in os.environ)
        )
        for problem in loaded.warnings:
            logger.warning("%s", problem)
        ours = [key for key in SERVER_KEYS if loaded.origin(key) != "default"]
        if ours:
            logger.warning("owned by the server that runs this application, so not used: %s", ", ".join(ours))
        if manifest.server.admin is not None:
            logger.warning("server.admin has no listener here: health and metrics are served nowhere")
        objects = decorated.objects if decorated is not None else {}
        self._surface = await stack.enter_async_context(build(manifest, stream=stream, objects=objects).application())
        if decorated is not None:
            decorated.keep_token(manifest)


app = HostedApp()
