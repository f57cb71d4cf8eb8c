"""Notifications to systemd (sd_notify(3)): ready, reloading, stopping, alive."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from asyncio import TaskGroup
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

logger = logging.getLogger("pywatt.host")


class Notifier:
    """The service that starts last and stops first: it sends READY=1 when everything runs, and STOPPING=1 before
    anything stops. `watchdog` is the interval in seconds; the event loop sends WATCHDOG=1 twice in it, so that systemd
    notices an event loop that hangs."""

    name = "systemd"

    def __init__(self, address: str, watchdog: float | None) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._watchdog = watchdog

    @asynccontextmanager
    async def running(self, tasks: TaskGroup) -> AsyncIterator[None]:
        self.ready()
        keeping_alive = (
            tasks.create_task(self._keep_alive(self._watchdog), name="systemd watchdog") if self._watchdog else None
        )
        try:
            yield
        finally:
            self._tell("STOPPING=1")
            if keeping_alive is not None:
                keeping_alive.cancel()

    def ready(self, status: str = "") -> None:
        """Say that the host serves, at its start and after each reload, whether it succeeded or not. `systemctl status`
        shows `status`, which is one line."""
        shown = f"\nSTATUS={' '.join(status.split())}" if status else ""
        self._tell(f"READY=1\nMAINPID={os.getpid()}{shown}")

    def reloading(self) -> None:
        """Say that a reload begins. `systemctl reload` waits for `ready` from then on, which must follow."""
        microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={microseconds}")

    def stopping(self) -> None:
        """Say that the host drains, before any service stops."""
        self._tell("STOPPING=1")

    async def _keep_alive(self, seconds: float) -> None:
        while True:
            self._tell("WATCHDOG=1")
            await asyncio.sleep(seconds / 2)

    def _tell(self, state: str) -> None:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | getattr(socket, "SOCK_CLOEXEC", 0)) as sock:
                sock.setblocking(False)
                sock.sendto(state.encode(), self._address)
        except OSError as error:
            logger.warning("systemd was not told %s: %s", state.partition("\n")[0], error)


def notifier(environ: Mapping[str, str]) -> Notifier | None:
    """The notifier for this process; None where systemd does not expect notifications from it."""
    address = environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return None
    period = environ.get("WATCHDOG_USEC", "")
    mine = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    return Notifier(address, int(period) / 1e6 if mine and period.isdigit() and int(period) > 0 else None)
