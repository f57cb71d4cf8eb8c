"""Which modules of a workspace a changed file restarts."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from pywatt_host.dev.module_watch import ModuleWatch, files_read_at_start
from pywatt_host.manifest import Source, load
from pywatt_host.manifest.model import Manifest
from pywatt_host.manifest.workspace import load_workspace
from tests.hosting import run

FILES = {
    "shop/pywatt.yaml": "app: main:app",
    "shop/main.py": "",
    "shop/.env": "",
    "shop/static.log": "",
    "one.py": "import common\nfrom two import helper\n",
    "two.py": "# one\n",
    "common.py": "",
    "legacy/run.py": "",
    "legacy/more.py": "",
    "tool.py": "",
}
WORKSPACE = """
modules:
  shop: {manifest: shop}
  one: {manifest: one.py}
  two: {manifest: "two.py:create_app"}
  legacy: {command: [./run.py], working_dir: legacy}
  tool: {command: [python, tool.py]}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in {**FILES, "wattson.yaml": WORKSPACE}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def watch_of(folder: Path, told: list[str]) -> ModuleWatch:
    workspace = load_workspace(Source.file(folder / "wattson.yaml"), environ={}).workspace
    manifests: dict[str, Manifest] = {"shop": load(Source.file(folder / "shop"), environ={}).manifest}
    for name in ("one", "two"):
        source = Source.of_data({"app": f"{name}:create_app"}, name=f"{name}.py", directory=folder)
        manifests[name] = load(source, environ={}).manifest
    return ModuleWatch(workspace, manifests, files_read_at_start(workspace, [folder / "common.env"]), told.append)


@pytest.mark.parametrize(
    ("changed", "restarted"),
    [
        ("shop/main.py", ["shop"]),
        ("shop/pywatt.yaml", ["shop"]),
        ("shop/.env", ["shop"]),
        ("shop/static.log", []),
        ("one.py", ["one"]),
        ("two.py", ["one", "two"]),  # the first imports the second
        ("common.py", ["one", "two"]),
        ("legacy/more.py", ["legacy"]),
        ("tool.py", ["tool"]),
        ("wattson.yaml", []),
        ("common.env", []),
    ],
)
def test_a_changed_file_restarts_the_modules_that_it_belongs_to(
    folder: Path, changed: str, restarted: list[str]
) -> None:
    told: list[str] = []
    found: list[str] = []
    watch_of(folder, told)._note({folder / changed}, lambda id, paths: found.append(id))
    assert found == restarted
    assert told == ([changed] if changed in ("wattson.yaml", "common.env") else [])


def test_files_are_really_watched(folder: Path) -> None:
    changed = folder.resolve() / "shop/main.py"

    async def main() -> None:
        watch, found = watch_of(folder, []), asyncio.Queue[tuple[str, set[Path]]]()
        watching = asyncio.ensure_future(watch.run(lambda id, paths: found.put_nowait((id, paths))))
        number = 0
        while True:
            number += 1
            (folder / "shop/main.py").write_text(f"# {number}\n")
            try:
                async with asyncio.timeout(0.2):  # until the watch has begun, a change may be missed
                    assert await found.get() == ("shop", {changed})
                    break
            except TimeoutError:
                assert not watching.done()
        watching.cancel()
        await asyncio.wait((watching,))

    run(main)
