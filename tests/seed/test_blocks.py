"""Every Python block of the first document, unchanged. A block runs when decorating and calling it raises nothing of
ours and, if it returns an application, serving that answers. Fragments get lines around them, never inside."""

from __future__ import annotations

import ast
import asyncio
import importlib
import inspect
import json
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]
import httpx
import pytest
import redis

from pywatt_host import AppState
from pywatt_host.auth.minting import mint as minted
from pywatt_host.decorator.module import DecoratedModule, ModuleApp
from pywatt_host.manifest.model import AutoEndpoints
from tests.auth.tokens_for_tests import SECRET, signed
from tests.hosting import run
from tests.processes import Project
from tests.scripted import Orchestrated
from tests.seed import document
from tests.servers import Server

IMPORTS = "from fastapi import FastAPI\nfrom pywatt_sdk import pywatt_module, AppState, AnnouncedEndpoint\n"
FUNCTION = "async def create_app(app_state):\n    return FastAPI()\n"
Imported = Callable[..., Any]


@pytest.fixture
def imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Imported]:
    """Write a module of these pieces and import it; gives the module."""
    monkeypatch.syspath_prepend(tmp_path)
    names: list[str] = []

    def write(*pieces: str, name: str = "mymodule") -> Any:
        (tmp_path / f"{name}.py").write_text("\n".join(pieces), encoding="utf-8")
        names.append(name)
        importlib.invalidate_caches()
        return importlib.import_module(name)

    yield write
    for name in names:
        sys.modules.pop(name, None)


def served(module: DecoratedModule, use: Callable[[httpx.AsyncClient, ModuleApp], Awaitable[None]]) -> None:
    """Start it, and send requests to it."""

    async def main() -> None:
        init = {"orchestrator_api": "http://localhost:9900", "module_id": "my-module"}
        async with (
            module(init) as app,
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://module") as client,
        ):
            await use(client, app)

    run(main)


