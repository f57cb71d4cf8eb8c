"""Whether an application has a health path of its own, which is found out once, after it has started."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from pywatt_host.app.applications import Application, Applications
from pywatt_host.http.endpoints import Table, lookup
from pywatt_host.http.inprocess import TooLargeError, request
from pywatt_host.types import ASGIApp

logger = logging.getLogger("pywatt.health")

# What an application answers where it has no such page, does not show it without a login, or does not serve GET there.
_NOT_SERVED = frozenset({*range(300, 400), 401, 403, 404, 405, 501})

_DIGITS = re.compile(rb"[0-9]+")
_WORDS = re.compile(rb"[^\s\"'<>(){}\[\],;&=]+")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a request ended. `failure` is `no answer`, `too large`, or the name of the exception that the application
    raised; then there is no response."""

    status: int = 0
    media_type: bytes = b""
    body: bytes = b""
    failure: str = ""


async def app_serves_health(applications: Applications, path: str, timeout: float) -> bool:
    """Whether an application answers `path` with a health report of its own.

    The application is sent up to three requests, of `timeout` seconds each at most. It has no health path if its route
    table has no such route, if it answers with a redirect, 401, 403, 404, 405 or 501, or if it answers random paths in
    the same way: then it answers every path, and its answer says nothing about its health. An exception, or no answer
    in time, is compared like any other answer. But if the path is literally in its route table, and the application
    fails there, then the application serves the path and is not healthy.
    """
    application = applications.at(path)
    if application is None or application.mount is None:
        return False
    table = _table(application)
    if table is not None and not lookup(table.match(path) or {}, "GET"):
        return False
    declared = table is not None and table.is_literal(path)
    found = await _outcome(application.mount, path, timeout)
    if found.status in _NOT_SERVED:
        if declared:
            logger.info("the application answers %d on %s: the host serves its own report", found.status, path)
        return False
    if declared and (found.failure or found.status >= 500):
        return True
    paths, outcomes = [path], [found]
    for _ in range(2):  # from two answers to random paths follows what differs from request to request
        paths.append(_random_path(applications, application, path))
        outcomes.append(await _outcome(application.mount, paths[-1], timeout))
        if same(paths, outcomes):
            return False
    return True


def same(paths: Sequence[str], outcomes: Sequence[Outcome]) -> bool:
    """Whether the first outcome says nothing that the others, those of random paths, do not say.

    Status and media type are equal, and so are the bodies, apart from letter case and from what differs from request to
    request: the path itself, digits (dates, counters, durations), and the words in which the answers to the random
    paths differ from each other (request ids, nonces, tokens).
    """
    if len({(outcome.status, outcome.media_type, outcome.failure) for outcome in outcomes}) > 1:
        return False
    texts = [_WORDS.findall(_without_paths(outcome.body, paths)) for outcome in outcomes]
    if len({len(words) for words in texts}) > 1:
        return False
    return all(word == others[0] or len(set(others)) > 1 for word, *others in zip(*texts, strict=True))


def _without_paths(body: bytes, paths: Sequence[str]) -> bytes:
    """The body in lower case, without digits and without the last segments of all paths, so that the same words are
    left out of every body."""
    body = body.lower()
    for name in filter(None, (path.rpartition("/")[2] for path in paths)):
        body = body.replace(name.lower().encode(), b"*")
    return _DIGITS.sub(b"0", body)


def _table(application: Application) -> Table[bool] | None:
    """The routes of an application; None where they cannot be read."""
    if application.routes is None:
        return None
    table: Table[bool] = Table()
    for route in application.routes:
        for method in route.methods:
            try:
                table.add(route.path, (method,), True)
            except ValueError:
                continue  # an application may have one path twice
    return table


def _random_path(applications: Applications, application: Application, path: str) -> str:
    """A path of the same application that nobody has: beside `path`, or below it where it is the whole prefix."""
    name = f"no-page-{secrets.token_hex(8)}"
    beside = f"{path.rpartition('/')[0]}/{name}"
    return beside if applications.at(beside) is application else f"{path}/{name}"


async def _outcome(app: ASGIApp, path: str, timeout: float) -> Outcome:
    """Send a GET request; returns after `timeout` seconds also where the application ignores its cancellation."""
    asked = asyncio.create_task(request(app, path))
    try:
        await asyncio.wait((asked,), timeout=timeout)
        if not asked.done():
            return Outcome(failure="no answer")
        status, headers, body = asked.result()
    except TooLargeError:
        return Outcome(failure="too large")
    except Exception as error:  # named boundary: the user's application
        return Outcome(failure=type(error).__name__)
    finally:
        asked.add_done_callback(_retrieve)
        asked.cancel()
    media_type = next((value for name, value in headers if name.lower() == b"content-type"), b"")
    return Outcome(status, media_type.partition(b";")[0].strip().lower(), body)


def _retrieve(asked: asyncio.Task[tuple[int, list[tuple[bytes, bytes]], bytes]]) -> None:
    """Retrieve the exception of a request that has ended too late, so that asyncio does not log it."""
    if not asked.cancelled():
        asked.exception()
