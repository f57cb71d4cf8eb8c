"""SIGTERM under load: no request that a client could send on an established connection is left without its answer."""

from __future__ import annotations

import asyncio
import resource
import time
from dataclasses import dataclass, field

import pytest

from tests.processes import PATIENCE, Host, Project


@dataclass
class Count:
    """What became of requests whose octets were handed to the kernel on an established connection."""

    answered: int = 0
    sent: int = 0  # and not answered yet
    in_flight: int = 0  # were under way at the signal, or sent after it
    dropped: list[str] = field(default_factory=list)
    signalled: bool = False


class Load:
    """Clients that ask again and again until nobody lets them in. Each kind keeps its connection or makes one for each
    request, over TCP or over a Unix socket."""

    def __init__(self, host: Host, clients: int) -> None:
        addresses = [str(address) for address in host.ready["listen"]]
        self._tcp = next(address for address in addresses if address.startswith("http"))
        self._unix = next(address for address in addresses if address.startswith("unix:")).removeprefix("unix:")
        self._clients = clients
        self._warm = asyncio.Event()
        self.count = Count()

    async def run(self, host: Host) -> Count:
        """All clients at work, then SIGTERM, then whatever they still get."""
        async with asyncio.TaskGroup() as tasks:
            for number in range(self._clients):
                tasks.create_task(self._client(unix=number % 4 < 2, keep=number % 2 == 0))
            await self._warm.wait()
            self.count.in_flight += self.count.sent
            self.count.signalled = True
            host.signal()
        return self.count

    async def _client(self, *, unix: bool, keep: bool) -> None:
        while True:
            try:
                reader, writer = await self._connect(unix)
            except (ConnectionRefusedError, ConnectionResetError, FileNotFoundError, TimeoutError):
                return  # never established: the listener has gone
            except BlockingIOError:  # a Unix socket's queue is full: not established either
                await asyncio.sleep(0.01)
                continue
            try:
                again = await self._request(reader, writer, keep)
                while again:
                    again = await self._request(reader, writer, keep)
            finally:
                writer.close()
            if self.count.dropped:
                return

    async def _connect(self, unix: bool) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if unix:
            return await asyncio.open_unix_connection(self._unix)
        host, _, port = self._tcp.removeprefix("http://").rpartition(":")
        # A SYN that the closing listener leaves unanswered is sent again after a second.
        return await asyncio.wait_for(asyncio.open_connection(host, int(port)), PATIENCE)

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, keep: bool) -> bool:
        """Send one request and read its answer; whether the connection may be used again."""
        count, after = self.count, self.count.signalled
        close = "" if keep else "Connection: close\r\n"
        writer.write(f"GET /soon HTTP/1.1\r\nHost: x\r\n{close}\r\n".encode())
        count.sent += 1
        count.in_flight += after
        try:
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)
            if not head.startswith(b"HTTP/1.1 200 ") or await reader.readexactly(4) != b"soon":
                count.dropped.append(repr(head))
                return False
        except (OSError, EOFError, TimeoutError) as error:
            when = "after" if after else "before" if count.signalled else "long before"
            count.dropped.append(f"{error!r} for a request sent {when} the signal, keep={keep}")
            return False
        finally:
            count.sent -= 1
        count.answered += 1
        if count.answered >= 2 * self._clients:
            self._warm.set()
        return keep and b"connection: close" not in head


def one_run(served: Project, clients: int) -> Count:
    served.manifest(
        server={"listen": ["127.0.0.1:0", "unix:s.sock"], "limits": {"concurrency": 100_000, "backlog": 4096}},
        logging={"access": False},
    )
    host = served.host()
    try:

        async def main() -> Count:
            async with asyncio.timeout(2 * PATIENCE):
                return await Load(host, clients).run(host)

        count = asyncio.run(main())
        assert host.wait() == 0, "\n".join(host.lines[-20:])
    finally:
        host.end()
    return count


def test_nothing_in_flight_is_dropped(served: Project) -> None:
    for _ in range(2):
        count = one_run(served, 60)
        assert count.dropped == []
        assert count.in_flight >= 30


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_of_20000_requests_in_flight_over_repeated_sigterms_none_is_dropped(served: Project) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4096 if hard == resource.RLIM_INFINITY else min(hard, 4096)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    try:
        begun, in_flight, runs = time.monotonic(), 0, 0
        while in_flight < 20_000:
            count = one_run(served, min(600, wanted // 4))
            assert count.dropped == [], f"run {runs}: {len(count.dropped)} dropped of {count.in_flight} in flight"
            in_flight += count.in_flight
            runs += 1
            assert time.monotonic() - begun < 240, f"only {in_flight} in flight in {runs} runs"
        print(f"{in_flight} requests in flight over {runs} runs in {time.monotonic() - begun:.0f}s, none dropped")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
