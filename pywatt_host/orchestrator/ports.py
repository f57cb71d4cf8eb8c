"""Free ports for modules: each is given to one process, for as long as that process lives."""

from __future__ import annotations

import socket

from pywatt_host.orchestrator.replica import Replica
from pywatt_host.protocol.messages import PortRequest, PortResponse

MAX_PORTS = 64  # of one process
_ATTEMPTS = 50


class Ports:
    """A port is free when it can be bound on every interface and no other process has been given it."""

    def __init__(self) -> None:
        self._given: dict[int, Replica] = {}

    def answer(self, message: PortRequest, replica: Replica) -> PortResponse:
        """Answer `port_request`: the specific port that is asked for, or any free one."""
        if sum(owner is replica for owner in self._given.values()) >= MAX_PORTS:
            return PortResponse(message.request_id, False, None, f"this module has {MAX_PORTS} ports already")
        wanted = message.specific_port or 0
        if wanted:
            free = self._given.get(wanted, replica) is replica and _can_bind(wanted) == wanted
            if not free:
                return PortResponse(message.request_id, False, None, f"port {wanted} is in use")
            self._given[wanted] = replica
            return PortResponse(message.request_id, True, wanted)
        port = self.free(replica)
        if port is None:
            return PortResponse(message.request_id, False, None, "no port is free")
        return PortResponse(message.request_id, True, port)

    def free(self, replica: Replica) -> int | None:
        """Give the process any free port; None where there is none."""
        for _ in range(_ATTEMPTS):
            port = _can_bind(0)
            if port is not None and port not in self._given:
                self._given[port] = replica
                return port
        return None

    def gone(self, replica: Replica) -> None:
        """Take back the ports of a process that has ended."""
        for port in [port for port, owner in self._given.items() if owner is replica]:
            del self._given[port]


def _can_bind(port: int) -> int | None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return None
        return int(probe.getsockname()[1])
