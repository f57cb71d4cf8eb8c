"""`secrets`: which secrets exist, where the host looks for them, and whether they may change while it runs."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from pywatt_host.manifest.model.base import Kind, Kinds, Names, Placeholders, Section, Short, key, required
from pywatt_host.manifest.values import (
    Bool,
    Format,
    Interpolated,
    PositiveDuration,
    SecretName,
    Sensitive,
    to_float,
    to_int,
)

SecretType: TypeAlias = Literal["str", "int", "float", "bool", "json"]
_KINDS = ("kind", "dotenv", "directory", "file", "command", "vault")


VaultUrl: TypeAlias = Annotated[
    str, Field(pattern=r"^https?://"), Format("an http or https URL", "such as https://vault.example:8200")
]


class Vault(Section):
    """HashiCorp Vault or OpenBao, secrets engine KV version 2. Requires the extra `vault`."""

    address: VaultUrl = required("URL of the server.", "https://vault.example:8200")
    path: str = required(
        "Mount and path of the Vault secret, such as secret/users. The members of that secret are the values.",
        "secret/users",
        min_length=3,
    )
    token: Annotated[str, Field(min_length=1), Sensitive()] | None = key(
        None,
        "Token for the server. If omitted, the environment variable VAULT_TOKEN, otherwise token_file. Write"
        " ${VAR}, not the token itself.",
        "${VAULT_TOKEN}",
    )
    token_file: str | None = key(
        None,
        "File with the token, as a Vault agent writes it. The host reads the file again each time.",
        "/run/vault/token",
        min_length=1,
    )
    namespace: str | None = key(None, "Namespace, if the server has namespaces.", "team-a", min_length=1)
    ca: str | None = key(
        None,
        "File with the CA certificates that must have signed the server's certificate, relative to the manifest."
        " If omitted, the CA certificates of the system.",
        "ca.pem",
    )


class SecretSource(Section):
    """One place to look for secrets. It must have exactly one of these keys."""

    kinds = Kinds(
        tuple(Kind(name, without=frozenset(_KINDS) - {name}) for name in _KINDS[1:]),
        required=("kind",),
    )

    kind: Literal["orchestrator", "env"] | None = key(
        None,
        "`orchestrator` asks the orchestrator, `env` reads the environment. The word alone is the short form.",
        "env",
    )
    dotenv: str | None = key(
        None, "A dotenv file, relative to the manifest. The file may be missing.", ".env", min_length=1
    )
    directory: str | None = key(
        None,
        "A folder with one file for each secret, as Kubernetes and Docker mount them, relative to the manifest.",
        "/run/secrets",
        min_length=1,
    )
    file: str | None = key(
        None,
        "A YAML or JSON file of names and values, relative to the manifest. Only its owner may have permission to"
        " read it.",
        "secrets.yaml",
        min_length=1,
    )
    command: tuple[Annotated[str, Field(min_length=1), Placeholders("name")], ...] | None = key(
        None,
        "A program and its arguments; the program prints the secret. `${name}` in an argument is the secret's"
        " name. No shell is used.",
        ["op", "read", "op://x/${name}"],
        strict=False,
        min_length=1,
    )
    vault: Vault | None = key(None, "Vault or OpenBao, KV version 2.", {"address": "https://v", "path": "secret/users"})

    @model_validator(mode="after")
    def _exactly_one(self) -> SecretSource:
        given = [name for name in _KINDS if getattr(self, name) is not None]
        if len(given) != 1:
            raise PydanticCustomError(
                "conflict",
                "a source needs exactly one of orchestrator, env, dotenv, directory, file, command, vault",
                {},
            )
        return self


class SecretKey(Section):
    """One declared secret."""

    required: Bool = key(True, "Whether the host needs the secret to start.", False)
    type: SecretType = key(
        "str",
        "Type of the value. The host checks it when the secret is read, and get_secret(NAME, int) must ask for the"
        " same type.",
        "int",
    )
    default: Any = key(
        None,
        "Value that is used if no source has the secret. Only with `required: false`. Do not write a real secret here.",
        5,
    )
    description: str | None = key(None, "What the secret is for. Shown if the secret is missing.", "Where users live")

    @model_validator(mode="after")
    def _default_fits(self) -> SecretKey:
        if self.default is None:
            return self
        if self.required:
            message = "a required secret cannot have a default (add `required: false`)"
            raise PydanticCustomError("secret-default", message, {"key": "default"})
        value = _READ[self.type](self.default)
        if not isinstance(value, _CLASSES[self.type]) or (isinstance(value, bool) and self.type in ("int", "float")):
            message = "the default is not of type {type} (change the default or `type`)"
            raise PydanticCustomError("secret-default", message, {"key": "default", "type": self.type})
        if value is not self.default:
            object.__setattr__(self, "default", value)  # the object is still under construction, so no code has used it
        return self


def _bool(value: Any) -> Any:
    return {"true": True, "false": False}.get(value, value) if isinstance(value, Interpolated) else value


def _json(value: Any) -> Any:
    if not isinstance(value, Interpolated):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return str(value)


# Type of a secret -> how a default that came from a variable is converted, and the class that it must then have.
_READ: dict[str, Any] = {
    "str": lambda value: str(value) if isinstance(value, Interpolated) else value,
    "int": to_int,
    "float": lambda value: value if isinstance(value, bool) else to_float(value),
    "bool": _bool,
    "json": _json,
}
_CLASSES: dict[str, Any] = {"str": str, "int": int, "float": float, "bool": bool, "json": object}


class Secrets(Section):
    """Secrets by name, and the places where the host looks for them, in order."""

    sources: tuple[Annotated[SecretSource, Short(text="kind")], ...] | None = key(
        None,
        "Where the host looks for secrets. The first source that has a secret wins. If omitted: the orchestrator,"
        " if there is one, then the environment.",
        ["orchestrator", "env", {"directory": "/run/secrets"}],
        strict=False,
        min_length=1,
    )
    rotate: Bool = key(
        False,
        "Whether values may change while the host runs: when the orchestrator says so, or when a source that can"
        " be watched has changed.",
        True,
    )
    interval: PositiveDuration = key(
        5.0, "With `rotate`, how often the host polls the sources that do not report changes (files, Vault).", "30s"
    )
    keys: Annotated[dict[SecretName, SecretKey], Names()] = key(
        dict,
        "The secrets, by name. A list of names is short for secrets without options.",
        {"DATABASE_URL": {"description": "Users"}},
    )
