"""`state`: the application's own state, its builder, and what the builder is told."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pywatt_host.app.state import AppState, InitData
from pywatt_host.build.host import build
from pywatt_host.cli.inspection import Request, inspect_apps
from pywatt_host.exceptions import AppLoadError
from pywatt_host.manifest import Source, load
from pywatt_host.types import ASGIApp
from tests.hosting import hello, hosted, run
from tests.processes import Project
from tests.scripted import Orchestrated

BUILT = {"state": "under_test:build_state"}


def made_by(builder: Any, **more: Any) -> Any:
    """What is in `app_state.user_state` of a host with this builder."""
    seen: list[Any] = []

    def create_app(state: AppState) -> ASGIApp:
        seen.append(state.user_state)  # there before the application is made
        return hello

    async def main() -> None:
        manifest = {**BUILT, **more.pop("manifest", {})}
        async with hosted(manifest, create_app, build_state=builder, **more) as host:
            assert host.state.user_state is seen[0]

    run(main)
    return seen[0]


# What is made ---------------------------------------------------------------------------------------------------------


def test_without_a_builder_there_is_no_user_state() -> None:
    async def main() -> None:
        async with hosted(app=hello) as host:
            assert host.state.user_state is None

    run(main)


def test_a_function_a_coroutine_function_and_a_class_make_it() -> None:
    async def later(init: Any, secrets: Any) -> list[str]:
        await asyncio.sleep(0)
        return ["async"]

    class Made:
        def __init__(self, init: Any, secrets: Any) -> None:
            self.module_id = init.module_id

    assert made_by(lambda init, secrets: ["sync"]) == ["sync"]
    assert made_by(later) == ["async"]
    assert isinstance(made_by(Made), Made)


def test_the_builder_is_given_the_secrets_which_are_a_live_view_of_those_that_are_declared() -> None:
    def build_state(init: Any, secrets: Mapping[str, Any]) -> Any:
        assert set(secrets) == {"API_KEY", "LIMIT"}
        assert secrets["API_KEY"].expose_secret() == "tell-nobody"
        return secrets

    keys = {"API_KEY": {}, "LIMIT": {"type": "int"}, "OTHER": {"required": False}}
    environ = {"API_KEY": "tell-nobody", "LIMIT": "5"}
    made = made_by(build_state, manifest={"secrets": {"keys": keys}}, environ=environ)
    assert made["LIMIT"].expose_secret() == 5


def test_standing_alone_the_builder_is_told_what_manifest_and_environment_say() -> None:
    init = made_by(lambda init, secrets: init, manifest={"module": {"id": "users"}}, environ={"MODE": "prod"})
    assert isinstance(init, InitData)
    assert (init.module_id, init.orchestrator_api, init.listen) == ("users", None, None)
    assert init.env == {"MODE": "prod"}
    with pytest.raises(TypeError):
        init.env["MODE"] = "dev"  # type: ignore[index]
    assert "prod" not in repr(init)  # an environment has secrets in it


def test_app_env_is_in_place_when_the_builder_is_imported_and_called(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("USERS_MODE", "before")
    monkeypatch.setenv("USERS_URL", "before")
    text = (
        "{app: {import_path: 'n:app', env: {USERS_MODE: prod, USERS_URL: 'db://${secret:PASSWORD}'}}, state: 'n:made'}"
    )
    manifest = load(Source.of_text(text, directory=tmp_path), environ={}).manifest
    objects = {"n:app": hello, "n:made": lambda init, secrets: (os.environ["USERS_MODE"], os.environ["USERS_URL"])}

    async def main() -> None:
        host = build(manifest, {"PASSWORD": "tell-nobody"}, objects=objects)
        async with host.application():
            assert host.state.user_state == ("prod", "db://tell-nobody")

    run(main)


def test_a_manifest_of_mounts_alone_has_a_builder_too() -> None:
    async def main() -> None:
        mounts = [{"route_prefix": "/a", "import_path": "under_test:mounted"}]
        manifest = {"mounts": mounts, **BUILT}
        async with hosted(manifest, build_state=lambda init, secrets: 42, mounted=hello) as host:
            assert host.state.user_state == 42

    run(main)


def test_the_builder_may_be_an_object_that_is_at_hand_instead_of_an_import_path(tmp_path: Path) -> None:
    async def main() -> None:
        data = {"app": "nowhere:app", "state": "nowhere:build_state"}
        manifest = load(Source.of_data(data, name="test", directory=tmp_path), environ={}).manifest
        objects = {"nowhere:app": hello, "nowhere:build_state": lambda init, secrets: "at hand"}
        host = build(manifest, {}, objects=objects)
        async with host.application():
            assert host.state.user_state == "at hand"

    run(main)


# Faults ---------------------------------------------------------------------------------------------------------------


def fault_of(builder: Any, path: str = BUILT["state"]) -> AppLoadError:
    with pytest.raises(AppLoadError) as raised:
        made_by(builder, manifest={"state": path})
    return raised.value


def test_what_the_builder_raises_stops_the_start_with_its_place_and_its_own_traceback() -> None:
    def build_state(init: Any, secrets: Any) -> None:
        raise LookupError("no such table")

    async def later(init: Any, secrets: Any) -> None:
        raise LookupError("no such table")

    for builder in (build_state, later):
        fault = fault_of(builder)
        assert (fault.reason, fault.exit_code) == ("state-raised", 3)
        assert str(fault).startswith("under_test:build_state: the state builder raised LookupError: no such table at ")
        assert fault.__cause__ is not None
        assert fault.__cause__.__traceback__ is not None
        assert fault.__cause__.__traceback__.tb_frame.f_code.co_filename == __file__


def test_a_builder_that_ends_the_process_is_one_that_raises() -> None:
    def build_state(init: Any, secrets: Any) -> None:
        raise SystemExit("usage: ...")

    assert fault_of(build_state).reason == "state-raised"


def test_a_builder_with_another_signature_is_told_which_it_should_have() -> None:
    fault = fault_of(lambda init: None)
    assert fault.reason == "not-a-builder"
    assert str(fault) == (
        "under_test:build_state: the state builder does not fit: too many positional arguments "
        "(it is called with two arguments: (init, secrets))"
    )
    assert "missing a required argument: 'more'" in str(fault_of(lambda init, secrets, more: None))


def test_a_builder_that_cannot_be_called_is_none() -> None:
    fault = fault_of({"a": "mapping"})
    assert fault.reason == "not-a-builder"
    assert str(fault).endswith("the state builder cannot be called (it is a function (init, secrets))")


def test_a_builder_that_is_not_there_has_the_nearest_name() -> None:
    fault = fault_of(lambda init, secrets: None, "under_test:build_sate")
    assert fault.reason == "no-attribute"
    assert "did you mean under_test:build_state?" in str(fault)
    assert fault_of(None, "under_tset:build_state").reason == "no-module"


def test_the_application_is_not_loaded_after_that() -> None:
    loaded: list[str] = []

    def create_app() -> ASGIApp:
        loaded.append("app")
        return hello

    async def main() -> None:
        with pytest.raises(AppLoadError, match="the state builder cannot be called"):
            async with hosted(BUILT, create_app, build_state=None):
                pass
        assert loaded == []

    run(main)


# validate -------------------------------------------------------------------------------------------------------------

BUILDERS = """
    import main_needs_this_to_be_imported_once as _

    def build_state(init, secrets):
        raise RuntimeError("validate does not call it")

    def other(init):
        return None

    mapping = {}
