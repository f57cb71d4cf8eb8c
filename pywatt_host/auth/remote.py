"""Keys that an issuer publishes (RFC 7517). They are fetched when they are first needed, and kept."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from asyncio import TaskGroup
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import httpx

from pywatt_host.auth.fetching import FETCH_TIMEOUT, FetchError, client, endpoint, fetch, metadata, refuse_private
from pywatt_host.auth.identity import UnavailableError
from pywatt_host.auth.keys import VerificationKey, candidates, jwk_set
from pywatt_host.exceptions import AuthError
from pywatt_host.manifest.model import AuthScheme

logger = logging.getLogger("pywatt.auth")

CACHE_TTL: Final = 600.0  # seconds after which keys are fetched again, in the background
MIN_FETCH_INTERVAL: Final = 30.0  # seconds between two fetches because of an unknown `kid`
_FIRST_RETRY_DELAY = 1.0  # seconds until a failed fetch is retried; doubled up to MIN_FETCH_INTERVAL


class RemoteKeys:
    """Fetches and keeps the keys of an issuer. It is a KeySource and a service.

    Keys stay in use until the issuer publishes usable ones: an issuer that is down removes none. `clock` returns
    seconds and never goes back.
    """

    name = "auth keys"
    remote = True

    def __init__(
        self,
        scheme: str,
        options: AuthScheme,
        *,
        clock: Callable[[], float] = time.monotonic,
        make_client: Callable[[], httpx.AsyncClient] = client,
    ) -> None:
        self.generation = 0
        self._scheme = scheme
        self._options = options
        self._clock = clock
        self._make_client = make_client
        self._client: httpx.AsyncClient | None = None
        self._keys: list[VerificationKey] = []
        self._published: set[str] = set()  # each key as it was published, to notice when one is removed
        self._added: list[VerificationKey] = []
        self._fetched_at = 0.0
        self._next_fetch_at = 0.0
        self._retry_delay = _FIRST_RETRY_DELAY
        self._failed = ""  # why the last fetch failed
        self._fetching: asyncio.Task[None] | None = None

    # As a KeySource -------------------------------------------------------------------------------------------------

    def find_now(self, alg: str, kid: str | None) -> Sequence[VerificationKey] | None:
        if self._added and (mine := [key for key in self._added if key.kid == kid and key.fits(alg)]):
            return mine
        if not self._keys:
            return None
        if self._clock() - self._fetched_at >= CACHE_TTL:
            self._fetch_if_due()
        found = candidates(self._keys, alg, kid, one=True)
        return found if found or self._clock() < self._next_fetch_at else None

    async def find(self, alg: str, kid: str | None) -> Sequence[VerificationKey]:
        fetching = self._fetch_if_due()
        if fetching is not None:
            await asyncio.wait((fetching,), timeout=2 * FETCH_TIMEOUT + 1)
        if not self._keys:
            raise UnavailableError("unavailable", max(1.0, self._next_fetch_at - self._clock()))
        return candidates(self._keys, alg, kid, one=True)

    def add(self, key: VerificationKey) -> None:
        """Trust one more key, for the lifetime of this object. For tests that sign their own tokens."""
        self._added.append(key)

    # Fetching -------------------------------------------------------------------------------------------------------

    def _fetch_if_due(self) -> asyncio.Task[None] | None:
        """Return the fetch that runs. Start one if it is due; return None if it is not."""
        if self._fetching is None and self._client is not None and self._clock() >= self._next_fetch_at:
            self._next_fetch_at = self._clock() + MIN_FETCH_INTERVAL
            self._fetching = asyncio.get_running_loop().create_task(self._fetch(), name=f"keys of auth.{self._scheme}")
            self._fetching.add_done_callback(self._fetch_done)
        return self._fetching

    def _fetch_done(self, fetching: asyncio.Task[None]) -> None:
        self._fetching = None
        if not fetching.cancelled() and (error := fetching.exception()) is not None:
            raise error

    async def _fetch(self) -> None:
        try:
            document = await self._document()
            keys = jwk_set(document)
            if not keys:
                raise FetchError(self._options.jwks_url or self._options.issuer or "", "it publishes no usable key")
        except FetchError as error:
            self._next_fetch_at = self._clock() + self._retry_delay
            self._retry_delay = min(MIN_FETCH_INTERVAL, 2 * self._retry_delay)
            if str(error) != self._failed:
                self._failed = str(error)
                stay = "; the present keys stay in use" if self._keys else ""
                logger.warning("auth.%s: the issuer's keys could not be fetched: %s%s", self._scheme, error, stay)
            return
        published = {json.dumps(entry, sort_keys=True) for entry in document["keys"]}
        if not self._published <= published:
            self.generation += 1
        if self._failed or not self._keys:
            logger.info("auth.%s: fetched %d keys of the issuer", self._scheme, len(keys))
        self._keys, self._published = keys, published
        self._fetched_at, self._failed, self._retry_delay = self._clock(), "", _FIRST_RETRY_DELAY

    async def _document(self) -> Any:
        """Fetch the JWK set. Raises FetchError."""
        assert self._client is not None
        options = self._options
        url = options.jwks_url
        if url is None:
            assert options.issuer is not None
            found = await metadata(self._client, options.issuer)
            url = endpoint(found, "jwks_uri", options.issuer, allow_http=options.allow_http)
            if not options.allow_private:
                await refuse_private(url, options.issuer)
        status, document = await fetch(self._client, url)
        if status != 200:
            raise FetchError(url, f"the response has status {status}")
        return document

    async def try_once(self) -> None:
        """Fetch the keys once, without keeping them. Raises AuthError."""
        self._client = self._make_client()
        try:
            if not jwk_set(await self._document()):
                raise FetchError(self._options.jwks_url or self._options.issuer or "", "it publishes no usable key")
        except FetchError as error:
            raise self._error(str(error)) from None
        finally:
            web, self._client = self._client, None
            await web.aclose()

    # As a service ---------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def running(self, tasks: TaskGroup) -> AsyncIterator[None]:
        """Start fetching. The host starts even if the issuer is down; requests with tokens get 503 until it answers."""
        self._client = self._make_client()
        self._fetch_if_due()
        try:
            yield
        finally:
            web, self._client = self._client, None
            if self._fetching is not None:
                self._fetching.cancel()
                await asyncio.wait((self._fetching,))
            await web.aclose()

    async def check(self) -> None:
        """Raise AuthError if the last fetch of the issuer's keys failed."""
        if not self._keys and self._fetching is not None:
            await asyncio.wait((self._fetching,))
        if self._failed:
            raise self._error(self._failed)

    def _error(self, why: str) -> AuthError:
        return AuthError(f"auth.{self._scheme}", f"the issuer's keys could not be fetched: {why}")
