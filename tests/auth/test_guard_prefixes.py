"""A rule for a prefix covers the prefix itself, in every spelling that an application takes for it: each interface,
with and without a slash, in any case, encoded or not. `routes` says the same as the running host."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.auth.test_path_corpus import answers, request_bytes
from tests.auth.tokens_for_tests import SECRET, signed
from tests.processes import Project

ASGI = """
import re

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise RuntimeError("declined")
    below = re.fullmatch("(?i)/admin(/.*)?", scope["path"])
    body = b"protected" if below else b"public"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})
"""
WSGI = """
import re

def app(environ, start_response):
    path = environ["PATH_INFO"].encode("latin-1").decode()
    body = b"protected" if re.fullmatch("(?i)/admin(/.*)?", path) else b"public"
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""
STARLETTE = """
import re
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

def protected(request):
    return PlainTextResponse("protected")

def public(request):
    return PlainTextResponse("public")

def any_case(path, handler):
    route = Route(path, handler)
    route.path_regex = re.compile(route.path_regex.pattern, re.IGNORECASE)
    return route

app = Starlette(routes=[
    any_case("/admin", protected), any_case("/admin/{rest:path}", protected), any_case("/{rest:path}", public),
])
"""
FLASK = """
from flask import Flask

app = Flask(__name__)
app.url_map.strict_slashes = False
app.add_url_rule("/admin/", "admin", lambda: "protected")
app.add_url_rule("/admin/<path:rest>", "below", lambda rest: "protected")
app.add_url_rule("/", "top", lambda: "public")
app.add_url_rule("/<path:rest>", "public", lambda rest: "public")
"""
DJANGO = """
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpResponse
from django.urls import re_path

settings.configure(ROOT_URLCONF=__name__, SECRET_KEY="test", ALLOWED_HOSTS=["*"], MIDDLEWARE=[])

def protected(request):
    return HttpResponse("protected")

def public(request):
    return HttpResponse("public")

urlpatterns = [re_path(r"(?i)^admin/?$", protected), re_path(r"(?i)^admin/.*$", protected), re_path(r"", public)]
app = get_asgi_application()
"""
APPS = {"asgi": ASGI, "wsgi": WSGI, "starlette": STARLETTE, "flask": FLASK, "django": DJANGO}
OPEN: dict[str, Any] = {"from": "auto", "auth": "none"}
SHAPES: dict[str, Any] = {
    "rest": {**OPEN, "rules": [{"path": "/admin/{rest:path}", "auth": "jwt"}]},
    "rest and an open page": {
        **OPEN,
        "rules": [{"path": "/admin/{rest:path}", "auth": "jwt"}, {"path": "/{page}", "auth": "none"}],
    },
    "with a slash": {
        **OPEN,
        "rules": [{"path": "/admin/", "auth": "jwt"}, {"path": "/admin/{part}/{rest:path}", "auth": "jwt"}],
    },
    "listed": [
        {"path": "/admin/{rest:path}", "auth": "jwt"},
        {"path": "/{rest:path}", "auth": "none"},
    ],
    "listed with a slash": [
        {"path": "/admin/", "auth": "jwt"},
        {"path": "/admin/{part}/{rest:path}", "auth": "jwt"},
        {"path": "/{rest:path}", "auth": "none"},
    ],
}
TARGETS = [
    "/admin", "/admin/", "/admin?x=/public", "/admin/?", "/admin/users", "/admin/users/",  # the slash
    "/ADMIN", "/Admin", "/aDmIn/", "/ADMIN/users",  # case
    "/adm%C4%B1n", "/ADM%C4%B0N", "/adm%C4%B1n/users", "/AdM%C4%B0n/", "/admi%CC%87n",  # i without a dot, I with one
    "/%61dmin", "/%41DMIN", "/adm%69n/", "/%61%64%6d%69%6e", "/admin%2f", "/admin%2Fusers", "/%2561dmin",  # encodings
    "//admin", "/./admin", "/x/../admin", "/admin;x=1", "/admin;/", "/admin/.", "/admin//", "/admin%20", "/admin%00",
    "/\xef\xbd\x81dmin", "/%EF%BD%81dmin", "/\xe2\x84\xaa",  # wide letters; the Kelvin sign
]  # fmt: skip


@pytest.mark.parametrize(("kind", "paths"), [*((kind, "lenient") for kind in APPS), ("asgi", "strict")])
def test_no_spelling_of_a_prefix_is_reached_without_a_token(project: Project, kind: str, paths: str) -> None:
    project.write("main.py", APPS[kind])
    for shape, endpoints in SHAPES.items():
        project.manifest(
            app="main:app",
            auth={"jwt": {"secret": SECRET}},
            endpoints=endpoints,
            server={"paths": paths, "timeouts": {"header": "1s", "keep_alive": "100ms"}},
            health=False,
        )
        host = project.host()
        reached = []
        for target in TARGETS:
            sent = request_bytes({"target": target, "expect": "closed"}, "")
            if b"protected" in answers(host, sent):
                reached.append(target)
        assert reached == [], shape
        with_token = request_bytes({"target": "/admin/users", "expect": "token"}, signed())
        assert b"protected" in answers(host, with_token), shape
        assert b"public" in answers(host, request_bytes({"target": "/other", "expect": "public"}, "")), shape
        assert host.stop() == 0


