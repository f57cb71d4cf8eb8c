"""What editors make of the published schema: the real yaml-language-server, over its protocol.

It is installed from npm once, outside of the repository. Without Node or npm the tests are skipped.
"""

from __future__ import annotations

import json
import queue
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from tests.manifest.schema.npm import installed, node
from tests.processes import ROOT

pytestmark = pytest.mark.slow

SCHEMA = ROOT / "schemas" / "pywatt.schema.json"
WORKSPACE = ROOT / "schemas" / "wattson.schema.json"


class Editor:
    """One language server and what it said."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._stdin: IO[bytes] = process.stdin
        self._messages: queue.Queue[dict[str, Any]] = queue.Queue()
        self._number = 0
        self._opened = 0
        threading.Thread(target=self._read, args=(process.stdout,), daemon=True).start()

    def _read(self, stream: IO[bytes]) -> None:
        while header := stream.readline():
            if not header.lower().startswith(b"content-length:"):
                continue
            while stream.readline().strip():
                pass
            self._messages.put(json.loads(stream.read(int(header.split(b":")[1]))))

    def _send(self, message: dict[str, Any]) -> None:
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        self._stdin.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        self._stdin.flush()

    def notify(self, method: str, params: dict[str, Any]) -> None:
        self._send({"method": method, "params": params})

    def request(self, method: str, params: dict[str, Any]) -> Any:
        self._number += 1
        self._send({"id": self._number, "method": method, "params": params})
        return self._until(lambda message: message.get("id") == self._number and "method" not in message)["result"]

    def _until(self, wanted: Any) -> dict[str, Any]:
        while True:
            message = self._messages.get(timeout=30)
            if wanted(message):
                return message
            if "id" in message and "method" in message:  # the server asks for settings; it gets none
                items = message["params"].get("items", []) if isinstance(message.get("params"), dict) else []
                self._send({"id": message["id"], "result": [None] * len(items) or None})

    def open(self, text: str, schema: str = "") -> tuple[str, list[dict[str, Any]]]:
        """The document's address and what is complained about in it. `schema` is its address."""
        self._opened += 1
        uri = f"file:///project/{self._opened}/pywatt.yaml"
        document = {
            "uri": uri,
            "languageId": "yaml",
            "version": 1,
            "text": f"# yaml-language-server: $schema={schema or SCHEMA.as_uri()}\n{text}",
        }
        self.notify("textDocument/didOpen", {"textDocument": document})
        said = self._until(
            lambda message: (
                message.get("method") == "textDocument/publishDiagnostics" and message["params"]["uri"] == uri
            )
        )
        return uri, said["params"]["diagnostics"]

    def complete(self, text: str, line: int, character: int, schema: str = "") -> set[str]:
        uri, _ = self.open(text, schema)
        place = {"textDocument": {"uri": uri}, "position": {"line": line, "character": character}}
        found = self.request("textDocument/completion", place)
        return {item["label"] for item in (found["items"] if isinstance(found, dict) else found or [])}

    def hover(self, text: str, line: int, character: int) -> str:
        uri, _ = self.open(text)
        place = {"textDocument": {"uri": uri}, "position": {"line": line, "character": character}}
        found = self.request("textDocument/hover", place)
        return str(found["contents"]["value"]) if found else ""


