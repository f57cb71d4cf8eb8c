"""A conversation written down: readable by its owner only, and without a word that is secret."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from pywatt_host.channels.trace import TraceFile
from pywatt_host.protocol.codec import EnvelopeFrames, frame, line
from pywatt_host.protocol.messages import (
    HttpRequest,
    HttpResponse,
    Identify,
    Init,
    Message,
    RoutedMessage,
    SecretValue,
)
from pywatt_host.protocol.payload import Payload
from pywatt_host.secrets import Masker


class Traced:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.masker = Masker()
        self.file = TraceFile(path, self.masker.mask)

    def note(self, unit: bytes, channel: str = "stdio", direction: str = "in") -> Any:
        """The message as the trace shows it."""
        self.file(channel, "wattson", direction, unit)
        return self.lines()[-1]["message"]

    def message(self, message: Message) -> Any:
        return self.note(line(message, frozenset({"inline_payload"})))

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(each) for each in self.path.read_text().splitlines()]


@pytest.fixture
def traced(tmp_path: Path) -> Iterator[Traced]:
    traced = Traced(tmp_path / "trace")
    yield traced
    traced.file.close()


def test_what_is_secret_by_its_place_is_never_shown(traced: Traced) -> None:
    hidden = "hush-hush-hush"
    headers = {"Authorization": f"Bearer {hidden}", "COOKIE": hidden, "X-Api-Key": hidden, "Accept": "*/*"}
    shown = [
        traced.message(Identify("users", hidden)),
        traced.message(SecretValue("A", hidden)),
        traced.note(orjson.dumps({"content": {"op": "secret", "name": "A", "value": hidden}})),
        traced.message(Init("", "users", {"DATABASE_URL": hidden}, auth_token=hidden)),
        traced.message(HttpRequest("1", "GET", "/", headers, hidden.encode())),
        traced.message(HttpResponse("1", 200, {"set-cookie": hidden}, hidden.encode())),
        traced.message(RoutedMessage("b", "1", Payload(hidden.encode(), "Binary"))),
        traced.note(hidden.encode()),
    ]
    assert hidden not in traced.path.read_text()
    assert shown[0] == {"op": "identify", "module_id": "users", "auth_token": "***"}
    assert shown[2]["content"] == {"op": "secret", "name": "A", "value": "***"}
    assert shown[3]["env"] == {"DATABASE_URL": "***"}
    assert shown[4]["headers"] == {"Authorization": "***", "COOKIE": "***", "X-Api-Key": "***", "Accept": "*/*"}
    assert shown[4]["body"] == shown[5]["body"] == f"<{len(hidden)} bytes>"
    assert shown[6]["payload"]["data"] == f"<{len(hidden)} bytes>"
    assert shown[7]["bytes"] == len(hidden)
    assert "not valid JSON" in shown[7]["fault"]


def test_a_known_secret_is_masked_wherever_it_stands(traced: Traced) -> None:
    traced.masker.add("A", "correct-horse")
    document = {"op": "x", "correct-horse": ["a correct-horse b", {"y": "correct-horse"}], "value": 1}
    assert traced.note(orjson.dumps(document)) == {"op": "x", "***": ["a *** b", {"y": "***"}], "value": 1}
    message = traced.message(RoutedMessage("b", "1", Payload.of({"type": "t", "password": "correct-horse"})))
    assert message["payload"] == {"json": {"type": "t", "password": "***"}}


@pytest.mark.parametrize("encode", [frame, EnvelopeFrames()], ids=["bare", "enveloped"])
def test_frames_that_go_out_are_shown_without_their_header(traced: Traced, encode: Any) -> None:
    shown = traced.note(encode(Identify("users", "hush-hush"), frozenset()), "ipc", "out")
    assert shown.get("content", shown) == {"op": "identify", "module_id": "users", "auth_token": "***"}
    (entry,) = traced.lines()
    assert (entry["channel"], entry["peer"], entry["direction"]) == ("ipc", "wattson", "out")


def test_only_its_owner_can_read_it_also_where_it_was_there_before(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_text('{"kept": true}\n')
    path.chmod(0o644)
    before = os.umask(0)
    try:
        for each in (path, tmp_path / "new"):
            traced = Traced(each)
            traced.note(b"{}")
            traced.file.close()
            assert stat.S_IMODE(each.stat().st_mode) == 0o600
    finally:
        os.umask(before)
    assert len(path.read_text().splitlines()) == 2
    with pytest.raises(OSError):
        TraceFile(tmp_path / "none" / "trace", str)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")
def test_a_full_disk_ends_the_trace_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fchmod", lambda fd, mode: None)  # a device is nobody's to change
    trace = TraceFile(Path("/dev/full"), str)
    for _ in range(3):
        trace("stdio", "wattson", "in", b"{}")
        assert trace.lost
    trace.close()
