"""What `validate` finds out about the keys and users of `auth`: with the code that reads them when the host starts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module

from pywatt_host.exceptions import AuthError
from pywatt_host.manifest import Loaded, Problem
from pywatt_host.manifest.checks.left_out import LeftOut
from pywatt_host.manifest.model import AuthScheme
from pywatt_host.manifest.problems import KeyPath
from pywatt_host.manifest.values import SecretTemplate

_KEYS = {"jwt": ("public_key", "secret"), "oidc": ("public_key", "secret"), "api_key": ("keys",), "basic": ("users",)}


def auth_key_problems(
    loaded: Loaded, secret_values: Mapping[str, str], *, left_out: LeftOut | None = None
) -> Iterator[Problem]:
    """What is wrong with the keys and users of the schemes. `secret_values` has the values of secrets as far as they
    are known; keys in other secrets are not checked. Nor are schemes that are faulty, which `left_out` knows."""
    for name, scheme in loaded.manifest.auth.items():
        path: KeyPath = ("auth", name)
        if left_out is not None and left_out.touches(path):
            continue
        for key in _KEYS.get(scheme.type or "", ()):
            if _is_known(loaded, (*path, key), getattr(scheme, key), secret_values):
                try:
                    _read(loaded, name, scheme, key, secret_values)
                except AuthError as error:
                    yield _problem(loaded, (*path, key), error)


def _is_known(loaded: Loaded, path: KeyPath, value: str | SecretTemplate | None, known: Mapping[str, str]) -> bool:
    if value is None or loaded.node_at(path)[0].unset:
        return False
    if isinstance(value, SecretTemplate):
        return known.keys() >= set(value.names)
    return path[-1] != "secret"  # the length of one in plain text is checked with the manifest


def _read(loaded: Loaded, name: str, scheme: AuthScheme, key: str, secret_values: Mapping[str, str]) -> None:
    """Read one value as the scheme does. Raises AuthError."""
    shown = f"auth.{name}.{key}"
    if scheme.type in ("api_key", "basic"):
        passwords = import_module("pywatt_host.auth.passwords")
        text = passwords.rendered(getattr(scheme, key), secret_values, shown)
        (passwords.keys if key == "keys" else passwords.users)(text, shown)
        return
    keys = import_module("pywatt_host.auth.keys").StaticKeys()
    jwt = import_module("pywatt_host.auth.jwt").JwtScheme(name, scheme, keys, directory=loaded.manifest.directory)
    jwt.prepare(secret_values).discard()


def _problem(loaded: Loaded, path: KeyPath, error: AuthError) -> Problem:
    node, written = loaded.node_at(path)
    message = error.message
    if node.masked and isinstance(node.value, str) and node.value:
        message = message.replace(node.value.strip(), node.shown())
    return node.problem(written, "auth-key", message, error.hint)
