"""Where the package may catch everything, print, or end the process: named places only, and all of them listed here."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pywatt_host

HOME = Path(pywatt_host.__file__).parent

# Handlers that catch everything and go on: the user's code, the stop path, and libraries that read hostile input. Each
# says so beside it.
NAMED = {
    "auth/jwt.py": 1,
    "build/edge.py": 1,
    "nats/messages.py": 3,
    "nats/jetstream.py": 4,
    "nats/registry.py": 2,
    "messaging/handlers.py": 1,
    "app/hooks.py": 2,
    "runtime/lifecycle.py": 1,
    "http/edge.py": 2,
    "observability/health.py": 1,
    "messaging/inbox.py": 1,
    "app/introspection/arguments.py": 1,
    "app/introspection/table.py": 1,
    "observability/logs.py": 1,
    "decorator/module.py": 1,
    "secrets/rotation.py": 1,
    "app/tasks.py": 1,
    "messaging/subscriptions.py": 1,
    "testing/modules.py": 1,
    "testing/running.py": 1,
    "messaging/http_requests.py": 1,
    "app/user_state.py": 1,
    "wsgi/threads.py": 1,
}


def sources() -> Iterator[tuple[str, list[str], ast.Module]]:
    for path in sorted(HOME.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        yield path.relative_to(HOME).as_posix(), text.splitlines(), ast.parse(text)


def is_broad(handler: ast.ExceptHandler) -> bool:
    caught = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(
        each is None or (isinstance(each, ast.Name) and each.id in ("Exception", "BaseException")) for each in caught
    )


def test_everything_is_caught_at_named_boundaries_only() -> None:
    found: Counter[str] = Counter()
    passed_on = {"wsgi/exchange.py"}  # what the thread caught is raised again where the request is awaited
    for name, lines, tree in sources():
        for node in ast.walk(tree):
            if not isinstance(node, ast.ExceptHandler) or not is_broad(node) or name in passed_on:
                continue
            if not isinstance(node.body[-1], ast.Raise) or "named boundary" in lines[node.lineno - 1]:
                assert "named boundary" in lines[node.lineno - 1], f"{name}:{node.lineno}"
                found[name] += 1
    assert dict(found) == NAMED


def test_only_the_command_line_prints_and_only_named_places_end_the_process() -> None:
    printing, ending = set(), set()
    for name, _, tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                if called == "print":
                    printing.add(name)
                if called in ("sys.exit", "exit", "quit", "os._exit"):
                    ending.add(name)
    # The schema's own command is a program of its own.
    assert {name for name in printing if not name.startswith("cli/")} == {"manifest/schema/json_schema.py"}
    assert {name for name in ending if not name.startswith("cli/")} == {"runtime/shutdown.py"}
