"""The paths that the host answers itself: health and metrics."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from math import ceil
from typing import Any

from pywatt_host.http.allowed_hosts import AllowedHosts, HostCheck
from pywatt_host.http.edge import Answer, HostPath
from pywatt_host.http.guard import Guard
from pywatt_host.http.problem import problem_body, problem_headers, send_problem
from pywatt_host.manifest.values.addresses import is_loopback
from pywatt_host.net.limits import RateLimiter, client_key
from pywatt_host.types import Receive, Scope, Send


def reported(report: Callable[[], tuple[int, dict[str, Any]]]) -> HostPath:
    """A path that answers with the status and the JSON document that `report` returns."""

    async def answer(scope: Scope) -> Answer:
        status, document = report()
        body = json.dumps(document).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"cache-control", b"no-store"),
            (b"content-length", str(len(body)).encode()),
        ]
        return status, headers, body

    return answer


def by_listener(local: HostPath, other: HostPath, hosts: AllowedHosts) -> HostPath:
    """A path that answers `local` to requests from this machine, and `other` to the rest.

    A request is from this machine if its connection was accepted on a loopback address or on a Unix socket, and it is
    not that of another site's page. Where a host listens on several addresses, or on every interface, each request is
    judged by itself.
    """

    async def answer(scope: Scope) -> Answer | None:
        trusted = accepted_locally(scope) and hosts.no_foreign_name(scope["headers"])
        return await (local if trusted else other)(scope)

    return answer


def accepted_locally(scope: Scope) -> bool:
    """Whether the connection of a request was accepted on a loopback address or on a Unix socket (no port). Another
    server may not tell: then it was not."""
    server = scope.get("server")
    return server is not None and (server[1] is None or is_loopback(server[0]))


def guarded(path: HostPath, guard: Guard | None, guesses: RateLimiter) -> HostPath:
    """The path, for requests that the guard lets through; others are refused. `guesses` limits the wrong credentials of
    one address: over it, credentials are not looked at."""
    if guard is None:
        return path

    async def answer(scope: Scope) -> Answer | None:
        client = scope.get("client")
        address = client_key(client[0]) if client is not None else ""
        wait = guesses.wait_for(address)
        if wait > 0:
            return _problem(429, ((b"retry-after", str(ceil(wait)).encode()),))
        verdict = guard.recall(scope) or await guard.examine(scope)
        if not verdict.is_guess:
            guesses.give_back(address)
        if not verdict.status:
            return await path(scope)
        return _problem(verdict.status, verdict.headers)

    return answer


def _problem(status: int, headers: Sequence[tuple[bytes, bytes]]) -> Answer:
    body = problem_body(status)
    return status, problem_headers(body, headers), body


class HostPathsApp:
    """The host's own paths as an ASGI application, for the admin listener. `hosts` is None where any is allowed."""

    def __init__(self, own: Mapping[str, HostPath], hosts: HostCheck | None = None) -> None:
        self._own = own
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
            return
        answering = self._own.get(scope["path"])
        if self._hosts is not None and self._hosts.refusal(scope, scope["path"]) is not None:
            await send_problem(send, 421)
        elif answering is None:
            await send_problem(send, 404)
        elif scope["method"] not in ("GET", "HEAD"):
            await send_problem(send, 405, headers=[(b"allow", b"GET, HEAD")])
        else:
            answer = await answering(scope)
            assert answer is not None
            status, headers, body = answer
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": body})
