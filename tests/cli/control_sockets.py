"""Hosts that are control sockets alone: each gives the answers that a test wants, and keeps what it was asked."""

from __future__ import annotations

import json
import os
import socketserver
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

# Status and document, or a function that gives them; None closes the connection without an answer.
Answer = tuple[int, Any] | Callable[[], tuple[int, Any]] | None


def status(id: str, pid: int, **more: Any) -> dict[str, Any]:
    return {"module": {"id": id, "version": "1"}, "pid": pid, "status": "healthy", "started": 0.0, "listen": [], **more}


@contextmanager
def control_socket(path: Path, answers: Mapping[str, Answer]) -> Iterator[list[tuple[str, Any]]]:
    """Answer requests, such as `POST /reload`, at a Unix socket. Gives the requests with their documents."""
    asked: list[tuple[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            name = f"{self.command} {self.path}"
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if name != "GET /status":
                asked.append((name, json.loads(body) if body else None))
            answer = answers.get(name, (404, {"title": "Not Found"}))
            if answer is None:
                self.close_connection = True
                return
            code, document = answer() if callable(answer) else answer
            content = document if isinstance(document, bytes) else json.dumps(document).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = _answer  # noqa: N815  # the names that http.server looks for

        def address_string(self) -> str:
            return "control"

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    path.parent.mkdir(parents=True, exist_ok=True)
    with socketserver.ThreadingUnixStreamServer(os.fspath(path), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield asked
        finally:
            server.shutdown()
            thread.join()
