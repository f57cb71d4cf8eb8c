"""`auth`, `endpoints[].auth` and `clients`: who may ask, for what, and as whom this module asks others."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, Field, PlainValidator, WithJsonSchema

from pywatt_host.manifest.model.base import Deferred, Section, Short, key, required
from pywatt_host.manifest.values import Bool, Duration, DurationOrOff, SecretText, SecretToken, as_list
from pywatt_host.manifest.values.scalars import fault

SchemeKind: TypeAlias = Literal["jwt", "oidc", "api_key", "basic"]
KINDS: tuple[SchemeKind, ...] = ("jwt", "oidc", "api_key", "basic")
# RFC 7518 section 3.1; Ed25519 is what RFC 9864 calls EdDSA with that curve.
Algorithm: TypeAlias = Literal[
    "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512",
    "ES256", "ES384", "ES512", "EdDSA", "Ed25519",
]  # fmt: skip
SCHEME_NAME = r"^[A-Za-z][A-Za-z0-9_.-]{0,62}$"
NO_AUTH = "none"
HEADER_NAME = r"^[A-Za-z][A-Za-z0-9-]{0,63}$"
SCOPE = r"^[\x21\x23-\x5b\x5d-\x7e]+$"  # RFC 6749 section 3.3
HTTP_URL = r"^https?://[^\s/?#@]+(/[^\s?#]*)?$"
HTTP_ORIGIN = r"^https?://[^\s/?#@]+/?$"

Texts: TypeAlias = Annotated[
    tuple[Annotated[str, Field(min_length=1)], ...], Field(strict=False, min_length=1), BeforeValidator(as_list)
]


class AuthScheme(Section):
    """One way to say who asks. Which keys count depends on `type`; one that does not is a fault."""

    type: SchemeKind | None = key(None, "What it is. Left out: the scheme's name, where that is one of these.", "oidc")
    # jwt, oidc
    secret: SecretToken | None = key(
        None,
        "jwt, oidc: the secret that tokens are signed with (HS256, HS384, HS512): at least 32, 48 or 64 octets.",
        "${secret:JWT_SECRET}",
    )
    public_key: SecretText | None = key(
        None,
        "jwt, oidc: a public key, certificate, JWK or JWK set: a path relative to the manifest, or the text itself.",
        "keys/issuer.pem",
    )
    jwks_url: Annotated[str, Field(pattern=HTTP_URL)] | None = key(
        None, "jwt, oidc: where the issuer's keys are (RFC 7517).", "https://id.example/jwks.json"
    )
    issuer: Annotated[str, Field(min_length=1)] | None = key(
        None, "jwt, oidc: what `iss` must be; for oidc also where the issuer's metadata is.", "https://id.example"
    )
    audience: Texts | None = key(
        None,
        "jwt, oidc: one of these must be in `aud`. Left out: a token that names an audience is refused"
        " (RFC 7519 section 4.1.3).",
        "users",
    )
    algorithms: Annotated[tuple[Algorithm, ...], Field(strict=False, min_length=1), BeforeValidator(as_list)] | None = (
        key(
            None,
            "jwt, oidc: signature algorithms that are accepted. Left out: HS256 with `secret`, else RS256, ES256 and"
            " EdDSA.",
            ["RS256"],
        )
    )
    typ: Texts | None = key(
        None,
        "jwt, oidc: the token's `typ` must be one of these. Left out: none, JWT or at+jwt.",
        "at+jwt",
    )
    leeway: Duration = key(30.0, "jwt, oidc: how far clocks may differ.", "1m")
    required_claims: Annotated[
        tuple[Annotated[str, Field(min_length=1)], ...], Field(strict=False), BeforeValidator(as_list)
    ] = key(("exp",), "jwt, oidc: claims that every token must have.", ["exp", "sub"])
    allow_weak_secret: Bool = key(False, "jwt, oidc: take a `secret` that is too short, with a warning.", True)
    allow_http: Bool = key(
        False,
        "jwt, oidc: fetch keys without TLS from elsewhere than this machine, for a network that is trusted.",
        True,
    )
    allow_private: Bool = key(
        False,
        "oidc: the issuer's metadata may send to another host with a private address for the keys.",
        True,
    )
    # api_key
    header: Annotated[str, Field(pattern=HEADER_NAME)] | None = key(
        None, "api_key: the header that has the key. Left out: X-API-Key.", "X-API-Key"
    )
    keys: SecretToken | None = key(
        None,
        "api_key: the keys, one a line or between commas, each KEY or NAME:KEY; the name becomes the subject.",
        "${secret:API_KEYS}",
    )
    # basic
    users: SecretToken | None = key(
        None,
        "basic: one USER:PASSWORD a line; the password in plain or as bcrypt, as `htpasswd -B` writes it.",
        "${secret:OPS_USERS}",
    )
    # all of them
    previous: DurationOrOff = key(
        300.0, "How long what a rotation of secrets has replaced is still accepted; `off` for not at all.", "5m"
    )
    realm: Annotated[str, Field(pattern=r'^[^"\\\x00-\x1f\x7f-\U0010ffff]+$', max_length=100)] | None = key(
        None, "What the challenge calls the protected space. Left out: the module's id.", "users"
    )


def named(schemes: dict[str, AuthScheme]) -> dict[str, AuthScheme]:
    """Schemes whose `type` is left out get it from their name, where that is one."""
    return {
        name: scheme.model_copy(update={"type": name}) if scheme.type is None and name in KINDS else scheme
        for name, scheme in schemes.items()
    }


def _claim(value: Any) -> Any:
    if isinstance(value, str | int | float) and not (isinstance(value, float) and value != value):
        return value
    raise fault("type", "a text, a number or a bool is wanted, such as admin")


ClaimValues: TypeAlias = Annotated[
    tuple[
        Annotated[
            str | int | float | bool,
            PlainValidator(_claim),
            WithJsonSchema({"type": ["string", "number", "boolean"]}),
        ],
        ...,
    ],
    Field(strict=False, min_length=1),
    BeforeValidator(as_list),
]


class Requirement(Section):
    """What a request must bring: a credential of one of the schemes, and what its claims must be."""

    scheme: Annotated[
        tuple[Annotated[str, Field(pattern=SCHEME_NAME)], ...],
        Field(strict=False, min_length=1),
        BeforeValidator(as_list),
    ] = required("Names of `auth`, of which the one that presents itself decides; or `none`.", "jwt")
    scopes: Annotated[
        tuple[Annotated[str, Field(pattern=SCOPE)], ...], Field(strict=False), BeforeValidator(as_list)
    ] = key((), "Scopes that it must have, all of them (`scope` or `scp`); else 403.", ["admin"])
    claims: dict[Annotated[str, Field(min_length=1)], ClaimValues] = key(
        dict,
        "Claims that it must have; else 403. The claim equals the value, or one of the list's; of a claim that is a"
        " list one entry does. Dots lead into nested claims.",
        {"role": ["owner", "admin"]},
    )

    @property
    def open(self) -> bool:
        """Whether it asks for nothing."""
        return self.scheme == (NO_AUTH,)


# Left out: nobody is asked, as `none` says in words.
Auth: TypeAlias = Annotated[Annotated[Requirement, Deferred()] | None, Short(text="scheme", items="scheme")]


class Client(Section):
    """A token for requests to others (OAuth 2.0 client credentials, RFC 6749 section 4.4)."""

    base_url: Annotated[str, Field(pattern=HTTP_ORIGIN)] = required(
        "Scheme, host and port of the requests that get the token.", "https://billing.example"
    )
    token_url: Annotated[str, Field(pattern=HTTP_URL)] | None = key(
        None, "Where tokens are issued. Left out: the issuer's metadata says it.", "https://id.example/token"
    )
    issuer: Annotated[str, Field(pattern=HTTP_URL)] | None = key(
        None, "Who issues the tokens; instead of token_url.", "https://id.example"
    )
    client_id: Annotated[str, Field(min_length=1)] = required("Who this module is there.", "users")
    client_secret: SecretToken = required("The secret that goes with it.", "${secret:BILLING_SECRET}")
    scopes: Annotated[
        tuple[Annotated[str, Field(pattern=SCOPE)], ...], Field(strict=False), BeforeValidator(as_list)
    ] = key((), "Scopes to ask for.", ["read"])
    audience: Annotated[str, Field(min_length=1)] | None = key(
        None, "Parameter `audience` of the request for a token, which some issuers want.", "billing"
    )
    method: Literal["basic", "post"] = key(
        "basic", "How the secret is sent: `basic` (RFC 6749 section 2.3.1) or `post` (in the body).", "post"
    )
    allow_http: Bool = key(
        False, "Send secret and token without TLS beyond this machine, for a network that is trusted.", True
    )
