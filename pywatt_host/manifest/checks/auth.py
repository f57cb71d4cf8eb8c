"""Whether `auth`, what endpoints ask for, and `clients` fit each other: what no single section can see."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias
from urllib.parse import urlsplit

from pywatt_host.manifest.model import AuthScheme, AutoEndpoints, Manifest, Requirement
from pywatt_host.manifest.model.auth import KINDS, NO_AUTH
from pywatt_host.manifest.problems import KeyPath, Severity, near_miss
from pywatt_host.manifest.values.addresses import is_loopback

Add: TypeAlias = Callable[[KeyPath, str, str, str, Severity], None]

_TOKEN = frozenset(
    (
        "secret", "public_key", "jwks_url", "issuer", "audience", "algorithms", "typ", "leeway", "required_claims",
        "allow_weak_secret", "allow_http", "allow_private",
    )
)  # fmt: skip
_COMMON = frozenset(("type", "previous", "realm"))
# Type of a scheme -> the keys that mean something there.
_KEYS: Mapping[str, frozenset[str]] = {
    "jwt": _TOKEN | _COMMON,
    "oidc": _TOKEN | _COMMON,
    "api_key": frozenset(("header", "keys")) | _COMMON,
    "basic": frozenset(("users",)) | _COMMON,
}
_NEEDED = {"api_key": "keys", "basic": "users"}
# RFC 7518 section 3.2: a key as long as the hash at least. In octets.
WEAKEST = {"HS256": 32, "HS384": 48, "HS512": 64}
# Headers that mean something already, so that no key can be looked for in them.
_TAKEN = frozenset(
    ("authorization", "cookie", "host", "connection", "content-type", "content-length", "transfer-encoding", "origin")
)


def weakest(scheme: AuthScheme) -> int:
    """The least number of octets of a scheme's secret."""
    return max(WEAKEST[algorithm] for algorithm in scheme.algorithms or ("HS256",))


def requirements(manifest: Manifest) -> Iterator[tuple[KeyPath, Requirement]]:
    """Everything in a manifest that asks for a credential, or says that it does not."""
    endpoints = manifest.endpoints
    if isinstance(endpoints, AutoEndpoints):
        if endpoints.auth is not None:
            yield ("endpoints", "auth"), endpoints.auth
        for number, rule in enumerate(endpoints.rules):
            if rule.auth is not None:
                yield ("endpoints", "rules", number, "auth"), rule.auth
    else:
        for number, endpoint in enumerate(endpoints):
            if endpoint.auth is not None:
                yield ("endpoints", number, "auth"), endpoint.auth
    if manifest.metrics.enabled and manifest.metrics.auth is not None:
        yield ("metrics", "auth"), manifest.metrics.auth


