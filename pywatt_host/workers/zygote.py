"""The zygote of a generation: a process that has imported the code and forks a worker whenever it is asked.

The command is `python -m pywatt_host.workers.zygote DESCRIPTOR`, with the descriptor of a socket to the supervisor. The
zygote runs no event loop and no thread of its own, so that a fork is safe. What it has imported is collected and
frozen, so that the memory stays shared. Where the import has started threads, or `server.workers.start` is `spawn`, the
process does not fork: it becomes one worker itself.

When the supervisor ends, the zygote ends too, and ends its workers: they get a few seconds to finish their requests.
"""

from __future__ import annotations

import gc
import logging
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from pywatt_host.app.applications import Application
from pywatt_host.build.host import build
from pywatt_host.channels.stdio import Descriptors, Handshake
from pywatt_host.exceptions import AppLoadError, HostError
from pywatt_host.manifest import Manifest
from pywatt_host.manifest.model import DirectoryMount
from pywatt_host.observability.logs import configured, standard_error
from pywatt_host.protocol.messages import Init
from pywatt_host.runtime.event_loop import loop_factory
from pywatt_host.workers.link import (
    CodeLoaded,
    Forked,
    Load,
    LoadFailed,
    Receiver,
    Start,
    WorkerEnded,
    close_all,
    tell,
)
from pywatt_host.workers.supervisor_watch import ORPHAN_GRACE, SupervisorWatch, continue_without_supervisor
from pywatt_host.workers.worker import run_worker

logger = logging.getLogger("pywatt.host")

_THREAD_EXIT = 0.05  # seconds for a thread that has ended to leave the list of threads
_TASKS = "/proc/self/task"  # has an entry for each thread of the process, on Linux
_LEFT_ALONE = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1)
_MAX_TRACE = 20_000  # characters of a traceback that the supervisor is told


