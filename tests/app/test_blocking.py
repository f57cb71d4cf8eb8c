"""`app_state.sync`: the same from threads, and never a blocked event loop or a thread that hangs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from pywatt_host.app.state import AppState
from pywatt_host.build.host import build
from pywatt_host.exceptions import AppLoadError, MessagingError, SecretError
from pywatt_host.manifest import Source, load
from pywatt_host.observability.context import current_request
from pywatt_host.types import ASGIApp
from tests.hosting import PATIENCE, Hosted, hello, hosted, run


class Messages:
    """The other side of `request` and `send_message`: answers at once, or never."""

    def __init__(self, *, answers: bool = True) -> None:
        self.answers = answers
        self.asked = asyncio.Event()
        self.sent: list[tuple[Any, ...]] = []
        self.request_ids: list[bytes | None] = []

    async def request(
        self, target: str, message: Any, timeout: float, authorization: Any = None, channel: Any = None
    ) -> Any:
        self.asked.set()
        if not self.answers:
            await asyncio.Event().wait()
        await self.send(target, message, timeout)
        return {"from": target}

    async def send(self, *sent: Any, authorization: Any = None, channel: Any = None) -> None:
        current = current_request.get()
        self.request_ids.append(current.request_id if current is not None else None)
        self.sent.append(sent)


@asynccontextmanager
async def with_messages(app: Any = hello, *, answers: bool = True, **more: Any) -> AsyncIterator[tuple[Hosted, Any]]:
    async with hosted(app=app, **more) as host:
        messages = Messages(answers=answers)
        host.state._messages = messages  # type: ignore[assignment]
        yield host, messages


async def in_thread(call: Callable[[], Any]) -> Any:
    async with asyncio.timeout(PATIENCE):
        return await asyncio.to_thread(call)


async def forever() -> None:
    await asyncio.Event().wait()


# In threads -----------------------------------------------------------------------------------------------------------


def test_a_thread_gets_secrets_declared_or_not_and_of_the_type_it_asks_for() -> None:
    async def main() -> None:
        environ = {"DECLARED": "five", "LIMIT": "5"}
        async with hosted({"secrets": ["DECLARED"]}, hello, environ=environ) as host:
            sync = host.state.sync
            assert (await in_thread(lambda: sync.get_secret("DECLARED"))).expose_secret() == "five"
            assert (await in_thread(lambda: sync.get_secret("LIMIT", int))).expose_secret() == 5
            with pytest.raises(SecretError, match="Secret ABSENT was not found"):
                await in_thread(lambda: sync.get_secret("ABSENT"))
            with pytest.raises(SecretError, match="DECLARED"):
                await in_thread(lambda: sync.get_secret("DECLARED", int))

    run(main)


def test_a_thread_sends_and_asks_and_gets_the_answer() -> None:
    async def main() -> None:
        async with with_messages() as (host, messages):
            sync = host.state.sync
            assert await in_thread(lambda: sync.request("stock", {"type": "count"}, timeout=3)) == {"from": "stock"}
            await in_thread(lambda: sync.send_message("stock", {"type": "note"}))
            assert messages.sent == [("stock", {"type": "count"}, 3), ("stock", {"type": "note"})]

    run(main)


@pytest.mark.parametrize(
    "call",
    [
        lambda sync: sync.request("stock", {"type": "count"}),
        lambda sync: sync.send_message("stock", {"type": "note"}),
    ],
)
def test_what_the_asynchronous_face_raises_is_raised(call: Callable[[Any], Any]) -> None:
    async def main() -> None:
        async with hosted(app=hello) as host:
            with pytest.raises(MessagingError) as raised:
                await in_thread(lambda: call(host.state.sync))
            assert raised.value.code == "unavailable"

    run(main)


def test_a_thread_publishes_and_registers_and_finds_within_its_process() -> None:
    async def main() -> None:
        async with hosted(app=hello) as host:
            heard: asyncio.Queue[Any] = asyncio.Queue()
            host.state.subscribe("news.all")(heard.put)
            sync = host.state.sync
            await in_thread(lambda: sync.publish("news.all", {"text": "hello"}))
            async with asyncio.timeout(PATIENCE):
                assert await heard.get() == {"text": "hello"}
            await in_thread(lambda: sync.register_service("users-api", "api", "127.0.0.1:8080"))
            (found,) = await in_thread(lambda: sync.discover_services("api"))
            assert (found.name, found.address, found.is_healthy) == ("users-api", "127.0.0.1:8080", True)
            await in_thread(lambda: sync.deregister_service("users-api"))
            assert await in_thread(lambda: sync.discover_services("api")) == []
            with pytest.raises(MessagingError, match="has not registered this service"):
                await in_thread(lambda: sync.deregister_service("users-api"))

    run(main)


def test_a_task_that_a_thread_spawns_runs_on_the_event_loop() -> None:
    async def main() -> None:
        seen: list[int] = []
        done = asyncio.Event()

        async def work() -> None:
            seen.append(threading.get_ident())
            done.set()

        async with hosted(app=hello) as host:
            await in_thread(lambda: host.state.sync.spawn(work, name="work"))
            async with asyncio.timeout(PATIENCE):
                await done.wait()
            with pytest.raises(TypeError, match="cannot be restarted"):
                await in_thread(lambda: host.state.sync.spawn(work(), on_failure="restart"))
        assert seen == [threading.get_ident()]

    run(main)


def test_a_thread_with_an_event_loop_of_its_own_is_a_thread() -> None:
    """As the one in which Flask runs an async view."""

    async def main() -> None:
        async with hosted(app=hello, environ={"TOKEN": "abc"}) as host:

            async def elsewhere() -> str:
                return host.state.sync.get_secret("TOKEN").expose_secret()

            assert await in_thread(lambda: asyncio.run(elsewhere())) == "abc"

    run(main)


def test_from_a_wsgi_request_the_request_goes_along_but_not_with_tasks() -> None:
    def create_app(state: AppState) -> Any:
        async def work() -> None:
            state.logger.info("worked")
            done.set()

        def app(environ: Mapping[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
            if environ["PATH_INFO"] == "/ask":
                state.sync.request("stock", {"type": "count"})
                state.sync.spawn(work)
            start_response("200 OK", [("content-length", "0")])
            return []

        return app

    done = asyncio.Event()

    async def main() -> None:
        async with with_messages(create_app) as (host, messages):
            assert (await host.get("/ask", headers={"x-request-id": "abc"})).status == 200
            async with asyncio.timeout(PATIENCE):
                await done.wait()
            assert messages.request_ids == [b"abc"]
            (worked,) = host.logs("app")
            assert "request_id" not in worked

    run(main)


# On the event loop ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("get_secret", lambda sync: sync.get_secret("NOT_FETCHED_YET")),
        ("request", lambda sync: sync.request("stock", {"type": "count"})),
        ("send_message", lambda sync: sync.send_message("stock", {"type": "note"})),
        ("register_service", lambda sync: sync.register_service("users-api", "api", "127.0.0.1:8080")),
        ("discover_services", lambda sync: sync.discover_services("database")),
    ],
)
def test_on_the_event_loop_it_says_what_to_use_instead_of_blocking_it(name: str, call: Callable[[Any], Any]) -> None:
    async def main() -> None:
        async with hosted(app=hello, environ={"NOT_FETCHED_YET": "x"}) as host:
            with pytest.raises(RuntimeError) as raised:
                call(host.state.sync)
            assert str(raised.value) == (
                "app_state.sync blocks, and would block the event loop here: "
                f"use `await app_state.{name}(...)` in async code"
            )

    run(main)


def test_a_factory_that_is_not_async_gets_the_secrets_that_are_there_and_no_others() -> None:
    def create_app(state: AppState) -> ASGIApp:
        assert state.sync.get_secret("LIMIT", int).expose_secret() == 5
        state.sync.spawn(forever)
        state.sync.get_secret("UNDECLARED")
        return hello

    async def main() -> None:
        with pytest.raises(AppLoadError, match=r"use `await app_state\.get_secret\(\.\.\.\)` in async code"):
            async with hosted({"secrets": ["LIMIT"]}, create_app, environ={"LIMIT": "5", "UNDECLARED": "x"}):
                pass

    run(main)


# Without a running host -----------------------------------------------------------------------------------------------


def test_before_the_start_it_says_so(tmp_path: Path) -> None:
    source = Source.of_data({"app": "main:app"}, name="test", directory=tmp_path)
    state = build(load(source, environ={}).manifest, {}).state
    with pytest.raises(RuntimeError, match=r"app_state\.sync\.get_secret: the host has not started"):
        state.sync.get_secret("TOKEN")
    with pytest.raises(RuntimeError, match=r"app_state\.sync\.spawn: the host has not started"):
        state.sync.spawn(forever())


def test_after_the_stop_it_says_so() -> None:
    async def main() -> None:
        async with hosted({"secrets": ["TOKEN"]}, hello, environ={"TOKEN": "abc"}) as host:
            sync = host.state.sync
        with pytest.raises(RuntimeError, match=r"app_state\.sync\.request: the host has stopped"):
            await in_thread(lambda: sync.request("stock", {"type": "count"}))
        with pytest.raises(RuntimeError, match=r"app_state\.sync\.spawn: the host has stopped"):
            await in_thread(lambda: sync.spawn(forever()))
        assert (await in_thread(lambda: sync.get_secret("TOKEN"))).expose_secret() == "abc"

    run(main)


def test_a_thread_that_waits_while_the_host_stops_is_told_so() -> None:
    async def main() -> None:
        errors: list[BaseException] = []
        async with with_messages(answers=False) as (host, messages):

            def ask() -> None:
                try:
                    host.state.sync.request("stock", {"type": "count"})
                except RuntimeError as error:
                    errors.append(error)

            thread = threading.Thread(target=ask)
            thread.start()
            async with asyncio.timeout(PATIENCE):
                await messages.asked.wait()
        await asyncio.to_thread(thread.join, PATIENCE)
        assert not thread.is_alive()
        assert [str(error) for error in errors] == ["app_state.sync.request: the host has stopped"]

    run(main)


def test_a_request_that_waits_while_the_host_stops_does_not_hold_it_beyond_the_limit() -> None:
    async def main() -> None:
        def create_app(state: AppState) -> Any:
            def app(environ: Mapping[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
                if environ["PATH_INFO"] == "/ask":
                    state.sync.request("stock", {"type": "count"})
                start_response("200 OK", [("content-length", "0")])
                return []

            return app

        server = {"timeouts": {"shutdown": "50ms"}}
        async with with_messages(create_app, answers=False, manifest={"server": server}) as (host, messages):
            call = host.start("GET", "/ask")
            async with asyncio.timeout(PATIENCE):
                await messages.asked.wait()
        assert (await call.answer()).status == 500

    run(main)
