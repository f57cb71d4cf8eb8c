"""`auth`, `endpoints[].auth` and `clients`: the credentials that requests need here, and those that this module uses
elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, Field, PlainValidator, WithJsonSchema

from pywatt_host.manifest.model.base import Deferred, Kind, Kinds, Section, Short, key, required
from pywatt_host.manifest.values import Bool, Duration, DurationOrOff, Format, SecretText, SecretToken, as_list
from pywatt_host.manifest.values.scalars import SPACE, fault

SchemeKind: TypeAlias = Literal["jwt", "oidc", "api_key", "basic", "mtls"]
KINDS: tuple[SchemeKind, ...] = ("jwt", "oidc", "api_key", "basic", "mtls")
# RFC 7518 section 3.1; Ed25519 is what RFC 9864 calls EdDSA with that curve.
Algorithm: TypeAlias = Literal[
    "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512",
    "ES256", "ES384", "ES512", "EdDSA", "Ed25519",
]  # fmt: skip
DEV_ISSUER = "dev"  # in place of the URL of an issuer
DEV_ALGORITHMS = ("RS256", "ES256")  # that it signs with
SCHEME_NAME = r"^[A-Za-z][A-Za-z0-9_.-]{0,62}$"
NAME_HINT = "use letters, digits, dots, dashes and underscores; start with a letter; at most 63 characters"
NO_AUTH = "none"
_TOKEN_KEYS = frozenset(
    (
        "secret", "public_key", "jwks_url", "issuer", "audience", "algorithms", "typ", "leeway", "required_claims",
        "allow_weak_secret", "allow_http", "allow_private",
    )
)  # fmt: skip
_COMMON_KEYS = frozenset(("type", "previous", "realm"))
# Type of a scheme -> the keys that apply to it.
SCHEME_KEYS: Mapping[SchemeKind, frozenset[str]] = {
    "jwt": _TOKEN_KEYS | _COMMON_KEYS,
    "oidc": _TOKEN_KEYS | _COMMON_KEYS,
    "api_key": frozenset(("header", "keys")) | _COMMON_KEYS,
    "basic": frozenset(("users",)) | _COMMON_KEYS,
    "mtls": frozenset(("subjects", "type", "realm")),
}
# Type of a scheme -> the keys that it must have.
NEEDED_KEYS: Mapping[SchemeKind, tuple[str, ...]] = {
    "oidc": ("issuer", "audience"), "api_key": ("keys",), "basic": ("users",)
}  # fmt: skip
_EVERY_KEY = frozenset().union(*SCHEME_KEYS.values())
HEADER_NAME = r"^[A-Za-z][A-Za-z0-9-]{0,63}$"
SCOPE = r"^[\x21\x23-\x5b\x5d-\x7e]+$"  # RFC 6749 section 3.3
HTTP_URL = rf"^https?://[^{SPACE}/?#@]+(/[^{SPACE}?#]*)?$"
HTTP_ORIGIN = rf"^https?://[^{SPACE}/?#@]+/?$"

SchemeName: TypeAlias = Annotated[str, Field(pattern=SCHEME_NAME), Format("a scheme name", NAME_HINT)]
ClientName: TypeAlias = Annotated[str, Field(pattern=SCHEME_NAME), Format("a client name", NAME_HINT)]
HeaderName: TypeAlias = Annotated[
    str,
    Field(pattern=HEADER_NAME),
    Format("a header name", "use letters, digits and dashes; start with a letter; such as X-API-Key"),
]
Scope: TypeAlias = Annotated[
    str,
    Field(pattern=SCOPE),
    Format("a scope", "use visible characters except quotes and backslashes; write several scopes as a list"),
]
HttpUrl: TypeAlias = Annotated[
    str,
    Field(pattern=HTTP_URL),
    Format("an http or https URL", "such as https://id.example/token, without user, query and fragment"),
]
HttpOrigin: TypeAlias = Annotated[
    str,
    Field(pattern=HTTP_ORIGIN),
    Format("an http or https origin", "such as https://billing.example, with scheme, host and port only"),
]
Realm: TypeAlias = Annotated[
    str,
    Field(pattern=r"^[ !#-\[\]-~]+$", max_length=100),
    Format("a realm", "use printable ASCII characters except quotes and backslashes"),
]

Texts: TypeAlias = Annotated[
    tuple[Annotated[str, Field(min_length=1)], ...], Field(strict=False, min_length=1), BeforeValidator(as_list)
]


class AuthScheme(Section):
    """One authentication scheme. Its `type` decides which keys apply. Any other key is an error."""

    kinds = Kinds(
        tuple(
            Kind("type", kind, without=_EVERY_KEY - SCHEME_KEYS[kind], required=NEEDED_KEYS.get(kind, ()))
            for kind in KINDS
        ),
        required=("type",),
        named=True,
    )

    type: SchemeKind | None = key(
        None,
        "Type of the scheme. If omitted, the scheme's name is also its type, provided that it is one of these types.",
        "oidc",
    )
    # jwt, oidc
    secret: SecretToken | None = key(
        None,
        "jwt, oidc: secret that tokens are signed with. It must have at least 32 bytes for HS256, 48 for HS384, 64"
        " for HS512.",
        "${secret:JWT_SECRET}",
    )
    public_key: SecretText | None = key(
        None,
        "jwt, oidc: a public key, certificate, JWK or JWK set. Either a path relative to the manifest, or the text"
        " itself.",
        "keys/issuer.pem",
    )
    jwks_url: HttpUrl | None = key(
        None,
        "jwt, oidc: URL of the issuer's JWK set, which contains its keys (RFC 7517).",
        "https://id.example/jwks.json",
    )
    issuer: Annotated[str, Field(min_length=1)] | None = key(
        None,
        "jwt, oidc: required value of the claim `iss`. For oidc, it is also the URL of the issuer's metadata; or `dev`,"
        " under `dev` and `up` only: a private issuer, for which pywatt-host token makes tokens.",
        "https://id.example",
    )
    audience: Texts | None = key(
        None,
        "jwt, oidc: accepted audiences, of which the claim `aud` must contain at least one. If omitted, a token"
        " that names an audience is refused (RFC 7519 section 4.1.3).",
        "users",
    )
    algorithms: Annotated[tuple[Algorithm, ...], Field(strict=False, min_length=1), BeforeValidator(as_list)] | None = (
        key(
            None,
            "jwt, oidc: accepted signature algorithms. If omitted: HS256 with `secret`, otherwise RS256, ES256 and"
            " EdDSA.",
            ["RS256"],
        )
    )
    typ: Texts | None = key(
        None,
        "jwt, oidc: accepted values of the token's `typ` header. If omitted, `typ` may be missing, JWT or at+jwt.",
        "at+jwt",
    )
    leeway: Duration = key(30.0, "jwt, oidc: how far the clocks of the issuer and the host may differ.", "1m")
    required_claims: Annotated[
        tuple[Annotated[str, Field(min_length=1)], ...], Field(strict=False), BeforeValidator(as_list)
    ] = key(("exp",), "jwt, oidc: claims that every token must have.", ["exp", "sub"])
    allow_weak_secret: Bool = key(
        False, "jwt, oidc: whether a `secret` that is too short is accepted, with a warning.", True
    )
    allow_http: Bool = key(
        False,
        "jwt, oidc: whether the host may fetch keys from another machine without TLS. Only for a network that you"
        " trust.",
        True,
    )
    allow_private: Bool = key(
        False,
        "oidc: whether the issuer's metadata may point to another host with a private address for the keys.",
        True,
    )
    # api_key
    header: HeaderName | None = key(None, "api_key: header that contains the key. If omitted, X-API-Key.", "X-API-Key")
    keys: SecretToken | None = key(
        None,
        "api_key: the accepted keys, one per line or separated by commas. Each is KEY or NAME:KEY. The name"
        " becomes the subject.",
        "${secret:API_KEYS}",
    )
    # basic
    users: SecretToken | None = key(
        None,
        "basic: one USER:PASSWORD per line. The password is plain text, or a bcrypt hash as `htpasswd -B` writes it.",
        "${secret:OPS_USERS}",
    )
    # mtls
    subjects: Texts | None = key(
        None,
        "mtls: names of which the client's certificate must have one: a subject such as `CN=billing,*` (RFC 4514), or"
        " an alternative name such as `DNS:billing.example`, `DNS:*.example`, `URI:spiffe://example/jobs/*`,"
        " `email:ann@example.com` or `IP:192.0.2.1`. The match becomes the subject. If omitted, every verified"
        " certificate is accepted.",
        ["CN=billing,*", "DNS:billing.example"],
    )
    # all of them
    previous: DurationOrOff = key(
        300.0,
        "How long a value is still accepted after a secret rotation has replaced it. `off`: it is refused at once.",
        "5m",
    )
    realm: Realm | None = key(
        None, "Name of the protected space in the WWW-Authenticate challenge. If omitted, the module's id.", "users"
    )

    @property
    def uses_dev_issuer(self) -> bool:
        """Whether the private issuer of `dev` and `up` signs its tokens."""
        return self.type == "oidc" and self.issuer == DEV_ISSUER


def named(schemes: dict[str, AuthScheme]) -> dict[str, AuthScheme]:
    """Set the `type` of each scheme that has none to the scheme's name, if the name is one of the types."""
    return {
        name: scheme.model_copy(update={"type": name}) if scheme.type is None and name in KINDS else scheme
        for name, scheme in schemes.items()
    }


