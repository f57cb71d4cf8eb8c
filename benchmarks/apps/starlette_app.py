"""A Starlette application with two routes, one of them with a parameter, as most routes have."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route


async def home(request: Request) -> PlainTextResponse:
    return PlainTextResponse("Hello, world!")


async def user(request: Request) -> JSONResponse:
    return JSONResponse({"id": request.path_params["id"], "name": "Ada"})


ROUTES = [Route("/", home), Route("/users/{id}", user)]

app = Starlette(routes=ROUTES)
