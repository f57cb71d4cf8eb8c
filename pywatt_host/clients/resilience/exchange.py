"""One HTTP request under a policy: what is tried again, and what is the target's failure. No I/O, so that the blocking
and the asynchronous transports decide the same."""

from __future__ import annotations

import httpx

from pywatt_host.clients.resilience.breaker import Permit
from pywatt_host.clients.resilience.policy import NoPermit, TargetPolicy
from pywatt_host.clients.resilience.retry import retry_after

# RFC 9110 section 9.2.2: to send them twice means the same as once.
IDEMPOTENT = frozenset(("GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"))
_AGAIN = frozenset((429, 502, 503, 504))
_ASKING = frozenset((429, 503))  # whose Retry-After is kept to
# The connection could not be made, so that nothing was sent.
UNCONNECTED = (httpx.ConnectError, httpx.ConnectTimeout)
_UNSENT = (*UNCONNECTED, httpx.PoolTimeout)
# Faults of ours: a pool of our own that is full, a request that cannot be sent.
_OURS = (httpx.PoolTimeout, httpx.UnsupportedProtocol, httpx.LocalProtocolError)


class CircuitOpenError(httpx.ConnectError):
    """The circuit breaker of the target is open; nothing was sent."""


class DeadlineError(httpx.ReadTimeout):
    """The time of `timeout` is over for all attempts together."""


class Attempts:
    """The attempts of one request."""

    def __init__(self, policy: TargetPolicy, request: httpx.Request) -> None:
        self._policy = policy
        self._request = request
        self._call = policy.call()
        self._leave: Permit | NoPermit = NoPermit()
        # A body that comes out of a generator is there once.
        self._replayable = isinstance(request.stream, httpx.ByteStream)

    def begin(self) -> None:
        """Before each attempt. Raises CircuitOpenError, and DeadlineError."""
        left = self._call.left()
        if left is not None and left <= 0:
            raise self.late()
        leave = self._call.begin()
        if leave is None:
            key = f"{self._policy.key}.circuit_breaker"
            raise CircuitOpenError(f"{self._policy.refusal()} ({key})", request=self._request)
        self._leave = leave

    def left(self) -> float | None:
        """Seconds."""
        return self._call.left()

    def ended(self) -> None:
        """After each attempt, cancelled ones too."""
        self._leave.dropped()

    def late(self) -> DeadlineError:
        """The time was over in the middle of an attempt: what to raise."""
        self._leave.failed()
        policy = self._policy
        said = f"{policy.target} did not answer within {self._call.timeout or 0:g}s ({policy.key}.timeout)"
        return DeadlineError(said, request=self._request)

    def failed(self, error: httpx.TransportError) -> float | None:
        """The attempt failed: the seconds to wait before the next one; None to raise the error."""
        if isinstance(error, _OURS):
            self._leave.dropped()
        else:
            self._leave.failed()
        again = isinstance(error, _UNSENT) or (self._request.method in IDEMPOTENT and not isinstance(error, _OURS))
        return self._call.wait() if again and self._replayable else None

    def answered(self, response: httpx.Response) -> float | None:
        """The attempt had an answer: the seconds to wait before the next one; None to return it."""
        status = response.status_code
        if status >= 500 and status != 501:
            self._leave.failed()
        else:
            self._leave.succeeded()
        if status not in _AGAIN or self._request.method not in IDEMPOTENT or not self._replayable:
            return None
        return self._call.wait(retry_after(response.headers.get("retry-after", "")) if status in _ASKING else None)

    def bounded(self) -> httpx.Request:
        """For who cannot be interrupted: the request with each of its timeouts no longer than the time that is left."""
        left = self._call.left()
        extensions = dict(self._request.extensions)
        if left is not None:
            own = extensions.get("timeout", {})
            extensions["timeout"] = {
                step: left if own.get(step) is None else min(left, own[step])
                for step in ("connect", "read", "write", "pool")
            }
        return httpx.Request(
            self._request.method,
            self._request.url,
            headers=self._request.headers,
            stream=self._request.stream,
            extensions=extensions,
        )
