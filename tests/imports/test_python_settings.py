"""Settings that other code of a Python configuration assigns are taken over, or told with their line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from pywatt_host.imports import Imported
from tests.imports.serving import imported, project


def config(folder: Path, text: str) -> tuple[dict[str, Any], Imported]:
    project(folder)
    (folder / "gunicorn.conf.py").write_text(f"{text}\nwsgi_app = 'wsgi_one:application'\n")
    made = imported("gunicorn", str(folder / "gunicorn.conf.py"), folder=folder)
    return yaml.safe_load(made.files["pywatt.yaml"]), made


def lost(made: Imported) -> set[tuple[str, int]]:
    """The settings that were not taken over, with their lines."""
    return {(each.key, each.place.line) for each in made.findings if each.kind == "lost"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "from myproject.gunicorn_base import bind, workers as workers, forwarded_allow_ips, helper\nimport os",
            {("bind", 1), ("workers", 1), ("forwarded_allow_ips", 1)},
        ),
        ("from . import base as keepalive", {("keepalive", 1)}),
        (
            "try:\n    from local import bind, loglevel\nexcept ImportError:\n    bind = ':9001'\n    threads = 3",
            {("bind", 2), ("loglevel", 2), ("threads", 5)},
        ),
        ("try:\n    backlog = 5\nexcept Exception:\n    backlog = 6", {("except", 4)}),
        ("try:\n    helper = 5\nexcept Exception:\n    helper = 6", set()),
        ("import os\nfor k, v in os.environ.items():\n    locals()[k.lower()] = v", {("locals()", 3)}),
        ("import os\nfor k in os.environ:\n    globals()['bind'] = k", {("bind", 3)}),
        ("globals().update(**made())", {("globals().update", 1)}),
        ("globals().update(made())", {("globals().update", 1)}),
        ("x = 1\nexec(open('other.py').read())", {("exec", 2)}),
        ("with open('a') as f:\n    exec(f.read())", {("exec", 2)}),
        ("if made():\n    from other import *\n    from more import bind", {("import *", 2), ("bind", 3)}),
        ("import sys\nsetattr(sys.modules[__name__], 'bi' + 'nd', ':1')", {("setattr", 2)}),
        ("def setup():\n    global workers\n    workers = 9\nsetup()", {("workers", 2)}),
    ],
)
def test_what_other_code_assigns_is_told(text: str, expected: set[tuple[str, int]], tmp_path: Path) -> None:
    _, made = config(tmp_path, text)
    assert lost(made) == expected


def test_what_is_written_into_the_names_of_the_file_is_assigned(tmp_path: Path) -> None:
    text = """
import sys
globals()["keepalive"] = 75
globals().update(graceful_timeout=60, workers=2)
vars().update({"backlog": 100})
sys.modules[__name__].loglevel = "debug"
"""
    manifest, made = config(tmp_path, text)
    assert lost(made) == set()
    assert manifest["server"]["timeouts"] == {"keep_alive": "75s", "shutdown": "1m"}
    assert (manifest["server"]["workers"], manifest["server"]["limits"]["backlog"]) == (2, 100)
    assert manifest["logging"]["level"] == "debug"


def test_a_later_assignment_wins_over_an_import(tmp_path: Path) -> None:
    manifest, made = config(tmp_path, "from base import workers, bind\nworkers = 3\nbind = ':7000'")
    assert (manifest["server"]["workers"], manifest["server"]["listen"], lost(made)) == (3, ":7000", set())


def test_a_python_file_of_hypercorn_tells_it_too(tmp_path: Path) -> None:
    project(tmp_path)
    (tmp_path / "h.py").write_text("from base import bind\nfrom more import *\nexec('')\napplication_path = 'a:b'\n")
    made = imported("hypercorn", str(tmp_path / "h.py"), folder=tmp_path)
    assert {("bind", 1), ("import *", 2), ("exec", 3)} <= lost(made)
