"""The sockets of `dev`: loopback only, bound once, kept as long as they are wanted."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pywatt_host.exceptions import BindError
from pywatt_host.manifest import Source, load
from pywatt_host.manifest.values import Address, FdAddress, SystemdAddress, TcpAddress, UnixAddress
from pywatt_host.supervision.sockets import HeldSockets, Wanted, is_local, localised, wanted_by


@pytest.mark.parametrize(
    ("address", "local"),
    [
        (TcpAddress("127.0.0.1", 1), True),
        (TcpAddress("127.9.9.9", 1), True),
        (TcpAddress("::1", 1), True),
        (TcpAddress("localhost", 1), True),
        (TcpAddress("users.localhost", 1), True),
        (UnixAddress("run.sock"), True),
        (TcpAddress("", 1), False),
        (TcpAddress("0.0.0.0", 1), False),
        (TcpAddress("::", 1), False),
        (TcpAddress("192.0.2.7", 1), False),
        (TcpAddress("localhost.example", 1), False),
        (FdAddress(3), False),
        (SystemdAddress(), False),
    ],
    ids=str,
)
def test_local_is_what_only_this_machine_reaches(address: Address, local: bool) -> None:
    assert is_local(address) is local


def test_other_addresses_become_loopback_with_the_same_port_once_and_a_line_says_so() -> None:
    given: list[Address] = [TcpAddress("0.0.0.0", 80), TcpAddress("::", 80), UnixAddress("s"), SystemdAddress()]
    found, said = localised(given, "server.listen")
    assert found == (TcpAddress("127.0.0.1", 80), UnixAddress("s"), TcpAddress("127.0.0.1", 8080))
    assert said[0] == "server.listen: 0.0.0.0:80 is not a loopback address; dev listens on 127.0.0.1:80"
    assert [line.split()[1] for line in said] == ["0.0.0.0:80", "[::]:80", "systemd"]


def test_several_free_ports_stay_several() -> None:
    assert len(localised([TcpAddress("", 0), TcpAddress("", 0)], "server.listen")[0]) == 2


def test_a_manifest_says_where_public_and_admin_listen(tmp_path: Path) -> None:
    data = {"app": "a:b", "server": {"listen": ":7000", "admin": {"listen": "10.0.0.1:7001"}}}
    wanted = wanted_by(load(Source.of_data(data, name="test", directory=tmp_path), environ={}).manifest)
    assert wanted.public == (TcpAddress("127.0.0.1", 7000),)
    assert wanted.admin == (TcpAddress("127.0.0.1", 7001),)
    assert [line.partition(":")[0] for line in wanted.replaced] == ["server.listen", "server.admin.listen"]


# Bound ----------------------------------------------------------------------------------------------------------------

FREE = TcpAddress("127.0.0.1", 0)


@pytest.fixture
def doors() -> Iterator[HeldSockets]:
    doors = HeldSockets()
    yield doors
    doors.close()


def wanted(folder: Path, *public: Address, admin: tuple[Address, ...] = ()) -> Wanted:
    return Wanted(public, admin, folder, 16)


def names(doors: HeldSockets) -> list[str]:
    return [listener.address for listener in doors.all]


def test_a_door_is_open_before_anybody_serves(doors: HeldSockets, tmp_path: Path) -> None:
    assert doors.open(wanted(tmp_path, FREE))
    with socket.create_connection(doors.all[0].sock.getsockname(), timeout=10):
        pass  # it waits in the queue


def test_what_is_wanted_again_stays_and_the_rest_goes(doors: HeldSockets, tmp_path: Path) -> None:
    doors.open(wanted(tmp_path, FREE, UnixAddress("s.sock")))
    before = names(doors)
    assert not doors.open(wanted(tmp_path, FREE, UnixAddress("s.sock")))
    assert names(doors) == before
    assert doors.open(wanted(tmp_path, FREE))
    assert names(doors) == before[:1]
    assert not (tmp_path / "s.sock").exists()


def test_an_address_that_cannot_be_had_leaves_everything_as_it_was(doors: HeldSockets, tmp_path: Path) -> None:
    doors.open(wanted(tmp_path, FREE))
    before = names(doors)
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(BindError, match="in use"):
        doors.open(wanted(tmp_path, UnixAddress("s.sock"), TcpAddress("127.0.0.1", taken.getsockname()[1])))
    assert names(doors) == before
    assert not (tmp_path / "s.sock").exists()


def test_an_application_is_told_the_real_addresses_by_key(doors: HeldSockets, tmp_path: Path) -> None:
    doors.open(wanted(tmp_path, FREE, UnixAddress("s.sock"), admin=(FREE,)))
    public, admin = (name.removeprefix("http://") for name in names(doors) if name.startswith("http"))
    assert doors.overrides() == [
        f'server.listen=["{public}", "unix:{tmp_path}/s.sock"]',
        f'server.admin.listen=["{admin}"]',
    ]
    assert [len(listeners) for listeners in doors.by_key().values()] == [2, 1]
