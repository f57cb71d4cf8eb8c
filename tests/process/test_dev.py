"""`dev` as a real process: edits, faults and their mending, open streams, and how it stops."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable

import pytest
import websockets

from tests.processes import PATIENCE, Connection, Host, Project, Response

RELOADED = "reload: ready again in "


class Dev:
    """A running `dev`."""

    def __init__(self, project: Project, process: Host) -> None:
        self.project = project
        self.process = process
        self._seen = 0

    def next(self, wanted: str) -> str:
        """The next line of standard error with this text, after the one that was found before."""
        first = self._seen

        def is_it(line: str) -> bool:
            return wanted in line

        self.process.wait_for(lambda _: any(is_it(line) for line in self.process.lines[first:]))
        found = next(number for number, line in enumerate(self.process.lines) if number >= first and is_it(line))
        self._seen = found + 1
        return self.process.lines[found]

    @property
    def address(self) -> str:
        line = self.process.wait_for("ready: ")
        match = re.search(r" on (\S+?),? ?(?:\(|;|unix)", line)
        assert match is not None, line
        return match[1]

    def connect(self) -> Connection:
        return Connection(self.address)

    def get(self, path: str = "/", address: str = "") -> Response:
        with Connection(address or self.address) as connection:
            return connection.request("GET", path)

    def edit(self, name: str, change: Callable[[str], str]) -> None:
        """Save as editors do: another file, put in the place of the one before."""
        path = self.project.folder / name
        beside = path.with_name(path.name + ".tmp")
        beside.write_text(change(path.read_text()))
        os.replace(beside, path)

    def replace(self, name: str, old: str, new: str) -> None:
        def change(text: str) -> str:
            assert old in text
            return text.replace(old, new)

        self.edit(name, change)

    def children(self) -> list[int]:
        pid = self.process.child.pid
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            return [int(pid) for pid in file.read().split()]


@pytest.fixture
def dev(served: Project) -> Callable[..., Dev]:
    def start(*arguments: str, env: dict[str, str] | None = None) -> Dev:
        command = [sys.executable, "-m", "pywatt_host", "dev", *arguments]
        return Dev(served, served.start(command, env=env))

    return start


def test_an_edit_of_the_application_is_served_on_the_same_port_and_the_line_names_the_file(
    dev: Callable[..., Dev],
) -> None:
    running = dev()
    address = running.address
    assert running.get("/x").body == b"GET /x"
    for number, (old, new) in enumerate([("{path}", "one"), ("one", "two"), ("two", "six")]):
        running.replace("main.py", f"{{scope['method']}} {old}", f"{{scope['method']}} {new}")
        assert running.next("reload: ") == "reload: main.py changed"
        assert re.fullmatch(r"reload: ready again in \d+\.\d\d s", running.next(RELOADED))
        assert running.get("/x", address).body == f"GET {new}".encode(), number
    assert sum(line.startswith("ready: ") for line in running.process.lines) == 1
    assert running.process.stdout == b""


def test_a_request_that_is_sent_while_it_starts_again_is_answered(dev: Callable[..., Dev]) -> None:
    running = dev()
    address = running.address
    running.edit("main.py", lambda text: f"open('gate').read()\n{text}")
    os.mkfifo(running.project.folder / "gate")  # the import waits until the test opens the other end
    running.next("reload: main.py")
    running.next("stopping: SIGTERM")
    with Connection(address) as connection:
        connection.head("GET", "/meanwhile")
        (running.project.folder / "gate").write_text("go")
        assert connection.response().body == b"GET /meanwhile"


def test_another_host_is_421_and_no_page_of_another_site_reads_why_the_code_fails(dev: Callable[..., Dev]) -> None:
    running = dev()
    address = running.address
    with Connection(address) as connection:
        refused = connection.request("GET", "/x", Host="evil.example")
        assert refused.status == 421
        assert "server.allowed_hosts" in refused.json()["detail"]
        for name in ("localhost:3000", "app.localhost", "127.0.0.1", "[::1]"):
            assert connection.request("GET", "/x", Host=name).status == 200, name
    running.edit("main.py", lambda text: text + "\nraise ValueError('no luck')\n")
    running.next("not serving until a file changes")
    for name, status, told in (("evil.example", 421, False), ("localhost", 503, True)):
        with Connection(address) as connection:
            answer = connection.request("GET", "/x", Host=name)
            assert answer.status == status
            assert ("no luck" in answer.body.decode()) is told


def test_a_broken_import_is_a_503_with_the_reason_until_it_is_mended(dev: Callable[..., Dev]) -> None:
    running = dev()
    address = running.address
    running.edit("main.py", lambda text: text + "\nraise ValueError('no luck')\n")
    running.next("not serving until a file changes")
    with Connection(address) as connection:
        answer = connection.request("GET", "/x")
        assert (answer.status, answer.headers["content-type"]) == (503, "application/problem+json")
        assert (answer.headers["cache-control"], answer.headers["retry-after"]) == ("no-store", "1")
        assert "importing `main` raised ValueError: no luck" in answer.json()["detail"]
        assert connection.closed()
    with Connection(address) as connection:
        assert connection.request("HEAD", "/x").status == 503
    with Connection(address) as connection:
        assert connection.request("POST", "/x", b"x" * 300_000).status == 503
    assert "ValueError: no luck" in running.process.lines
    running.replace("main.py", "raise ValueError('no luck')", "")
    running.next(RELOADED)
    assert running.get("/x", address).body == b"GET /x"


def test_a_broken_manifest_shows_its_faults_there_and_here_until_it_is_mended(dev: Callable[..., Dev]) -> None:
    running = dev()
    address = running.address
    running.replace("pywatt.yaml", '"server"', '"sever"')
    running.next("reload: pywatt.yaml changed")
    assert running.next("unknown key").startswith("pywatt.yaml:1:")
    assert set(running.next("^~").strip()) == {"^", "~"}
    running.next("not serving until a file changes")
    answer = running.get("/x", address)
    assert answer.status == 503
    assert 'sever: unknown key (did you mean "server"?)' in answer.json()["detail"]
    assert "^~" in answer.json()["detail"]
    running.replace("pywatt.yaml", '"sever"', '"server"')
    running.next(RELOADED)
    assert running.get("/x", address).status == 200


def test_a_first_start_that_fails_waits_for_the_mending_save_and_then_announces_itself(
    served: Project, dev: Callable[..., Dev]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    served.write("late.py", "import nowhere_to_be_found\n")
    running = dev("--listen", f"127.0.0.1:{port}", "late:app")
    running.next("not serving until a file changes")
    assert "`nowhere_to_be_found`" in running.get("/", f"http://127.0.0.1:{port}").json()["detail"]
    served.write("late.py", "from main import app\n")
    running.next("reload: late.py changed")
    assert f"http://127.0.0.1:{port}" in running.next("ready: ")
    assert running.get("/x").body == b"GET /x"


def test_a_process_that_ends_by_itself_is_told_and_comes_back_with_the_next_save(dev: Callable[..., Dev]) -> None:
    running = dev()
    address = running.address
    os.kill(running.children()[0], signal.SIGKILL)
    assert running.next("SIGKILL") == "the process ended: killed by SIGKILL"
    running.next("not serving until a file changes")
    assert running.get("/x", address).json()["detail"] == "the process ended: killed by SIGKILL"
    running.edit("main.py", lambda text: text + "\n")
    running.next(RELOADED)
    assert running.get("/x", address).status == 200


@pytest.mark.parametrize("name", ["notes.md", "site.css", "templates/page.html", "app.log", "dev.db", ".git/index"])
def test_what_needs_no_restart_gets_none(dev: Callable[..., Dev], name: str) -> None:
    running = dev()
    running.address  # noqa: B018 -- waits until it is ready
    running.project.write(name, "changed")
    running.edit("main.py", lambda text: text + "\n")
    assert running.next("reload: ") == "reload: main.py changed"
    running.next(RELOADED)


def test_a_template_starts_it_again_where_the_framework_keeps_it_in_memory(
    served: Project, dev: Callable[..., Dev]
) -> None:
    served.write(
        "pages.py",
        """
        from flask import Flask, render_template

        app = Flask(__name__)

        @app.get("/")
        def page():
            return render_template("page.html")
        """,
    )
    served.write("templates/page.html", "first")
    running = dev("--listen", "127.0.0.1:0", "pages:app")
    assert running.get("/").body == b"first"
    served.write("templates/page.html", "second")
    assert running.next("reload: ") == "reload: templates/page.html changed"
    running.next(RELOADED)
    assert running.get("/").body == b"second"


def test_files_of_the_users_choice_do_not_count(dev: Callable[..., Dev]) -> None:
    running = dev("--ignore", "uploads/*", "--ignore", "*.csv")
    running.address  # noqa: B018 -- waits until it is ready
    running.project.write("uploads/a.py", "1")
    running.project.write("deep/b.csv", "1")
    running.edit("main.py", lambda text: text + "\n")
    assert running.next("reload: ") == "reload: main.py changed"


# Addresses ------------------------------------------------------------------------------------------------------------


def test_an_address_beyond_loopback_becomes_loopback_and_a_line_says_so(
    served: Project, dev: Callable[..., Dev]
) -> None:
    served.manifest(server={"listen": ":0", "admin": {"listen": "0.0.0.0:0"}})
    running = dev()
    running.next("server.listen: :0 is not a loopback address; dev listens on 127.0.0.1:0")
    running.next("server.admin.listen: 0.0.0.0:0 is not a loopback address; dev listens on 127.0.0.1:0")
    line = running.process.wait_for("ready: ")
    public, admin = re.findall(r"http://(127\.0\.0\.1:\d+)", line)
    assert running.get("/x", public).status == 200
    assert running.get("/readyz", admin).status == 200
    running.edit("main.py", lambda text: text + "\n")
    running.next(RELOADED)
    assert running.get("/readyz", admin).status == 200
    assert sum("not a loopback" in line for line in running.process.lines) == 2


@pytest.mark.slow
def test_a_second_child_accepts_on_the_sockets_of_the_first_over_tcp_and_unix(
    served: Project, dev: Callable[..., Dev]
) -> None:
    """A filter that the first had left on the socket would let nobody connect any more."""
    served.manifest(server={"listen": ["127.0.0.1:0", "unix:s.sock"]})
    running = dev()
    line = running.process.wait_for("ready: ")
    match = re.search(r"http://127\.0\.0\.1:\d+", line)
    assert match is not None
    for _ in range(3):
        running.edit("main.py", lambda text: text + "\n")
        running.next(RELOADED)
        for address in (match[0], f"unix:{served.folder / 's.sock'}"):
            assert running.get("/x", address).body == b"GET /x"
    running.process.signal(signal.SIGINT)
    assert running.process.wait() == 0
    assert not (served.folder / "s.sock").exists()


def test_an_edit_of_the_address_moves_it(served: Project, dev: Callable[..., Dev]) -> None:
    running = dev()
    old = running.address
    running.next("ready: ")
    served.manifest(server={"listen": "unix:moved.sock"})
    assert "unix:" in running.next("ready: ")
    assert running.get("/x", f"unix:{served.folder / 'moved.sock'}").status == 200
    with pytest.raises(ConnectionRefusedError):
        Connection(old)


def test_an_address_that_is_taken_by_then_is_told_on_the_one_before(served: Project, dev: Callable[..., Dev]) -> None:
    running = dev()
    address = running.address
    with socket.create_server(("127.0.0.1", 0)) as taken:
        served.manifest(server={"listen": f"127.0.0.1:{taken.getsockname()[1]}"})
        running.next("not serving until a file changes")
        assert "the address is in use" in running.get("/x", address).json()["detail"]


# Streams --------------------------------------------------------------------------------------------------------------


def test_an_open_websocket_gets_1012_and_does_not_hold_the_reload(dev: Callable[..., Dev]) -> None:
    running = dev()

    async def main() -> None:
        async with websockets.connect(running.address.replace("http", "ws") + "/ws") as open_socket:
            await open_socket.send("hello")
            assert await open_socket.recv() == "hello"
            running.edit("main.py", lambda text: text + "\n")
            with pytest.raises(websockets.ConnectionClosed) as closed:
                await asyncio.wait_for(open_socket.recv(), PATIENCE)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1012

    asyncio.run(main())
    assert float(running.next(RELOADED).split()[-2]) < PATIENCE / 4


def test_open_server_sent_events_are_ended(dev: Callable[..., Dev]) -> None:
    running = dev()
    with running.connect() as events:
        events.head("GET", "/events")
        assert events.response_head()[0] == 200
        assert events.chunk() == b"data: 1\n\n"
        running.edit("main.py", lambda text: text + "\n")
        assert events.chunk() == b""  # the stream is ended, not cut
        assert events.closed()
    assert not any("Traceback" in line or "CancelledError" in line for line in running.process.lines)
    assert float(running.next(RELOADED).split()[-2]) < PATIENCE / 4
    assert running.get("/x").status == 200


def test_a_request_that_a_reload_cuts_is_told_to_come_back(dev: Callable[..., Dev]) -> None:
    running = dev()
    with running.connect() as connection:
        connection.head("GET", "/held")
        running.get("/holding?1")
        running.edit("main.py", lambda text: text + "\n")
        answer = connection.response()
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    assert answer.json()["detail"] == "the host stopped before the request was answered: send it again"


@pytest.mark.slow
def test_an_import_that_hangs_is_told_and_ends_with_the_next_save(dev: Callable[..., Dev]) -> None:
    running = dev()
    assert running.get("/x").status == 200
    running.edit("main.py", lambda text: text + "\nwhile True: pass\n")
    running.next("still starting after 3 s")
    running.edit("main.py", lambda text: text.replace("while True: pass", ""))
    running.next(RELOADED)
    assert running.get("/x").status == 200


@pytest.mark.slow
def test_a_child_that_ignores_sigterm_is_killed(served: Project, dev: Callable[..., Dev]) -> None:
    served.write(
        "deaf.py",
        """
        import signal, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("deaf", flush=True)
        time.sleep(3600)
        """,
    )
    running = dev("--listen", "127.0.0.1:0", "deaf:app")
    while not running.children():
        time.sleep(0.01)
    _wait_until(lambda: running.process.stdout == b"deaf\n")
    served.write("deaf.py", "from main import app\n")
    running.next("the process did not stop in time and was killed")
    running.next("ready: ")
    assert running.get("/x").status == 200


# Settings -------------------------------------------------------------------------------------------------------------


def test_the_dotenv_file_beside_the_manifest_feeds_variables_and_secrets_and_starts_it_again(
    served: Project, dev: Callable[..., Dev]
) -> None:
    served.write(
        "told.py",
        """
        import json, os

        async def app(scope, receive, send):
            if scope["type"] != "http":
                raise RuntimeError("declined")
            state = scope["state"]["pywatt"]
            said = {"mode": os.environ["MODE"], "token": (await state.get_secret("TOKEN")).expose_secret()}
            body = json.dumps(said).encode()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": body})
        """,
    )
    served.manifest(app={"import_path": "told:app", "env": {"MODE": "${MODE}"}}, secrets=["TOKEN"], health=False)
    served.write(".env", "MODE=one\nTOKEN=first-of-all\n")
    running = dev()
    assert running.get("/").json() == {"mode": "one", "token": "first-of-all"}
    served.write(".env", "MODE=two\nTOKEN=second-of-all\n")
    assert running.next("reload: ") == "reload: .env changed"
    running.next(RELOADED)
    assert running.get("/").json() == {"mode": "two", "token": "second-of-all"}
    served.write("other.env", "MODE=three\n")
    other = dev("--env-file", "other.env")
    assert other.get("/").json() == {"mode": "three", "token": "second-of-all"}


def test_a_refusal_names_the_key_and_logs_are_for_people(served: Project, dev: Callable[..., Dev]) -> None:
    served.manifest(endpoints=[{"path": "/x"}], logging={"format": "json"}, channels={"stdio": "required"})
    running = dev(env={"PYWATT_MODULE_ID": "users"})
    answer = running.get("/y")
    assert (answer.status, answer.json()["detail"]) == (
        404,
        "no endpoint is declared for GET /y: add it to endpoints in pywatt.yaml",
    )
    running.process.wait_for("GET /y 404")
    assert not any(line.startswith("{") for line in running.process.lines)


def test_a_python_file_with_a_decorated_function_is_served_and_reloaded(
    served: Project, dev: Callable[..., Dev]
) -> None:
    text = """
        from pywatt_host import pywatt_module

        @pywatt_module()
        async def make(state):
            from main import app
            return app
    """
    served.write("decorated.py", text)
    running = dev("--listen", "127.0.0.1:0", "decorated.py")
    assert running.get("/x").body == b"GET /x"
    running.replace("main.py", "{scope['method']} {path}", "edited")
    running.next("reload: main.py changed")
    running.next(RELOADED)
    assert running.get("/x").body == b"edited"


def test_a_python_file_listens_where_its_decorator_says(served: Project, dev: Callable[..., Dev]) -> None:
    text = """
        from main import app
        from pywatt_host import pywatt_module

        @pywatt_module(manifest={"server": {"listen": "127.0.0.1:PORT"}})
        async def make(state):
            return app
    """
    with socket.create_server(("127.0.0.1", 0)) as free, socket.create_server(("127.0.0.1", 0)) as other:
        first, second = free.getsockname()[1], other.getsockname()[1]
    served.write("decorated.py", text.replace("PORT", str(first)))
    running = dev("decorated.py")
    assert running.address == f"http://127.0.0.1:{first}"
    running.replace("decorated.py", f":{first}", f":{second}")
    running.next(RELOADED)
    assert running.get("/x", address=f"http://127.0.0.1:{second}").body == b"GET /x"


@pytest.mark.slow
def test_a_decorator_that_breaks_is_a_503_where_it_listened_until_it_is_mended(
    served: Project, dev: Callable[..., Dev]
) -> None:
    text = """
        from main import app
        from pywatt_host import pywatt_module

        @pywatt_module(manifest={"server": {"listen": "127.0.0.1:PORT"}})
        async def make(state):
            return app
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    served.write("decorated.py", text.replace("PORT", str(port)))
    running = dev("decorated.py")
    assert running.get("/x").body == b"GET /x"
    for good, bad, told in (("manifest=", "manifset=", b"manifset"), ("listen", "lissten", b"lissten")):
        running.replace("decorated.py", good, bad)
        running.next("not serving until a file changes")
        answer = running.get("/x")
        assert (answer.status, told in answer.body) == (503, True)
        running.replace("decorated.py", bad, good)
        running.next(RELOADED)
        assert running.get("/x").body == b"GET /x"


