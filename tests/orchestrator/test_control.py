"""The control socket of `up`: no text that it answers with has a secret in it."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from pywatt_host.exceptions import SecretError
from pywatt_host.orchestrator.control import WorkspaceControl
from pywatt_host.protocol.messages import Provider, RoutedResponse
from pywatt_host.protocol.payload import Payload
from pywatt_host.secrets import Masker
from tests.hosting import Call, http_scope, run

SECRET = "Zq1xWv9\"k'\n/Jp7Lm3"
TEXT = json.dumps({"url": SECRET})


class Router:
    """Answers each message with this content."""

    def __init__(self, content: Any) -> None:
        self._content = content

    def ask(self, source: str, target: str, request_id: str, content: Any, timeout: float, sender: Any) -> None:
        sender.send(RoutedResponse(target, request_id, Payload.of(self._content)))


def control(content: Any) -> WorkspaceControl:
    masker = Masker()
    masker.add("KEY", SECRET)

    async def rotate(names: Any, why: str) -> dict[str, Any]:
        if names == ["REFUSED"]:
            raise SecretError(TEXT)
        return {"acknowledged": {"users": f"error: {TEXT}"}}

    async def reload(module: str) -> dict[str, Any]:
        return {"ok": False, "modules": {module: {"reason": TEXT}}}

    provider = Provider("1", "users", "api", "users-api", None, TEXT, {"a": TEXT}, True)
    wattson: Any = SimpleNamespace(
        status=lambda: {"modules": [{"why": TEXT}]},
        output=SimpleNamespace(mask=masker.mask),
        registry=SimpleNamespace(all=lambda: [provider]),
        rotations=SimpleNamespace(rotate=rotate),
        reload=reload,
        router=Router(content),
        modules={"users": None},
    )
    return WorkspaceControl(wattson)


@pytest.mark.parametrize(
    ("method", "path", "body", "content"),
    [
        ("GET", "/status", None, None),
        ("GET", "/modules", None, None),
        ("POST", "/rotate", {"name": "KEY"}, None),
        ("POST", "/rotate", {"name": "REFUSED"}, None),
        ("POST", "/reload", {"module": "users"}, None),
        ("POST", "/send", {"module": "users", "type": "it"}, {"reply": [TEXT]}),
        ("POST", "/send", {"module": "users", "type": "it"}, {"type": "error", "code": "a", "message": TEXT}),
    ],
)
def test_no_answer_has_a_secret_in_it(method: str, path: str, body: Any, content: Any) -> None:
    async def main() -> None:
        call = Call(control(content), http_scope(method, path), [json.dumps(body).encode()])
        told = (await call.answer()).body.decode()
        assert "***" in told
        assert "Zq1xWv9" not in told
        assert "Jp7Lm3" not in told

    run(main)
