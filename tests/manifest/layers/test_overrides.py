"""Profiles, variables, overrides, origins: what lies over the file and where a value came from."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pywatt_host.exceptions import ManifestError
from pywatt_host.manifest import Loaded, Problem, Source, dump, load, load_manifest

TEXT = """\
app: main:app
server:
  listen: ':80'
  limits: {concurrency: 1}
profiles:
  dev:
    server: {limits: {concurrency: 2}}
    health: /up
"""


def loaded(text: str = TEXT, *, overrides: tuple[str, ...] = (), profile: str | None = None, **environ: str) -> Loaded:
    return load(Source.of_text(text), environ=environ, overrides=overrides, profile=profile)


def problems(text: str = TEXT, *, overrides: tuple[str, ...] = (), **environ: str) -> tuple[Problem, ...]:
    with pytest.raises(ManifestError) as caught:
        loaded(text, overrides=overrides, **environ)
    return caught.value.problems


def test_the_origin_of_a_value_is_its_place_its_profile_its_variable_or_its_flag() -> None:
    result = loaded(profile="dev", overrides=("module.id=x",), PYWATT__SERVER__LIMITS__BACKLOG="5")
    assert result.origin("app") == "pywatt.yaml:1:6"
    assert result.origin("app.import_path") == "pywatt.yaml:1:6"
    assert result.origin("server.listen[0]") == "pywatt.yaml:3:11"
    assert result.origin("server.limits.concurrency") == "profile dev (pywatt.yaml:7:36)"
    assert result.origin("health.path") == "profile dev (pywatt.yaml:8:13)"
    assert result.origin("server.limits.backlog") == "PYWATT__SERVER__LIMITS__BACKLOG"
    assert result.origin("module.id") == "--set"
    assert result.origin("server.limits.body") == "default"
    assert result.origin("logging.level") == "default"


def test_origins_name_every_value_in_effect() -> None:
    found = {path: (value, origin) for path, value, origin in loaded(profile="dev").origins()}
    assert found["server.limits.concurrency"] == (2, "profile dev (pywatt.yaml:7:36)")
    assert found["server.timeouts.header"] == ("10s", "default")
    assert found["health.enabled"] == (True, "profile dev (pywatt.yaml:8:13)")


def test_the_profile_argument_wins_over_the_environment() -> None:
    assert loaded(PYWATT_PROFILE="nowhere", profile="dev").manifest.health.path == "/up"


def test_an_empty_profile_is_none() -> None:
    assert loaded(PYWATT_PROFILE="").manifest.health.path == "/health"


def test_single_underscores_are_no_overrides() -> None:
    assert loaded(PYWATT_MANIFEST="x", PYWATT_MODULE_ID="y", PYWATT_ANYTHING="z").manifest.app is not None


def test_a_quoted_value_stays_text_and_a_plain_one_takes_the_type_that_is_asked_for() -> None:
    manifest = loaded(
        overrides=("module.version=1.0", "server.limits.backlog=7", "config.a='7'", "config.b=7")
    ).manifest
    assert manifest.module.version == "1.0"
    assert manifest.server.limits.backlog == 7
    assert manifest.config == {"a": "7", "b": 7}


def test_a_plain_value_is_taken_as_it_stands() -> None:
    text = "a: b # c, *d @e %f"
    assert loaded(overrides=(f"module.description={text}",)).manifest.module.description == text


def test_the_last_of_two_settings_wins_and_a_section_is_merged() -> None:
    overrides = ("server.limits={concurrency: 3, backlog: 3}", "server.limits.backlog=4")
    limits = loaded(overrides=overrides).manifest.server.limits
    assert (limits.concurrency, limits.backlog) == (3, 4)


def test_the_keys_of_a_variable_match_those_that_the_manifest_has() -> None:
    text = "app: {import_path: m:a, env: {Mode: a, MODE: b}}\nconfig: {page_size: 1}"
    manifest = loaded(text, PYWATT__CONFIG__PAGE_SIZE="2", PYWATT__CONFIG__NEW="3", PYWATT__APP__ENV__MODE="c").manifest
    assert manifest.config == {"page_size": 2, "NEW": 3}
    assert manifest.app is not None
    assert manifest.app.env == {"Mode": "a", "MODE": "c"}


def test_an_empty_variable_is_no_value() -> None:
    (problem,) = problems(PYWATT__SERVER__LISTEN="")
    assert (problem.file, problem.code) == ("PYWATT__SERVER__LISTEN", "no-value")
    assert loaded(PYWATT__LOGGING__REDACT="[]").manifest.logging.redact == ()


@pytest.mark.parametrize(
    "name",
    [
        "PYWATT__",
        "PYWATT__X",
        "PYWATT__SERVER__",
        "PYWATT__SERVER____LISTEN",
        "PYWATT__PROFILES__DEV__APP",
        "PYWATT__MOUNTS__0",
    ],
)
def test_a_name_that_is_no_path_is_a_problem_that_names_it(name: str) -> None:
    with pytest.raises(ManifestError) as caught:
        load(Source.of_text(TEXT), environ={name: "1"})
    (problem,) = caught.value.problems
    assert problem.file == name


def test_the_value_of_a_variable_is_never_shown() -> None:
    """In `${...}` and in overrides, whatever is wrong with it."""
    secret = "s3cr3t/\x1b[31m"
    text = """
