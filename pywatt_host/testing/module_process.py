"""A module that runs as a process of its own, with workers, and an httpx client for it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from pywatt_host.exceptions import MessagingError, SecretError
from pywatt_host.runtime.control_client import RefusedError, ask
from pywatt_host.testing.process import Process

_READY = '"event":"ready"'
_FORCED = 5.0  # seconds for the end of a process that is told to stop a second time


class ModuleProcess(httpx.Client):
    """A client for a module that runs as `pywatt-host run`. Each request has a connection of its own, so that every
    worker gets some of them.

        module = pywatt_module.process("pywatt.yaml", workers=2, secrets={"KEY": "of-the-test"})
        assert module.get("/users").status_code == 200
    """

    def __init__(self, process: Process, control: Path, secrets: _SecretFiles | None, timeout: float) -> None:
        """`process` prints a ready line. `control` is its control socket. Raises AssertionError where the process ends
        before it is ready."""
        self._process = process
        self.timeout_of_waits = timeout
        self._control = control
        self._secrets = secrets
        address = str(json.loads(process.wait_for(_READY))["listen"][0])
        path = address.removeprefix("unix:") if address.startswith("unix:") else None
        super().__init__(
            base_url="http://module.test" if path is not None else address,
            transport=httpx.HTTPTransport(uds=path, limits=httpx.Limits(max_keepalive_connections=0)),
            timeout=timeout,
        )

    @property
    def process(self) -> Process:
        """The process of the host, which is the parent of its workers."""
        return self._process

    @property
    def logs(self) -> list[dict[str, Any]]:
        """What the host and its workers have logged so far."""
        return self.process.logs

    def status(self) -> dict[str, Any]:
        """What `pywatt-host ps --json` shows of the host."""
        return ask(self._control, "GET", "/status", timeout=self.timeout_of_waits)

    def worker_pids(self) -> list[int]:
        """The process ids of the workers that accept connections; none where the host is a single process."""
        workers = self.status().get("workers", ())
        return [worker["pid"] for worker in workers if worker["state"] == "accepting"]

    def deliver(self, type: str, message: Mapping[str, Any] | None = None) -> Any:
        """Pass a message to its handler in one of the workers, and return the reply, in which secrets are masked.
        Raises MessagingError."""
        document = {"type": type, "content": dict(message or {}), "timeout": self.timeout_of_waits}
        answer = ask(self._control, "POST", "/send", document, self.timeout_of_waits)
        if "error" in answer:
            raise MessagingError(answer["error"]["code"], answer["error"]["message"])
        return answer["reply"]

    def rotate(self, **secrets: str) -> None:
        """Rotate secrets in all workers, hooks included. Raises SecretError where a worker refuses; all of them have
        the old values then."""
        if self._secrets is None:
            raise SecretError("pass secrets={...} to pywatt_module.process to rotate them")
        before = self._secrets.write(secrets)
        for name in secrets:
            try:
                ask(self._control, "POST", "/rotate", {"name": name}, self.timeout_of_waits)
            except RefusedError as error:
                self._secrets.write(before)
                raise SecretError(str(error)) from None

    def reload(self) -> dict[str, Any]:
        """Reload the manifest and the code, and return the verdict: `ok`, `generation`, and where it was refused
        `stage` and `reason`."""
        return ask(self._control, "POST", "/reload", {}, self.timeout_of_waits)

    def stop(self) -> int:
        """Let the host drain and end. Returns its exit code."""
        self.close()
        if self.process.child.poll() is None:
            self.process.signal(signal.SIGTERM)
        return self.process.wait(self.timeout_of_waits)

    def end(self) -> None:
        """End the host and everything that it has started, by force where it does not stop."""
        try:
            self.stop()
        except subprocess.TimeoutExpired:
            self.process.signal(signal.SIGTERM)  # the second one forces the end, also of the workers
            try:
                self.process.wait(_FORCED)
            except subprocess.TimeoutExpired:
                pass  # `end` kills it
        finally:
            self.process.end()


class _SecretFiles:
    """The secrets of a test as a directory with a file for each."""

    def __init__(self, folder: Path, values: Mapping[str, str]) -> None:
        self.folder = folder
        self._values: dict[str, str] = {}
        folder.mkdir(mode=0o700)
        self.write(values)

    def write(self, values: Mapping[str, str]) -> dict[str, str]:
        """Replace values, and return those from before."""
        before = {name: self._values[name] for name in values if name in self._values}
        for name, value in values.items():
            new = self.folder.with_name(f"{self.folder.name}.new")
            new.touch(mode=0o600)
            new.write_text(value, encoding="utf-8")
            os.replace(new, self.folder / name)
            self._values[name] = value
        return before


def start_module(
    target: str,
    folder: Path,
    runtime_dir: Path,
    *,
    workers: int,
    secrets: Mapping[str, str] | None,
    settings: Sequence[str],
    environ: Mapping[str, str],
    profile: str | None,
    timeout: float,
) -> ModuleProcess:
    """Start a module as a process and return a client once it is ready. `target` is what `run` serves, `folder` the
    working directory, `runtime_dir` an empty folder with a short path, `settings` are overrides. Raises AssertionError
    with the log of a process that does not become ready."""
    control = runtime_dir / "control.sock"
    files = _SecretFiles(runtime_dir / "secrets", secrets) if secrets is not None else None
    chosen = ["server.listen=127.0.0.1:0", f"server.control={control}", f"server.workers={workers}"]
    if files is not None:
        chosen.append(f"secrets.sources={json.dumps([{'directory': str(files.folder)}])}")
    options = [word for setting in (*chosen, *settings) for word in ("--set", setting)]
    options += ["--profile", profile] if profile is not None else []
    command = [sys.executable, "-m", "pywatt_host", "run", "--standalone", "--log-format", "json", *options, target]
    process = Process(command, folder, environ, patience=timeout)
    try:
        return ModuleProcess(process, control, files, timeout)
    except BaseException:
        process.end()
        raise


def import_path(value: object) -> str:
    """The import path of an application or a factory, for another process. Raises TypeError where it has none."""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str) or "<" in name:
        raise TypeError(
            f"{value!r} cannot be imported by another process: pass a function of a module, or an import path such as"
            ' "main:app"'
        )
    return f"{module}:{name}"
