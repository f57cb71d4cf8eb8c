"""What modules may ask for, and what answers it."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from typing import Any, TypeVar

from pywatt_host.exceptions import SecretError
from pywatt_host.manifest.values import SECRET_NAME
from pywatt_host.orchestrator.module import Module
from pywatt_host.orchestrator.ports import Ports
from pywatt_host.orchestrator.registry import ServiceRegistry
from pywatt_host.orchestrator.replica import Replica
from pywatt_host.orchestrator.rotations import Rotations
from pywatt_host.orchestrator.router import Router
from pywatt_host.orchestrator.stores import Stores
from pywatt_host.orchestrator.topics import EventRouter
from pywatt_host.peers.connection import Dispatch, PeerConnection
from pywatt_host.protocol.messages import (
    Announce,
    Deregister,
    Discover,
    Draining,
    GetSecret,
    HeartbeatAck,
    PortRequest,
    Publish,
    Register,
    RotationAck,
    RouteToModule,
    SecretValue,
    ServiceOperation,
    ServiceRequest,
    Subscribe,
    Unsubscribe,
)
from pywatt_host.protocol.session import cut
from pywatt_host.secrets import SecretStore

logger = logging.getLogger("pywatt.wattson")

_BEFORE_ANNOUNCE = frozenset({"request_id", "error"})
_MAX_FETCHES = 256  # secrets that are fetched for one process at the same time
_NAME = re.compile(SECRET_NAME).fullmatch

M = TypeVar("M")


class ModuleRequests:
    """The handlers for the messages of modules: `dispatch` is the same for every peer."""

    def __init__(
        self,
        modules: dict[str, Module],
        router: Router,
        registry: ServiceRegistry,
        ports: Ports,
        topics: EventRouter,
        rotations: Rotations,
        store: SecretStore,
        stores: Stores,
    ) -> None:
        self._modules = modules
        self._store = store
        self._topics = topics
        self._stores = stores
        self._fetching: dict[Replica, set[asyncio.Task[None]]] = {}
        self.dispatch: Dispatch = {
            RouteToModule: router.route,
            HeartbeatAck: _of_replica(lambda message, replica: replica.beaten(message)),
            Announce: _of_replica(lambda message, replica: replica.announced(message)),
            Draining: _of_replica(lambda message, replica: replica.drains()),
            RotationAck: _of_replica(rotations.acknowledged),
            GetSecret: self._secret,
            Register: lambda message, peer: _reply(message, peer, registry.register(message, peer.owner)),
            Deregister: _of_replica(registry.deregister),
            Discover: lambda message, peer: _reply(message, peer, registry.discover(message)),
            PortRequest: lambda message, peer: peer.send(ports.answer(message, peer.owner)),
            ServiceRequest: stores.connect,
            ServiceOperation: self._operation,
            Publish: _of_replica(lambda message, replica: topics.publish(message, replica.module)),
            Subscribe: self._subscribe,
            Unsubscribe: _of_replica(lambda message, replica: topics.unsubscribe(message.topic, replica)),
        }

    def gone(self, replica: Replica) -> None:
        """Stop fetching secrets for a process that has ended."""
        for task in self._fetching.pop(replica, ()):
            task.cancel()

    # Secrets --------------------------------------------------------------------------------------------------------

    def _secret(self, message: GetSecret, peer: PeerConnection) -> None:
        replica: Replica = peer.owner
        module = self._modules[replica.module]
        if _NAME(message.name) is None or message.name not in replica.secrets:
            where = f"modules.{module.id}.secrets"
            if module.declared.manifest is not None and module.declared.secrets is None:
                where = f"secrets of its manifest, or in {where}"
            logger.warning(
                "%s asked for the secret %s, which it may not read; to allow that, list it under %s",
                replica.label, cut(message.name, 60), where, extra={"peer": replica.label},
            )  # fmt: skip
            self._unknown(message, peer)
        elif message.name in self._store.secret_values:
            self._give(message, peer, replica)
        else:
            fetching = self._fetching.setdefault(replica, set())
            if len(fetching) >= _MAX_FETCHES:
                self._unknown(message, peer)
                return
            task = asyncio.get_running_loop().create_task(self._fetch(message, peer, replica))
            fetching.add(task)
            task.add_done_callback(fetching.discard)

    async def _fetch(self, message: GetSecret, peer: PeerConnection, replica: Replica) -> None:
        try:
            await self._store.get(message.name)
        except SecretError as error:
            logger.warning("%s: %s", replica.label, error, extra={"peer": replica.label})
            self._unknown(message, peer)
        else:
            self._give(message, peer, replica)

    def _give(self, message: GetSecret, peer: PeerConnection, replica: Replica) -> None:
        replica.fetched.add(message.name)
        value = self._store.secret_values[message.name]
        _reply(message, peer, SecretValue(message.name, value, None, message.request_id))

    @staticmethod
    def _unknown(message: GetSecret, peer: PeerConnection) -> None:
        """Answer with an error, where the module knows errors. The original protocol has no negative answer: without
        errors, the module waits until its own timeout."""
        _learn_extensions(message, peer)
        peer.refuse(message, "unknown_secret", f"there is no secret {cut(message.name, 60)} for it")

    def _operation(self, message: ServiceOperation, peer: PeerConnection) -> None:
        _learn_extensions(message, peer)
        self._stores.operate(message, peer)

    def _subscribe(self, message: Subscribe, peer: PeerConnection) -> None:
        why = self._topics.subscribe(message.topic, peer.owner)
        if why is not None:
            peer.refuse(message, "refused", why)


def _reply(message: Any, peer: PeerConnection, answer: Any) -> None:
    _learn_extensions(message, peer)
    peer.send(answer)


def _learn_extensions(message: Any, peer: PeerConnection) -> None:
    """Assume the extensions `request_id` and `error` of a module that has not announced its extensions yet, and uses
    the first of them."""
    if message.request_id is not None and not peer.session.extensions:
        peer.session.extensions = _BEFORE_ANNOUNCE


def _of_replica(call: Callable[[M, Replica], object]) -> Callable[[M, PeerConnection], None]:
    """A handler that calls with the message and the process that sent it."""

    def handle(message: M, peer: PeerConnection) -> None:
        call(message, peer.owner)

    return handle
