"""The contract of all sources, and what is particular to each."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pywatt_host.exceptions import MessagingError, SecretError
from pywatt_host.manifest.model.secrets import SecretSource as Declared
from pywatt_host.secrets import command as commands
from pywatt_host.secrets.sources import make_sources
from tests.hosting import run
from tests.secrets import places

VALUES = {
    "PLAIN": "postgresql://u:p@h/db?x=1",
    "ODD.NAME-2": "0123",
    "_TEXT": "no",
    "SPACED": "  two words  ",
    "UNICODE": "größer \u2028 ☃",
}


async def ask(source: Any, *names: str) -> list[str | None]:
    return [await source.get(name) for name in names]


def refused(source: Any, name: str = "TOKEN") -> str:
    """What a source says where it cannot be asked."""
    said = ""

    async def main() -> None:
        nonlocal said
        with pytest.raises(SecretError) as caught:
            await source.get(name)
        said = str(caught.value)

    run(main)
    return said


# The contract ---------------------------------------------------------------------------------------------------------


@pytest.fixture(params=places.KINDS, ids=lambda kind: kind.__name__)
def kind(request: pytest.FixtureRequest) -> Any:
    if request.param is places.vault:
        pytest.importorskip("hvac", reason="the extra `vault` is not installed")
    return request.param


def test_a_source_gives_every_text_as_it_is(kind: Any, tmp_path: Path) -> None:
    values = {name: value for name, value in VALUES.items() if kind is not places.dotenv or name.isidentifier()}
    with kind(values, tmp_path) as source:

        async def main() -> None:
            assert dict(zip(values, await ask(source, *values), strict=True)) == values

        run(main)


def test_a_source_that_has_no_such_name_says_so_without_an_error(kind: Any, tmp_path: Path) -> None:
    with kind(VALUES if kind is not places.dotenv else {}, tmp_path) as source:

        async def main() -> None:
            assert await ask(source, "ABSENT", "PLAI") == [None, None]

        run(main)


def test_a_source_has_a_label_and_an_identity_that_stays(kind: Any, tmp_path: Path) -> None:
    with kind({"PLAIN": "a"}, tmp_path) as source:
        assert source.label
        assert isinstance(source.watched, bool)
        if not isinstance(source.identity(), float):  # a float: only asking can tell
            assert source.identity() == source.identity()


def test_what_is_left_out_is_the_orchestrator_and_then_the_environment(tmp_path: Path) -> None:
    async def fetch(name: str) -> str:
        return name

    def labels(**more: Any) -> list[str]:
        return [each.label for each in make_sources(None, directory=tmp_path, environ={}, **more)]

    assert labels(fetch=None) == ["env"]
    assert labels(fetch=fetch) == ["orchestrator", "env"]
    assert labels(fetch=fetch, dotenv=True) == ["orchestrator", "env", "dotenv .env"]


# Files ----------------------------------------------------------------------------------------------------------------


def test_files_that_are_not_there_have_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        for declared in (Declared(dotenv=".env"), Declared(directory="none"), Declared(file="none.yaml")):
            assert await places.source(declared, tmp_path).get("TOKEN") is None

    run(main)


@pytest.mark.parametrize(
    ("text", "value"), [("a\n", "a"), ("a\r\n", "a"), ("a\n\n", "a\n"), ("a", "a"), ("", ""), ("a\nb\n", "a\nb")]
)
def test_one_line_end_at_the_end_of_a_file_is_no_part_of_the_secret(tmp_path: Path, text: str, value: str) -> None:
    (tmp_path / "TOKEN").write_bytes(text.encode())

    async def main() -> None:
        assert await places.source(Declared(directory="."), tmp_path).get("TOKEN") == value

    run(main)


@pytest.mark.parametrize("name", ["../TOKEN", "a/b", "..data", ".hidden", "a\0b"])
def test_no_name_leads_out_of_a_directory_or_to_a_hidden_entry(tmp_path: Path, name: str) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "TOKEN").write_text("outside")
    assert "is not a valid file name" in refused(places.source(Declared(directory="inner"), tmp_path), name)


def test_an_entry_that_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "PIPE")
    (tmp_path / "FOLDER").mkdir()
    source = places.source(Declared(directory="."), tmp_path)
    for name in ("PIPE", "FOLDER"):
        assert refused(source, name) == f"directory ./{name} is not a file"


def test_bytes_that_are_not_text_and_large_files_are_refused(tmp_path: Path) -> None:
    source = places.source(Declared(directory="."), tmp_path)
    (tmp_path / "TOKEN").write_bytes(b"\xff\xfe secret")
    assert refused(source) == "directory ./TOKEN is not UTF-8 text"
    (tmp_path / "TOKEN").write_bytes(b"x" * (1024**2 + 1))
    assert refused(source) == "directory ./TOKEN is larger than 1 MiB"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_an_error_and_not_an_absence(tmp_path: Path) -> None:
    (tmp_path / "TOKEN").write_text("x")
    (tmp_path / "TOKEN").chmod(0)
    assert refused(places.source(Declared(directory="."), tmp_path)) == (
        "directory ./TOKEN could not be read: permission denied"
    )


def test_a_loop_of_links_is_an_error_and_not_an_absence(tmp_path: Path) -> None:
    (tmp_path / "TOKEN").symlink_to("TOKEN")
    assert "directory ./TOKEN could not be read: too many levels" in refused(
        places.source(Declared(directory="."), tmp_path)
    )


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o602])
def test_a_file_that_others_can_use_is_refused(tmp_path: Path, mode: int) -> None:
    places.replace(tmp_path / "s.yaml", "TOKEN: a", mode)
    assert refused(places.source(Declared(file="s.yaml"), tmp_path)) == (
        f"file s.yaml has mode {mode:04o}, which lets other users access it; run chmod 600 on it"
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_refused(tmp_path: Path) -> None:
    places.replace(tmp_path / "s.yaml", "TOKEN: a")
    os.chown(tmp_path / "s.yaml", 12345, -1)
    os.chmod(tmp_path / "s.yaml", 0o600)
    assert refused(places.source(Declared(file="s.yaml"), tmp_path)) == "file s.yaml belongs to another user"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("TOKEN: 0123", "0123"),
        ("TOKEN: no", "no"),
        ("TOKEN: 12:30:45", "12:30:45"),
        ("TOKEN: 1e3", "1e3"),
        ("TOKEN: null", "null"),
        ("TOKEN: 2026-01-01", "2026-01-01"),
        ("TOKEN: |\n  a\n  b\n", "a\nb\n"),
        ("{TOKEN: a}", "a"),
        ('{"TOKEN": 123456789012345678901234567890}', "123456789012345678901234567890"),
        ('{"TOKEN": 1.10}', "1.10"),
        ('{"TOKEN": true}', "true"),
        ('{"TOKEN": "a\\/\\ud83d\\ude00"}', "a/😀"),
        ("", None),
        ("# nothing\n", None),
        ("{}", None),
    ],
)
def test_values_of_a_file_are_what_is_written(tmp_path: Path, text: str, value: str | None) -> None:
    places.replace(tmp_path / "s.yaml", text)

    async def main() -> None:
        assert await places.source(Declared(file="s.yaml"), tmp_path).get("TOKEN") == value

    run(main)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("TOKEN: [hunter2]", "is not a mapping of names to single values"),
        ("TOKEN: {a: hunter2}", "is not a mapping of names to single values"),
        ('{"TOKEN": {"a": "hunter2"}}', "is not a mapping of names to single values"),
        ("- hunter2", "is not a mapping of names to single values"),
        ("hunter2", "is not a mapping of names to single values"),
        ("A: &a hunter2\nTOKEN: *a", "is not a mapping of names to single values"),
        ("TOKEN: hunter2\nTOKEN: hunter3", "has 'TOKEN' twice"),
        ('{"TOKEN": "hunter2", "TOKEN": "hunter3"}', "has 'TOKEN' twice"),
        ("A: b\nTOKEN: 'hunter2", "is not YAML or JSON in line 2"),
        ("TOKEN: \thunter2: x", "is not YAML or JSON in line 1"),
        ("A: b\n--- hunter2", "is not a mapping of names to single values"),
    ],
)
def test_a_file_of_another_shape_is_refused_without_a_word_of_it(tmp_path: Path, text: str, said: str) -> None:
    places.replace(tmp_path / "s.yaml", text)
    told = refused(places.source(Declared(file="s.yaml"), tmp_path))
    assert told.startswith(f"file s.yaml {said}")
    assert "hunter" not in told


@pytest.mark.parametrize("text", ["{A: " * 200_000, "[" * 200_000])
def test_a_deeply_nested_file_is_refused(tmp_path: Path, text: str) -> None:
    """Some versions of PyYAML refuse deep nesting by themselves, so that the reason differs."""
    places.replace(tmp_path / "s.yaml", text)
    assert refused(places.source(Declared(file="s.yaml"), tmp_path)).startswith("file s.yaml is not ")


# Commands -------------------------------------------------------------------------------------------------------------


def python(code: str, folder: Path, **environ: str) -> Any:
    declared = Declared(command=(sys.executable, "-I", "-c", code, "${name}"))
    return places.source(declared, folder, {**os.environ, **environ})


def test_a_command_that_fails_says_its_code_and_nothing_that_it_wrote(tmp_path: Path) -> None:
    source = python("import sys; print('hunter2', file=sys.stderr); print('hunter3'); sys.exit(3)", tmp_path)
    told = refused(source)
    assert "exited with code 3" in told
    assert "hunter" not in told


def test_a_command_that_is_not_there_says_so(tmp_path: Path) -> None:
    source = places.source(Declared(command=("./no-such-program",)), tmp_path)
    assert refused(source) == "command no-such-program could not be run: no such file or directory"


def test_a_name_reaches_a_command_as_one_argument_and_no_shell_reads_it(tmp_path: Path) -> None:
    async def main() -> None:
        assert await python("import sys; print(sys.argv[1:])", tmp_path).get("A;B $C") == "['A;B $C']"

    run(main)


def test_a_command_has_the_environment_without_what_is_the_hosts_and_no_input(tmp_path: Path) -> None:
    code = "import os, sys; print(sys.stdin.read() + str(sorted(n for n in os.environ if n[-5:] == '_MINE')))"

    async def main() -> None:
        source = python(code, tmp_path, PYWATT_MINE="a", OTHER_MINE="b")
        assert await source.get("TOKEN") == "['OTHER_MINE']"

    run(main)


def test_a_command_that_prints_too_much_is_ended(tmp_path: Path) -> None:
    source = python("import sys\nwhile True: sys.stdout.write('x' * 65536)", tmp_path)
    assert "printed more than 1 MiB" in refused(source)


def test_a_command_that_does_not_end_is_killed_with_all_that_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "_TIMEOUT", 1.0)
    code = f"""
