"""Starlette, and any other ASGI application: the AppState of a request, a WebSocket or a bare scope."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection

    from pywatt_host.state import AppState


def app_state(connection: HTTPConnection | Mapping[str, Any]) -> AppState:
    """The module's AppState; `connection` is a Request, a WebSocket or an ASGI scope. Raises RuntimeError where PyWatt
    Host does not serve the application."""
    scope = connection if isinstance(connection, dict) else getattr(connection, "scope", connection)
    try:
        state: AppState = scope["state"]["pywatt"]
    except KeyError:
        raise RuntimeError("there is no AppState: this application is not served by PyWatt Host") from None
    return state
