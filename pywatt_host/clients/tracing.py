"""The spans of HTTP requests to others (OpenTelemetry semantic conventions for HTTP clients): one for each attempt.

A span lasts until the body of the response has been read, or the response is closed. Without tracing, this module is
not loaded.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx

from pywatt_host.observability.metrics import KNOWN_METHODS
from pywatt_host.observability.spans import AnySpan, SpanKind, Tracer, Value

_CALL = "pywatt.call"  # the extension of a request that has its Call


class Call:
    """What the attempts of one request have in common, also after redirects."""

    __slots__ = ("attempts", "module", "own_trace")

    def __init__(self, own_trace: bool = False) -> None:
        self.attempts = 0
        self.own_trace = own_trace  # whether the application has set `traceparent`
        self.module = ""  # the module of a URL module://NAME/...


def note(request: httpx.Request) -> None:
    """Prepare a request of the application, before the first attempt and after each redirect."""
    call: Call = request.extensions.setdefault(_CALL, Call("traceparent" in request.headers))
    call.module = request.url.host if request.url.scheme == "module" else ""


class TracedTransport(httpx.AsyncBaseTransport):
    """A transport of an AsyncClient, each of whose requests has a span."""

    def __init__(self, tracer: Tracer, network: httpx.AsyncBaseTransport) -> None:
        self._tracer = tracer
        self._network = network

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        span = _begin(self._tracer, request)
        if not span.recorded:
            return await self._network.handle_async_request(request)
        try:
            response = await self._network.handle_async_request(request)
        except BaseException as error:
            _broke_off(span, error)
            raise
        _answered(span, response)
        assert isinstance(response.stream, httpx.AsyncByteStream)
        response.stream = _Body(span, response.stream)
        return response

    async def aclose(self) -> None:
        await self._network.aclose()


class BlockingTracedTransport(httpx.BaseTransport):
    """A transport of a blocking client, each of whose requests has a span."""

    def __init__(self, tracer: Tracer, network: httpx.BaseTransport) -> None:
        self._tracer = tracer
        self._network = network

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        span = _begin(self._tracer, request)
        if not span.recorded:
            return self._network.handle_request(request)
        try:
            response = self._network.handle_request(request)
        except BaseException as error:
            _broke_off(span, error)
            raise
        _answered(span, response)
        assert isinstance(response.stream, httpx.SyncByteStream)
        response.stream = _BlockingBody(span, response.stream)
        return response

    def close(self) -> None:
        self._network.close()


class TracedClient(httpx.AsyncClient):
    """An AsyncClient, each of whose requests has a span. Transports in `mounts` make their own."""

    def __init__(self, tracer: Tracer, **settings: Any) -> None:
        self._tracer = tracer
        super().__init__(**settings)

    def _init_transport(self, *args: Any, **settings: Any) -> httpx.AsyncBaseTransport:
        return TracedTransport(self._tracer, super()._init_transport(*args, **settings))

    def _init_proxy_transport(self, *args: Any, **settings: Any) -> httpx.AsyncBaseTransport:
        return TracedTransport(self._tracer, super()._init_proxy_transport(*args, **settings))


class BlockingTracedClient(httpx.Client):
    """A blocking client, each of whose requests has a span. Transports in `mounts` make their own."""

    def __init__(self, tracer: Tracer, **settings: Any) -> None:
        self._tracer = tracer
        super().__init__(**settings)

    def _init_transport(self, *args: Any, **settings: Any) -> httpx.BaseTransport:
        return BlockingTracedTransport(self._tracer, super()._init_transport(*args, **settings))

    def _init_proxy_transport(self, *args: Any, **settings: Any) -> httpx.BaseTransport:
        return BlockingTracedTransport(self._tracer, super()._init_proxy_transport(*args, **settings))


class _Body(httpx.AsyncByteStream):
    """The body of a response, whose end is that of the span."""

    def __init__(self, span: AnySpan, stream: httpx.AsyncByteStream) -> None:
        self._ended = _Once(span)
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for piece in self._stream:
                yield piece
        except Exception as error:
            self._ended(error)
            raise

    async def aclose(self) -> None:
        try:
            await self._stream.aclose()
        finally:
            self._ended()


class _BlockingBody(httpx.SyncByteStream):
    """The body of a response of a blocking client, whose end is that of the span."""

    def __init__(self, span: AnySpan, stream: httpx.SyncByteStream) -> None:
        self._ended = _Once(span)
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._stream
        except Exception as error:
            self._ended(error)
            raise

    def close(self) -> None:
        try:
            self._stream.close()
        finally:
            self._ended()


class _Once:
    """Ends a span, once."""

    def __init__(self, span: AnySpan) -> None:
        self._span: AnySpan | None = span

    def __call__(self, error: Exception | None = None) -> None:
        span, self._span = self._span, None
        if span is None:
            return
        if error is not None:
            _broke_off(span, error)
        else:
            span.end()


def _begin(tracer: Tracer, request: httpx.Request) -> AnySpan:
    """The span of an attempt. The request names it as its parent, unless the application has set `traceparent`."""
    call: Call = request.extensions.get(_CALL) or Call("traceparent" in request.headers)
    known = request.method in KNOWN_METHODS
    span = tracer.span(request.method if known else "HTTP", SpanKind.CLIENT)
    if span.recorded:
        for name, value in _attributes(request, call, known).items():
            span.set(name, value)
    call.attempts += 1
    place = span.place
    if place is not None and not call.own_trace:
        request.headers["traceparent"] = place.traceparent()
        if place.state:
            request.headers["tracestate"] = place.state
    return span


def _attributes(request: httpx.Request, call: Call, known: bool) -> dict[str, Value]:
    url = request.url
    found: dict[str, Value] = {
        "http.request.method": request.method if known else "_OTHER",
        "server.address": url.host,
        "server.port": url.port or (443 if url.scheme == "https" else 80),
        "url.full": shown(url),
    }
    if not known:
        found["http.request.method_original"] = request.method
    if call.attempts:
        found["http.request.resend_count"] = call.attempts
    if call.module:
        found["peer.service"] = call.module
    return found


def shown(url: httpx.URL) -> str:
    """A URL without credentials, and without the values of its query.

    >>> shown(httpx.URL("https://ada:secret@example.com/users?page=2&key=abc#top"))
    'https://example.com/users?page=REDACTED&key=REDACTED'
    """
    path, mark, query = url.raw_path.decode("ascii").partition("?")
    names = [f"{name}=REDACTED" if equals else "REDACTED" for name, equals, _ in _pairs(query)]
    return f"{url.scheme}://{url.netloc.decode('ascii')}{path}{mark}{'&'.join(names)}"


def _pairs(query: str) -> list[tuple[str, str, str]]:
    return [part.partition("=") for part in query.split("&") if part]


def _answered(span: AnySpan, response: httpx.Response) -> None:
    status, version = response.status_code, response.extensions.get("http_version", b"")
    span.set("http.response.status_code", status)
    if isinstance(version, bytes) and version.startswith(b"HTTP/"):
        span.set("network.protocol.version", version[5:].decode("ascii"))
    if status >= 400:
        span.fail(str(status))


def _broke_off(span: AnySpan, error: BaseException) -> None:
    span.fail(type(error).__qualname__)
    span.end()


def traced(tracer: Tracer) -> Callable[[httpx.AsyncBaseTransport], httpx.AsyncBaseTransport]:
    """A function that gives the requests of a transport their spans."""
    return lambda network: TracedTransport(tracer, network)


def traced_blocking(tracer: Tracer) -> Callable[[httpx.BaseTransport], httpx.BaseTransport]:
    """A function that gives the requests of a blocking transport their spans."""
    return lambda network: BlockingTracedTransport(tracer, network)
