"""The certificates of the TLS listeners: loaded at the start, and renewed when their files or secrets change.

A pair that has changed is read and verified beside the one in use. If it can be used, it takes over for the next
connection; otherwise the old one stays, and the log, the health report, the metrics and `ps` name file and reason.
"""

from __future__ import annotations

import asyncio
import logging
from asyncio import TaskGroup
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, TypeAlias

from pywatt_host.exceptions import TlsError
from pywatt_host.manifest.model import Manifest
from pywatt_host.manifest.model.tls import DeclaredTls
from pywatt_host.net.tls_material import ListenerTls, TlsTerms, Validity, check_time, shown_time, verified
from pywatt_host.net.tls_sources import TlsSource
from pywatt_host.observability.metrics import Family

logger = logging.getLogger("pywatt.tls")

POLL_INTERVAL = 0.5  # seconds
_SOON = timedelta(days=14)
_WARN_INTERVAL = timedelta(days=1)
_NEVER = datetime.min.replace(tzinfo=UTC)

Identity: TypeAlias = tuple[object, ...]
Values: TypeAlias = dict[tuple[str, ...], float]


class TlsService(Protocol):
    """The TLS settings of a host: `Certificates`, or `NoCertificates`. `listening` has the terms of each TLS section by
    its key."""

    name: str

    @property
    def listening(self) -> Mapping[str, ListenerTls]: ...

    def running(self, tasks: TaskGroup) -> AbstractAsyncContextManager[None]: ...

    def settle(self) -> None: ...

    def check(self) -> None: ...

    def families(self) -> Iterator[Family]: ...

    def status(self) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class _Found:
    """What a look has found: terms that can be used, or why not; both None where nothing has changed."""

    identity: Identity = field(repr=False)  # may have values of secrets
    terms: TlsTerms | None = None
    validity: Validity | None = None
    fault: TlsError | None = None


_PASSING = frozenset(("not-yet-valid", "unreadable"))  # faults that end without a change of the files


class _Certificate:
    """The pair of one TLS section, and what the last looks have found."""

    def __init__(self, source: TlsSource) -> None:
        self.source = source
        self.listening = ListenerTls(source.key)
        self.validity: Validity | None = None  # of the pair in use
        self.identity: Identity = ()  # of the files of the pair in use
        self.suspect: TlsError | None = None  # found by one look: the pair may be in the middle of its renewal
        self.fault: TlsError | None = None  # found by two
        self.fault_identity: Identity = ()
        self.warned = _NEVER

    def read(self, secret_values: Mapping[str, str]) -> _Found:
        """Read and verify the pair. Raises TlsError."""
        identity = self.source.identity(secret_values)
        terms, validity = verified(self.source.read(secret_values), self.source.names)
        return _Found(identity, terms, validity)

    def look(self, secret_values: Mapping[str, str], now: datetime) -> _Found:
        """Read the pair if it has changed."""
        identity = self.source.identity(secret_values)
        if identity == self.identity:
            return _Found(identity)
        known = self.fault
        if known is not None and identity == self.fault_identity and known.reason not in _PASSING:
            return _Found(identity, fault=known)
        try:
            found = self.read(secret_values)
            assert found.validity is not None
            self._check_time(found.validity, now)
        except TlsError as error:
            return _Found(identity, fault=error)
        return found

    def _check_time(self, validity: Validity, now: datetime) -> None:
        old = self.validity
        better = old is not None and old.not_after <= now and validity.not_after > old.not_after
        if not better or validity.not_before > now:
            check_time(validity, self.source.names, now)

    def use(self, found: _Found) -> None:
        assert found.terms is not None
        self.identity, self.validity = found.identity, found.validity
        self.listening.use(found.terms)

    def trouble(self, now: datetime) -> TlsError | None:
        """What is wrong: a changed pair cannot be used, or the one in use has expired. None if nothing is."""
        assert self.validity is not None
        if self.fault is not None:
            return self.fault
        try:
            check_time(self.validity, self.source.names, now)
        except TlsError as error:
            return error
        return None


