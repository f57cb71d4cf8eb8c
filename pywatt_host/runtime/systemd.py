"""Telling systemd how the service does (sd_notify(3)): ready, stopping, alive."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from asyncio import TaskGroup
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

logger = logging.getLogger("pywatt.host")


class Notifier:
    """Entered last and left first: READY=1 when everything runs, STOPPING=1 before anything stops. The watchdog is fed
    from the event loop at half its interval, so a loop that hangs is found."""

    name = "systemd"

    def __init__(self, address: str, watchdog: float | None) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._watchdog = watchdog

    @asynccontextmanager
    async def running(self, tasks: TaskGroup) -> AsyncIterator[None]:
        self._tell(f"READY=1\nMAINPID={os.getpid()}")
        feeding = tasks.create_task(self._feed(self._watchdog), name="systemd watchdog") if self._watchdog else None
        try:
            yield
        finally:
            self._tell("STOPPING=1")
            if feeding is not None:
                feeding.cancel()

    def stopping(self) -> None:
        self._tell("STOPPING=1")

    async def _feed(self, seconds: float) -> None:
        while True:
            self._tell("WATCHDOG=1")
            await asyncio.sleep(seconds / 2)

    def _tell(self, state: str) -> None:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | getattr(socket, "SOCK_CLOEXEC", 0)) as sock:
                sock.setblocking(False)
                sock.sendto(state.encode(), self._address)
        except OSError as error:
            logger.warning("cannot tell systemd %s: %s", state.partition("\n")[0], error)


def notifier(environ: Mapping[str, str]) -> Notifier | None:
    """The notifier for this process, where systemd asked for one."""
    address = environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return None
    period = environ.get("WATCHDOG_USEC", "")
    mine = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    return Notifier(address, int(period) / 1e6 if mine and period.isdigit() and int(period) > 0 else None)
