"""A module that sends a request to another module."""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from pywatt_host import AppState, MessagingError


def create_app(state: AppState) -> Starlette:
    async def total(request: Request) -> JSONResponse:
        wanted = {"type": "price", "item": request.path_params["item"], "code": request.query_params.get("code")}
        try:
            price = await state.request("prices", wanted, timeout=2)
        except MessagingError as error:
            status = 404 if error.code == "invalid_message" else 503
            return JSONResponse({"error": error.message}, status)
        return JSONResponse({"total": price["cents"] * request.path_params["count"] / 100})

    return Starlette(routes=[Route("/total/{item}/{count:int}", total)])
