"""`init --from` with applications whose tables of routes are not whole, and with folders in which to find one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pywatt_host.manifest import Source, load
from pywatt_host.manifest.model import AutoEndpoints
from pywatt_host.scaffold import candidates
from tests.cli.test_init import endpoints, is_auto, said
from tests.processes import Project

__all__ = ["here"]

STARLETTE = """
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

def home(request):
    open("called", "w").close()
    return PlainTextResponse("home")

routes = [Route("/home", home, methods=["GET", "POST"])]
"""
FLASK = """
from flask import Flask

app = Flask(__name__, static_folder=None)

@app.get("/home")
def home():
    return "home"

@app.get("/folder/")
def folder():
    return "folder"
"""
OPAQUE = """
async def raw(scope, receive, send): ...

class Wrapper:
    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        await self.app(scope, receive, send)
"""
SOCKETIO = """
class ASGIApp:
    __module__ = "engineio.async_drivers.asgi"

    def __init__(self, other):
        self.other_asgi_app, self.static_files, self.engineio_path = other, {}, "/socket.io/"

    async def __call__(self, scope, receive, send):
        await self.other_asgi_app(scope, receive, send)
"""
LATE = """
from contextlib import asynccontextmanager

@asynccontextmanager
async def started(app):
    app.router.routes.append(Route("/late", home))
    yield

app = Starlette(routes=routes, lifespan=started)
"""
SINGLE_PAGE = """
def page(request, error):
    return PlainTextResponse("page")
page.__module__ = "starlette.exceptions"  # what no reading of the table would find

app = Starlette(routes=routes, exception_handlers={404: page})
"""


@pytest.fixture
def here(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(project.folder)
    for name in os.environ:
        if name.startswith(("PYWATT_", "FLASK_", "DJANGO_")):
            monkeypatch.delenv(name)
    return project


@pytest.mark.parametrize(
    ("code", "because"),
    [
        (STARLETTE + OPAQUE + "app = Wrapper(Starlette(routes=routes))\n", "wrapped in main.Wrapper, which may answer"),
        (STARLETTE + OPAQUE + "app = Starlette(routes=[*routes, Mount('/raw', raw)])\n", "main.raw, which is mounted"),
        (STARLETTE + SOCKETIO + "app = ASGIApp(Starlette(routes=routes))\n", "Socket.IO answers requests in front"),
        (STARLETTE + LATE, "it makes routes when it starts"),
        (STARLETTE + SINGLE_PAGE, "it answers paths that are in no route with 200"),
        (
            STARLETTE + "app = Starlette(routes=routes, exception_handlers={404: home})\n",
            "an exception handler answers paths without a route",
        ),
        (
            STARLETTE
            + "from starlette.middleware.cors import CORSMiddleware\n"
            + "app = Starlette(routes=routes)\napp.add_middleware(CORSMiddleware, allow_origins=['*'])\n",
            "CORSMiddleware answers preflight requests itself",
        ),
        (
            FLASK
            + "from werkzeug.middleware.dispatcher import DispatcherMiddleware\n"
            + "app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {'/other': Flask('other')})\n",
            "DispatcherMiddleware mounts other applications",
        ),
        (
            FLASK + "inside = app.wsgi_app\napp.wsgi_app = lambda environ, start: inside(environ, start)\n",
            "its entry point has been replaced by main.<lambda>",
        ),
        (FLASK + "app.before_request(lambda: None)\n", "a function of before_request (main) may answer requests"),
    ],
)
def test_a_table_that_may_be_partial_never_becomes_a_list(here: Project, code: str, because: str) -> None:
    """Its routes are rules, for which options can be written, and every path is served."""
    here.write("main.py", code)
    status, output = said("--from", "main:app")
    assert (status, because in output) == (0, True), output
    manifest = load(Source.file(here.folder), environ={}).manifest
    assert isinstance(manifest.endpoints, AutoEndpoints)
    assert "/home" in [rule.path for rule in manifest.endpoints.rules]
    assert "tried out: the host let " in output
    assert not (here.folder / "called").exists()  # no handler has run
    assert here.cli("validate", "--strict").returncode == 0


def test_a_reverse_proxy_s_headers_are_no_reason(here: Project) -> None:
    """`ProxyFix` passes every request on. A redirect to the path with a slash stays, as do answers to OPTIONS."""
    proxied = "from werkzeug.middleware.proxy_fix import ProxyFix\napp.wsgi_app = ProxyFix(app.wsgi_app)\n"
    here.write("main.py", FLASK + proxied)
    assert said("--from", "main:app")[0] == 0
    assert [each[:2] for each in endpoints(here.folder)] == [
        ("/home", ("GET", "OPTIONS")),
        ("/folder/", ("GET", "OPTIONS")),
        ("/folder", ("GET", "OPTIONS")),
    ]
    assert here.cli("validate", "--strict").returncode == 0
    listed = here.cli("routes", "--json").stdout
    assert '"state": "missing"' not in listed


def test_a_path_of_the_host_is_no_reason_either(here: Project) -> None:
    """The host answers /health itself, with the application's report in it."""
    code = STARLETTE + "app = Starlette(routes=[*routes, Route('/health', home)])\n"
    here.write("main.py", code)
    assert said("--from", "main:app")[0] == 0
    assert [each[0] for each in endpoints(here.folder)] == ["/home", "/health", "/home/", "/health/"]


