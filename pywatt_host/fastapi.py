"""FastAPI: the AppState and the claims of a request as dependencies.

>>> from fastapi import FastAPI
>>> from pywatt_host.fastapi import Claims, State
>>> app = FastAPI()
>>> @app.get("/")
... async def root(state: State) -> dict[str, str]:
...     return {"module_id": state.module_id}
>>> @app.get("/me")
... async def me(claims: Claims) -> str:
...     return claims["sub"]

`Depends(pywatt_host.fastapi.app_state)` and `Depends(pywatt_host.fastapi.claims)` are the same dependencies. They also
work in WebSocket routes.
"""

from typing import Annotated, Any

from fastapi import Depends
from starlette.requests import HTTPConnection

from pywatt_host.app.state import AppState
from pywatt_host.starlette import app_state as _of_connection
from pywatt_host.starlette import claims as _claims_of

# No `from __future__ import annotations`: FastAPI reads the annotations below as objects.


async def app_state(connection: HTTPConnection) -> AppState:  # async, since FastAPI calls a sync function in a thread
    """The AppState of the module. Raises RuntimeError where PyWatt Host does not serve the application."""
    return _of_connection(connection)


async def claims(connection: HTTPConnection) -> dict[str, Any]:
    """The verified claims of the request's credential; empty where the endpoint needs no credential."""
    return _claims_of(connection)


Claims = Annotated[dict[str, Any], Depends(claims)]
State = Annotated[AppState, Depends(app_state)]
