"""Real applications under a manifest of a few lines, each in a process of its own, each stopped clean."""

from __future__ import annotations

import json

import pytest

from tests.processes import Project

APPS = {
    "fastapi": """
        from fastapi import FastAPI

        app = FastAPI()

        @app.get("/users/{id}")
        def user(id: int):
            return {"id": id}

        @app.post("/sum")
        async def total(numbers: list[int]):
            return sum(numbers)
    """,
    "starlette": """
        from starlette.applications import Starlette
        from starlette.responses import JSONResponse
        from starlette.routing import Route

        async def user(request):
            return JSONResponse({"id": request.path_params["id"]})

        async def total(request):
            return JSONResponse(sum(await request.json()))

        app = Starlette(routes=[Route("/users/{id:int}", user), Route("/sum", total, methods=["POST"])])
    """,
    "flask": """
        from flask import Flask, request

        app = Flask(__name__)

        @app.get("/users/<int:id>")
        def user(id):
            return {"id": id}

        @app.post("/sum")
        def total():
            return str(sum(request.get_json()))
    """,
    "quart": """
        from quart import Quart, request

        app = Quart(__name__)

        @app.get("/users/<int:id>")
        async def user(id):
            return {"id": id}

        @app.post("/sum")
        async def total():
            return str(sum(await request.get_json()))
    """,
    "litestar": """
        from litestar import Litestar, get, post

        @get("/users/{id:int}")
        async def user(id: int) -> dict[str, int]:
            return {"id": id}

        @post("/sum", status_code=200)
        async def total(data: list[int]) -> int:
            return sum(data)

        app = Litestar([user, total])
    """,
}
DJANGO = """
    import json

    from django.conf import settings
    from django.core.{kind} import get_{kind}_application
    from django.http import JsonResponse
    from django.urls import path
    from django.views.decorators.csrf import csrf_exempt

    settings.configure(ROOT_URLCONF=__name__, SECRET_KEY="test", ALLOWED_HOSTS=["*"])

    def user(request, id):
        return JsonResponse({{"id": id}})

    @csrf_exempt
    def total(request):
        return JsonResponse(sum(json.loads(request.body)), safe=False)

    urlpatterns = [path("users/<int:id>", user), path("sum", total)]
    app = get_{kind}_application()
"""
APPS["django over ASGI"] = DJANGO.format(kind="asgi")
APPS["django over WSGI"] = DJANGO.format(kind="wsgi")


@pytest.mark.parametrize("framework", APPS)
def test_an_application_is_served_measured_and_stopped(project: Project, framework: str) -> None:
    module = pytest.importorskip(framework.split(" ", 1)[0])
    assert module
    project.write("main.py", APPS[framework])
    project.manifest(metrics=True)
    host = project.host()
    with host.connect() as connection:
        assert connection.request("GET", "/users/7").json() == {"id": 7}
        headers = {"Content_Type": "application/json"}
        assert connection.request("POST", "/sum", json.dumps([1, 2, 3]).encode(), **headers).json() == 6
        assert connection.request("GET", "/nowhere").status == 404
        assert connection.request("GET", "/health").json()["status"] == "healthy"
        scraped = connection.request("GET", "/metrics").body.decode()
    assert '{http_request_method="GET",http_response_status_code="200",http_route="/users/{id}"} 1.0' in _sorted(
        scraped
    )
    assert host.stop() == 0, "\n".join(host.lines)
    assert host.stdout == b""
    levels = {record["level"] for record in host.logs} - {"info"}
    assert levels <= {"warning"}, host.lines


def _sorted(text: str) -> str:
    """The exposition with each series' labels in the order of their names."""
    lines = []
    for line in text.splitlines():
        name, brace, rest = line.partition("{")
        labels, _, value = rest.rpartition("}")
        lines.append(f"{name}{{{','.join(sorted(labels.split(',')))}}}{value}" if brace else line)
    return "\n".join(lines)
