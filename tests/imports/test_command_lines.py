"""uvicorn, hypercorn and Procfiles: command lines and files become manifests with the same answers."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml

from pywatt_host.imports import Imported, UnreadableError
from tests.imports.serving import Asked, compare, imported, keys, project

HTTPS = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "203.0.113.7"}


def words(kind: str, folder: Path, line: str, **more: Any) -> tuple[dict[str, Any], Imported]:
    made = imported(kind, *line.split(), folder=folder, **more)
    return yaml.safe_load(made.files["pywatt.yaml"]), made


def written(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(textwrap.dedent(text))
    return str(folder / name)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    project(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_uvicorn_command_line_serves_the_same_answers(folder: Path) -> None:
    line = "uvicorn asgi_one:app --host 0.0.0.0 --port 9000 --header X-Frame-Options:DENY --workers 2 --no-access-log"
    manifest, made = words("uvicorn", folder, line)
    assert manifest["server"]["listen"] == ":9000"
    assert manifest["server"]["workers"] == 2
    assert manifest["logging"] == {"access": False}
    assert keys(made, "lost") == set()
    answers = [
        Asked("/a//b", body="GET  /a//b http 127.0.0.1", answered={"x-frame-options": "DENY"}),
        Asked("/a", body="GET  /a https 203.0.113.7", headers=HTTPS),
        Asked("/a", body="GET  /a http 192.0.2.1", headers=HTTPS, client="192.0.2.1"),
        Asked("/missing", 404),
    ]
    compare(made.files["pywatt.yaml"], folder, answers)


def test_every_option_of_uvicorn_is_known() -> None:
    import sys

    import click
    import uvicorn.main

    from pywatt_host.imports.uvicorn import OPTIONS

    module = sys.modules["uvicorn.main"]
    assert uvicorn.main is not None
    command = next(each for each in vars(module).values() if isinstance(each, click.Command))
    flags = {flag for option in OPTIONS for flag in option.flags}
    there = {
        flag for each in command.params if isinstance(each, click.Option) for flag in each.opts + each.secondary_opts
    }
    assert there - {"--version", "--help"} <= flags


def test_variables_of_uvicorn_count_and_options_win(folder: Path) -> None:
    environ = {"UVICORN_PORT": "7000", "UVICORN_HOST": "0.0.0.0", "WEB_CONCURRENCY": "3", "UVICORN_LIFESPAN": "off"}
    manifest, made = words("uvicorn", folder, "uvicorn --port 7001 asgi_one:app", environ=environ)
    assert manifest["server"]["listen"] == ":7001"
    assert manifest["server"]["workers"] == 3
    assert keys(made, "lost") == {"lifespan"}
    manifest, _ = words("uvicorn", folder, "UVICORN_APP=asgi_one:app UVICORN_PROXY_HEADERS=false A=b uvicorn")
    assert manifest["app"]["env"] == {"A": "b"}
    assert "trusted_proxies" not in manifest["server"]


def test_what_uvicorn_has_and_the_host_does_not_is_listed(folder: Path) -> None:
    line = (
        "asgi_one:app --reload --root-path /api --ssl-ciphers X --uds /run/a.sock --interface asgi2 --ws-max-queue 1"
        " --limit-concurrency 10 --forwarded-allow-ips=*,proxy --timeout-graceful-shutdown 3 --limit-max-requests 100"
    )
    manifest, made = words("uvicorn", folder, line)
    lost = {"reload", "root_path", "ssl_ciphers", "interface", "ws_max_queue", "forwarded_allow_ips"}
    assert keys(made, "lost") == lost
    assert {"limit_concurrency", "forwarded_allow_ips"} <= keys(made, "differs")
    assert manifest["server"]["listen"] == {"unix": "/run/a.sock", "mode": "0666"}
    assert manifest["server"]["timeouts"] == {"shutdown": "3s"}


def test_an_env_file_becomes_variables_and_its_secrets_stay_in_it(folder: Path) -> None:
    written(folder, "prod.env", "MODE=prod\nAPI_KEY=k3y-of-somebody\n")
    _, made = words("uvicorn", folder, "wsgi_one:application --interface wsgi --env-file prod.env")
    manifest = yaml.safe_load(made.files["pywatt.yaml"])
    assert manifest["secrets"] == {"sources": ["env", {"dotenv": "prod.env"}], "keys": ["API_KEY"]}
    assert "k3y" not in made.files["pywatt.yaml"]
    compare(made.files["pywatt.yaml"], folder, [Asked("/", body="GET  / http 0 prod")])


def test_a_secret_is_never_written_whatever_its_name(folder: Path) -> None:
    line = "gunicorn -e 1_PASSWORD=s3cr3t -e API_KEY= -e TOKEN=s3cr3t wsgi_one"
    manifest, made = words("gunicorn", folder, line)
    assert manifest["app"]["env"] == {"API_KEY": "", "TOKEN": "${secret:TOKEN}"}
    assert "s3cr3t" not in made.files["pywatt.yaml"] + "".join(map(str, made.findings))
    assert keys(made, "lost") == {"raw_env"}


def test_a_hypercorn_file_serves_the_same_answers(folder: Path) -> None:
    text = """
    application_path = "asgi_one:app"
    bind = ["0.0.0.0:8001", "unix:/run/h.sock"]
    graceful_timeout = 4.5
    workers = 2
    worker_class = "uvloop"
    h2_max_concurrent_streams = 50
    made_up = 1
    """
    made = imported("hypercorn", written(folder, "hypercorn.toml", text), folder=folder)
    manifest = yaml.safe_load(made.files["pywatt.yaml"])
    assert manifest["server"]["listen"] == [":8001", {"unix": "/run/h.sock", "mode": "0777"}]
    assert manifest["server"]["timeouts"] == {"shutdown": "4500ms"}
    assert keys(made, "lost") == {"h2_max_concurrent_streams", "made_up"}
    assert [each.place.line for each in made.findings if each.key == "made_up"] == [8]
    # hypercorn reads no forwarding headers by itself
    compare(made.files["pywatt.yaml"], folder, [Asked("/a", body="GET  /a http 127.0.0.1", headers=HTTPS)])


def test_a_hypercorn_command_line_with_a_python_file(folder: Path) -> None:
    written(
        folder, "conf.py", "import os\nworkers = 1 + 2\nbind = ':' + os.environ.get('PORT', '9')\nraise SystemExit(1)\n"
    )
    line = "hypercorn -c file:conf.py --keep-alive 7 --server-name a.example wsgi:wsgi_one:application"
    manifest, made = words("hypercorn", folder, line)
    assert manifest["app"]["interface"] == "wsgi"
    assert manifest["server"]["workers"] == 3
    assert manifest["server"]["listen"] == ":${PORT:-9}"
    assert manifest["server"]["allowed_hosts"] == ["a.example"]
    assert manifest["server"]["limits"] == {"body": "16MiB"}
    assert "server_names" in keys(made, "differs")


def test_every_setting_of_hypercorn_is_known() -> None:
    settings = vars(pytest.importorskip("hypercorn.config").Config)
    from pywatt_host.imports.hypercorn import NAMES

    public = {name for name, value in settings.items() if not callable(value) and not name.startswith("__")}
    ours = {name.lstrip("_") for name in public if not isinstance(settings[name], classmethod)}
    assert ours - {"quic_addresses", "log", "ssl_enabled"} <= NAMES


PROCFILE = """
# processes
web: gunicorn shop.wsgi --threads 3
api: uvicorn asgi_one:app --host 0.0.0.0 --port $API_PORT
worker: celery -A shop worker
release: python manage.py migrate
"""


def test_a_procfile_with_several_servers(folder: Path) -> None:
    made = imported("procfile", written(folder, "Procfile", PROCFILE), folder=folder)
    assert list(made.files) == ["pywatt.yaml", "api.yaml"]
    manifest = yaml.safe_load(made.files["pywatt.yaml"])
    assert manifest["server"]["listen"] == ":${PORT:-8000}"
    assert manifest["app"]["threads"] == 3
    assert yaml.safe_load(made.files["api.yaml"])["server"]["listen"] == ":${API_PORT}"
    assert {(each.key, each.place.line) for each in made.findings if each.kind == "lost"} == {
        ("worker", 5),
        ("release", 6),
    }
    compare(made.files["pywatt.yaml"], folder, [Asked("/x", body="GET  /x http 0 -")])


@pytest.mark.parametrize(
    ("kind", "line", "message"),
    [
        ("uvicorn", "uvicorn a:b --prot 80", r"uvicorn has no option --prot \(did you mean --port\?\)"),
        ("uvicorn", "uvicorn a:b --port", "--port of uvicorn has no value"),
        ("uvicorn", "uvicorn a:b --reload=yes", "--reload of uvicorn takes no value"),
        ("uvicorn", "uvicorn a:b --port eighty", "port is not a port"),
        ("uvicorn", "uvicorn a:b --port $(cat port)", "is computed by the shell"),
        ("uvicorn", "uvicorn 'a:b", "is not closed"),
        ("uvicorn", "uvicorn", "names no application"),
        ("uvicorn", "uvicorn a:b && uvicorn c:d", "starts a second server"),
        ("hypercorn", "hypercorn a:b -c none.toml", "cannot be read"),
        ("gunicorn", "gunicorn a:b -c python:none", "was not found"),
        ("procfile", "none.Procfile", "cannot be read"),
    ],
)
def test_a_fault_is_one_clear_error(kind: str, line: str, message: str, folder: Path) -> None:
    with pytest.raises(UnreadableError, match=message):
        imported(kind, line, folder=folder)


@pytest.mark.parametrize(
    ("kind", "name", "text", "line", "message"),
    [
        ("procfile", "Procfile", "web: gunicorn a:b\nnonsense\n", 2, "is not `type: command`"),
        ("procfile", "Procfile", "web: gunicorn a:b\nweb: gunicorn a:b\n", 2, "is given twice"),
        ("procfile", "Procfile", "web: node server.js\n", 0, "no process starts a server"),
        ("procfile", "Procfile", "# one\nweb: gunicorn -c conf/none.py a:b\n", 2, "none.py cannot be read"),
        ("procfile", "Procfile", "# one\nweb: hypercorn -c none.toml a:b\n", 2, "none.toml cannot be read"),
        ("hypercorn", "h.toml", "workers = 2\nbind = [\n", 0, "this is not TOML"),
        ("uvicorn", "start.sh", "echo nothing\n", 0, "no command that starts uvicorn"),
    ],
)
def test_a_fault_in_a_file_has_its_line(kind: str, name: str, text: str, line: int, message: str, folder: Path) -> None:
    with pytest.raises(UnreadableError, match=message) as caught:
        imported(kind, written(folder, name, text), folder=folder)
    assert not line or caught.value.place.line == line
