"""Each verb once as a user starts it: `python -m pywatt_host VERB`, by an interpreter of its own."""

from __future__ import annotations

import json
import re
import sys

import pytest

from pywatt_host.cli import _VERBS
from tests.processes import Project

APP = """
    def create_app(app_state):
        @app_state.on_message("greet")
        def greet(message):
            return {"text": "hello " + message["name"]}

        async def app(scope, receive, send):
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"served"})

        return app
"""
MANIFEST = """
    module: {id: users}
    app: main:create_app
    server: {listen: 127.0.0.1:0}
    auth: {jwt: {type: jwt, secret: "${secret:KEY}"}}
    endpoints: [{path: /, auth: none}, {path: /own, auth: jwt}]
    secrets: {rotate: true, keys: [KEY], sources: [orchestrator, env, {dotenv: .env}]}
"""
ENDED = {
    ("validate",): "valid\n",
    ("config", "--json"): '{\n  "version": 1',
    ("routes",): "METHODS ",
    ("token",): "eyJ",
    ("schema",): "{\n",
    ("ps", "--json"): "[]\n",
    ("diff", "--json", "--against", "pywatt.yaml"): "[]\n",
    ("init", "new"): "wrote new/",
    ("import", "uvicorn", "main:app"): "# Imported from uvicorn",
    ("export", "systemd"): "#",
    ("explain", "type"): "type\n",
    ("completion", "bash"): "_pywatt_host_completion",
}
SERVING = {"run", "dev", "up", "logs", "send", "rotate", "stop", "reload"}


@pytest.fixture
def module(project: Project) -> Project:
    project.write("main.py", APP)
    project.write("pywatt.yaml", MANIFEST)
    project.write(".env", "KEY=a-key-of-more-than-thirty-two-bytes\n")
    return project


def test_no_verb_is_left_out() -> None:
    assert {arguments[0] for arguments in ENDED} | SERVING == set(_VERBS)


@pytest.mark.parametrize(("arguments", "begins"), ENDED.items(), ids=lambda value: value[0])
def test_a_verb_prints_and_ends(module: Project, arguments: tuple[str, ...], begins: str) -> None:
    done = module.cli_process(*arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(begins)


@pytest.mark.parametrize("verb", ["run", "dev"])
def test_a_verb_serves_until_it_is_told_to_stop(module: Project, verb: str) -> None:
    host = module.executed([sys.executable, "-m", "pywatt_host", verb])
    address = re.search(r"http://[0-9.:]+", host.wait_for(lambda line: "ready" in line and "http://" in line))
    assert address is not None
    assert host.get("/", address[0]).body == b"served"
    assert module.cli_process("reload").returncode == 1
    assert module.cli_process("stop").returncode == 0
    assert host.wait() == 0
    assert host.stdout == b""


def test_a_workspace_is_spoken_to(module: Project) -> None:
    workspace = {"gateway": {"listen": "127.0.0.1:0"}, "modules": {"users": {"manifest": "pywatt.yaml"}}}
    module.write("wattson.yaml", json.dumps({**workspace, "secrets": {"sources": [{"dotenv": ".env"}]}}))
    up = module.executed([sys.executable, "-m", "pywatt_host", "up", "--log-format", "json"])
    up.wait_for(lambda line: '"event":"ready"' in line and '"workspace"' in line)
    sent = module.cli_process("send", "users", "greet", '{"name": "Ada"}')
    assert (sent.returncode, json.loads(sent.stdout)["text"]) == (0, "hello Ada")
    assert module.cli_process("rotate", "KEY", "--json").returncode == 0
    reloaded = module.cli_process("reload")
    assert reloaded.returncode == 0, reloaded.stderr
    assert "users: generation 2 is in use" in reloaded.stdout
    assert '"module": "users"' in module.cli_process("logs", "users").stdout
    assert module.cli_process("stop").returncode == 0
    assert up.wait() == 0
