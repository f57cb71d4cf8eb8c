"""The command line's words: help, version, completion, wrong usage."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest
from click.testing import CliRunner

from pywatt_host import __version__
from pywatt_host.cli import _VERBS, cli, execute, main
from tests.processes import ROOT, Project


def said(*arguments: str) -> tuple[int, str]:
    """Exit code and output of a verb, in this process."""
    result = CliRunner().invoke(cli, list(arguments), prog_name="pywatt-host")
    return result.exit_code, result.output


def test_help_shows_every_verb_an_example_and_the_exit_codes() -> None:
    code, text = said("--help")
    assert code == 0
    for verb in _VERBS:
        assert f"  {verb} " in text
    assert "pywatt-host run users.api:app" in text
    assert "3 could not start" in text
    assert said("-h") == (code, text)


@pytest.mark.parametrize("verb", _VERBS)
def test_each_verbs_help_teaches_with_an_example(verb: str) -> None:
    code, text = said(verb, "--help")
    assert code == 0
    assert "Example" in text
    assert f"pywatt-host {verb}" in text


@pytest.mark.parametrize("verb", _VERBS)
def test_every_option_says_what_it_is_for(verb: str) -> None:
    command = cli.get_command(click.Context(cli), verb)
    assert command is not None
    options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
    assert [option.name for option in options if not option.help and option.name != "style"] == []


def test_version() -> None:
    assert said("--version") == (0, f"pywatt-host {__version__}\n")


@pytest.mark.parametrize(
    ("word", "hint"),
    [("rnu", 'did you mean "run"?'), ("validat", 'did you mean "validate"?'), ("zzz", "available: run")],
)
def test_an_unknown_verb_is_wrong_usage_with_a_suggestion(
    word: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main([word])
    assert end.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert f'no such command "{word}"' in err
    assert hint in err


@pytest.mark.parametrize("arguments", [["run", "--nonsense"], ["validate", "--format", "xml"], ["completion"]])
def test_wrong_usage_is_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert capsys.readouterr().out == ""


def test_a_python_file_without_a_decorated_function_is_told_what_to_write(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(project.folder)
    project.write("plain.py", "app = 5\n")
    for target, said in (("plain.py", 'write "plain:app"'), ("gone.py", "gone.py: there is no such file")):
        with pytest.raises(SystemExit) as end:
            main(["config", target])
        assert end.value.code == 2
        assert said in capsys.readouterr().err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_for_this_program(shell: str) -> None:
    code, script = said("completion", shell)
    assert code == 0
    assert "_PYWATT_HOST_COMPLETE" in script
    assert f"{shell}_complete" in script


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_the_bash_script_is_bash_and_completes_verbs(project: Project) -> None:
    script = project.write("complete.bash", said("completion", "bash")[1])
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    done = project.cli(
        env={"_PYWATT_HOST_COMPLETE": "bash_complete", "COMP_WORDS": "pywatt-host va", "COMP_CWORD": "1"}
    )
    assert done.stdout == "plain,validate\n"


def test_the_schema_is_the_file_that_is_shipped() -> None:
    code, text = said("schema")
    assert code == 0
    printed: dict[str, Any] = json.loads(text)
    shipped = json.loads(Path(ROOT, "schemas", "pywatt.schema.json").read_text())
    assert printed == shipped
    assert printed["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert said("schema", "manifest") == (0, text)


@pytest.mark.parametrize("verb", ["run", "dev", "up"])
def test_a_signal_while_a_verb_is_imported_ends_it_without_a_start(
    verb: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def interrupted(name: str) -> ModuleType:
        if name == f"pywatt_host.cli.{verb}":
            signal.raise_signal(signal.SIGTERM)
        return import_module(name)

    monkeypatch.setattr("pywatt_host.cli.import_module", interrupted)
    assert execute([verb]) == 0
    assert capfd.readouterr().err == "stopped by SIGTERM before anything was started\n"