"""


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ("builders:build_state", None),
        ("builders:other", "not-a-builder"),
        ("builders:mapping", "not-a-builder"),
        ("builders:absent", "no-attribute"),
        ("absent:build_state", "no-module"),
    ],
)
def test_looking_at_the_applications_finds_the_fault_without_calling_it(
    project: Project, state: str, reason: str | None
) -> None:
    project.write("main.py", "async def app(scope, receive, send): pass\n")
    project.write("main_needs_this_to_be_imported_once.py", "")
    project.write("builders.py", BUILDERS)
    project.manifest(state=state)
    source = Source.file(project.folder / "pywatt.yaml")
    found = inspect_apps(Request(source, None, (), None, False, False))
    faults = [seen.fault.reason for seen in found.apps if seen.key == "state" and seen.fault is not None]
    assert faults == ([reason] if reason is not None else [])
    done = project.cli("validate", "--json")
    problems = json.loads(done.stdout)
    assert done.returncode == (2 if reason is not None else 0)
    assert [(problem["path"], problem["code"]) for problem in problems] == (
        [("state", f"app-{reason}")] if reason is not None else []
    )


# Under an orchestrator ------------------------------------------------------------------------------------------------


def test_under_an_orchestrator_the_builder_is_told_what_the_init_says(project: Project) -> None:
    project.write(
        "main.py",
        """
        import asyncio, json

        async def build_state(init, secrets):
            return [
                init.module_id, init.orchestrator_api, init.env["MODE"], init.listen, secrets["KEY"].expose_secret()
            ]

        def create_app(state):
            print(json.dumps(state.user_state + [state.init.module_id]))

            async def app(scope, receive, send):
                raise RuntimeError("declined")

            return app
        """,
    )
    project.write("pywatt.yaml", '{app: "main:create_app", state: "main:build_state", secrets: [KEY]}')
    init = {"module_id": "chosen", "orchestrator_api": "http://127.0.0.1:9900", "env": {"MODE": "prod"}}
    init |= {"listen": "127.0.0.1:0"}
    module = Orchestrated(project.folder, init=init)
    try:
        module.give(KEY="tell-nobody-this")
        line = module.wait_for('"chosen", "http')
        expected = ["chosen", "http://127.0.0.1:9900", "prod", "127.0.0.1:0", "tell-nobody-this", "chosen"]
        assert json.loads(line[line.index("[") :]) == expected
        module.hear("announce")
        assert module.shutdown() == 0
    finally:
        module.end()
