"""Calls to others where the manifest declares neither policies nor an orchestrator."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, NoReturn, TypeVar

from pywatt_host.exceptions import MessagingError
from pywatt_host.observability.health import Checks
from pywatt_host.observability.metrics import Family

T = TypeVar("T")


class NoPolicy:
    """Everything is tried once, for as long as its caller says."""

    async def run(
        self,
        attempt: Callable[[float | None], Awaitable[T]],
        retryable: Callable[[Exception], bool],
        failure: Callable[[Exception], bool],
        timeout: float | None = None,
    ) -> T:
        return await attempt(timeout)


class NoResilience:
    """Neither timeouts nor retries nor circuit breakers."""

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
    """Raises MessagingError: this module is alone."""
    why = "there is no orchestrator; run the module under one, or give it channels"
    raise MessagingError("unavailable", why, target)


async def nowhere(name: str) -> NoReturn:
    """Where module:// URLs lead without an orchestrator. Raises MessagingError."""
    no_orchestrator(name)


def nowhere_blocking(name: str) -> NoReturn:
    no_orchestrator(name)
