"""Modules in processes of their own that do what they are told over HTTP: ask, send, publish, find."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from tests.processes import PATIENCE, Host, Project

APP = """
import asyncio, json, os
from dataclasses import dataclass

@dataclass
class Order:
    number: int
    article: str = "x"

def create_app(state):
    heard, handled = [], []
    hold = asyncio.Event()

    def about(extra):
        now = state.message
        return {"by": state.module_id, "pid": os.getpid(), "source": now.source, "channel": now.channel,
                "vouched_by": now.vouched_by, "attempt": now.attempt, **extra}

    @state.on_message("double")
    async def double(message):
        return about({"n": message["n"] * 2})

    if "GUARDED" in os.environ:
        @state.on_message("guarded", auth="jwt")
        async def guarded(message):
            return about({"sub": state.claims["sub"]})

    @state.on_message("order")
    def order(order: Order):
        return about({"number": order.number, "article": order.article})

    @state.on_message("fail")
    async def fail(message):
        raise RuntimeError("it is broken")

    @state.on_message("slow")
    async def slow(message):
        await asyncio.sleep(message["seconds"])
        handled.append(about({"n": message.get("n")}))
        return "late"

    @state.on_message("work")
    async def work(message):
        if message.get("crash"):
            os._exit(9)
        if state.message.attempt <= message.get("fails", 0):
            raise RuntimeError("not yet")
        handled.append(about({"n": message["n"]}))
        if "file" in message:
            with open(message["file"], "a") as file:
                file.write(f"{message['n']}\\n")

    @state.on_message("one", concurrency=1)
    async def one(message):
        handled.append(("begin", message["n"]))
        while not os.path.exists(message.get("file", ".")):
            await asyncio.sleep(0.01)
        handled.append(("end", message["n"]))

    @state.subscribe("news.all")
    async def news(message):
        heard.append(about({"text": message["text"]}))

    async def do(call, arguments):
        if call == "heard":
            return heard
        if call == "handled":
            return handled
        if call == "discover":
            return [{"name": p.name, "address": p.address, "module_id": p.module_id, "metadata": dict(p.metadata),
                     "is_healthy": p.is_healthy} for p in await state.discover_services(**arguments)]
        if call == "get":
            response = await state.http.get(arguments["url"])
            return {"status": response.status_code, "text": response.text}
        if call == "request_long":
            return await state.request(arguments["target"], {"type": "double", "n": "x" * arguments["octets"]})
        return await getattr(state, call)(**arguments)

    async def app(scope, receive, send):
        body, more = b"", True
        while more:
            event = await receive()
            body, more = body + event.get("body", b""), event.get("more_body", False)
        if scope["path"] == "/who":
            answer = {"by": state.module_id, "pid": os.getpid()}
        elif scope["path"] != "/do":
            await send({"type": "http.response.start", "status": 404, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        else:
            told = json.loads(body)
            try:
                answer = {"result": await do(told["call"], told["arguments"])}
            except Exception as error:
                answer = {"error": getattr(error, "code", type(error).__name__), "text": str(error)}
        octets = json.dumps(answer).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(octets)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": octets})

    return app
"""


class RefusedError(Exception):
    """What a module's call raised."""

    def __init__(self, code: str, text: str) -> None:
        self.code = code
        super().__init__(text)


class Module:
    """One process of a module."""

    def __init__(self, host: Host, prefix: str = "") -> None:
        """`prefix`: where it is on the host's address, which may be that of a gateway."""
        self.host = host
        self._prefix = prefix

    def do(self, call: str, **arguments: Any) -> Any:
        """Its answer. Raises RefusedError."""
        body = json.dumps({"call": call, "arguments": arguments}).encode()
        answer = self.host.post(f"{self._prefix}/do", body).json()
        if "error" in answer:
            raise RefusedError(answer["error"], answer["text"])
        return answer["result"]

    def ask(self, target: str, type: str, /, channel: str | None = None, **fields: Any) -> Any:
        message = {"type": type, **fields}
        return self.do("request", target=target, message=message, timeout=PATIENCE, channel=channel)

    def code(self, call: str, **arguments: Any) -> tuple[str, str]:
        """The code and the text of what it raises."""
        try:
            answer = self.do(call, **arguments)
        except RefusedError as error:
            return error.code, str(error)
        raise AssertionError(f"it raised nothing, but gave {answer!r}")

    def until(self, call: str, true: Callable[[Any], Any], patience: float = PATIENCE, **arguments: Any) -> Any:
        """Its answer as soon as it is what is waited for: that is told by another process, so there is no event."""
        deadline = time.monotonic() + patience
        while True:
            try:
                answer = self.do(call, **arguments)
            except RefusedError as error:
                answer = error
            if not isinstance(answer, RefusedError) and true(answer):
                return answer
            if time.monotonic() > deadline:
                raise AssertionError(f"{call} gives {answer!r}:\n" + "\n".join(self.host.lines[-30:]))
            time.sleep(0.02)


def module(project: Project, name: str, *, env: Mapping[str, str] | None = None, **keys: Any) -> Module:
    """Start one, in a folder of its own below the project's. It may not be ready yet."""
    project.write(f"{name}/main.py", APP)
    server = {"listen": "127.0.0.1:0", "control": "off", **keys.pop("server", {})}
    document = {
        "app": "main:create_app",
        "module": {"id": name.partition("-")[0]},
        "logging": {"access": False, "level": "debug"},
        **keys,
        "server": server,
    }
    path = project.write(f"{name}/pywatt.yaml", json.dumps(document))
    return Module(project.host(str(path), env=env))