def called(module: DecoratedModule, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> AppState:
    """Call the function alone, with the AppState of a started host; gives that."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    states: list[AppState] = []

    async def main() -> None:
        async def create_app(app_state: AppState) -> Any:
            result = module.function(app_state)
            assert (await result if inspect.isawaitable(result) else result) is None
            states.append(app_state)
            return _nothing

        like_it = DecoratedModule(
            create_app,
            import_path=module.import_path,
            data=module.data,
            objects=module.objects,
            framework=None,
            place=module.place,
            directory=module.directory,
        )
        async with like_it():
            pass

    run(main)
    return states[0]


async def _nothing(scope: Any, receive: Any, send: Any) -> None:
    raise RuntimeError("not called")


def test_the_document_is_the_one_that_these_tests_are_about() -> None:
    assert len(document.BLOCKS) == 13
    assert document.TEXT.startswith("# PyWatt SDK for Python\n")


def test_quick_start(imported: Imported) -> None:
    async def use(client: httpx.AsyncClient, app: ModuleApp) -> None:
        assert (await client.get("/")).json() == {"message": "Hello from PyWatt!"}
        assert (await client.get("/health")).json() == {"status": "healthy"}
        assert (await client.get("/elsewhere")).status_code == 404

    served(imported(document.QUICK_START).create_app, use)


def test_simple_decorator_based_api(imported: Imported, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing says what `jwt` is, so that it is tokens signed with the secret JWT_SECRET."""
    secrets = {"DATABASE_URL": "postgresql://users@db/users", "API_KEY": "a key that is secret", "JWT_SECRET": SECRET}
    module = imported(IMPORTS, document.SIMPLE_API)
    state = called(module.create_app, secrets, monkeypatch)
    assert state.manifest.secrets.rotate
    assert not isinstance(state.manifest.endpoints, AutoEndpoints)
    asked = {each.path: each.auth and each.auth.scheme for each in state.manifest.endpoints}
    assert asked == {"/api/users": None, "/api/admin": ("jwt",)}
    assert set(state.secrets) == {"DATABASE_URL", "API_KEY", "JWT_SECRET"}


def test_an_endpoint_of_the_simple_api_asks_for_a_token(imported: Imported, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABASE_URL", "API_KEY", "JWT_SECRET"):
        monkeypatch.setenv(name, SECRET)
    filled = document.SIMPLE_API.replace("    pass", "    return users_and_admins()")
    routes = (
        "def users_and_admins():\n    app = FastAPI()\n"
        "    for path in ('/api/users', '/api/admin'):\n        app.get(path)(lambda: 'in')\n    return app\n"
    )

    async def use(client: httpx.AsyncClient, app: ModuleApp) -> None:
        bearer = {"authorization": f"Bearer {signed(SECRET)}"}
        assert (await client.get("/api/users")).status_code == 200
        assert (await client.get("/api/admin")).status_code == 401
        assert (await client.get("/api/admin", headers=bearer)).status_code == 200

    served(imported(IMPORTS, routes, filled).create_app, use)


def test_automatic_secret_management(imported: Imported, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = "opened = []\nclass Database:\n    def __init__(self, url):\n        opened.append(url)\n"
    module = imported(IMPORTS, opened, document.SECRETS)
    secrets = {"DATABASE_URL": "postgresql://users@db/users", "JWT_SECRET": "not so short a secret"}
    state = called(module.create_app, secrets, monkeypatch)
    assert module.opened == ["postgresql://users@db/users"]
    assert set(state.secrets) == {"DATABASE_URL", "JWT_SECRET"}


def test_a_secret_that_nobody_has_stops_the_start(imported: Imported) -> None:
    from pywatt_host import SecretError

    module = imported(IMPORTS, document.SECRETS)

    async def main() -> None:
        with pytest.raises(SecretError, match=r"DATABASE_URL.*JWT_SECRET"):
            await module.create_app()

    run(main)


RUNNER = """
import ast
from pathlib import Path
from pywatt_sdk import pywatt_module

BLOCK = Path(__file__).with_name("block.txt").read_text()

@pywatt_module()
async def create_app(app_state):
    @app_state.on_startup
    async def run():
        await eval(compile(BLOCK, "block.txt", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), {"app_state": app_state})
        print("the block has run")

    async def app(scope, receive, send):
        raise RuntimeError

    return app
"""


@pytest.fixture
def orchestrated(tmp_path: Path) -> Iterator[Callable[[str], Orchestrated]]:
    """The block within a module under an orchestrator, as a script."""
    started: list[Orchestrated] = []

    def start(block: str) -> Orchestrated:
        compile(block, "block.txt", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        project = Project(tmp_path)
        project.write("mymodule.py", RUNNER)
        project.write("block.txt", block)
        started.append(Orchestrated(tmp_path, "mymodule.py"))
        return started[-1]

    yield start
    for module in started:
        module.end()


def test_service_discovery(orchestrated: Callable[[str], Orchestrated]) -> None:
    module = orchestrated(document.DISCOVERY)
    assert module.hear("discover_service_providers")["service_type"] == "Database"
    provider: dict[str, Any] = {
        "provider_id": "p",
        "module_id": "db",
        "service_type": "Database",
        "name": "main",
        "version": None,
        "address": "127.0.0.1:5432",
        "metadata": {},
        "is_healthy": True,
    }
    module.say(op="discover_service_providers_response", success=True, providers=[provider], error=None)
    asked = module.hear("register_service_provider")
    assert (asked["name"], asked["service_type"], asked["address"]) == ("my-api", {"Custom": "api"}, "127.0.0.1:8080")
    module.say(op="register_service_provider_response", success=True, provider_id="p2", error=None)
    module.wait_for("Found database at 127.0.0.1:5432")
    module.wait_for("the block has run")
    module.hear("announce")
    module.say(op="shutdown")
    assert module.wait() == 0


def test_built_in_metrics(imported: Imported, monkeypatch: pytest.MonkeyPatch) -> None:
    module = imported(IMPORTS, document.METRICS)
    state = called(module.create_app, {}, monkeypatch)
    assert state.manifest.metrics.enabled
    assert state.metrics.counter("requests_total")._value.get() == 1


def test_jwt_authentication(imported: Imported, caplog: pytest.LogCaptureFixture) -> None:
    function = (
        "def create_app(app_state):\n    app = FastAPI()\n"
        "    for path in ('/public', '/private'):\n        app.get(path)(lambda: 'in')\n    return app\n"
    )

    async def use(client: httpx.AsyncClient, app: ModuleApp) -> None:
        bearer = {"authorization": f"Bearer {minted('your-secret', {'sub': 'a', 'exp': 4e9})}"}
        forged = {"authorization": f"Bearer {minted('my-secret', {'sub': 'a', 'exp': 4e9})}"}
        assert (await client.get("/public")).status_code == 200
        assert (await client.get("/private")).status_code == 401
        assert (await client.get("/private", headers=forged)).status_code == 401
        assert (await client.get("/private", headers=bearer)).status_code == 200

    served(imported(IMPORTS, document.JWT + function).create_app, use)
    assert "auth.jwt.secret" in caplog.text
    assert "your-secret" not in caplog.text


def test_database_and_cache_integration(
    imported: Imported, monkeypatch: pytest.MonkeyPatch, postgres_server: Server, valkey_server: Server
) -> None:
    """The table that it asks for is there; what it caches, another client finds."""
    environ = {"DATABASE_URL": postgres_server.url, "CACHE_URL": valkey_server.url}
    module = imported(IMPORTS, document.STORES)

    async def prepare() -> None:
        connection = await asyncpg.connect(postgres_server.url)
        await connection.execute("CREATE TABLE IF NOT EXISTS users (id INTEGER)")
        await connection.close()

    asyncio.run(prepare())
    state = called(module.create_app, environ, monkeypatch)
    with redis.Redis.from_url(valkey_server.url) as client:
        assert client.get(f"{state.module_id}:key") == b'"value"'
        assert 0 < client.ttl(f"{state.module_id}:key") <= 60


def test_custom_state_builder(imported: Imported, monkeypatch: pytest.MonkeyPatch) -> None:
    own = (
        "class MyCustomState:\n    def __init__(self, module_id, secrets):\n"
        "        self.module_id, self.secrets = module_id, secrets\n"
    )
    module = imported(IMPORTS, own, document.STATE_BUILDER)
    state = called(module.create_app, {"API_KEY": "a key that is secret"}, monkeypatch)
    assert isinstance(state.user_state, module.MyCustomState)
    assert state.user_state.module_id == state.module_id
    assert state.user_state.secrets["API_KEY"].expose_secret() == "a key that is secret"


def test_multiple_communication_channels(tmp_path: Path) -> None:
    """It listens where it says, so that the test lets it listen elsewhere."""
    project = Project(tmp_path)
    project.write("mymodule.py", "\n".join([IMPORTS, document.CHANNELS + FUNCTION]))
    try:
        config = project.cli("config", "mymodule.py", "--json")
        channels = json.loads(config.stdout)["channels"]
        assert channels["tcp"]["listen"] == "0.0.0.0:9000"
        assert channels["ipc"]["listen"] == ".pywatt/mymodule.sock"
        assert channels["tcp"]["token"] == "***"
        elsewhere = {"PYWATT__CHANNELS__TCP__LISTEN": "127.0.0.1:0"}
        host = project.host("mymodule.py", "--listen", "127.0.0.1:0", env=elsewhere)
        assert host.ready
        token = tmp_path / ".pywatt" / "channel.token"
        assert oct(token.stat().st_mode & 0o777) == "0o600"
        assert (tmp_path / ".pywatt" / "mymodule.sock").is_socket()
        host.signal(signal.SIGTERM)
        assert host.wait() == 0
    finally:
        project.end()


def test_internal_messaging(orchestrated: Callable[[str], Orchestrated]) -> None:
    module = orchestrated(document.MESSAGES)
    sent = module.hear("route_to_module")
    assert sent["target_module_id"] == "other-module"
    assert b'"notification"' in bytes(sent["payload"]["data"])
    module.wait_for("the block has run")
    module.hear("announce")
    assert module.message({"type": "notification", "data": "at last"}) is None
    module.wait_for("Received: {'type': 'notification', 'data': 'at last'}")
    module.say(op="shutdown")
    assert module.wait() == 0, module.lines


def test_fastapi_with_dependency_injection(imported: Imported) -> None:
    async def use(client: httpx.AsyncClient, app: ModuleApp) -> None:
        assert (await client.get("/")).json() == {"module_id": "my-module"}

    served(imported(document.FASTAPI).create_app, use)


def test_flask(imported: Imported) -> None:
    async def use(client: httpx.AsyncClient, app: ModuleApp) -> None:
        assert (await client.get("/")).json() == {"module_id": "my-module"}

    served(imported(document.FLASK).create_app, use)


def test_testing_modules(imported: Imported, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """The block is a whole program with an event loop of its own."""
    create_app = imported(document.QUICK_START).create_app
    apps: list[Any] = []
    opened = DecoratedModule._opened

    async def remembered(self: DecoratedModule, given: Any) -> ModuleApp:
        apps.append(await opened(self, given))
        return apps[-1]  # type: ignore[no-any-return]

    monkeypatch.setattr(DecoratedModule, "_opened", remembered)
    imported(document.TESTING, name="test_module")
    assert apps[0].state.module_id == "test-module"
    assert apps[0].state.orchestrator_api == "http://localhost:9900"
    assert str(apps[0].state.manifest.server.listen[0]) == "127.0.0.1:8080"
    assert [record for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")] == []
    asyncio.run(create_app.aclose())


@pytest.mark.parametrize(
    ("block", "answer"),
    [
        (document.QUICK_START, {"message": "Hello from PyWatt!"}),
        (document.FASTAPI, {"module_id": "mymodule"}),
        (document.FLASK, {"module_id": "mymodule"}),
    ],
    ids=["quick start", "fastapi", "flask"],
)
def test_a_module_is_a_script_that_runs(tmp_path: Path, block: str, answer: Any) -> None:
    """`python my_module.py`, and `pywatt-host run my_module.py`."""
    folder = tmp_path / "mymodule"
    folder.mkdir()
    project = Project(folder)
    project.write("my_module.py", block)
    try:
        for command in (["my_module.py"], ["-m", "pywatt_host", "run", "my_module.py"]):
            host = project.start([sys.executable, *command, "--listen", "127.0.0.1:0", "--log-format", "json"])
            assert host.ready
            assert host.get("/").json() == answer
            host.signal(signal.SIGTERM)
            assert host.wait() == 0
    finally:
        project.end()
