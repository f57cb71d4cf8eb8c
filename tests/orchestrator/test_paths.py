"""Which module a path of the gateway belongs to."""

from __future__ import annotations

import logging

import pytest

from pywatt_host.http.endpoints import Table
from pywatt_host.manifest import Source, load
from pywatt_host.orchestrator.paths import NoPlace, Paths, Place, _template, hidden_paths
from pywatt_host.protocol.messages import Announce, AnnouncedEndpoint
from tests.hosting import run
from tests.orchestrator.conversing import Around, Peer, module_of

ENDPOINTS = (
    AnnouncedEndpoint("/api/users", ("GET", "POST")),
    AnnouncedEndpoint("/api/users/{id}", ("GET",)),
    AnnouncedEndpoint("/metrics", ("GET",)),
)


def find(method: str, path: str, *, preflight: bool = False) -> tuple[str, str] | int:
    """The module and the path there, or the status."""
    found: list[tuple[str, str] | int] = []

    async def main() -> None:
        around = Around()
        users, billing, opaque = (Peer(name, around).up() for name in ("users", "billing", "opaque"))
        users.replica.announced(Announce("127.0.0.1:1", ENDPOINTS))
        billing.replica.announced(Announce("127.0.0.1:2", ENDPOINTS))
        peers = (users, billing, opaque)
        modules = {peer.replica.module: module_of(peer, hidden=hidden_paths(None)) for peer in peers}
        place = Paths(modules).find(path, path.encode(), method, preflight)
        found.append((place.module.id, place.raw.decode()) if isinstance(place, Place) else place.status)

    run(main)
    return found[0]


@pytest.mark.parametrize(
    ("method", "path", "result"),
    [
        ("GET", "/users/api/users", ("users", "/api/users")),
        ("HEAD", "/users/api/users/", ("users", "/api/users/")),
        ("GET", "/billing/api/users/7", ("billing", "/api/users/7")),
        ("POST", "/billing/api/users/7", 405),
        ("GET", "/users/other", 404),
        ("GET", "/users", 404),
        ("DELETE", "/opaque/whatever/it/is", ("opaque", "/whatever/it/is")),
        ("GET", "/opaque", ("opaque", "/")),
        ("GET", "/api/users/7", ("users", "/api/users/7")),
        ("DELETE", "/api/users", 405),
        ("GET", "/nobody/x", 404),
        ("GET", "/users/metrics", 404),
        ("GET", "/metrics", 404),
        ("GET", "/opaque/health", 404),
        ("GET", "/opaque/health/", 404),
        ("POST", "/opaque/_pywatt/messages", 404),
        ("WEBSOCKET", "/opaque/ws", ("opaque", "/ws")),
        ("WEBSOCKET", "/users/api/users/7", ("users", "/api/users/7")),
        ("OPTIONS", "/users/api/users", 405),
    ],
)
def test_a_path_belongs_to_the_module_that_is_named_or_announced_it_first(
    method: str, path: str, result: tuple[str, str] | int
) -> None:
    assert find(method, path) == result


def test_a_preflight_goes_where_the_path_is() -> None:
    assert find("OPTIONS", "/users/api/users", preflight=True) == ("users", "/api/users")
    assert find("OPTIONS", "/users/other", preflight=True) == 404


def test_a_path_stays_known_while_its_module_is_started_again_and_conflicts_are_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        around = Around()
        users, billing = (Peer(name, around).up() for name in ("users", "billing"))
        paths = Paths({peer.replica.module: module_of(peer) for peer in (users, billing)})
        for peer in (users, billing):
            peer.replica.announced(Announce("127.0.0.1:1", ENDPOINTS[:1]))
        assert isinstance(paths.find("/api/users", b"/api/users", "GET", False), Place)
        users.replica.announce = None
        assert isinstance(paths.find("/api/users", b"/api/users", "GET", False), Place)
        assert isinstance(paths.find("/api/nothing", b"/api/nothing", "GET", False), NoPlace)

    with caplog.at_level(logging.WARNING):
        run(main)
    assert sum("/api/users" in record.getMessage() for record in caplog.records) == 2  # GET and POST


@pytest.mark.parametrize(
    ("announced", "ours"),
    [
        ("/a/{id}", "/a/{x}"),
        ("/a/:id/b", "/a/{x}/b"),
        ("/a/<int:id>", "/a/{x}"),
        ("/a/<path:rest>", "/a/{rest:path}"),
        ("/a/*rest", "/a/{rest:path}"),
        ("/a/{*rest}", "/a/{rest:path}"),
        ("/a/{rest:path}", "/a/{rest:path}"),
        ("/", "/"),
        ("nothing", None),
        ("/a/{b}c", None),
    ],
)
def test_templates_of_other_frameworks_are_understood(announced: str, ours: str | None) -> None:
    template = _template(announced)
    assert template == ours
    if template is not None:
        Table[int]().add(template, ("GET",), 1)


def test_what_a_manifest_serves_for_operators_is_hidden() -> None:
    def hidden(**keys: object) -> frozenset[str]:
        return hidden_paths(load(Source.of_data({"app": "main:app", **keys}, name="test"), environ={}).manifest)

    assert hidden() == {"/health", "/livez", "/readyz"}
    assert hidden(health="/up", metrics="/m") == {"/up", "/livez", "/readyz", "/m"}
    assert hidden(metrics=True, server={"admin": {"listen": "127.0.0.1:9090"}}) == frozenset()
