"""What a callable speaks, and whether it is a factory, is seen from its shape: nothing here is ever called."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import fastapi
import flask
import litestar
import pytest
import quart
from a2wsgi import ASGIMiddleware, WSGIMiddleware
from asgiref import compatibility
from asgiref import wsgi as asgiref_wsgi
from asgiref.sync import sync_to_async
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.middleware.cors import CORSMiddleware
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from werkzeug.middleware.proxy_fix import ProxyFix

from pywatt_host.app.introspection import interface_of, is_factory

guarantee_single_callable: Any = compatibility.guarantee_single_callable  # asgiref has no types for these two
WsgiToAsgi: Any = asgiref_wsgi.WsgiToAsgi


class AppState:
    """Stands for the host's own, which is told by its name."""


async def asgi(scope: Any, receive: Any, send: Any) -> None: ...


def asgi_by_return(scope: Any, receive: Any, send: Any) -> Any:
    return asgi(scope, receive, send)


def wsgi(environ: Any, start_response: Any) -> list[bytes]:
    raise AssertionError("it was called")


def wsgi_short(env: Any, sr: Any) -> list[bytes]:
    raise AssertionError("it was called")


def wsgi_with_default(environ: Any, start_response: Any = None, extra: int = 1) -> list[bytes]:
    raise AssertionError("it was called")


def logged(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


def bare(*args: Any, **kwargs: Any) -> Any: ...


class AsgiObject:
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...

    async def method(self, scope: Any, receive: Any, send: Any) -> None: ...

    @staticmethod
    async def static(scope: Any, receive: Any, send: Any) -> None: ...


class WsgiObject:
    def __call__(self, environ: Any, start_response: Any) -> list[bytes]:
        return []


class WsgiClass:
    """As in PEP 3333: making an instance is the call."""

    def __init__(self, environ: Any, start_response: Any) -> None: ...

    def __iter__(self) -> Iterator[bytes]:
        return iter(())


class DoubleCallable:
    def __init__(self, scope: Any) -> None: ...

    async def __call__(self, receive: Any, send: Any) -> None: ...


class DoubleObject:
    def __call__(self, scope: Any) -> Any: ...


def double(scope: Any) -> Any: ...


class Bare:
    """An application of a compiled module: callable, with no signature to read."""

    __signature__ = "none"

    def __call__(self, *args: Any) -> Any: ...


def instrumented() -> flask.Flask:
    app = flask.Flask("shop")

    class Patched(flask.Flask):
        __call__ = bare

    app.__class__ = Patched
    return app


@pytest.mark.parametrize(
    ("obj", "expected"),
    [
        (asgi, "asgi"),
        (asgi_by_return, "asgi"),
        (logged(asgi), "asgi"),
        (functools.partial(asgi), "asgi"),
        (functools.partial(lambda settings, scope, receive, send: None, {}), "asgi"),
        (AsgiObject(), "asgi"),
        (AsgiObject().method, "asgi"),
        (AsgiObject.static, "asgi"),
        (Starlette(), "asgi"),
        (fastapi.FastAPI(), "asgi"),
        (fastapi.APIRouter(), "asgi"),
        (litestar.Litestar(), "asgi"),
        (quart.Quart("shop"), "asgi"),
        (CORSMiddleware(asgi), "asgi"),
        (ProxyHeadersMiddleware(asgi), "asgi"),
        (WSGIMiddleware(wsgi), "asgi"),
        (WsgiToAsgi(wsgi), "asgi"),
        (guarantee_single_callable(DoubleCallable), "asgi"),
        (HTTPEndpoint, "asgi"),
        (wsgi, "wsgi"),
        (wsgi_short, "wsgi"),
        (wsgi_with_default, "wsgi"),
        (logged(wsgi), "wsgi"),
        (WsgiObject(), "wsgi"),
        (WsgiClass, "wsgi"),
        (flask.Flask("shop"), "wsgi"),
        (flask.Flask("shop").wsgi_app, "wsgi"),
        (instrumented(), "wsgi"),
        (ProxyFix(wsgi), "wsgi"),
        (ASGIMiddleware(asgi), "wsgi"),
        (DoubleCallable, "asgi2"),
        (DoubleObject(), "asgi2"),
        (double, "asgi2"),
        (bare, "unknown"),
        (Bare(), "unknown"),
        (AsgiObject, "unknown"),
        (WsgiObject, "unknown"),
        (dict, "unknown"),
        (sync_to_async(lambda: None), "unknown"),
        (lambda: None, "unknown"),
        (lambda state: None, "unknown"),
        (lambda *, environ, start_response: None, "unknown"),
        ("main:app", "unknown"),
        (None, "unknown"),
    ],
)
def test_the_interface_is_seen_from_the_shape(obj: Any, expected: str) -> None:
    assert interface_of(obj) == expected


def test_the_marks_of_asgiref_are_believed() -> None:
    def marked(*args: Any) -> Any: ...

    marked._asgi_single_callable = True  # type: ignore[attr-defined]
    assert interface_of(marked) == "asgi"

    def double_marked(*args: Any) -> Any: ...

    double_marked._asgi_double_callable = True  # type: ignore[attr-defined]
    assert interface_of(double_marked) == "asgi2"


def create_app() -> Any: ...
async def create_async() -> Any: ...
async def create_in_turn() -> AsyncIterator[None]:
    yield


def with_state(state: Any, page_size: int) -> Any: ...
def with_annotation(host: AppState, page_size: int) -> Any: ...
def with_args(page_size: int, title: str) -> Any: ...
def with_default(config: Any = None) -> Any: ...
def with_keyword(*, title: str) -> Any: ...


@pytest.mark.parametrize(
    ("obj", "args", "expected"),
    [
        (create_app, (), True),
        (create_async, (), True),
        (with_default, (), True),
        (with_keyword, (), True),
        (functools.partial(create_app), (), True),
        (lambda app_state: None, (), True),
        (with_state, (), True),
        (with_annotation, (), True),
        (with_args, (), False),  # two parameters, as WSGI has
        (with_args, ("title",), True),
        (asgi, (), False),
        (wsgi, (), False),
        (double, (), False),
        (bare, (), False),
        (AsgiObject, (), False),
        (AsgiObject(), (), False),
        (Starlette(), (), False),
        (None, (), False),
    ],
)
def test_a_factory_is_a_function_that_is_no_application(obj: Any, args: tuple[str, ...], expected: bool) -> None:
    assert is_factory(obj, None, args) is expected


def test_what_the_manifest_says_about_a_factory_holds() -> None:
    assert is_factory(AsgiObject, True)
    assert not is_factory(create_app, False)