# Stopping -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_stops_both_with_exit_code_0(dev: Callable[..., Dev], number: signal.Signals) -> None:
    running = dev()
    address = running.address
    child = running.children()[0]
    begun = time.monotonic()
    running.process.signal(number)
    assert running.process.wait() == 0
    assert time.monotonic() - begun < PATIENCE / 4
    assert not _alive(child)
    with pytest.raises(ConnectionRefusedError):
        Connection(address)


def test_a_signal_cuts_what_streams_and_the_exit_code_is_0_all_the_same(dev: Callable[..., Dev]) -> None:
    running = dev()
    with running.connect() as events:
        events.head("GET", "/events")
        assert events.response_head()[0] == 200
        assert events.chunk() == b"data: 1\n\n"
        running.process.signal(signal.SIGINT)
        running.next("stopping: ")
        running.process.signal(signal.SIGINT)  # the second does not wait
        assert running.process.wait() == 0
        assert events.closed()
    assert not any("cut at the shutdown limit" in line for line in running.process.lines)


def test_a_signal_stops_it_while_nothing_serves_as_well(dev: Callable[..., Dev]) -> None:
    running = dev()
    running.address  # noqa: B018 -- waits until it is ready
    running.edit("main.py", lambda text: "1 / 0\n")
    running.next("not serving until a file changes")
    running.process.signal(signal.SIGINT)
    assert running.process.wait() == 0


def test_stop_over_the_control_socket_ends_it_with_0(dev: Callable[..., Dev]) -> None:
    running = dev()
    running.address  # noqa: B018 -- waits until it is ready
    assert running.project.cli("stop").returncode == 0
    assert running.process.wait() == 0


def test_the_child_goes_when_its_parent_is_killed(dev: Callable[..., Dev]) -> None:
    running = dev()
    running.address  # noqa: B018 -- waits until it is ready
    child = running.children()[0]
    running.process.signal(signal.SIGKILL)
    running.process.wait()
    _wait_until(lambda: not _alive(child))


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _wait_until(true: Callable[[], bool]) -> None:
    """For what nothing tells of."""
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)
