"""One HTTP request under a policy: which results are tried again, and which count as failures of the target. No I/O, so
that the blocking and the asynchronous transports share these decisions."""

from __future__ import annotations

import httpx

from pywatt_host.clients.resilience.breaker import Permit
from pywatt_host.clients.resilience.policy import NoPermit, TargetPolicy
from pywatt_host.clients.resilience.retry import retry_after

# RFC 9110 section 9.2.2: sending them twice has the same effect as sending them once.
IDEMPOTENT = frozenset(("GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"))
_RETRIED_STATUSES = frozenset((429, 502, 503, 504))
_RETRY_AFTER_STATUSES = frozenset((429, 503))  # whose Retry-After is respected
# The connection could not be made, so that nothing was sent.
UNCONNECTED = (httpx.ConnectError, httpx.ConnectTimeout)
_NOT_SENT = (*UNCONNECTED, httpx.PoolTimeout)
# Errors on this side: the connection pool is full, or the request cannot be sent.
_LOCAL_ERRORS = (httpx.PoolTimeout, httpx.UnsupportedProtocol, httpx.LocalProtocolError)


class CircuitOpenError(httpx.ConnectError):
    """The circuit breaker of the target is open; nothing was sent."""


class DeadlineError(httpx.ReadTimeout):
    """The timeout for all attempts together is over."""


class Attempts:
    """The attempts of one request: when to send it, and what each result means."""

    def __init__(self, policy: TargetPolicy, request: httpx.Request) -> None:
        self._policy = policy
        self._request = request
        self._call = policy.call()
        self._permit: Permit | NoPermit = NoPermit()
        # The body of a generator can be sent only once.
        self._replayable = isinstance(request.stream, httpx.ByteStream)

    def begin(self) -> None:
        """Call this before each attempt. Raises CircuitOpenError and DeadlineError."""
        left = self._call.left()
        if left is not None and left <= 0:
            raise self.late()
        permit = self._call.begin()
        if permit is None:
            key = f"{self._policy.key}.circuit_breaker"
            raise CircuitOpenError(f"{self._policy.refusal()} ({key})", request=self._request)
        self._permit = permit

    def left(self) -> float | None:
        """Seconds that are left for all attempts; None without a limit."""
        return self._call.left()

    def ended(self) -> None:
        """Call this after each attempt, also after one that was cancelled."""
        self._permit.dropped()

    def late(self) -> DeadlineError:
        """The error to raise where the time was over during an attempt."""
        self._permit.failed()
        policy = self._policy
        text = f"{policy.target} did not answer within {self._call.timeout or 0:g}s ({policy.key}.timeout)"
        return DeadlineError(text, request=self._request)

    def failed(self, error: httpx.TransportError) -> float | None:
        """The attempt failed: the seconds to wait before the next one, or None where the error is final."""
        if isinstance(error, _LOCAL_ERRORS):
            self._permit.dropped()
        else:
            self._permit.failed()
        retryable = isinstance(error, _NOT_SENT) or (
            self._request.method in IDEMPOTENT and not isinstance(error, _LOCAL_ERRORS)
        )
        return self._call.wait() if retryable and self._replayable else None

    def answered(self, response: httpx.Response) -> float | None:
        """The attempt has a response: the seconds to wait before the next one, or None where the response is final."""
        status = response.status_code
        if status >= 500 and status != 501:
            self._permit.failed()
        else:
            self._permit.succeeded()
        if status not in _RETRIED_STATUSES or self._request.method not in IDEMPOTENT or not self._replayable:
            return None
        return self._call.wait(
            retry_after(response.headers.get("retry-after", "")) if status in _RETRY_AFTER_STATUSES else None
        )

    def bounded(self) -> httpx.Request:
        """The request with each of its timeouts limited to the time that is left, for threads, which cannot be
        interrupted."""
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
