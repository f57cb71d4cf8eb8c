"""Every error that this package raises on purpose: one tree, fields first, the text made from the fields.

No text holds a secret's value, and none of them is a bug of ours: a bug keeps its own exception and its traceback.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pywatt_host.manifest.problems import Problem


class HostError(Exception):
    """The root of the tree. `exit_code` is what the command line leaves with when the error reaches it."""

    exit_code = 1


class ManifestError(HostError):
    """The manifest, a profile or an override is wrong. Holds every fault found, in the order of the file."""

    exit_code = 2

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class AppLoadError(HostError):
    """The user's application could not be imported, called or recognised.

    `reason` is one of `no-module`, `module-raised`, `no-attribute`, `not-an-app`, `asgi2`, `factory-raised`,
    `factory-returned-nothing`, `factory-arguments`, `wrong-interface`, `no-directory`, `lifespan-failed`,
    `decorator-differs`, `not-a-builder`, `state-raised`. Where the user's own code raised, that exception is
    `__cause__`, its traceback untouched.
    """

    exit_code = 3

    def __init__(self, import_path: str, reason: str, message: str, hint: str = "") -> None:
        self.import_path = import_path
        self.reason = reason
        self.message = message
        self.hint = hint
        super().__init__(f"{import_path}: {message}" + (f" ({hint})" if hint else ""))


class BindError(HostError):
    """A listen address cannot be had: in use, not permitted, not an address of this machine, not a socket."""

    exit_code = 3

    def __init__(self, address: str, key: str, message: str, hint: str = "") -> None:
        self.address = address
        self.key = key
        self.message = message
        self.hint = hint
        super().__init__(f"{key}: cannot listen on {address}: {message}" + (f" ({hint})" if hint else ""))


class ServiceError(HostError):
    """A service could not start, stopped by itself, or did not stop in time; its own error is `__cause__`."""

    exit_code = 3

    def __init__(self, service: str, message: str) -> None:
        self.service = service
        self.message = message
        super().__init__(f"{service}: {message}")


class SecretError(HostError):
    """Secrets are missing or of another type, a source cannot be asked, or a rotation was refused.

    `missing` has, for each secret at fault, its name and why, without a word of its value.
    """

    exit_code = 3

    def __init__(self, message: str, missing: Sequence[tuple[str, str]] = ()) -> None:
        self.missing = tuple(missing)
        self.message = message
        super().__init__("; ".join([message, *(f"{name}: {why}" for name, why in self.missing)]))


class AuthError(HostError):
    """A scheme of `auth` or a client of `clients` has no usable key material: too short, not a key, not readable, not
    to be had. `key` is the manifest's key; nothing in the text is of a secret's value."""

    exit_code = 3

    def __init__(self, key: str, message: str, hint: str = "") -> None:
        self.key = key
        self.message = message
        self.hint = hint
        super().__init__(f"{key}: {message}" + (f" ({hint})" if hint else ""))


class StoreError(HostError):
    """A database or a cache cannot be used, or refused what was asked. `store` is the manifest's key, such as
    `databases.default`; `code` says why, the same on every backend:

    `unavailable` (not reachable, gone in the middle, starting or stopping), `timeout` (no answer within the time that
    the statement or operation has), `exhausted` (no free connection within `pool.timeout`), `authentication`,
    `integrity` (unique, foreign key, not null, check), `conflict` (deadlock or serialization failure: run the
    transaction again), `full` (the disk, or the memory of a cache), `read_only`, `statement` (the server does not
    accept it), `arguments` (a value or placeholder that does not fit), `connection` (used by two tasks at once, after
    its end, or after its transaction broke). The driver's own error, where there is one, is `__cause__`.
    """

    exit_code = 3

    def __init__(self, store: str, code: str, message: str) -> None:
        self.store = store
        self.code = code
        self.message = message
        super().__init__(f"{store}: {message}")

    @property
    def passing(self) -> bool:
        """Whether it is likely to be over soon, so that a client may ask again: 503 rather than 500."""
        return self.code in ("unavailable", "timeout", "exhausted", "authentication", "full")


class ProtocolError(HostError):
    """A peer sent something that is not the protocol. `code` is `json`, `message` (a member is missing or of another
    type), `too-large`, `format`, `handshake`; nothing in the text is longer than a line."""

    exit_code = 4

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        self.message = message
        super().__init__(message)


class ChannelError(HostError):
    """A channel cannot be opened, or was lost. `channel` is `stdio`, `ipc` or `tcp`; `address` is the other side's."""

    exit_code = 4

    def __init__(self, channel: str, address: str, message: str) -> None:
        self.channel = channel
        self.address = address
        self.message = message
        super().__init__(f"channel {channel}{f' ({address})' if address else ''}: {message}")


class OrchestratorLostError(HostError):
    """The orchestrator went away without a word; the host has drained and leaves."""

    exit_code = 5


class MessagingError(HostError):
    """A message was not answered as it should be. `code` is that of the answer (no_handler, invalid_message,
    handler_failed, timeout, unknown_target, too_large), or `unavailable` where no channel is there, `lost` where the
    channel broke before the answer, `refused` where the orchestrator says no, `unsupported` where the other side does
    not answer such requests at all."""

    def __init__(self, code: str, message: str, target: str = "") -> None:
        self.code = code
        self.message = message
        self.target = target
        super().__init__(f"{f'{target}: ' if target else ''}{message} ({code})")
