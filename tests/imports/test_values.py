"""Values that are easy to get wrong: warnings, empty texts, sizes in bytes, and variables that are zero."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from pywatt_host.imports import Imported, UnreadableError
from tests.imports.serving import imported, keys, project


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    project(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def line(folder: Path, text: str, **environ: str) -> tuple[dict[str, Any], Imported]:
    """A command line as a manifest."""
    kind = text.split()[0]
    made = imported(kind, *text.split(), folder=folder, environ=environ)
    return yaml.safe_load(made.files["pywatt.yaml"]), made


def config(folder: Path, text: str, **environ: str) -> tuple[dict[str, Any], Imported]:
    """A configuration of gunicorn as a manifest."""
    (folder / "gunicorn.conf.py").write_text(f'import os\nwsgi_app = "wsgi_one:application"\n{text}')
    made = imported("gunicorn", "gunicorn.conf.py", folder=folder, environ=environ)
    return yaml.safe_load(made.files["pywatt.yaml"]), made


def test_a_warning_does_not_refuse_the_import_beside_what_only_this_machine_lacks(folder: Path) -> None:
    _, made = config(folder, 'chdir = "/no/such/folder"\nforwarded_allow_ips = "*"\nbind = os.environ["GBIND"]\n')
    todo = {each.key: each.message for each in made.findings if each.kind == "todo"}
    assert "working_dir" in " ".join(todo)
    assert any("GBIND" in message for message in todo.values())
    assert not any("trusted" in message for message in todo.values())
    _, made = line(folder, "uvicorn asgi_one:app --app-dir nosrc --forwarded-allow-ips *")
    assert keys(made, "todo") == {"app.working_dir"}


def test_what_is_wrong_is_told_and_not_a_warning_before_it(folder: Path) -> None:
    (folder / "run.sh").write_text("exec hypercorn -b $GBIND --server-name 'a b' asgi_one:app\n")
    with pytest.raises(UnreadableError, match="allowed_hosts"):
        imported("hypercorn", "run.sh", folder=folder)


@pytest.mark.parametrize("option", ["--bind=$BIND", "--bind $BIND", "-b$BIND", "-b $BIND"])
def test_an_address_that_a_variable_gives_is_the_variable(option: str, folder: Path) -> None:
    (folder / "run.sh").write_text(f"exec gunicorn {option} wsgi_one:application\n")
    made = imported("gunicorn", "run.sh", folder=folder, environ={"BIND": ":9000"})
    assert yaml.safe_load(made.files["pywatt.yaml"])["server"]["listen"] == "${BIND}"


def test_a_size_is_any_number_of_bytes(folder: Path) -> None:
    manifest, _ = line(folder, "uvicorn asgi_one:app --ws-max-size 1000000")
    assert manifest["server"]["limits"]["websocket"]["message"] == "1000000B"
    manifest, _ = line(folder, "uvicorn asgi_one:app --ws-max-size 1048576")
    assert manifest["server"]["limits"]["websocket"]["message"] == "1MiB"
    (folder / "h.toml").write_text('application_path = "wsgi:wsgi_one:application"\nwsgi_max_body_size = 1000\n')
    made = imported("hypercorn", "h.toml", folder=folder)
    assert yaml.safe_load(made.files["pywatt.yaml"])["server"]["limits"]["body"] == "1000B"
    (folder / "run.sh").write_text("exec uvicorn --ws-max-size ${SIZE:-1000} asgi_one:app\n")
    made = imported("uvicorn", "run.sh", folder=folder)
    assert yaml.safe_load(made.files["pywatt.yaml"])["server"]["limits"]["websocket"]["message"] == "${SIZE:-1000}B"


@pytest.mark.parametrize(("size", "limit"), [(10_000_000, "10000000B"), (0, "8MiB")])
def test_a_size_of_unit_is_any_number_of_bytes(size: int, limit: str, folder: Path) -> None:
    python = {"type": "python", "module": "wsgi_one"}
    listeners = {"*:80": {"pass": "applications/a"}}
    settings = {"http": {"max_body_size": size}}
    text = json.dumps({"listeners": listeners, "settings": settings, "applications": {"a": python}})
    (folder / "unit.json").write_text(text)
    made = imported("unit", "unit.json", folder=folder)
    assert yaml.safe_load(made.files["pywatt.yaml"])["server"]["limits"]["body"] == limit
    assert ("settings.http.max_body_size" in keys(made, "lost")) == (size == 0)


def test_an_empty_name_of_a_certificate_is_no_certificate(folder: Path) -> None:
    manifest, made = config(folder, 'certfile = ""\nkeyfile = ""\naccesslog = os.getenv("AL", "")\n')
    assert "tls" not in manifest["server"]
    assert keys(made, "lost") == set()
    text = 'certfile = os.environ.get("SSL_CERT", "")\nkeyfile = os.environ.get("SSL_KEY", "")\n'
    manifest, made = config(folder, text)
    assert "tls" not in manifest["server"]
    assert keys(made, "lost") == {"certfile", "keyfile"}
    (folder / "c.pem").write_text("")
    manifest, _ = config(folder, text, SSL_CERT="c.pem", SSL_KEY="c.pem")
    assert manifest["server"]["tls"] == {"cert": "${SSL_CERT:-}", "key": "${SSL_KEY:-}"}


def test_the_limit_of_a_request_holds_also_if_a_variable_names_the_worker(folder: Path) -> None:
    text = 'worker_class = os.getenv("WORKER_CLASS", "sync")\ntimeout = 30\nthreads = int(os.getenv("THREADS", "1"))\n'
    manifest, made = config(folder, text)
    assert manifest["server"]["timeouts"] == {"request": "30s"}
    assert {"worker_class", "timeout"} <= keys(made, "differs")
    manifest, _ = config(folder, text, WORKER_CLASS="gthread")
    assert manifest["server"]["workers"] == {"ping_limit": "30s"}
    manifest, _ = config(folder, text, THREADS="4")
    assert manifest["server"]["workers"] == {"ping_limit": "30s"}


def test_a_variable_that_is_zero_now_means_what_zero_means(folder: Path) -> None:
    (folder / "Procfile").write_text(
        "web: gunicorn -k uvicorn_worker.UvicornWorker --timeout=${TIMEOUT:-0} -w ${COUNT:-0} asgi_one:app\n"
    )
    made = imported("procfile", "Procfile", folder=folder)
    assert "workers" not in yaml.safe_load(made.files["pywatt.yaml"])["server"]
    assert "timeout" in keys(made, "lost")
    made = imported("procfile", "Procfile", folder=folder, environ={"TIMEOUT": "9"})
    workers = yaml.safe_load(made.files["pywatt.yaml"])["server"]["workers"]
    assert workers == {"ping_limit": "${TIMEOUT:-0}s"}
