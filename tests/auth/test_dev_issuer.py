"""`issuer: dev`: where its keys are, who may read them, and who accepts its tokens."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from pywatt_host.auth.dev_issuer import FOLDER, ISSUER, DevIssuer, home_of
from pywatt_host.auth.identity import DeniedError
from pywatt_host.auth.schemes import Schemes
from pywatt_host.auth.token import Token
from pywatt_host.exceptions import AuthError
from pywatt_host.manifest import Source, load
from tests.processes import Project

MANIFEST = """app: main:app
auth: {{sso: {{type: oidc, issuer: dev, audience: users{more}}}}}
endpoints: {{from: auto, auth: sso}}
"""


def manifest(folder: Path, more: str = "") -> Any:
    folder.mkdir(exist_ok=True)
    (folder / "pywatt.yaml").write_text(MANIFEST.format(more=more))
    return load(Source.file(folder), environ={}).manifest


async def verified(folder: Path, allowed: Path | None, token: str, more: str = "") -> dict[str, Any]:
    schemes = Schemes(manifest(folder, more), dict, allowed)
    async with asyncio.TaskGroup() as tasks, schemes.running(tasks):
        identity = await schemes.all["sso"].verify(token.encode())
        return dict(identity.claims)


def minted(project: Project, *arguments: str) -> tuple[str, Token]:
    done = project.cli("token", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), Token.parse(done.stdout.strip().encode())


@pytest.mark.parametrize(("more", "algorithm"), [("", "RS256"), (", algorithms: [ES256]", "ES256")])
def test_token_makes_tokens_that_hosts_of_dev_and_up_accept(project: Project, more: str, algorithm: str) -> None:
    module = project.folder / "users"
    manifest(module, more)
    text, token = minted(project, "users", "--sub", "alice")
    assert (token.alg, token.claims["iss"], token.claims["aud"], token.claims["sub"]) == (
        algorithm, ISSUER, "users", "alice",
    )  # fmt: skip
    assert asyncio.run(verified(module, module, text, more))["sub"] == "alice"
    # The keys stay: a token that is made later is signed with the same one.
    assert minted(project, "users")[1].kid == token.kid


def test_one_token_is_good_for_all_modules_of_a_workspace_however_they_are_started(project: Project) -> None:
    users, billing = project.folder / "users", project.folder / "deep" / "billing"
    billing.parent.mkdir()
    (project.folder / "wattson.yaml").write_text("modules: {}")
    for folder in (users, billing):
        manifest(folder)
    text, _ = minted(project, "users")
    for folder, allowed in ((users, project.folder), (billing, project.folder), (billing, billing)):
        assert asyncio.run(verified(folder, allowed, text))["sub"] == "developer"
    assert home_of(billing) == project.folder
    assert not (users / FOLDER).exists()
    # With other keys, and under `run`, it is not.
    elsewhere = project.folder.parent / f"{project.folder.name}-elsewhere"
    with pytest.raises(ExceptionGroup) as denied:
        asyncio.run(verified(elsewhere, elsewhere, text))
    assert isinstance(denied.value.exceptions[0], DeniedError)


def test_run_refuses_it_by_name(project: Project) -> None:
    with pytest.raises(ExceptionGroup) as refused:
        asyncio.run(verified(project.folder, None, "x"))
    assert "auth.sso.issuer: `issuer: dev` is for development" in str(refused.value.exceptions[0])
    assert not (project.folder / FOLDER).exists()


def test_the_private_keys_are_for_this_user_alone_and_the_public_ones_are_beside_them(tmp_path: Path) -> None:
    DevIssuer(tmp_path).signer("RS256")
    folder = tmp_path / FOLDER
    assert sorted(os.listdir(folder)) == ["jwks.json", "keys.json", "openid-configuration.json"]
    assert stat.S_IMODE((folder / "keys.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [key for key in json.loads((folder / "jwks.json").read_text())["keys"] if {"d", "p", "q"} & set(key)] == []
    metadata = json.loads((folder / "openid-configuration.json").read_text())
    assert (metadata["issuer"], Path(metadata["jwks_uri"].removeprefix("file://")).name) == (ISSUER, "jwks.json")


def test_processes_that_start_at_once_make_one_set_of_keys(tmp_path: Path) -> None:
    kids: list[str | None] = []
    threads = [threading.Thread(target=lambda: kids.append(DevIssuer(tmp_path).signer("ES256").kid)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(kids) == 4
    assert len(set(kids)) == 1


@pytest.mark.parametrize("how", ["readable", "link", "cut", "not a key set"])
def test_keys_that_another_user_may_have_or_that_are_none_are_refused_without_being_shown(
    tmp_path: Path, how: str
) -> None:
    DevIssuer(tmp_path).signer("RS256")
    file = tmp_path / FOLDER / "keys.json"
    secret = json.loads(file.read_text())["keys"][0]["d"]
    if how == "readable":
        file.chmod(0o644)
    elif how == "link":
        file.rename(tmp_path / "moved.json")
        file.symlink_to(tmp_path / "moved.json")
    else:
        file.write_text(file.read_text()[:-200] if how == "cut" else f'["{secret}"]')
    with pytest.raises(AuthError) as refused:
        DevIssuer(tmp_path, "auth.sso.issuer").verification_keys()
    assert "keys.json" in str(refused.value)
    assert secret not in str(refused.value)


@pytest.mark.parametrize(
    ("more", "code"),
    [(", algorithms: [PS256]", "algorithm"), (', jwks_url: "https://id.example/jwks"', "conflict")],
)
def test_what_does_not_go_together_with_it_is_a_fault(project: Project, more: str, code: str) -> None:
    project.write("pywatt.yaml", MANIFEST.format(more=more))
    found = json.loads(project.cli("validate", "--json", "--no-import").stdout)
    assert [problem["code"] for problem in found if problem["severity"] == "error"] == [code]
