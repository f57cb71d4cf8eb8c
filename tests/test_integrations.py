"""The accessors of frameworks: the AppState in requests and WebSockets, and a clear word where there is none."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Annotated, Any

import fastapi
import flask
import httpx
import litestar
import pytest
import quart
from litestar.handlers import get as litestar_get
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket

import pywatt_host.fastapi
import pywatt_host.flask
import pywatt_host.starlette
from pywatt_host.app.state import AppState
from pywatt_host.fastapi import State
from pywatt_host.flask import app_state as flask_state
from pywatt_host.types import Receive, Scope, Send
from tests.hosting import Hosted, hello, hosted, run, websocket
from tests.processes import Project, environment

NOBODY = r"there is no AppState: this application is not served by PyWatt Host"


@asynccontextmanager
async def named(app: Any) -> AsyncIterator[Hosted]:
    async with hosted({"module": {"id": "users"}}, app) as host:
        yield host


def answers(app: Any, *paths: str) -> None:
    """Each path answers with the module's id."""

    async def main() -> None:
        async with named(app) as host:
            for path in paths:
                answer = await host.get(path)
                assert (answer.status, answer.body.strip(b'"')) == (200, b"users"), path

    run(main)


def says(app: Any, path: str) -> None:
    """On a WebSocket the module's id is said."""

    async def main() -> None:
        async with named(app) as host:
            sent = await websocket(host.app, path)
            assert [message["text"] for message in sent if message["type"] == "websocket.send"] == ["users"]

    run(main)


# FastAPI --------------------------------------------------------------------------------------------------------------


def fastapi_app() -> fastapi.FastAPI:
    app = fastapi.FastAPI()
    router = fastapi.APIRouter(prefix="/below")

    @app.get("/async")
    async def root(state: State) -> str:
        return state.module_id

    @app.get("/sync")
    def in_a_thread(state: State) -> str:
        return state.module_id

    @app.get("/written-out")
    async def written_out(state: Annotated[AppState, fastapi.Depends(pywatt_host.fastapi.app_state)]) -> str:
        return state.module_id

    @app.get("/default")
    async def default(state: AppState = fastapi.Depends(pywatt_host.fastapi.app_state)) -> str:  # noqa: B008 -- FastAPI's older style
        return state.module_id

    @router.get("/router")
    async def below(state: State) -> str:
        return state.module_id

    @app.websocket("/ws")
    async def ws(socket: fastapi.WebSocket, state: State) -> None:
        await socket.accept()
        await socket.send_text(state.module_id)

    app.include_router(router)
    return app


def test_fastapi_gives_it_to_routes_of_each_kind_and_to_websockets() -> None:
    answers(fastapi_app(), "/async", "/sync", "/written-out", "/default", "/below/router")
    says(fastapi_app(), "/ws")


def test_fastapi_finds_it_without_a_thread_and_without_a_word_in_the_schema_of_the_application() -> None:
    assert inspect.iscoroutinefunction(pywatt_host.fastapi.app_state)
    for path in fastapi_app().openapi()["paths"].values():
        assert "parameters" not in path["get"]


def elsewhere(app: Any, path: str) -> httpx.Response:
    """The answer of an application that is called without a host."""
    answers: list[httpx.Response] = []

    async def main() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            answers.append(await client.get(path))

    run(main)
    return answers[0]


def test_fastapi_elsewhere_says_so() -> None:
    with pytest.raises(RuntimeError, match=NOBODY):
        elsewhere(fastapi_app(), "/async")


def test_fastapi_takes_another_one_in_the_applications_own_tests() -> None:
    app = fastapi_app()
    app.dependency_overrides[pywatt_host.fastapi.app_state] = lambda: SimpleNamespace(module_id="fake")
    assert elsewhere(app, "/async").json() == "fake"


# Starlette and other ASGI applications --------------------------------------------------------------------------------


async def starlette_root(request: Request) -> PlainTextResponse:
    assert request.state.pywatt is pywatt_host.starlette.app_state(request)
    return PlainTextResponse(pywatt_host.starlette.app_state(request).module_id)


async def starlette_socket(socket: WebSocket) -> None:
    await socket.accept()
    await socket.send_text(pywatt_host.starlette.app_state(socket).module_id)


def starlette_app() -> Starlette:
    routes = [Route("/x", starlette_root), WebSocketRoute("/ws", starlette_socket)]
    return Starlette(routes=[*routes, Mount("/below", routes=routes)])


def test_starlette_gives_it_to_requests_and_websockets() -> None:
    answers(starlette_app(), "/x", "/below/x")
    says(starlette_app(), "/ws")


def test_a_bare_scope_has_it() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            raise RuntimeError("declined")
        await hello({**scope, "method": pywatt_host.starlette.app_state(scope).module_id, "path": ""}, receive, send)

    async def main() -> None:
        async with named(app) as host:
            assert (await host.get("/x")).body == b"users "

    run(main)


def test_quart_and_litestar_have_it_in_their_scopes() -> None:
    quart_app = quart.Quart(__name__)

    @quart_app.get("/x")
    async def root() -> str:
        return pywatt_host.starlette.app_state(quart.request.scope).module_id

    @litestar_get("/x")
    async def litestar_root(request: litestar.Request[Any, Any, Any]) -> str:
        return pywatt_host.starlette.app_state(request.scope).module_id

    answers(quart_app, "/x")
    answers(litestar.Litestar([litestar_root]), "/x")


