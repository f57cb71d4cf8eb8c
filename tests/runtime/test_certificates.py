"""Certificates while a host runs: renewed ones take over, faulty ones do not, and both are told."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pywatt_host.exceptions import TlsError
from pywatt_host.manifest.model.tls import ServerTls, declared
from pywatt_host.manifest.values import SecretTemplate
from pywatt_host.net import tls_sources
from pywatt_host.runtime.certificates import Certificates, FailedHandshakes, NoCertificates
from tests.certificates import chain_of, issued

NOW = datetime(2026, 11, 30, tzinfo=UTC)


class Renewed:
    """Certificates of files in a folder, whose time the test moves."""

    def __init__(self, folder: Path, **tls: Any) -> None:
        self.folder = folder
        self.now = NOW
        self.secrets: dict[str, str] = {}
        self.put(0)
        section = ServerTls(**{"cert": "cert.pem", "key": "key.pem", **tls})
        self.certificates = Certificates(
            [declared(("server", "tls"), section)], folder.joinpath, lambda: self.secrets, now=lambda: self.now
        )

    def put(self, number: int, expires: datetime | None = None) -> None:
        self.write("cert.pem", chain_of(issued(number=number, expires=expires)))
        self.write("key.pem", issued(number=number, expires=expires).private_key_pem.bytes())

    def write(self, name: str, content: bytes) -> None:
        (self.folder / "new").write_bytes(content)
        (self.folder / "new").rename(self.folder / name)

    def put_folder(self, name: str) -> None:
        (self.folder / name).unlink()
        (self.folder / name).mkdir()

    @property
    def serves(self) -> bytes:
        return self.certificates.listening["server.tls"].terms.material.chain

    async def look(self, times: int = 1) -> None:
        for _ in range(times):
            await self.certificates.look()

    async def trouble(self) -> str:
        """Why the health check fails; empty if it passes."""
        try:
            self.certificates.check()
        except TlsError as error:
            return str(error)
        return ""

    def values(self, name: str) -> dict[tuple[str, ...], float]:
        return next(dict(each.values) for each in self.certificates.families() if each.name == name)


Test = Callable[[Renewed], Coroutine[Any, Any, None]]


def chain(number: int) -> bytes:
    return chain_of(issued(number=number))


def renewed(test: Test) -> Callable[..., None]:
    """Run a test with certificates that have been loaded."""

    def run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "pywatt.tls")

        async def main() -> None:
            made = Renewed(tmp_path)
            await made.certificates.load()
            await test(made)

        asyncio.run(main())

    run.__doc__ = test.__doc__
    return run


@renewed
async def test_a_renewed_pair_takes_over_with_the_next_look(made: Renewed) -> None:
    made.put(1)
    await made.look()
    assert made.serves == chain(1)
    assert await made.trouble() == ""


@renewed
async def test_nothing_happens_where_nothing_has_changed_or_only_the_time_of_a_file(made: Renewed) -> None:
    terms = made.certificates.listening["server.tls"].terms
    await made.look()
    os.utime(made.folder / "cert.pem")
    await made.look()
    assert made.certificates.listening["server.tls"].terms is terms


@renewed
async def test_a_pair_that_is_renewed_in_two_steps_is_no_fault_in_between(made: Renewed) -> None:
    made.write("cert.pem", chain(1))
    await made.look()
    assert (made.serves, await made.trouble()) == (chain(0), "")
    made.put(1)
    await made.look()
    assert (made.serves, await made.trouble()) == (chain(1), "")


def strange(made: Renewed) -> None:
    """A certificate of a version that does not exist (RFC 5280 section 4.1.2.1)."""
    leaf = issued(number=1)
    der = ssl.PEM_cert_to_DER_cert(leaf.cert_chain_pems[0].bytes().decode())
    version = b"\xa0\x03\x02\x01"
    der = der.replace(version + b"\x02", version + b"\x07", 1)
    made.write("cert.pem", ssl.DER_cert_to_PEM_cert(der).encode())
    made.write("key.pem", leaf.private_key_pem.bytes())


FAULTS: dict[str, tuple[Callable[[Renewed], None], str, str]] = {
    "mismatched": (lambda made: made.write("key.pem", issued(number=1).private_key_pem.bytes()), "key.pem", "mismatch"),
    "truncated": (lambda made: made.write("cert.pem", chain(1)[:200]), "cert.pem", "truncated"),
    "empty": (lambda made: made.write("cert.pem", b""), "cert.pem", "empty"),
    "missing": (lambda made: (made.folder / "key.pem").unlink(), "key.pem", "missing"),
    "a folder": (
        lambda made: made.put_folder("key.pem"),
        "key.pem",
        "unreadable",
    ),
    "of no known version": (strange, "cert.pem", "invalid"),
    "expired": (lambda made: made.put(2, NOW - timedelta(days=1)), "cert.pem", "expired"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_old_pair_stays_and_a_fault_is_told_everywhere(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    make, file, reason = FAULTS[fault]
    caplog.set_level(logging.INFO, "pywatt.tls")

    async def main() -> None:
        made = Renewed(tmp_path)
        await made.certificates.load()
        make(made)
        await made.look(3)
        key = f"server.tls.{'key' if file == 'key.pem' else 'cert'}"
        assert made.serves == chain(0)
        assert (await made.trouble()).startswith(f"{key}: {file} cannot be used: ")
        assert made.values("pywatt_tls_certificate_faults") == {(key, file, reason): 1.0}
        told = made.certificates.status()["server.tls"]["fault"]
        assert (told["key"], told["file"], told["reason"]) == (key, file, reason)
        (line,) = [each for each in caplog.records if each.levelno == logging.ERROR]
        assert line.message.startswith(f"{key}: {file} cannot be used: ")
        assert line.message.endswith("; the certificate in use stays")

        caplog.clear()
        if (made.folder / "key.pem").is_dir():
            (made.folder / "key.pem").rmdir()
        made.put(1)
        await made.look()
        assert (made.serves, await made.trouble()) == (chain(1), "")
        assert made.values("pywatt_tls_certificate_faults") == {}
        assert "fault" not in made.certificates.status()["server.tls"]
        assert [each.message.partition(", valid")[0] for each in caplog.records] == [
            "server.tls: the certificate and its key can be used again",
            "server.tls: cert.pem is renewed",
        ]

    asyncio.run(main())


@renewed
async def test_a_fault_ends_when_the_old_pair_is_put_back(made: Renewed) -> None:
    made.write("cert.pem", b"")
    await made.look(2)
    assert await made.trouble() != ""
    made.put(0)
    await made.look()
    assert (made.serves, await made.trouble()) == (chain(0), "")


@renewed
async def test_a_certificate_that_is_not_valid_yet_takes_over_once_it_is(made: Renewed) -> None:
    before = made.serves
    made.now = datetime(1999, 12, 31, tzinfo=UTC)
    made.put(1)
    await made.look(2)
    assert "it is not valid before 2000-01-01" in await made.trouble()
    assert made.serves == before
    made.now = NOW
    await made.look()
    assert (made.serves, await made.trouble()) == (chain(1), "")


def test_where_the_one_in_use_has_expired_one_that_has_expired_later_takes_over(tmp_path: Path) -> None:
    async def main() -> None:
        made = Renewed(tmp_path)
        made.put(1, NOW + timedelta(days=1))
        await made.certificates.load()
        made.now = NOW + timedelta(days=9)
        assert "it has expired" in await made.trouble()
        made.put(2, NOW + timedelta(days=2))
        await made.look()
        assert made.serves == chain_of(issued(number=2, expires=NOW + timedelta(days=2)))

    asyncio.run(main())


def test_it_is_said_once_a_day_that_a_certificate_expires(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    expires = NOW + timedelta(days=20)

    async def main() -> None:
        made = Renewed(tmp_path)
        made.put(1, expires)
        await made.certificates.load()
        for hours in range(0, 24 * 22, 6):
            made.now = NOW + timedelta(hours=hours)
            await made.look()
        assert made.values("pywatt_tls_certificate_expiry_seconds") == {
            ("server.tls",): (expires - made.now).total_seconds()
        }

    asyncio.run(main())
    texts = [each.message for each in caplog.records]
    assert texts[0] == "server.tls: cert.pem expires in 14 days (2026-12-20 00:00 UTC)"
    assert texts[13] == "server.tls: cert.pem expires in 1 days (2026-12-20 00:00 UTC)"
    assert texts[-1] == "server.tls: cert.pem has expired on 2026-12-20 00:00 UTC"
    assert len(texts) == 14 + 2


def test_a_start_with_a_pair_that_cannot_be_used_fails(tmp_path: Path) -> None:
    made = Renewed(tmp_path)
    made.put(1, NOW - timedelta(days=1))
    with pytest.raises(TlsError, match=r"server\.tls\.cert: cert\.pem cannot be used: it has expired on 2026-11-29"):
        asyncio.run(made.certificates.load())


def test_a_rotated_secret_is_followed(tmp_path: Path) -> None:
    async def main() -> None:
        made = Renewed(tmp_path, key=SecretTemplate.parse("${secret:KEY}"))
        made.secrets = {"KEY": issued().private_key_pem.bytes().decode()}
        await made.certificates.load()
        made.put(1)
        await made.look(2)
        assert made.certificates.status()["server.tls"]["fault"]["file"] == "${secret:KEY}"
        made.secrets = {"KEY": issued(number=1).private_key_pem.bytes().decode()}
        await made.look()
        assert (made.serves, await made.trouble()) == (chain(1), "")

    asyncio.run(main())


def test_a_running_service_looks_by_itself(tmp_path: Path) -> None:
    async def main() -> None:
        made = Renewed(tmp_path)
        made.certificates._poll_interval = 0.01
        changed = asyncio.Event()
        async with asyncio.TaskGroup() as tasks, made.certificates.running(tasks):
            made.certificates.listening["server.tls"].follow(changed.set)
            made.put(1)
            async with asyncio.timeout(10):
                await changed.wait()
            assert made.serves == chain(1)

    asyncio.run(main())


def test_without_tls_there_is_nothing_to_tell() -> None:
    none = NoCertificates()
    assert (list(none.families()), none.status(), dict(none.listening)) == ([], {}, {})


def test_failed_handshakes_are_counted_by_reason() -> None:
    failed = FailedHandshakes()
    assert list(failed.families()) == []
    failed["timeout"] += 2
    (family,) = failed.families()
    assert (family.name, dict(family.values)) == ("pywatt_tls_handshake_failures", {("timeout",): 2.0})


@renewed
async def test_a_file_that_becomes_readable_is_taken_though_it_has_not_changed(made: Renewed) -> None:
    def denied(*arguments: Any) -> bytes:
        raise TlsError("server.tls.key", "key.pem", "unreadable", "it cannot be read: permission denied")

    made.put(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tls_sources, "read_file", denied)
        await made.look(3)
        assert "permission denied" in await made.trouble()
    await made.look()
    assert made.serves == chain(1)
    assert await made.trouble() == ""
