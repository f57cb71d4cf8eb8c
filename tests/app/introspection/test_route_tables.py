"""The routes of real applications, as each framework's own table holds them."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import a2wsgi
import fastapi
import flask
import litestar
import pytest
import quart
from django.urls import URLPattern, URLResolver, include, path, re_path
from django.urls.resolvers import LocalePrefixPattern
from django.utils.functional import lazystr
from django.views import View
from pydantic import TypeAdapter
from starlette.applications import Starlette
from starlette.convertors import Convertor, register_url_convertor
from starlette.endpoints import HTTPEndpoint
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import BaseRoute, Host, Mount, Router, WebSocketRoute
from starlette.routing import Route as StarletteRoute
from starlette.staticfiles import StaticFiles
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.routing import BaseConverter

from pywatt_host.app.introspection import FRAMEWORKS, Route, framework_of, routes_of
from pywatt_host.app.introspection import django as django_reader
from pywatt_host.manifest.values import EndpointPath

ENDPOINT = TypeAdapter(EndpointPath)
from_wsgi: Any = a2wsgi.WSGIMiddleware  # each framework has types of its own for the same callable
from_asgi: Any = a2wsgi.ASGIMiddleware


def table(app: Any) -> list[tuple[str, str, str]]:
    """Path, methods and name of every row, after checking that a manifest could hold each path."""
    rows = routes_of(app)
    assert rows is not None
    return said(rows)


def said(rows: list[Route]) -> list[tuple[str, str, str]]:
    assert all(ENDPOINT.validate_python(row.path) == row.path for row in rows)
    assert all(row.methods == tuple(sorted(row.methods)) for row in rows)
    return [(row.path, " ".join(row.methods), row.name) for row in rows]


async def home(request: Any) -> PlainTextResponse:
    return PlainTextResponse("home")


async def echo(socket: Any) -> None:
    await socket.close()


async def opaque(scope: Any, receive: Any, send: Any) -> None:
    await PlainTextResponse("opaque")(scope, receive, send)


class Item(HTTPEndpoint):
    async def get(self, request: Any) -> None: ...

    async def delete(self, request: Any) -> None: ...


# Starlette ------------------------------------------------------------------------------------------------------------


def test_starlette_routes_web_sockets_and_class_endpoints() -> None:
    app = Starlette(
        routes=[
            StarletteRoute("/", home),
            StarletteRoute("/users/{id:int}", home, methods=["post", "GET"], name="user"),
            StarletteRoute("/files/{rest:path}", home),
            StarletteRoute("/export-{day}.{format:str}", home),
            StarletteRoute("/items/{id:uuid}/price/{price:float}", Item),
            StarletteRoute("/only-head", home, methods=["HEAD"]),
            StarletteRoute("/any", opaque_class()),
            WebSocketRoute("/ws/{room}", echo),
        ]
    )
    assert table(app) == [
        ("/", "GET", "home"),
        ("/users/{id}", "GET POST", "user"),
        ("/files/{rest:path}", "GET", "home"),
        ("/{day}", "GET", "home"),
        ("/items/{id}/price/{price}", "DELETE GET", "Item"),
        ("/only-head", "HEAD", "home"),
        ("/any", "*", "Opaque"),
        ("/ws/{room}", "WEBSOCKET", "echo"),
    ]


def opaque_class() -> Any:
    class Opaque:
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...

    return Opaque()


def test_starlette_mounts_nest_and_what_is_opaque_takes_everything_below_it(tmp_path: Path) -> None:
    inner = Router([StarletteRoute("/", home), StarletteRoute("/{id}", home), WebSocketRoute("/live", echo)])
    app = Starlette(
        routes=[
            Mount("/v{version}/{id}", app=inner, name="versioned"),
            Mount(
                "/admin", app=CORSMiddleware(Starlette(routes=[Mount("/deep", routes=[StarletteRoute("/x", home)])]))
            ),
            Mount("/static", app=StaticFiles(directory=tmp_path), name="static"),
            Mount("/opaque", app=opaque),
            Host("api.example", app=Router([StarletteRoute("/on-host", home)])),
            Mount("", app=StaticFiles(directory=tmp_path)),
        ]
    )
    assert table(app) == [
        ("/{version}/{id}/", "GET", "home"),
        ("/{version}/{id}/{id_2}", "GET", "home"),
        ("/{version}/{id}/live", "WEBSOCKET", "echo"),
        ("/admin/deep/x", "GET", "home"),
        ("/static/{path:path}", "GET HEAD", "static"),
        ("/opaque/{path:path}", "*", ""),
        ("/on-host", "GET", "home"),
        ("/{path:path}", "GET HEAD", ""),
    ]


def test_a_convertor_of_the_users_that_takes_slashes_takes_the_rest() -> None:
    class Days(Convertor[str]):
        regex = "[0-9]{4}/[0-9]{2}"

        def convert(self, value: str) -> str:
            return value

        def to_string(self, value: str) -> str:
            return value

    class Code(Days):
        regex = "[A-Z]{3}"

    register_url_convertor("days", Days())
    register_url_convertor("code", Code())
    app = Starlette(routes=[StarletteRoute("/{d:days}/x", home), StarletteRoute("/{c:code}/x", home)])
    assert table(app) == [("/{d:path}", "GET", "home"), ("/{c}/x", "GET", "home")]


def test_a_route_of_an_unknown_kind_may_take_anything() -> None:
    class Own(BaseRoute):
        pass

    assert table(Router([Own()])) == [("/{path:path}", "*", "")]


# FastAPI --------------------------------------------------------------------------------------------------------------

DOCS = [
    ("/openapi.json", "GET", "openapi"),
    ("/docs", "GET", "swagger_ui_html"),
    ("/docs/oauth2-redirect", "GET", "swagger_ui_redirect"),
    ("/redoc", "GET", "redoc_html"),
]


def test_fastapi_lists_its_documentation_pages_and_hidden_routes() -> None:
    app = fastapi.FastAPI()

    @app.get("/hidden/{name}", include_in_schema=False)
    def hidden(name: str) -> None: ...

    @app.api_route("/both", methods=["GET", "HEAD"])
    def both() -> None: ...

    @app.websocket("/ws")
    async def live(socket: fastapi.WebSocket) -> None: ...

    expected = [("/hidden/{name}", "GET", "hidden"), ("/both", "GET HEAD", "both"), ("/ws", "WEBSOCKET", "live")]
    assert table(app) == [*DOCS, *expected]


def test_fastapi_routers_include_each_other_with_every_prefix(tmp_path: Path) -> None:
    inner = fastapi.APIRouter(prefix="/items")

    @inner.get("")
    def every() -> None: ...

    @inner.post("/{id:int}")
    def create(id: int) -> None: ...

    @inner.websocket("/live")
    async def live(socket: fastapi.WebSocket) -> None: ...

    inner.add_route("/plain", home)
    inner.mount("/static", StaticFiles(directory=tmp_path), name="static")
    outer = fastapi.APIRouter()
    outer.include_router(inner, prefix="/shop/{shop}")
    app = fastapi.FastAPI(openapi_url=None)
    app.include_router(outer, prefix="/api")
    app.include_router(inner)
    app.mount("/sub", fastapi.FastAPI(openapi_url=None, routes=[StarletteRoute("/s", home)]))
    rows = table(app)
    for prefix in ("/api/shop/{shop}", ""):
        assert (f"{prefix}/items", "GET", "every") in rows
        assert (f"{prefix}/items/{{id}}", "POST", "create") in rows
        assert (f"{prefix}/items/live", "WEBSOCKET", "live") in rows
        assert (f"{prefix}/plain", "GET", "home") in rows  # FastAPI gives it no prefix of its own router
    assert ("/sub/s", "GET", "home") in rows
    assert framework_of(app) == "fastapi"


@pytest.mark.skipif(not hasattr(fastapi.FastAPI, "frontend"), reason="this FastAPI serves no front ends")
def test_fastapi_front_ends_are_listed_after_the_rest(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("built")
    router = fastapi.APIRouter()
    router.frontend("/ui", directory=tmp_path)
    app = fastapi.FastAPI(openapi_url=None)
    app.include_router(router, prefix="/admin")
    app.frontend("/", directory=tmp_path)
    assert sorted(table(app)) == [
        ("/admin/ui", "GET HEAD", ""),
        ("/admin/ui/{path:path}", "GET HEAD", ""),
        ("/{path:path}", "GET HEAD", ""),
    ]


# Flask, Quart, Werkzeug -----------------------------------------------------------------------------------------------


class Anything(BaseConverter):
    regex = ".*"


def flask_app() -> flask.Flask:
    app = flask.Flask("shop", static_folder=None)
    app.url_map.converters["anything"] = Anything
    users = flask.Blueprint("users", "users", url_prefix="/users")

    @users.route("/<int:id>", methods=["GET", "PUT"])
    def user(id: int) -> str:
        return str(id)

    app.register_blueprint(users)
    app.add_url_rule("/files/<path:p>", "files", user)
    app.add_url_rule("/export/<day>.json", "export", user, methods=["OPTIONS", "GET"])
    app.add_url_rule("/any/<any(a,b):kind>/<string(length=2):code>/", "kinds", user)
    app.add_url_rule("/odd/<anything:x>/y", "odd", user)
    app.add_url_rule("/loose", "loose", user, strict_slashes=False)
    return app


FLASK = [
    ("/users/{id}", "GET PUT", "users.user"),
    ("/files/{p:path}", "GET", "files"),
    ("/export/{day}", "GET OPTIONS", "export"),
    ("/any/{kind}/{code}/", "GET", "kinds"),
    ("/odd/{x:path}", "GET", "odd"),
    ("/loose", "GET", "loose"),
    ("/loose/", "GET", "loose"),
]


def test_flask_rules_without_the_methods_that_flask_adds() -> None:
    assert sorted(table(flask_app())) == sorted(FLASK)
    assert ("/static/{filename:path}", "GET", "static") in table(flask.Flask("shop", static_folder="static"))


def test_middleware_around_a_flask_application_is_looked_through() -> None:
    app = flask_app()
    app.wsgi_app = ProxyFix(app.wsgi_app)  # type: ignore[method-assign]
    for wrapped in (app, ProxyFix(app), from_wsgi(ProxyFix(app)), app.__call__):
        assert sorted(table(wrapped)) == sorted(FLASK)
        assert framework_of(wrapped) == "flask"


def test_a_flask_application_mounted_in_starlette_is_read_as_well() -> None:
    rows = table(Starlette(routes=[Mount("/legacy", app=from_wsgi(flask_app()))]))
    assert ("/legacy/users/{id}", "GET PUT", "users.user") in rows


def test_a_werkzeug_dispatcher_lists_its_mounts_then_what_is_behind_them() -> None:
    def plain(environ: Any, start_response: Any) -> list[bytes]:
        return []

    app = DispatcherMiddleware(plain, {"/a": plain, "/a/shop": flask_app()})
    rows = table(app)
    assert ("/a/shop/users/{id}", "GET PUT", "users.user") in rows
    assert rows[-3:] == [("/a", "*", ""), ("/a/{path:path}", "*", ""), ("/{path:path}", "*", "")]


def test_quart_rules_and_web_sockets() -> None:
    app = quart.Quart("shop", static_folder=None)

    @app.post("/users/<uuid:id>")
    async def user(id: str) -> str:
        return id

    @app.websocket("/ws/<room>")
    async def live(room: str) -> None: ...

    assert sorted(table(app)) == [("/users/{id}", "POST", "user"), ("/ws/{room}", "WEBSOCKET", "live")]
    assert framework_of(app) == "quart"


# Litestar -------------------------------------------------------------------------------------------------------------


def test_litestar_handlers_each_with_its_methods() -> None:
    @litestar.get("/users/{id:int}")
    async def read() -> None: ...

    @litestar.route("/users/{id:int}", http_method=["PUT", "PATCH"], status_code=200)
    async def write() -> None: ...

    @litestar.get("/files/{p:path}")
    async def files() -> None: ...

    @litestar.websocket("/ws")
    async def live(socket: litestar.WebSocket[Any, Any, Any]) -> None: ...

    mount = litestar.asgi("/sub", is_mount=True, copy_scope=True)(opaque)
    app = litestar.Litestar(
        [litestar.Router("/api", route_handlers=[read, write]), files, live, mount], openapi_config=None
    )
    assert sorted(table(app)) == [
        ("/api/users/{id}", "GET", "read"),
        ("/api/users/{id}", "PATCH PUT", "write"),
        ("/files/{p:path}", "GET", "files"),
        ("/sub", "*", "opaque"),
        ("/sub/{path:path}", "*", "opaque"),
        ("/ws", "WEBSOCKET", "live"),
    ]
    assert framework_of(app) == "litestar"


# Django ---------------------------------------------------------------------------------------------------------------


def view(request: Any) -> None: ...


class Article(View):  # type: ignore[misc] # Django has no types
    def get(self, request: Any) -> None: ...

    def post(self, request: Any) -> None: ...


class Strict(Article):
    http_method_names = ("post", "options")

    def options(self, request: Any) -> None: ...


def test_django_patterns_of_both_kinds_nest() -> None:
    nested = [
        path("", view, name="list"),
        path("<int:id>/", Article.as_view(), name="one"),
        path("<slug:s>.<str:format>", Strict.as_view()),
        re_path(r"^(?P<year>[0-9]{4})/$", view),
        re_path(r"^old/(?:a|b)/$", view),
    ]
    patterns: list[URLPattern | URLResolver] = [
        path("", view, name="home"),
        path("articles/", include(nested)),
        path("p", include([path("refix/<path:rest>", view)])),
        re_path(r"^api/(?P<version>v\d)/", include([re_path(r"users/?$", view), path("me", view)])),
        path(lazystr("traduit/"), view),
        URLResolver(LocalePrefixPattern(prefix_default_language=False), [path("about", view)]),
        URLResolver(LocalePrefixPattern(), [path("terms", view)]),
    ]
    assert said(django_reader.read(patterns, ["/"])) == [
        ("/", "*", "home"),
        ("/articles/", "*", "list"),
        ("/articles/{id}/", "GET POST", "one"),
        ("/articles/{s}", "OPTIONS POST", "Strict"),
        ("/articles/{year}/", "*", "view"),
        ("/articles/old/{arg4:path}", "*", "view"),
        ("/prefix/{rest:path}", "*", "view"),
        ("/api/{version}/{rest:path}", "*", "view"),
        ("/api/{version}/me", "*", "view"),
        ("/{rest:path}", "*", "view"),
        ("/{language}/about", "*", "view"),
        ("/about", "*", "view"),
        ("/{language}/terms", "*", "view"),
    ]


DJANGO_SITE = """
import json
from django.conf import settings
from django.http import HttpResponse
from django.urls import path

