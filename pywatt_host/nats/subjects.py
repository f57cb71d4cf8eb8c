"""The subjects that modules use on NATS. The second token says what it is; the name of who sends always stands where
the permissions of a NATS user can hold it. docs/many-machines.md has the list."""

from __future__ import annotations

import re
import string

_SAFE = frozenset(string.ascii_letters + string.digits + "_-")
_ESCAPED = re.compile(r"=([0-9A-F]{2})")


def token(name: str) -> str:
    """A name as one token of a subject: what NATS would take for something else as `=` and two hexadecimal digits for
    each of its octets."""
    return "".join(char if char in _SAFE else "".join(f"={octet:02X}" for octet in char.encode()) for char in name)


def name(of: str) -> str:
    """The name that a token stands for."""
    octets = _ESCAPED.sub(lambda match: chr(int(match[1], 16)), of).encode("latin-1", "replace")
    return octets.decode("utf-8", "replace")


class Subjects:
    """All of them, under one prefix."""

    def __init__(self, prefix: str, module_id: str) -> None:
        self._prefix = prefix
        self._own = token(module_id)
        self.group = self._own  # the queue group in which the processes of a module share what comes
        self.work_stream = f"{prefix}-work"
        self.dead_stream = f"{prefix}-dead"
        self.bucket = f"{prefix}-services"
        self.marks = f"{prefix}-suspects"

    @property
    def inbox(self) -> str:
        """Prefix of the subjects on which answers come."""
        return f"_INBOX.{self._own}"

    def message(self, target: str) -> str:
        return f"{self._prefix}.message.{token(target)}.{self._own}"

    @property
    def messages(self) -> str:
        """Those to this module, of anybody."""
        return f"{self._prefix}.message.{self._own}.*"

    def work(self, target: str) -> str:
        return f"{self._prefix}.work.{token(target)}.{self._own}"

    @property
    def works(self) -> str:
        """Kept ones to this module, of anybody."""
        return f"{self._prefix}.work.{self._own}.*"

    @property
    def all_work(self) -> str:
        return f"{self._prefix}.work.>"

    def dead(self, source: str) -> str:
        """Where a message to this module is put that nobody could handle."""
        return f"{self._prefix}.dead.{self._own}.{token(source)}"

    @property
    def all_dead(self) -> str:
        return f"{self._prefix}.dead.>"

    def event(self, topic: str) -> str:
        return f"{self._prefix}.event.{self._own}.{_topic(topic)}"

    def events(self, topic: str) -> str:
        """Those of a topic, of anybody."""
        return f"{self._prefix}.event.*.{_topic(topic)}"

    def source(self, subject: str) -> str:
        """Who has sent a message, as its subject says: the last token; of an event the third."""
        tokens = subject.split(".")
        return name(tokens[2] if tokens[1] == "event" else tokens[-1])

    def key(self, instance: str, number: int) -> str:
        """Where in the bucket a process of this module keeps one of its services."""
        return f"{self._own}.{instance}.{number}"

    @property
    def entries(self) -> str:
        """Subjects on which every change in the bucket is told."""
        return f"$KV.{self.bucket}.>"


def _topic(topic: str) -> str:
    return ".".join(token(part) for part in topic.split("."))
