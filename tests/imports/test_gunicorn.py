"""gunicorn: five configurations serve the answers that gunicorn gives; the file is read and never run."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from pywatt_host.imports import Imported, UnreadableError
from tests.imports.serving import Asked, compare, imported, keys, project

HTTPS = {"X-Forwarded-Proto": "https"}


@dataclass(frozen=True)
class Case:
    """A configuration, what of the manifest it becomes is looked at, the answers, and the settings that are listed."""

    config: str
    manifest: dict[str, Any]
    answers: list[Asked]
    lost: set[str] = field(default_factory=set)
    environ: dict[str, str] = field(default_factory=dict)


CASES = {
    "computed": Case(
        """
        import multiprocessing
        import os
        from pathlib import Path

        BASE = Path(__file__).resolve().parent
        port = os.environ.get("PORT", "8000")
        wsgi_app = "shop.wsgi"
        chdir = str(BASE)
        bind = [f"0.0.0.0:{port}", "[::1]:%s" % port, "unix:" + os.path.join(BASE, "run.sock")]
        workers = int(os.getenv("WEB_CONCURRENCY", multiprocessing.cpu_count() * 2 + 1))
        threads = 4 if os.environ.get("MODE") == "prod" else 2
        raw_env = ["MODE={}".format("prod")]
        raw_env.append("REGION=eu")
        max_requests = 1000
        max_requests_jitter = 50
        keepalive, graceful_timeout = 5, 60
        """,
        {
            "server.limits": {"body": "off"},
            "server.timeouts": {"keep_alive": "5s", "shutdown": "1m"},
            "server.workers.recycle": {"requests": 1000, "jitter": "5%"},
            "app.threads": 2,
            "app.env": {"MODE": "prod", "REGION": "eu"},
        },
        [
            Asked("/users", body="GET  /users http 0 prod"),
            Asked("/a//b", body="GET  /a//b http 0 prod"),
            Asked("/missing", 404, "nothing here"),
        ],
    ),
    "behind-a-proxy": Case(
        """
        wsgi_app = "wsgi_one:application"
        bind = "127.0.0.1:8001"
        forwarded_allow_ips = "127.0.0.1,10.0.0.0/8"
        secure_scheme_headers = {"X-FORWARDED-PROTO": "https"}
        access_log_format = "%(h)s"
        accesslog = "-"
        loglevel = "warning"
        """,
        {"server.listen": "127.0.0.1:8001", "logging": {"access": True, "level": "warning"}},
        [
            Asked("/", body="GET  / https 0 -", headers=HTTPS),
            Asked("/", body="GET  / https 0 -", headers=HTTPS, client="10.1.1.1"),
            Asked("/", body="GET  / http 0 -", headers=HTTPS, client="192.0.2.1"),
        ],
        {"secure_scheme_headers", "access_log_format"},
    ),
    "below-a-prefix": Case(
        """
        wsgi_app = "wsgi_one:application"
        raw_env = ["SCRIPT_NAME=/shop"]
        umask = 0o007
        bind = "unix:/run/shop.sock"
        user = "www-data"
        def post_fork(server, worker):
            server.log.info("forked")
        """,
        {"server.listen": {"unix": "/run/shop.sock", "mode": "0770"}, "app.route_prefix": "/shop"},
        [Asked("/shop/cart", body="GET /shop /cart http 0 -")],
        {"umask", "user", "post_fork"},
    ),
    "a-factory-and-its-folder": Case(
        """
        wsgi_app = "wsgi_two:create(mode='test')"
        pythonpath = "lib"
        worker_class = "gthread"
        threads = 8
        timeout = 0
        preload_app = True
        daemon = False
        """,
        {
            "app.factory": True,
            "app.args": {"mode": "test"},
            "app.working_dir": "lib",
            "app.threads": 8,
            "server.workers": {"start": "fork"},
        },
        [Asked("/anything", body="test")],
        {"timeout"},
    ),
    "uvicorn-workers": Case(
        """
        wsgi_app = "asgi_one:app"
        worker_class = "uvicorn.workers.UvicornWorker"
        workers = 3
        timeout = 120
        statsd_host = "localhost:8125"
        """,
        {"app.interface": "asgi", "server.workers": {"count": 3, "ping_limit": "2m"}, "metrics": True},
        [Asked("/users", body="GET  /users https 127.0.0.1", headers=HTTPS), Asked("/missing", 404)],
    ),
}


def at(document: Any, path: str) -> Any:
    for part in path.split("."):
        document = document[part]
    return document


def written(folder: Path, text: str, name: str = "gunicorn.conf.py") -> str:
    path = folder / name
    path.write_text(textwrap.dedent(text))
    return str(path)


@pytest.mark.parametrize("name", CASES)
def test_a_configuration_serves_the_same_answers(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    project(tmp_path)
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "wsgi_two.py").write_text((tmp_path / "wsgi_one.py").read_text())
    made = imported("gunicorn", written(tmp_path, case.config), folder=tmp_path, environ=case.environ)
    manifest = yaml.safe_load(made.files["pywatt.yaml"])
    for path, value in case.manifest.items():
        assert at(manifest, path) == value, path
    assert keys(made, "lost") == case.lost
    compare(made.files["pywatt.yaml"], tmp_path, case.answers, case.environ)


def config(folder: Path, text: str, **more: Any) -> tuple[dict[str, Any], Imported]:
    made = imported("gunicorn", written(folder, 'wsgi_app = "a:b"\n' + textwrap.dedent(text)), folder=folder, **more)
    return yaml.safe_load(made.files["pywatt.yaml"]), made


def test_variables_stay_variables_so_that_the_manifest_follows_them_too(tmp_path: Path) -> None:
    text = """
    import os
    bind = "0.0.0.0:" + os.environ.get("PORT", "8000")
    workers = int(os.environ.get("WEB_CONCURRENCY") or 3)
    timeout = int(os.getenv("TIMEOUT", 30))
    raw_env = [f"REGION={os.environ['REGION']}", "PASSWORD=" + os.environ["DB_PASSWORD"]]
    """
    manifest, made = config(tmp_path, text)
    assert manifest["server"]["listen"] == ":${PORT:-8000}"
    assert manifest["server"]["workers"] == "${WEB_CONCURRENCY:-3}"
    assert manifest["server"]["timeouts"]["request"] == "${TIMEOUT:-30}s"
    assert manifest["app"]["env"] == {"REGION": "${REGION}", "PASSWORD": "${secret:PASSWORD}"}
    assert keys(made, "todo") == {"REGION"}


def test_what_depends_on_this_machine_or_on_its_variables_is_told(tmp_path: Path) -> None:
    text = """
    import os, multiprocessing
    cores = multiprocessing.cpu_count()
    workers = cores * 2 + 1
    if os.environ.get("STAGE") == "dev":
        threads = 1
    else:
        threads = 9
    loglevel = "debug" if os.getenv("DEBUG") else "error"
    """
    manifest, made = config(tmp_path, text)
    assert manifest["app"]["threads"] == 9
    assert manifest["logging"]["level"] == "error"
    assert {"workers", "if", "loglevel"} <= keys(made, "differs")
    assert config(tmp_path, text, environ={"STAGE": "dev"})[0]["app"]["threads"] == 1


def test_nothing_of_the_file_is_run(tmp_path: Path) -> None:
    text = f"""
    import os, subprocess
    open({str(tmp_path / "made")!r}, "w").write("x")
    os.system("touch {tmp_path / "made"}")
    workers = __import__("os").system("touch {tmp_path / "made"}")
    threads = eval("4")
    bind = subprocess.check_output(["echo", "x"])
    keepalive = (lambda: 3)()
    timeout = [print(each) for each in [1]]
    max_requests = (1).__class__.__bases__
    backlog = "x" * 10 ** 12
    loglevel = "%1000000000d" % 5
    proc_name = "a" * 90000 * 90000
    limit_request_line = 9 ** 9 ** 9 ** 9
    worker_connections = 1 << 10 ** 10
    chdir = "{{0.__class__}}".format(1)
    """
    manifest, made = config(tmp_path, text)
    assert not (tmp_path / "made").exists()
    names = {"workers", "threads", "bind", "keepalive", "timeout", "max_requests", "backlog", "loglevel", "proc_name"}
    assert names | {"limit_request_line", "worker_connections", "chdir"} <= keys(made, "lost")
    assert manifest["server"]["listen"] == "127.0.0.1:8000"


def test_functions_that_only_return_something_are_followed_and_other_files_are_not(tmp_path: Path) -> None:
    text = """
    from multiprocessing import cpu_count
    from os import environ
    from local import *

    def keep():
        "Seconds."
        return 3 + 4

    def number_of_workers():
        return cpu_count() * 2 + 1

    def endless():
        return endless()

    def other(x=1):
        return x

    keepalive = keep()
    workers = number_of_workers()
    threads = endless()
    backlog = other()
    accesslog = environ.get("ACCESS_LOG", "-")
    """
    manifest, made = config(tmp_path, text)
    assert manifest["server"]["timeouts"]["keep_alive"] == "7s"
    assert manifest["server"]["workers"] > 1
    assert keys(made, "lost") == {"threads", "backlog", "import *"}
    assert "workers" in keys(made, "differs")


def test_what_the_file_computes_is_bounded(tmp_path: Path) -> None:
    text = """
    long = "x" * 90000
    many = [long] * 50000
    bind = "".join(many)
    workers = "%s" * 40000 % tuple([long] * 40000)
    threads = [*many, *many, *many]
    timeout = f"{long}{long}{long}"
    backlog = sum([many, many], [])
    loglevel = long.replace("x", long)
    keepalive = "{0}{0}".format(long)
    """
    _, made = config(tmp_path, text)
    assert {"bind", "workers", "threads", "timeout", "backlog", "loglevel", "keepalive"} <= keys(made, "lost")


def test_the_folder_that_a_script_changes_into_has_the_application(tmp_path: Path) -> None:
    project(tmp_path)
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "gunicorn.conf.py").write_text("threads = 7\n")
    made = imported("gunicorn", written(tmp_path, "cd app && exec gunicorn one:app\n", "start.sh"), folder=tmp_path)
    manifest = yaml.safe_load(made.files["pywatt.yaml"])
    assert (manifest["app"]["working_dir"], manifest["app"]["threads"]) == ("app", 7)
    unit = "[Service]\nWorkingDirectory=/srv/one\nExecStart=/v/bin/gunicorn one:app\n"
    made = imported("gunicorn", written(tmp_path, unit, "one.service"), folder=tmp_path)
    assert yaml.safe_load(made.files["pywatt.yaml"])["app"]["working_dir"] == "/srv/one"


def test_every_hook_and_setting_of_gunicorn_is_known() -> None:
    known = pytest.importorskip("gunicorn.config").KNOWN_SETTINGS
    from pywatt_host.imports.gunicorn import NAMES
    from pywatt_host.imports.gunicorn_table import OPTIONS

    assert {each.name for each in known} <= NAMES
    flags = {flag for option in OPTIONS for flag in option.flags}
    assert {flag for each in known for flag in each.cli or ()} <= flags


def test_a_command_line_wins_over_the_variable_and_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project(tmp_path)
    monkeypatch.chdir(tmp_path)
    written(tmp_path, 'bind = ":1"\nworkers = 2\nthreads = 3\naccesslog = "access.log"\n')
    made = imported(
        "gunicorn",
        *["gunicorn", "-w4", "--bind=127.0.0.1:9000", "-b", "unix:/run/x.sock", "-e", "MODE=x", "shop.wsgi"],
        folder=tmp_path,
        environ={"GUNICORN_CMD_ARGS": "--workers 8 --threads=5 --log-level debug"},
    )
    manifest = yaml.safe_load(made.files["pywatt.yaml"])
    assert manifest["app"]["import_path"] == "shop.wsgi:application"
    assert manifest["app"]["threads"] == 5
    assert manifest["server"]["workers"] == 4
    assert manifest["server"]["listen"] == ["127.0.0.1:9000", {"unix": "/run/x.sock", "mode": "0777"}]
    assert manifest["logging"]["level"] == "debug"
    assert [str(each.place) for each in made.findings if each.key == "accesslog"] == ["gunicorn.conf.py:4"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "start.sh",
            '#!/bin/sh\nset -e\nexport MODE=prod\nexec gunicorn \\\n  --workers "$(nproc)" -b ":$PORT" shop.wsgi\n',
        ),
        (
            "shop.service",
            '[Service]\nUser=www\nEnvironment="MODE=prod"\nExecStart=/v/bin/gunicorn -w 2 -b :${PORT} shop.wsgi\n',
        ),
        (
            "Dockerfile",
            'FROM python:3\nENV MODE=prod\nUSER www\nCMD ["gunicorn", "-w", "2", "-b", ":5000", "shop.wsgi"]\n',
        ),
    ],
)
def test_the_command_is_found_where_it_stands(name: str, text: str, tmp_path: Path) -> None:
    project(tmp_path)
    made = imported("gunicorn", written(tmp_path, text, name), folder=tmp_path, environ={"PORT": "5000"})
    manifest = yaml.safe_load(made.files["pywatt.yaml"])
    assert manifest["app"]["import_path"] == "shop.wsgi:application"
    assert manifest["app"]["env"] == {"MODE": "prod"}
    assert str(manifest["server"]["listen"]).replace("${PORT}", "5000").endswith(":5000")


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("bind = (\n", 1, "this is not Python"),
        ("workers = 2\n", 0, "names no application"),
        ('wsgi_app = "a:b"\nworkers = "many"\n', 2, "workers is not a number"),
        ('wsgi_app = "a:b"\nbind = "host:port"\n', 2, "this is not an address"),
        ('wsgi_app = "a:b"\ntimeout = -1\n', 2, "not a number that is not negative"),
        ('wsgi_app = "a-b:c"\n', 1, "is not module:attribute"),
        ('wsgi_app = "a:b"\nraw_env = ["MODE"]\n', 2, "is not NAME=value"),
        ("x = " + "(" * 5000 + ")" * 5000, 0, "this is not Python"),
        ("x = " + "-" * 50_000 + "1", 0, "deep|application"),
    ],
)
def test_a_fault_is_one_clear_error(text: str, line: int, message: str, tmp_path: Path) -> None:
    with pytest.raises(UnreadableError, match=message) as caught:
        imported("gunicorn", written(tmp_path, text), folder=tmp_path)
    assert caught.value.place.line == line or not line


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\xff\xfe", "is not UTF-8"),
        (b"workers = 1\n\0", "contains a NUL"),
        (b"", "is empty"),
        (b"#" * (1024 * 1024 + 1), "more than 1 MiB"),
    ],
)
def test_a_file_that_is_no_text_is_refused(data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "gunicorn.conf.py").write_bytes(data)
    with pytest.raises(UnreadableError, match=message):
        imported("gunicorn", str(tmp_path / "gunicorn.conf.py"), folder=tmp_path)


def test_links_in_a_circle_folders_and_devices_are_refused(tmp_path: Path) -> None:
    circle = tmp_path / "circle.py"
    circle.symlink_to(circle)
    for path in (circle, tmp_path, Path("/dev/zero"), tmp_path / "none.py"):
        with pytest.raises(UnreadableError):
            imported("gunicorn", str(path), folder=tmp_path)
