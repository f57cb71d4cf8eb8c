"""What a worker gets when it starts, and who is told when it ends."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from pywatt_host.manifest.model import Manifest
from pywatt_host.net.shared_limits import SharedLimits
from pywatt_host.net.tls_material import TlsMaterial
from pywatt_host.peers.connection import Dispatch
from pywatt_host.workers.distributor import Distributor
from pywatt_host.workers.link import WorkerSetup
from pywatt_host.workers.places import Change, ListeningSockets
from pywatt_host.workers.worker_process import WorkerProcess


@dataclass(frozen=True, slots=True)
class AppInit:
    """What the application sees as `app_state.init`, beside the module id, and the token of the orchestrator."""

    orchestrator_api: str | None
    env: Mapping[str, str]
    listen: str | None
    auth_token: str | None


class Follower(Protocol):
    """A part of the supervisor that keeps something for each worker."""

    def gone(self, worker: WorkerProcess) -> None:
        """The worker has ended."""


class Surroundings:
    """Makes workers, with connections, slots and sockets of their own, and cleans up after those that have ended.

    `dispatch` takes the messages of workers. `followers` gives the parts that are told of the end of a worker, in
    order. The sockets of a generation that is not in use yet are those of a change, which is committed or rolled back.
    """

    def __init__(
        self,
        init: AppInit,
        environ: Mapping[str, str],
        dispatch: Callable[[], Dispatch],
        followers: Callable[[], Iterable[Follower]],
        frame: int,
        materials: Callable[[int], Mapping[str, TlsMaterial]],
    ) -> None:
        """`frame` is the longest message of a worker in bytes. `materials` gives the certificates in use of a
        generation, by their TLS sections. Raises OSError where there is no shared memory."""
        self.sockets = ListeningSockets()
        self.shared = SharedLimits.create()
        self.distributor: Distributor | None = None  # once the sockets are in use
        self._init = init
        self._environ = environ
        self._dispatch = dispatch
        self._followers = followers
        self._frame = frame
        self._materials = materials
        self._change: tuple[int, Change] | None = None
        self._workers: dict[int, WorkerProcess] = {}
        self._next_key = 0

    # Sockets --------------------------------------------------------------------------------------------------------

    def prepare(self, manifest: Manifest, generation: int) -> None:
        """Bind the sockets of a manifest, for a generation that is not in use yet. Raises BindError."""
        server = manifest.server
        change = self.sockets.prepare(
            server.listen,
            key="server.listen",
            places=server.workers.resolved(),
            directory=manifest.directory,
            backlog=server.limits.backlog,
            environ=self._environ,
            tls=[declared.key if (declared := server.tls_of(number)) else None for number in range(len(server.listen))],
        )
        self._change = generation, change

    def commit(self) -> None:
        """Put the sockets to use that were bound last. Raises BindError."""
        assert self._change is not None
        self._change[1].commit()
        self._change = None

    def roll_back(self) -> None:
        """Close sockets that were bound and not put to use."""
        change, self._change = self._change, None
        if change is not None:
            change[1].rollback()

    def _sockets_for(self, worker: WorkerProcess) -> ListeningSockets | Change:
        if self._change is not None and self._change[0] == worker.generation:
            return self._change[1]
        return self.sockets

    # Starting a worker (`generation.Surroundings`) ------------------------------------------------------------------

    def new_worker(self, place: int, generation: int) -> WorkerProcess:
        """A worker with a key and a slot of its own. Raises ServiceError where too many exist already."""
        slot = self.shared.assign()
        self._next_key += 1
        worker = WorkerProcess(
            self._next_key, place, slot, generation,
            connections=self.shared.connections, alone=self.shared.alone, changed=self._changed,
            vanished=self.vanished,
        )  # fmt: skip
        self._workers[worker.key] = worker
        return worker

    async def open(self, worker: WorkerProcess) -> tuple[list[int], Callable[[], None]]:
        """Open the worker's connections. Returns the descriptors for it, and what closes the supervisor's copies."""
        theirs, theirs_passing = await worker.open(self._dispatch(), self._frame)
        descriptors = [theirs.fileno(), theirs_passing.fileno(), self.shared.descriptor]
        descriptors += [sock.fileno() for _, sock in self._sockets_for(worker).of_place(worker.place)]

        def close() -> None:
            theirs.close()
            theirs_passing.close()

        return descriptors, close

    def setup(self, worker: WorkerProcess) -> WorkerSetup:
        """What the worker is told beside its descriptors."""
        init, sockets = self._init, self._sockets_for(worker)
        return WorkerSetup(
            worker.place,
            worker.slot,
            worker.generation,
            sockets.addresses,
            tuple(number for number, _ in sockets.of_place(worker.place)),
            init.auth_token,
            init.orchestrator_api,
            dict(init.env),
            init.listen,
            dict(sockets.tls),
            dict(self._materials(worker.generation)),
        )

    # While it runs --------------------------------------------------------------------------------------------------

    def _changed(self, worker: WorkerProcess) -> None:
        if not worker.ended.done():
            self.shared.set_aside(worker.slot, not worker.responsive)
        if worker.joined and self.distributor is not None:
            self.distributor.changed()

    def joined(self, worker: WorkerProcess) -> None:
        """The worker takes connections from now on."""
        assert self.distributor is not None
        worker.joined = True
        self.distributor.join(worker)

    def left(self, worker: WorkerProcess) -> None:
        """The worker gets no further connections."""
        if self.distributor is not None:
            self.distributor.leave(worker)

    def vanished(self, worker: WorkerProcess) -> None:
        """The worker has ended, and its zygote did not report that. How it ended is not known: one that drains closes
        its connection when its work is done."""
        self.worker_ended(worker.key, 0 if worker.state == "draining" else -signal.SIGKILL)

    def worker_ended(self, key: int, code: int) -> None:
        """The process of a worker has ended, with this exit code."""
        worker = self._workers.pop(key, None)
        if worker is None:
            return
        worker.has_ended(code)
        if worker.joined and self.distributor is not None:
            self.distributor.lost(worker)
        self.shared.clear(worker.slot)
        for follower in self._followers():
            follower.gone(worker)