def _claim(value: Any) -> Any:
    if isinstance(value, str | int | float) and not (isinstance(value, float) and value != value):
        return value
    raise fault("type", "expected a string, a number or a bool, such as admin")


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
    """What a request must present: a credential for one of the schemes, with these scopes and claims."""

    scheme: Annotated[
        tuple[SchemeName, ...],
        Field(strict=False, min_length=1),
        BeforeValidator(as_list),
    ] = required(
        "Names of schemes in `auth`, or `none`. If there are several, the scheme whose credential the request"
        " presents decides.",
        "jwt",
    )
    scopes: Annotated[tuple[Scope, ...], Field(strict=False), BeforeValidator(as_list)] = key(
        (),
        "Scopes that the credential must have, all of them (claim `scope` or `scp`). Otherwise the response is 403.",
        ["admin"],
    )
    claims: dict[Annotated[str, Field(min_length=1)], ClaimValues] = key(
        dict,
        "Claims that the credential must have. Otherwise the response is 403. A claim must equal the given value,"
        " or one value of a given list. If the claim itself is a list, one matching entry is enough. Dots in a"
        " name lead into nested claims.",
        {"role": ["owner", "admin"]},
    )

    @property
    def open(self) -> bool:
        """Whether no credential is required."""
        return self.scheme == (NO_AUTH,)