import os, time
child = os.fork()
if child:
    open({str(tmp_path / "child")!r}, "w").write(str(child))
    os._exit(0)  # it ends; its child holds the pipe
time.sleep(600)
"""
    assert "did not exit within 1s" in refused(python(code, tmp_path))
    child = int((tmp_path / "child").read_text())
    until = time.monotonic() + 5
    while time.monotonic() < until:
        try:
            state = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return
        if state == "Z":  # ended, and nobody has asked for its exit code
            return
        time.sleep(0.02)
    pytest.fail("the child is still there")


# The orchestrator -----------------------------------------------------------------------------------------------------


def test_an_orchestrator_that_does_not_answer_is_an_error_and_not_an_absence(tmp_path: Path) -> None:
    async def fetch(name: str) -> str:
        raise MessagingError("timeout", "no answer within 5s")

    source = places.source(Declared(kind="orchestrator"), tmp_path, fetch=fetch)
    assert refused(source) == "the orchestrator did not send secret TOKEN: no answer within 5s"


# Vault ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def hvac() -> None:
    pytest.importorskip("hvac", reason="the extra `vault` is not installed")


@pytest.mark.usefixtures("hvac")
def test_many_names_are_one_request(tmp_path: Path) -> None:
    with places.vault_server() as server:
        server.values = {f"N{number}": f"v{number}" for number in range(10)} | {"NUMBER": 5, "LIST": [1]}
        source = places.source(server.declared(token=server.token), tmp_path)

        async def main() -> None:
            found = await asyncio.gather(*(source.get(name) for name in server.values or ()))
            assert found == [*(f"v{number}" for number in range(10)), "5", "[1]"]

        run(main)
        assert server.requests == ["/v1/secret/data/team/users"]


@pytest.mark.usefixtures("hvac")
def test_the_token_is_that_of_the_setting_of_the_environment_or_of_a_file(tmp_path: Path) -> None:
    with places.vault_server() as server:
        server.values = {"TOKEN": "v"}
        (tmp_path / "token").write_text(server.token + "\n")

        async def main() -> None:
            for source in (
                places.source(server.declared(token=server.token), tmp_path, {"VAULT_TOKEN": "wrong"}),
                places.source(server.declared(), tmp_path, {"VAULT_TOKEN": server.token}),
                places.source(server.declared(token_file="token"), tmp_path),
            ):
                assert await source.get("TOKEN") == "v"

        run(main)


@pytest.mark.usefixtures("hvac")
def test_vault_says_why_it_cannot_be_asked_and_never_the_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAULT_TOKEN", "that of the process is not asked for")
    with places.vault_server() as server:
        address = server.address
        assert "there is no token; set VAULT_TOKEN" in refused(places.source(server.declared(), tmp_path))
        assert "there is no token file gone" in refused(places.source(server.declared(token_file="gone"), tmp_path))
        assert "there is no certificate file gone.pem" in refused(
            places.source(server.declared(token="x", ca="gone.pem"), tmp_path)
        )
        told = refused(places.source(server.declared(token="hunter2hunter2"), tmp_path))
        assert told == "vault secret/team/users: the token has no permission to read it (403)"
        server.status = 503
        told = refused(places.source(server.declared(token="hunter2hunter2"), tmp_path))
        assert told == "vault secret/team/users: Vault answered VaultDown"
        declared = server.declared(token="hunter2hunter2")
    told = refused(places.source(declared, tmp_path))
    assert told == f"vault secret/team/users: {address} is not reachable (ConnectionError)"


@pytest.mark.usefixtures("hvac")
def test_a_secret_that_is_not_in_vault_is_an_absence(tmp_path: Path) -> None:
    with places.vault_server() as server:
        server.values = None

        async def main() -> None:
            assert await places.source(server.declared(token=server.token), tmp_path).get("TOKEN") is None

        run(main)


@pytest.mark.usefixtures("hvac")
def test_an_answer_that_is_not_of_version_2_is_refused(tmp_path: Path) -> None:
    with places.vault_server() as server:
        server.values = ["hunter2"]  # type: ignore[assignment]
        told = refused(places.source(server.declared(token=server.token), tmp_path))
        assert told == "vault secret/team/users: the answer does not have the format of KV version 2"