def test_a_prefix_that_is_mounted_is_covered_by_the_rule_for_everything_below_it(project: Project) -> None:
    """The application that is mounted at a prefix answers the prefix itself: a folder does, and any application."""
    project.write("main.py", ASGI)
    project.write("static/index.html", "protected")
    mounts = {"/files": {"directory": "static", "html": True}}
    mounts |= {f"/{name}": {"import_path": f"here:{name}"} for name in ("plain", "wsgi", "flask")}
    project.write(
        "here.py",
        """
        from flask import Flask

        async def plain(scope, receive, send):
            if scope["type"] == "lifespan":
                raise RuntimeError("declined")
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"protected"})

        def wsgi(environ, start_response):
            start_response("200 OK", [])
            return [b"protected"]

        flask = Flask(__name__)
        flask.add_url_rule("/", "top", lambda: "protected")
        flask.url_map.strict_slashes = False
        """,
    )
    project.manifest(
        app="main:app",
        mounts=[{"route_prefix": prefix, **mount} for prefix, mount in mounts.items()],
        auth={"jwt": {"secret": SECRET}},
        endpoints={**OPEN, "rules": [{"path": f"{prefix}/{{rest:path}}", "auth": "jwt"} for prefix in mounts]},
        server={"timeouts": {"header": "1s", "keep_alive": "100ms"}},
        health=False,
    )
    host = project.host()
    for prefix in mounts:
        for target in (prefix, f"{prefix}/", f"{prefix}?", f"{prefix}/index.html", f"/%{ord(prefix[1]):x}{prefix[2:]}"):
            got = answers(host, request_bytes({"target": target, "expect": "closed"}, ""))
            assert got.startswith(b"HTTP/1.1 401"), target
        got = answers(host, request_bytes({"target": f"{prefix}/", "expect": "token"}, signed()))
        assert b"protected" in got, prefix


def test_routes_and_the_running_host_agree_on_who_may_ask(project: Project) -> None:
    """Each route of the table, asked without a token: 401 where `routes` shows a scheme, and nowhere else."""
    paths = ("/", "/admin", "/admin/", "/admin/users", "/team", "/team/", "/open/", "/open", "/a/{id}")
    project.write(
        "main.py",
        f"""
        from starlette.applications import Starlette
        from starlette.responses import PlainTextResponse
        from starlette.routing import Route

        def told(request):
            return PlainTextResponse("told")

        app = Starlette(routes=[Route(path, told) for path in {paths!r}])
        """,
    )
    rules = [
        {"path": "/admin/{rest:path}", "auth": "jwt"},
        {"path": "/team/", "auth": "jwt"},
        {"path": "/open", "auth": "none"},
        {"path": "/a/{id}", "auth": "jwt"},
    ]
    server = {"timeouts": {"header": "1s", "keep_alive": "100ms"}}
    project.manifest(
        app="main:app",
        auth={"jwt": {"secret": SECRET}},
        endpoints={**OPEN, "rules": rules},
        health=False,
        server=server,
    )
    told = {row["path"]: row["auth"] for row in json.loads(project.cli("routes", "--json").stdout)}
    assert set(told) == set(paths)
    host = project.host()
    for path in paths:
        status = answers(host, request_bytes({"target": path.replace("{id}", "7"), "expect": "public"}, ""))[9:12]
        assert status == (b"401" if told[path] else b"200"), path
    assert [path for path in paths if told[path]] == [
        "/admin", "/admin/", "/admin/users", "/team", "/team/", "/a/{id}",
    ]  # fmt: skip


def test_routes_and_the_running_host_agree_where_the_default_requires_a_credential(project: Project) -> None:
    """Health probes need none, and what a rule opens needs none; every other path needs one, whatever its spelling."""
    paths = ("/", "/health", "/public", "/public/page", "/private", "/probe/health")
    project.write(
        "main.py",
        f"""
        from starlette.applications import Starlette
        from starlette.responses import PlainTextResponse
        from starlette.routing import Route

        def told(request):
            return PlainTextResponse("told")

        app = Starlette(routes=[Route(path, told) for path in {paths!r}])
        """,
    )
    project.manifest(
        app="main:app",
        auth={"jwt": {"secret": SECRET}},
        endpoints={"from": "auto", "auth": "jwt", "rules": [{"path": "/public/{rest:path}", "auth": "none"}]},
        server={"timeouts": {"header": "1s", "keep_alive": "100ms"}},
    )
    told = {row["path"]: row["auth"] for row in json.loads(project.cli("routes", "--json").stdout)}
    host = project.host()
    for path in paths:
        status = answers(host, request_bytes({"target": path, "expect": "public"}, ""))[9:12]
        assert status == (b"401" if told[path] else b"200"), path
    assert [path for path in paths if told[path]] == ["/", "/private", "/probe/health"]
    for target in ("/PRIVATE", "/private/", "/public/../private", "/publi\xc4\xb1c", "/Public", "/nowhere"):
        status = answers(host, request_bytes({"target": target, "expect": "closed"}, ""))[9:12]
        assert status in (b"400", b"401"), target
