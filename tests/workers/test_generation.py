"""One generation: when the code is imported again, and what a start that fails leaves behind."""

from __future__ import annotations

import asyncio
import errno
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from pywatt_host.manifest import Source, load
from pywatt_host.manifest.model.secrets import SecretKey
from pywatt_host.net.tls_material import ListenerTls, TlsTerms
from pywatt_host.protocol.messages import Announce, HeartbeatAck, WorkerFailed, WorkerTls
from pywatt_host.runtime.certificates import NoCertificates
from pywatt_host.secrets import Masker, SecretStore
from pywatt_host.secrets.rotation import Rotation
from pywatt_host.workers import generation as generation_module
from pywatt_host.workers.generation import Generation
from pywatt_host.workers.link import Load
from pywatt_host.workers.renewal import material_of
from pywatt_host.workers.worker_process import WorkerProcess
from pywatt_host.workers.zygote_process import WorkerStartError
from tests.certificates import ca_pem, material
from tests.hosting import run
from tests.workers.supervised import SpokenWorker, until
from tests.workers.test_worker_secrets import Vault

DISPATCH: Any = {
    Announce: lambda message, peer: peer.owner.announced(message),
    HeartbeatAck: lambda message, peer: peer.owner.beaten(message),
    WorkerFailed: lambda message, peer: peer.owner.failed(message),
}


class Zygote:
    """A process that has imported the code, which the test speaks for. Its workers announce themselves if they are to
    be ready."""

    def __init__(self, host: Made, load: Load) -> None:
        self.load, self.lost, self.closed, self.threads = load, False, False, host.threads
        self.started: list[tuple[int, bool]] = []
        self._host = host

    async def start_worker(self, key: int, setup: Any, descriptors: Sequence[int], *, fork: bool) -> int:
        self.started.append((key, fork))
        if self._host.start_failure is not None:
            raise self._host.start_failure
        await self._host.begun(key)
        return 2**30 + key  # no process has that

    def close(self) -> None:
        self.closed = True


class Made:
    """A generation without processes."""

    def __init__(self, **workers: Any) -> None:
        server = {"listen": "127.0.0.1:0", "workers": {"count": 2, "start_limit": "5s", **workers}}
        app = {"import_path": "main:app", "env": {"KEY_URL": "db://${secret:KEY}@h/"}}
        document = {"app": app, "server": server, "secrets": {"rotate": True, "keys": {"KEY": {}}}}
        self.manifest = load(Source.of_text(json.dumps(document)), environ={}).manifest
        self.vault = Vault(KEY="first-value")
        store = SecretStore({"KEY": SecretKey()}, [self.vault], Masker())
        self.rotation = Rotation(store, rotate=True, interval=60.0)
        self.tls = NoCertificates()
        self.tls.listening = {"server.tls": ListenerTls("server.tls", TlsTerms(material()))}
        self.zygotes: list[Zygote] = []
        self.spoken: dict[int, SpokenWorker] = {}
        self.killed: list[str] = []
        self.ends: list[tuple[int, int]] = []
        self.threads = 0
        self.import_failures: list[Exception] = []
        self.start_failure: Exception | None = None
        self.open_failure: Exception | None = None
        self.becomes = "ready"  # what a worker does when it begins: ready, unhealthy, nothing, failed
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.importing = 0
        self.generation = Generation(1, self.manifest, self.rotation, self, self.tls, script=None, environ={})

    async def import_code(self, load: Load, worker_ended: Callable[[int, int], None]) -> Zygote:
        self.importing += 1
        await self.go_on.wait()
        if self.import_failures:
            raise self.import_failures.pop(0)
        self.zygotes.append(Zygote(self, load))
        return self.zygotes[-1]

    # Surroundings

    def new_worker(self, place: int, generation: int) -> WorkerProcess:
        worker = SpokenWorker(place, generation, key=len(self.spoken) + 1)
        worker.process.kill = lambda why: self._kill(worker.process, why)  # type: ignore[method-assign]
        self.spoken[worker.process.key] = worker
        return worker.process

    async def open(self, worker: WorkerProcess) -> tuple[list[int], Callable[[], None]]:
        if self.open_failure is not None:
            raise self.open_failure
        await self.spoken[worker.key].open(DISPATCH)
        return [], lambda: None

    def setup(self, worker: WorkerProcess) -> Any:
        return None

    def worker_ended(self, key: int, code: int) -> None:
        self.ends.append((key, code))
        worker = self.spoken[key].process
        if not worker.ended.done():
            worker.has_ended(code)
            self.generation.forget(worker)

    def _kill(self, worker: WorkerProcess, why: str) -> None:
        if worker.pid is not None and not worker.ended.done():
            self.killed.append(why)
            asyncio.get_running_loop().call_soon(self.worker_ended, worker.key, -9)

    async def begun(self, key: int) -> None:
        worker = self.spoken[key]
        if self.becomes == "unhealthy":
            checks = {"database": {"status": "failing", "error": "it is away"}}
            worker.report = {"status": "unhealthy", "checks": checks}
        if self.becomes == "failed":
            worker.say(WorkerFailed(2, "the hook raised", "Traceback: it is broken"))
            await until(lambda: worker.process.failure is not None)
            asyncio.get_running_loop().call_later(0.01, self.worker_ended, key, 2)
        elif self.becomes != "nothing":
            worker.say(Announce("127.0.0.1:1", ()))


