"""Applications behind other code: what is seen through it, and what a table that is not whole says about itself.

Channels, Socket.IO and Connexion are no dependencies of the tests: the classes here have their names and attributes.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import flask
import pytest
from django.conf import settings
from django.urls import path, re_path
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.routing import Mount
from starlette.routing import Route as StarletteRoute
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.middleware.proxy_fix import ProxyFix

from pywatt_host.app.introspection import framework_of, routes_of, table_of

if not settings.configured:
    settings.configure(SECRET_KEY="test")


def of(module: str, name: str, **attributes: Any) -> Any:
    """A callable object of a class that another package would have."""
    made = type(name, (), {"__module__": module, "__call__": lambda self, scope, receive, send: None})()
    vars(made).update(attributes)
    return made


def starlette(*paths: str) -> Starlette:
    return Starlette(routes=[StarletteRoute(each, print, methods=["GET"]) for each in paths or ("/home",)])


def flask_app() -> flask.Flask:
    app = flask.Flask("here", static_folder=None)
    app.get("/home")(lambda: "home")
    return app


def rows(app: Any) -> list[tuple[str, str]]:
    found = routes_of(app)
    assert found is not None
    return [(" ".join(route.methods), route.path) for route in found]


def notes(app: Any) -> list[tuple[bool, str]]:
    table = table_of(app)
    assert table is not None
    return [(note.certain, note.text) for note in table.notes]


def consumer(name: str) -> Any:
    def run(scope: Any, receive: Any, send: Any) -> None: ...

    run.consumer_class = type(name, (), {})  # type: ignore[attr-defined]
    return run


def channels() -> Any:
    nested = of("channels.routing", "URLRouter", routes=[path("<int:id>/", consumer("Room"))])
    patterns = [path("ws/<str:room>/", consumer("Chat")), re_path(r"^live/(?P<x>\\w+)$", consumer("Live"))]
    router = of("channels.routing", "URLRouter", routes=[*patterns, path("rooms/", nested)])
    wrapped = of("channels.sessions", "CookieMiddleware", inner=of("channels.auth", "AuthMiddleware", inner=router))
    checked = of("channels.security.websocket", "OriginValidator", application=wrapped)
    mapping = {"http": starlette(), "websocket": checked, "mqtt": print}
    return of("channels.routing", "ProtocolTypeRouter", application_mapping=mapping)


def test_channels_routes_by_protocol_and_by_url_patterns() -> None:
    app = channels()
    assert rows(app) == [
        ("GET", "/home"),
        ("WEBSOCKET", "/ws/{room}/"),
        ("WEBSOCKET", "/live/{x}"),
        ("WEBSOCKET", "/rooms/{id}/"),
    ]
    assert framework_of(app) == "starlette"
    assert [certain for certain, _ in notes(app)] == [False]


@pytest.mark.parametrize(("name", "inner"), [("ASGIApp", "other_asgi_app"), ("WSGIApp", "wsgi_app")])
def test_socketio_has_its_own_path_in_front_of_the_application(name: str, inner: str) -> None:
    app = of("engineio.middleware", name, engineio_path="/socket.io/", static_files={"/": "index.html"})
    setattr(app, inner, starlette())
    assert rows(app) == [("*", "/socket.io/{path:path}"), ("GET", "/{path:path}"), ("GET", "/home")]
    assert framework_of(app) == "starlette"
    assert notes(app) == [(False, "Socket.IO answers requests in front of the application")]


def test_connexion_has_the_operations_of_its_specification() -> None:
    paths = {"/pets/{id}": {"get": {"operationId": "pets.get"}, "parameters": []}}
    specification = type("Specification", (dict,), {"base_path": "/v1"})(paths=paths)
    api = SimpleNamespace(base_path=None, specification=specification)
    middleware = SimpleNamespace(apis=[api])
    base = type("AbstractApp", (), {"__module__": "connexion.apps.abstract", "__call__": print})
    app = type("AsyncApp", (base,), {"__module__": "connexion.apps.asynchronous"})()
    vars(app).update(middleware=middleware, _middleware_app=SimpleNamespace(router=starlette("/own").router))
    assert rows(app)[0] == ("GET", "/v1/pets/{id}")
    assert rows(app)[-1] == ("GET", "/own")
    assert notes(app) == [(True, "Connexion makes its routes when it starts")]
    assert framework_of(app) == "connexion"


def test_middleware_of_an_unknown_class_makes_the_table_partial_and_a_known_one_does_not() -> None:
    assert notes(of("acme.gate", "Gate", app=starlette())) == [
        (True, "it is wrapped in acme.Gate, which may answer further paths")
    ]
    assert notes(SessionMiddleware(starlette(), secret_key="x")) == []
    assert notes(of("sentry_sdk.integrations.asgi", "SentryAsgiMiddleware", app=GZipMiddleware(starlette()))) == []


def test_a_middleware_written_as_a_closure_is_seen_through() -> None:
    def timed(app: Any) -> Any:
        async def inside(scope: Any, receive: Any, send: Any) -> None:
            await app(scope, receive, send)

        return inside

    assert rows(timed(starlette())) == [("GET", "/home")]
    assert [certain for certain, _ in notes(timed(starlette()))] == [True]
    plain = flask_app()
    plain.wsgi_app = timed(plain.wsgi_app)  # type: ignore[method-assign]
    assert rows(plain) == [("GET", "/home")]
    assert [certain for certain, _ in notes(plain)] == [True]


def test_what_replaces_the_entry_point_of_flask_is_read() -> None:
    proxied = flask_app()
    proxied.wsgi_app = ProxyFix(proxied.wsgi_app)  # type: ignore[method-assign]
    assert (rows(proxied), notes(proxied)) == ([("GET", "/home")], [])
    dispatched = flask_app()
    dispatched.wsgi_app = DispatcherMiddleware(dispatched.wsgi_app, {"/other": flask_app()})  # type: ignore[method-assign]
    assert rows(dispatched) == [("GET", "/other/home"), ("GET", "/home")]
    assert notes(dispatched) == [(False, "DispatcherMiddleware mounts other applications")]
    opaque = flask_app()
    opaque.wsgi_app = print  # type: ignore[method-assign,assignment]
    assert [certain for certain, _ in notes(opaque)] == [True]


def test_what_may_answer_paths_without_a_route_is_noted() -> None:
    app = starlette()
    app.add_middleware(CORSMiddleware, allow_origins=["*"])
    app.add_middleware(GZipMiddleware)
    assert notes(app) == [(False, "CORSMiddleware answers preflight requests itself")]
    app = starlette()
    handler: Any = print
    app.add_exception_handler(404, handler)
    assert notes(app) == [(False, "an exception handler answers paths without a route")]
    mounted = Starlette(routes=[Mount("/raw", app=of("acme.raw", "Raw"))])
    assert notes(mounted) == [(False, "the routes of acme.Raw, which is mounted in it, cannot be read")]
    hooked = flask_app()
    hooked.after_request(lambda response: response)
    hooked.register_error_handler(404, lambda error: "page")
    assert len(notes(hooked)) == 2
    assert notes(starlette()) == notes(flask_app()) == []
