"""Routes of Django: the URL configuration of its settings, with `path()`, `re_path()`, includes and translations."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from pywatt_host.app.introspection.regex import one_segment, pieces_of_regex
from pywatt_host.app.introspection.route import ANY, Note, Route, RoutesOf, is_a, methods_of
from pywatt_host.app.introspection.template import Parameter, Piece, below, template

_PARAMETER = re.compile(r"<(?:[^>:]+:)?([^>]+)>")
_REST = Parameter("rest", rest=True)


def matches(app: Any) -> bool:
    return is_a(app, "django", "ASGIHandler", "WSGIHandler")


def routes(app: Any, routes_of: RoutesOf) -> list[Route]:
    """The URL configuration, of which Django has one for the whole process. This imports it, and with it the views."""
    rows = read(sys.modules["django.urls"].get_resolver().url_patterns, ["/"])
    settings = sys.modules["django.conf"].settings
    appends = settings.APPEND_SLASH and any(name.endswith(".CommonMiddleware") for name in settings.MIDDLEWARE)
    rows = [replace(row, slashes=appends and row.path.endswith("/")) for row in rows]
    if is_a(app, "django", "StaticFilesHandlerMixin"):
        rows.append(Route(below(template([settings.STATIC_URL.rstrip("/")])), ("GET",), "static files"))
    return rows


_PASSING = (  # middleware of Django that answers no path of its own
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.common.BrokenLinkEmailsMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.middleware.gzip.GZipMiddleware",
    "django.middleware.http.ConditionalGetMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
)


def notes(app: Any) -> Iterator[Note]:
    settings = sys.modules["django.conf"].settings
    for name in settings.MIDDLEWARE:
        if name not in _PASSING:
            yield Note(f"the middleware {name} may answer requests itself")
    if getattr(sys.modules.get(settings.ROOT_URLCONF), "handler404", None) is not None:
        yield Note("handler404 answers paths without a route")


def load_urls() -> None:
    """Import the URL configuration of the process, and with it the views. Raises whatever that raises."""
    pending = [sys.modules["django.urls"].get_resolver()]
    while pending:
        pending += [each for each in pending.pop().url_patterns if hasattr(type(each), "url_patterns")]


def url_module() -> str:
    """The name of the module with the URL configuration, `ROOT_URLCONF`; empty where the settings have none."""
    return str(getattr(sys.modules["django.conf"].settings, "ROOT_URLCONF", "") or "")


def read(patterns: list[Any], before: list[Piece]) -> list[Route]:
    """The rows of a list of URL patterns, each path beginning with the pieces `before`."""
    rows: list[Route] = []
    for entry in patterns:
        nested = getattr(entry, "url_patterns", None)
        for pieces in readings(entry.pattern, whole=nested is None):
            if nested is None:
                view = getattr(entry.callback, "view_class", None)
                options = view is not None and getattr(view.options, "__module__", "") == "django.views.generic.base"
                rows.append(Route(template([*before, *pieces]), _methods(entry.callback), _name(entry), options))
            else:
                rows += read(nested, [*before, *pieces])
    return rows


def readings(pattern: Any, *, whole: bool) -> list[list[Piece]]:
    """The pieces of one pattern: several lists where a part of it is optional."""
    if is_a(pattern, "django", "LocalePrefixPattern"):
        language: list[Piece] = [Parameter("language"), "/"]
        return [language] if pattern.prefix_default_language else [language, []]
    text = pattern._regex if is_a(pattern, "django", "RegexPattern") else pattern._route
    if not isinstance(text, str):  # a translated pattern differs from language to language
        return [[_REST]]
    if is_a(pattern, "django", "RegexPattern"):
        return pieces_of_regex(text, whole=whole)
    return [_pieces(text, pattern.converters)]


def _pieces(text: str, converters: dict[str, Any]) -> list[Piece]:
    pieces: list[Piece] = []
    end = 0
    for match in _PARAMETER.finditer(text):
        regex = converters[match[1]].regex
        pieces += [text[end : match.start()], Parameter(match[1], rest=not one_segment(regex))]
        end = match.end()
    return [*pieces, text[end:]]


def _methods(view: Any) -> tuple[str, ...]:
    """The methods that a class-based view implements, without the OPTIONS that every such view has; `*` for others."""
    cls: Any = getattr(view, "view_class", None)
    if cls is None:
        return ANY
    names = {name for name in cls.http_method_names if hasattr(cls, name)}
    if getattr(cls.options, "__module__", "") == "django.views.generic.base":
        names.discard("options")
    return methods_of(names)


def _name(entry: Any) -> str:
    cls = getattr(entry.callback, "view_class", entry.callback)
    return str(entry.name or getattr(cls, "__name__", ""))