# If omitted, no credential is required. `none` states the same explicitly.
Auth: TypeAlias = Annotated[Annotated[Requirement, Deferred()] | None, Short(text="scheme", items="scheme")]


class Client(Section):
    """An OAuth 2.0 client whose token is added to outbound requests (client credentials, RFC 6749 section 4.4)."""

    kinds = Kinds((Kind("issuer", without=frozenset(("token_url",))),), required=("token_url",))

    base_url: HttpOrigin = required(
        "Scheme, host and port of the requests that get the token.", "https://billing.example"
    )
    token_url: HttpUrl | None = key(
        None,
        "URL that issues the tokens. If omitted, the host reads it from the issuer's metadata.",
        "https://id.example/token",
    )
    issuer: HttpUrl | None = key(
        None, "URL of the issuer of the tokens. Use it instead of token_url.", "https://id.example"
    )
    client_id: Annotated[str, Field(min_length=1)] = required("Id of this module at the issuer.", "users")
    client_secret: SecretToken = required("Secret that belongs to client_id.", "${secret:BILLING_SECRET}")
    scopes: Annotated[tuple[Scope, ...], Field(strict=False), BeforeValidator(as_list)] = key(
        (), "Scopes that the host requests for the token.", ["read"]
    )
    audience: Annotated[str, Field(min_length=1)] | None = key(
        None, "Value of the parameter `audience` in the token request, which some issuers require.", "billing"
    )
    method: Literal["basic", "post"] = key(
        "basic",
        "How the host sends the client secret: `basic` (RFC 6749 section 2.3.1) or `post` (in the request body).",
        "post",
    )
    allow_http: Bool = key(
        False,
        "Whether the host may send the client secret and the token to another machine without TLS. Only for a"
        " network that you trust.",
        True,
    )
