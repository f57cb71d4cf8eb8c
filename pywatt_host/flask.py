"""Flask: the AppState, and the claims of the current request.

>>> from flask import Flask
>>> from pywatt_host.flask import app_state, claims
>>> app = Flask(__name__)
>>> @app.get("/")
... def root() -> dict[str, str]:
...     return {"module_id": app_state.module_id}
>>> @app.get("/me")
... def me() -> str:
...     return claims["sub"]

Like `flask.request`, both can be used while a request is handled. `app_state` raises RuntimeError where PyWatt Host
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


# A proxy like flask.request. Methods of the AppState that wait are at `app_state.sync`.
app_state: AppState = cast("AppState", LocalProxy(_current))


def _claims() -> dict[str, Any]:
    found: dict[str, Any] = request.environ.get("pywatt.claims", {})
    return found


# The verified claims of the request's credential; empty where the endpoint needs no credential.
claims: dict[str, Any] = cast("dict[str, Any]", LocalProxy(_claims))
