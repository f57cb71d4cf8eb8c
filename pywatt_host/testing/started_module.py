"""A host that runs for a test without a socket."""

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
from pywatt_host.net.client_certificates import ClientCertificate
from pywatt_host.runtime.host import Host
from pywatt_host.testing.certificates import tls_extension
from pywatt_host.testing.exchange import ClientExchange
from pywatt_host.testing.isolation import ImportedModules, environment_restored
from pywatt_host.testing.logs import CapturedLogs
from pywatt_host.testing.tokens import TokenIssuer
from pywatt_host.testing.websocket import WebSocketSession
from pywatt_host.types import ASGIApp, Scope

E = TypeVar("E", ClientExchange, WebSocketSession)

CLIENT = ("127.0.0.1", 50000)  # the client address that the module sees
HOST = "module.test"  # the host of the test client's requests, which every module answers to
_GRACE = 1.0  # seconds for requests to end after their client has disconnected, and again after they are cancelled


@dataclass(frozen=True, slots=True)
class ModuleSetup:
    """What is needed to start a module. `environ` also has the values of the given secrets, and changes when they
    rotate."""

    manifest: Manifest
    objects: Mapping[str, Any]
    environ: dict[str, str]
    secrets_given: bool
    logs: CapturedLogs
    imported: ImportedModules


@dataclass(slots=True)
class StartedModule:
    """A started host. Call its methods on the host's event loop."""

    host: Host
    app: ASGIApp
    setup: ModuleSetup
    inside: Context
    open: set[ClientExchange | WebSocketSession] = field(default_factory=set)
    tokens: TokenIssuer | None = None

    async def token(self, scheme: str | None, claims: Mapping[str, Any]) -> str:
        """A token that the module accepts; see TokenIssuer."""
        if self.tokens is None:
            self.tokens = TokenIssuer(self.setup.manifest, self.host.schemes.all)
        return self.tokens.issue(scheme, claims)

    async def exchange(
        self,
        url: Any,
        method: str,
        headers: Sequence[tuple[bytes, bytes]],
        chunks: list[bytes],
        *,
        certificate: ClientCertificate | None = None,
    ) -> ClientExchange:
        """Begin a request, which runs by itself. `url` is an httpx.URL, `certificate` that of the client."""
        scope = {**_scope("http", url, headers), "method": method}
        if certificate is not None:
            scope["extensions"] = {"tls": tls_extension(certificate)}
        return self._track(ClientExchange(self.app, scope, chunks, self.inside))

    async def websocket(
        self,
        url: Any,
        headers: Sequence[tuple[bytes, bytes]],
        subprotocols: Sequence[str],
        *,
        certificate: ClientCertificate | None = None,
    ) -> WebSocketSession:
        """Begin a WebSocket handshake, which runs by itself."""
        scope = _scope("websocket", url, headers)
        scope["subprotocols"] = list(subprotocols)
        scope["extensions"] = {"websocket.http.response": {}}
        if certificate is not None:
            scope["extensions"]["tls"] = tls_extension(certificate)
        return self._track(WebSocketSession(self.app, scope, self.inside))

    def _track(self, exchange: E) -> E:
        self.open.add(exchange)
        exchange.task.add_done_callback(lambda _: self.open.discard(exchange))
        return exchange

    async def rotate(self, values: Mapping[str, str]) -> None:
        """Rotate secrets as the orchestrator would. Raises SecretError if the module refuses the new values."""
        if not self.setup.secrets_given:
            raise SecretError("the module has no secrets that a test can rotate; start the module with secrets={...}")
        environ, before = self.setup.environ, dict(self.setup.environ)
        environ.update(values)
        refused = await self.host.rotation.rotated(str(uuid.uuid4()), values)
        if refused:
            environ.clear()
            environ.update(before)
            raise SecretError(refused)

    async def end_exchanges(self) -> None:
        """Disconnect every client, and cancel the requests that go on."""
        for exchange in tuple(self.open):
            exchange.disconnect()
        tasks = [exchange.task for exchange in tuple(self.open)]
        if tasks:
            _, left = await asyncio.wait(tasks, timeout=_GRACE)
            for task in left:
                task.cancel()
            if left:
                await asyncio.wait(left, timeout=_GRACE)


def _with_test_host(manifest: Manifest) -> Manifest:
    server = manifest.server
    if server.allowed_hosts is None:
        return manifest
    server = server.model_copy(update={"allowed_hosts": (*server.allowed_hosts, HOST)})
    return manifest.model_copy(update={"server": server})


@asynccontextmanager
async def started_module(setup: ModuleSetup) -> AsyncIterator[StartedModule]:
    """Run the host of a setup while the block runs. Afterwards, imports, sys.path and environment variables are
    restored."""
    manifest = _with_test_host(setup.manifest)
    apps = [app for app in (manifest.app, *manifest.mounts) if app is not None and not isinstance(app, DirectoryMount)]
    folders = [*(manifest.resolve(app.working_dir) for app in apps), manifest.directory]
    with (
        setup.imported.tracking(folders),
        environment_restored({name for app in apps for name in app.env}),
        setup.logs.capturing(manifest.logging),
    ):
        host = build(manifest, setup.environ, setup.logs, objects=setup.objects)
        async with host.application(listening=False) as surface:
            module = StartedModule(host, surface.public, setup, copy_context())
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
