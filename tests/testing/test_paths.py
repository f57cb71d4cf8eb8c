"""What a relative path in a test is relative to."""

from __future__ import annotations

from pathlib import Path

import pytest

from pywatt_host.testing.paths import base_folder
from tests.testing.conftest import RunTests

MAIN = """
async def app(scope, receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"PLACE"})
"""
TEST = """
def test_in_this_process(pywatt_module):
    for target in ("pywatt.yaml", "main:app"):
        assert pywatt_module(target).get("/x").text == "PLACE"

def test_as_a_process(wattson):
    for target in ("pywatt.yaml", "main:app"):
        module = wattson(target)
        module.announced()
        module.shutdown()
        assert module.wait() == 0
"""


@pytest.mark.parametrize("place", ["beside", "root"])
def test_a_path_is_looked_for_beside_the_test_and_then_in_the_root(
    run_tests: RunTests, tmp_path: Path, place: str
) -> None:
    folder = tmp_path / "users"
    folder.mkdir()
    (folder / "test_users.py").write_text(TEST.replace("PLACE", place))
    home = folder if place == "beside" else tmp_path
    (home / "main.py").write_text(MAIN.replace("PLACE", place))
    (home / "pywatt.yaml").write_text("app: main:app\n")
    assert run_tests().counts == {"passed": 2}


def test_where_no_place_has_it_the_last_one_is_named(tmp_path: Path) -> None:
    assert base_folder("gone.yaml", (tmp_path / "a", tmp_path)) == tmp_path
    assert base_folder("gone:app", (tmp_path / "a", tmp_path)) == tmp_path
