"""The control socket of a running host: its status, its manifest, and requests to stop,
to reload, to rotate secrets and to handle messages.

It is HTTP over a Unix socket with permissions 0600, so that only the same user and root can use it. The commands `ps`,
`stop`, `reload`, `diff`, `rotate` and `send` are its clients.
"""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from pywatt_host.exceptions import BindError, HostError, MessagingError
from pywatt_host.http.problem import send_problem
from pywatt_host.net.private_folders import HINT, make_private, replaceable, unsafe
from pywatt_host.observability.masked import masked_document
from pywatt_host.types import Receive, Scope, Send

MAX_BODY = 16 * 1024**2  # bytes of a request
MESSAGE_TIMEOUT = 30.0  # seconds for the answer to a message, where the request has none
_LONGEST_TIMEOUT = 3600  # seconds that a request may ask for

NO_RELOAD = (
    "This host does not reload, because server.reload is off. Set server.reload: signal in the manifest and restart the"
    " host."
)

Mask = Callable[[str], str]
Rotate = Callable[[str], Awaitable[dict[str, Any]]]
Reload = Callable[[str], Awaitable[dict[str, Any]]]
SendMessage = Callable[[str, Mapping[str, Any], float], Awaitable[Any]]


class ControlApp:
    """The application of the control socket.

    `GET /status` answers with the result of `status()`. `POST /stop` answers 202 and calls `stop()`. `POST /rotate
    {"name"}` answers with the result of `rotate(name)`. `POST /send {"type", "content", "timeout"}` answers with the
    result of `send(type, content, timeout)` as `{"reply": ...}`, or with `{"error": {"code", "message"}}`.

    `POST /reload {"module"}` answers with the verdict, the result of `reload(module)`, once the reload has succeeded or
    failed; the module is "" where the body names none. `GET /manifest` answers with the result of `manifest()`, as
    `manifest_answer` makes it. Without `rotate`, `send` or `manifest`, their paths are 404; without `reload`, the 404
    names the key that would change that. `mask` removes secrets from each text of an answer.
    """

    def __init__(
        self,
        status: Callable[[], dict[str, Any]],
        stop: Callable[[str], None],
        rotate: Rotate | None = None,
        send: SendMessage | None = None,
        mask: Mask = lambda text: text,
        *,
        reload: Reload | None = None,
        manifest: Callable[[], dict[str, Any]] | None = None,
    ) -> None:
        self._mask = mask
        self._status = status
        self._stop = stop
        self._rotate = rotate
        self._send = send
        self._reload = reload
        self._manifest = manifest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
            return
        match scope["method"], scope["path"]:
            case "GET", "/status":
                await send_json(send, 200, masked_document(self._status(), self._mask))
            case "POST", "/stop":
                await send_json(send, 202, {"status": "stopping"})
                self._stop("asked over the control socket")
            case "POST", "/rotate" if self._rotate is not None:
                await answer_rotate(receive, send, self._rotate, self._mask)
            case "POST", "/send" if self._send is not None:
                deliver = self._send

                async def to_this_host(module: str, type: str, content: Mapping[str, Any], timeout: float) -> Any:
                    return await deliver(type, content, timeout)

                await answer_send(receive, send, to_this_host, self._mask)
            case "POST", "/reload" if self._reload is not None:
                await answer_reload(receive, send, self._reload, self._mask)
            case "POST", "/reload":
                await send_problem(send, 404, NO_RELOAD)
            case "GET", "/manifest" if self._manifest is not None:
                await send_json(send, 200, masked_document(self._manifest(), self._mask))
            case _:
                await send_problem(send, 404)


async def answer_reload(receive: Receive, send: Send, reload: Reload, mask: Mask) -> None:
    """Answer with the verdict of a reload; 409 where the reload is not possible now, 404 where there is no such
    module."""
    asked = await body_of(receive)
    module = asked.get("module", "") if asked is not None else ""
    if not isinstance(module, str):
        await send_problem(send, 400, 'The body must be {"module": string} or {}.')
        return
    try:
        verdict = await reload(module)
    except HostError as error:
        await send_problem(send, 409, mask(str(error)))
        return
    await send_json(send, 200, masked_document(verdict, mask))


async def answer_rotate(receive: Receive, send: Send, rotate: Rotate, mask: Mask) -> None:
    """Answer with the result of a rotation; 409 where it fails."""
    asked = await body_of(receive)
    name = asked.get("name") if asked is not None else None
    if not isinstance(name, str):
        await send_problem(send, 400, 'The body must be {"name": string}.')
        return
    try:
        report = await rotate(name)
    except HostError as error:
        await send_problem(send, 409, mask(str(error)))
        return
    await send_json(send, 200, masked_document(report, mask))


async def answer_send(
    receive: Receive,
    send: Send,
    deliver: Callable[[str, str, Mapping[str, Any], float], Awaitable[Any]],
    mask: Mask,
) -> None:
    """Answer with the reply to a message, or with its error."""
    asked = await body_of(receive) or {}
    module, type, content = asked.get("module", ""), asked.get("type"), asked.get("content", {})
    timeout = asked.get("timeout", MESSAGE_TIMEOUT)
    if (
        not isinstance(type, str)
        or not isinstance(module, str)
        or not isinstance(content, dict)
        or isinstance(timeout, bool)
        or not isinstance(timeout, int | float)
        or not 0 < timeout <= _LONGEST_TIMEOUT
    ):
        await send_problem(send, 400, 'The body must be {"module", "type", "content": {...}, "timeout": seconds}.')
        return
    try:
        reply = await deliver(module, type, content, timeout)
    except MessagingError as error:
        await send_json(send, 200, {"error": {"code": mask(error.code), "message": mask(error.message)}})
        return
    await send_json(send, 200, {"reply": masked_document(reply, mask)})


async def body_of(receive: Receive) -> dict[str, Any] | None:
    """The request's JSON object; None where its body is something else."""
    pieces: list[bytes] = []
    length = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        pieces.append(message.get("body", b""))
        length += len(pieces[-1])
        if length > MAX_BODY:
            return None
        if not message.get("more_body", False):
            break
    try:
        document = json.loads(b"".join(pieces))
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


async def send_json(send: Send, status: int, document: Any) -> None:
    body = json.dumps(document).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def control_folders(directory: Path, environ: Mapping[str, str]) -> list[Path]:
    """The folders of control sockets: $XDG_RUNTIME_DIR/pywatt where that variable is set, else .pywatt beside the
    manifest."""
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    return [Path(runtime) / "pywatt"] if runtime and Path(runtime).is_dir() else [directory / ".pywatt"]


def control_path(
    setting: str, module_id: str, directory: Path, environ: Mapping[str, str], key: str = "server.control"
) -> Path | None:
    """The path of this process's control socket; None where `setting` is off. For `auto` it makes the private folder.

    `key` is the manifest key for errors. Raises BindError where other users may change what is in the folder, and
    OSError where it cannot be made.
    """
    if setting == "off":
        return None
    if setting == "auto":
        folder = control_folders(directory, environ)[0]
        reason, path = make_private(folder), folder / f"{module_id}-{os.getpid()}.sock"
    else:
        path = directory / setting
        folder = path.parent
        if not folder.is_dir():
            return path  # binding says so
        reason = unsafe(folder) if folder == directory / ".pywatt" else replaceable(folder)
    if reason:
        raise BindError(f"unix:{path}", key, f"the folder {folder} is not private: {reason}", HINT)
    return path
