"""A host that runs for a test, without a socket, and the way to it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import unquote

from pywatt_host.build.host import build
from pywatt_host.exceptions import SecretError
from pywatt_host.manifest import Manifest
from pywatt_host.manifest.model import DirectoryMount
from pywatt_host.runtime.host import Host
from pywatt_host.testing.exchange import ClientExchange
from pywatt_host.testing.isolation import Imported, environment_kept
from pywatt_host.testing.logs import KeptLogs
from pywatt_host.testing.tokens import Tokens
from pywatt_host.testing.websocket import WebSocketSession
from pywatt_host.types import ASGIApp, Scope

E = TypeVar("E", ClientExchange, WebSocketSession)

CLIENT = ("127.0.0.1", 50000)  # as whom the module sees the test
_GRACE = 1.0  # seconds that requests which still run at the end have, once their client has left


@dataclass(frozen=True, slots=True)
class Recipe:
    """What is to be started. `environ` holds the values of the secrets as well, and changes when they rotate."""

    manifest: Manifest
    objects: Mapping[str, Any]
    environ: dict[str, str]
    secrets_given: bool
    logs: KeptLogs
    imported: Imported


@dataclass(slots=True)
class Started:
    """A started host. What is not a plain attribute belongs to its event loop."""

    host: Host
    app: ASGIApp
    recipe: Recipe
    inside: Context
    open: set[ClientExchange | WebSocketSession] = field(default_factory=set)
    tokens: Tokens | None = None

    async def token(self, scheme: str | None, claims: Mapping[str, Any]) -> str:
        """A token that the module takes; see Tokens."""
        if self.tokens is None:
            self.tokens = Tokens(self.recipe.manifest, self.host.schemes.all)
        return self.tokens.token(scheme, claims)

    async def exchange(
        self, url: Any, method: str, headers: Sequence[tuple[bytes, bytes]], body: list[bytes]
    ) -> ClientExchange:
        """A request that goes on by itself; `url` is httpx's."""
        scope = {**_scope("http", url, headers), "method": method}
        return self._begun(ClientExchange(self.app, scope, body, self.inside))

    async def websocket(
        self, url: Any, headers: Sequence[tuple[bytes, bytes]], subprotocols: Sequence[str]
    ) -> WebSocketSession:
        """A handshake that goes on by itself."""
        scope = _scope("websocket", url, headers)
        scope["subprotocols"] = list(subprotocols)
        scope["extensions"] = {"websocket.http.response": {}}
        return self._begun(WebSocketSession(self.app, scope, self.inside))

    def _begun(self, exchange: E) -> E:
        self.open.add(exchange)
        exchange.task.add_done_callback(lambda _: self.open.discard(exchange))
        return exchange

    async def rotate(self, values: Mapping[str, str]) -> None:
        """As when the orchestrator says that these secrets have rotated. Raises SecretError where that is refused."""
        if not self.recipe.secrets_given:
            raise SecretError("there is nothing to rotate: start the module with secrets={...}")
        environ, before = self.recipe.environ, dict(self.recipe.environ)
        environ.update(values)
        refused = await self.host.rotation.rotated(str(uuid.uuid4()), values)
        if refused:
            environ.clear()
            environ.update(before)
            raise SecretError(refused)

    async def end_exchanges(self) -> None:
        """Every client leaves; what does not end by that is cancelled."""
        for exchange in tuple(self.open):
            exchange.leave()
        tasks = [exchange.task for exchange in tuple(self.open)]
        if tasks:
            _, left = await asyncio.wait(tasks, timeout=_GRACE)
            for task in left:
                task.cancel()
            if left:
                await asyncio.wait(left, timeout=_GRACE)


@asynccontextmanager
async def started(recipe: Recipe) -> AsyncIterator[Started]:
    """The host of a recipe, for as long as the block runs. What it changes of the process is put back."""
    manifest = recipe.manifest
    apps = [app for app in (manifest.app, *manifest.mounts) if app is not None and not isinstance(app, DirectoryMount)]
    folders = [*(manifest.resolve(app.working_dir) for app in apps), manifest.directory]
    with (
        recipe.imported.keeping(folders),
        environment_kept({name for app in apps for name in app.env}),
        recipe.logs.taking(manifest.logging),
    ):
        host = build(manifest, recipe.environ, recipe.logs, objects=recipe.objects)
        async with host.application(listening=False) as surface:
            module = Started(host, surface.public, recipe, copy_context())
            try:
                yield module
            finally:
                await module.end_exchanges()


def _scope(type: str, url: Any, headers: Sequence[tuple[bytes, bytes]]) -> Scope:
    raw_path, _, query = url.raw_path.partition(b"?")
    return {
        "type": type,
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "scheme": url.scheme,
        "path": unquote(raw_path.decode("ascii")),
        "raw_path": raw_path,
        "query_string": query,
        "root_path": "",
        "server": (url.host, url.port or (443 if url.scheme in ("https", "wss") else 80)),
        "client": CLIENT,
        "state": {},
        "headers": [(name.lower(), value) for name, value in headers],
    }
