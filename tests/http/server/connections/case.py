"""What a case of the suite says: the bytes that a client sends, and what it, the application and the log see."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final


class Mark:
    """What a client does between the bytes that it sends."""


@dataclass(frozen=True, slots=True)
class Until(Mark):
    """Read until these bytes have arrived."""

    text: bytes


PAUSE: Final = Mark()  # the server has seen what was sent so far
HALF_CLOSE: Final = Mark()  # end the side of the client
RELEASE: Final = Mark()  # requests to `/held` go on
LEAVE: Final = Mark()  # close the connection without reading further; the last step


@dataclass(frozen=True, slots=True)
class Expected:
    """A response. `has` are fields as `name: value`, or names alone; `lacks` are names. `body` is a part of the body,
    `exactly` the whole of it. `head`: it answers HEAD. `whole`: its end arrives."""

    status: int
    has: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()
    body: bytes = b""
    exactly: bytes | None = None
    head: bool = False
    whole: bool = True
    framing: str = ""


@dataclass(frozen=True, slots=True)
class Case:
    """One connection.

    `log` has a line for each request, as `METHOD PATH STATUS (REASON)`. `seen` are the requests that the application
    sees, as `METHOD PATH BODY`. Where the connection stays open (`closes` is false), a further request on it is
    answered. `quietly`: the last response does not say that the connection ends, since that is the client's doing, or
    the response is cut. `gateway` overrides what is expected behind the gateway.
    """

    name: str
    send: tuple[bytes | Mark, ...]
    answers: tuple[Expected, ...]
    log: tuple[str, ...] = ()
    seen: tuple[str, ...] = ()
    closes: bool = False
    quietly: bool = False
    gateway: dict[str, Any] | None = None

    def at(self, target: str) -> Case:
        """The case as it is for a target."""
        return replace(self, **self.gateway) if target == "gateway" and self.gateway else self


def case(
    name: str,
    send: bytes | tuple[bytes | Mark, ...],
    *answers: int | Expected,
    log: str | tuple[str, ...] = (),
    seen: str | tuple[str, ...] = (),
    **more: Any,
) -> Case:
    """A case, with single values where there is one only."""
    return Case(
        name,
        (send,) if isinstance(send, bytes) else send,
        tuple(Expected(answer) if isinstance(answer, int) else answer for answer in answers),
        (log,) if isinstance(log, str) else log,
        (seen,) if isinstance(seen, str) else seen,
        **more,
    )


def refused(name: str, send: bytes | tuple[bytes | Mark, ...], status: int, log: str, **more: Any) -> Case:
    """A case in which the server, which may be the gateway, answers what it cannot take, and ends the connection."""
    left = tuple(f"{' '.join(line.split(' ')[:2])} 499 (not completed)" for line in [more.get("seen", "")] if line)
    more.setdefault("gateway", {"log": (f"gateway: {log}", *left)})
    return case(name, send, Expected(status, has=("connection: close",)), log=log, closes=True, **more)


def get(path: str, *fields: str, version: str = "1.1") -> bytes:
    """A GET request with one Host and these fields."""
    return request("GET", path, *fields, version=version)


def request(method: str, path: str, *fields: str, body: bytes = b"", version: str = "1.1") -> bytes:
    """A request with one Host, these fields, and a body that is not framed by itself."""
    lines = [f"{method} {path} HTTP/{version}", "Host: a", *fields]
    return "".join(f"{line}\r\n" for line in lines).encode("latin-1") + b"\r\n" + body


def post(path: str, body: bytes, *fields: str) -> bytes:
    """A POST request with a Content-Length."""
    return request("POST", path, *fields, f"Content-Length: {len(body)}", body=body)


def chunked(path: str, *chunks: bytes, fields: tuple[str, ...] = (), end: bytes = b"0\r\n\r\n") -> bytes:
    """A POST request in chunks."""
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return request("POST", path, *fields, "Transfer-Encoding: chunked", body=body + end)
