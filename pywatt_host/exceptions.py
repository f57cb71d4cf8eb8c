"""The exceptions that this package raises on purpose.

All of them derive from `HostError`. Each one sets its fields first and makes its text from them, so that programs can
read the fields and people can read the text. No text contains the value of a secret. An exception that is not a
`HostError` is a bug, in this package or in the application; it reaches you unchanged, with its own traceback.

>>> try:
...     raise StoreError("databases.default", "timeout", "no answer within 5s (statement_timeout)")
... except HostError as error:
...     print(error, error.exit_code)
databases.default: no answer within 5s (statement_timeout) 3
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pywatt_host.manifest.problems import Problem


class HostError(Exception):
    """The base class of all exceptions of this package.

    `exit_code` (int) is the exit code of the command line when the error ends it.
    """

    exit_code = 1


class ManifestError(HostError):
    """Raised when the manifest, a profile or an override is invalid.

    `problems` (tuple of `Problem`) holds every problem that was found, in the order of the file. Each one has `file`,
    `line`, `column`, `path`, `code`, `message`, `hint` and `severity`.

    >>> from pywatt_host.manifest import Problem
    >>> problem = Problem("pywatt.yaml", 3, 5, "server.prot", "unknown-key", "unknown key", "did you mean port?")
    >>> print(ManifestError([problem]))
    pywatt.yaml:3:5: server.prot: unknown key (did you mean port?) [unknown-key]
    """

    exit_code = 2

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class AppLoadError(HostError):
    """Raised when the application cannot be imported, called or recognised, or when its lifespan startup fails.

    `import_path` (str) is the application's path as the manifest gives it. `message` (str) says what is wrong, and
    `hint` (str, may be empty) what to do. `reason` (str) is one of `no-module`, `module-raised`, `no-attribute`,
    `not-an-app`, `asgi2`, `factory-raised`, `factory-returned-nothing`, `factory-arguments`, `wrong-interface`,
    `no-directory`, `lifespan-failed`, `decorator-differs`, `not-a-builder` and `state-raised`. If the application's own
    code raised an exception, it is `__cause__`, with its traceback unchanged. For `factory-arguments`, `arguments` has
    the path below `args`, the message and the hint of each argument that does not fit.

    >>> print(AppLoadError("main:application", "no-attribute", "main has no application", "did you mean app?"))
    main:application: main has no application (did you mean app?)
    """

    exit_code = 3

    def __init__(self, import_path: str, reason: str, message: str, hint: str = "") -> None:
        self.import_path = import_path
        self.reason = reason
        self.message = message
        self.hint = hint
        self.arguments: Sequence[tuple[tuple[str | int, ...], str, str]] = ()
        super().__init__(f"{import_path}: {message}" + (f" ({hint})" if hint else ""))


class BindError(HostError):
    """Raised when the host cannot listen on an address: the address is in use, not permitted, or not an address of this
    machine, or an inherited descriptor is not a listening socket.

    `address` (str) is the address, `key` (str) the manifest key that gives it, `message` (str) the reason, and `hint`
    (str, may be empty) what to do.

    >>> print(BindError("127.0.0.1:80", "server.listen", "permission denied"))
    server.listen: cannot listen on 127.0.0.1:80: permission denied
    """

    exit_code = 3

    def __init__(self, address: str, key: str, message: str, hint: str = "") -> None:
        self.address = address
        self.key = key
        self.message = message
        self.hint = hint
        super().__init__(f"{key}: cannot listen on {address}: {message}" + (f" ({hint})" if hint else ""))


class TlsError(HostError):
    """Raised when the certificate, the key or the CA certificates of a TLS listener cannot be used.

    `key` (str) is the manifest key, `file` (str) the file, or the secret as `${secret:NAME}`, and `message` (str) says
    what is wrong. `reason` (str) is one of `missing`, `unreadable`, `empty`, `truncated`, `invalid`, `encrypted`,
    `mismatch`, `order`, `expired` and `not-yet-valid`. Nothing in the text comes from a key.

    >>> print(TlsError("server.tls.cert", "tls/server.pem", "missing", "there is no such file"))
    server.tls.cert: tls/server.pem cannot be used: there is no such file
    """

    exit_code = 3

    def __init__(self, key: str, file: str, reason: str, message: str) -> None:
        self.key = key
        self.file = file
        self.reason = reason
        self.message = message
        super().__init__(f"{key}: {file} cannot be used: {message}")


class ServiceError(HostError):
    """Raised when a service of the host cannot start, stops by itself, or does not stop in time.

    `service` (str) is its name, and `message` (str) says what happened. The service's own exception, if there is one,
    is `__cause__`.

    >>> print(ServiceError("server", "did not stop within 5s"))
    server: did not stop within 5s
    """

    exit_code = 3

    def __init__(self, service: str, message: str) -> None:
        self.service = service
        self.message = message
        super().__init__(f"{service}: {message}")


class SecretError(HostError):
    """Raised when a secret is missing or has the wrong type, a source cannot be read, or a rotation is refused.

    `message` (str) is the whole text. `missing` (tuple of pairs of str) names each secret that could not be loaded,
    with the reason; it is empty if the error is not about single secrets. Neither contains the value of a secret.

    >>> reason = "was not found (looked in: env)"
    >>> error = SecretError(f"Secret API_KEY {reason}.", missing=[("API_KEY", reason)])
    >>> print(error)
    Secret API_KEY was not found (looked in: env).
    >>> error.missing
    (('API_KEY', 'was not found (looked in: env)'),)
    """

    exit_code = 3

    def __init__(self, message: str, missing: Sequence[tuple[str, str]] = ()) -> None:
        self.missing = tuple(missing)
        self.message = message
        super().__init__(message)


class AuthError(HostError):
    """Raised when a scheme under `auth` or a client under `clients` has no usable key material: it is too short, not a
    key, not readable, or could not be fetched.

    `key` (str) is the manifest key, `message` (str) says what is wrong, and `hint` (str, may be empty) what to do.
    Nothing in the text comes from the value of a secret.

    >>> print(AuthError("auth.jwt.secret", "the secret is empty"))
    auth.jwt.secret: the secret is empty
    """

    exit_code = 3

    def __init__(self, key: str, message: str, hint: str = "") -> None:
        self.key = key
        self.message = message
        self.hint = hint
        super().__init__(f"{key}: {message}" + (f" ({hint})" if hint else ""))


class StoreError(HostError):
    """Raised when a database or a cache cannot be used, or refuses an operation.

    `store` (str) is the manifest key, such as `databases.default`. `message` (str) says what is wrong. `code` (str)
    says why; the codes are the same for every kind of store:

    - `unavailable`: the server is not reachable, it closed the connection, or it is starting or stopping
    - `timeout`: there was no answer within the time limit of the statement or operation
    - `exhausted`: no connection became free within `pool.timeout`
    - `authentication`: the server refused the credentials or the permission
    - `integrity`: a unique, foreign key, not null or check constraint was violated
    - `conflict`: a deadlock or a serialization failure; run the transaction again
    - `full`: the disk, or the memory of a cache, is full
    - `read_only`: the server or the file does not accept writes
    - `statement`: the server does not accept the statement
    - `arguments`: a value or a placeholder does not fit
    - `connection`: two tasks used the connection at once, or it was used after its end or after its transaction broke

    The driver's own exception, if there is one, is `__cause__`.

    >>> error = StoreError("caches.default", "unavailable", "connection refused")
    >>> print(error)
    caches.default: connection refused
    >>> error.passing
    True
    """

    exit_code = 3

    def __init__(self, store: str, code: str, message: str) -> None:
        self.store = store
        self.code = code
        self.message = message
        super().__init__(f"{store}: {message}")

    @property
    def passing(self) -> bool:
        """Whether the error is likely to pass soon, so that the client may retry: the response is 503 and not 500."""
        return self.code in ("unavailable", "timeout", "exhausted", "authentication", "full")


class ProtocolError(HostError):
    """Raised when a peer sends something that is not valid in the protocol.

    `code` (str) is `json`, `message` (a member is missing or has the wrong type), `too-large`, `format` or `handshake`.
    `message` (str) says what is wrong, in one line.

    >>> ProtocolError("json", "the line is not valid JSON").code
    'json'
    """

    exit_code = 4

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        self.message = message
        super().__init__(message)


class ChannelError(HostError):
    """Raised when a channel cannot be opened or is lost.

    `channel` (str) is the kind of channel, such as `stdio`, `ipc` or `tcp`. `address` (str, may be empty) is the peer's
    address, and `message` (str) says what is wrong.

    >>> print(ChannelError("tcp", "10.0.0.5:7000", "connection refused"))
    channel tcp (10.0.0.5:7000): connection refused
    """

    exit_code = 4

    def __init__(self, channel: str, address: str, message: str) -> None:
        self.channel = channel
        self.address = address
        self.message = message
        super().__init__(f"channel {channel}{f' ({address})' if address else ''}: {message}")


class OrchestratorLostError(HostError):
    """Raised when the connection to the orchestrator ends without a shutdown message. By then the host has drained its
    requests; the process exits.

    >>> OrchestratorLostError.exit_code
    5
    """

    exit_code = 5


class MessagingError(HostError):
    """Raised when a message is not answered, or is answered with an error.

    `target` (str, may be empty) is the module that the message was for, and `message` (str) says what is wrong. `code`
    (str) is the code of the answer: `no_handler`, `invalid_message`, `unauthorized`, `handler_failed`, `timeout`,
    `unknown_target` or `too_large`. Where there is no answer, it is `unavailable` (no channel is open), `lost` (the
    channel broke before the answer), `refused` (the orchestrator refuses the message) or `unsupported` (the peer does
    not support this kind of request).

    >>> print(MessagingError("timeout", "no answer within 5s", "billing"))
    billing: no answer within 5s (timeout)
    """

    def __init__(self, code: str, message: str, target: str = "") -> None:
        self.code = code
        self.message = message
        self.target = target
        super().__init__(f"{f'{target}: ' if target else ''}{message} ({code})")