class Zygote:
    """Serves one supervisor. `run` returns the exit code, in the zygote and in each of its workers."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._receiver = Receiver(sock)
        self._load: Load | None = None
        self._objects: Mapping[str, Any] = {}
        self._workers: dict[int, int] = {}  # pid -> key
        self._wakeup, self._wake = socket.socketpair()
        for each in (self._wakeup, self._wake):
            each.setblocking(False)

    def run(self) -> int:
        # The supervisor decides when the zygote ends. These are handlers that do nothing, since programs that the
        # application starts would inherit signals that are ignored.
        for number in _LEFT_ALONE:
            signal.signal(number, lambda number, frame: None)
        self._watch_children()
        while not self._receiver.ended:
            ready, _, _ = select.select((self._sock, self._wakeup), (), ())
            if self._wakeup in ready:
                self._reap()
            if self._sock in ready:
                for message, descriptors in self._receiver.receive():
                    code = self._handle(message, descriptors)
                    if code is not None:
                        return code
        self._end_workers()
        return 0

    def _watch_children(self) -> None:
        """Be woken when a worker ends. The application may have changed this when it was imported."""
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)

    def _handle(self, message: Load | Start, descriptors: Sequence[int]) -> int | None:
        """Returns the exit code of a process that has become a worker, or that cannot go on."""
        if isinstance(message, Load):
            return self._import(message)
        assert self._load is not None
        if not message.fork:
            continue_without_supervisor()
            self._become_ordinary()
            return run_worker(self._load.manifest, self._load.environ, self._objects, message.setup, descriptors)
        pid = os.fork()
        if pid == 0:
            os.setsid()  # a signal to the group of the zygote is not for its workers
            self._become_ordinary()
            return run_worker(self._load.manifest, self._load.environ, self._objects, message.setup, descriptors)
        self._workers[pid] = message.key
        close_all(descriptors)
        tell(self._sock, Forked(message.key, pid))
        return None

    def _become_ordinary(self) -> None:
        """Leave everything behind that belongs to the zygote."""
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, *_LEFT_ALONE):
            signal.signal(number, signal.SIG_DFL if number != signal.SIGINT else signal.default_int_handler)
        self._workers.clear()
        for each in (self._sock, self._wakeup, self._wake):
            each.close()

    # Importing ------------------------------------------------------------------------------------------------------

    def _import(self, load: Load) -> int | None:
        watch = SupervisorWatch(self._sock.fileno(), 0.0)
        watch.start()
        try:
            code = self._import_and_log(load)
        finally:
            watch.stop()
        if code is not None:
            return code
        self._load = load
        self._watch_children()
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()  # or each worker would write once more what is buffered
        gc.collect()
        gc.freeze()
        tell(self._sock, CodeLoaded(_other_threads()))
        return None

    def _import_and_log(self, load: Load) -> int | None:
        stream, terminal = standard_error(), sys.stderr.isatty()
        colour = terminal and "NO_COLOR" not in load.environ
        with configured(load.manifest.logging, stream, terminal=terminal, colour=colour):
            try:
                self._objects = _import_code(load)
                _preload(load.manifest, load.environ, self._objects)
            except HostError as error:
                cause = error.__cause__ if isinstance(error, AppLoadError) else None
                trace = "".join(traceback.format_exception(cause)) if cause is not None else ""
                logger.critical("%s", error, exc_info=cause)
                tell(self._sock, LoadFailed(error.exit_code, str(error)[:_MAX_TRACE], trace[-_MAX_TRACE:]))
                return error.exit_code
        return None

    # Workers --------------------------------------------------------------------------------------------------------

    def _reap(self) -> None:
        """Tell the supervisor of the workers that have ended."""
        try:
            while self._wakeup.recv(4096):
                pass
        except BlockingIOError:
            pass
        while self._workers:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            key = self._workers.pop(pid, None)
            if key is None:
                continue  # a process that the application has started when it was imported
            try:
                tell(self._sock, WorkerEnded(key, os.waitstatus_to_exitcode(status)))
            except OSError:
                return  # the supervisor has ended, which is noticed next

    def _end_workers(self) -> None:
        """The supervisor has ended: its workers drain by themselves; end those that still run after a while."""
        deadline = time.monotonic() + ORPHAN_GRACE
        while self._workers and time.monotonic() < deadline:
            select.select((self._wakeup,), (), (), 0.2)
            self._reap()
        for pid in self._workers:
            os.kill(pid, signal.SIGKILL)


def _import_code(load: Load) -> Mapping[str, Any]:
    """Import everything that the manifest names, with the environment of `app.env` in place. Raises HostError."""
    manifest = load.manifest
    objects: Mapping[str, Any] = {}
    if manifest.app is not None:
        Application("app", manifest.app, manifest).put_environment(load.secret_values)
    if load.script is not None:
        objects = import_module("pywatt_host.decorator.scripts").load_script(load.script).objects
    applications = [("app", manifest.app), *((f"mounts[{n}]", mount) for n, mount in enumerate(manifest.mounts))]
    for key, options in applications:
        if options is not None and not isinstance(options, DirectoryMount):
            application = Application(key, options, manifest, objects=objects)
            application.put_environment(load.secret_values)
            application.import_target()
    return objects


def _preload(manifest: Manifest, environ: Mapping[str, str], objects: Mapping[str, Any]) -> None:
    """Import what a worker will need: making a host imports the parts that the manifest asks for."""
    loop_factory()
    import_module("pywatt_host.http.server.server")
    if manifest.metrics.enabled:
        import_module("pywatt_host.observability.exposition")
    handshake = Handshake(Init("", manifest.module_id, {}), b"", Descriptors(-1, -1), supervised=True)
    build(manifest, environ, standard_error(), handshake=handshake, objects=objects)


def _other_threads() -> int:
    """How many threads run beside the main one, also those that Python did not start."""
    deadline = time.monotonic() + _THREAD_EXIT
    while True:
        try:
            native = len(os.listdir(_TASKS))
        except OSError:
            native = 1
        others = max(native, threading.active_count()) - 1
        if others == 0 or time.monotonic() >= deadline:
            return others
        time.sleep(0.001)


def main(arguments: Sequence[str]) -> int:
    sock = socket.socket(fileno=int(arguments[0]))
    sock.set_inheritable(False)
    del sys.argv[1:]  # the application has no use for the number
    try:
        return Zygote(sock).run()
    except BrokenPipeError:
        return 0  # the supervisor has ended meanwhile


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
