"""FastAPI: the AppState as a dependency.

    from pywatt_host.fastapi import State

    @app.get("/")
    async def root(state: State) -> dict[str, str]:
        return {"module_id": state.module_id}

`Depends(pywatt_host.fastapi.app_state)` is the same, written out. Both work in WebSocket routes as well.
"""

from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from pywatt_host.starlette import app_state as _of_connection
from pywatt_host.state import AppState

# No `from __future__ import annotations`: FastAPI reads these as objects.


async def app_state(connection: HTTPConnection) -> AppState:  # async, since FastAPI calls others in a thread
    """The module's AppState. Raises RuntimeError where PyWatt Host does not serve the application."""
    return _of_connection(connection)


State = Annotated[AppState, Depends(app_state)]
