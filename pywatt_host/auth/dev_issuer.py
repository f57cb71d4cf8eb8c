"""The issuer of development: `issuer: dev` for a scheme of type `oidc`.

Its private keys are in the folder `.pywatt/issuer` of the workspace or of the module, in a file that only this user can
read. `pywatt-host token` signs with them, and the hosts that `dev` and `up` start verify with the public halves. No
network is used. A JWK set (RFC 7517) and the metadata of OpenID Connect Discovery are beside them, for other programs.
"""

from __future__ import annotations

import asyncio
import json
import os
import stat
import tempfile
from asyncio import TaskGroup
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from secrets import token_urlsafe
from typing import Any, Final

from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey

from pywatt_host.auth.keys import JoseKey, StaticKeys, VerificationKey, jwk_set
from pywatt_host.auth.minting import Signer
from pywatt_host.exceptions import AuthError
from pywatt_host.manifest.model.auth import DEV_ALGORITHMS
from pywatt_host.net.private_folders import make_private

ISSUER: Final = "https://issuer.pywatt.localhost"  # the claim `iss` of its tokens
FOLDER: Final = Path(".pywatt", "issuer")
_KEYS, _JWKS, _METADATA = "keys.json", "jwks.json", "openid-configuration.json"
_WORKSPACE = "wattson.yaml"
_MOST_BYTES = 64 * 1024  # of the file with the keys


def home_of(directory: Path) -> Path:
    """The folder whose keys a module uses, wherever it is started from: the nearest one above `directory` that has a
    wattson.yaml of this user, else `directory` itself."""
    for folder in (directory, *directory.parents):
        try:
            status = (folder / _WORKSPACE).lstat()
        except OSError:
            continue
        if stat.S_ISREG(status.st_mode) and status.st_uid in (os.geteuid(), 0):
            return folder
    return directory


class DevIssuer:
    """The keys in one folder. They are made when they are first needed."""

    def __init__(self, folder: Path, key: str = "auth") -> None:
        """`key` is the manifest key for errors."""
        self._folder = folder / FOLDER
        self._key = key

    def verification_keys(self) -> list[VerificationKey]:
        """The public keys. Raises AuthError if the keys cannot be made or read, or if another user could have."""
        return jwk_set({"keys": [key.as_dict(private=False) for key in self._all()]})

    def signer(self, algorithm: str) -> Signer:
        """What signs with one of the `DEV_ALGORITHMS`. Raises AuthError."""
        for key in self._all():
            if key.get("alg") == algorithm:
                return Signer(key, algorithm, key.kid)
        raise AuthError(self._key, f"{self._folder / _KEYS} has no key for {algorithm}", "remove the folder")

    def _all(self) -> list[JoseKey]:
        try:
            return self._read()
        except FileNotFoundError:
            pass
        except OSError as error:
            raise self._fault(f"cannot be read: {(error.strerror or '').lower()}") from error
        try:
            self._make()
            return self._read()
        except OSError as error:
            raise self._fault(f"cannot be written: {(error.strerror or '').lower()}") from error

    def _fault(self, why: str, hint: str = "") -> AuthError:
        return AuthError(self._key, f"the keys of the issuer `dev` in {self._folder / _KEYS}: {why}", hint)

    def _read(self) -> list[JoseKey]:
        """The private keys. Raises OSError and AuthError."""
        descriptor = os.open(self._folder / _KEYS, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            mode = stat.S_IMODE(status.st_mode)
            if status.st_uid != os.geteuid():
                raise self._fault(f"the file belongs to another user (uid {status.st_uid})", "remove it")
            if not stat.S_ISREG(status.st_mode) or mode & 0o077:
                raise self._fault(f"other users may use the file (mode {mode:04o})", "remove it; it is made again")
            text = file.read(_MOST_BYTES + 1)
        try:
            document = json.loads(text)
            return [_KINDS[entry["kty"]].import_key(entry) for entry in document["keys"]]
        except (
            ValueError,
            KeyError,
            TypeError,
            JoseError,
        ):  # it is cut, or was changed
            raise self._fault("the file has no keys", "remove it; new ones are made") from None

    def _make(self) -> None:
        """Make the keys, unless another process has done that meanwhile. Raises OSError and AuthError."""
        for folder in (self._folder.parent, self._folder):
            reason = make_private(folder)
            if reason:
                raise self._fault(f"{folder} is not private: {reason}", "it must belong to this user, with mode 0700")
        keys: Sequence[JoseKey] = (
            RSAKey.generate_key(2048, {"use": "sig", "alg": "RS256", "kid": f"dev-{token_urlsafe(9)}"}),
            ECKey.generate_key("P-256", {"use": "sig", "alg": "ES256", "kid": f"dev-{token_urlsafe(9)}"}),
        )
        if not self._write(_KEYS, {"keys": [key.as_dict(private=True) for key in keys]}, replace=False):
            return
        self._write(_JWKS, {"keys": [key.as_dict(private=False) for key in keys]})
        metadata = {
            "issuer": ISSUER,
            "jwks_uri": (self._folder / _JWKS).as_uri(),
            "response_types_supported": ["token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": list(DEV_ALGORITHMS),
        }
        self._write(_METADATA, metadata)

    def _write(self, name: str, document: Any, *, replace: bool = True) -> bool:
        """Write a whole file, with mode 0600. Without `replace`, a file that is there stays; returns whether it is
        ours."""
        descriptor, new = tempfile.mkstemp(prefix=f"{name}.", dir=self._folder)
        try:
            with open(descriptor, "w") as file:
                json.dump(document, file, indent=2)
            if replace:
                os.replace(new, self._folder / name)
                return True
            os.link(new, self._folder / name)
            return True
        except FileExistsError:
            return False
        finally:
            Path(new).unlink(missing_ok=True)


_KINDS: dict[str, Any] = {"RSA": RSAKey, "EC": ECKey}


class DevKeys(StaticKeys):
    """The public keys of the issuer `dev`, as a source of keys and a service that reads them at the start."""

    name = "keys of the issuer dev"

    def __init__(self, scheme: str, directory: Path, allowed: Path | None) -> None:
        """`directory` is that of the manifest, `allowed` the folder that `dev` and `up` name; None: this is `run`."""
        super().__init__()
        self._scheme = scheme
        self._directory = directory
        self._allowed = allowed

    @asynccontextmanager
    async def running(self, tasks: TaskGroup) -> AsyncIterator[None]:
        """Raises AuthError under `run`, and if the keys cannot be used."""
        self.swap(await asyncio.to_thread(self._load), 0.0)
        yield

    def _load(self) -> list[VerificationKey]:
        key = f"auth.{self._scheme}.issuer"
        if self._allowed is None:
            message = "`issuer: dev` is for development; pywatt-host dev and up know it, and run does not"
            raise AuthError(key, message, "set the URL of the issuer, perhaps in a profile")
        # A token that was made for the workspace is good under `dev` as well, and the other way round.
        folders = dict.fromkeys([self._allowed.absolute(), home_of(self._directory)])
        return [each for folder in folders for each in DevIssuer(folder, key).verification_keys()]

    async def check(self) -> None:
        """Nothing is fetched that could fail."""
