"""Keys that an issuer publishes (RFC 7517), fetched when they are wanted and kept while they do."""

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

from pywatt_host.auth.fetching import PATIENCE, FetchError, client, endpoint, fetch, metadata, refuse_private
from pywatt_host.auth.identity import UnavailableError
from pywatt_host.auth.keys import VerificationKey, candidates, jwk_set
from pywatt_host.exceptions import AuthError
from pywatt_host.manifest.model import AuthScheme

logger = logging.getLogger("pywatt.auth")

FRESH: Final = 600.0  # seconds after which keys are fetched anew, beside the requests that use them
COOL_DOWN: Final = 30.0  # seconds between two fetches because of a `kid` that nobody knows
_FIRST_AGAIN = 1.0  # seconds until an issuer that does not answer is asked again; doubled up to COOL_DOWN


class RemoteKeys:
    """A KeySource and a service. What is there is used until something better is: an issuer that is down, or publishes
    nothing that can be used, takes no keys away. `clock` gives seconds and never goes back."""

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
        self._published: set[str] = set()  # each key as it was published, to tell when one has gone
        self._added: list[VerificationKey] = []
        self._fetched = 0.0
        self._again = 0.0  # when it may be asked again
        self._pause = _FIRST_AGAIN
        self._failed = ""
        self._flight: asyncio.Task[None] | None = None

    # As a KeySource -------------------------------------------------------------------------------------------------

    def now(self, alg: str, kid: str | None) -> Sequence[VerificationKey] | None:
        if self._added and (mine := [key for key in self._added if key.kid == kid and key.fits(alg)]):
            return mine
        if not self._keys:
            return None
        if self._clock() - self._fetched >= FRESH:
            self._fetch_soon()
        found = candidates(self._keys, alg, kid, one=True)
        return found if found or self._clock() < self._again else None

    async def look(self, alg: str, kid: str | None) -> Sequence[VerificationKey]:
        flight = self._fetch_soon()
        if flight is not None:
            await asyncio.wait((flight,), timeout=2 * PATIENCE + 1)
        if not self._keys:
            raise UnavailableError("unavailable", max(1.0, self._again - self._clock()))
        return candidates(self._keys, alg, kid, one=True)

    def add(self, key: VerificationKey) -> None:
        """Trust one more key, for as long as this object lives: for tests, whose tokens it signs."""
        self._added.append(key)

    # Fetching -------------------------------------------------------------------------------------------------------

    def _fetch_soon(self) -> asyncio.Task[None] | None:
        """The fetch that runs; a new one where it is time for one, None where it is not."""
        if self._flight is None and self._client is not None and self._clock() >= self._again:
            self._again = self._clock() + COOL_DOWN
            self._flight = asyncio.get_running_loop().create_task(self._fetch(), name=f"keys of auth.{self._scheme}")
            self._flight.add_done_callback(self._landed)
        return self._flight

    def _landed(self, flight: asyncio.Task[None]) -> None:
        self._flight = None
        if not flight.cancelled() and (error := flight.exception()) is not None:
            raise error

    async def _fetch(self) -> None:
        try:
            document = await self._document()
            keys = jwk_set(document)
            if not keys:
                raise FetchError(self._options.jwks_url or self._options.issuer or "", "it publishes no usable key")
        except FetchError as error:
            self._again = self._clock() + self._pause
            self._pause = min(COOL_DOWN, 2 * self._pause)
            if str(error) != self._failed:
                self._failed = str(error)
                stay = "; those that are there stay in use" if self._keys else ""
                logger.warning("auth.%s: the issuer's keys cannot be had: %s%s", self._scheme, error, stay)
            return
        published = {json.dumps(entry, sort_keys=True) for entry in document["keys"]}
        if not self._published <= published:
            self.generation += 1
        if self._failed or not self._keys:
            logger.info("auth.%s: %d keys of the issuer", self._scheme, len(keys))
        self._keys, self._published = keys, published
        self._fetched, self._failed, self._pause = self._clock(), "", _FIRST_AGAIN

    async def _document(self) -> Any:
        """The JWK set. Raises FetchError."""
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
            raise FetchError(url, f"the answer is {status}")
        return document

    async def try_once(self) -> None:
        """Fetch the keys, and keep nothing. Raises AuthError."""
        self._client = self._make_client()
        try:
            if not jwk_set(await self._document()):
                raise FetchError(self._options.jwks_url or self._options.issuer or "", "it publishes no usable key")
        except FetchError as error:
            raise AuthError(f"auth.{self._scheme}", f"the issuer's keys cannot be had: {error}") from None
        finally:
            web, self._client = self._client, None
            await web.aclose()

    # As a service ---------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def running(self, tasks: TaskGroup) -> AsyncIterator[None]:
        """An issuer that is down does not keep the host from starting: tokens are 503 until it answers."""
        self._client = self._make_client()
        self._fetch_soon()
        try:
            yield
        finally:
            web, self._client = self._client, None
            if self._flight is not None:
                self._flight.cancel()
                await asyncio.wait((self._flight,))
            await web.aclose()

    async def check(self) -> None:
        """Raises AuthError while the issuer's keys cannot be had, or could not be the last time."""
        if not self._keys and self._flight is not None:
            await asyncio.wait((self._flight,))
        if self._failed:
            raise AuthError(f"auth.{self._scheme}", f"the issuer's keys cannot be had: {self._failed}")
