"""A host's life as a whole: mounts, the order of starts and stops, what a failure at each position leaves behind."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from pywatt_host.app.state import AppState
from pywatt_host.exceptions import AppLoadError, BindError, ServiceError
from pywatt_host.http.server.place import Place
from pywatt_host.net.listeners import Listener
from pywatt_host.net.passing import PassingChannel
from pywatt_host.types import Receive, Scope, Send
from tests.hosting import MODULE, PATIENCE, Recorder, hello, hosted, importable, run
from tests.processes import Project


class Living:
    """An ASGI application with a lifespan, which tells `events` what happens to it."""

    def __init__(self, name: str, events: list[str], *, fails: str = "") -> None:
        self.name = name
        self._events = events
        self._fails = fails

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            path = f"{scope['root_path']}|{scope['path']}|{scope['state'].get('mine')}".encode()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": path})
            return
        assert (await receive())["type"] == "lifespan.startup"
        if self._fails == "start":
            self._events.append(f"{self.name} fails")
            await send({"type": "lifespan.startup.failed", "message": f"{self.name} has no database"})
            return
        scope["state"]["mine"] = self.name
        self._events.append(f"{self.name} up")
        await send({"type": "lifespan.startup.complete"})
        assert (await receive())["type"] == "lifespan.shutdown"
        self._events.append(f"{self.name} down")
        if self._fails == "stop":
            raise RuntimeError(f"{self.name} cannot stop")
        await send({"type": "lifespan.shutdown.complete"})


def mounts(*prefixes: str, **more: Any) -> dict[str, Any]:
    """Mount the applications `one`, `two`, ... under the prefixes."""
    names = ("one", "two", "three")
    return {
        "mounts": [
            {"route_prefix": prefix, "import_path": f"{MODULE}:{name}"}
            for prefix, name in zip(prefixes, names, strict=False)
        ],
        "health": False,
        **more,
    }


def test_the_longest_prefix_wins_and_its_border_is_respected() -> None:
    async def main() -> None:
        manifest = mounts("/api", "/api/v2", "/legacy")
        apps = {name: Recorder() for name in ("root", "one", "two", "three")}
        names = {
            "/": "root",
            "/apis": "root",
            "/api": "one",
            "/api/": "one",
            "/api/v2": "two",
            "/api/v2/x": "two",
            "/api/v20": "one",
            "/legacy/x": "three",
            "/Legacy/x": "root",
        }
        async with hosted(manifest, apps["root"], one=apps["one"], two=apps["two"], three=apps["three"]) as host:
            for path, name in names.items():
                assert (await host.get(path)).status == 200
                assert apps[name].scopes[-1]["path"] == path, path
            assert sum(len(app.scopes) for app in apps.values()) == len(names)

    run(main)


def test_asgi_gets_the_prefix_as_root_path_and_keeps_the_path_and_each_has_its_own_state() -> None:
    async def main() -> None:
        events: list[str] = []
        one, two = Living("one", events), Living("two", events)
        async with hosted(mounts("/a", "/b"), Living("root", events), one=one, two=two) as host:
            assert (await host.get("/x")).body == b"|/x|root"
            assert (await host.get("/a/x")).body == b"/a|/a/x|one"
            assert (await host.get("/b")).body == b"/b|/b|two"
            assert (await host.get("/a/x", root_path="/outer")).body == b"/outer/a|/a/x|one"

    run(main)


def test_wsgi_gets_the_prefix_as_script_name_and_the_rest_as_path_info() -> None:
    def legacy(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        start_response("200 OK", [])
        return [f"{environ['SCRIPT_NAME']}|{environ['PATH_INFO']}|{environ['pywatt.state'].module_id}".encode()]

    async def main() -> None:
        async with hosted({**mounts("/legacy"), "module": {"id": "users"}}, one=legacy) as host:
            assert (await host.get("/legacy/x/y")).body == b"/legacy|/x/y|users"
            assert (await host.get("/legacy")).body == b"/legacy||users"
            assert (await host.get("/legacyx")).status == 404
            assert (await host.get("/")).status == 404

    run(main)


def test_a_request_gets_the_appstate_and_a_copy_of_what_the_lifespan_left() -> None:
    seen: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            scope["state"]["pool"] = "pool"
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        seen.append(dict(scope["state"]))
        scope["state"]["leak"] = True
        await hello(scope, receive, send)

    async def main() -> None:
        async with hosted({"config": {"page": 50}, "health": False}, app) as host:
            await host.get("/")
            await host.get("/")
            assert [list(state) for state in seen] == [["pywatt", "pool"]] * 2
            assert seen[0]["pywatt"] is host.state
            assert host.state.config["page"] == 50
            with pytest.raises(TypeError):
                host.state.config["page"] = 1

    run(main)


# Starts and stops -----------------------------------------------------------------------------------------------------


async def _once(manifest: dict[str, Any], events: list[str], fails: dict[str, str], **more: Any) -> None:
    def living(name: str) -> Living:
        return Living(name, events, fails=fails.get(name, ""))

    def create_app(state: AppState) -> Living:
        events.append("root made")

        @state.on_startup
        async def up() -> None:
            events.append("hook up")
            if fails.get("hook") == "start":
                raise OSError("no hook")

        @state.on_startup
        def up_too() -> None:
            events.append("hook 2 up")

        for name in ("a", "b"):

            @state.on_shutdown
            def down(name: str = name) -> None:
                events.append(f"hook {name} down")
                if fails.get("hook") == "stop":
                    raise OSError("no hook")

        return living("root")

    async with hosted(manifest, create_app, one=living("one"), two=living("two"), **more):
        events.append("serving")


UP = ["root made", "root up", "one up", "two up"]
DOWN = ["two down", "one down", "root down"]
HOOKS_DOWN = ["hook b down", "hook a down"]


@pytest.mark.parametrize(
    ("fails", "error", "events"),
    [
        ({}, None, [*UP, "hook up", "hook 2 up", "serving", *HOOKS_DOWN, *DOWN]),
        ({"root": "start"}, AppLoadError, ["root made", "root fails"]),
        ({"one": "start"}, AppLoadError, [*UP[:2], "one fails", "root down"]),
        ({"two": "start"}, AppLoadError, [*UP[:3], "two fails", "one down", "root down"]),
        ({"hook": "start"}, ServiceError, [*UP, "hook up", *DOWN]),
        ({"two": "stop"}, None, [*UP, "hook up", "hook 2 up", "serving", *HOOKS_DOWN, *DOWN]),
        ({"one": "stop", "hook": "stop"}, None, [*UP, "hook up", "hook 2 up", "serving", *HOOKS_DOWN, *DOWN]),
        ({"two": "start", "one": "stop"}, AppLoadError, [*UP[:3], "two fails", "one down", "root down"]),
    ],
    ids=str,
)
def test_everything_starts_in_order_and_is_unwound_in_reverse(
    fails: dict[str, str], error: type[Exception] | None, events: list[str]
) -> None:
    seen: list[str] = []

    async def main() -> None:
        if error is None:
            await _once(mounts("/a", "/b"), seen, fails)
            return
        with pytest.raises(error) as caught:
            await _once(mounts("/a", "/b"), seen, fails)
        if error is AppLoadError:
            assert "has no database" in str(caught.value)
            assert caught.value.reason == "lifespan-failed"  # type: ignore[attr-defined]
        else:
            assert isinstance(caught.value.__cause__, OSError)

    run(main)
    assert seen == events


def test_the_users_exception_stays_the_cause_of_a_failed_start() -> None:
    def create_app() -> None:
        raise KeyError("DATABASE_URL")

    async def main() -> None:
        with pytest.raises(AppLoadError) as caught:
            async with hosted({}, create_app):
                pass
        assert isinstance(caught.value.__cause__, KeyError)

    run(main)


def test_a_later_application_that_cannot_be_loaded_unwinds_the_earlier_ones() -> None:
    events: list[str] = []

    async def main() -> None:
        with pytest.raises(AppLoadError, match="has no `two`"):
            async with hosted(mounts("/a", "/b"), Living("root", events), one=Living("one", events)):
                pass

    run(main)
    assert events == ["root up", "one up", "one down", "root down"]


def test_a_fault_in_the_body_of_a_test_is_the_error_reported_and_everything_is_unwound() -> None:
    events: list[str] = []

    async def main() -> None:
        with pytest.raises(LookupError):
            async with hosted({"health": False}, Living("root", events)):
                raise LookupError

    run(main)
    assert events == ["root up", "root down"]


def test_the_environment_of_an_application_is_there_before_its_import(project: Project) -> None:
    project.write("early.py", "import os\nMODE = os.environ['EARLY_MODE']\nasync def app(scope, receive, send): pass\n")
    project.manifest(app={"import_path": "early:app", "env": {"EARLY_MODE": "prod", "EARLY_PORT": 80}})
    found = project.cli("validate", "--format", "json")
    assert (found.returncode, found.stdout) == (0, "[]\n")


def test_arguments_reach_the_factory() -> None:
    def create_app(*, page_size: int, name: str = "x") -> Recorder:
        made.append((page_size, name))
        return Recorder()

    made: list[tuple[int, str]] = []

    async def main() -> None:
        async with hosted({"app": {"import_path": f"{MODULE}:app", "args": {"page_size": 50}}}, create_app):
            assert made == [(50, "x")]

    run(main)


# On sockets of its own ------------------------------------------------------------------------------------------------


@asynccontextmanager
async def serving(host: Any, **options: Any) -> AsyncIterator[Any]:
    """A host that serves on its own sockets; stopped at the end."""
    ready: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(host.serve(ready.set_result, **options))
    await asyncio.wait([task, ready], return_when=asyncio.FIRST_COMPLETED)
    if not ready.done():
        await task
    yield ready.result()
    host.stop("the test is over")
    async with asyncio.timeout(PATIENCE):
        assert await task == 0


def built(folder: Path, **server: Any) -> Any:
    from pywatt_host.build.host import build
    from pywatt_host.manifest import Source, load

    data = {"app": f"{MODULE}:app", "health": False, "server": {"listen": "127.0.0.1:0", "control": "off", **server}}
    return build(load(Source.of_data(data, name="test", directory=folder), environ={}).manifest, {})


def test_a_host_can_serve_inside_another_program_and_be_stopped_by_it(project: Project) -> None:
    async def main() -> None:
        with importable(app=hello):
            async with serving(built(project.folder)) as ready:
                host, _, port = ready.listen[0].removeprefix("http://").rpartition(":")
                reader, writer = await asyncio.open_connection(host, int(port))
                writer.write(b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n")
                assert (await reader.readuntil(b"\r\n")).endswith(b"200 OK\r\n")
                writer.close()

    run(main)


def test_a_host_with_a_place_serves_on_the_sockets_of_its_supervisor(project: Project) -> None:
    class Cell:
        def set(self, value: int) -> None:
            self.value = value

    async def main() -> None:
        near, far = (PassingChannel(sock) for sock in socket.socketpair())
        with importable(app=hello), socket.create_server(("127.0.0.1", 0)) as sock:
            sock.setblocking(False)
            address = sock.getsockname()
            cell = Cell()
            place = Place(far, cell, lambda: None, [Listener(sock.dup(), owned=False)])
            async with serving(built(project.folder, listen="10.255.255.1:1"), place=place) as ready:
                assert ready.listen == (f"http://127.0.0.1:{address[1]}",)
                reader, writer = await asyncio.open_connection(*address)
                writer.write(b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n")
                place.accept()
                assert (await reader.readuntil(b"\r\n")).endswith(b"200 OK\r\n")
                assert cell.value == 1
                writer.close()
                near.finish()
            near.close()

    run(main)


def test_a_host_that_has_stopped_leaves_nothing_that_would_end_its_program(project: Project) -> None:
    before = set(threading.enumerate())

    async def main() -> None:
        with importable(app=hello):
            async with serving(built(project.folder)):
                pass

    run(main)
    for thread in set(threading.enumerate()) - before:
        thread.join(5)  # less than server.timeouts.shutdown
        assert not thread.is_alive(), thread


def test_a_host_that_cannot_bind_all_of_its_addresses_binds_none(project: Project) -> None:
    (project.folder / "taken").write_text("precious")

    async def main() -> None:
        with importable(app=hello):
            host = built(project.folder, listen=["unix:free.sock", "unix:taken"])
            with pytest.raises(BindError) as caught:
                await host.serve()
            assert (caught.value.key, caught.value.exit_code) == ("server.listen", 3)

    run(main)
    assert os.listdir(project.folder) == ["taken"]


def test_a_host_that_cannot_start_leaves_no_socket_behind(project: Project) -> None:
    async def main() -> None:
        with importable(app=7), pytest.raises(AppLoadError):
            await built(project.folder, listen="unix:s.sock").serve()

    run(main)
    assert os.listdir(project.folder) == []
