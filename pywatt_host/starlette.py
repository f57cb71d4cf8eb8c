"""Starlette, and any other ASGI application: AppState and claims of a request, a WebSocket or a bare scope."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection

    from pywatt_host.app.state import AppState


def app_state(connection: HTTPConnection | Mapping[str, Any]) -> AppState:
    """The module's AppState; `connection` is a Request, a WebSocket or an ASGI scope. Raises RuntimeError where PyWatt
    Host does not serve the application."""
    scope = _scope(connection)
    try:
        state: AppState = scope["state"]["pywatt"]
    except KeyError:
        raise RuntimeError("there is no AppState: this application is not served by PyWatt Host") from None
    return state


def claims(connection: HTTPConnection | Mapping[str, Any]) -> dict[str, Any]:
    """What the request's credential says (`sub` and the like), verified; empty where the endpoint asks for none."""
    found: dict[str, Any] = _scope(connection).get("pywatt.claims", {})
    return found


def _scope(connection: HTTPConnection | Mapping[str, Any]) -> Any:
    return connection if isinstance(connection, dict) else getattr(connection, "scope", connection)
