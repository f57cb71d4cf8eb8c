"""An orchestrator that does what a test says: the real protocol over real pipes to a real process."""

from __future__ import annotations

import json
import queue
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.processes import PATIENCE, Host, environment

Document = dict[str, Any]


class Orchestrated(Host):
    """A module under it. `init` is sent at once; what the module says is a queue of documents."""

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        init: Mapping[str, Any] | None = None,
        env: Mapping[str, str] | None = None,
        greet: bool = True,
    ) -> None:
        command = [sys.executable, "-m", "pywatt_host", "run", "--orchestrated", "--log-format", "json", *arguments]
        super().__init__(command, folder, environment(folder, **(env or {})), pipes=True)
        self.raw: list[bytes] = []
        self._said: queue.Queue[Document | None] = queue.Queue()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        if greet:
            usual = {
                "orchestrator_api": "http://127.0.0.1:9900",
                "module_id": "users",
                "env": {},
                "listen": "127.0.0.1:0",
            }
            self.say(**{**usual, **(init or {})})

    def _listen(self) -> None:
        assert self.child.stdout is not None
        for line in self.child.stdout:
            self.raw.append(line)
            self._said.put(json.loads(line))
        self._said.put(None)

    def say(self, **document: Any) -> None:
        """One line to the module."""
        self.write(json.dumps(document).encode() + b"\n")

    def write(self, octets: bytes) -> None:
        assert self.child.stdin is not None
        self.child.stdin.write(octets)
        self.child.stdin.flush()

    def hear(self, op: str) -> Document:
        """The next thing it says, which has to be this."""
        document = self._said.get(timeout=PATIENCE)
        assert document is not None, "it has closed its standard output; it logged:\n" + "\n".join(self.lines)
        assert document.get("op") == op, document
        return document

    def silent(self) -> bool:
        """Whether it has said nothing more so far."""
        return self._said.empty()

    def leave(self) -> None:
        """Close its standard input without a word."""
        assert self.child.stdin is not None
        self.child.stdin.close()

    def give(self, **secrets: str) -> None:
        """Answer that many questions for secrets, in whatever order they come."""
        for _ in secrets:
            name = self.hear("get_secret")["name"]
            self.say(op="secret", name=name, value=secrets[name])

    def http(
        self, method: str, uri: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """A unary request and its answer."""
        numbers = None if body is None else list(body)
        self.say(op="http_request", request_id="r", method=method, uri=uri, headers=headers, body=numbers)
        answer = self.hear("http_response")
        return answer["status_code"], answer["headers"], bytes(answer["body"] or [])

    def message(self, content: Any, source: str = "billing", request_id: str = "5b1c") -> Any:
        """Deliver a message of another module; gives the reply."""
        data = list(content if isinstance(content, bytes) else json.dumps(content).encode())
        payload = {"data": data, "format": "Json"}
        self.say(op="routed_module_message", source_module_id=source, original_request_id=request_id, payload=payload)
        answer = self.hear("route_to_module")
        assert (answer["target_module_id"], answer["request_id"]) == (source, request_id)
        return json.loads(bytes(answer["payload"]["data"]))

    def end(self) -> None:
        super().end()
        self._listener.join(PATIENCE)
        for pipe in (self.child.stdin, self.child.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    pass
