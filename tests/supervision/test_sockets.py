"""The sockets of `dev`: loopback only, bound once, kept as long as a manifest asks for them."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pywatt_host.exceptions import BindError
from pywatt_host.manifest import Source, load
from pywatt_host.manifest.model.tls import ServerTls
from pywatt_host.manifest.values import Address, FdAddress, SystemdAddress, TcpAddress, UnixAddress
from pywatt_host.supervision.sockets import ListenAddresses, ListenerSet, is_local, listen_addresses, make_local


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
def test_an_address_is_local_if_only_this_machine_can_connect(address: Address, local: bool) -> None:
    assert is_local(address) is local


def test_other_addresses_become_loopback_with_the_same_port_and_a_message_says_so() -> None:
    given: list[Address] = [TcpAddress("0.0.0.0", 80), TcpAddress("::", 80), UnixAddress("s"), SystemdAddress()]
    found, messages = make_local(given, "server.listen")
    assert found == (TcpAddress("127.0.0.1", 80), UnixAddress("s"), TcpAddress("127.0.0.1", 8080))
    assert messages[0] == "server.listen: 0.0.0.0:80 is not a loopback address; dev listens on 127.0.0.1:80"
    assert [line.split()[1] for line in messages] == ["0.0.0.0:80", "[::]:80", "systemd"]


def test_several_free_ports_stay_several() -> None:
    assert len(make_local([TcpAddress("", 0), TcpAddress("", 0)], "server.listen")[0]) == 2


def test_a_manifest_says_where_public_and_admin_listen(tmp_path: Path) -> None:
    data = {"app": "a:b", "server": {"listen": ":7000", "admin": {"listen": "10.0.0.1:7001"}}}
    found = listen_addresses(load(Source.of_data(data, name="test", directory=tmp_path), environ={}).manifest)
    assert found.public == (TcpAddress("127.0.0.1", 7000),)
    assert found.admin == (TcpAddress("127.0.0.1", 7001),)
    assert [line.partition(":")[0] for line in found.messages] == ["server.listen", "server.admin.listen"]


# Bound ----------------------------------------------------------------------------------------------------------------

FREE = TcpAddress("127.0.0.1", 0)


@pytest.fixture
def listeners() -> Iterator[ListenerSet]:
    listeners = ListenerSet()
    yield listeners
    listeners.close()


def addresses(folder: Path, *public: Address, admin: tuple[Address, ...] = ()) -> ListenAddresses:
    return ListenAddresses(public, admin, folder, 16)


def names(listeners: ListenerSet) -> list[str]:
    return [listener.address for listener in listeners.all]


def test_connections_wait_before_a_process_serves(listeners: ListenerSet, tmp_path: Path) -> None:
    assert listeners.update(addresses(tmp_path, FREE))
    with socket.create_connection(listeners.all[0].sock.getsockname(), timeout=10):
        pass  # it waits in the queue


def test_an_address_that_is_asked_for_again_stays_bound_and_others_are_closed(
    listeners: ListenerSet, tmp_path: Path
) -> None:
    listeners.update(addresses(tmp_path, FREE, UnixAddress("s.sock")))
    before = names(listeners)
    assert not listeners.update(addresses(tmp_path, FREE, UnixAddress("s.sock")))
    assert names(listeners) == before
    assert listeners.update(addresses(tmp_path, FREE))
    assert names(listeners) == before[:1]
    assert not (tmp_path / "s.sock").exists()


def test_an_address_that_cannot_be_bound_changes_nothing(listeners: ListenerSet, tmp_path: Path) -> None:
    listeners.update(addresses(tmp_path, FREE))
    before = names(listeners)
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(BindError, match="in use"):
        listeners.update(addresses(tmp_path, UnixAddress("s.sock"), TcpAddress("127.0.0.1", taken.getsockname()[1])))
    assert names(listeners) == before
    assert not (tmp_path / "s.sock").exists()


def test_the_overrides_have_the_real_addresses_by_key(listeners: ListenerSet, tmp_path: Path) -> None:
    listeners.update(addresses(tmp_path, FREE, UnixAddress("s.sock"), admin=(FREE,)))
    public, admin = (name.removeprefix("http://") for name in names(listeners) if name.startswith("http"))
    assert listeners.overrides() == [
        f'server.listen=["{public}", "unix:{tmp_path}/s.sock"]',
        f'server.admin.listen=["{admin}"]',
    ]
    assert [len(listeners) for listeners in listeners.by_key().values()] == [2, 1]


def test_the_overrides_keep_what_an_address_says_about_tls(listeners: ListenerSet, tmp_path: Path) -> None:
    own = {"cert": "a.pem", "key": "${secret:KEY}", "min_version": "1.3"}
    data = {
        "app": "main:app",
        "server": {
            "tls": {"cert": "b.pem", "key": "b.key"},
            "listen": [
                {"address": "127.0.0.1:0", "tls": "off"},
                "127.0.0.1:0",
                {"address": "127.0.0.1:0", "tls": own},
                {"address": ":8081", "tls": own},
                "127.0.0.1:8081",
            ],
        },
    }
    source = Source.of_text(json.dumps(data), directory=tmp_path)
    manifest = load(source, environ={}).manifest
    found = listen_addresses(manifest)
    assert [str(each) for each in found.public] == ["127.0.0.1:0"] * 3 + ["127.0.0.1:8081"]
    plain, inherited, first, second = found.tls
    assert (plain, inherited) == ("off", None)
    assert isinstance(first, ServerTls)
    assert first == second
    assert (first.cert, str(first.key), first.min_version) == ("a.pem", "${secret:KEY}", "1.3")
    listeners.update(replace(found, public=found.public[:3]))
    (override,) = listeners.overrides()
    shown = json.loads(override.removeprefix("server.listen="))
    assert [each if isinstance(each, str) else each.get("tls") for each in shown] == ["off", shown[1], own]
    assert shown[1].startswith("127.0.0.1:")
    child = load(source, overrides=[override], environ={}).manifest
    assert [child.server.own_tls(number) for number in range(3)] == ["off", None, first]
