"""Finding services that the manifest tells, and the address of this module."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pywatt_host.discovery.discovery import Discovery
from pywatt_host.discovery.static import http_address, takes_connections
from pywatt_host.exceptions import MessagingError
from pywatt_host.manifest.model import StaticService
from pywatt_host.peers.client import PeerClient
from pywatt_host.protocol.messages import Provider
from tests.hosting import hello, hosted, run


def nowhere() -> PeerClient:
    return PeerClient("users", (), handshake=None, frame_limit=1024, handshake_timeout=1, heartbeats_missed=3)


async def listening() -> asyncio.Server:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    return await asyncio.start_server(serve, "127.0.0.1", 0)


def test_a_static_service_is_healthy_where_ittakes_connections() -> None:
    async def main() -> None:
        server = await listening()
        port = server.sockets[0].getsockname()[1]
        static = [
            {"name": "main", "type": "database", "address": f"127.0.0.1:{port}", "metadata": {"region": "eu"}},
            {"name": "other", "type": "Database", "address": "127.0.0.1:1"},
            {"name": "web", "type": "api", "address": f"http://127.0.0.1:{port}/v1"},
            {"name": "bucket", "type": "api", "address": "s3://bucket/x"},
        ]
        async with hosted({"services": {"static": static}}, hello) as host:
            found = await host.state.discover_services("DATABASE")
            assert [(each.name, each.is_healthy, dict(each.metadata)) for each in found] == [
                ("main", True, {"region": "eu"}),
                ("other", False, {}),
            ]
            assert [(each.name, each.is_healthy) for each in await host.state.discover_services("api")] == [
                ("web", True),
                ("bucket", False),
            ]
            assert await host.state.discover_services("nothing") == []
        server.close()
        await server.wait_closed()
        assert not await takes_connections(f"127.0.0.1:{port}")

    run(main)


def test_what_a_lone_module_registers_it_finds_itself() -> None:
    async def main() -> None:
        offers = [{"name": "users-api", "type": "api", "version": "2"}]
        async with hosted({"services": {"register": offers}}, hello) as host:
            provider = await host.state.register_service("more", "api", "10.0.0.1:1")
            host.host.channels.announce("http://127.0.0.1:8080", [])
            found = await host.state.discover_services("api")
            assert {(each.name, each.address, each.version) for each in found} == {
                ("users-api", "http://127.0.0.1:8080", "2"),
                ("more", "10.0.0.1:1", None),
            }
            await host.state.deregister_service(provider)
            assert [each.name for each in await host.state.discover_services("api")] == ["users-api"]

    run(main)


@pytest.mark.parametrize(
    ("bound", "advertise", "expected"),
    [
        ("http://127.0.0.1:8080", None, "http://127.0.0.1:8080"),
        ("http://10.1.2.3:80", None, "http://10.1.2.3:80"),
        ("http://[::1]:8080", None, "http://[::1]:8080"),
        ("http://0.0.0.0:8080", "10.9.9.9", "http://10.9.9.9:8080"),
        ("http://[::]:8080", "users.example", "http://users.example:8080"),
        ("http://0.0.0.0:8080", "fd00::1", "http://[fd00::1]:8080"),
        ("http://0.0.0.0:8080", None, "http://127.0.0.1:8080"),
        ("unix:/run/users.sock", "10.9.9.9", "unix:/run/users.sock"),
        ("", None, ""),
    ],
)
def test_the_address_for_others(bound: str, advertise: str | None, expected: str) -> None:
    def towards() -> list[tuple[str, int]]:
        return [("127.0.0.1", 4222)]

    discovery = Discovery("users", nowhere(), advertise=advertise, towards=towards)
    assert discovery._reachable(bound) == expected


@pytest.mark.parametrize(
    ("address", "http"),
    [
        ("127.0.0.1:80", "http://127.0.0.1:80"),
        ("http://a.example/v1/", "http://a.example"),
        ("https://a.example:444", "https://a.example:444"),
        ("unix:/run/a.sock", "http+unix:/run/a.sock"),
        ("/run/a.sock", "http+unix:/run/a.sock"),
        ("tcp://127.0.0.1:1", None),
        ("postgresql://a/b", None),
        ("word", None),
    ],
)
def test_which_addresses_speak_http(address: str, http: str | None) -> None:
    assert http_address(address) == http


def test_a_name_is_resolved_in_any_case_and_one_that_nobody_has_is_said() -> None:
    async def main() -> None:
        static: list[dict[str, Any]] = [
            {"name": "Billing", "type": "module", "address": "10.0.0.1:80"},
            {"name": "Billing", "type": "module", "address": "tcp://10.0.0.1:9000", "token": "x"},
        ]
        async with hosted({"services": {"static": static}}, hello) as host:
            assert await host.host.channels.discovery.locate("billing") == [("http://10.0.0.1:80", False)]
            with pytest.raises(MessagingError, match="has an HTTP address") as raised:
                await host.host.channels.discovery.locate("nobody")
            assert raised.value.code == "unknown_target"

    run(main)


# Names of modules and of services -----------------------------------------------------------------------------------


class KnownProviders:
    """A registry for modules on many machines that knows these providers; None: it cannot be asked."""

    def __init__(self, providers: list[Provider] | None) -> None:
        self._providers = providers

    async def register(self, *of: Any) -> str:
        return "id"

    async def deregister(self, provider_id: str) -> bool:
        return True

    async def discover(self, service_type: str) -> list[Provider]:
        return [each for each in await self.find("") if each.service_type == service_type]

    async def find(self, wanted: str) -> list[Provider]:
        if self._providers is None:
            raise MessagingError("unavailable", "the registry cannot be asked")
        return list(self._providers)


def provider(module_id: str, kind: str, name: str, address: str) -> Provider:
    return Provider(f"{module_id}.{kind}.{name}", module_id, kind, name, None, address, {}, True)


BILLING = provider("billing", "module", "billing", "http://10.0.0.1:80")
BILLING_API = provider("billing", "api", "billing-api", "http://10.0.0.1:81")
SHOP_API = provider("shop", "api", "shop-api", "http://10.0.0.2:80")
FALSE_BILLING = provider("evil", "api", "Billing", "http://10.6.6.6:80")
FALSE_USERS = provider("evil", "api", "users", "http://10.6.6.6:80")
STATIC = StaticService(name="billing", type="module", address="10.0.0.1:8080")
STATIC_CHANNEL = StaticService(name="billing", type="module", address="tcp://10.0.0.1:9000")
STATIC_API = StaticService(name="shop-api", type="api", address="10.0.0.3:80")


@pytest.mark.parametrize(
    ("name", "known", "static", "expected"),
    [
        ("billing", [BILLING], [], ["http://10.0.0.1:80"]),
        ("billing", [FALSE_BILLING, BILLING], [], ["http://10.0.0.1:80"]),
        ("billing", [BILLING_API, BILLING], [], ["http://10.0.0.1:80"]),
        ("billing", [FALSE_BILLING, BILLING_API], [], ["http://10.0.0.1:81"]),
        ("billing", [FALSE_BILLING], [STATIC], ["http://10.0.0.1:8080"]),
        ("billing", [FALSE_BILLING], [STATIC_CHANNEL], "unknown_target"),
        ("billing", [FALSE_BILLING], [], ["http://10.6.6.6:80"]),  # no module has this id: a service of that name
        ("shop-api", [SHOP_API, BILLING], [], ["http://10.0.0.2:80"]),
        ("users", [FALSE_USERS], [], "unknown_target"),
        ("billing", None, [STATIC], ["http://10.0.0.1:8080"]),
        ("shop-api", None, [STATIC_API], ["http://10.0.0.3:80"]),
        ("billing", None, [], "unavailable"),
    ],
)
def test_a_name_means_the_module_of_that_id_before_any_service(
    name: str, known: list[Provider] | None, static: list[StaticService], expected: list[str] | str
) -> None:
    async def main() -> None:
        discovery = Discovery("users", nowhere(), KnownProviders(known), static)
        if isinstance(expected, list):
            assert [address for address, _ in await discovery.locate(name)] == expected
            return
        with pytest.raises(MessagingError) as raised:
            await discovery.locate(name)
        assert raised.value.code == expected

    run(main)


def test_a_service_under_the_id_of_a_module_in_the_manifest_is_neither_registered_nor_found() -> None:
    async def main() -> None:
        discovery = Discovery("users", nowhere(), KnownProviders([FALSE_BILLING, SHOP_API]), [STATIC])
        for name in ("billing", "BILLING"):
            with pytest.raises(MessagingError, match="the id of another module") as raised:
                await discovery.register(name, "api", "10.0.0.9:1", None, None)
            assert raised.value.code == "refused"
        assert [each.name for each in await discovery.discover("api")] == ["shop-api"]

    run(main)
