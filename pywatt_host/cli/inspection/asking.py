"""Asks a child process one question, and reads its answer while it runs.

The child writes lines of JSON to a pipe of its own: `at` says where a long import stands, `serves` says that the import
serves and therefore does not end, and `answer` ends the conversation. What the application prints goes to another pipe,
of which the end is kept for a child that ends without an answer.
"""

from __future__ import annotations

import json
import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from io import FileIO
from typing import Any

from pywatt_host.cli.inspection.result import ChildPlace, Failure
from pywatt_host.supervision.process import describe_exit, signal_group

_CHILD = str(__package__)
MARK = b"pywatt-inspection:"  # before each line of the child; other lines are a dump of its stack
_POLL_INTERVAL = 0.2  # seconds between two looks at whether the child has ended
_PROGRESS_INTERVAL = 5.0  # seconds between two lines about an import that takes long
_OUTPUT_BYTES = 4096  # of what the application printed, from its end
_OUTPUT_LINES = 15
_CHUNK_BYTES = 1 << 18
_DUMPED_FRAME = re.compile(r'^  File "(.*)", line (\d+) in ', re.MULTILINE)


def ask_child(
    document: Mapping[str, Any],
    timeout: float,
    progress: Callable[[str], None] = lambda line: None,
    place: ChildPlace | None = None,
) -> dict[str, Any] | Failure:
    """What the child answers to `document`, or why it does not within `timeout` seconds. The child and everything that
    it has started are killed then."""
    options = ["-P"] if place is not None else []  # as `up` starts modules
    deadline = time.monotonic() + timeout
    with ExitStack() as stack:
        answers, answering = _pipe(stack)
        output, printing = _pipe(stack)
        child = subprocess.Popen(
            [sys.executable, *options, "-m", _CHILD],
            cwd=place.directory if place is not None else None,
            env=dict(place.environ) if place is not None else None,
            stdin=subprocess.PIPE,
            stdout=printing,
            stderr=printing,
            pass_fds=(answering.fileno(),),
            start_new_session=True,
        )
        question = json.dumps({**document, "answer_to": answering.fileno(), "deadline": deadline}).encode()
        answering.close()
        printing.close()
        assert child.stdin is not None
        stack.enter_context(child.stdin)
        try:
            return _Conversation(child, answers, output, question, timeout, deadline, progress).result()
        finally:
            signal_group(child.pid, signal.SIGKILL)
            child.wait()


def _pipe(stack: ExitStack) -> tuple[FileIO, FileIO]:
    """The ends to read from and to write to, closed with the stack."""
    reading, writing = os.pipe()
    return stack.enter_context(FileIO(reading, "r")), stack.enter_context(FileIO(writing, "w"))


