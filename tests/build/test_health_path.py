"""An application that answers every path has no health path of its own: the host serves its report there."""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any

import pytest

from pywatt_host.build.health_path import Outcome, same
from pywatt_host.types import Receive, Scope, Send
from tests.hosting import PATIENCE, Recorder, hosted, run

QUICK = {"interval": "1ms", "timeout": "200ms", "start_period": "1h"}
PAGE = "<!doctype html><title>Health of my plants</title><div id=root></div>"

Respond = Callable[[str], tuple[int, list[tuple[bytes, bytes]], bytes]]


def raw(respond: Respond) -> Any:
    """A raw ASGI application, whose routes cannot be read."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            raise RuntimeError("declined")
        status, headers, body = respond(scope["path"])
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return app


def text(words: str, status: int = 200) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    return status, [(b"content-type", b"text/html; charset=utf-8")], words.encode()


def of_login() -> Any:
    return raw(lambda path: (302, [(b"location", f"/login?next={path}".encode())], b""))


def of_one_status(status: int) -> Any:
    return raw(lambda path: text("no", status))


def of_page() -> Any:
    return raw(lambda path: text(PAGE))


def of_page_with_volatile_words() -> Any:
    def respond(path: str) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        nonce = secrets.token_urlsafe(16)
        return text(f"<link href='https://x{path}'><script nonce='{nonce}'></script>at {time.time_ns()} {path.upper()}")

    return raw(respond)


def of_graphql() -> Any:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        assert scope["method"] == "POST"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    return app


def of_waiting() -> Any:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        await asyncio.Event().wait()

    return app


def of_waiting_that_ignores_cancellation() -> Any:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.Event().wait()

    return app


def of_endless_response() -> Any:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})

    return app


def of_starlette() -> Any:
    from starlette.applications import Starlette
    from starlette.responses import HTMLResponse
    from starlette.routing import Mount, Route

    async def page(request: Any) -> Any:
        return HTMLResponse(PAGE)

    return Starlette(routes=[Route("/items", page), Mount("/", app=of_page())])


def of_slugs() -> Any:
    from fastapi import FastAPI, HTTPException

    api = FastAPI()

    @api.get("/{slug}")
    def short(slug: str) -> None:
        raise HTTPException(404)

    return api


def of_flask() -> Any:
    import flask

    app = flask.Flask("private")
    app.before_request(lambda: flask.redirect(f"/login?next={flask.request.path}"))
    app.add_url_rule("/health", "health", lambda: "ok")
    return app


def of_flask_page() -> Any:
    import flask

    app = flask.Flask("page")
    app.add_url_rule("/", "index", lambda path="": PAGE)
    app.add_url_rule("/<path:path>", "page", lambda path: PAGE)
    return app


def of_wsgi_that_takes_only_posts() -> Any:
    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] != "POST":
            raise ValueError(environ["PATH_INFO"])
        start_response("200 OK", [])
        return [b"{}"]

    return app


APPLICATIONS: dict[str, Callable[[], Any]] = {
    "login": of_login,
    **{str(status): partial(of_one_status, status) for status in (400, 401, 403, 405, 426, 500, 501)},
    "single page": of_page,
    "single page with nonce, time and link": of_page_with_volatile_words,
    "GraphQL": of_graphql,
    "waiting": of_waiting,
    "waiting, deaf": of_waiting_that_ignores_cancellation,
    "endless": of_endless_response,
    "Starlette with a mount at the root": of_starlette,
    "FastAPI with one parameter": of_slugs,
    "Flask behind a login": of_flask,
    "Flask single page": of_flask_page,
    "WSGI, POST only": of_wsgi_that_takes_only_posts,
}


@pytest.mark.parametrize("make", APPLICATIONS.values(), ids=APPLICATIONS)
def test_the_host_is_ready_and_serves_its_own_report(make: Callable[[], Any]) -> None:
    async def main() -> None:
        async with hosted({"health": QUICK}, make()) as host:
            assert (await host.get("/health")).json()["status"] == "healthy"
            assert (await host.get("/readyz")).status == 200

    run(main)


def test_a_wsgi_application_that_never_answers_does_not_keep_the_host_from_serving() -> None:
    released = threading.Event()

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        released.wait(60)
        start_response("204 No Content", [])
        return []

    async def main() -> None:
        try:
            async with hosted({"health": QUICK, "app": {"import_path": "under_test:app", "threads": 4}}, app) as host:
                assert (await host.get("/health")).json()["status"] == "healthy"
                assert (await host.get("/readyz")).status == 200
                released.set()
        finally:
            released.set()

    run(main)


async def until_ready(get: Callable[[str], Awaitable[Any]]) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            if (await get("/readyz")).status == 200:
                return
            await asyncio.sleep(0.001)


@pytest.mark.parametrize(
    "answers",
    [
        {"/health": text("ok"), "": text("no such page", 404)},
        {"/health": text('{"status": "ok"}'), "": text(PAGE)},
        {"/health": (200, [(b"content-type", b"application/json")], b"{}"), "": text("{}")},
        {"/health": text("ok " * 3), "": text("ok")},
    ],
    ids=["others are 404", "others are a page", "another media type", "another length"],
)
def test_an_application_that_answers_its_health_path_in_its_own_way_keeps_it(answers: dict[str, Any]) -> None:
    async def main() -> None:
        app = raw(lambda path: answers.get(path) or answers[""])
        async with hosted({"health": QUICK}, app) as host:
            await until_ready(host.get)
            assert (await host.get("/health")).body == answers["/health"][2]

    run(main)


def test_a_health_route_that_fails_is_a_failing_check() -> None:
    from fastapi import FastAPI

    api = FastAPI()

    @api.get("/health")
    def health() -> None:
        raise OSError("the disk is full")

    async def main() -> None:
        async with hosted({"health": QUICK}, api) as host:
            assert (await host.get("/readyz")).status == 503

    run(main)


def test_an_application_mounted_at_the_health_path_is_compared_with_paths_below_it() -> None:
    async def main() -> None:
        mounts = [{"import_path": "under_test:probes", "route_prefix": "/health"}]
        async with hosted({"health": QUICK, "mounts": mounts}, Recorder(), probes=of_page()) as host:
            assert (await host.get("/health")).json()["status"] == "healthy"

    run(main)


def test_a_route_that_shows_the_path_but_refuses_probes_is_logged() -> None:
    async def main() -> None:
        async with hosted({"health": QUICK}, of_flask()) as host:
            (line,) = host.logs("pywatt.health")
            assert line["message"] == "the application answers 302 on /health: the host serves its own report"

    run(main)


# What the same means --------------------------------------------------------------------------------------------------


def outcomes(*bodies: bytes) -> list[Outcome]:
    return [Outcome(200, b"text/plain", body) for body in bodies]


@pytest.mark.parametrize(
    ("bodies", "expected"),
    [
        ((b"a page", b"a page"), True),
        ((b"a page", b"another page"), False),
        ((b"health at 12:01:59", b"No-Page-x at 12:02:00"), True),
        ((b"id abc", b"id xyz"), False),
        ((b"id abc", b"id xyz", b"id fgh"), True),
        ((b"id abc ok", b"id xyz no", b"id fgh no"), False),
        ((b"", b""), True),
        ((b"", b"words"), False),
    ],
)
def test_bodies_are_compared_without_what_differs_from_request_to_request(
    bodies: tuple[bytes, ...], expected: bool
) -> None:
    assert same(["/health", "/no-page-x", "/no-page-y"][: len(bodies)], outcomes(*bodies)) is expected


def test_status_media_type_and_exception_are_compared_too() -> None:
    paths = ["/health", "/no-page-x"]
    assert not same(paths, [Outcome(200), Outcome(204)])
    assert not same(paths, [Outcome(200, b"text/html"), Outcome(200, b"text/plain")])
    assert not same(paths, [Outcome(failure="no answer"), Outcome(404)])
    assert not same(paths, [Outcome(failure="KeyError"), Outcome(failure="ValueError")])
    assert same(paths, [Outcome(failure="KeyError"), Outcome(failure="KeyError")])


def test_a_health_path_at_the_root_is_compared_too() -> None:
    assert same(["/", "/no-page-x"], outcomes(b"hello", b"hello"))