class AuthChecks:
    """Reports through `add`; `unset` says whether a value was left out because a variable is not set."""

    def __init__(self, manifest: Manifest, add: Add, unset: Callable[[KeyPath], bool]) -> None:
        self._manifest = manifest
        self._add = add
        self._unset = unset
        self._faulty: set[str] = set()  # schemes of which something else is said

    def check(self) -> None:
        for name, scheme in self._manifest.auth.items():
            self._scheme(name, scheme)
        self._requirements()
        self._open_beside_protected()
        self._clients()

    def _fault(self, path: KeyPath, code: str, message: str, hint: str) -> None:
        if path[0] == "auth":
            self._faulty.add(str(path[1]))
        if not self._unset(path):
            self._add(path, code, message, hint, "error")

    # Schemes --------------------------------------------------------------------------------------------------------

    def _scheme(self, name: str, scheme: AuthScheme) -> None:
        path: KeyPath = ("auth", name)
        if name == NO_AUTH:
            self._fault(path, "reserved", "`none` says that nobody is asked, so that no scheme can be called so", "")
            return
        if scheme.type is None:
            hint = f"type: {' | '.join(KINDS)}; a scheme that is called like one of these needs none"
            self._fault((*path, "type"), "incomplete", "is missing", hint)
            return
        for key in sorted(scheme.model_fields_set - _KEYS[scheme.type]):
            owners = " and ".join(kind for kind in KINDS if key in _KEYS[kind])
            self._fault((*path, key), "conflict", f"says nothing for type {scheme.type}: it is for {owners}", "")
        if scheme.type in _NEEDED:
            needed = _NEEDED[scheme.type]
            if getattr(scheme, needed) is None:
                example = f"{needed}: ${{secret:{name.upper().replace('-', '_').replace('.', '_')}_{needed.upper()}}}"
                self._fault((*path, needed), "incomplete", "is missing", f"such as {example}")
            if scheme.header is not None and scheme.header.lower() in _TAKEN:
                message = f"the header {scheme.header} has a meaning of its own"
                self._fault((*path, "header"), "conflict", message, "such as X-API-Key")
            return
        self._token_scheme(path, scheme)

    def _token_scheme(self, path: KeyPath, scheme: AuthScheme) -> None:
        given = [key for key in ("secret", "public_key", "jwks_url") if getattr(scheme, key) is not None]
        if len(given) > 1:
            message = f"a scheme has one kind of key, and not {' and '.join(given)}"
            self._fault((*path, given[1]), "conflict", message, "make a scheme of each, and let endpoints name both")
        if scheme.type == "oidc" and scheme.issuer is None:
            self._fault((*path, "issuer"), "incomplete", "is missing", "such as issuer: https://id.example")
        if scheme.type == "oidc" and scheme.audience is None:
            hint = "such as audience: users; tokens for somebody else would be taken without"
            self._fault((*path, "audience"), "incomplete", "is missing", hint)
        if scheme.type == "jwt" and not given:
            hint = "secret: ${secret:JWT_SECRET}, public_key or jwks_url; or type: oidc with an issuer"
            self._fault((*path, "secret"), "no-key", "is missing: a token could not be verified", hint)
        if scheme.algorithms is not None:
            wrong = [each for each in scheme.algorithms if (each in WEAKEST) != ("secret" in given)]
            if wrong and len(given) < 2:
                what = "`secret` goes with HS256, HS384 and HS512" if "secret" in given else "HS256, HS384 and HS512"
                message = f"{', '.join(wrong)} cannot be verified with the key of this scheme"
                more = " alone" if "secret" in given else " need `secret`"
                self._fault((*path, "algorithms"), "algorithm", message, what + more)
                return
        self._plain_http(path, scheme)
        if isinstance(scheme.secret, str) and not scheme.allow_weak_secret and len(given) == 1:
            self._literal_secret(path, scheme.secret, weakest(scheme))

    def _literal_secret(self, path: KeyPath, secret: str, least: int) -> None:
        length = len(secret.encode("utf-8", "surrogatepass"))
        if length < least:
            message = f"the secret is too short: at least {least} octets are wanted (RFC 7518 section 3.2)"
            hint = "python -c 'import secrets; print(secrets.token_urlsafe(48))' makes one; or allow_weak_secret: true"
            self._fault((*path, "secret"), "weak-secret", message, hint)

    def _plain_http(self, path: KeyPath, scheme: AuthScheme) -> None:
        for key in ("jwks_url", "issuer"):
            url = getattr(scheme, key)
            fetched = key == "jwks_url" or (
                scheme.type == "oidc" and not (scheme.jwks_url or scheme.public_key or scheme.secret)
            )
            if url is None or not fetched:
                continue
            if key == "issuer" and not url.startswith(("http://", "https://")):
                message = "the issuer's metadata are fetched from it, so it must be a URL"
                self._fault((*path, key), "url", message, "such as https://id.example; or give jwks_url")
            elif not scheme.allow_http and is_plain(url):
                message = "keys that come without TLS could be anybody's"
                self._fault((*path, key), "insecure", message, "write https://, or allow_http: true")

    # What asks for them ---------------------------------------------------------------------------------------------

    def _requirements(self) -> None:
        schemes = self._manifest.auth
        used: set[str] = set()
        for path, requirement in requirements(self._manifest):
            used.update(requirement.scheme)
            single = len(requirement.scheme) == 1
            for number, name in enumerate(requirement.scheme):
                place = (*path, "scheme") if single else (*path, "scheme", number)
                if name == NO_AUTH:
                    if not single or requirement.scopes or requirement.claims:
                        message = "`none` asks nobody, so that it cannot stand beside anything else"
                        self._fault(place, "conflict", message, "leave it out")
                elif name not in schemes:
                    declared = ", ".join(schemes) or "none"
                    meant = near_miss(name, [*schemes, NO_AUTH])
                    told = f"declared: {declared}" + (f'; did you mean "{meant}"?' if meant else "")
                    self._fault(place, "unknown-scheme", f'"{name}" is not a declared scheme', told)
                elif name in requirement.scheme[:number]:
                    self._fault(place, "conflict", f'"{name}" stands twice', "leave it out")
        if not used <= {*schemes, NO_AUTH}:
            return  # a name that is wrong may stand for one that nothing else asks for
        for name in schemes:
            if name not in used and name not in self._faulty:
                hint = "give an endpoint `auth: " + name + "`, or remove it"
                self._add(("auth", name), "unused-scheme", "nothing asks for this scheme", hint, "warning")

    def _open_beside_protected(self) -> None:
        endpoints = self._manifest.endpoints
        if isinstance(endpoints, AutoEndpoints):
            protected = any(rule.auth is not None and not rule.auth.open for rule in endpoints.rules)
            if endpoints.auth is None and protected:
                message = "whatever no rule protects is open to everybody, also what the application gets later"
                hint = "endpoints: {auth: SCHEME, rules: [...]} closes it, auth: none says that it is meant so"
                self._add(("endpoints",), "open-endpoint", message, hint, "warning")
            return
        if any(endpoint.auth is not None and not endpoint.auth.open for endpoint in endpoints):
            for number, endpoint in enumerate(endpoints):
                if endpoint.auth is None:
                    message = "open to everybody, beside endpoints that are not"
                    hint = "auth: none says that it is meant so"
                    self._add(("endpoints", number), "open-endpoint", message, hint, "warning")

    # Clients --------------------------------------------------------------------------------------------------------

    def _clients(self) -> None:
        seen: dict[tuple[str, str | None, int | None], str] = {}
        for name, client in self._manifest.clients.items():
            path: KeyPath = ("clients", name)
            if (client.token_url is None) == (client.issuer is None):
                key = "token_url" if client.token_url is None else "issuer"
                message = "is missing" if client.token_url is None else "says the same as token_url"
                self._fault((*path, key), "conflict", message, "a client has either token_url or issuer")
            for key in ("base_url", "token_url", "issuer"):
                url = getattr(client, key)
                if url is not None and not client.allow_http and is_plain(url):
                    message = "a token that is sent without TLS can be read on the way"
                    self._fault((*path, key), "insecure", message, "write https://, or allow_http: true")
            origin = _origin(client.base_url)
            if origin in seen:
                message = (
                    f"the origin is that of clients.{seen[origin]}, so that it would not be clear whose token it is"
                )
                self._fault((*path, "base_url"), "conflict", message, "")
            seen.setdefault(origin, name)


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = None
    return parts.scheme, parts.hostname, port or {"http": 80, "https": 443}.get(parts.scheme)


def is_plain(url: str) -> bool:
    """Whether it goes over the network without TLS: not https, and to another machine than this one."""
    return url.lower().startswith("http://") and not is_loopback(urlsplit(url).hostname or "")
