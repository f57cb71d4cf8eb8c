"""Access tokens for requests to other services: OAuth 2.0 client credentials (RFC 6749 section 4.4)."""

from __future__ import annotations

import asyncio
import logging
import time
from asyncio import TaskGroup
from base64 import b64encode
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from importlib import import_module
from typing import Any
from urllib.parse import quote_plus, urlencode

import httpx
from authlib.oauth2.rfc6749.parameters import prepare_token_request  # type: ignore[import-untyped]

from pywatt_host.auth.fetching import FetchError, client, endpoint, fetch, metadata
from pywatt_host.auth.origin import origin_of
from pywatt_host.exceptions import AuthError
from pywatt_host.manifest.model import Client, Manifest
from pywatt_host.manifest.values import SecretTemplate
from pywatt_host.observability.spans import NO_TRACER, AnyTracer, Tracer

logger = logging.getLogger("pywatt.auth")

_DEFAULT_LIFETIME = 300.0  # seconds, where the issuer does not give one
_RENEW_BEFORE = 60.0  # seconds before its expiry at which a token is renewed; at most a tenth of its lifetime
_RETRY_DELAY = 1.0  # seconds until an issuer that failed is asked again
_FORM = {"content-type": "application/x-www-form-urlencoded"}

Mask = Callable[[str, str], object]


class ClientToken:
    """The access token of one entry of `clients`. One request serves all callers that wait for it; it is kept until
    shortly before its expiry."""

    def __init__(self, name: str, options: Client, mask: Mask, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`mask` is called with a name and each token, so that logs mask it; `clock` gives seconds."""
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
        self._expires_at = 0.0
        self._failed: tuple[float, AuthError] | None = None
        self._fetching: asyncio.Task[str] | None = None

    async def token(self, web: httpx.AsyncClient, *, instead_of: str = "") -> str:
        """The present token; a new one where the present one is `instead_of`, which was rejected. Raises AuthError."""
        now = self._clock()
        fresh = self._token != instead_of and bool(self._token)
        if fresh and now < self._renew_at:
            return self._token
        if self._failed is not None and now < self._failed[0]:
            if fresh and now < self._expires_at:
                return self._token
            raise self._failed[1]
        if self._fetching is None:
            self._fetching = asyncio.get_running_loop().create_task(self._fetch(web), name=f"token of {self.name}")
            self._fetching.add_done_callback(self._fetch_done)
        if fresh and now < self._expires_at:  # it is still valid, and the next one is being fetched
            return self._token
        return await asyncio.shield(self._fetching)

    def _fetch_done(self, task: asyncio.Task[str]) -> None:
        self._fetching = None
        if not task.cancelled():
            task.exception()  # marks it as retrieved: there may be no caller that waits for it

    async def _fetch(self, web: httpx.AsyncClient) -> str:
        try:
            document = await self._document(web)
        except AuthError as error:
            self._failed = (self._clock() + _RETRY_DELAY, error)
            logger.warning("%s", error)
            raise
        self._failed = None
        expires_in = document.get("expires_in")
        seconds = float(expires_in) if isinstance(expires_in, int | float) and expires_in > 0 else _DEFAULT_LIFETIME
        now = self._clock()
        self._renew_at, self._expires_at = now + seconds - min(_RENEW_BEFORE, seconds / 10), now + seconds
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
            # RFC 6749 section 2.3.1: both are form-encoded first, which the library does not do.
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
        """Take the client secret from the values of secrets. Raises AuthError."""
        self._secret = self._rendered(secret_values)

    async def prepare(self, secret_values: Mapping[str, str]) -> _NewSecret:
        return _NewSecret(self, self._rendered(secret_values))

    def _rendered(self, secret_values: Mapping[str, str]) -> str:
        value = self._options.client_secret
        try:
            return value.render(secret_values) if isinstance(value, SecretTemplate) else value
        except KeyError as error:
            raise AuthError(f"{self.name}.client_secret", f"the secret {error.args[0]} is missing") from None


class _NewSecret:
    """A new client secret. The present token stays in use until it expires, since the issuer alone decides about it."""

    def __init__(self, tokens: ClientToken, secret: str) -> None:
        self._tokens = tokens
        self._secret = secret

    def commit(self) -> None:
        self._tokens._secret = self._secret
        self._tokens._failed = None

    def discard(self) -> None:
        return


def _refusal(status: int, document: Any) -> str:
    """The status and the error code of RFC 6749 section 5.2. The description is left out, since the other side chooses
    its text."""
    code = document.get("error") if isinstance(document, dict) else None
    said = f", {code[:60]}" if isinstance(code, str) and code.isascii() and code.isprintable() else ""
    return f"the answer is {status}{said}"


class TokenAuth(httpx.Auth):
    """Adds to each request the token for its origin, and never that of another origin. As a service, it reads the
    client secrets."""

    name = "clients"
    requires_response_body = False

    def __init__(
        self,
        manifest: Manifest,
        secret_values: Callable[[], Mapping[str, str]],
        mask: Mask,
        tracer: AnyTracer = NO_TRACER,
    ) -> None:
        self._tracer = tracer
        self.all = [ClientToken(name, options, mask) for name, options in manifest.clients.items()]
        self._by_origin = {tokens.origin: tokens for tokens in self.all}
        self._texts = secret_values
        self._web: httpx.AsyncClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def dependants(self) -> list[ClientToken]:
        """The tokens whose client secret may rotate."""
        return [each for each in self.all if each.names]

    @asynccontextmanager
    async def running(self, tasks: TaskGroup) -> AsyncIterator[None]:
        for each in self.all:
            each.read(self._texts())
        self._loop, self._web = asyncio.get_running_loop(), self._client()
        try:
            yield
        finally:
            web, self._web = self._web, None
            await web.aclose()

    def _client(self) -> httpx.AsyncClient:
        if not isinstance(self._tracer, Tracer):
            return client()
        return client(partial(import_module("pywatt_host.clients.tracing").TracedClient, self._tracer))

    async def _token(self, tokens: ClientToken, instead_of: str = "") -> str:
        if self._web is None:
            raise RuntimeError("the host has stopped, and its clients with it")
        return await tokens.token(self._web, instead_of=instead_of)

    def _token_for(self, request: httpx.Request) -> ClientToken | None:
        """The token that a request needs; None where the application has set its own credential."""
        return None if "authorization" in request.headers else self._by_origin.get(origin_of(request.url))

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        tokens = self._token_for(request)
        if tokens is None:
            yield request
            return
        repeatable = _is_repeatable(request)
        token = await self._token(tokens)
        response = yield _with_token(request, token)
        if response.status_code == 401 and repeatable:
            yield _with_token(request, await self._token(tokens, instead_of=token))

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        tokens = self._token_for(request)
        if tokens is None:
            yield request
            return
        repeatable = _is_repeatable(request)
        token = self._blocking_token(tokens)
        response = yield _with_token(request, token)
        if response.status_code == 401 and repeatable:
            yield _with_token(request, self._blocking_token(tokens, instead_of=token))

    def _blocking_token(self, tokens: ClientToken, instead_of: str = "") -> str:
        """The token, for a thread: the event loop fetches it."""
        if self._loop is None:
            raise RuntimeError("the host has not started")
        return asyncio.run_coroutine_threadsafe(self._token(tokens, instead_of), self._loop).result()


def _with_token(request: httpx.Request, token: str) -> httpx.Request:
    request.headers["authorization"] = f"Bearer {token}"
    return request


def _is_repeatable(request: httpx.Request) -> bool:
    """Whether the body of a request can be sent again."""
    return isinstance(request.stream, httpx.ByteStream)
