"""The new application. It has replaced the old one, except for one path."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

PAGE = """<!doctype html><title>Front</title><link rel="stylesheet" href="/static/style.css">
<p>New here. <a href="/legacy/report">The old report</a></p>"""


async def index(request: Request) -> Response:
    return HTMLResponse(PAGE)


app = Starlette(routes=[Route("/", index)])
