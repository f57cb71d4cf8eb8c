"""Calls to others for a manifest that declares neither policies nor an orchestrator."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, NoReturn, TypeVar

from pywatt_host.exceptions import MessagingError
from pywatt_host.observability.health import Checks
from pywatt_host.observability.metrics import Family

T = TypeVar("T")


class NoPolicy:
    """A policy that makes each call once, with the timeout of its caller."""

    async def run(
        self,
        attempt: Callable[[float | None], Awaitable[T]],
        retryable: Callable[[Exception], bool],
        failure: Callable[[Exception], bool],
        timeout: float | None = None,
    ) -> T:
        return await attempt(timeout)


class NoResilience:
    """Resilience without timeouts, retries and circuit breakers."""

    for_url: None = None

    def __init__(self) -> None:
        self._policy = NoPolicy()

    def for_module(self, name: str) -> NoPolicy:
        return self._policy

    def for_messages(self, name: str) -> None:
        return None

    def for_client(self, name: str) -> NoPolicy:
        return self._policy

    def clients(self) -> Mapping[str, Any]:
        return {}

    def add_checks(self, checks: Checks) -> None:
        return

    def families(self) -> Iterator[Family]:
        return iter(())


def no_orchestrator(target: str) -> NoReturn:
    """Raise MessagingError, since this module has no way to other modules."""
    why = "there is no orchestrator. Run the module under one, or give it channels"
    raise MessagingError("unavailable", why, target)


async def nowhere(name: str) -> NoReturn:
    """Resolves module:// URLs without an orchestrator: always raises MessagingError."""
    no_orchestrator(name)


def nowhere_blocking(name: str) -> NoReturn:
    """As `nowhere`, for threads."""
    no_orchestrator(name)