app: {import_path: '${S}', interface: '${S}', factory: '${S}', threads: '${S}', route_prefix: '${S}'}
module: {id: '${S}'}
server:
  listen: ['${S}', {unix: a, mode: '${S}'}]
  trusted_proxies: ['${S}']
  paths: '${S}'
  cors: {max_age: '${S}', allow_credentials: '${S}'}
  limits: {body: '${S}', concurrency: '${S}'}
  timeouts: {request: '${S}'}
endpoints: [{path: '${S}', methods: ['${S}'], rate_limit: '${S}'}]
health: '${S}'
metrics: {buckets: ['${S}'], path: '/${S}'}
logging: {level: '${S}', access: '${S}'}
mounts: [{route_prefix: /a, directory: '${S}'}]
"""
    names = (
        "SERVER__LISTEN",
        "SERVER__LIMITS__BACKLOG",
        "HEALTH__INTERVAL",
        "LOGGING__FORMAT",
        "MODULE__LABELS",
        "ENDPOINTS",
    )
    with pytest.raises(ManifestError) as caught:
        load(Source.of_text(text), environ={"S": secret} | {f"PYWATT__{name}": secret for name in names})
    found = caught.value.problems
    assert len(found) > 20
    for problem in found:
        assert "s3cr3t" not in repr(problem)


def test_the_value_is_not_shown_by_cross_references_either() -> None:
    text = """
app: {import_path: m:a, working_dir: '${S}', route_prefix: '/${S}'}
mounts: [{route_prefix: '/${S}', directory: '${S}'}]
endpoints: [{path: '/x/${S}'}, {path: '/x/${S}'}]
metrics: '/${S}'
health: '/${S}'
"""
    found = problems(text, S="s3cr3t")
    assert {problem.code for problem in found} == {
        "no-folder",
        "prefix-conflict",
        "tie",
        "not-mounted",
        "conflict",
        "metrics-public",
    }
    assert "s3cr3t" not in repr([problem for problem in found if problem.code != "not-mounted"])


def test_an_unset_variable_can_be_a_warning() -> None:
    text = """
app: '${A}'
module: {id: m, description: 'x ${B}'}
server: {limits: {backlog: '${C}'}, listen: ['${D}']}
endpoints: [{path: '${E}'}]
"""
    result = load(Source.of_text(text), environ={}, allow_unset=True)
    assert [problem.code for problem in result.warnings] == ["variable-unset"] * 5
    assert result.manifest.module.description == "x ${B}"
    assert result.manifest.server.limits.backlog == 2048
    assert result.manifest.app is None


def test_an_unset_variable_hides_no_other_fault() -> None:
    with pytest.raises(ManifestError) as caught:
        load(Source.of_text("app: '${A}'\nserver: {limits: {backlog: x}}"), environ={}, allow_unset=True)
    assert [problem.severity for problem in caught.value.problems] == ["warning", "error"]


def test_variables_come_from_the_env_file_and_the_environment_wins(tmp_path: Path) -> None:
    (tmp_path / "pywatt.yaml").write_text("app: '${APP}'\nmodule: {id: '${ID}'}")
    env_file = tmp_path / "more.env"
    env_file.write_text("# variables\nexport APP='main:app'\nID=a\nPYWATT__MODULE__VERSION=2.0\n")
    manifest = load_manifest(tmp_path, environ={"ID": "b"}, env_file=env_file)
    assert manifest.app is not None
    assert (manifest.app.import_path, manifest.module.id, manifest.module.version) == ("main:app", "b", "2.0")


def test_a_missing_env_file_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "pywatt.yaml").write_text("app: main:app")
    with pytest.raises(ManifestError) as caught:
        load_manifest(tmp_path, environ={}, env_file=tmp_path / "no.env")
    assert caught.value.problems[0].code == "file"


def test_data_made_in_code_is_not_interpolated_and_takes_overrides(tmp_path: Path) -> None:
    data = {"app": "main:app", "module": {"description": "${HOME}"}, "server": {"trusted_proxies": ("unix",)}}
    source = Source.of_data(data, name="main.py", directory=tmp_path)
    result = load(source, environ={"PYWATT__MODULE__ID": "a"}, overrides=["server.listen=:0"])
    assert result.manifest.module.description == "${HOME}"
    assert result.manifest.module.id == "a"
    assert result.manifest.directory == tmp_path
    assert result.origin("app") == "main.py"
    with pytest.raises(ManifestError, match=r"main\.py: server\.limits\.concurrency: \"x\" is not an integer"):
        load(Source.of_data({"app": "a:b", "server": {"limits": {"concurrency": "x"}}}, name="main.py"), environ={})


def test_an_untouched_manifest_loads_without_the_slow_imports() -> None:
    code = """
import json, sys
from pywatt_host.manifest import Source, load
load(Source.of_text('app: main:app'), environ={})
heavy = {'jsonschema', 'pydantic_settings', 'dotenv', 'uvicorn', 'starlette', 'httpx', 'a2wsgi', 'prometheus_client'}
print(json.dumps(sorted(heavy & set(sys.modules))))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=60)
    assert json.loads(done.stdout) == []


def test_what_was_given_can_be_dumped_without_the_defaults() -> None:
    data = dump(loaded().manifest, all=False)
    assert data == {"app": {"import_path": "main:app"}, "server": {"listen": [":80"], "limits": {"concurrency": 1}}}