@pytest.fixture(scope="module")
def editor() -> Iterator[Editor]:
    script = installed("yaml-language-server") / "yaml-language-server" / "bin" / "yaml-language-server"
    command = [node(), str(script), "--stdio"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        client = Editor(process)
        try:
            capabilities = {
                "textDocument": {"hover": {"contentFormat": ["markdown"]}, "completion": {"completionItem": {}}}
            }
            client.request("initialize", {"processId": None, "rootUri": None, "capabilities": capabilities})
            client.notify("initialized", {})
            yield client
        finally:
            process.kill()


def test_a_good_manifest_has_no_complaints(editor: Editor) -> None:
    text = """app: main:app
server: {listen: [':80', {unix: a.sock, mode: "0660"}], limits: {concurrency: "${N}"}}
mounts: [{route_prefix: /s, directory: ., cache: 1h}, {route_prefix: /b, import_path: b:app}]
endpoints: [{path: "/u/{id}", methods: GET, timeout: off}]
health: false
x-own: 1
profiles: {dev: {app: {threads: 2}, metrics: true}}
"""
    assert editor.open(text)[1] == []


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("app: main:app\nserver:\n  lissten: :80\n", 3),
        ("app: main:app\nserver:\n  limits:\n    concurrency: a lot\n", 4),
        ("app: main:app\nserver:\n  timeouts:\n    header: 10\n", 4),
        ("app: main:app\nendpoints:\n  - path: /a\n    methods: [get]\n", 4),
        ("app: main:app\nendpoints:\n  - path: /a\n  - path: users\n", 4),
        ("app: main:app\nmounts:\n  - route_prefix: /s\n    directory: .\n    threads: 4\n", 5),
        ("app: main:app\nlogging:\n  level: loud\n", 3),
        ("app: main:app\nhealth:\n  interval: soon\n", 3),
        ("app: main:app\nprofiles:\n  dev:\n    loging: {level: debug}\n", 4),
    ],
)
def test_a_fault_is_underlined_at_its_line(editor: Editor, text: str, line: int) -> None:
    _, complaints = editor.open(text)
    # One line of the document is the schema's.
    assert {complaint["range"]["start"]["line"] for complaint in complaints} == {line}


def test_keys_are_completed(editor: Editor) -> None:
    assert {"app", "mounts", "server", "endpoints", "health", "metrics", "logging", "profiles"} <= editor.complete(
        "\n", 1, 0
    )
    assert {"listen", "limits", "timeouts", "cors"} <= editor.complete("app: main:app\nserver:\n  \n", 3, 2)
    assert {"path", "methods", "rate_limit"} <= editor.complete("app: main:app\nendpoints:\n  - \n", 3, 4)
    assert {"import_path", "directory", "route_prefix"} <= editor.complete("app: main:app\nmounts:\n  - \n", 3, 4)


def test_values_are_completed(editor: Editor) -> None:
    found = editor.complete("app: main:app\nlogging:\n  level: \n", 3, 9)
    assert {"debug", "info", "warning", "error", "critical"} <= found
    assert "null" not in editor.complete("app: main:app\nserver:\n  cors: \n", 3, 8)


@pytest.mark.parametrize(
    ("text", "line", "character", "said"),
    [
        ("app: main:app\nserver:\n  listen: ':80'\n", 3, 4, "Where to listen"),
        ("app: main:app\nserver:\n  timeouts: {keep_alive: 5s}\n", 3, 14, "idle connection"),
        ("app: main:app\nserver:\n  timeouts: {keep_alive: 5s}\n", 3, 14, "Default: 5s"),
        ("app: main:app\nendpoints:\n  - path: /a\n    rate_limit: 1/s\n", 4, 6, "requests per unit of time"),
    ],
)
def test_keys_are_explained(editor: Editor, text: str, line: int, character: int, said: str) -> None:
    assert said in editor.hover(text, line, character)


# What is typed last, and the keys that are suggested there.
KINDS = [
    ("auth:\n  jwt:\n    ", {"secret", "issuer", "type", "leeway"}, {"users", "keys", "header", "subjects"}),
    (
        "auth:\n  staff:\n    type: basic\n    ",
        {"users", "realm", "previous"},
        {"secret", "keys", "issuer", "subjects"},
    ),
    ("auth:\n  staff:\n    type: mtls\n    ", {"subjects", "realm"}, {"secret", "users", "previous"}),
    ("auth:\n  jwt:\n    type: api_key\n    ", {"keys", "header"}, {"secret", "users"}),
    ("mounts:\n  - directory: static\n    ", {"route_prefix", "cache", "html"}, {"threads", "factory"}),
    ("mounts:\n  - import_path: a:b\n    ", {"route_prefix", "threads", "factory"}, {"cache", "html"}),
    ("caches:\n  default:\n    url: redis://h\n    ", {"ttl", "optional"}, {"max_entries", "max_bytes"}),
    ("caches:\n  default:\n    url: memory://\n    ", {"ttl", "max_entries", "max_bytes"}, set()),
    ("channels:\n  tcp:\n    connect: h:1\n    ", {"token", "tls"}, {"listen"}),
    ("channels:\n  nats:\n    servers: nats://h\n    token: x\n    ", {"tls", "prefix"}, {"user", "password"}),
    ("services:\n  static:\n    - type: database\n      ", {"name", "address"}, {"token", "tls"}),
    ("services:\n  static:\n    - type: module\n      ", {"name", "address", "token", "tls"}, set()),
    ("clients:\n  a:\n    issuer: https://a\n    ", {"base_url", "client_id"}, {"token_url"}),
    ("secrets:\n  sources:\n    - dotenv: .env\n      ", set(), {"file", "vault", "kind", "directory"}),
]


