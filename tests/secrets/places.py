"""One place to keep secrets in for each kind of source, as the tests of the contract fill and ask it."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from pywatt_host.exceptions import MessagingError
from pywatt_host.manifest.model.secrets import SecretSource as Declared
from pywatt_host.manifest.model.secrets import Vault
from pywatt_host.secrets.source import SecretSource
from pywatt_host.secrets.sources import make_sources


def source(declared: Declared, folder: Path, environ: Mapping[str, str] | None = None, fetch: Any = None) -> Any:
    """One source, made as the host makes it."""
    (made,) = make_sources([declared], directory=folder, environ=environ or {}, fetch=fetch)
    return made


def replace(path: Path, text: str, mode: int = 0o600) -> None:
    """Write it whole: beside the old one, then in its place."""
    beside = path.with_name(f".{path.name}.new")
    beside.write_text(text, encoding="utf-8")
    beside.chmod(mode)
    os.replace(beside, path)


def mount(folder: Path, values: Mapping[str, str], version: int) -> None:
    """As the kubelet does: a folder for each version, `..data` a link to it that is swapped, a link over that for each
    name."""
    real = folder / f"..version_{version}"
    real.mkdir(parents=True)
    for name, value in values.items():
        (real / name).write_text(value, encoding="utf-8")
    link = folder / "..data_tmp"
    link.symlink_to(real.name)
    os.replace(link, folder / "..data")
    for name in values:
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")


class _Vault(BaseHTTPRequestHandler):
    """The part of Vault's KV version 2 that is asked."""

    server: VaultServer

    def do_GET(self) -> None:
        server = self.server
        server.requests.append(self.path)
        if server.status != 200:
            return self._answer(server.status, {"errors": ["as told"]})
        if self.headers.get("X-Vault-Token") != server.token:
            return self._answer(403, {"errors": ["permission denied"]})
        if self.path != "/v1/secret/data/team/users" or server.values is None:
            return self._answer(404, {"errors": []})
        return self._answer(200, {"data": {"data": server.values, "metadata": {"version": 1}}})

    def _answer(self, status: int, document: Any) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        return


class VaultServer(ThreadingHTTPServer):
    """On a free port of this machine."""

    daemon_threads = True

    def __init__(self) -> None:
        self.token = "t0ken-of-the-test"
        self.values: dict[str, Any] | None = {}
        self.status = 200
        self.requests: list[str] = []
        super().__init__(("127.0.0.1", 0), _Vault)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def declared(self, **more: Any) -> Declared:
        return Declared(vault=Vault(address=self.address, path="secret/team/users", **more))


@contextmanager
def vault_server() -> Iterator[VaultServer]:
    with VaultServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


# Kinds ----------------------------------------------------------------------------------------------------------------


@contextmanager
def env(values: Mapping[str, str], folder: Path) -> Iterator[SecretSource]:
    yield source(Declared(kind="env"), folder, values)


@contextmanager
def dotenv(values: Mapping[str, str], folder: Path) -> Iterator[SecretSource]:
    (folder / ".env").write_text("".join(f"{name}='{value}'\n" for name, value in values.items()))
    yield source(Declared(dotenv=".env"), folder)


@contextmanager
def directory(values: Mapping[str, str], folder: Path) -> Iterator[SecretSource]:
    for name, value in values.items():
        (folder / name).write_text(value + "\n")
    yield source(Declared(directory="."), folder)


@contextmanager
def kubernetes(values: Mapping[str, str], folder: Path) -> Iterator[SecretSource]:
    mount(folder / "mounted", values, 1)
    yield source(Declared(directory="mounted"), folder)


@contextmanager
def yaml_file(values: Mapping[str, str], folder: Path) -> Iterator[SecretSource]:
    replace(folder / "secrets.yaml", "".join(f"{name}: {json.dumps(value)}\n" for name, value in values.items()))
    yield source(Declared(file="secrets.yaml"), folder)


@contextmanager
def json_file(values: Mapping[str, str], folder: Path) -> Iterator[SecretSource]:
    replace(folder / "secrets.json", json.dumps(dict(values), indent=1))
    yield source(Declared(file="secrets.json"), folder)


@contextmanager
def command(values: Mapping[str, str], folder: Path) -> Iterator[SecretSource]:
    code = f"import sys; value = {dict(values)!r}.get(sys.argv[1]); value is None or print(value)"
    yield source(Declared(command=(sys.executable, "-I", "-c", code, "${name}")), folder, os.environ)


@contextmanager
def vault(values: Mapping[str, str], folder: Path) -> Iterator[SecretSource]:
    with vault_server() as server:
        server.values = dict(values)
        yield source(server.declared(token=server.token), folder)


@contextmanager
def orchestrator(values: Mapping[str, str], folder: Path) -> Iterator[SecretSource]:
    async def fetch(name: str) -> str:
        if name not in values:
            raise MessagingError("unknown_secret", f"there is no secret {name}")
        return values[name]

    yield source(Declared(kind="orchestrator"), folder, fetch=fetch)


KINDS = (env, dotenv, directory, kubernetes, yaml_file, json_file, command, vault, orchestrator)
