"""Every fenced block of the documents is right: manifests validate, Python runs, commands do what is shown."""

from __future__ import annotations

import doctest
import json
import os
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import httpx
import pytest
import yaml

from pywatt_host.manifest import Source, load, load_manifest
from pywatt_host.manifest.workspace import load_workspace
from tests.command_line import called
from tests.docs.pages import PAGES, Block, anchors, blocks, links
from tests.docs.running_host import command_environment, started
from tests.processes import PATIENCE, ROOT, Host

EVERY = [block for page in PAGES for block in blocks(page) if page.name != "errors.md"]
TUTORIAL = ROOT / "docs" / "tutorial.md"
KNOWN = {
    "console", "dockerfile", "ini", "json", "python", "sh", "text", "yaml",
}  # fmt: skip
SAID = ("manifest", "fragment", "pywatt.yaml", "workspace")
OF_OTHERS = ("workflow", "pre-commit")  # YAML of other programs, which test_ci_page.py checks


def _chosen(language: str, *infos: str) -> list[Block]:
    return [block for block in EVERY if block.language == language and (not infos or block.info in infos)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in links(page):
        target, _, anchor = link.partition("#")
        if target.startswith(("http://", "https://")):
            continue
        there = (page.parent / target).resolve() if target else page
        if not there.exists() or (anchor and anchor not in anchors(there)):
            broken.append(link)
    assert broken == []


def test_every_page_of_the_documents_is_reached_from_the_index() -> None:
    reached, pending = set(), [ROOT / "docs" / "index.md"]
    while pending:
        page = pending.pop()
        reached.add(page)
        near = [(page.parent / link.partition("#")[0]).resolve() for link in links(page) if ":" not in link]
        pending += [each for each in near if each.suffix == ".md" and each.is_file() and each not in reached]
    assert [page for page in (ROOT / "docs").rglob("*.md") if page not in reached] == []


def test_every_block_says_what_it_is() -> None:
    unknown = [str(block) for block in EVERY if block.language not in KNOWN]
    unsaid = [str(block) for block in _chosen("yaml") if block.info not in SAID + OF_OTHERS]
    assert (unknown, unsaid) == ([], [])


# The tutorial shows a fault, too, and the test that follows it looks for that. Workspaces and others are none of these.
@pytest.mark.parametrize(
    "block",
    [each for each in _chosen("yaml") if "lissten" not in each.text and each.info not in ("workspace", *OF_OTHERS)],
    ids=str,
)
def test_a_manifest_validates(block: Block, tmp_path: Path) -> None:
    """Whole ones as they are, fragments beside an application."""
    for folder in ("static", "src"):
        (tmp_path / folder).mkdir()
    text = block.text if block.info != "fragment" else "app: main:app\n" + block.text
    load(Source.of_text(text, directory=tmp_path), environ={})


@pytest.mark.parametrize("block", _chosen("yaml", "workspace"), ids=str)
def test_a_workspace_validates(block: Block, tmp_path: Path) -> None:
    """Beside the manifests and folders that it names."""
    for module in yaml.safe_load(block.text)["modules"].values():
        if "manifest" in module:
            manifest = tmp_path / module["manifest"]
            if ".py" in manifest.name:  # a Python file, and perhaps the function in it
                manifest = manifest.with_name(manifest.name.partition(":")[0])
            elif manifest.suffix != ".yaml":
                manifest = manifest / "pywatt.yaml"
            manifest.parent.mkdir(exist_ok=True)
            manifest.write_text("app: main:app\n")
        else:
            (tmp_path / module.get("working_dir", ".")).mkdir(exist_ok=True)
    load_workspace(Source.of_text(block.text, name="wattson.yaml", directory=tmp_path), environ={})


@pytest.mark.parametrize("block", _chosen("json"), ids=str)
def test_json_is_json(block: Block) -> None:
    json.loads(block.text)


@pytest.mark.parametrize("block", _chosen("python"), ids=str)
def test_python_runs(block: Block, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", block.text],
        cwd=ROOT,
        env=command_environment(tmp_path),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("block", [each for each in EVERY if each.info.startswith("file=")], ids=str)
def test_a_file_that_is_shown_is_the_file(block: Block) -> None:
    assert block.text == (ROOT / block.info.removeprefix("file=")).read_text(encoding="utf-8")


def test_the_fault_in_the_readme_is_what_validate_says(tmp_path: Path) -> None:
    manifest = next(block for block in blocks(ROOT / "README.md") if block.info == "manifest").text
    shown = next(block for block in blocks(ROOT / "README.md") if block.language == "text").text
    (tmp_path / "static").mkdir()
    (tmp_path / "pywatt.yaml").write_text(manifest.replace("  listen: [", "  lissten: [", 1))
    assert Session(tmp_path, tmp_path).command(["validate", "--no-import"]) == (2, shown)


# Commands -------------------------------------------------------------------------------------------------------------


class Session:
    """What somebody types who follows a page: commands in a folder, and at most one host that runs."""

    def __init__(self, folder: Path, home: Path) -> None:
        self._folder = folder
        self._home = home
        self._host: Host | None = None
        self._ports: dict[str, str] = {}  # as the page has it -> as it really is

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._host is not None:
            try:
                assert self._host.stop() == 0, self._host.lines
            finally:
                self._host.end()
                self._host = None

    def command(self, arguments: list[str]) -> tuple[int, str]:
        done = called(arguments, self._folder, command_environment(self._home), together=True)
        return done.returncode, done.stdout

    def run(self, arguments: list[str]) -> str:
        """Starts a host on free ports; returns its ready line with the ports that the page has."""
        self._stop()
        target = next((each for each in arguments if not each.startswith("-")), ".")
        arguments = [*arguments, "--listen", "127.0.0.1:0", "--log-format", "console"]
        manifest = self._folder / target / "pywatt.yaml"
        if manifest.is_file() and load_manifest(manifest, environ={}).server.admin is not None:
            arguments += ["--set", "server.admin.listen=127.0.0.1:0"]
        self._host = started(arguments, self._home, self._folder)
        line = self._host.wait_for("ready: ")
        found = re.findall(r"http://127\.0\.0\.1:\d+", line)
        self._ports = dict(zip(("http://127.0.0.1:8080", "http://127.0.0.1:9090"), found, strict=False))
        for shown, real in self._ports.items():
            line = line.replace(real, shown)
        return line + "\n"

    def curl(self, arguments: list[str]) -> str:
        method, url = "GET", arguments[-1]
        if arguments[0] == "-X":
            method = arguments[1]
        for shown, real in self._ports.items():
            url = url.replace(shown, real)
        text: str = httpx.request(method, url, timeout=PATIENCE).text
        return text if text.endswith("\n") else text + "\n"

    def follow(self, block: Block) -> None:
        """Every command of a console block that begins with `$ pywatt-host` or `$ curl`."""
        code = int(block.info.removeprefix("exit=") or 0)
        for step in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
            line, _, shown = step.partition("\n")
            name, *arguments = shlex.split(line)
            if name == "curl":
                output = self.curl(arguments)
            elif name == "pywatt-host" and arguments[0] == "run":
                output = self.run(arguments[1:])
            elif name == "pywatt-host":
                exited, output = self.command(arguments)
                assert exited == code, output
            else:
                continue
            flags = doctest.ELLIPSIS | doctest.REPORT_NDIFF
            assert doctest.OutputChecker().check_output(shown, output, flags), textwrap.indent(output, "    ")


PAGES_WITH_COMMANDS = sorted({block.page for block in _chosen("console") if block.page != TUTORIAL})


@pytest.mark.parametrize("page", PAGES_WITH_COMMANDS, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_do_what_the_page_shows(page: Path, tmp_path: Path) -> None:
    with Session(ROOT, tmp_path) as session:
        for block in blocks(page):
            if block.language == "console":
                session.follow(block)


def test_the_tutorial_can_be_followed(tmp_path: Path) -> None:
    """In an empty folder: a block with the name of a file is that file, a console block is typed."""
    folder = tmp_path / "poems"
    folder.mkdir()
    with Session(folder, tmp_path) as session:
        for block in blocks(TUTORIAL):
            if block.info in ("poems.py", "pywatt.yaml"):
                path = folder / block.info
                path.write_text(block.text, encoding="utf-8")
                # Two versions of a file may have the same size in the same second; its compiled form must not survive.
                for compiled in (folder / "__pycache__").glob("*"):
                    os.unlink(compiled)
            elif block.language == "console":
                session.follow(block)
