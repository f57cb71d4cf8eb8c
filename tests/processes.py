"""A real `python -m pywatt_host` and a plain HTTP/1.1 client, both by the octet."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pywatt_host.testing.process import PATIENCE, Child, Process
from pywatt_host.testing.process import environment as plain_environment
from tests.command_line import called
from tests.forkserver import popen

__all__ = ["PATIENCE", "ROOT", "Connection", "Host", "Process", "Project", "Response", "allowed", "environment"]

ROOT = Path(__file__).parent.parent


def environment(folder: Path, **more: str) -> dict[str, str]:
    """This process's environment, with the checkout importable, without what would change how a host runs."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return plain_environment(folder, PYTHONPATH=path, **more)


def allowed(promised: float) -> float:
    """The bound of a test for what is promised within so many seconds: thrice that, and more where others use the
    processors as well."""
    return promised * max(3.0, 2 * os.getloadavg()[0] / (os.cpu_count() or 1))


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def any_certificate() -> ssl.SSLContext:
    """A context for a client that does not verify the server."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class Connection:
    """One client connection. Everything that waits is bounded. Over TLS, `context` verifies the server; without it, any
    certificate will do."""

    def __init__(self, address: str, context: ssl.SSLContext | None = None) -> None:
        if address.startswith("unix:"):
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.sock.settimeout(PATIENCE)
            self.sock.connect(address.removeprefix("unix:"))
        else:
            host, _, port = address.removeprefix("http://").removeprefix("https://").rpartition(":")
            host = host.strip("[]")
            self.sock = socket.create_connection((host, int(port)), timeout=PATIENCE)
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if address.startswith("https://"):
                self.sock = (context or any_certificate()).wrap_socket(self.sock, server_hostname=host)
        self._buffer = b""

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    @property
    def certificate(self) -> bytes:
        """The certificate of the server, DER."""
        assert isinstance(self.sock, ssl.SSLSocket)
        return self.sock.getpeercert(True) or b""

    def send(self, octets: bytes | str) -> None:
        self.sock.sendall(octets.encode() if isinstance(octets, str) else octets)

    def request(self, method: str, path: str, body: bytes = b"", **headers: str) -> Response:
        self.head(method, path, **({"Content-Length": str(len(body))} if body else {}), **headers)
        if body:  # the server may have answered the head, and closed the connection
            self.send(body)
        return self.response(method)

    def head(self, method: str, path: str, **headers: str) -> None:
        headers = {"Host": "localhost", **headers}
        lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        self.send(f"{method} {path} HTTP/1.1\r\n{lines}\r\n")

    def _more(self) -> bool:
        data = self.sock.recv(65536)
        self._buffer += data
        return bool(data)

    def until(self, mark: bytes) -> bytes:
        """Everything up to and with `mark`. Raises EOFError where the server ends before it."""
        while mark not in self._buffer:
            if not self._more():
                raise EOFError(f"the server closed after {self._buffer!r}")
        found, _, self._buffer = self._buffer.partition(mark)
        return found + mark

    def exactly(self, octets: int) -> bytes:
        while len(self._buffer) < octets:
            if not self._more():
                raise EOFError(f"the server closed after {self._buffer!r}")
        found, self._buffer = self._buffer[:octets], self._buffer[octets:]
        return found

    def response_head(self) -> tuple[int, dict[str, str]]:
        lines = self.until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
        return int(lines[0].split(" ")[1]), headers

    def chunk(self) -> bytes:
        """The next chunk of a chunked body; empty at its end."""
        octets = int(self.until(b"\r\n"), 16)
        data = self.exactly(octets)
        assert self.exactly(2) == b"\r\n"
        return data

    def response(self, method: str = "GET") -> Response:
        status, headers = self.response_head()
        body = b""
        if method == "HEAD" or status in (204, 304) or status < 200:
            pass
        elif headers.get("transfer-encoding") == "chunked":
            while piece := self.chunk():
                body += piece
        elif "content-length" in headers:
            body = self.exactly(int(headers["content-length"]))
        else:
            body = self.rest()
        return Response(status, headers, body)

    def rest(self) -> bytes:
        """Everything until the server closes."""
        while self._more():
            pass
        found, self._buffer = self._buffer, b""
        return found

    def closed(self) -> bool:
        """Wait for the server to close; whether it did so without a further octet."""
        try:
            return self.rest() == b""
        except ConnectionResetError:
            return True


class Host(Process):
    """A running host, or another process of the package's command line."""

    def _started(
        self,
        command: Sequence[str],
        folder: Path,
        environ: Mapping[str, str],
        pass_fds: Sequence[int],
        out: IO[bytes] | None,
    ) -> Child:
        return popen(
            command,
            stdin=subprocess.PIPE if out is None else subprocess.DEVNULL,
            stdout=subprocess.PIPE if out is None else out,
            stderr=subprocess.PIPE,
            cwd=folder,
            env=environ,
            pass_fds=pass_fds,
            start_new_session=True,
        )

    @property
    def ready(self) -> dict[str, Any]:
        """What its ready line says; waits for it."""
        document: dict[str, Any] = json.loads(self.wait_for('"event":"ready"'))
        return document

    @property
    def address(self) -> str:
        return str(self.ready["listen"][0])

    def connect(self, address: str = "") -> Connection:
        return Connection(address or self.address)

    def get(self, path: str, address: str = "", **headers: str) -> Response:
        with self.connect(address) as connection:
            return connection.request("GET", path, b"", **headers)

    def post(self, path: str, body: bytes = b"") -> Response:
        with self.connect() as connection:
            return connection.request("POST", path, body)


