"""The start order: every service once, in the order of the phases, whatever the manifest declares."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from pywatt_host.build.parts import HostParts
from pywatt_host.build.services import services
from pywatt_host.manifest import Source, load
from pywatt_host.observability.log_stream import LogStream
from pywatt_host.runtime.phases import Phase, PhasedService

EVERYTHING: dict[str, Any] = {
    "app": "main:app",
    "auth": {"jwt": {"secret": "s" * 32}},
    "caches": {"default": "memory://"},
    "channels": {"ipc": {"listen": "peers.sock"}, "nats": {"servers": ["nats://127.0.0.1:4222"]}},
    "clients": {
        "billing": {
            "base_url": "https://billing.example",
            "token_url": "https://id.example/token",
            "client_id": "users",
            "client_secret": "s" * 16,
        }
    },
}


def of(data: dict[str, Any], folder: Path) -> list[PhasedService]:
    manifest = load(Source.of_data(data, name="test", directory=folder), environ={}).manifest
    parts = HostParts(manifest, {}, LogStream(2), handshake=None, trace=None, objects={}, init=None, explain=False)
    return services(parts)


@pytest.mark.parametrize("data", [{"app": "main:app"}, EVERYTHING], ids=["nothing declared", "everything declared"])
def test_services_are_listed_once_in_the_order_of_their_phases(data: dict[str, Any], tmp_path: Path) -> None:
    listed = of(data, tmp_path)
    assert [each.phase for each in listed] == sorted(each.phase for each in listed)
    assert len({id(each.service) for each in listed}) == len(listed)
    assert os.listdir(tmp_path) == []


def test_what_needs_secrets_starts_after_them_and_the_application_after_all_that_it_may_use(tmp_path: Path) -> None:
    names = [each.service.name for each in of(EVERYTHING, tmp_path)]
    for earlier, later in (
        ("channels", "secrets"),
        ("secrets", "channels with secret tokens"),
        ("secrets", "nats"),
        ("secrets", "auth"),
        ("secrets", "stores"),
        ("secrets", "clients"),
        ("stores", "app"),
        ("http client", "app"),
        ("app", "hooks"),
        ("hooks", "tasks"),
        ("tasks", "inbox"),
        ("inbox", "edge"),
        ("edge", "health"),
        ("health", "peers"),
    ):
        assert names.index(earlier) < names.index(later), (earlier, later)


def test_phases_of_own_sockets_start_after_the_application(tmp_path: Path) -> None:
    """The host adds them itself; nothing that `build` lists is in them."""
    own = {Phase.CONTROL, Phase.ADMIN, Phase.HTTP, Phase.SYSTEMD}
    assert own.isdisjoint(each.phase for each in of(EVERYTHING, tmp_path))
    assert min(own) > Phase.HEALTH
    assert max(Phase) is Phase.SYSTEMD
