"""`token`: prints a JSON Web Token for a scheme with a shared secret."""

from __future__ import annotations

import asyncio
import json
import time
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from pydantic_core import PydanticCustomError

from pywatt_host.cli.options import Selection, loaded_or_exit, manifest_options
from pywatt_host.cli.param_types import FloatType
from pywatt_host.exceptions import AuthError, SecretError
from pywatt_host.manifest import Manifest
from pywatt_host.manifest.checks.auth import min_secret_bytes
from pywatt_host.manifest.load import environment
from pywatt_host.manifest.model import AuthScheme
from pywatt_host.manifest.model.auth import DEV_ALGORITHMS
from pywatt_host.manifest.problems import Report
from pywatt_host.manifest.values import SecretTemplate, parse_duration

if TYPE_CHECKING:
    from pywatt_host.auth.minting import Signer

_DEV = "pywatt_host.auth.dev_issuer"
_LONGEST = 100 * 365 * 24 * 3600.0  # seconds


class _Duration(FloatType):
    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        try:
            seconds = parse_duration(value)
        except PydanticCustomError as error:
            self.fail(error.message(), param, ctx)
        if not 1 <= seconds <= _LONGEST:
            self.fail("it must be between one second and a hundred years", param, ctx)
        return seconds


@click.command()
@manifest_options
@click.option("--scheme", metavar="NAME", help="Scheme of `auth`. Required when several schemes have a secret.")
@click.option("--sub", "subject", metavar="TEXT", default="developer", show_default=True, help="Subject of the token.")
@click.option("--scope", metavar="TEXT", help='Scopes, such as "read write".')
@click.option(
    "--claim",
    "claims",
    metavar="KEY=VALUE",
    multiple=True,
    help="Add a claim; its value is JSON or else plain text. Can be repeated.",
)
@click.option("--expires", type=_Duration(), default="1h", show_default=True, help="How long the token is valid.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Folder with the keys of `issuer: dev`. Default: the next one above the manifest that has a wattson.yaml, else"
    " the manifest's.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the token and its claims as one JSON object.")
def token(
    selection: Selection,
    scheme: str | None,
    subject: str,
    scope: str | None,
    claims: tuple[str, ...],
    expires: float,
    folder: Path | None,
    as_json: bool,
) -> int:
    """Print a token that the module accepts, for a scheme with a `secret` or with `issuer: dev`. The token is signed
    with that secret, or with the private key of the issuer that `dev` and `up` have.

    `token` looks for the secret where the module would look, and in the .env beside the manifest. The claims `iss` and
    `aud` are those of the scheme. Anyone who has the token can act as its subject until it expires: protect it like a
    password.

    \b
    Examples:
      pywatt-host token
      pywatt-host token --sub alice --scope "read write" --claim role=admin --expires 10m
      curl -H "Authorization: Bearer $(pywatt-host token)" http://127.0.0.1:8080/private
    """
    manifest = loaded_or_exit(selection).manifest
    name = _chosen(manifest, scheme)
    options = manifest.auth[name]
    now = int(time.time())
    document: dict[str, Any] = {"sub": subject, "iat": now, "exp": now + int(expires)}
    if options.issuer is not None:
        document["iss"] = import_module(_DEV).ISSUER if options.uses_dev_issuer else options.issuer
    if options.audience is not None:
        document["aud"] = options.audience[0] if len(options.audience) == 1 else list(options.audience)
    if scope is not None:
        document["scope"] = scope
    for claim in claims:
        key, value = _claim(claim)
        if value is None:
            document.pop(key, None)
        else:
            document[key] = value
    typ = options.typ[0] if options.typ is not None else "JWT"
    if options.uses_dev_issuer:
        try:
            minted = _by_the_issuer_dev(manifest, name, options, folder).mint(document, typ=typ)
        except AuthError as error:
            click.echo(str(error), err=True)
            return error.exit_code
        click.echo(json.dumps({"token": minted, "claims": document}, indent=2) if as_json else minted)
        return 0
    try:
        secret = asyncio.run(_secret(manifest, options, selection.env_file))
    except (SecretError, AuthError) as error:
        click.echo(str(error), err=True)
        return error.exit_code
    algorithm = (options.algorithms or ("HS256",))[0]
    least = min_secret_bytes(options)
    if len(secret.encode("utf-8", "surrogateescape")) < least and not options.allow_weak_secret:
        click.echo(
            f"auth.{name}.secret: it has less than {least} bytes, so the module would not start. Use a longer secret.",
            err=True,
        )
        return AuthError.exit_code
    minted = import_module("pywatt_host.auth.minting").mint(secret, document, alg=algorithm, typ=typ)
    click.echo(json.dumps({"token": minted, "claims": document}, indent=2) if as_json else minted)
    return 0


def _by_the_issuer_dev(manifest: Manifest, name: str, options: AuthScheme, folder: Path | None) -> Signer:
    """What signs tokens of a scheme with `issuer: dev`. Raises AuthError."""
    issuer = import_module(_DEV)
    home = folder.absolute() if folder is not None else issuer.home_of(manifest.directory)
    algorithm = next(each for each in options.algorithms or DEV_ALGORITHMS if each in DEV_ALGORITHMS)
    signer: Signer = issuer.DevIssuer(home, f"auth.{name}.issuer").signer(algorithm)
    return signer


def _chosen(manifest: Manifest, asked: str | None) -> str:
    """The scheme to make a token for."""
    schemes = manifest.auth
    signed = [name for name, scheme in schemes.items() if scheme.secret is not None or scheme.uses_dev_issuer]
    if asked is None:
        if len(signed) == 1:
            return signed[0]
        if signed:
            raise click.UsageError(f"several schemes have a secret. Choose one with --scheme {' or '.join(signed)}.")
        declared = (
            f" (declared: {', '.join(schemes)})"
            if schemes
            else ". Declare one, such as auth: {jwt: {secret: ${secret:JWT_SECRET}}}"
        )
        raise click.UsageError(f"no scheme of `auth` has a secret to sign tokens with{declared}")
    if asked not in schemes:
        raise click.UsageError(f"{asked!r} is not a declared scheme (declared: {', '.join(schemes) or 'none'})")
    if asked not in signed:
        kind = schemes[asked].type
        why = (
            "the issuer signs its tokens (to make tokens for dev and up, set issuer: dev)"
            if kind in ("jwt", "oidc")
            else f"a scheme of type {kind} has no tokens"
        )
        if kind == "mtls":
            why += ", since the client's certificate is the credential"
        raise click.UsageError(f"cannot make a token for auth.{asked}: {why}")
    return asked


def _claim(text: str) -> tuple[str, Any]:
    """The name and value of a claim: `role=admin`, `level=3`, `roles=["a","b"]`. `exp=null` removes a claim."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise click.BadParameter(f"{text!r} is not KEY=VALUE", param_hint="--claim")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


async def _secret(manifest: Manifest, options: AuthScheme, env_file: Path | None) -> str:
    """The value of the scheme's secret. Raises SecretError."""
    value = options.secret
    if not isinstance(value, SecretTemplate):
        assert value is not None
        return value
    make_sources = import_module("pywatt_host.secrets.sources").make_sources
    secrets = import_module("pywatt_host.secrets")
    environ = environment(None, env_file, Report())
    sources = make_sources(
        manifest.secrets.sources, directory=manifest.directory, environ=environ, fetch=None, dotenv=True
    )
    keys = {name: key for name, key in manifest.secret_keys.items() if name in value.names}
    store = secrets.SecretStore(keys, sources, secrets.Masker())
    await store.load()
    rendered: str = value.render(store.secret_values)
    return rendered