@pytest.mark.parametrize(("text", "offered", "others"), KINDS, ids=[text for text, _, _ in KINDS])
def test_only_the_keys_of_the_kind_are_completed(
    editor: Editor, text: str, offered: set[str], others: set[str]
) -> None:
    lines = f"app: main:app\n{text}".split("\n")
    found = editor.complete("\n".join(lines), len(lines), len(lines[-1]))
    assert offered - found == set()
    assert others & found == set()


def test_modules_of_a_workspace_are_completed_by_kind(editor: Editor) -> None:
    text = "modules:\n  legacy:\n    command: [./legacy]\n    "
    found = editor.complete(text, 4, 4, WORKSPACE.as_uri())
    assert {"working_dir", "env", "restart"} <= found
    assert {"manifest", "profile"} & found == set()


def test_words_and_bools_are_completed(editor: Editor) -> None:
    assert {"30s", '"off"'} <= editor.complete("app: m:a\nserver:\n  timeouts:\n    request: ", 4, 13)
    assert {"true", "false"} <= editor.complete("app: m:a\nlogging:\n  access: ", 3, 10)
    assert {"jwt", "oidc", "api_key", "basic", "mtls"} <= editor.complete("app: m:a\nauth:\n  a:\n    type: ", 4, 10)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("server: {timeouts: {request: 10}}", ('"30s"', '"off"', "a duration such as 30s, or off")),
        ("server: {timeouts: {header: ten}}", ('"5s"', "a duration such as 5s")),
        ("server: {limits: {body: 10MB}}", ("a size such as 100MiB, or off",)),
        ("server: {workers: many}", ("a number of workers such as 4, or auto",)),
        ("server: {listen: 80}", ("an address to listen on such as 127.0.0.1:8080",)),
        ("endpoints: [{path: users}]", ("a path template such as /api/users/{id}",)),
        ("logging: {level: loud}", ('"debug", "info", "warning", "error", "critical"',)),
        ("server: {limits: {concurrency: many}}", ('Expected "integer"',)),
        ("auth: {jwt: {users: x}}", ("Property users is not allowed", "auth scheme (jwt)")),
    ],
)
def test_a_fault_names_what_is_expected(editor: Editor, text: str, said: tuple[str, ...]) -> None:
    _, complaints = editor.open(f"app: main:app\n{text}\n")
    shown = " | ".join(f"{each['message']} {each['source']}" for each in complaints)
    assert [word for word in said if word not in shown] == []
    assert "pattern" not in shown


def test_a_schema_around_ours_brings_the_keys_of_config(editor: Editor, tmp_path: Path) -> None:
    """As docs/manifest/config.md has it."""
    (tmp_path / "pywatt.schema.json").write_text(SCHEMA.read_text())
    own = {"type": "object", "properties": {"page_size": {"type": "integer"}}, "additionalProperties": False}
    (tmp_path / "config.schema.json").write_text(json.dumps(own))
    around = tmp_path / "pywatt.local.json"
    both = {"allOf": [{"$ref": "pywatt.schema.json"}], "properties": {"config": {"$ref": "config.schema.json"}}}
    around.write_text(json.dumps(both))
    assert "page_size" in editor.complete("app: m:a\nconfig:\n  ", 3, 2, around.as_uri())
    _, complaints = editor.open("app: m:a\nconfig:\n  page_sise: 5\nsever: {}\n", around.as_uri())
    assert {complaint["range"]["start"]["line"] for complaint in complaints} == {3, 4}
