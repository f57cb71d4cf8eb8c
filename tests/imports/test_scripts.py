"""Scripts, Dockerfiles and systemd units: what runs in the end, with the variables that it has there."""

from __future__ import annotations

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


def manifest(folder: Path, name: str, text: str, kind: str = "gunicorn", **environ: str) -> tuple[Any, Imported]:
    (folder / name).write_text(text)
    made = imported(kind, name, folder=folder, environ=environ)
    return yaml.safe_load(made.files["pywatt.yaml"]), made


SCRIPT = """#!/bin/bash
NAME="shop"
NUM_WORKERS=3
BIND=unix:/run/app.sock
OPTIONS="--threads 2 --keep-alive 9"
export DJANGO_SETTINGS_MODULE=config.settings
LEVEL=debug
export LEVEL
export REGION
exec gunicorn ${WSGI:-wsgi_one:application} \\
  --name $NAME --workers $NUM_WORKERS --bind=$BIND $OPTIONS --log-level="$LEVEL"
"""


def test_variables_that_a_script_sets_are_replaced_and_only_exported_ones_reach_the_application(folder: Path) -> None:
    found, _ = manifest(folder, "gunicorn_start", SCRIPT)
    assert found["app"]["env"] == {"DJANGO_SETTINGS_MODULE": "config.settings", "LEVEL": "debug"}
    assert (found["server"]["workers"], found["app"]["threads"]) == (3, 2)
    assert found["server"]["listen"] == {"unix": "/run/app.sock", "mode": "0777"}
    assert (found["server"]["timeouts"], found["logging"]) == ({"keep_alive": "9s"}, {"level": "debug"})


@pytest.mark.parametrize(
    ("lines", "listen"),
    [
        ("PORT=${PORT:-8123}", ":${PORT:-8123}"),
        (": ${PORT:=8123}", ":${PORT:-8123}"),
        ('if [ -z "$PORT" ]; then\n  PORT=1\nfi', ":${PORT}"),
        ('if [ -z "$PORT" ]; then PORT=1; else PORT=2; fi', ":${PORT}"),
        ('[ -z "$PORT" ] && PORT=1', ":${PORT}"),
        ("PORT=1 && PORT=2", ":2"),
        ("PORT=1; unset PORT", ":${PORT}"),
        ("HOST= PORT=5", ":5"),
        ("PORT=5 true", ":${PORT}"),
    ],
)
def test_what_is_known_of_a_variable(lines: str, listen: str, folder: Path) -> None:
    found, _ = manifest(folder, "run.sh", f"{lines}\nexec gunicorn -b :$PORT wsgi_one:application\n")
    assert found["server"]["listen"] == listen
    assert "env" not in found["app"]


def test_what_the_shell_computes_is_told(folder: Path) -> None:
    text = "set -a\nMODE=x\nset +a\nWORK=2\nexport WHEN=$(date)\nN=$(nproc)\ngunicorn -w$N wsgi_one:application\n"
    found, made = manifest(folder, "run.sh", text)
    assert found["app"]["env"] == {"MODE": "x"}
    assert found["server"]["workers"] >= 1
    assert [(each.key, each.place.line) for each in made.findings if each.kind == "lost"] == [("WHEN", 5)]


def test_a_word_that_doubles_itself_is_refused(folder: Path) -> None:
    text = "A=aaaaaaaa\n" + "A=$A$A\n" * 60 + "gunicorn -n $A wsgi_one:application\n"
    with pytest.raises(UnreadableError, match="too long"):
        manifest(folder, "run.sh", text)


STAGES = """
FROM python:3.12 AS base
ENV MODE=base OLD=1
CMD ["gunicorn", "old:app"]
FROM python:3.12 AS other
ENV MODE=other
USER root
CMD ["gunicorn", "other:app"]
FROM base AS final
ENV MSG hello big world
ENV URL=http://a.example/?a=1&b=2 \\
    # a comment
    TWO="x y"
ENTRYPOINT ["gunicorn", "wsgi_one:application"]
CMD ["-b", ":1"]
CMD ["-b", ":8080"]
"""


def test_the_last_stage_of_a_dockerfile_and_its_last_command_count(folder: Path) -> None:
    found, made = manifest(folder, "Dockerfile", STAGES)
    assert found["app"]["import_path"] == "wsgi_one:application"
    assert found["server"]["listen"] == ":8080"
    url = "http://a.example/?a=1&b=2"
    assert found["app"]["env"] == {"MODE": "base", "OLD": "1", "MSG": "hello big world", "URL": url, "TWO": "x y"}
    assert "USER" not in keys(made, "lost")


@pytest.mark.parametrize(
    ("end", "listen"),
    [
        ("CMD gunicorn -b 0.0.0.0:$PORT wsgi_one:application", ":${PORT:-8080}"),
        ('CMD ["sh", "-c", "exec gunicorn -b :${PORT} wsgi_one:application"]', ":${PORT:-8080}"),
        ('ENTRYPOINT ["/usr/bin/tini", "--"]\nCMD exec gunicorn -b :$PORT wsgi_one:application', ":${PORT:-8080}"),
        ('ENTRYPOINT exec gunicorn -b :$PORT wsgi_one:application\nCMD ["-b", ":1"]', ":${PORT:-8080}"),
        ('CMD ["gunicorn", "wsgi_one:application"]', ":8080"),
    ],
)
def test_a_variable_of_a_dockerfile_is_what_it_is_unless_the_container_gets_another(
    end: str, listen: str, folder: Path
) -> None:
    found, _ = manifest(folder, "Dockerfile", f"ARG P=8080\nFROM python:3\nARG P=8080\nENV PORT=$P\n{end}\n")
    assert found["server"]["listen"] == listen
    assert found["app"]["env"] == {"PORT": "8080"}


@pytest.mark.parametrize("key", ["Requires", "Sockets", "Wants"])
def test_the_sockets_of_a_systemd_unit_are_those_of_the_manifest(key: str, folder: Path) -> None:
    text = f"[Unit]\n{key}=network.target gunicorn.socket\n[Service]\nEnvironment=PORT=5 W=2\n"
    text += "ExecStart=/v/bin/gunicorn -b 127.0.0.1:${PORT} -w $W wsgi_one:application\n"
    found, made = manifest(folder, "gunicorn.service", text)
    assert (found["server"]["listen"], found["server"]["workers"]) == ("systemd", 2)
    assert [each.place.line for each in made.findings if each.key == key] == [2]
    found, _ = manifest(folder, "gunicorn.service", text.replace("gunicorn.socket", "redis.service"))
    assert found["server"]["listen"] == "127.0.0.1:5"
