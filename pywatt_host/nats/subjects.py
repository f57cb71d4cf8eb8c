"""The subjects that modules use on NATS. The second token tells what a message is. The name of the sender is always at
a place where the permissions of a NATS user can bind it. docs/many-machines.md has the list."""

from __future__ import annotations

import re
import string

_SAFE = frozenset(string.ascii_letters + string.digits + "_-")
_ESCAPED = re.compile(r"=([0-9A-F]{2})")


def token(name: str) -> str:
    """A name as one token of a subject. Characters with a meaning of their own in NATS are written as `=` and two
    hexadecimal digits for each of their bytes.

    >>> token("a.b")
    'a=2Eb'
    """
    return "".join(char if char in _SAFE else "".join(f"={byte:02X}" for byte in char.encode()) for char in name)


def name(of: str) -> str:
    """The name that a token stands for."""
    encoded = _ESCAPED.sub(lambda match: chr(int(match[1], 16)), of).encode("latin-1", "replace")
    return encoded.decode("utf-8", "replace")


class Subjects:
    """The subjects of one module, under one prefix."""

    def __init__(self, prefix: str, module_id: str) -> None:
        self._prefix = prefix
        self._own = token(module_id)
        self.group = self._own  # the queue group in which the processes of a module share its messages
        self.work_stream = f"{prefix}-work"
        self.dead_stream = f"{prefix}-dead"
        self.bucket = f"{prefix}-services"
        self.marks = f"{prefix}-suspects"

    @property
    def inbox(self) -> str:
        """The prefix of the subjects on which answers arrive."""
        return f"_INBOX.{self._own}"

    def message(self, target: str) -> str:
        return f"{self._prefix}.message.{token(target)}.{self._own}"

    @property
    def messages(self) -> str:
        """Messages to this module, from any module."""
        return f"{self._prefix}.message.{self._own}.*"

    def work(self, target: str) -> str:
        return f"{self._prefix}.work.{token(target)}.{self._own}"

    @property
    def works(self) -> str:
        """Kept messages to this module, from any module."""
        return f"{self._prefix}.work.{self._own}.*"

    @property
    def all_work(self) -> str:
        return f"{self._prefix}.work.>"

    def dead(self, source: str) -> str:
        """The dead letters of messages to this module."""
        return f"{self._prefix}.dead.{self._own}.{token(source)}"

    @property
    def all_dead(self) -> str:
        return f"{self._prefix}.dead.>"

    def event(self, topic: str) -> str:
        return f"{self._prefix}.event.{self._own}.{_topic(topic)}"

    def events(self, topic: str) -> str:
        """Events of a topic, from any module."""
        return f"{self._prefix}.event.*.{_topic(topic)}"

    def source(self, subject: str) -> str:
        """The sender of a message, which its subject names: in the last token, and for an event in the third."""
        tokens = subject.split(".")
        return name(tokens[2] if tokens[1] == "event" else tokens[-1])

    def key(self, instance: str, number: int) -> str:
        """The key in the bucket for one of the services of a process of this module."""
        return f"{self._own}.{instance}.{number}"

    @property
    def entries(self) -> str:
        """The subjects on which NATS publishes every change of the bucket."""
        return f"$KV.{self.bucket}.>"


def _topic(topic: str) -> str:
    return ".".join(token(part) for part in topic.split("."))
