"""The spans of databases and caches, where tracing is on, and what stands in for them where it is off."""

from __future__ import annotations

from importlib import import_module
from typing import Protocol

from pywatt_host.exceptions import StoreError
from pywatt_host.observability.spans import UNRECORDED, AnySpan, AnyTracer


class StoreSpans(Protocol):
    """Makes the spans of the calls of one store. Each must be ended by its caller."""

    enabled: bool

    def towards(self, url: str) -> None:
        """Use what spans may say of this URL from now on, which may contain a password."""

    def statement(self, query: str, batch: int = 0) -> AnySpan:
        """The span of a statement, which is run for `batch` sets of values at once; not recorded for an empty text."""

    def operation(self, name: str) -> AnySpan:
        """The span of an operation on a cache."""

    def waiting(self) -> AnySpan:
        """The span of the wait for a connection."""

    def fail(self, span: AnySpan, error: StoreError) -> None:
        """Say in a span which error a call has ended with."""


class NoStoreSpans:
    """Stands in where tracing is off."""

    enabled = False

    def towards(self, url: str) -> None:
        return

    def statement(self, query: str, batch: int = 0) -> AnySpan:
        return UNRECORDED

    def operation(self, name: str) -> AnySpan:
        return UNRECORDED

    def waiting(self) -> AnySpan:
        return UNRECORDED

    def fail(self, span: AnySpan, error: StoreError) -> None:
        return


NO_STORE_SPANS = NoStoreSpans()


def spans_of(store: str, tracer: AnyTracer) -> StoreSpans:
    """The spans of a store, by its key in the manifest, such as `databases.default`."""
    if not tracer.enabled:
        return NO_STORE_SPANS
    made: StoreSpans = import_module("pywatt_host.stores.traced").TracedStore(store, tracer)
    return made
