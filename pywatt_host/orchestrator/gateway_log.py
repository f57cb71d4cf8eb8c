"""The access log of the gateway: the requests that it answers in place of a module. Modules log all others."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from pywatt_host.http.exchange import Exchange, Refusal
from pywatt_host.http.server.serving import AppHandler
from pywatt_host.manifest.model import AccessLog
from pywatt_host.observability.logs import ResponseCutError
from pywatt_host.types import ASGIApp, Scope

logger = logging.getLogger("pywatt.access")

_BROKE_OFF = "the module broke off"
_CLIENT_LEFT = "not completed"  # the module says so in its own log


class GatewayLog:
    """Writes one line for each request that a module has not logged."""

    def __init__(self, settings: AccessLog) -> None:
        self._enabled = settings.enabled
        self._unlogged = tuple(f"{path.rstrip('/')}/" for path in settings.exclude)

    def refused(self, scope: Scope, status: int, reason: str = "") -> None:
        """The gateway answers with this status, because of a key or a rule where there is a `reason`."""
        more = {"client": scope["client"][0] if scope.get("client") else ""}
        more |= {"reason": reason} if reason else {}
        self._write(scope.get("method", "WEBSOCKET"), scope["path"], status, more)

    def finished(self, exchange: Exchange) -> None:
        """A request has finished. It has a reason where the server has answered it, or has ended its connection."""
        if exchange.reason and exchange.reason != _CLIENT_LEFT:
            more = {"client": exchange.client, "request_id": exchange.request_id.decode(), "reason": exchange.reason}
            self._write(exchange.method, exchange.path, exchange.status, more)

    def _write(self, method: str, path: str, status: int, more: dict[str, Any]) -> None:
        if self._enabled and not f"{path}/".startswith(self._unlogged):
            logger.info("%s %s %d", method, path, status, extra={"status": status, **more})


class GatewayHandler(AppHandler):
    """Lets the gateway's server pass each request to it, and log the requests that never get there."""

    def __init__(self, app: ASGIApp, finished: Callable[[Exchange], None]) -> None:
        super().__init__(app)
        self._finished = finished

    def accept(self, exchange: Any) -> ASGIApp | None:
        exchange.observe = self._finished
        return super().accept(exchange)

    def unread(self, exchange: Exchange) -> None:
        exchange.observe = self._finished

    def failed(self, exchange: Exchange, error: BaseException) -> Refusal:
        if isinstance(error, ResponseCutError):  # its cause is logged
            exchange.reason = exchange.reason or _BROKE_OFF
            return Refusal(502, _BROKE_OFF)
        return super().failed(exchange, error)
