"""Starlette and any other ASGI application: the AppState and the claims of a request, a WebSocket or a scope.

>>> from starlette.requests import Request
>>> from starlette.responses import JSONResponse
>>> from pywatt_host.starlette import app_state, claims
>>> async def root(request: Request) -> JSONResponse:
...     return JSONResponse({"module_id": app_state(request).module_id, "user": claims(request).get("sub")})
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection

    from pywatt_host.app.state import AppState


def app_state(connection: HTTPConnection | Mapping[str, Any]) -> AppState:
    """The AppState of the module. `connection` is a Request, a WebSocket or an ASGI scope. Raises RuntimeError where
    PyWatt Host does not serve the application."""
    scope = _scope(connection)
    try:
        state: AppState = scope["state"]["pywatt"]
    except KeyError:
        raise RuntimeError("there is no AppState: this application is not served by PyWatt Host") from None
    return state


def claims(connection: HTTPConnection | Mapping[str, Any]) -> dict[str, Any]:
    """The verified claims (`sub` and others) of the request's credential; empty where the endpoint needs no
    credential."""
    found: dict[str, Any] = _scope(connection).get("pywatt.claims", {})
    return found


def _scope(connection: HTTPConnection | Mapping[str, Any]) -> Any:
    return connection if isinstance(connection, dict) else getattr(connection, "scope", connection)
