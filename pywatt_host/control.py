"""The private control socket of a running host: who it is, how it does, and a way to stop it.

HTTP over a Unix socket with permissions 0600, so that only the same user and root can speak to it. `pywatt-host ps`
and `pywatt-host stop` are its clients.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pywatt_host.http.problem import send_problem
from pywatt_host.types import Receive, Scope, Send


class ControlApp:
    """`GET /status` answers with `status()`; `POST /stop` calls `stop()` and answers 202."""

    def __init__(self, status: Callable[[], dict[str, Any]], stop: Callable[[str], None]) -> None:
        self._status = status
        self._stop = stop

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
            return
        match scope["method"], scope["path"]:
            case "GET", "/status":
                await _send_json(send, 200, self._status())
            case "POST", "/stop":
                await _send_json(send, 202, {"status": "stopping"})
                self._stop("asked over the control socket")
            case _:
                await send_problem(send, 404)


async def _send_json(send: Send, status: int, document: dict[str, Any]) -> None:
    body = json.dumps(document).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def control_folders(directory: Path, environ: Mapping[str, str]) -> list[Path]:
    """Where control sockets are: $XDG_RUNTIME_DIR/pywatt where it is set, else .pywatt beside the manifest."""
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    return [Path(runtime) / "pywatt"] if runtime and Path(runtime).is_dir() else [directory / ".pywatt"]


def control_path(setting: str, module_id: str, directory: Path, environ: Mapping[str, str]) -> Path | None:
    """Where this process's control socket goes; None where it is off. Makes the private folder for `auto`.

    Raises OSError where the folder cannot be made.
    """
    if setting == "off":
        return None
    if setting != "auto":
        return directory / setting
    folder = control_folders(directory, environ)[0]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder / f"{module_id}-{os.getpid()}.sock"