class Executed(Host):
    """A running host that an interpreter of its own has begun."""

    def _started(
        self,
        command: Sequence[str],
        folder: Path,
        environ: Mapping[str, str],
        pass_fds: Sequence[int],
        out: IO[bytes] | None,
    ) -> Child:
        return Process._started(self, command, folder, environ, pass_fds, out)


class Project:
    """A folder of the user's, and the processes that were started in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._processes: list[Process] = []

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return path

    def manifest(self, **keys: Any) -> None:
        """Write pywatt.yaml; without `server.listen`, it listens on any free port of the loopback interface."""
        server = {"listen": "127.0.0.1:0", **keys.pop("server", {})}
        self.write("pywatt.yaml", json.dumps({"app": "main:app", **keys, "server": server}))

    def host(self, *arguments: str, pass_fds: Sequence[int] = (), env: Mapping[str, str] | None = None) -> Host:
        """Start `run`; the manifest has been written."""
        command = [sys.executable, "-m", "pywatt_host", "run", "--log-format", "json", *arguments]
        return self.start(command, pass_fds=pass_fds, env=env)

    def start(self, command: Sequence[str], pass_fds: Sequence[int] = (), env: Mapping[str, str] | None = None) -> Host:
        host = Host(command, self.folder, environment(self.folder, **(env or {})), pass_fds)
        self._processes.append(host)
        return host

    def executed(self, command: Sequence[str]) -> Host:
        """Start a command by an interpreter of its own, whatever it is."""
        host = Executed(command, self.folder, environment(self.folder))
        self._processes.append(host)
        return host

    def cli(self, *arguments: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run a verb to its end, in this process: a process of its own costs a hundred times as much."""
        return called(arguments, self.folder, environment(self.folder, **(env or {})))

    def cli_process(self, *arguments: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run a verb to its end, in a process of its own."""
        return subprocess.run(
            [sys.executable, "-m", "pywatt_host", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            cwd=self.folder,
            env=environment(self.folder, **(env or {})),
            timeout=2 * PATIENCE,
            check=False,
        )

    def end(self) -> None:
        for process in self._processes:
            process.end()
