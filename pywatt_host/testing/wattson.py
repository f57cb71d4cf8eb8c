"""The objects behind the fixture `wattson`: an orchestrator that a test controls, with the real protocol over real
pipes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeAlias

from pywatt_host.manifest.values import IMPORT_PATTERN
from pywatt_host.supervision.process import describe_exit
from pywatt_host.testing.paths import base_folder
from pywatt_host.testing.pipes import Document, ProtocolPipes
from pywatt_host.testing.process import LAST_LINES_TIMEOUT, PATIENCE, Process, environment

_SHOWN_LINES = 20  # of the log, and of the protocol, in the text of a failure
_BAD_LINE = b"{this is no JSON"
__tracebackhide__ = True  # pytest shows the line of the test, and no lines of this file

Target: TypeAlias = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


@dataclass(frozen=True, slots=True)
class Announced:
    """What a module announced: the address on which it listens (for a Unix socket its path), its endpoints, and the
    protocol extensions that it supports.

    >>> Announced("127.0.0.1:4102", (), ("health",)).url
    'http://127.0.0.1:4102'
    """

    listen: str
    endpoints: tuple[Document, ...]
    extensions: tuple[str, ...]

    @property
    def url(self) -> str:
        """The URL of the module, if it listens on TCP."""
        return f"http://{self.listen}"


class Answer(NamedTuple):
    """The response to an HTTP request over the channel."""

    status: int
    headers: dict[str, str]
    body: bytes


class Wattson(Process):
    """The orchestrator of one module, and the module's process.

    Every wait takes `timeout` seconds at most. A wait that fails raises AssertionError with the last messages and log
    lines of the module.

        module = wattson("pywatt.yaml")
        module.give(KEY="first-value")
        module.announced()
        assert module.rotate(KEY="second-value")["status"] == "success"
        assert module.shutdown() == 0
    """

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        environ: Mapping[str, str],
        *,
        init: Mapping[str, Any] | None = None,
        greet: bool = True,
        patience: float = PATIENCE,
    ) -> None:
        super().__init__(command, folder, environ, pipes=True, patience=patience)
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        self._pipes = ProtocolPipes(self.child.stdin, self.child.stdout)
        self._announced: Announced | None = None
        if greet:
            try:
                self.greet(**(init or {}))
            except BrokenPipeError:
                pass  # the process has ended already; the next wait reports that
            except BaseException:
                self.end()
                raise

    def greet(self, **init: Any) -> None:
        """Send the `init` message. `init` has members that replace the usual ones."""
        usual = {"orchestrator_api": "http://127.0.0.1:9900", "module_id": "users", "env": {}, "listen": "127.0.0.1:0"}
        self.say(**{**usual, **init})

    # Messages ---------------------------------------------------------------------------------------------------

    def say(self, **document: Any) -> None:
        """Send one message to the module, with these members."""
        self.write(json.dumps(document).encode() + b"\n")

    def write(self, data: bytes) -> None:
        """Send any bytes to the module. Raises BrokenPipeError if the module has closed its standard input."""
        if not self._pipes.write(data, self.patience):
            self._fail("the module does not read its standard input")

    def hear(self, op: str, **members: Any) -> Document:
        """Wait for the next message with this `op` and these members. Other messages that arrive meanwhile stay
        available for later calls."""
        document = self._pipes.next(
            lambda message: message["op"] == op and all(message.get(name) == value for name, value in members.items()),
            self.patience,
        )
        if document is None:
            self._fail(f"the module has not sent {op}")
        return document

    def listen(self) -> Document:
        """Wait for the next message of any kind."""
        document = self._pipes.next(lambda message: True, self.patience)
        if document is None:
            self._fail("the module has sent no message")
        return document

    def silent(self) -> bool:
        """Whether no message of the module is left that `hear` or `listen` could return at once."""
        return not self._pipes.unread

    @property
    def raw(self) -> list[bytes]:
        """Every line of standard output so far."""
        return self._pipes.raw

    @property
    def noise(self) -> list[str]:
        """The lines of standard output that are not of the protocol, such as those of a forgotten `print`."""
        return self._pipes.noise

    @property
    def stderr(self) -> list[str]:
        """The lines of standard error so far."""
        return list(self.lines)

    def _fail(self, what: str) -> NoReturn:
        if self._pipes.closed:  # the process is probably ending: wait for its last lines
            self._reader.join(LAST_LINES_TIMEOUT)
            with suppress(subprocess.TimeoutExpired):
                self.child.wait(LAST_LINES_TIMEOUT)
        sent = [line.decode("utf-8", "replace").rstrip()[:500] for line in self.raw[-_SHOWN_LINES:]]
        code = self.child.poll()
        state = "still runs" if code is None else f"has ended ({describe_exit(code)})"
        shown = "\n".join(f"  {line}" for line in sent) or "  (nothing)"
        logged = "\n".join(f"  {line}" for line in self.lines[-_SHOWN_LINES:]) or "  (nothing)"
        raise AssertionError(f"{what}; the process {state}; its last messages:\n{shown}\nits last log lines:\n{logged}")

    # The protocol ---------------------------------------------------------------------------------------------------

    def announced(self) -> Announced:
        """Wait until the module announces itself. Later calls return the same announcement."""
        if self._announced is None:
            message = self.hear("announce")
            self._announced = Announced(
                message["listen"], tuple(message["endpoints"]), tuple(message.get("extensions") or ())
            )
        return self._announced

    def give(self, **secrets: str) -> None:
        """Answer one request for each of these secrets, in the order in which the module sends them."""
        for _ in secrets:
            self._answer(self.hear("get_secret"), secrets)

    def _answer(self, asked: Document, secrets: Mapping[str, str]) -> None:
        name = asked["name"]
        if name not in secrets:
            self._fail(f"the module asks for the secret {name}, which is not among those given ({', '.join(secrets)})")
        self.say(op="secret", name=name, value=secrets[name], **_request_id(asked))

    def rotate(self, **secrets: str) -> Document:
        """Announce that these secrets have rotated, and give their new values when the module asks for them. Returns
        the acknowledgement, whose `status` is `success` or `error`."""
        rotation_id = str(uuid.uuid4())
        self.say(op="rotated", keys=list(secrets), rotation_id=rotation_id)
        while True:
            message = self._pipes.next(lambda message: message["op"] in ("get_secret", "rotation_ack"), self.patience)
            if message is None:
                self._fail("the module has not acknowledged the rotation")
            if message["op"] == "get_secret":
                self._answer(message, secrets)
            elif message.get("rotation_id") == rotation_id:
                return message
            else:
                self._fail(f"the module acknowledges another rotation: {message}")

    def heartbeat(self) -> Document:
        """Send a heartbeat and wait for its answer, which may have the `health` of the module."""
        self.say(op="heartbeat")
        answer = self.hear("heartbeat_ack")
        health = answer.get("health")
        if health is not None and health.get("status") not in ("healthy", "degraded", "unhealthy"):
            self._fail(f"the health in heartbeat_ack is not valid: {answer}")
        return answer

    def lose_heartbeats(self, beats: int = 3) -> None:
        """Send some heartbeats, and then no more. A module that counts them concludes that its orchestrator is gone,
        and exits with code 5. A host of this package waits for `channels.limits.heartbeat_missed` intervals of at least
        one second each."""
        for _ in range(beats):
            self.heartbeat()

    def leave(self) -> None:
        """Close the module's standard input without a shutdown, as if the orchestrator had ended."""
        self._pipes.close_input()

    def shutdown(self) -> int:
        """Send shutdown and wait for the end of the process. Returns the exit code."""
        self.say(op="shutdown")
        return self.wait()

    def malformed(self, line: bytes = _BAD_LINE) -> None:
        """Send a line that is not of the protocol, and check that the module still answers a heartbeat."""
        self.write(line.rstrip(b"\n") + b"\n")
        self.heartbeat()

    def stall(self) -> None:
        """Read nothing from the module until `resume()`. Once the pipe is full, the module cannot write any more."""
        self._pipes.stall()

    def resume(self) -> None:
        """Read from the module again, after `stall()`."""
        self._pipes.resume()

    def request(self, method: str, uri: str, body: bytes | None = None, **headers: str) -> str:
        """Send an HTTP request over the channel, without waiting for the response. Returns its id, for
        `hear("http_response", request_id=...)`. An underscore in the name of a header stands for a hyphen."""
        request_id = str(uuid.uuid4())
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        numbers = None if body is None else list(body)
        self.say(op="http_request", request_id=request_id, method=method, uri=uri, headers=named, body=numbers)
        return request_id

    def http(self, method: str, uri: str, body: bytes | None = None, **headers: str) -> Answer:
        """Send an HTTP request over the channel, and wait for the response. The arguments are those of `request`."""
        answer = self.hear("http_response", request_id=self.request(method, uri, body, **headers))
        return Answer(answer["status_code"], answer["headers"], bytes(answer["body"] or []))

    def message(self, content: Any, source: str = "billing") -> Any:
        """Deliver a message from the module `source`, and return the reply. `content` is sent as JSON, or as it is if
        it is bytes."""
        request_id = str(uuid.uuid4())
        data = list(content if isinstance(content, bytes) else json.dumps(content).encode())
        payload = {"data": data, "format": "Json"}
        self.say(op="routed_module_message", source_module_id=source, original_request_id=request_id, payload=payload)
        answer = self.hear("route_to_module", request_id=request_id)
        if answer["target_module_id"] != source:
            self._fail(f"the module replies to {answer['target_module_id']} instead of {source}")
        payload = answer["payload"]
        return payload["json"] if "json" in payload else json.loads(bytes(payload["data"]))

    # The process ----------------------------------------------------------------------------------------------------

    def wait(self, timeout: float | None = None) -> int:
        """Wait until the process has ended. Returns its exit code, negative for a signal. `timeout` is in seconds; the
        default is that of the module."""
        try:
            return super().wait(timeout)
        except subprocess.TimeoutExpired:
            self._fail("the process has not ended")

    def kill(self) -> None:
        """Kill the process and its children at once, as a system without free memory would."""
        super().end()

    def end(self) -> None:
        """Kill the process and its children, and close its pipes."""
        super().end()
        self._pipes.close(self.patience)