class _Conversation:
    """The question, the lines that the child has written until now, and the end of what its application printed."""

    def __init__(
        self,
        child: subprocess.Popen[bytes],
        answers: FileIO,
        output: FileIO,
        question: bytes,
        timeout: float,
        deadline: float,
        progress: Callable[[str], None],
    ) -> None:
        self._child = child
        self._answers = answers
        self._output = output
        self._question = memoryview(question)
        self._timeout = timeout
        self._deadline = deadline
        self._progress = progress
        self._progress_at = time.monotonic() + _PROGRESS_INTERVAL
        self._unfinished = bytearray()  # a line of the child without its end
        self._dump = b""
        self._at: dict[str, str] = {}
        self._printed = b""

    def result(self) -> dict[str, Any] | Failure:
        stdin = self._child.stdin
        with selectors.DefaultSelector() as selector:
            for file in (stdin, self._output, self._answers):
                assert file is not None
                os.set_blocking(file.fileno(), False)
                selector.register(file, selectors.EVENT_WRITE if file is stdin else selectors.EVENT_READ)
            while True:
                ended = self._child.poll()
                left = self._deadline - time.monotonic()
                for key, _ in selector.select(0 if ended is not None else max(0.0, min(left, _POLL_INTERVAL))):
                    if key.fileobj is self._child.stdin:
                        self._write(selector)
                    elif key.fileobj is self._output:
                        self._keep_output(selector)
                    elif (found := self._read(selector)) is not None:
                        return found
                if ended is not None and not self._more_to_read(selector):
                    return self._ended(ended)
                if left <= 0:
                    return self._too_slow()
                if time.monotonic() >= self._progress_at and self._at:
                    self._progress_at = time.monotonic() + _PROGRESS_INTERVAL
                    self._progress(f"still importing {self._at['app']}: it is at {self._at['place']}")

    def _more_to_read(self, selector: selectors.BaseSelector) -> bool:
        """Whether the ended child left something in its pipes. Processes that it started may hold them open."""
        readable = [key for key, _ in selector.select(0) if key.fileobj is not self._child.stdin]
        return bool(readable)

    def _write(self, selector: selectors.BaseSelector) -> None:
        stdin = self._child.stdin
        assert stdin is not None
        try:
            self._question = self._question[os.write(stdin.fileno(), self._question[:_CHUNK_BYTES]) :]
        except BrokenPipeError:
            self._question = self._question[:0]
        if not self._question:
            selector.unregister(stdin)
            stdin.close()

    def _keep_output(self, selector: selectors.BaseSelector) -> None:
        data = os.read(self._output.fileno(), _CHUNK_BYTES)
        self._printed = (self._printed + data)[-_OUTPUT_BYTES:]
        if not data:
            selector.unregister(self._output)

    def _read(self, selector: selectors.BaseSelector) -> dict[str, Any] | Failure | None:
        data = os.read(self._answers.fileno(), _CHUNK_BYTES)
        if not data:
            selector.unregister(self._answers)
            return None
        self._unfinished += data
        if b"\n" not in data:
            return None
        *lines, rest = bytes(self._unfinished).split(b"\n")
        self._unfinished = bytearray(rest)
        for line in lines:
            if not line.startswith(MARK):
                self._dump += line + b"\n"
                continue
            try:
                found = self._told(json.loads(line[len(MARK) :]))
            except (ValueError, LookupError, TypeError):  # the application has written to a descriptor of ours
                return Failure("the application writes to file descriptors that it has not opened", key=self._key)
            if found is not None:
                return found
        return None

    def _told(self, told: dict[str, Any]) -> dict[str, Any] | Failure | None:
        if "answer" in told:
            answer: dict[str, Any] = told["answer"]
            return answer
        if "serves" in told:
            return self._serves(told["serves"])
        self._at = told["at"]
        return None

    @property
    def _key(self) -> str:
        return self._at.get("key", "app")

    def _serves(self, told: Mapping[str, str]) -> Failure:
        message = (
            f"{told['place']} serves while it is imported (it listens on {told['address']}), so the import never ends"
        )
        return Failure(message, 'move that call under `if __name__ == "__main__":`', told["key"])

    def _too_slow(self) -> Failure:
        place = self._at.get("place", "") or _place_of(self._dump.decode("utf-8", "replace"))
        message = f"importing the application took longer than {self._timeout:g}s" + (
            f"; it is at {place}" if place else ""
        )
        hint = (
            'move what waits or serves there under `if __name__ == "__main__":`, or into the start-up' if place else ""
        )
        return Failure(message, hint, self._key, self._last_lines())

    def _ended(self, code: int) -> Failure:
        message = f"importing the application ended the process ({describe_exit(code)})"
        return Failure(message, key=self._key, output=self._last_lines())

    def _last_lines(self) -> str:
        """The last lines that the application printed."""
        lines = self._printed.decode("utf-8", "replace").splitlines()
        whole = lines[1:] if len(self._printed) == _OUTPUT_BYTES else lines
        return "\n".join([line.rstrip() for line in whole if line.strip()][-_OUTPUT_LINES:])


def _place_of(dump: str) -> str:
    """The innermost place of the main thread, which a dump of all stacks has at its end."""
    stack = dump.rpartition("most recent call first")[2]
    frame = _DUMPED_FRAME.search(stack)
    return f"{frame[1]}:{frame[2]}" if frame is not None else ""
