"""Tokens that a module under test accepts, in place of those of a real issuer."""

from __future__ import annotations

import time
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from pywatt_host.manifest import Manifest

_LIFETIME = 3600  # seconds


class TokenIssuer:
    """Signs tokens with keys of its own, and makes the schemes of one started module trust these keys. The schemes
    check everything else as usual: algorithm, issuer, audience, times, scopes and claims."""

    def __init__(self, manifest: Manifest, schemes: Mapping[str, Any]) -> None:
        """`schemes` are the schemes of the running module, by name."""
        self._manifest = manifest
        self._schemes = schemes
        self._signers: dict[str, Any] = {}

    def issue(self, scheme: str | None, claims: Mapping[str, Any]) -> str:
        """Create a token. It has `sub` "test", the issuer and the first audience of the scheme, and is valid for one
        hour; `claims` replace these, and None leaves a claim out. Without `scheme`, the token is for the first scheme
        of type jwt or oidc. Raises ValueError if there is no such scheme."""
        name = self._scheme_name(scheme)
        options = self._manifest.auth[name]
        now = int(time.time())
        document: dict[str, Any] = {"sub": "test", "iat": now, "exp": now + _LIFETIME}
        if options.issuer is not None:
            document["iss"] = options.issuer
        if options.audience is not None:
            document["aud"] = options.audience[0]
        document = {key: value for key, value in {**document, **claims}.items() if value is not None}
        token: str = self._signer(name).mint(document, typ=options.typ[0] if options.typ is not None else "JWT")
        return token

    def _scheme_name(self, asked: str | None) -> str:
        able = [name for name, scheme in self._manifest.auth.items() if scheme.type in ("jwt", "oidc")]
        if asked is None and able:
            return able[0]
        if asked is None or asked not in able:
            which = "the manifest has no auth scheme" if asked is None else f"{asked!r} is not an auth scheme"
            raise ValueError(f"{which} of type jwt or oidc (declared: {', '.join(able) or 'none'})")
        return asked

    def _signer(self, name: str) -> Any:
        signer = self._signers.get(name)
        if signer is None:
            scheme = self._schemes[name]
            _, signer, key = import_module("pywatt_host.auth.minting").signer_for_tests(scheme.algorithms)
            scheme.keys.add(key)
            self._signers[name] = signer
        return signer
