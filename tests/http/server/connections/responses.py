"""What leaves: bodies that do not belong, fields that the connection decides about, faults of the application."""

from __future__ import annotations

from tests.http.server.application import CUTS, FAULTS
from tests.http.server.connections.case import Case, Expected, case, get, request


def _statuses() -> list[Case]:
    """A status that has no body has none, and the connection stays in step."""
    found: list[Case] = []
    for status in (204, 304):
        found.append(
            case(f"{status} has no body", get(f"/status/{status}") + get("/echo"),
                 Expected(status, lacks=("transfer-encoding",)), 200,
                 log=(f"GET /status/{status} {status}", "GET /echo 200"), seen=(f"GET /status/{status}", "GET /echo"))
        )  # fmt: skip
    for status in (200, 205, 299, 404, 599):
        found.append(case(f"the status {status}", get(f"/status/{status}"), Expected(status, exactly=b"body"),
                          log=f"GET /status/{status} {status}", seen=f"GET /status/{status}"))  # fmt: skip
    return found


def _faults() -> list[Case]:
    """A fault before anything has left is a 500, and the connection goes on."""
    return [
        case(f"the fault {name}", get(f"/fault/{name}") + get("/echo"),
             Expected(500, has=("content-type: application/problem+json",), lacks=("x-b", "set-cookie"),
                      body=b'"request_id"'), 200,
             log=(f"GET /fault/{name} 500 (application raised)", "GET /echo 200"),
             seen=(f"GET /fault/{name}", "GET /echo"))
        for name in FAULTS
    ]  # fmt: skip


def _cuts() -> list[Case]:
    """After a part of the response has left, the connection ends, and the log has the status that was sent."""
    return [
        case(f"a response that is cut: {name}", get(f"/cut/{name}"),
             Expected(200, exactly=b"part", whole=False, framing="chunked"),
             log=f"GET /cut/{name} 200 (application raised)", seen=f"GET /cut/{name}", closes=True, quietly=True,
             gateway={"log": (f"GET /cut/{name} 200 (application raised)",
                              f"gateway: GET /cut/{name} 200 (the module broke off)")})
        for name in CUTS
    ]  # fmt: skip


CASES = [
    *_statuses(),
    case("HEAD", request("HEAD", "/echo") + get("/echo"), Expected(200, head=True, has=("content-length",)), 200,
         log=("HEAD /echo 200", "GET /echo 200"), seen=("HEAD /echo", "GET /echo")),
    case("HEAD of a stream", request("HEAD", "/stream") + get("/echo"), Expected(200, head=True), 200,
         log=("HEAD /stream 200", "GET /echo 200"), seen=("HEAD /stream", "GET /echo")),
    case("HEAD of a fault", request("HEAD", "/fault/raises") + get("/echo"), Expected(500, head=True), 200,
         log=("HEAD /fault/raises 500 (application raised)", "GET /echo 200"),
         seen=("HEAD /fault/raises", "GET /echo")),
    case("a stream", get("/stream"), Expected(200, exactly=b"onetwo", framing="chunked"),
         log="GET /stream 200", seen="GET /stream"),
    case("fields that the connection decides about", get("/headers"),
         Expected(200, exactly=b"fields", has=("date: Mon, 01 Jan 2024 00:00:00 GMT",), lacks=("transfer-encoding",
                  "keep-alive", "connection")), log="GET /headers 200", seen="GET /headers",
         gateway={"answers": (Expected(200, exactly=b"fields", lacks=("keep-alive", "connection")),)}),
    case("an application that looks for a disconnect", get("/polls") * 3, 200, 200, 200,
         log=("GET /polls 200",) * 3, seen=("GET /polls",) * 3),
    *_faults(),
    *_cuts(),
]  # fmt: skip
