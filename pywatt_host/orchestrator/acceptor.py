"""Accepts the frame channels of modules: on one Unix socket and one TCP port, by module id and token."""

from __future__ import annotations

import logging
from asyncio import TaskGroup
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager

from pywatt_host.exceptions import HostError
from pywatt_host.net.listeners import Listener
from pywatt_host.orchestrator.module import Module
from pywatt_host.orchestrator.replica import Replica
from pywatt_host.peers.acceptor import Acceptor, PeerListener
from pywatt_host.peers.connection import Dispatch, PeerConnection
from pywatt_host.protocol.messages import EXTENSIONS, Identify

logger = logging.getLogger("pywatt.wattson")

NAME = "wattson"  # the id that the orchestrator gives itself
_IDENTIFY_TIMEOUT = 5.0  # seconds


class ModuleAcceptor:
    """Accepts connections for as long as it runs. A connection belongs to the process whose token it presents."""

    name = "channels"

    def __init__(
        self,
        listeners: Mapping[str, Sequence[Listener]],
        modules: Mapping[str, Module],
        dispatch: Dispatch,
        frame_limit: int,
    ) -> None:
        """`listeners` are by channel; `frame_limit` is in bytes."""
        self._listeners = [PeerListener(channel, each) for channel, found in listeners.items() for each in found]
        self._modules = modules
        self._acceptor = Acceptor(
            name=NAME,
            extensions=EXTENSIONS,
            dispatch=dispatch,
            candidates=self._candidates,
            admitted=_admitted,
            left=_left,
            frame_limit=frame_limit,
            timeout=_IDENTIFY_TIMEOUT,
            timeout_text=f"no identify within {_IDENTIFY_TIMEOUT:g}s",
            token_text="identify has no token of a running module, or that of another module",
        )

    def running(self, tasks: TaskGroup) -> AbstractAsyncContextManager[None]:
        return self._acceptor.accepting(self._listeners)

    def _candidates(self, message: Identify, listener: PeerListener) -> list[tuple[str, Replica]]:
        module = self._modules.get(message.module_id)
        processes = module.processes if module is not None else ()
        return [(replica.token, replica) for replica in processes if replica.token and replica.pid is not None]


def _admitted(connection: PeerConnection) -> None:
    replica: Replica = connection.owner
    connection.rename(f"{replica.label} on {connection.channel}")
    replica.adopt(connection)


def _left(connection: PeerConnection, why: HostError | None) -> None:
    replica: Replica = connection.owner
    replica.forget(connection)
    logger.debug("%s is closed%s", connection.peer, f": {why}" if why is not None else "")
