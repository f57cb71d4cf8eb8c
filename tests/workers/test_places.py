"""The sockets of a host with workers: which places share them, and how they change without a lost connection."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from pywatt_host.exceptions import BindError
from pywatt_host.manifest.values import Address, FdAddress, SystemdAddress, TcpAddress, UnixAddress
from pywatt_host.net.listeners import allow_sharing
from pywatt_host.workers.places import Change, ListeningSockets
from tests.workers.serving import FREE, LOOP_NAMES, LOOPS, Client, Fleet, Load, close, connect_many, run

Loop: TypeAlias = Callable[[], asyncio.AbstractEventLoop] | None

linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the supervisor accepts")


@pytest.fixture
def sockets() -> Iterator[ListeningSockets]:
    sockets = ListeningSockets()
    yield sockets
    sockets.close()


def prepare(
    sockets: ListeningSockets, *addresses: Address, places: int = 2, folder: Path = Path(), key: str = "server.listen"
) -> Change:
    return sockets.prepare(addresses, key=key, places=places, directory=folder, backlog=128, environ={})


def listening(sock: socket.socket) -> bool:
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def shareable(sock: socket.socket) -> bool:
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT))


def port(sockets: ListeningSockets) -> int:
    return int(sockets.addresses[0].rpartition(":")[2])


# What each place has --------------------------------------------------------------------------------------------------


@linux
def test_each_place_has_a_socket_of_its_own_at_the_same_address(sockets: ListeningSockets) -> None:
    change = prepare(sockets, FREE, places=3)
    found = [change.of_place(place) for place in range(3)]
    assert len({sock for ((_, sock),) in found}) == 3
    assert {number for ((number, _),) in found} == {0}
    assert len({sock.getsockname() for ((_, sock),) in found}) == 1
    assert not any(listening(sock) for ((_, sock),) in found)  # until the commit, nobody can connect
    assert not any(sock.get_inheritable() or sock.getblocking() for ((_, sock),) in found)
    change.commit()
    assert all(listening(sock) for ((_, sock),) in found)
    assert sockets.addresses == change.addresses == (f"http://127.0.0.1:{port(sockets)}",)
    assert sockets.of_place(1) == found[1]
    assert sockets.of_place(3) == []


@linux
def test_ipv6_sockets_are_shared_too(sockets: ListeningSockets) -> None:
    try:
        change = prepare(sockets, TcpAddress("::1", 0), places=2)
    except BindError:
        pytest.skip("this machine has no IPv6")
    change.commit()
    assert len({sock for place in range(2) for _, sock in sockets.of_place(place)}) == 2


@linux
def test_one_place_needs_no_sharing(sockets: ListeningSockets) -> None:
    prepare(sockets, FREE, places=1).commit()
    ((_, sock),) = sockets.of_place(0)
    assert not shareable(sock)


def test_the_supervisor_accepts_from_unix_sockets(sockets: ListeningSockets, tmp_path: Path) -> None:
    prepare(sockets, UnixAddress("a.sock", mode=0o660), folder=tmp_path).commit()
    assert sockets.of_place(0) == []
    ((listener, place, leaving),) = sockets.sources()
    assert (listener.address, place, leaving) == (f"unix:{tmp_path}/a.sock", None, False)


def test_on_other_systems_the_supervisor_accepts(sockets: ListeningSockets, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    prepare(sockets, FREE).commit()
    assert sockets.of_place(0) == []
    assert [source.place for source in sockets.sources()] == [None]


@linux
def test_an_inherited_socket_is_shared_after_the_fact(sockets: ListeningSockets) -> None:
    with socket.create_server(("127.0.0.1", 0)) as inherited:
        prepare(sockets, FdAddress(os.dup(inherited.fileno())), places=2).commit()
        first, second = (sockets.of_place(place)[0][1] for place in range(2))
        assert first.getsockname() == second.getsockname() == inherited.getsockname()
        with pytest.raises(BindError, match="descriptor 1000000 is not a socket"):
            prepare(sockets, FdAddress(1_000_000))


@linux
def test_an_inherited_socket_that_cannot_be_shared_is_accepted_by_the_supervisor(
    sockets: ListeningSockets, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: socket.socket, address: object) -> None:
        raise PermissionError(13, "Permission denied")

    with socket.create_server(("127.0.0.1", 0)) as inherited:
        monkeypatch.setattr("socket.socket.bind", refuse)
        prepare(sockets, FdAddress(os.dup(inherited.fileno())), places=2).commit()
        assert sockets.of_place(0) == []
        assert [source.place for source in sockets.sources()] == [None]
        assert not shareable(inherited)  # as it was


# What is refused ------------------------------------------------------------------------------------------------------


@linux
def test_an_address_of_another_process_is_in_use_even_where_that_shares_it(sockets: ListeningSockets) -> None:
    with socket.socket() as other:
        allow_sharing(other)
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(BindError, match="the address is in use"):
            prepare(sockets, FREE, TcpAddress("127.0.0.1", other.getsockname()[1]))
    assert sockets.groups == []


def test_a_change_that_fails_or_is_rolled_back_leaves_everything_as_it_is(
    sockets: ListeningSockets, tmp_path: Path
) -> None:
    prepare(sockets, FREE).commit()
    before = list(sockets.sources())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        used = TcpAddress("127.0.0.1", taken.getsockname()[1])
        with pytest.raises(BindError, match="in use"):
            prepare(sockets, FREE, UnixAddress("a.sock"), used, places=3, folder=tmp_path)
    assert not (tmp_path / "a.sock").exists()
    opened = set(os.listdir("/dev/fd"))
    change = prepare(sockets, FREE, UnixAddress("a.sock"), places=4, folder=tmp_path)
    assert (tmp_path / "a.sock").exists()
    change.rollback()
    assert not (tmp_path / "a.sock").exists()
    assert set(os.listdir("/dev/fd")) == opened
    assert list(sockets.sources()) == before


@linux
def test_an_address_that_is_taken_before_the_commit_refuses_it(sockets: ListeningSockets) -> None:
    prepare(sockets, FREE).commit()
    before = list(sockets.sources())
    change = prepare(sockets, FREE, FREE, places=1)
    new = change.of_place(0)[1][1]
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(new.getsockname())
        other.listen()
        with pytest.raises(BindError, match=r"^server.listen: cannot listen on http://127.0.0.1:[0-9]+: Address"):
            change.commit()
    assert list(sockets.sources()) == before
    assert new.fileno() == -1


def test_an_inherited_socket_that_was_given_up_is_not_taken_again(sockets: ListeningSockets) -> None:
    with socket.create_server(("127.0.0.1", 0)) as inherited:
        address = FdAddress(os.dup(inherited.fileno()))
        prepare(sockets, address, places=1).commit()
        prepare(sockets, FREE, places=1).commit()
        with pytest.raises(BindError, match=r"an earlier manifest gave the socket up \(restart the host\)"):
            prepare(sockets, address, places=1)
        with pytest.raises(BindError, match="systemd passed no socket"):
            prepare(sockets, SystemdAddress())


def test_there_are_at_most_240_listeners(sockets: ListeningSockets) -> None:
    with pytest.raises(BindError, match="at most 240 listeners"):
        prepare(sockets, *[FREE] * 256, places=1)


# What stays and what goes ---------------------------------------------------------------------------------------------


def test_an_address_that_stays_keeps_its_sockets_number_and_port(sockets: ListeningSockets, tmp_path: Path) -> None:
    prepare(sockets, UnixAddress("a.sock"), FREE, folder=tmp_path).commit()
    address = sockets.addresses[1]
    before = {source.listener.address: source.listener.number for source in sockets.sources()}
    prepare(sockets, FREE, places=2).commit()
    assert sockets.addresses == (address,)
    assert not (tmp_path / "a.sock").exists()
    gone = [source.listener for source in sockets.sources() if source.leaving]
    assert [listener.address for listener in gone] == [f"unix:{tmp_path}/a.sock"]
    sockets.left(gone[0])
    prepare(sockets, FREE, FREE).commit()
    numbers = {source.listener.address: source.listener.number for source in sockets.sources()}
    assert numbers.pop(address) == before[address] == 1
    assert list(numbers.values()) == [0]


def test_the_mode_of_a_unix_socket_changes_in_place(sockets: ListeningSockets, tmp_path: Path) -> None:
    prepare(sockets, UnixAddress("a.sock", mode=0o600), folder=tmp_path).commit()
    before = list(sockets.sources())
    with pytest.raises(BindError, match="there is no group 'no-such-group'"):
        prepare(sockets, UnixAddress("a.sock", group="no-such-group"), folder=tmp_path)
    prepare(sockets, UnixAddress("a.sock", mode=0o666), folder=tmp_path).commit()
    assert stat.S_IMODE((tmp_path / "a.sock").stat().st_mode) == 0o666
    assert list(sockets.sources()) == before


@linux
def test_an_address_may_become_wider_and_narrower_at_the_same_port(sockets: ListeningSockets) -> None:
    prepare(sockets, FREE, places=1).commit()
    number = port(sockets)
    for address in (TcpAddress("0.0.0.0", number), TcpAddress("127.0.0.1", number)):
        prepare(sockets, address, places=2).commit()
        assert sockets.addresses == (f"http://{address}",)


@linux
def test_sockets_that_have_not_left_yet_are_used_again(sockets: ListeningSockets) -> None:
    prepare(sockets, FREE, places=3).commit()
    before = [sockets.of_place(place) for place in range(3)]
    prepare(sockets, FREE, places=1).commit()
    change = prepare(sockets, FREE, places=4)
    assert [change.of_place(place) for place in range(3)] == before
    assert not any(sockets.left(source.listener) for source in sockets.sources() if source.leaving)
    change.rollback()
    change = prepare(sockets, FREE, places=4)
    change.commit()
    assert [sockets.of_place(place) for place in range(3)] == before
    assert not any(source.leaving for source in sockets.sources())
    for _ in range(64):  # no SYN is dropped any more
        socket.create_connection(("127.0.0.1", port(sockets)), timeout=0.5).close()
    number = port(sockets)
    prepare(sockets, places=2).commit()
    assert sockets.addresses == ()
    prepare(sockets, FREE, places=2).commit()
    assert [sockets.of_place(place) for place in range(2)] == before[:2]
    assert port(sockets) == number
    for source in tuple(sockets.sources()):
        if source.leaving:
            assert sockets.left(source.listener)


# Under load -----------------------------------------------------------------------------------------------------------


@linux
@pytest.mark.parametrize("loop", LOOPS, ids=LOOP_NAMES)
def test_places_come_and_go_under_load(loop: Loop) -> None:
    async def main() -> None:
        async with Fleet.of() as fleet:
            fleet.listen(FREE, places=3)
            workers = [fleet.start(f"3.{place}", place) for place in range(3)]
            async with Load(fleet.port) as load:
                for number, places in enumerate((1, 3, 2, 3)):
                    change = fleet.prepare(FREE, places=places)
                    successors = [fleet.worker(f"{number}.{place}", place, change=change) for place in range(places)]
                    change.commit()
                    for worker in successors:
                        fleet.join(worker)
                    await asyncio.gather(*(fleet.retire(worker) for worker in workers))
                    workers = successors
                    await load.more()
                # What has left is closed once nothing can wait there any more.
                while any(source.leaving for source in fleet.sockets.sources()):
                    await load.more()
            clients, found = await connect_many(fleet.port, 30)
            assert max(found.values()) <= 11, found
            await close(clients)

    run(loop, main())


@linux
def test_a_socket_that_leaves_gets_no_new_connections_and_its_queue_is_served() -> None:
    async def main() -> None:
        async with Fleet.of() as fleet:
            fleet.listen(FREE, places=2)
            waiting = [await Client.to(fleet.port) for _ in range(20)]
            fleet.listen(FREE, places=1)
            more = [await asyncio.wait_for(Client.to(fleet.port), 0.5) for _ in range(20)]  # no SYN is dropped
            fleet.start("w0", 0)
            for client in (*waiting, *more):
                assert await client.get() == "200 w0"
            await close((*waiting, *more))

    run(None, main())


@pytest.mark.parametrize("loop", LOOPS, ids=LOOP_NAMES)
def test_an_address_is_removed_and_what_waits_there_is_served(loop: Loop, tmp_path: Path) -> None:
    async def main() -> None:
        async with Fleet.of(tmp_path) as fleet:
            fleet.listen(FREE, UnixAddress("a.sock"), places=2)
            number = fleet.port
            waiting = [await Client.to(number) for _ in range(5)]
            waiting += [await Client.to(str(tmp_path / "a.sock")) for _ in range(5)]
            fleet.listen(UnixAddress("b.sock"), places=2)
            fleet.start("w0", 0)
            for client in waiting:
                assert await client.get() == "200 w0"
            with pytest.raises(OSError):  # refused, once the socket has left
                await Client.to(number)
            client = await Client.to(str(tmp_path / "b.sock"))
            assert await client.get() == "200 w0"
            await close((*waiting, client))

    run(loop, main())


@linux
def test_what_waits_at_an_inherited_socket_stays_there_when_the_host_stops(sockets: ListeningSockets) -> None:
    with socket.create_server(("127.0.0.1", 0)) as inherited:
        prepare(sockets, FdAddress(os.dup(inherited.fileno())), places=3).commit()
        sockets.refuse_new()
        clients = [socket.create_connection(inherited.getsockname(), timeout=0.5) for _ in range(10)]
        sockets.close()
        inherited.settimeout(5)
        for client in clients:
            inherited.accept()[0].close()
            client.close()
        again = ListeningSockets()  # the next process steers to its own places again
        prepare(again, FdAddress(os.dup(inherited.fileno())), places=2).commit()
        clients = [socket.create_connection(inherited.getsockname(), timeout=0.5) for _ in range(32)]
        own = again.of_place(1)[0][1]
        own.accept()[0].close()
        for client in clients:
            client.close()
        again.close()