def test_an_application_that_does_not_start_here_gets_a_manifest_that_says_so(here: Project) -> None:
    here.write(
        "main.py", STARLETTE + LATE.replace("app.router.routes.append(Route(", "raise OSError((").replace("))", "))")
    )
    status, output = said("--from", "main:app")
    assert (status, is_auto(here.folder)) == (0, True)
    assert "because a list could not be tried out" in output
    assert "warning: the manifest was not tried out, because the application did not start" in output


DJANGO = {
    "manage.py": 'import os\nos.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")\n',
    "shop/__init__.py": "",
    "shop/settings.py": 'WSGI_APPLICATION = "shop.wsgi.application"\n',
    "shop/wsgi.py": "application = get_wsgi_application()\n",
    "shop/asgi.py": "application = get_asgi_application()\n",
}
FOLDERS = {
    "pyproject": (
        {"pyproject.toml": '[tool.fastapi]\nentrypoint = "api.main:api"\n', "src/api/main.py": "api = FastAPI()\n"},
        "api.main:api",
        "src",
    ),
    "flaskenv": ({".flaskenv": "FLASK_APP=hello\n", "hello.py": "web = Flask(__name__)\n"}, "hello:web", "."),
    "flask file": (
        {".env": "FLASK_APP=site/hello.py:web\n", "site/hello.py": "web = Flask(__name__)\n"},
        "hello:web",
        "site",
    ),
    "flask factory": (
        {".flaskenv": 'FLASK_APP=hello:create_app("dev")\n', "hello.py": "def create_app(config): ...\n"},
        "hello:create_app",
        ".",
    ),
    "django": (DJANGO, "shop.wsgi:application", "."),
    "channels": (
        {**DJANGO, "shop/settings.py": 'ASGI_APPLICATION = "shop.asgi.application"\n'},
        "shop.asgi:application",
        ".",
    ),
    "django settings in a package": (
        {**DJANGO, ".env": "DJANGO_SETTINGS_MODULE=shop.config.prod\n", "shop/config/prod.py": ""},
        "shop.asgi:application",
        ".",
    ),
    "a file": ({"server.py": "inner = FastAPI()\napp = ASGIApp(sio, inner)\n"}, "server:app", "."),
    "a class of its own": ({"main.py": "class Shop(flask.Flask): ...\nshop = Shop(__name__)\n"}, "main:shop", "."),
    "an odd pyproject": ({"pyproject.toml": "[tool]\nfastapi = 3\n", "main.py": "app = Flask()\n"}, "main:app", "."),
    "an instance before a factory": (
        {"shop/__init__.py": "def create_app(): ...\n", "wsgi.py": "application = create_app()\n"},
        "wsgi:application",
        ".",
    ),
    "a package": ({"shop/__init__.py": "", "shop/web.py": "app: FastAPI = FastAPI()\n"}, "shop.web:app", "."),
    "tests and environments do not count": (
        {"main.py": "app = FastAPI()\n", "tests/app.py": "app = FastAPI()\n", "env/pyvenv.cfg": ""}
        | {"env/lib/app.py": "app = FastAPI()\n", "test_app.py": "app = FastAPI()\n"},
        "main:app",
        ".",
    ),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_the_application_of_a_folder_is_found(tmp_path: Path, case: str) -> None:
    files, import_path, working_dir = FOLDERS[case]
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = candidates(tmp_path, {})
    assert [(each.import_path, os.path.relpath(each.folder, tmp_path)) for each in found] == [
        (import_path, working_dir)
    ]
    assert found[0].args == ({"config": "dev"} if case == "flask factory" else {})


def test_the_environment_is_read_before_files(tmp_path: Path) -> None:
    (tmp_path / ".flaskenv").write_text("FLASK_APP=one\n")
    for name in ("one", "two"):
        (tmp_path / f"{name}.py").write_text("app = Flask(__name__)\n")
    assert [each.import_path for each in candidates(tmp_path, {"FLASK_APP": "two"})] == ["two:app"]


def test_init_in_a_folder_uses_what_it_finds_or_lists_what_may_be_meant(here: Project) -> None:
    here.write("main.py", STARLETTE + "app = Starlette(routes=routes)\n")
    status, output = said("first", "--from", ".")
    assert (status, "main:app: found by main.py:" in output) == (0, True), output
    here.write("other.py", "from flask import Flask\nweb = Flask(__name__)\n")
    status, output = said("second", "--from", ".")
    assert (status, (here.folder / "second").exists()) == (2, False)
    assert "several applications were found. Choose one:" in output
    assert "  --from main:app   # main.py:" in output
    assert "  --from other:web  # other.py:2" in output
    assert said("third", "--from", "other.py")[0] == 0
    status, output = said("fourth", "--from", "first")
    assert (status, "no application was found in first. Name it: --from module:attribute" in output) == (2, True)
    here.write(".env", "FLASK_APP=gone.py\n")
    status, output = said("fifth", "--from", ".")
    assert (status, "FLASK_APP in .env names gone.py, which does not exist" in output) == (2, True)
