"""`pywatt_module`: a module in the tests' process, whatever it is made from."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import flask
import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Route

import pywatt_host
from pywatt_host import AppState, HostError, ManifestError
from pywatt_host.exceptions import AppLoadError, MessagingError, SecretError
from pywatt_host.testing import PywattModule
from tests.hosting import hello

KEY = "PYWATT_KIT_KEY"
URL = {"import_path": "main:create_app", "env": {KEY: "db://u:${secret:KEY}@h/"}}


def users(state: AppState) -> Starlette:
    taken: list[str] = []

    @state.on_message("echo")
    async def echo(message: dict[str, Any]) -> dict[str, Any]:
        return {"said": message["text"], "thread": threading.current_thread().name}

    @state.on_message("crash")
    def crash(message: dict[str, Any]) -> None:
        raise ValueError("the stove is hot")

    @state.on_rotation("KEY")
    async def rotated(secret: Any) -> None:
        if secret.expose_secret() == "refuse-this-one":
            raise RuntimeError("I do not want it")
        taken.append(secret.expose_secret())

    async def key(request: Request) -> JSONResponse:
        state.logger.info("the key is wanted")
        secret = await state.get_secret("KEY")
        return JSONResponse([secret.expose_secret(), os.environ.get(KEY), taken])

    async def body(request: Request) -> PlainTextResponse:
        return PlainTextResponse(str(len(await request.body())))

    return Starlette(routes=[Route("/key", key), Route("/body", body, methods=["POST"])])


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_a_manifest_is_named_by_its_file_its_folder_or_an_import_path(
    pywatt_module: PywattModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "kit_named.py", "from tests.hosting import hello as app\n")
    manifest = write(tmp_path, "pywatt.yaml", "app: kit_named:app\nmodule: {id: named}\n")
    for target in (tmp_path, manifest, str(manifest)):
        client = pywatt_module(target)
        assert client.get("/x").text == "GET /x"
        assert client.state.module_id == client.host.state.module_id == "named"
    assert pywatt_module("tests.hosting:hello", overrides={"app.interface": "asgi"}).get("/y").text == "GET /y"


def test_a_module_with_a_list_of_hosts_answers_to_its_test_client(pywatt_module: PywattModule) -> None:
    client = pywatt_module("tests.hosting:hello", overrides={"server.allowed_hosts": ["www.example.com"]})
    assert client.get("/x").text == "GET /x"
    assert client.get("/x", headers={"host": "www.example.com"}).status_code == 200
    assert client.get("/x", headers={"host": "evil.example"}).status_code == 421


def test_what_is_no_module_is_refused_with_a_line_that_says_so(pywatt_module: PywattModule, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is not a manifest\. Import its decorated function"):
        pywatt_module(write(tmp_path, "main.py", ""))
    with pytest.raises(ManifestError, match="the file does not exist"):
        pywatt_module("no/such/place.yaml")
    with pytest.raises(ManifestError, match="the test's manifest"):
        pywatt_module({"app": "main:app", "metrix": True})
    with pytest.raises(TypeError, match="not int"):
        pywatt_module(5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="cannot hold a value of type object"):
        pywatt_module({"app": hello, "config": {"a": object()}})
    with pytest.raises(AppLoadError, match="no_such_module"):
        pywatt_module({"app": "no_such_module:app"})


def test_an_application_or_a_factory_stands_for_a_manifest_or_in_one(pywatt_module: PywattModule) -> None:
    assert pywatt_module(hello).get("/a").text == "GET /a"
    client = pywatt_module({"app": users, "secrets": ["KEY"], "config": {"n": 3}}, secrets={"KEY": "first-value"})
    assert client.get("/key").json() == ["first-value", None, []]
    assert client.state.config == {"n": 3}
    mounted = pywatt_module({"mounts": [{"route_prefix": "/m", "import_path": hello}], "metrics": True})
    assert mounted.get("/m/x").text == "GET /m/x"
    assert mounted.get("/metrics").status_code == 200


def test_a_flask_application_is_served_as_any_other(pywatt_module: PywattModule) -> None:
    app = flask.Flask("shop")

    @app.post("/count/<name>")
    def count(name: str) -> dict[str, Any]:
        state: AppState = flask.request.environ["pywatt.state"]
        state.logger.info("counted %s", name)
        return {name: len(flask.request.data), "query": flask.request.args.get("q")}

    client = pywatt_module(app)
    assert client.post("/count/a%20b?q=1", content=b"12345").json() == {"a b": 5, "query": "1"}
    assert client.get("/count/x").status_code == 405
    assert [each["message"] for each in client.logs if each["logger"].startswith("app.")] == ["counted a b"]


def test_a_decorated_function_brings_its_manifest_and_itself(pywatt_module: PywattModule) -> None:
    decorated = pywatt_host.pywatt_module(secrets=["KEY"], metrics=True)(users)
    client = pywatt_module(decorated, secrets={"KEY": "first-value"}, overrides={"module.id": "decorated"})
    assert client.get("/key").json()[0] == "first-value"
    assert client.get("/metrics").status_code == 200
    assert client.state.module_id == "decorated"


def test_a_decorated_function_may_have_its_manifest_in_a_file(pywatt_module: PywattModule, tmp_path: Path) -> None:
    name = f"{users.__module__}:users"
    manifest = write(tmp_path, "pywatt.yaml", f"app: {name}\nmodule: {{id: filed}}\n")
    assert pywatt_module(pywatt_host.pywatt_module(manifest=manifest)(users)).state.module_id == "filed"
    other = write(tmp_path, "other.yaml", "app: somebody.else:app\n")
    with pytest.raises(ManifestError, match=r"names somebody\.else:app as the app, and not this function"):
        pywatt_module(pywatt_host.pywatt_module(manifest=other)(users))


def test_secrets_are_all_there_are_and_the_environment_is_empty_unless_it_is_given(
    pywatt_module: PywattModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY", "of-this-machine")
    for secrets in (None, {}, {"OTHER": "some-value"}):
        with pytest.raises(SecretError, match="Secret KEY was not found"):
            pywatt_module({"app": users, "secrets": ["KEY"]}, secrets=secrets)
    client = pywatt_module({"app": users, "secrets": ["KEY"]}, environ={"KEY": "of-the-test"})
    assert client.get("/key").json()[0] == "of-the-test"
    with pytest.raises(ManifestError, match="HOME"):
        pywatt_module({"app": users, "config": {"home": "${HOME}"}})
    client = pywatt_module({"app": hello, "config": {"home": "${HOME}"}}, environ={"HOME": "/h"})
    assert client.state.config["home"] == "/h"


def test_overrides_and_profiles_are_laid_over_the_manifest(pywatt_module: PywattModule) -> None:
    manifest = {"app": users, "secrets": ["KEY"], "profiles": {"small": {"server": {"limits": {"body": "10B"}}}}}
    secrets = {"KEY": "first-value"}
    client = pywatt_module(manifest, secrets=secrets, overrides={"server.limits.body": "1KiB", "metrics": True})
    assert [client.post("/body", content=b"x" * size).status_code for size in (1024, 1025)] == [200, 413]
    assert client.get("/metrics").status_code == 200
    assert pywatt_module(manifest, secrets=secrets, profile="small").post("/body", content=b"x" * 11).status_code == 413
    with pytest.raises(ManifestError, match="--set"):
        pywatt_module(manifest, overrides={"server.limits.boddy": "1KiB"})


def test_secrets_rotate_for_real_all_at_once_or_not_at_all(pywatt_module: PywattModule) -> None:
    objects = {"app": {"import_path": users, "env": URL["env"]}, "secrets": {"rotate": True, "keys": {"KEY": {}}}}
    client = pywatt_module(objects, secrets={"KEY": "first/value"})
    assert client.get("/key").json() == ["first/value", "db://u:first%2Fvalue@h/", []]
    client.rotate(KEY="second-value")
    assert client.get("/key").json() == ["second-value", "db://u:second-value@h/", ["second-value"]]
    with pytest.raises(SecretError, match="KEY") as refused:
        client.rotate(KEY="refuse-this-one")
    assert "refuse-this-one" not in str(refused.value)
    assert client.get("/key").json()[0] == "second-value"
    assert client.run(client.state.get_secret("KEY")).expose_secret() == "second-value"
    fixed = pywatt_module({"app": users, "secrets": ["KEY"]}, secrets={"KEY": "first-value"})
    with pytest.raises(SecretError, match=r"secrets\.rotate"):
        fixed.rotate(KEY="second-value")
    with pytest.raises(SecretError, match="start the module with secrets="):
        pywatt_module(hello).rotate(KEY="second-value")
    assert not any("-value" in str(record) for record in client.logs)


def test_messages_are_delivered_to_their_handlers(pywatt_module: PywattModule) -> None:
    client = pywatt_module({"app": users, "module": {"id": "users"}})
    reply = client.deliver("echo", {"text": "hi"})
    assert reply == {"said": "hi", "thread": "pywatt users"}
    for type, code in (("crash", "handler_failed"), ("nobody", "no_handler")):
        with pytest.raises(MessagingError) as failed:
            client.deliver(type)
        assert failed.value.code == code


def test_two_modules_run_beside_each_other_with_logs_of_their_own(
    pywatt_module: PywattModule, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = (
        pywatt_module({"app": users, "module": {"id": name}, "secrets": ["KEY"]}, secrets={"KEY": f"value-of-{name}"})
        for name in ("one", "two")
    )
    assert (one.get("/key").json()[0], two.get("/key").json()[0]) == ("value-of-one", "value-of-two")
    two.get("/nowhere")
    for client, name, paths in ((one, "one", ["/key"]), (two, "two", ["/key", "/nowhere"])):
        assert [each["message"] for each in client.logs if each["logger"].startswith("app.")] == ["the key is wanted"]
        assert {each["logger"] for each in client.logs if "wanted" in each["message"]} == {f"app.{name}"}
        assert [each["path"] for each in client.logs if each["logger"] == "pywatt.access"] == paths
    assert [record.name for record in caplog.records if "wanted" in record.message] == ["app.one", "app.two"]


def test_a_stream_without_an_end_that_is_read_whole_ends_with_the_timeout(pywatt_module: PywattModule) -> None:
    async def endless(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": b"more", "more_body": True})
            await asyncio.sleep(0.01)

    client = pywatt_module({"app": endless, "health": False}, timeout=0.3)
    with pytest.raises(
        httpx.ReadTimeout, match=r"did not end within 0\.3 s; read an endless response with client\.stream"
    ):
        client.get("/")

    async def main() -> None:
        async with pywatt_module.client({"app": endless, "health": False}, timeout=0.3) as other:
            with pytest.raises(httpx.ReadTimeout, match=r"did not end within 0\.3 s"):
                await other.get("/")

    asyncio.run(main())


def test_a_stream_without_an_end_is_read_bit_by_bit_and_left(pywatt_module: PywattModule) -> None:
    left: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            raise RuntimeError("declined")

        async def events() -> AsyncIterator[str]:
            number = 0
            while True:
                number += 1
                yield f"data: {number}\n\n"

        await receive()

        async def noted() -> Any:
            left.append((await receive())["type"])
            return {"type": left[-1]}

        await StreamingResponse(events(), media_type="text/event-stream")(scope, noted, send)
        left.append("ended")

    client = pywatt_module({"app": app, "health": False})
    with client.stream("GET", "/events") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = (line for line in response.iter_lines() if line)
        assert [next(lines) for _ in range(20)] == [f"data: {number}" for number in range(1, 21)]
        assert left == []
    pywatt_module.stop()
    assert left == ["http.disconnect", "ended"]


def test_an_application_that_fails_answers_500_or_breaks_off_as_on_a_server(pywatt_module: PywattModule) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/boom":
            raise ValueError("boom")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise ValueError("half")

    client = pywatt_module({"app": {"import_path": app, "interface": "asgi"}, "health": False})
    assert client.get("/boom").status_code == 500
    with pytest.raises(httpx.RemoteProtocolError):
        client.get("/half")
    assert [each["message"] for each in client.logs if "exception" in each and "ValueError" in each["exception"]]


def test_every_wait_is_bounded_and_says_what_was_logged(pywatt_module: PywattModule) -> None:
    async def silent(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return
        import logging

        logging.getLogger("app").info("I think")
        await asyncio.Event().wait()

    client = pywatt_module({"app": silent, "health": False, "module": {"id": "thinker"}})
    with pytest.raises(httpx.ReadTimeout, match=r"thinker did not answer within 0\.2 s; its log ends with:\n.*I think"):
        client.get("/", timeout=0.2)
    with pytest.raises(TimeoutError, match="thinker did not answer"):
        client.run(asyncio.sleep(30), timeout=0.1)

    async def asked_by_itself() -> None:
        client.run(asyncio.sleep(0))

    with pytest.raises(RuntimeError, match="use await instead"):
        client.run(asked_by_itself())


def test_a_start_that_takes_too_long_is_unwound(pywatt_module: PywattModule) -> None:
    over = threading.Event()

    def create_app(state: AppState) -> Any:
        @state.on_startup
        async def never() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                over.set()

        return hello

    with pytest.raises(TimeoutError, match=r"did not start within 0\.5 s"):
        pywatt_module({"app": create_app}, timeout=0.5)
    assert over.is_set()


def test_no_socket_is_bound(pywatt_module: PywattModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bound: list[Any] = []

    class Watched(socket.socket):
        def bind(self, address: Any) -> None:
            bound.append(address)
            super().bind(address)

    monkeypatch.setattr(socket, "socket", Watched)
    manifest = {
        "app": hello,
        "server": {"listen": "127.0.0.1:1", "admin": {"listen": "127.0.0.1:2"}},
        "channels": {"tcp": {"listen": "127.0.0.1:3", "token": "0123456789abcdef"}, "ipc": {"listen": "./s"}},
    }
    assert pywatt_module(manifest).get("/x").status_code == 200
    assert bound == []


def test_an_async_test_has_the_module_on_its_own_loop(pywatt_module: PywattModule) -> None:
    async def test() -> None:
        manifest = {"app": users, "secrets": {"rotate": True, "keys": {"KEY": {}}}}
        async with pywatt_module.client(manifest, secrets={"KEY": "first-value"}) as client:
            assert (await client.get("/key")).json()[0] == "first-value"
            await client.rotate(KEY="second-value")
            assert (await client.get("/key")).json()[0] == "second-value"
            assert (await client.deliver("echo", {"text": "hi"}))["said"] == "hi"
            assert (await client.state.get_secret("KEY")).expose_secret() == "second-value"
            async with client.stream("POST", "/body", content=b"12345") as response:
                assert [piece async for piece in response.aiter_text()] == ["5"]
            assert any(each["message"] == "the key is wanted" for each in client.logs)
            assert client.host.manifest.secrets.rotate
        with pytest.raises(SecretError):
            async with pywatt_module.client(manifest, secrets={}):
                raise AssertionError

    asyncio.run(test())


def test_what_a_module_changes_of_the_process_is_put_back(pywatt_module: PywattModule, tmp_path: Path) -> None:
    write(tmp_path / "one", "kit_same.py", "import kit_beside\nfrom tests.hosting import hello as app\n")
    write(tmp_path / "one", "kit_beside.py", "")
    write(tmp_path / "two", "kit_same.py", "from tests.hosting import hello as app\n")
    path = sys.path[:]
    env = {KEY: "here"}
    pywatt_module({"app": {"import_path": "kit_same:app", "working_dir": tmp_path / "one", "env": env}})
    assert os.environ[KEY] == "here"
    with pytest.raises(HostError, match="the name `kit_same` is taken"):
        pywatt_module({"app": {"import_path": "kit_same:app", "working_dir": tmp_path / "two"}})
    pywatt_module.stop()
    assert (KEY in os.environ, sys.path) == (False, path)
    first = sys.modules["kit_same"]
    pywatt_module({"app": {"import_path": "kit_same:app", "working_dir": tmp_path / "one"}})
    assert sys.modules["kit_same"] is first
    pywatt_module.stop()
    pywatt_module({"app": {"import_path": "kit_same:app", "working_dir": tmp_path / "two"}})
    assert sys.modules["kit_same"] is not first
    assert "kit_beside" not in sys.modules


def test_what_is_logged_of_least_importance_is_as_the_manifest_says(
    pywatt_module: PywattModule, caplog: pytest.LogCaptureFixture
) -> None:
    def create_app(state: AppState) -> Any:
        for level in ("debug", "info", "warning"):
            getattr(state.logger, level)(level)
        return hello

    def levels(**logging: Any) -> list[str]:
        client = pywatt_module({"app": create_app, "module": {"id": "m"}, "logging": logging})
        return [each["message"] for each in client.logs if each["logger"] == "app.m"]

    assert levels(level="warning") == ["warning"]
    assert levels(level="warning", loggers={"app": "debug"}) == ["debug", "info", "warning"]
