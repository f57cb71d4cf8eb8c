"""Flask: the AppState of the module that answers the current request, and the claims of that request.

    from pywatt_host.flask import app_state, claims

    @app.get("/")
    def root() -> dict[str, str]:
        return {"module_id": app_state.module_id}

    @app.get("/me")
    def me() -> str:
        return claims["sub"]

Both are there while a request is answered, as `flask.request` is; `app_state` raises RuntimeError where PyWatt Host
does not serve the application.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from flask import request
from werkzeug.local import LocalProxy

if TYPE_CHECKING:
    from pywatt_host.app.state import AppState


def _current() -> AppState:
    state = request.environ.get("pywatt.state")
    if state is None:
        raise RuntimeError("there is no AppState: this application is not served by PyWatt Host")
    return cast("AppState", state)


# A proxy, as flask.request is one: usable within a request only. What waits is under `app_state.sync`.
app_state: AppState = cast("AppState", LocalProxy(_current))


def _claims() -> dict[str, Any]:
    found: dict[str, Any] = request.environ.get("pywatt.claims", {})
    return found


# What the request's credential says, verified; empty where the endpoint asks for none.
claims: dict[str, Any] = cast("dict[str, Any]", LocalProxy(_claims))