class Certificates:
    """The certificates of all TLS sections of a manifest, as a service."""

    name = "tls"

    def __init__(
        self,
        declared: Iterable[DeclaredTls],
        resolve: Callable[[str], Path],
        secret_values: Callable[[], Mapping[str, str]],
        *,
        poll_interval: float = POLL_INTERVAL,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`resolve` makes a path of the manifest absolute. `secret_values` gives the values of all secrets, by name,
        once they have been fetched."""
        self._certificates = [_Certificate(TlsSource(each, resolve)) for each in declared]
        self._secret_values = secret_values
        self._poll_interval = poll_interval
        self._watching: asyncio.Task[None] | None = None
        self._now = now

    @property
    def listening(self) -> Mapping[str, ListenerTls]:
        """The terms of each TLS section, by its key."""
        return {each.source.key: each.listening for each in self._certificates}

    @asynccontextmanager
    async def running(self, tasks: TaskGroup) -> AsyncIterator[None]:
        await self.load()
        self._watching = tasks.create_task(self._watch(), name="watch certificates")
        try:
            yield
        finally:
            self.settle()

    def settle(self) -> None:
        """Renew nothing more."""
        if self._watching is not None:
            self._watching.cancel()

    async def load(self) -> None:
        """Read and verify all pairs. Raises TlsError for the first one that cannot be used."""
        values = self._secret_values()
        for each in self._certificates:
            found = await asyncio.to_thread(each.read, values)
            assert found.validity is not None
            check_time(found.validity, each.source.names, self._now())
            each.use(found)
            self._warn(each)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._poll_interval)
            await self.look()

    async def look(self) -> None:
        """Take over the pairs that have changed, and note those that cannot be used."""
        values = self._secret_values()
        for each in self._certificates:
            self._take(each, await asyncio.to_thread(each.look, values, self._now()))
            self._warn(each)

    def _take(self, each: _Certificate, found: _Found) -> None:
        before, each.suspect = each.suspect, found.fault
        if found.fault is not None:
            if before is not None:
                self._note(each, found)
            return
        if each.fault is not None:
            logger.info("%s: the certificate and its key can be used again", each.source.key)
            each.fault = None
        if found.terms is None:
            return
        renewed = found.terms.material != each.listening.terms.material
        if not renewed:  # the files are others with the same content
            each.identity = found.identity
            return
        each.use(found)
        assert found.validity is not None
        logger.info(
            "%s: %s is renewed, valid until %s", each.source.key, each.source.names.cert,
            shown_time(found.validity.not_after), extra={"key": each.source.key},
        )  # fmt: skip

    def _note(self, each: _Certificate, found: _Found) -> None:
        """Two looks have found a fault: say so once."""
        fault, known = found.fault, each.fault
        assert fault is not None
        each.fault, each.fault_identity = fault, found.identity
        if known is None or str(known) != str(fault):
            logger.error(
                "%s; the certificate in use stays", fault,
                extra={"key": fault.key, "file": fault.file, "reason": fault.reason},
            )  # fmt: skip

    def _warn(self, each: _Certificate) -> None:
        """Say once a day that a certificate expires soon."""
        now, validity = self._now(), each.validity
        assert validity is not None
        if validity.not_after - now > _SOON or now - each.warned < _WARN_INTERVAL:
            return
        each.warned = now
        key, file, when = each.source.key, each.source.names.cert, shown_time(validity.not_after)
        if validity.not_after <= now:
            logger.error("%s: %s has expired on %s", key, file, when, extra={"key": key, "file": file})
        else:
            days = (validity.not_after - now).days
            logger.warning("%s: %s expires in %d days (%s)", key, file, days, when, extra={"key": key, "file": file})

    # What others are told -------------------------------------------------------------------------------------------

    def check(self) -> None:
        """The health check: raises TlsError where a changed pair cannot be used, or the one in use has expired."""
        for each in self._certificates:
            trouble = each.trouble(self._now())
            if trouble is not None:
                raise trouble

    def families(self) -> Iterator[Family]:
        """The metrics of the certificates. Safe from any thread."""
        now = self._now()
        left: Values = {
            (each.source.key,): each.validity.seconds_left(now)
            for each in self._certificates
            if each.validity is not None
        }
        faults = [each.fault for each in self._certificates if each.fault is not None]
        doc = "Seconds until the first certificate of the chain expires; negative afterwards."
        yield Family("gauge", "pywatt_tls_certificate_expiry_seconds", doc, ("key",), left, mode="max")
        doc = "Changed certificates and keys that cannot be used: the old ones stay in use."
        labels = ("key", "file", "reason")
        values: Values = {(fault.key, fault.file, fault.reason): 1.0 for fault in faults}
        yield Family("gauge", "pywatt_tls_certificate_faults", doc, labels, values, mode="max")

    def status(self) -> dict[str, Any]:
        """What the control socket answers: file, expiry and fault of each section."""
        return {each.source.key: _status(each, self._now()) for each in self._certificates if each.validity is not None}


def _status(each: _Certificate, now: datetime) -> dict[str, Any]:
    assert each.validity is not None
    told: dict[str, Any] = {"file": each.source.names.cert, "expires": each.validity.not_after.isoformat()}
    fault = each.trouble(now)
    if fault is not None:
        told["fault"] = {"key": fault.key, "file": fault.file, "reason": fault.reason, "message": fault.message}
    return told


class NoCertificates:
    """A host without TLS, or a worker, whose supervisor has the certificates."""

    name = "tls"

    def __init__(self) -> None:
        self.listening: Mapping[str, ListenerTls] = MappingProxyType({})

    @asynccontextmanager
    async def running(self, tasks: TaskGroup) -> AsyncIterator[None]:
        yield

    def settle(self) -> None:
        return

    def check(self) -> None:
        return

    def families(self) -> Iterator[Family]:
        yield from ()

    def status(self) -> dict[str, Any]:
        return {}


class FailedHandshakes(Counter[str]):
    """How many TLS handshakes have failed, by reason."""

    def families(self) -> Iterator[Family]:
        """The metric, once one has failed. Safe from any thread."""
        if self:
            doc = "TLS handshakes that have failed, by reason."
            values: Values = {(reason,): float(count) for reason, count in tuple(self.items())}
            yield Family("counter", "pywatt_tls_handshake_failures", doc, ("reason",), values)


def certificates_of(
    manifest: Manifest, secret_values: Callable[[], Mapping[str, str]]
) -> Certificates | NoCertificates:
    """The certificates of the listeners of a manifest."""
    declared = list(manifest.server.declared_tls())
    return Certificates(declared, manifest.resolve, secret_values) if declared else NoCertificates()