@asynccontextmanager
async def made(monkeypatch: pytest.MonkeyPatch, **workers: Any) -> AsyncIterator[Made]:
    host = Made(**workers)

    class Start:
        start = staticmethod(host.import_code)

    monkeypatch.setattr(generation_module, "ZygoteProcess", Start)
    await host.rotation.store.load()
    try:
        yield host
    finally:
        for worker in host.spoken.values():
            await worker.end()


def in_generation(monkeypatch: pytest.MonkeyPatch, test: Callable[[Made], Awaitable[None]], **workers: Any) -> None:
    async def main() -> None:
        async with made(monkeypatch, **workers) as host:
            await test(host)

    run(main)


# Certificates ---------------------------------------------------------------------------------------------------------


def test_a_renewed_certificate_is_given_to_all_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(host: Made) -> None:
        await host.generation.start()
        for place in range(2):
            await host.generation.start_worker(place, healthy=True)
        renewed = material(1, client_ca=ca_pem("clients"), demands="optional", min_version="1.3")
        host.tls.listening["server.tls"].use(TlsTerms(renewed))
        for worker in host.spoken.values():
            message = await worker.hear(WorkerTls)
            assert message.section == "server.tls"
            assert material_of(message) == renewed
            assert "PRIVATE" not in repr(message)
        assert host.generation.materials == {"server.tls": renewed}

    in_generation(monkeypatch, test)


# Importing ------------------------------------------------------------------------------------------------------------


def test_the_code_is_imported_once_and_workers_are_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(host: Made) -> None:
        await host.generation.start()
        first, second = await asyncio.gather(
            host.generation.start_worker(0, healthy=True), host.generation.start_worker(1, healthy=True)
        )
        assert (first.state, second.state) == ("ready", "ready")
        (zygote,) = host.zygotes
        assert zygote.started == [(1, True), (2, True)]
        assert zygote.load.secret_values == {"KEY": "first-value"}

    in_generation(monkeypatch, test, start="fork")


@pytest.mark.parametrize("start", ["spawn", "auto"])
def test_each_worker_is_a_process_that_has_imported_the_code_by_itself(
    monkeypatch: pytest.MonkeyPatch, start: str
) -> None:
    async def test(host: Made) -> None:
        host.threads = 1
        await host.generation.start()
        for place in range(2):
            await host.generation.start_worker(place, healthy=True)
        assert [zygote.started for zygote in host.zygotes] == [[(1, False)], [(2, False)]]

    in_generation(monkeypatch, test, start=start)


