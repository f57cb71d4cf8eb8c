"""Tokens that a module under test takes, whoever would issue the real ones."""

from __future__ import annotations

import time
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from pywatt_host.manifest import Manifest

_EXPIRES = 3600  # seconds


class Tokens:
    """Signs with keys of its own, which it lets the schemes of one started module trust. The schemes look at everything
    else as ever: algorithm, issuer, audience, times, scopes and claims."""

    def __init__(self, manifest: Manifest, schemes: Mapping[str, Any]) -> None:
        """`schemes` are the running ones, by name."""
        self._manifest = manifest
        self._schemes = schemes
        self._signers: dict[str, Any] = {}

    def token(self, scheme: str | None, claims: Mapping[str, Any]) -> str:
        """A token with these claims over `sub: test`, the scheme's issuer and first audience, and an hour to live; None
        takes a claim out. Without `scheme`, for the first one that takes tokens. Raises ValueError where there is none.
        """
        name = self._chosen(scheme)
        options = self._manifest.auth[name]
        now = int(time.time())
        document: dict[str, Any] = {"sub": "test", "iat": now, "exp": now + _EXPIRES}
        if options.issuer is not None:
            document["iss"] = options.issuer
        if options.audience is not None:
            document["aud"] = options.audience[0]
        document = {key: value for key, value in {**document, **claims}.items() if value is not None}
        token: str = self._signer(name).mint(document, typ=options.typ[0] if options.typ is not None else "JWT")
        return token

    def _chosen(self, asked: str | None) -> str:
        able = [name for name, scheme in self._manifest.auth.items() if scheme.type in ("jwt", "oidc")]
        if asked is None and able:
            return able[0]
        if asked is None or asked not in able:
            wanted = "no scheme" if asked is None else f"{asked!r} is no scheme that"
            raise ValueError(f"{wanted} takes tokens here (jwt, oidc: {', '.join(able) or 'none'})")
        return asked

    def _signer(self, name: str) -> Any:
        signer = self._signers.get(name)
        if signer is None:
            scheme = self._schemes[name]
            _, signer, key = import_module("pywatt_host.auth.minting").signer_for_tests(scheme.algorithms)
            scheme.keys.add(key)
            self._signers[name] = signer
        return signer
