"""Flask: the AppState of the module that answers the current request.

    from pywatt_host.flask import app_state

    @app.get("/")
    def root() -> dict[str, str]:
        return {"module_id": app_state.module_id}

It is there while a request is answered, as `flask.request` is, and raises RuntimeError where PyWatt Host does not serve
the application.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from flask import request
from werkzeug.local import LocalProxy

if TYPE_CHECKING:
    from pywatt_host.state import AppState


def _current() -> AppState:
    state = request.environ.get("pywatt.state")
    if state is None:
        raise RuntimeError("there is no AppState: this application is not served by PyWatt Host")
    return cast("AppState", state)


# A proxy, as flask.request is one: usable within a request only. What waits is under `app_state.sync`.
app_state: AppState = cast("AppState", LocalProxy(_current))
