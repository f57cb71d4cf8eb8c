"""`secrets`: which there are, where they come from, and whether they may change while the host runs."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from pywatt_host.manifest.model.base import Names, Placeholders, Section, Short, key, required
from pywatt_host.manifest.values import SECRET_NAME, Bool, Interpolated, PositiveDuration, Sensitive, to_float, to_int

SecretType: TypeAlias = Literal["str", "int", "float", "bool", "json"]
_KINDS = ("kind", "dotenv", "directory", "file", "command", "vault")


class Vault(Section):
    """HashiCorp Vault or OpenBao, secrets engine KV version 2 (extra `vault`)."""

    address: str = required("Address of the server.", "https://vault.example:8200", pattern=r"^https?://")
    path: str = required(
        "Mount and path of the secret whose members are the values, such as secret/users.", "secret/users", min_length=3
    )
    token: Annotated[str, Field(min_length=1), Sensitive()] | None = key(
        None, "Token. Left out: VAULT_TOKEN, else token_file. Write ${VAR} and no literal.", "${VAULT_TOKEN}"
    )
    token_file: str | None = key(
        None, "File with the token, as an agent writes it; read anew each time.", "/run/vault/token", min_length=1
    )
    namespace: str | None = key(None, "Namespace, where the server has them.", "team-a", min_length=1)
    ca: str | None = key(None, "File with the certificates that sign the server's, relative to the manifest.", "ca.pem")


class SecretSource(Section):
    """One place to look for secrets; it has exactly one of the keys."""

    kind: Literal["orchestrator", "env"] | None = key(
        None, "`orchestrator` asks the orchestrator, `env` the environment; short: the word itself.", "env"
    )
    dotenv: str | None = key(None, "A dotenv file, relative to the manifest; it may be missing.", ".env", min_length=1)
    directory: str | None = key(
        None,
        "A folder with one file for each secret, as Kubernetes and Docker mount them, relative to the manifest.",
        "/run/secrets",
        min_length=1,
    )
    file: str | None = key(
        None,
        "A YAML or JSON file of names and values, relative to the manifest; nobody but its owner may read it.",
        "secrets.yaml",
        min_length=1,
    )
    command: tuple[Annotated[str, Field(min_length=1), Placeholders("name")], ...] | None = key(
        None,
        "A program that prints the secret; `${name}` in an argument is the secret's name. It is no shell.",
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
                "conflict", "a source has exactly one of orchestrator, env, dotenv, directory, file, command, vault", {}
            )
        return self


class SecretKey(Section):
    """One secret."""

    required: Bool = key(True, "Whether the host must have it to start.", False)
    type: SecretType = key(
        "str", "What its text spells, checked when it is read: get_secret(NAME, int) wants the same.", "int"
    )
    default: Any = key(
        None, "Its value where no source has it. Only with `required: false`; no place for a real secret.", 5
    )
    description: str | None = key(None, "What it is for; shown where it is missing.", "Where users live")

    @model_validator(mode="after")
    def _default_fits(self) -> SecretKey:
        if self.default is None:
            return self
        if self.required:
            message = "a required secret has no default; add `required: false`"
            raise PydanticCustomError("secret-default", message, {"key": "default"})
        value = _READ[self.type](self.default)
        if not isinstance(value, _CLASSES[self.type]) or (isinstance(value, bool) and self.type in ("int", "float")):
            message = "the default is no {type} as `type` says"
            raise PydanticCustomError("secret-default", message, {"key": "default", "type": self.type})
        if value is not self.default:
            object.__setattr__(self, "default", value)  # it is being made: nobody has seen it yet
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


# Type -> the default, where it came out of a variable, as that type; and what it must then be.
_READ: dict[str, Any] = {
    "str": lambda value: str(value) if isinstance(value, Interpolated) else value,
    "int": to_int,
    "float": lambda value: value if isinstance(value, bool) else to_float(value),
    "bool": _bool,
    "json": _json,
}
_CLASSES: dict[str, Any] = {"str": str, "int": int, "float": float, "bool": bool, "json": object}


class Secrets(Section):
    """Secrets by name, and the places where they are looked for, in order."""

    sources: tuple[Annotated[SecretSource, Short(text="kind")], ...] | None = key(
        None,
        "Where secrets come from; the first that has one wins. Left out: the orchestrator, where there is one, then the"
        " environment.",
        ["orchestrator", "env", {"directory": "/run/secrets"}],
        strict=False,
        min_length=1,
    )
    rotate: Bool = key(
        False,
        "Whether values may change while the host runs: by the orchestrator's word, or because a source that can be"
        " watched has changed.",
        True,
    )
    interval: PositiveDuration = key(
        5.0, "How often sources that can only be asked (files, Vault) are looked at, with `rotate`.", "30s"
    )
    keys: Annotated[dict[Annotated[str, Field(pattern=SECRET_NAME)], SecretKey], Names()] = key(
        dict, "The secrets, by name. A list of names is short for it.", {"DATABASE_URL": {"description": "Users"}}
    )
