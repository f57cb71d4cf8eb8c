"""Secrets of one generation: workers get them from the supervisor, and a rotation counts once all workers have it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from uuid import uuid4

from pywatt_host.exceptions import SecretError
from pywatt_host.peers.connection import PeerConnection
from pywatt_host.protocol.messages import GetSecret, Rotated, RotationAck, SecretValue
from pywatt_host.protocol.session import cut
from pywatt_host.secrets import SecretStore
from pywatt_host.service import Prepared
from pywatt_host.workers.worker_process import WorkerProcess

logger = logging.getLogger("pywatt.secrets")

_ACKNOWLEDGE_TIMEOUT = 20.0  # seconds for all workers; one that does not answer is replaced before that
_MAX_FETCHES = 256  # undeclared secrets that are fetched at the same time


class WorkerSecrets:
    """Answers `get_secret` of the workers of a generation, and takes part in each rotation of the supervisor.

    As a dependant of the rotation it lets every worker fetch the new values and put them to use. Where one of them
    refuses, those that have them go back to the old values, and the rotation fails for all.
    """

    name = "workers"

    def __init__(self, store: SecretStore, workers: Callable[[], Iterable[WorkerProcess]]) -> None:
        self._store = store
        self._workers = workers
        self._next: Mapping[str, str] | None = None  # the values of a rotation that is under way
        self._waiting: dict[str, dict[WorkerProcess, asyncio.Future[RotationAck]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.on_rotated: Callable[[frozenset[str]], None] = lambda names: None

    # Requests of workers --------------------------------------------------------------------------------------------

    def get(self, message: GetSecret, connection: PeerConnection) -> None:
        """Answer a worker's request for a secret."""
        values = self._store.secret_values if self._next is None else self._next
        value = values.get(message.name)
        worker: WorkerProcess = connection.owner
        worker.fetched.add(message.name)
        if value is not None:
            connection.send(SecretValue(message.name, value, None, message.request_id))
        elif message.name in self._store.names() or len(self._tasks) >= _MAX_FETCHES:
            self._refuse(message, connection)
        else:
            task = asyncio.get_running_loop().create_task(self._fetch(message, connection))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _fetch(self, message: GetSecret, connection: PeerConnection) -> None:
        """A secret that is not declared: the sources are searched when it is asked for."""
        try:
            await self._store.get(message.name)
        except SecretError as error:
            logger.debug("%s", error)
            self._refuse(message, connection)
        else:
            value = self._store.secret_values[message.name]
            connection.send(SecretValue(message.name, value, None, message.request_id))

    @staticmethod
    def _refuse(message: GetSecret, connection: PeerConnection) -> None:
        connection.refuse(message, "unknown_secret", f"there is no secret {cut(message.name, 60)}")

    def acknowledged(self, message: RotationAck, worker: WorkerProcess) -> None:
        """Take a worker's acknowledgement."""
        answer = self._waiting.get(message.rotation_id, {}).get(worker)
        if answer is not None and not answer.done():
            answer.set_result(message)

    def gone(self, worker: WorkerProcess) -> None:
        """A worker has ended: its successor fetches the new values by itself."""
        for waiting in self._waiting.values():
            answer = waiting.get(worker)
            if answer is not None:
                answer.cancel()

    # As a dependant of the rotation ---------------------------------------------------------------------------------

    @property
    def names(self) -> frozenset[str]:
        """All secrets: a worker may ask for one of them for the first time while it rotates."""
        return frozenset(self._store.names())

    async def prepare(self, secret_values: Mapping[str, str]) -> Prepared:
        """Let every worker use the new values. Raises SecretError with what each worker that refuses says; all workers
        have the old values again then."""
        before = self._store.secret_values
        changed = frozenset(name for name in {*before, *secret_values} if before.get(name) != secret_values.get(name))
        self._next = secret_values
        try:
            answers = await self._tell(tuple(self._workers()), changed)
        except BaseException:
            self._roll_back(changed)
            raise
        refusals = [
            f"{worker.name}: {cut(answer.message or answer.status, 300)}"
            for worker, answer in answers.items()
            if answer is not None and answer.status != "success"
        ]
        refusals += [f"{worker.name} did not answer" for worker, answer in answers.items() if answer is None]
        if refusals:
            self._next = None
            await self._tell(tuple(self._workers()), changed)
            raise SecretError("; ".join(refusals))
        return _Swapped(self, changed)

    async def _tell(
        self, workers: Sequence[WorkerProcess], changed: frozenset[str]
    ) -> dict[WorkerProcess, RotationAck | None]:
        """Tell workers that secrets have changed, and return what each answers; None where it does not. A worker that
        ends meanwhile is left out."""
        rotation_id, loop = str(uuid4()), asyncio.get_running_loop()
        waiting: dict[WorkerProcess, asyncio.Future[RotationAck]] = {}
        self._waiting[rotation_id] = waiting
        try:
            for worker in workers:
                keys = tuple(sorted(worker.fetched & changed))
                if keys and worker.state != "ended" and worker.connection.send(Rotated(keys, rotation_id)):
                    waiting[worker] = loop.create_future()
            if waiting:
                await asyncio.wait(waiting.values(), timeout=_ACKNOWLEDGE_TIMEOUT)
        finally:
            del self._waiting[rotation_id]
        return {
            worker: answer.result() if answer.done() else None
            for worker, answer in waiting.items()
            if not answer.cancelled()
        }

    def _roll_back(self, changed: frozenset[str]) -> None:
        self._next = None
        task = asyncio.get_running_loop().create_task(self._told(changed))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _told(self, changed: frozenset[str]) -> None:
        await self._tell(tuple(self._workers()), changed)

    def swapped(self, changed: frozenset[str], *, keep: bool) -> None:
        """The rotation is over: every part has the new values, or (`keep` is false) the old ones stay."""
        if keep:
            self._next = None
            self.on_rotated(changed)
        else:
            self._roll_back(changed)


class _Swapped:
    def __init__(self, secrets: WorkerSecrets, changed: frozenset[str]) -> None:
        self._secrets = secrets
        self._changed = changed

    def commit(self) -> None:
        self._secrets.swapped(self._changed, keep=True)

    def discard(self) -> None:
        self._secrets.swapped(self._changed, keep=False)