@pytest.mark.parametrize("scope", [{}, {"state": {}}, {"type": "http", "state": {"other": 1}}])
def test_a_scope_of_another_server_says_so(scope: dict[str, Any]) -> None:
    with pytest.raises(RuntimeError, match=NOBODY):
        pywatt_host.starlette.app_state(scope)
    with pytest.raises(RuntimeError, match=NOBODY):
        pywatt_host.starlette.app_state(Request({"type": "http", **scope}))


# Flask ----------------------------------------------------------------------------------------------------------------


def flask_app() -> flask.Flask:
    app = flask.Flask(__name__)

    @app.get("/sync")
    def root() -> str:
        return flask_state.module_id

    @app.get("/async")
    async def in_a_loop_of_its_own() -> str:
        return flask_state.module_id

    @app.get("/secret")
    def secret() -> str:
        return flask_state.sync.get_secret("MODULE").expose_secret()

    return app


def test_flask_gives_it_to_views_of_each_kind() -> None:
    answers(flask_app(), "/sync", "/async")


def test_flask_waits_for_things_by_the_blocking_face() -> None:
    async def main() -> None:
        async with hosted(app=flask_app(), environ={"MODULE": "users"}) as host:
            assert (await host.get("/secret")).body == b"users"

    run(main)


def test_flask_elsewhere_says_so() -> None:
    app = flask_app()
    app.testing = True
    with pytest.raises(RuntimeError, match=NOBODY):
        app.test_client().get("/sync")
    with pytest.raises(RuntimeError, match=re.escape("Working outside of request context")):
        flask_state.module_id  # noqa: B018


# Django ---------------------------------------------------------------------------------------------------------------

DJANGO = """
    from django.conf import settings
    from django.core.{kind} import get_{kind}_application
    from django.http import JsonResponse
    from django.urls import path
    from django.utils.deprecation import MiddlewareMixin

    from pywatt_host.django import app_state

    class Ordinary(MiddlewareMixin):
        def process_request(self, request):
            request.seen = request.pywatt.module_id if hasattr(request, "pywatt") else None

    def for_threads_alone(get_response):
        return lambda request: get_response(request)

    settings.configure(
        ROOT_URLCONF=__name__,
        SECRET_KEY="test",
        ALLOWED_HOSTS=["*"],
        MIDDLEWARE={middleware},
    )

    def answer(request):
        assert app_state(request).module_id == request.seen
        return JsonResponse([request.pywatt.module_id, request.pywatt == app_state(request)], safe=False)

    def in_a_thread(request):
        return answer(request)

    async def on_the_loop(request):
        return answer(request)

    urlpatterns = [path("sync", in_a_thread), path("async", on_the_loop)]
    app = get_{kind}_application()
"""
OURS, ORDINARY, THREADS = "pywatt_host.django.PywattMiddleware", "main.Ordinary", "main.for_threads_alone"


@pytest.mark.parametrize("kind", ["asgi", "wsgi"])
@pytest.mark.parametrize(
    "middleware", [[OURS, ORDINARY], [OURS, THREADS, ORDINARY], [THREADS, OURS, ORDINARY]], ids=["-", "below", "above"]
)
def test_django_gives_it_to_views_and_middlewares_of_each_kind(
    project: Project, kind: str, middleware: list[str]
) -> None:
    project.write("main.py", DJANGO.format(kind=kind, middleware=middleware))
    project.manifest(module={"id": "users"})
    host = project.host()
    for path in ("/sync", "/async"):
        assert host.get(path).json() == ["users", True], "\n".join(host.lines)
    assert host.stop() == 0


ELSEWHERE = """
    import asyncio
    from django.core.asgi import get_asgi_application
    from django.test import AsyncClient, Client
    import main

    def why(call):
        try:
            return call()
        except RuntimeError as error:
            return str(error)

    print(why(lambda: Client().get("/untouched").content.decode()))
    print(why(lambda: Client().get("/touched")))
    print(why(lambda: asyncio.run(AsyncClient().get("/untouched")).content.decode()))
    print(why(lambda: asyncio.run(AsyncClient().get("/touched"))))
"""


def test_django_elsewhere_serves_what_does_not_use_it_and_says_so_where_something_does(project: Project) -> None:
    project.write(
        "main.py",
        f"""
        from django.conf import settings
        import django
        from django.http import HttpResponse
        from django.urls import path

        settings.configure(ROOT_URLCONF=__name__, SECRET_KEY="test", ALLOWED_HOSTS=["*"], MIDDLEWARE=["{OURS}"])
        django.setup()

        urlpatterns = [
            path("untouched", lambda request: HttpResponse("fine")),
            path("touched", lambda request: HttpResponse(request.pywatt.module_id)),
        ]
        """,
    )
    script = project.write("elsewhere.py", ELSEWHERE)
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        cwd=project.folder,
        env=environment(project.folder),
        timeout=60,
        check=False,
    )
    assert done.stdout.splitlines() == ["fine", NOBODY] * 2, done.stderr
