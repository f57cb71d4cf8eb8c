"""A Starlette application with the middleware that people add by hand, each as its own README says to add it.

Tokens are verified with joserfc, metrics come from prometheus-fastapi-instrumentator, the request id from
asgi-correlation-id, and glued_logging.json has uvicorn's access log written as JSON by python-json-logger, with the
request id in every line.
"""

from __future__ import annotations

from typing import Any

from asgi_correlation_id import CorrelationIdMiddleware
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import OctKey
from prometheus_fastapi_instrumentator import Instrumentator
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import BaseRoute, Mount, Route

from benchmarks.apps import raw
from benchmarks.apps.starlette_app import ROUTES
from benchmarks.tokens import SECRET


async def health(request: Request) -> JSONResponse:
    return JSONResponse({"status": "ok"})


class Tokens:
    """What a service checks of a token by hand: signature, algorithm, end."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._key = OctKey.import_key(SECRET)
        self._claims = jwt.JWTClaimsRegistry(leeway=30, exp={"essential": True})

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"] not in ("/health", "/metrics"):
            scheme, _, token = Headers(scope=scope).get("authorization", "").partition(" ")
            try:
                if scheme.lower() != "bearer":
                    raise ValueError(scheme)
                decoded = jwt.decode(token, self._key, algorithms=["HS256"])
                self._claims.validate(decoded.claims)
            except (JoseError, ValueError):
                await PlainTextResponse("Unauthorized", 401)(scope, receive, send)
                return
            scope["claims"] = decoded.claims
        await self._app(scope, receive, send)


def _glue(routes: list[BaseRoute]) -> Starlette:
    # The metrics route comes before the others, because a mount at "/" would take it.
    app = Starlette(routes=[Route("/health", health)])
    app.add_middleware(Tokens)
    app.add_middleware(CorrelationIdMiddleware)
    Instrumentator().instrument(app).expose(app)
    app.router.routes.extend(routes)
    return app


app = _glue(list(ROUTES))
raw_app = _glue([Mount("/", raw.app)])
