"""Checks of `auth` and `clients`, and of the schemes that endpoints and metrics refer to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias
from urllib.parse import urlsplit

from pywatt_host.manifest.checks.left_out import LeftOut
from pywatt_host.manifest.model import AuthScheme, AutoEndpoints, Manifest, Requirement
from pywatt_host.manifest.model.auth import DEV_ALGORITHMS, DEV_ISSUER, KINDS, NO_AUTH, SCHEME_KEYS
from pywatt_host.manifest.problems import KeyPath, Severity, near_miss
from pywatt_host.manifest.values.addresses import is_loopback
from pywatt_host.manifest.values.certificate_names import PatternError, parse_pattern

Add: TypeAlias = Callable[[KeyPath, str, str, str, Severity], None]

_NEEDED = {"api_key": "keys", "basic": "users"}
# RFC 7518 section 3.2: a key is at least as long as the hash. In bytes.
MIN_SECRET_BYTES = {"HS256": 32, "HS384": 48, "HS512": 64}
_NAMED_ENDPOINTS = 3  # in a warning about several
# Headers that have a meaning already, so they cannot contain an API key.
_RESERVED_HEADERS = frozenset(
    ("authorization", "cookie", "host", "connection", "content-type", "content-length", "transfer-encoding", "origin")
)


def min_secret_bytes(scheme: AuthScheme) -> int:
    """The number of bytes that the secret of a scheme must have at least."""
    return max(MIN_SECRET_BYTES[algorithm] for algorithm in scheme.algorithms or ("HS256",))


def requirements(manifest: Manifest) -> Iterator[tuple[KeyPath, Requirement]]:
    """All `auth` keys of endpoints, rules and metrics, with their paths."""
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
    """Reports faults with `add`. `left_out` says which values are unknown."""

    def __init__(self, manifest: Manifest, add: Add, left_out: LeftOut, *, listeners_known: bool = True) -> None:
        """`listeners_known`: the manifest says which listeners there are, and how they are protected. Otherwise an
        orchestrator does, or that part could not be read."""
        self._listeners_known = listeners_known
        self._manifest = manifest
        self._add = add
        self._left_out = left_out
        self._faulty = set(left_out.names(("auth",)))  # schemes with another fault

    def check(self) -> None:
        for name, scheme in self._manifest.auth.items():
            self._scheme(name, scheme)
        self._requirements()
        self._client_certificates()
        self._open_beside_protected()
        self._clients()

    def _fault(self, path: KeyPath, code: str, message: str, hint: str) -> None:
        if path[0] == "auth":
            self._faulty.add(str(path[1]))
        if not self._left_out.holds(path):
            self._add(path, code, message, hint, "error")

    # Schemes --------------------------------------------------------------------------------------------------------

    def _scheme(self, name: str, scheme: AuthScheme) -> None:
        path: KeyPath = ("auth", name)
        if name == NO_AUTH:
            self._fault(
                path,
                "reserved",
                "`none` means that no credential is required, so no scheme can have this name",
                "rename the scheme",
            )
            return
        if scheme.type is None:
            hint = f"set it to {', '.join(KINDS[:-1])} or {KINDS[-1]}, or give the scheme one of these names"
            self._fault((*path, "type"), "incomplete", "this key is required", hint)
            return
        for key in sorted(scheme.model_fields_set - SCHEME_KEYS[scheme.type]):
            owners = " and ".join(", ".join(kind for kind in KINDS if key in SCHEME_KEYS[kind]).rsplit(", ", 1))
            message = f"this key does not apply to type {scheme.type}, only to {owners}"
            self._fault((*path, key), "conflict", message, "remove it")
        if scheme.type in _NEEDED:
            needed = _NEEDED[scheme.type]
            if getattr(scheme, needed) is None:
                example = f"{needed}: ${{secret:{name.upper().replace('-', '_').replace('.', '_')}_{needed.upper()}}}"
                self._fault((*path, needed), "incomplete", "this key is required", f"add it, such as {example}")
            if scheme.header is not None and scheme.header.lower() in _RESERVED_HEADERS:
                message = f"the header {scheme.header} already has another meaning"
                self._fault((*path, "header"), "conflict", message, "use another header, such as X-API-Key")
            return
        if scheme.type == "mtls":
            self._certificate_scheme(path, scheme)
            return
        self._token_scheme(path, scheme)

    def _certificate_scheme(self, path: KeyPath, scheme: AuthScheme) -> None:
        for number, text in enumerate(scheme.subjects or ()):
            try:
                parse_pattern(text)
            except PatternError as error:
                self._fault((*path, "subjects", number), "certificate-name", error.message, error.hint)

    def _token_scheme(self, path: KeyPath, scheme: AuthScheme) -> None:
        given = [key for key in ("secret", "public_key", "jwks_url") if getattr(scheme, key) is not None]
        if len(given) > 1:
            message = f"a scheme can have only one kind of key, not {' and '.join(given)}"
            self._fault(
                (*path, given[1]),
                "conflict",
                message,
                "make a separate scheme for each, and list both schemes in the endpoints",
            )
        if scheme.type == "oidc" and scheme.issuer is None:
            hint = "add it, such as issuer: https://id.example"
            self._fault((*path, "issuer"), "incomplete", "this key is required", hint)
        if scheme.type == "oidc" and scheme.audience is None:
            hint = "add it, such as audience: users; without it, tokens for other services would be accepted"
            self._fault((*path, "audience"), "incomplete", "this key is required", hint)
        if any(self._left_out.holds((*path, key)) for key in ("secret", "public_key", "jwks_url")):
            return
        if scheme.type == "jwt" and not given:
            hint = "set secret: ${secret:JWT_SECRET}, public_key or jwks_url, or use type: oidc with an issuer"
            self._fault((*path, "secret"), "no-key", "the scheme has no key, so tokens cannot be verified", hint)
        if scheme.uses_dev_issuer:
            self._dev_issuer(path, scheme, given)
            return
        if scheme.algorithms is not None:
            wrong = [each for each in scheme.algorithms if (each in MIN_SECRET_BYTES) != ("secret" in given)]
            if wrong and len(given) < 2:
                message = f"{', '.join(wrong)} cannot be verified with the key of this scheme"
                hint = "HS256, HS384 and HS512 require `secret`"
                if "secret" in given:
                    hint = "`secret` verifies only HS256, HS384 and HS512"
                self._fault((*path, "algorithms"), "algorithm", message, hint)
                return
        self._plain_http(path, scheme)
        weak = scheme.allow_weak_secret or self._left_out.holds((*path, "allow_weak_secret"))
        if isinstance(scheme.secret, str) and not weak and len(given) == 1:
            self._literal_secret(path, scheme.secret, min_secret_bytes(scheme))

    def _dev_issuer(self, path: KeyPath, scheme: AuthScheme, given: list[str]) -> None:
        for key in given:
            message = f"`issuer: {DEV_ISSUER}` has keys of its own"
            self._fault((*path, key), "conflict", message, "remove it, or set the URL of the issuer")
        if scheme.algorithms is not None and not set(scheme.algorithms) & set(DEV_ALGORITHMS):
            signs = " and ".join(DEV_ALGORITHMS)
            message = f"the issuer `{DEV_ISSUER}` signs with {signs}, and none of them is accepted"
            self._fault((*path, "algorithms"), "algorithm", message, f"add {DEV_ALGORITHMS[0]}, or remove this key")

    def _literal_secret(self, path: KeyPath, secret: str, least: int) -> None:
        length = len(secret.encode("utf-8", "surrogatepass"))
        if length < least:
            message = f"the secret has fewer than {least} bytes, the minimum of RFC 7518 section 3.2"
            command = "python -c 'import secrets; print(secrets.token_urlsafe(48))'"
            hint = f"{command} makes one; for tests, set allow_weak_secret: true"
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
                message = "the issuer must be a URL, because its metadata is fetched from there"
                self._fault((*path, key), "url", message, "write a URL such as https://id.example, or set jwks_url")
            elif not scheme.allow_http and is_plain(url):
                message = "without TLS, keys can be replaced on the way"
                self._fault((*path, key), "insecure", message, "write https://, or set allow_http: true")

    # Requirements ---------------------------------------------------------------------------------------------------

    def _requirements(self) -> None:
        schemes = dict.fromkeys((*self._manifest.auth, *self._left_out.names(("auth",))))
        used: set[str] = set()
        for path, requirement in requirements(self._manifest):
            used.update(requirement.scheme)
            single = len(requirement.scheme) == 1
            for number, name in enumerate(requirement.scheme):
                place = (*path, "scheme") if single else (*path, "scheme", number)
                if name == NO_AUTH:
                    if not single or requirement.scopes or requirement.claims:
                        message = (
                            "`none` means that no credential is required, so it cannot be combined with anything else"
                        )
                        self._fault(place, "conflict", message, "remove it")
                elif name not in schemes and self._left_out.holds(("auth",)):
                    continue
                elif name not in schemes:
                    declared = ", ".join(schemes) or "none"
                    meant = near_miss(name, [*schemes, NO_AUTH])
                    hint = f"declared: {declared}" + (f'; did you mean "{meant}"?' if meant else "")
                    self._fault(place, "unknown-scheme", f'"{name}" is not a declared scheme', hint)
                elif name in requirement.scheme[:number]:
                    self._fault(place, "conflict", f'"{name}" is listed twice', "remove one of them")
        if not used <= {*schemes, NO_AUTH} or self._requirements_are_unknown():
            return  # the misspelled name may be meant for a scheme that seems to be unused
        for name in schemes:
            if name not in used and name not in self._faulty:
                hint = f"set `auth: {name}` in an endpoint, or remove the scheme"
                self._add(("auth", name), "unused-scheme", "nothing uses this scheme", hint, "warning")

    def _requirements_are_unknown(self) -> bool:
        """Whether a part of the manifest that may refer to a scheme was left out."""
        for key in ("endpoints", "metrics"):
            parts = self._left_out.parts((key,))
            if self._left_out.holds((key,)) or any(
                "auth" in part or isinstance(part[-1], int) or part[-1] == "rules" for part in parts
            ):
                return True
        return False

    def _client_certificates(self) -> None:
        """Schemes of type mtls need a listener that asks clients for their certificate."""
        schemes = {name for name, scheme in self._manifest.auth.items() if scheme.type == "mtls"} - self._faulty
        if not schemes or not self._listeners_known:
            return
        server = self._manifest.server
        every = [server.tls_of(number) for number in range(len(server.listen))]
        plain = [number for number, tls in enumerate(every) if tls is None or tls.tls.demands == "none"]
        public = len(plain) < len(every)
        admin = server.admin is not None and server.admin.tls is not None and server.admin.tls.demands != "none"
        if not public and not admin:
            for name in sorted(schemes):
                message = "no listener asks clients for a certificate, so no request can meet this scheme"
                hint = "set server.tls.client_ca, or tls.client_ca of a listener"
                self._fault(("auth", name), "no-client-certificates", message, hint)
            return
        unmet = [(path, each) for path, each in requirements(self._manifest) if schemes.issuperset(each.scheme)]
        for path, requirement in unmet:
            on_admin = path[0] == "metrics" and server.admin is not None
            if not (admin if on_admin else public):
                key = "server.admin" if on_admin else "server.listen"
                message = f"{key} asks clients for no certificate, so no request can meet {requirement.scheme[0]}"
                hint = f"set {'server.admin.tls' if on_admin else 'server.tls'}.client_ca, or accept another scheme too"
                self._fault((*path, "scheme"), "no-client-certificates", message, hint)
        if public and any(path[0] != "metrics" or server.admin is None for path, _ in unmet):
            for number in plain:
                message = (
                    "clients of this listener show no certificate, so endpoints that need one answer them with 401"
                )
                hint = "give it tls with client_ca, or let the endpoints accept another scheme too"
                self._add(("server", "listen", number), "no-client-certificates", message, hint, "warning")

    def _open_beside_protected(self) -> None:
        endpoints = self._manifest.endpoints
        if isinstance(endpoints, AutoEndpoints):
            protected = any(rule.auth is not None and not rule.auth.open for rule in endpoints.rules)
            if endpoints.auth is None and protected and not self._left_out.holds(("endpoints", "auth")):
                message = "routes that no rule protects are open to everyone, and so are routes that are added later"
                hint = "to protect them, set endpoints.auth to a scheme; if they are meant to be open, set it to none"
                self._add(("endpoints",), "open-endpoint", message, hint, "warning")
            return
        if any(endpoint.auth is not None and not endpoint.auth.open for endpoint in endpoints):
            open_ones = [
                number
                for number, endpoint in enumerate(endpoints)
                if endpoint.auth is None and not self._left_out.holds(("endpoints", number, "auth"))
            ]
            if open_ones:
                message = "this endpoint is open to everyone, while other endpoints require a credential"
                hint = "set `auth` to a scheme; if the endpoint is meant to be open, set `auth: none`"
                if len(open_ones) > 1:
                    known = [each for each in open_ones if not self._left_out.holds(("endpoints", each, "path"))]
                    named = [endpoints[number].path for number in known[:_NAMED_ENDPOINTS]]
                    more = f" and {len(open_ones) - len(named)} more" if len(open_ones) > len(named) else ""
                    shown = ", ".join(named) + more
                    message = (
                        f"{len(open_ones)} endpoints are open to everyone, while others require a credential: {shown}"
                    )
                    hint = "set `auth` to a scheme; where an endpoint is meant to be open, set `auth: none`"
                self._add(("endpoints", open_ones[0]), "open-endpoint", message, hint, "warning")

    # Clients --------------------------------------------------------------------------------------------------------

    def _clients(self) -> None:
        seen: dict[tuple[str, str | None, int | None], str] = {}
        for name, client in self._manifest.clients.items():
            path: KeyPath = ("clients", name)
            known = not any(self._left_out.holds((*path, key)) for key in ("token_url", "issuer"))
            if known and (client.token_url is None) == (client.issuer is None):
                key, message = "issuer", "token_url and issuer are both set"
                if client.token_url is None:
                    key, message = "token_url", "neither token_url nor issuer is set"
                self._fault((*path, key), "conflict", message, "set exactly one of them")
            for key in ("base_url", "token_url", "issuer"):
                url = getattr(client, key)
                if url is not None and not client.allow_http and is_plain(url):
                    message = "without TLS, the token can be read on the way"
                    self._fault((*path, key), "insecure", message, "write https://, or set allow_http: true")
            if self._left_out.holds((*path, "base_url")):
                continue
            origin = _origin(client.base_url)
            if origin in seen:
                message = f"clients.{seen[origin]} has the same origin, so it is not clear which token to send"
                self._fault((*path, "base_url"), "conflict", message, "give each client a different origin")
            seen.setdefault(origin, name)


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = None
    return parts.scheme, parts.hostname, port or {"http": 80, "https": 443}.get(parts.scheme)


def is_plain(url: str) -> bool:
    """Whether requests to the URL cross the network without TLS: http, and not to this machine."""
    return url.lower().startswith("http://") and not is_loopback(urlsplit(url).hostname or "")
