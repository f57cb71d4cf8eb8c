"""Rotation of secrets: fetches new values, tells every process that uses them, and collects the acknowledgements."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from uuid import uuid4

from pywatt_host.exceptions import SecretError, StoreError
from pywatt_host.orchestrator.replica import Replica
from pywatt_host.protocol.messages import Rotated, RotationAck
from pywatt_host.protocol.session import cut
from pywatt_host.secrets import Refreshed, SecretStore
from pywatt_host.service import Dependant, Prepared

logger = logging.getLogger("pywatt.secrets")

ACKNOWLEDGE_TIMEOUT = 10.0  # seconds for all acknowledgements of one rotation


class Rotations:
    """Runs one rotation at a time, so that no process hears of a newer value before an older one."""

    def __init__(self, store: SecretStore, replicas: Callable[[], Iterable[Replica]]) -> None:
        self._store = store
        self._replicas = replicas
        self._one_at_a_time = asyncio.Lock()
        self.dependants: list[Dependant] = []  # the parts of the orchestrator that use secrets
        self._waiting: dict[str, dict[Replica, asyncio.Future[RotationAck]]] = {}

    async def rotate(self, names: Iterable[str], why: str) -> dict[str, Any]:
        """Fetch these secrets again and tell every process that uses them, also where a value has not changed. Returns
        `{"rotation_id", "keys", "acknowledged": {label: "success" | "error: ..." | "no answer"}}`. Raises SecretError
        where a value cannot be fetched; then all values stay as they were."""
        names = tuple(dict.fromkeys(names))
        unknown = [name for name in names if name not in self._store.names()]
        if unknown:
            raise SecretError("it is not declared in the workspace, and no module has asked for it")
        async with self._one_at_a_time:
            await self._swap(await self._store.refresh(names))
            rotation_id = str(uuid4())
            loop = asyncio.get_running_loop()
            waiting: dict[Replica, asyncio.Future[RotationAck]] = {}
            self._waiting[rotation_id] = waiting
            try:
                for replica in self._replicas():
                    keys = tuple(name for name in names if name in replica.fetched)
                    connection = replica.connection()
                    if keys and connection is not None:
                        waiting[replica] = loop.create_future()
                        if not connection.send(Rotated(keys, rotation_id)):
                            waiting[replica].cancel()
                if waiting:
                    await asyncio.wait(waiting.values(), timeout=ACKNOWLEDGE_TIMEOUT)
            finally:
                del self._waiting[rotation_id]
        acknowledged = {replica.label: _outcome(answer) for replica, answer in waiting.items()}
        logger.info(
            "rotated %s (%s)", ", ".join(names), why, extra={"rotation_id": rotation_id, "acknowledged": acknowledged}
        )
        return {"rotation_id": rotation_id, "keys": list(names), "acknowledged": acknowledged}

    async def _swap(self, refreshed: Refreshed) -> None:
        """Use the new values in the orchestrator first. Raises SecretError where that fails; then no process knows."""
        changed = frozenset(refreshed.changed)
        prepared: list[Prepared] = []
        try:
            for dependant in self.dependants:
                if dependant.names & changed:
                    prepared.append(await dependant.prepare(refreshed.secret_values))
        except BaseException as error:
            for each in prepared:
                each.discard()
            if isinstance(error, StoreError):
                raise SecretError(str(error)) from error
            raise
        self._store.install(refreshed)
        for each in prepared:
            each.commit()

    def acknowledged(self, message: RotationAck, replica: Replica) -> None:
        """Take the `rotation_ack` of a process."""
        answer = self._waiting.get(message.rotation_id, {}).get(replica)
        if answer is not None and not answer.done():
            answer.set_result(message)

    def gone(self, replica: Replica) -> None:
        """Stop waiting for a process that has ended; the next one asks for the new values by itself."""
        for waiting in self._waiting.values():
            answer = waiting.get(replica)
            if answer is not None:
                answer.cancel()

    async def watch(self, interval: float) -> None:
        """Rotate every secret that changes in its source, for as long as this is awaited. `interval` is in seconds."""
        async for names in self._store.watch(interval):
            try:
                await self.rotate(sorted(names), "a changed source")
            except SecretError as error:
                logger.error("rotation of %s (a changed source) failed: %s", ", ".join(sorted(names)), error)


def _outcome(answer: asyncio.Future[RotationAck]) -> str:
    if not answer.done() or answer.cancelled():
        return "no answer"
    message = answer.result()
    return "success" if message.status == "success" else f"error: {cut(message.message or message.status, 300)}"


def refused(report: Mapping[str, Any]) -> bool:
    """Whether any process that was told of a rotation did not take it."""
    return any(outcome != "success" for outcome in report["acknowledged"].values())
