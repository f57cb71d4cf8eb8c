"""Listening sockets: all addresses are bound or none, and an error says which key and why."""

from __future__ import annotations

import socket
import stat
from pathlib import Path

import pytest

from pywatt_host.exceptions import BindError
from pywatt_host.manifest.values import Address, FdAddress, SystemdAddress, TcpAddress, UnixAddress
from pywatt_host.net.listeners import Listener, bind


def bound(*addresses: Address, directory: Path = Path(), environ: dict[str, str] | None = None) -> list[Listener]:
    return bind(addresses, key="server.listen", directory=directory, backlog=8, environ=environ)


def refusal(*addresses: Address, directory: Path = Path(), environ: dict[str, str] | None = None) -> str:
    with pytest.raises(BindError) as caught:
        bound(*addresses, directory=directory, environ=environ)
    assert caught.value.key == "server.listen"
    return str(caught.value)


def test_port_0_is_a_free_port_that_the_address_shows() -> None:
    (listener,) = bound(TcpAddress("127.0.0.1", 0))
    assert listener.owned
    assert listener.address == f"http://127.0.0.1:{listener.sock.getsockname()[1]}"
    listener.close()


def test_an_address_in_use_binds_none_of_the_others(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        text = refusal(UnixAddress("app.sock"), TcpAddress("127.0.0.1", port), directory=tmp_path)
    assert text == (
        f"server.listen: cannot listen on 127.0.0.1:{port}: the address is in use "
        "(another process listens there; port 0 takes a free port)"
    )
    assert not (tmp_path / "app.sock").exists()


def test_a_unix_socket_has_its_mode_and_its_path_is_removed_at_the_end(tmp_path: Path) -> None:
    (listener,) = bound(UnixAddress("app.sock", mode=0o660), directory=tmp_path)
    path = tmp_path / "app.sock"
    assert listener.address == f"unix:{path}"
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    listener.close()
    assert not path.exists()


def test_the_path_of_another_socket_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    (listener,) = bound(UnixAddress("app.sock"), directory=tmp_path)
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        listener.close()
        assert path.exists()


def test_a_stale_socket_is_replaced_and_one_in_use_is_not(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / "app.sock"))
    (listener,) = bound(UnixAddress("app.sock"), directory=tmp_path)
    listener.sock.listen()
    assert "the socket is in use" in refusal(UnixAddress("app.sock"), directory=tmp_path)
    listener.close()


@pytest.mark.parametrize(
    ("address", "words"),
    [
        (UnixAddress("file"), "the path exists and is not a socket (remove it, or choose another path)"),
        (UnixAddress("x" * 108), "the path is too long for a Unix socket (at most 107 bytes)"),
        (UnixAddress("no/app.sock"), "(the directory does not exist)"),
        (UnixAddress("app.sock", group="no-such-group"), "there is no group 'no-such-group'"),
        (FdAddress(1_000_000), "descriptor 1000000 is not a socket"),
        (SystemdAddress(), "systemd passed no socket (a .socket unit must start this process)"),
    ],
    ids=str,
)
def test_an_address_that_cannot_be_bound_says_why(tmp_path: Path, address: Address, words: str) -> None:
    (tmp_path / "file").write_text("mine")
    assert words in refusal(address, directory=tmp_path)
    assert (tmp_path / "file").read_text() == "mine"


def test_an_inherited_socket_must_listen_and_is_not_owned() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as idle:
        assert "is not a listening stream socket" in refusal(FdAddress(idle.fileno()))
        (listener,) = bound(FdAddress(server.fileno()))
        assert not listener.owned
        assert not listener.sock.get_inheritable()
        listener.sock.detach()
