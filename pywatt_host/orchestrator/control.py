"""The control socket of `up`: what the socket of a single host answers, and the modules one by one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Protocol
from urllib.parse import parse_qs
from uuid import uuid4

from pywatt_host.exceptions import MessagingError, ProtocolError
from pywatt_host.http.problem import send_problem
from pywatt_host.observability.masked import masked_document
from pywatt_host.orchestrator.acceptor import NAME
from pywatt_host.orchestrator.module import Module
from pywatt_host.orchestrator.registry import ServiceRegistry
from pywatt_host.orchestrator.rotations import Rotations
from pywatt_host.orchestrator.router import Router
from pywatt_host.orchestrator.tracing import NoWorkspaceTracing, WorkspaceTracing
from pywatt_host.protocol.messages import Message, RoutedResponse
from pywatt_host.protocol.payload import Envelope
from pywatt_host.runtime.control import ControlApp, answer_rotate, answer_send, body_of, send_json
from pywatt_host.supervision.output import TAIL_LINES, Output, OutputLine
from pywatt_host.types import Receive, Scope, Send

_DEADLINE_MARGIN = 1.0  # seconds from the target's deadline to ours


class Orchestrator(Protocol):
    """The parts of the local Wattson that are controlled."""

    modules: dict[str, Module]
    output: Output
    registry: ServiceRegistry
    rotations: Rotations
    router: Router
    tracing: WorkspaceTracing | NoWorkspaceTracing

    def status(self) -> dict[str, Any]: ...

    def asked_to_stop(self) -> None: ...

    async def stop_module(self, id: str) -> None: ...

    async def reload(self, module: str | None) -> dict[str, Any]: ...


class WorkspaceControl:
    """`GET /status`, `GET /modules`, `GET /logs?module=&lines=&follow=1`, `GET /traces?number=`, `GET /traces/{id}`,
    `POST /rotate`, `POST /send`, `POST /reload` and `POST /stop` (both with `{"module"}` for that module alone)."""

    def __init__(self, wattson: Orchestrator) -> None:
        self._wattson = wattson
        self._host = ControlApp(wattson.status, lambda why: wattson.asked_to_stop(), mask=wattson.output.mask)
        self._closing = asyncio.Event()
        self._stopping: set[asyncio.Task[None]] = set()
        self._reloading: set[asyncio.Task[dict[str, Any]]] = set()

    def close(self) -> None:
        """End the responses that follow logs."""
        self._closing.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._host(scope, receive, send)
            return
        wattson = self._wattson
        match scope["method"], scope["path"]:
            case "GET", "/modules":
                providers = [provider.wire() for provider in wattson.registry.all()]
                found = {"modules": wattson.status()["modules"], "services": providers}
                await send_json(send, 200, masked_document(found, wattson.output.mask))
            case "GET", "/logs":
                await self._logs(scope, receive, send)
            case "GET", path if path == "/traces" or path.startswith("/traces/"):
                await self._traces(scope, send)
            case "POST", "/rotate":
                await answer_rotate(
                    receive, send, lambda name: wattson.rotations.rotate([name], "asked for"), wattson.output.mask
                )
            case "POST", "/send":
                await answer_send(receive, send, self._deliver, wattson.output.mask)
            case "POST", "/reload":
                await self._reload(receive, send)
            case "POST", "/stop":
                await self._stop(receive, send)
            case _:
                await self._host(scope, receive, send)

    async def _traces(self, scope: Scope, send: Send) -> None:
        """The newest traces, or one with its spans. They are read in a thread."""
        kept, id = self._wattson.tracing.kept, scope["path"].removeprefix("/traces").strip("/")
        if kept is None:
            await send_problem(send, 404, "No traces are kept, because tracing is off in wattson.yaml.")
            return
        number = parse_qs(scope["query_string"].decode("latin-1")).get("number", ["200"])[0]
        listed = kept.listed(int(number)) if number.isascii() and number.isdigit() and len(number) < 7 else None
        read = kept.spans_of(id) if id else listed
        if read is None:
            await send_problem(send, 404, "There is no such trace; the oldest ones are dropped.")
            return
        await send_json(send, 200, masked_document(await asyncio.to_thread(read), self._wattson.output.mask))

    async def _stop(self, receive: Receive, send: Send) -> None:
        asked = await body_of(receive)
        id = asked.get("module") if asked is not None else None
        if id is None:
            await send_json(send, 202, {"status": "stopping"})
            self._wattson.asked_to_stop()
        elif id not in self._wattson.modules:
            await send_problem(send, 404, f"There is no module {id}.")
        else:
            task = asyncio.get_running_loop().create_task(self._wattson.stop_module(id))
            self._stopping.add(task)
            task.add_done_callback(self._stopping.discard)
            await send_json(send, 202, {"status": "stopping"})

    async def _reload(self, receive: Receive, send: Send) -> None:
        """Answer with the verdict of a reload. The reload goes on where the client leaves before that."""
        asked = await body_of(receive)
        id = (asked.get("module") or None) if asked is not None else None
        if id is not None and id not in self._wattson.modules:
            await send_problem(send, 404, f"There is no module {id}.")
            return
        task = asyncio.get_running_loop().create_task(self._wattson.reload(id))
        self._reloading.add(task)
        task.add_done_callback(self._reloading.discard)
        await send_json(send, 200, masked_document(await asyncio.shield(task), self._wattson.output.mask))

    async def _deliver(self, module: str, type: str, content: Mapping[str, Any], timeout: float) -> Any:
        """Send a message and return its answer. Raises MessagingError, with the code of an error that was answered."""
        sender = _Sender()
        message = {**content, "type": type}
        self._wattson.router.ask(NAME, module, str(uuid4()), message, timeout, sender)
        try:
            async with asyncio.timeout(timeout + _DEADLINE_MARGIN):
                response = await sender.answer
            reply = Envelope.open(response.payload.document()).content
        except TimeoutError:
            raise MessagingError("timeout", f"no answer within {timeout:g}s", module) from None
        except ProtocolError as error:
            raise MessagingError("invalid_message", str(error), module) from error
        if isinstance(reply, dict) and reply.get("type") == "error" and isinstance(reply.get("code"), str):
            raise MessagingError(reply["code"], str(reply.get("message", "")), module)
        return reply

    # Logs -----------------------------------------------------------------------------------------------------------

    async def _logs(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The last lines as JSON, one a line; with `follow=1` also all further lines after an empty one, until the
        client leaves."""
        asked = parse_qs(scope["query_string"].decode("latin-1"))
        id = asked.get("module", [""])[0] or None
        number = asked.get("lines", [str(TAIL_LINES)])[0]
        if (id is not None and id not in self._wattson.modules) or not number.isascii() or not number.isdigit():
            await send_problem(send, 404, f"There is no module {id}.")
            return
        output = self._wattson.output
        headers = [(b"content-type", b"application/x-ndjson")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        with output.following() as lines:
            for line in output.tail(id, int(number)):
                await send({"type": "http.response.body", "body": _wire(line), "more_body": True})
            if asked.get("follow", [""])[0] == "1":
                await send({"type": "http.response.body", "body": b"\n", "more_body": True})
                await self._follow(id, lines, receive, send)
        await send({"type": "http.response.body", "body": b""})

    async def _follow(self, id: str | None, lines: asyncio.Queue[OutputLine], receive: Receive, send: Send) -> None:
        leaving = [asyncio.create_task(_gone(receive)), asyncio.create_task(_set(self._closing))]
        try:
            while not any(task.done() for task in leaving):
                taking = asyncio.create_task(lines.get())
                await asyncio.wait((taking, *leaving), return_when=asyncio.FIRST_COMPLETED)
                if not taking.done():
                    taking.cancel()
                    continue
                line = taking.result()
                if id is None or line.module == id:
                    await send({"type": "http.response.body", "body": _wire(line), "more_body": True})
        finally:
            for task in leaving:
                task.cancel()


class _Sender:
    """Takes the answer to a message that the command line sent."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[RoutedResponse] = asyncio.get_running_loop().create_future()

    def send(self, message: Message) -> bool:
        with suppress(asyncio.InvalidStateError):  # the request has ended
            assert isinstance(message, RoutedResponse)
            self.answer.set_result(message)
        return True


def _wire(line: OutputLine) -> bytes:
    document = {"time": line.time, "module": line.module, "replica": line.replica, "text": line.text}
    return json.dumps(document).encode() + b"\n"


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _set(event: asyncio.Event) -> None:
    await event.wait()