def test_after_a_rotation_of_its_environment_the_code_is_imported_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(host: Made) -> None:
        await host.generation.start()
        worker = await host.generation.start_worker(0, healthy=True)
        host.vault.values["KEY"] = "second-value"
        await host.rotation.rotate(["KEY"], "the test")
        await host.generation.start_worker(1, healthy=True)
        old, new = host.zygotes
        assert new.load.secret_values == {"KEY": "second-value"}
        assert (old.started, new.started, old.closed) == ([(1, True)], [(2, True)], False)
        host.worker_ended(worker.key, 0)
        assert (old.closed, new.closed) == (True, False)

    in_generation(monkeypatch, test, start="fork")


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_a_rotation_during_an_import_is_not_lost(monkeypatch: pytest.MonkeyPatch, start: str) -> None:
    async def test(host: Made) -> None:
        host.go_on.clear()
        starting = asyncio.create_task(host.generation.start())
        await until(lambda: host.importing)
        host.vault.values["KEY"] = "second-value"
        await host.rotation.rotate(["KEY"], "the test")
        host.go_on.set()
        await starting
        await host.generation.start_worker(0, healthy=True)
        old, new = host.zygotes
        assert (old.started, old.closed) == ([], True)
        assert new.load.secret_values == {"KEY": "second-value"}

    in_generation(monkeypatch, test, start=start)


def test_a_process_that_has_gone_is_replaced_with_the_next_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(host: Made) -> None:
        await host.generation.start()
        worker = await host.generation.start_worker(0, healthy=True)
        host.zygotes[0].lost = True
        assert host.generation.orphaned(worker)
        await host.generation.start_worker(1, healthy=True)
        assert [zygote.started for zygote in host.zygotes] == [[(1, True)], [(2, True)]]

    in_generation(monkeypatch, test, start="fork")


def test_code_that_cannot_be_imported_is_tried_again_with_the_next_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(host: Made) -> None:
        await host.generation.start()
        host.zygotes[0].lost = True
        host.import_failures = [WorkerStartError("it has a fault", 3)]
        with pytest.raises(WorkerStartError, match="it has a fault"):
            await host.generation.start_worker(0, healthy=True)
        assert (host.ends, host.generation.workers) == ([(1, 0)], [])
        assert (await host.generation.start_worker(0, healthy=True)).state == "ready"

    in_generation(monkeypatch, test, start="fork")


# Starting a worker ----------------------------------------------------------------------------------------------------


def test_a_worker_that_is_ready_but_not_healthy_in_time_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(host: Made) -> None:
        host.becomes = "unhealthy"
        await host.generation.start()
        with pytest.raises(WorkerStartError, match=r"within 1s .*: database failing: it is away"):
            await host.generation.start_worker(0, healthy=True)
        assert host.killed == ["it was not ready"]
        await until(lambda: host.generation.workers == [])
        assert (await host.generation.start_worker(0, healthy=False)).state == "ready"

    in_generation(monkeypatch, test, start="fork", start_limit="1s")


def test_a_worker_that_never_announces_itself_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(host: Made) -> None:
        host.becomes = "nothing"
        await host.generation.start()
        with pytest.raises(WorkerStartError, match=r"worker 1 was not ready within 1s \(server.workers.start_limit\)"):
            await host.generation.start_worker(0, healthy=False)
        assert host.killed == ["it was not ready"]

    in_generation(monkeypatch, test, start="fork", start_limit="1s")


def test_a_worker_that_cannot_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(host: Made) -> None:
        host.becomes = "failed"
        await host.generation.start()
        with pytest.raises(WorkerStartError, match="worker 1: the hook raised") as raised:
            await host.generation.start_worker(0, healthy=False)
        assert (raised.value.exit_code, raised.value.trace, raised.value.reported) == (
            2,
            "Traceback: it is broken",
            True,
        )

    in_generation(monkeypatch, test, start="fork")


@pytest.mark.parametrize("where", ["open_failure", "start_failure"])
def test_without_descriptors_no_worker_can_start_and_nothing_is_left(
    monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    async def test(host: Made) -> None:
        await host.generation.start()
        setattr(host, where, OSError(errno.EMFILE, os.strerror(errno.EMFILE)))
        with pytest.raises(WorkerStartError, match="worker 1 cannot be started: Too many open files"):
            await host.generation.start_worker(0, healthy=False)
        assert (host.ends, host.generation.workers) == ([(1, 0)], [])

    in_generation(monkeypatch, test, start="fork")


def test_a_start_that_is_cancelled_leaves_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(host: Made) -> None:
        host.becomes = "nothing"
        await host.generation.start()
        starting = asyncio.create_task(host.generation.start_worker(0, healthy=False))
        await until(lambda: host.zygotes[0].started)
        await asyncio.sleep(0.01)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        await until(lambda: host.generation.workers == [])
        assert host.killed == ["it was not ready"]

    in_generation(monkeypatch, test, start="fork")
