"""Tokens for requests to others: OAuth 2.0 client credentials (RFC 6749 section 4.4)."""

from __future__ import annotations

import asyncio
import logging
import time
from asyncio import TaskGroup
from base64 import b64encode
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote_plus, urlencode

import httpx
from authlib.oauth2.rfc6749.parameters import prepare_token_request  # type: ignore[import-untyped]

from pywatt_host.auth.fetching import FetchError, client, endpoint, fetch, metadata
from pywatt_host.auth.origin import origin_of
from pywatt_host.exceptions import AuthError
from pywatt_host.manifest.model import Client, Manifest
from pywatt_host.manifest.values import SecretTemplate

logger = logging.getLogger("pywatt.auth")

_LASTS = 300.0  # seconds, where the issuer does not say
_EARLY = 60.0  # seconds before its end at which a token is renewed; at most a tenth of its life
_AGAIN = 1.0  # seconds until an issuer that gave none is asked again
_FORM = {"content-type": "application/x-www-form-urlencoded"}

Mask = Callable[[str, str], object]


class ClientToken:
    """The token of one entry of `clients`: one request for all who wait for it, kept until shortly before its end."""

    def __init__(self, name: str, options: Client, mask: Mask, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`mask` is told of each token, by a name, so that no log shows it; `clock` gives seconds."""
        self.name = f"clients.{name}"
        secret = options.client_secret
        self.names = frozenset(secret.names) if isinstance(secret, SecretTemplate) else frozenset()
        self.origin = origin_of(httpx.URL(options.base_url))
        self._options = options
        self._mask = mask
        self._clock = clock
        self._secret = ""
        self._token = ""
        self._renew_at = 0.0
        self._ends_at = 0.0
        self._failed: tuple[float, AuthError] | None = None
        self._flight: asyncio.Task[str] | None = None

    async def token(self, web: httpx.AsyncClient, *, instead_of: str = "") -> str:
        """The present token, or another one than `instead_of`, which was not taken. Raises AuthError."""
        now = self._clock()
        fresh = self._token != instead_of and bool(self._token)
        if fresh and now < self._renew_at:
            return self._token
        if self._failed is not None and now < self._failed[0]:
            if fresh and now < self._ends_at:
                return self._token
            raise self._failed[1]
        if self._flight is None:
            self._flight = asyncio.get_running_loop().create_task(self._fetched(web), name=f"token of {self.name}")
            self._flight.add_done_callback(self._landed)
        if fresh and now < self._ends_at:  # it still holds, and the next one is on its way
            return self._token
        return await asyncio.shield(self._flight)

    def _landed(self, flight: asyncio.Task[str]) -> None:
        self._flight = None
        if not flight.cancelled():
            flight.exception()  # whoever waits for it gets it; nobody need wait

    async def _fetched(self, web: httpx.AsyncClient) -> str:
        try:
            document = await self._document(web)
        except AuthError as error:
            self._failed = (self._clock() + _AGAIN, error)
            logger.warning("%s", error)
            raise
        self._failed = None
        lasts = document.get("expires_in")
        seconds = float(lasts) if isinstance(lasts, int | float) and lasts > 0 else _LASTS
        now = self._clock()
        self._renew_at, self._ends_at = now + seconds - min(_EARLY, seconds / 10), now + seconds
        self._token = document["access_token"]
        self._mask(self.name, self._token)
        return self._token

    async def _document(self, web: httpx.AsyncClient) -> dict[str, Any]:
        options, headers = self._options, dict(_FORM)
        more = {"audience": options.audience} if options.audience is not None else {}
        if options.scopes:
            more["scope"] = " ".join(options.scopes)
        body = prepare_token_request("client_credentials", **more)
        if options.method == "basic":
            # RFC 6749 section 2.3.1: both are form-encoded first, which the library leaves out.
            pair = f"{quote_plus(options.client_id)}:{quote_plus(self._secret)}"
            headers["authorization"] = f"Basic {b64encode(pair.encode()).decode()}"
        else:
            body += "&" + urlencode({"client_id": options.client_id, "client_secret": self._secret})
        try:
            url = options.token_url
            if url is None:
                assert options.issuer is not None
                found = await metadata(web, options.issuer)
                url = endpoint(found, "token_endpoint", options.issuer, allow_http=options.allow_http)
            status, document = await fetch(web, url, content=body.encode(), headers=headers)
        except FetchError as error:
            raise AuthError(self.name, f"no token: {error}") from None
        if status == 200 and isinstance(document, dict):
            token, kind = document.get("access_token"), document.get("token_type", "")
            visible = isinstance(token, str) and token != "" and all("!" <= char <= "~" for char in token)
            if visible and isinstance(kind, str) and kind.lower() == "bearer":
                return document
            raise AuthError(self.name, f"no token: {url}: the answer has no bearer token")
        raise AuthError(self.name, f"no token: {url}: {_refusal(status, document)}")

    # Rotation of the secret -----------------------------------------------------------------------------------------

    def read(self, secret_values: Mapping[str, str]) -> None:
        """Take the secret from these texts. Raises AuthError."""
        self._secret = self._rendered(secret_values)

    async def prepare(self, secret_values: Mapping[str, str]) -> _NewSecret:
        return _NewSecret(self, self._rendered(secret_values))

    def _rendered(self, secret_values: Mapping[str, str]) -> str:
        value = self._options.client_secret
        try:
            return value.render(secret_values) if isinstance(value, SecretTemplate) else value
        except KeyError as error:
            raise AuthError(f"{self.name}.client_secret", f"the secret {error.args[0]} is not there") from None


class _NewSecret:
    """The token in use stays until it ends: it is the issuer's, and not the secret's."""

    def __init__(self, tokens: ClientToken, secret: str) -> None:
        self._tokens = tokens
        self._secret = secret

    def commit(self) -> None:
        self._tokens._secret = self._secret
        self._tokens._failed = None

    def discard(self) -> None:
        return


def _refusal(status: int, document: Any) -> str:
    """RFC 6749 section 5.2: the code alone, since the text is the other side's."""
    code = document.get("error") if isinstance(document, dict) else None
    said = f", {code[:60]}" if isinstance(code, str) and code.isascii() and code.isprintable() else ""
    return f"the answer is {status}{said}"


class TokenAuth(httpx.Auth):
    """Adds to requests of our clients the token of their origin, and of no other; as a service, reads the secrets."""

    name = "clients"
    requires_response_body = False

    def __init__(self, manifest: Manifest, secret_values: Callable[[], Mapping[str, str]], mask: Mask) -> None:
        self.all = [ClientToken(name, options, mask) for name, options in manifest.clients.items()]
        self._by_origin = {tokens.origin: tokens for tokens in self.all}
        self._texts = secret_values
        self._web: httpx.AsyncClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def dependants(self) -> list[ClientToken]:
        """What follows when a secret rotates."""
        return [each for each in self.all if each.names]

    @asynccontextmanager
    async def running(self, tasks: TaskGroup) -> AsyncIterator[None]:
        for each in self.all:
            each.read(self._texts())
        self._loop, self._web = asyncio.get_running_loop(), client()
        try:
            yield
        finally:
            web, self._web = self._web, None
            await web.aclose()

    async def _token(self, tokens: ClientToken, instead_of: str = "") -> str:
        if self._web is None:
            raise RuntimeError("the host has stopped, and its clients with it")
        return await tokens.token(self._web, instead_of=instead_of)

    def _wanted(self, request: httpx.Request) -> ClientToken | None:
        """Whose token a request needs: one that brings its own credential needs none."""
        return None if "authorization" in request.headers else self._by_origin.get(origin_of(request.url))

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        tokens = self._wanted(request)
        if tokens is None:
            yield request
            return
        again = _again(request)
        token = await self._token(tokens)
        response = yield _with(request, token)
        if response.status_code == 401 and again:
            yield _with(request, await self._token(tokens, instead_of=token))

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        tokens = self._wanted(request)
        if tokens is None:
            yield request
            return
        again = _again(request)
        token = self._waited(tokens)
        response = yield _with(request, token)
        if response.status_code == 401 and again:
            yield _with(request, self._waited(tokens, instead_of=token))

    def _waited(self, tokens: ClientToken, instead_of: str = "") -> str:
        """From a thread: the event loop fetches it."""
        if self._loop is None:
            raise RuntimeError("the host has not started")
        return asyncio.run_coroutine_threadsafe(self._token(tokens, instead_of), self._loop).result()


def _with(request: httpx.Request, token: str) -> httpx.Request:
    request.headers["authorization"] = f"Bearer {token}"
    return request


def _again(request: httpx.Request) -> bool:
    """Whether its body can be sent once more."""
    return isinstance(request.stream, httpx.ByteStream)
