"""Middleware that passes every request on, or answers none that would otherwise find a route."""

from __future__ import annotations

import functools
from types import FunctionType, MappingProxyType, MethodType
from typing import Any

_TRANSPARENT = MappingProxyType(
    {
        "a2wsgi": {"ASGIMiddleware", "WSGIMiddleware"},
        "asgi_correlation_id": {"CorrelationIdMiddleware"},
        "asgiref": {"AsgiToWsgi", "WsgiToAsgi"},
        "brotli_asgi": {"BrotliMiddleware"},
        "channels": {"AuthMiddleware", "CookieMiddleware", "LazySessionMiddleware", "SessionMiddleware"}
        | {"SessionMiddlewareInstance", "OriginValidator"},
        "ddtrace": {"TraceMiddleware"},
        "elasticapm": {"ElasticAPM"},
        "fastapi": {"AsyncExitStackMiddleware"},
        "hypercorn": {"ProxyFixMiddleware", "AsyncioWSGIMiddleware"},
        "newrelic": {"ASGIApplicationWrapper", "WSGIApplicationWrapper"},
        "opentelemetry": {"OpenTelemetryMiddleware"},
        "sentry_sdk": {"SentryAsgiMiddleware", "SentryWsgiMiddleware"},
        "starlette": {"AuthenticationMiddleware", "ExceptionMiddleware", "GZipMiddleware", "ServerErrorMiddleware"}
        | {"SessionMiddleware", "TrustedHostMiddleware", "WSGIMiddleware", "HTTPSRedirectMiddleware"},
        "starlette_exporter": {"PrometheusMiddleware"},
        "uvicorn": {"ProxyHeadersMiddleware", "WSGIMiddleware", "MessageLoggerMiddleware"},
        "werkzeug": {"LintMiddleware", "ProfilerMiddleware", "ProxyFix"},
    }
)
"""Package -> its classes."""


def is_transparent_class(cls: type) -> bool:
    """Whether instances of the class only pass requests on."""
    return cls.__name__ in _TRANSPARENT.get(cls.__module__.partition(".")[0], ())


def is_transparent(layer: Any) -> bool:
    """Whether a layer around an application only passes requests on. A bound method stands for its object."""
    return isinstance(layer, MethodType | functools.partial) or is_transparent_class(type(layer))


def class_name(value: Any) -> str:
    """What notes call a layer: its class, or the function."""
    named = value if isinstance(value, FunctionType | type) else type(value)
    return f"{named.__module__.partition('.')[0]}.{named.__qualname__}".replace(".<locals>", "")
