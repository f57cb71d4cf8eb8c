"""Modules as processes: one of ours, and one of the standard library alone that stands for another language."""

from __future__ import annotations

OURS = """
import asyncio, os, subprocess, sys
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

def create_app(state):
    child = subprocess.Popen(["sleep", "600"], stderr=None if "LOUD" in os.environ else subprocess.DEVNULL)
    print(f"child {child.pid}", file=sys.stderr, flush=True)

    @state.on_message("echo")
    async def echo(message):
        return {"said": message["text"]}

    @state.on_rotation("KEY")
    async def rotated(secret):
        if secret.expose_secret() == "refuse-this-one":
            raise RuntimeError("I do not want it")

    async def key(request):
        return PlainTextResponse((await state.get_secret("KEY")).expose_secret())

    async def long(request):
        return Response(b"x" * 100_000)

    async def count(request):
        body = await request.body()
        return PlainTextResponse(f"{len(body)} {request.headers.get('x-who')}", 201)

    routes = [Route("/key", key), Route("/long", long), Route("/count", count, methods=["POST"])]
    return Starlette(routes=routes)
"""

MANIFEST = """
module: {id: ours}
app: main:create_app
secrets: {rotate: true, keys: {KEY: {}}}
channels: {limits: {heartbeat_missed: 1}}
"""

DECORATED = """
from pywatt_host import pywatt_module
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

@pywatt_module(secrets=["KEY"])
def create_app(state):
    async def key(request):
        return PlainTextResponse((await state.get_secret("KEY")).expose_secret())

    return Starlette(routes=[Route("/key", key)])
"""

# Announces without `op`, as modules of the original do, and says things that are not of the protocol.
OTHER = """
import json, sys

def say(document):
    print(json.dumps(document), flush=True)

init = json.loads(sys.stdin.readline())
say({"op": "get_secret", "name": "GREETING"})
greeting = json.loads(sys.stdin.readline())["value"]
print("a print that was forgotten", flush=True)
print(f"{init['module_id']} says {greeting}", file=sys.stderr, flush=True)
say({"id": "1", "metadata": {}, "content": {"op": "register_service_provider", "name": "a"}})
say({"listen": init["listen"], "endpoints": [{"path": "/hello", "methods": ["GET"], "auth": None}]})
for line in sys.stdin:
    message = json.loads(line)
    if message["op"] == "heartbeat":
        say({"op": "heartbeat_ack"})
    elif message["op"] == "rotated":
        say({"op": "rotation_ack", "rotation_id": message["rotation_id"], "status": "error", "message": "not mine"})
    elif message["op"] == "shutdown":
        sys.exit(0)
"""