def _request_id(asked: Document) -> dict[str, Any]:
    """The `request_id` of a message, which the answer repeats (the extension `request_id`)."""
    return {"request_id": asked["request_id"]} if "request_id" in asked else {}


class StartWattson:
    """Starts modules as processes: the value of the fixture `wattson`. All processes end at the end of the test.

    A relative path is relative to the folder of the test if it exists there, else to pytest's root folder.
    """

    def __init__(self, folders: Sequence[Path], runtime_dir: Path) -> None:
        """`folders` are those for relative paths, in their order; `runtime_dir` is the folder for control sockets."""
        self._folders = folders
        self._runtime_dir = runtime_dir
        self._modules: list[Wattson] = []

    def __call__(
        self,
        target: Target,
        *,
        arguments: Sequence[str] = (),
        init: Mapping[str, Any] | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        greet: bool = True,
        timeout: float = PATIENCE,
    ) -> Wattson:
        """Start a module and send it the `init` message.

        `target` is what `pywatt-host run` serves: a manifest or its folder, a `.py` file, or an import path such as
        `main:app`. Or it is a list: the command of a module in any language.
        `arguments` are added to the command, such as ["--profile", "dev"].
        `init` has members that replace the usual ones: `module_id` is `users`, `listen` is 127.0.0.1 with port 0.
        With `greet=False` no `init` is sent; the test calls `greet` itself.
        `env` is added to the environment of the process.
        `cwd` is the working directory of the process. The default is the folder to which the target is relative; for a
        command, pytest's root folder.
        `timeout` is the longest time that each wait may take, in seconds.

        Raises OSError if the command cannot be run.
        """
        named = os.fspath(target) if isinstance(target, str | os.PathLike) else None
        base = self._folders[-1] if named is None else base_folder(named, self._folders)
        folder = base if cwd is None else base_folder(os.fspath(cwd), self._folders) / cwd
        module = Wattson(
            self._command(target, arguments, base),
            folder,
            environment(self._runtime_dir, **(env or {})),
            init=init,
            greet=greet,
            patience=timeout,
        )
        self._modules.append(module)
        return module

    def _command(self, target: Target, arguments: Sequence[str], base: Path) -> list[str]:
        if not isinstance(target, str | os.PathLike):
            return [*(os.fspath(word) for word in target), *arguments]
        named = os.fspath(target)
        path = base / named
        shown = named if re.match(IMPORT_PATTERN, named) and not path.exists() else str(path)
        run = ["-m", "pywatt_host", "run", "--orchestrated", "--log-format", "json"]
        return [sys.executable, *run, *arguments, shown]

    def end(self) -> None:
        """Kill every process that was started, and its children."""
        while self._modules:
            self._modules.pop().end()
