"""What `validate` says about the keys and users of `auth`, before the host refuses to start."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

from pywatt_host.cli.auth_keys import auth_key_problems
from pywatt_host.manifest import Problem, Source, load
from tests.processes import Project

_PRIVATE = generate_private_key(SECP256R1())
PUBLIC = _PRIVATE.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
PRIVATE = _PRIVATE.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in {"key.pem": PUBLIC, "private.pem": PRIVATE, "no.pem": b"no key", "bin.pem": b"\xff"}.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def found(folder: Path, scheme: Any, secret_values: dict[str, str] | None = None) -> list[Problem]:
    text = json.dumps({"app": "main:app", "auth": {"a": scheme}})
    loaded = load(Source.of_text(text, directory=folder), environ={"KEY_FILE": "elsewhere.pem"})
    return list(auth_key_problems(loaded, secret_values or {}))


@pytest.mark.parametrize(
    ("scheme", "key", "said"),
    [
        ({"type": "jwt", "public_key": "nokey.pem"}, "public_key", "nokey.pem cannot be read: "),
        ({"type": "jwt", "public_key": "no.pem"}, "public_key", "it is neither PEM nor a JWK"),
        ({"type": "jwt", "public_key": "private.pem"}, "public_key", "it is a private key"),
        ({"type": "jwt", "public_key": "bin.pem"}, "public_key", "bin.pem is not text"),
        ({"type": "jwt", "public_key": "key.pem", "algorithms": ["RS256"]}, "public_key", "it has no key for the"),
        ({"type": "jwt", "public_key": "${KEY_FILE}"}, "public_key", "the value of `${KEY_FILE}` cannot be read"),
        ({"type": "basic", "users": "x"}, "users", "line 1 is not USER:PASSWORD"),
        ({"type": "basic", "users": "a:$1$abc"}, "users", "line 1, user a: the kind of hash is not supported"),
        ({"type": "api_key", "keys": "a b:c"}, "keys", "line 1: the text before the colon is not a valid name"),
    ],
)  # fmt: skip
def test_what_the_host_would_refuse_is_a_fault_at_its_key(folder: Path, scheme: Any, key: str, said: str) -> None:
    (problem,) = found(folder, scheme)
    assert (problem.code, problem.path, problem.severity) == ("auth-key", f"auth.a.{key}", "error")
    assert problem.message.startswith(said)
    assert problem.line == 1
    assert "elsewhere" not in str(problem)


def test_keys_that_fit_are_no_problem(folder: Path) -> None:
    assert found(folder, {"type": "jwt", "public_key": "key.pem"}) == []
    assert found(folder, {"type": "basic", "users": "ops:hunter2-long-password"}) == []
    assert found(folder, {"type": "api_key", "keys": "ops:abcdef"}) == []
    assert found(folder, {"type": "jwt", "jwks_url": "https://id.example/keys"}) == []


def test_keys_in_secrets_are_checked_where_their_values_are_known(folder: Path) -> None:
    scheme = {"type": "basic", "users": "${secret:USERS}"}
    assert found(folder, scheme) == []
    assert found(folder, scheme, {"USERS": "ops:hunter2"}) == []
    (problem,) = found(folder, scheme, {"USERS": "hunter2"})
    assert "hunter2" not in str(problem)
    (problem,) = found(folder, {"type": "jwt", "secret": "${secret:JWT}"}, {"JWT": "short"})
    assert problem.path == "auth.a.secret"


def test_validate_tells_of_keys_beside_other_faults(project: Project) -> None:
    project.write(
        "pywatt.yaml",
        "app: main:app\nsever: 1\nauth:\n  jwt: {public_key: nokey.pem}\n  ops: {type: basic, users: x}\n",
    )
    done = project.cli("validate", "--no-import", "--format", "json")
    told = [(each["path"], each["line"]) for each in json.loads(done.stdout) if each["code"] == "auth-key"]
    assert told == [("auth.jwt.public_key", 4), ("auth.ops.users", 5)]
    assert done.returncode == 2
