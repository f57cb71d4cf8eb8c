"""What is listened on: client certificates, permission bits, and sockets that others have left."""

from __future__ import annotations

import asyncio
import socket
import ssl
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from pywatt_host.exceptions import BindError
from tests.channels.places import Certificates, Link, Main, Place, beats, good, listening

Run = Callable[[Main], None]


def test_a_client_of_another_authority_or_none_is_not_let_in(
    run: Run, folder: Path, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    place = Place("mtls", folder, certificates)

    async def beat_over(context: ssl.SSLContext | None) -> None:
        link = Link(*await asyncio.open_connection("127.0.0.1", place.port, ssl=context))
        link.say("identify", module_id="x")
        await beats(link)

    async def main() -> None:
        peers = listening(place.door(), timeout=2.0)
        async with asyncio.TaskGroup() as tasks, peers.running(tasks):
            for context in (certificates.client(own=False), None):
                with pytest.raises((OSError, asyncio.IncompleteReadError)):
                    await beat_over(context)
            with pytest.raises(OSError, match=r"(?i)verif"):
                await asyncio.open_connection(
                    "127.0.0.1", place.port, ssl=certificates.client(own=True, ca="other.pem")
                )
            await good(place)
            assert peers.peers == 1

    run(main)
    place.leave()
    assert not any(each.exc_info for each in caplog.records)


def test_a_socket_has_the_mode_that_was_asked_for_and_takes_the_place_of_a_stale_one(run: Run, folder: Path) -> None:
    place = Place("ipc", folder, None)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(place.path))

    async def main() -> None:
        for mode in (0o600, 0o660):
            peers = listening(place.door(mode=mode))
            async with asyncio.TaskGroup() as tasks, peers.running(tasks):
                assert stat.S_IMODE(place.path.stat().st_mode) == mode
                await good(place)
                with pytest.raises(BindError, match="in use"):
                    place.door()
                await good(place)
            assert not place.path.exists()
        place.path.write_text("mine")
        with pytest.raises(BindError, match="the path exists and is not a socket"):
            place.door()
        assert place.path.read_text() == "mine"

    run(main)
