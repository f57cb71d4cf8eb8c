"""What keeps a host from starting: which exit code, which words, and nothing left behind."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

from tests.processes import Host, Project


def refused(host: Host, code: int = 3) -> str:
    """Its last words, once it has left with that code, nothing being on standard output."""
    assert host.wait() == code, "\n".join(host.lines)
    assert host.stdout == b""
    return host.logs[-1]["message"] if host.logs else "\n".join(host.lines)


@pytest.mark.parametrize(
    ("app", "words", "traced"),
    [
        ("nowhere:app", "there is no module `nowhere`", False),
        ("raises:app", "importing `raises` raised KeyError: 'DATABASE_URL'", True),
        ("needy:app", "`nonexistent_dependency`", True),
        ("broken:app", "SyntaxError", True),
        ("main:ap", "did you mean main:app?", False),
        ("sys:app", "the module `sys` (built in) has no `app`", False),
        ("main:number", "neither an ASGI nor a WSGI application", False),
        ("main:nothing", "the factory returned None", False),
        ("main:raising", "the factory raised RuntimeError: no luck", True),
        ("main:failing", "the application failed to start", False),
    ],
)
def test_an_application_that_cannot_be_had_is_exit_code_3_and_says_which(
    served: Project, app: str, words: str, traced: bool
) -> None:
    served.write("raises.py", "import os\nos.environ['DATABASE_URL']\n")
    served.write("needy.py", "import nonexistent_dependency\n")
    served.write("broken.py", "def app(:\n")
    with (served.folder / "main.py").open("a") as main:
        main.write(
            "\nnumber = 7\n"
            "def nothing(): pass\n"
            "def raising(): raise RuntimeError('no luck')\n"
            "async def failing(scope, receive, send):\n"
            "    await receive()\n"
            "    await send({'type': 'lifespan.startup.failed', 'message': 'no database'})\n"
        )
    served.manifest(app=app)
    host = served.host()
    said = refused(host)
    assert words in said
    trace = host.logs[-1].get("exception", "")
    assert bool(trace) == traced
    assert "pywatt_host" not in trace
    if app == "main:failing":
        assert "no database" in said


def test_a_broken_manifest_is_exit_code_2_and_shows_every_fault(served: Project) -> None:
    served.write("pywatt.yaml", "app: main:app\nserver:\n  listn: :8080\nhealth: maybe\n")
    host = served.host()
    said = refused(host, 2)
    assert "pywatt.yaml:3:3: server.listn: unknown key" in said
    assert 'did you mean "listen"?' in said
    assert said.endswith("2 errors")
    assert "pywatt.yaml:4:" in said
    assert "Traceback" not in said


def test_a_manifest_that_is_not_there_is_exit_code_2(project: Project) -> None:
    assert "the file does not exist" in refused(project.host("nowhere.yaml"), 2)


def test_a_port_in_use_is_exit_code_3_and_names_address_and_key(served: Project) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refused(served.host("--listen", f"127.0.0.1:{port}"))
        assert f"server.listen: cannot listen on 127.0.0.1:{port}: the address is in use" in said


def test_a_taken_admin_port_leaves_nothing_of_the_public_listeners(served: Project) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        served.manifest(server={"listen": "unix:s.sock", "admin": {"listen": f"127.0.0.1:{port}"}})
        assert "server.admin.listen" in refused(served.host())
        assert not (served.folder / "s.sock").exists()


def test_a_control_socket_that_was_asked_for_must_be_had_and_the_usual_one_need_not(served: Project) -> None:
    (served.folder / "pywatt").write_text("in the way")
    host = served.host()
    assert host.get("/x").status == 200
    assert host.stop() == 0
    assert [record["key"] for record in host.logs if record["level"] == "warning"] == ["server.control"]
    served.manifest(server={"control": "missing/control.sock"})
    assert "server.control" in refused(served.host())


# Unix sockets ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def on_unix(served: Project) -> Project:
    served.manifest(server={"listen": "unix:s.sock"})
    return served


def test_a_stale_socket_is_replaced(on_unix: Project) -> None:
    path = on_unix.folder / "s.sock"
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(os.fspath(path))
    assert path.exists()
    host = on_unix.host()
    assert host.get("/x").status == 200
    assert path.stat().st_mode & 0o777 == 0o600
    assert host.stop() == 0


def test_a_live_socket_is_not_stolen(on_unix: Project) -> None:
    first = on_unix.host()
    assert first.get("/x").status == 200
    assert "the socket is in use" in refused(on_unix.host())
    assert first.get("/x").status == 200
    assert first.stop() == 0


def test_what_is_no_socket_is_not_touched(on_unix: Project) -> None:
    path = on_unix.folder / "s.sock"
    for make in (lambda: path.write_text("precious"), lambda: path.symlink_to("precious")):
        make()
        assert "the path exists and is not a socket" in refused(on_unix.host())
        assert path.is_symlink() or path.read_text() == "precious"
        path.unlink()


def test_a_successors_socket_is_not_removed_by_the_predecessor(on_unix: Project) -> None:
    path = on_unix.folder / "s.sock"
    first = on_unix.host()
    assert first.get("/x").status == 200
    path.unlink()
    second = on_unix.host()
    assert second.get("/x").status == 200
    assert first.stop() == 0
    assert second.get("/x").status == 200
    assert second.stop() == 0


# systemd --------------------------------------------------------------------------------------------------------------

AS_SYSTEMD = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


def test_sockets_of_systemd_are_served(served: Project) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        command = [sys.executable, "-c", AS_SYSTEMD, str(listener.fileno())]
        command += ["-m", "pywatt_host", "run", "--log-format", "json", "--listen", "systemd"]
        host = served.start(command, pass_fds=[listener.fileno()])
        assert host.address == f"http://127.0.0.1:{listener.getsockname()[1]}"
        assert host.get("/x").body == b"GET /x"
        assert host.stop() == 0


@pytest.mark.parametrize("environ", [{}, {"LISTEN_FDS": "1"}, {"LISTEN_FDS": "1", "LISTEN_PID": "1"}])
def test_without_sockets_of_systemd_for_this_process_it_does_not_start(
    served: Project, environ: dict[str, str]
) -> None:
    assert "systemd passed no socket" in refused(served.host("--listen", "systemd", env=environ))


@pytest.mark.parametrize("kind", ["file", "datagram", "connected", "closed"])
def test_a_descriptor_that_is_no_listening_socket_is_refused(served: Project, kind: str, tmp_path: Path) -> None:
    one, other = socket.socketpair()
    with one, other, socket.socket(type=socket.SOCK_DGRAM) as datagram, (tmp_path / "f").open("w") as file:
        fd = {"file": file.fileno(), "datagram": datagram.fileno(), "connected": one.fileno(), "closed": 4000}[kind]
        host = served.host("--listen", f"fd:{fd}", pass_fds=[] if kind == "closed" else [fd])
        assert f"descriptor {fd} is " in refused(host)


def test_systemd_is_told_what_happens_and_its_watchdog_fed(served: Project) -> None:
    path = os.fspath(served.folder / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(path)
        notify.settimeout(40)
        host = served.host(env={"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "100000"})
        said = notify.recv(1000).decode().split("\n")
        assert said == ["READY=1", f"MAINPID={host.child.pid}"]
        assert host.get("/x").status == 200
        assert [notify.recv(1000) for _ in range(3)] == [b"WATCHDOG=1"] * 3
        host.signal()
        while (word := notify.recv(1000)) == b"WATCHDOG=1":
            pass
        assert word == b"STOPPING=1"
        assert host.wait() == 0
