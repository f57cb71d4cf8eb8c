"""A Starlette application with the middleware that people add by hand, each as its own README says to add it.

Metrics come from prometheus-fastapi-instrumentator, the request id from asgi-correlation-id, and glued_logging.json
has uvicorn's access log written as JSON by python-json-logger, with the request id in every line.
"""

from __future__ import annotations

from asgi_correlation_id import CorrelationIdMiddleware
from prometheus_fastapi_instrumentator import Instrumentator
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, Mount, Route

from benchmarks.apps import raw
from benchmarks.apps.starlette_app import ROUTES


async def health(request: Request) -> JSONResponse:
    return JSONResponse({"status": "ok"})


def _glue(routes: list[BaseRoute]) -> Starlette:
    # The metrics route comes before the others, because a mount at "/" would take it.
    app = Starlette(routes=[Route("/health", health)])
    app.add_middleware(CorrelationIdMiddleware)
    Instrumentator().instrument(app).expose(app)
    app.router.routes.extend(routes)
    return app


app = _glue(list(ROUTES))
raw_app = _glue([Mount("/", raw.app)])
