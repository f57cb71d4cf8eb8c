"""The fixture `wattson`: an orchestrator that does what a test says, by the real protocol, over real pipes."""

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
from pywatt_host.testing.conversation import Document, Pipes
from pywatt_host.testing.finding import base_of
from pywatt_host.testing.process import LAST_LINES_TIMEOUT, PATIENCE, Process, environment

_SHOWN = 20  # lines of its log, and documents, in the text of a failure
_BAD_LINE = b"{this is no JSON"
__tracebackhide__ = True  # pytest shows the test's line, and not how it came from there to the failure

Target: TypeAlias = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


@dataclass(frozen=True, slots=True)
class Announced:
    """What the module announced. `url` is where it listens for HTTP; of a Unix socket, `listen` is the path."""

    listen: str
    endpoints: tuple[Document, ...]
    extensions: tuple[str, ...]

    @property
    def url(self) -> str:
        return f"http://{self.listen}"


class Answer(NamedTuple):
    """The answer to a request over the channel."""

    status: int
    headers: dict[str, str]
    body: bytes


class Wattson(Process):
    """The orchestrator of one module. What waits, waits `patience` seconds; failing, it shows what the module said and
    logged last."""

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
        self._pipes = Pipes(self.child.stdin, self.child.stdout)
        self._announced: Announced | None = None
        if greet:
            try:
                self.greet(**(init or {}))
            except BrokenPipeError:
                pass  # it has ended already; whoever waits for it is told
            except BaseException:
                self.end()
                raise

    def greet(self, **init: Any) -> None:
        """Send the init, these members over the usual ones."""
        usual = {"orchestrator_api": "http://127.0.0.1:9900", "module_id": "users", "env": {}, "listen": "127.0.0.1:0"}
        self.say(**{**usual, **init})

    # What is said ---------------------------------------------------------------------------------------------------

    def say(self, **document: Any) -> None:
        """One line to the module."""
        self.write(json.dumps(document).encode() + b"\n")

    def write(self, octets: bytes) -> None:
        """Any octets to the module. Raises BrokenPipeError where it does not read any more."""
        if not self._pipes.write(octets, self.patience):
            self._fail("it does not read its standard input")

    def hear(self, op: str, **members: Any) -> Document:
        """The next thing it says of that kind, with these members. What else it says meanwhile can be heard later."""
        document = self._pipes.next(
            lambda said: said["op"] == op and all(said.get(name) == value for name, value in members.items()),
            self.patience,
        )
        if document is None:
            self._fail(f"it has not said {op}")
        return document

    def listen(self) -> Document:
        """The next thing it says, whatever it is."""
        document = self._pipes.next(lambda said: True, self.patience)
        if document is None:
            self._fail("it says nothing")
        return document

    def silent(self) -> bool:
        """Whether everything that it has said so far has been heard."""
        return not self._pipes.said

    @property
    def raw(self) -> list[bytes]:
        """Every line of its standard output so far."""
        return self._pipes.raw

    @property
    def noise(self) -> list[str]:
        """The lines of its standard output that are not of the protocol: a `print` that was forgotten."""
        return self._pipes.noise

    @property
    def stderr(self) -> list[str]:
        """The lines of its standard error so far."""
        return list(self.lines)

    def _fail(self, what: str) -> NoReturn:
        if self._pipes.closed:  # it ends, most likely: its last words are wanted
            self._reader.join(LAST_LINES_TIMEOUT)
            with suppress(subprocess.TimeoutExpired):
                self.child.wait(LAST_LINES_TIMEOUT)
        said = [line.decode("utf-8", "replace").rstrip()[:500] for line in self.raw[-_SHOWN:]]
        state = "still runs" if self.child.poll() is None else f"has ended with {self.child.returncode}"
        told = "\n".join(f"  {line}" for line in said) or "  (nothing)"
        logged = "\n".join(f"  {line}" for line in self.lines[-_SHOWN:]) or "  (nothing)"
        raise AssertionError(f"{what}; the module {state}; it said last:\n{told}\nand logged last:\n{logged}")

    # The protocol ---------------------------------------------------------------------------------------------------

    def announced(self) -> Announced:
        """What it announces; waits for that. The same again when it is asked for again."""
        if self._announced is None:
            said = self.hear("announce")
            self._announced = Announced(said["listen"], tuple(said["endpoints"]), tuple(said.get("extensions") or ()))
        return self._announced

    def give(self, **secrets: str) -> None:
        """Answer as many questions for secrets as are given, in whatever order they come."""
        for _ in secrets:
            self._answer(self.hear("get_secret"), secrets)

    def _answer(self, asked: Document, secrets: Mapping[str, str]) -> None:
        name = asked["name"]
        if name not in secrets:
            self._fail(f"it asks for the secret {name}, which is not among those given ({', '.join(secrets)})")
        self.say(op="secret", name=name, value=secrets[name], **_request_id(asked))

    def rotate(self, **secrets: str) -> Document:
        """Say that these secrets have rotated, and give their new values when it asks for them. Gives its
        acknowledgement, whose `status` is `success` or `error`."""
        rotation_id = str(uuid.uuid4())
        self.say(op="rotated", keys=list(secrets), rotation_id=rotation_id)
        while True:
            said = self._pipes.next(lambda said: said["op"] in ("get_secret", "rotation_ack"), self.patience)
            if said is None:
                self._fail("it has not acknowledged the rotation")
            if said["op"] == "get_secret":
                self._answer(said, secrets)
            elif said.get("rotation_id") == rotation_id:
                return said
            else:
                self._fail(f"it acknowledges a rotation that is not this one: {said}")

    def heartbeat(self) -> Document:
        """Ask whether it lives; gives its answer, which may tell its `health`."""
        self.say(op="heartbeat")
        answer = self.hear("heartbeat_ack")
        health = answer.get("health")
        if health is not None and health.get("status") not in ("healthy", "degraded", "unhealthy"):
            self._fail(f"its heartbeat_ack is not one: {answer}")
        return answer

    def lose_heartbeats(self, beats: int = 3) -> None:
        """Some heartbeats, then never one again: a module that counts them takes its orchestrator for gone, and leaves
        with 5. Ours waits for `channels.limits.heartbeat_missed` intervals of at least a second each."""
        for _ in range(beats):
            self.heartbeat()

    def leave(self) -> None:
        """Close its standard input without a word: the orchestrator has gone."""
        self._pipes.close_input()

    def shutdown(self) -> int:
        """Ask it to stop; gives its exit code."""
        self.say(op="shutdown")
        return self.wait()

    def malformed(self, line: bytes = _BAD_LINE) -> None:
        """A line that is not of the protocol, which it has to survive: it answers a heartbeat afterwards."""
        self.write(line.rstrip(b"\n") + b"\n")
        self.heartbeat()

    def stall(self) -> None:
        """Take nothing of what it says until `resume()`: the pipe fills up, and it cannot write any more."""
        self._pipes.stall()

    def resume(self) -> None:
        """Go on taking what it says."""
        self._pipes.resume()

    def request(self, method: str, uri: str, body: bytes | None = None, **headers: str) -> str:
        """Send an HTTP request over the channel without waiting; gives its id, for `hear("http_response",
        request_id=...)`. An underscore in a header's name stands for a hyphen."""
        request_id = str(uuid.uuid4())
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        numbers = None if body is None else list(body)
        self.say(op="http_request", request_id=request_id, method=method, uri=uri, headers=named, body=numbers)
        return request_id

    def http(self, method: str, uri: str, body: bytes | None = None, **headers: str) -> Answer:
        """An HTTP request over the channel, and its answer."""
        answer = self.hear("http_response", request_id=self.request(method, uri, body, **headers))
        return Answer(answer["status_code"], answer["headers"], bytes(answer["body"] or []))

    def message(self, content: Any, source: str = "billing") -> Any:
        """Deliver a message of the module `source`: JSON, or octets as they are. Gives the reply."""
        request_id = str(uuid.uuid4())
        data = list(content if isinstance(content, bytes) else json.dumps(content).encode())
        payload = {"data": data, "format": "Json"}
        self.say(op="routed_module_message", source_module_id=source, original_request_id=request_id, payload=payload)
        answer = self.hear("route_to_module", request_id=request_id)
        if answer["target_module_id"] != source:
            self._fail(f"it answers {answer['target_module_id']} in the place of {source}")
        payload = answer["payload"]
        return payload["json"] if "json" in payload else json.loads(bytes(payload["data"]))

    # The process ----------------------------------------------------------------------------------------------------

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, once it has ended."""
        try:
            return super().wait(timeout)
        except subprocess.TimeoutExpired:
            self._fail("it has not ended")

    def kill(self) -> None:
        """End it and its children at once, as the system would that runs out of memory."""
        super().end()

    def end(self) -> None:
        """Gone with all its children, and everything of it closed."""
        super().end()
        self._pipes.close(self.patience)


def _request_id(asked: Document) -> dict[str, Any]:
    """Echoed where it is there: the extension `request_id`."""
    return {"request_id": asked["request_id"]} if "request_id" in asked else {}


class StartWattson:
    """Starts modules as processes, and ends all of them at the end of the test. Paths are relative to the folder of the
    test, where they are there, else to pytest's root directory."""

    def __init__(self, places: Sequence[Path], folder: Path) -> None:
        self._places = places
        self._folder = folder
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
        """Start a module and send it its init.

        `target` is a list (the command of a module in any language), or a manifest or its folder, a `.py` file or
        `module:app`, which `pywatt-host run` serves, with further `arguments` such as `--profile`.
        `init` holds members over the usual ones (`module_id` is `users`, `listen` a free port); not to `greet` leaves
        it to the test. `env` is added to the environment; `cwd` is the process's directory, else the
        folder that the target is relative to, for a command pytest's root.
        `timeout` bounds each wait, in seconds.
        """
        named = os.fspath(target) if isinstance(target, str | os.PathLike) else None
        base = self._places[-1] if named is None else base_of(named, self._places)
        folder = base if cwd is None else base_of(os.fspath(cwd), self._places) / cwd
        module = Wattson(
            self._command(target, arguments, base),
            folder,
            environment(self._folder, **(env or {})),
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
        """End every process that was started."""
        while self._modules:
            self._modules.pop().end()
