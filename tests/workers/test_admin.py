"""The host's own paths as the supervisor serves them itself: for allowed hosts, with the headers of every response."""

from __future__ import annotations

from pywatt_host.http.allowed_hosts import AllowedHosts, HostCheck
from pywatt_host.http.edge import Answer
from pywatt_host.types import Scope
from pywatt_host.workers.admin import HostPathsOfNow
from tests.hosting import Call, http_scope, run


async def answer(scope: Scope) -> Answer:
    return 200, [(b"content-type", b"text/plain"), (b"server", b"own")], b"told"


def test_hosts_and_headers_are_those_of_the_manifest_in_use() -> None:
    async def main() -> None:
        hosts = HostCheck(AllowedHosts(["a"]), ["/health"], ["/metrics"])
        added = [(b"x-frame-options", b"DENY"), (b"server", b"other")]
        app = HostPathsOfNow(lambda: {"/health": answer, "/metrics": answer}, lambda: hosts, lambda: added)
        for path, name, status in [
            ("/health", "evil.example", 200),
            ("/metrics", "evil.example", 421),
            ("/metrics", "10.0.0.7:80", 200),
            ("/metrics", "a", 200),
        ]:
            found = await Call(app, http_scope("GET", path, [("Host", name)])).answer()
            assert (found.status, found.header("x-frame-options")) == (status, "DENY"), (path, name)
            assert found.header("server") == ("own" if status == 200 else "other")
        added.clear()
        hosts = HostCheck(AllowedHosts(["*"]))
        found = await Call(app, http_scope("GET", "/metrics", [("Host", "evil.example")])).answer()
        assert (found.status, found.header("x-frame-options")) == (200, "")

    run(main)
