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
    "auth/mtls.py": 1,
    "build/health_path.py": 1,
    "nats/messages.py": 3,
    "nats/jetstream.py": 4,
    "nats/registry.py": 2,
    "messaging/handlers.py": 1,
    "app/hooks.py": 2,
    "net/tls_material.py": 2,
    "runtime/lifecycle.py": 1,
    "http/edge.py": 2,
    "http/host_answers.py": 1,
    "http/server/exchange.py": 1,
    "http/server/websocket.py": 1,
    "observability/health.py": 1,
    "messaging/inbox.py": 1,
    "app/introspection/arguments.py": 1,
    "app/introspection/table.py": 1,
    "cli/inspection/serving.py": 1,
    "observability/logs.py": 1,
    "observability/span_export.py": 1,
    "observability/span_sender.py": 1,
    "decorator/module.py": 1,
    "secrets/rotation.py": 1,
    "app/tasks.py": 1,
    "messaging/subscriptions.py": 1,
    "testing/modules.py": 1,
    "testing/running.py": 1,
    "messaging/http_requests.py": 1,
    "app/user_state.py": 1,
    "wsgi/threads.py": 1,
    "workers/reloading.py": 1,
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
    passed_on = {
        "wsgi/exchange.py",
        "supervision/reading.py",
    }  # what the thread caught is raised again where it is awaited
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
    assert {name for name in ending if not name.startswith("cli/")} == {"runtime/shutdown.py", "workers/zygote.py"}


def imports(name: str, tree: ast.Module, files: set[str]) -> Iterator[str]:
    """The files that a file imports: within functions, for annotations and by name (`import_module`) as well. The
    package itself is left out, which every file imports."""
    folders = {  # of data files, which are read and not imported
        argument
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "files"
        for argument in call.args
    }
    for node in ast.walk(tree):
        modules: list[str] = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in folders:
            modules = [node.value]
        for module in modules:
            if module.startswith("pywatt_host."):
                yield from {found for found in [file_of(module, files)] if found not in (None, name)}


def file_of(module: str, files: set[str]) -> str | None:
    """The file of a module, or of the module that has this name in it."""
    parts = module.split(".")[1:]
    while parts:
        path = "/".join(parts)
        for file in (f"{path}.py", f"{path}/__init__.py"):
            if file in files:
                return file
        parts.pop()
    return None


def circles(arrows: dict[str, set[str]]) -> list[set[str]]:
    """Files that lead to each other: strongly connected components of more than one file (Tarjan)."""
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    path: list[str] = []
    found: list[set[str]] = []

    def visit(name: str) -> None:
        number[name] = lowest[name] = len(number)
        path.append(name)
        for other in sorted(arrows.get(name, ())):
            if other not in number:
                visit(other)
                lowest[name] = min(lowest[name], lowest[other])
            elif other in path:
                lowest[name] = min(lowest[name], number[other])
        if lowest[name] == number[name]:
            at = path.index(name)
            component = set(path[at:])
            del path[at:]
            if len(component) > 1:
                found.append(component)

    for name in arrows:
        if name not in number:
            visit(name)
    return found


def test_no_files_import_each_other_in_a_circle() -> None:
    trees = {name: tree for name, _, tree in sources()}
    arrows = {name: set(imports(name, tree, set(trees))) for name, tree in trees.items()}
    assert [sorted(circle) for circle in circles(arrows)] == []


def test_a_circle_of_files_is_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set()}) == [{"a", "b", "c"}]
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
