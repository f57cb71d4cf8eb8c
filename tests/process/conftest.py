"""The raw ASGI application that most process tests serve."""

from __future__ import annotations

import pytest

from tests.processes import Project

APP = '''
    import asyncio
    import sys
    import time

    held, released, news = 0, asyncio.Event(), asyncio.Condition()

    async def answer(send, body, status=200, headers=()):
        headers = [(b"content-length", b"%d" % len(body)), *headers]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def read(receive):
        body = b""
        while True:
            event = await receive()
            if event["type"] == "http.disconnect":
                print("client left", file=sys.stderr, flush=True)
                return None
            body += event["body"]
            if not event.get("more_body"):
                return body

    async def hold():
        """Until somebody asks for /release."""
        global held
        async with news:
            held += 1
            news.notify_all()
        await released.wait()

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            raise RuntimeError("declined")
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            while (event := await receive())["type"] == "websocket.receive":
                if event.get("text") is not None:
                    await send({"type": "websocket.send", "text": event["text"]})
                else:
                    await send({"type": "websocket.send", "bytes": event["bytes"]})
            print(f"websocket closed {event.get('code')}", file=sys.stderr, flush=True)
            return
        path = scope["path"]
        if path == "/count":
            body = await read(receive)
            if body is not None:
                await answer(send, str(len(body)).encode())
        elif path == "/echo":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            more = True
            while more:
                event = await receive()
                more = event.get("more_body", False)
                await send({"type": "http.response.body", "body": event.get("body", b""), "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        elif path == "/events":
            kind = [(b"content-type", b"text/event-stream")]
            await send({"type": "http.response.start", "status": 200, "headers": kind})
            await send({"type": "http.response.body", "body": b"data: 1\\n\\n", "more_body": True})
            await hold()
            await send({"type": "http.response.body", "body": b"data: 2\\n\\n", "more_body": False})
        elif path == "/big":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for _ in range(64):
                await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        elif path == "/held":
            await hold()
            await answer(send, b"held")
        elif path == "/holding":
            wanted = int(scope["query_string"])
            async with news:
                await news.wait_for(lambda: held >= wanted)
            await answer(send, b"")
        elif path == "/release":
            released.set()
            await answer(send, b"")
        elif path == "/wedge":
            print("wedged", file=sys.stderr, flush=True)
            time.sleep(3600)
        elif path == "/stubborn":
            print("wedged", file=sys.stderr, flush=True)
            while True:
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    pass
        elif path == "/blocked":
            print("blocked", file=sys.stderr, flush=True)
            with open("fifo", "rb") as fifo:  # the whole loop waits until the test opens the other end
                fifo.read()
            await answer(send, b"unblocked")
        elif path == "/soon":
            await asyncio.sleep(0.02)
            await answer(send, b"soon")
        elif path == "/boom":
            raise ValueError("boom")
        elif path == "/half":
            headers = [(b"content-length", b"10")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b"half", "more_body": True})
            raise ValueError("half")
        elif path == "/health":
            await answer(send, b"", 404)
        else:
            await answer(send, f"{scope['method']} {path}".encode())
'''


@pytest.fixture
def served(project: Project) -> Project:
    """A project whose `main:app` is the application of this file."""
    project.write("main.py", APP)
    project.manifest()
    return project