settings.configure(ROOT_URLCONF=__name__, SECRET_KEY="only for this test", ALLOWED_HOSTS=["*"])
urlpatterns = [path("users/<int:id>/", lambda request, id: HttpResponse(str(id)), name="user")]

from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from pywatt_host.app.introspection import framework_of, interface_of, routes_of

for app in (get_asgi_application(), get_wsgi_application()):
    rows = [[row.path, *row.methods, row.name] for row in routes_of(app)]
    print(json.dumps([framework_of(app), interface_of(app), rows]))
"""


def test_django_handlers_of_both_interfaces_are_read_through_their_settings() -> None:
    """In a process of its own, since Django's settings are one a process."""
    done = subprocess.run([sys.executable, "-c", DJANGO_SITE], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    rows = [["/users/{id}/", "*", "user"]]
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        ["django", "asgi", rows],
        ["django", "wsgi", rows],
    ]


# What cannot be read --------------------------------------------------------------------------------------------------


def test_a_plain_application_is_opaque() -> None:
    assert routes_of(opaque) is None
    assert routes_of(CORSMiddleware(opaque)) is None
    assert framework_of(opaque) == ""
    assert routes_of(object()) is None


def test_middleware_that_goes_in_circles_or_too_deep_is_opaque() -> None:
    class Wrapper:
        def __init__(self, app: Any) -> None:
            self.app = app

        def __call__(self) -> None: ...

    circle = Wrapper(None)
    circle.app = Wrapper(circle)
    assert routes_of(circle) is None
    deep: Any = Starlette()
    for _ in range(30):
        deep = Wrapper(deep)
    assert routes_of(deep) is None
    assert routes_of(Wrapper(Wrapper(Starlette()))) == []


def test_looking_for_the_inner_application_runs_no_property() -> None:
    class Lazy:
        @property
        def app(self) -> Any:
            raise AssertionError("it was run")

        def __call__(self) -> None: ...

    assert routes_of(Lazy()) is None


def test_an_asgi_application_behind_a_wsgi_bridge_is_read() -> None:
    assert table(from_asgi(Starlette(routes=[StarletteRoute("/x", home)]))) == [("/x", "GET", "home")]


def test_internals_that_changed_make_the_application_opaque_and_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    app = flask_app()
    del app.url_map
    with caplog.at_level(logging.WARNING):
        assert routes_of(app) is None
    assert [record.getMessage() for record in caplog.records] == ["the routes of the flask application cannot be read"]
    assert caplog.records[0].exc_info


def test_no_framework_is_imported_by_looking_at_an_application() -> None:
    code = (
        "import sys, pywatt_host.app.introspection as i, pywatt_host.app.loading\n"
        "async def app(scope, receive, send): ...\n"
        "i.routes_of(app), i.framework_of(app), i.interface_of(app)\n"
        f"print([name for name in {sorted(FRAMEWORKS)} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == "[]", done.stderr
