"""Details of the host's refusals under `dev`: the rule that refused, and the manifest key that would change it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from pywatt_host.http.allowed_hosts import KEY, ORIGIN_REFUSED
from pywatt_host.http.exchange import Exchange
from pywatt_host.manifest import Manifest, dump
from pywatt_host.manifest.problems import display_path, printable

_LIMITS = {
    413: "the request body is longer than {limit}",
    429: "more requests than {limit}",
    503: "more requests at the same time than {limit}",
    504: "no response began within {limit}",
}
_BROKEN_RULES = {  # the rules of http/paths.py
    "not-a-path": "the request target is not a path",
    "bad-escape": "the path has a percent sign without two hexadecimal digits",
    "encoded-slash": "the path has an encoded slash",
    "backslash": "the path has a backslash",
    "nul": "the path has a NUL",
    "control-character": "the path has a control character",
    "dot-segment": "the path has a dot segment",
    "empty-segment": "the path has an empty segment",
    "not-utf8": "the path is not UTF-8",
    "double-encoding": "the path is percent-encoded twice",
    "look-alike": "the path has a character that some software reads as a slash, a dot or another special character",
}

_AUTH_REASONS = {  # the reasons of auth.identity
    "missing": "no credential was presented",
    "malformed": "the credential has the wrong form",
    "too_large": "the credential is too long",
    "algorithm": "the token is signed with an algorithm that is not allowed (algorithms)",
    "type": "the token has another type (typ)",
    "critical": "the token has header parameters that are not supported (crit, b64)",
    "key": "no key matches the token",
    "signature": "the signature does not match the key",
    "claim_missing": "the token does not have a required claim (required_claims)",
    "claim_type": "a claim of the token has a type that RFC 7519 does not allow",
    "expired": "the token or certificate has expired",
    "not_yet_valid": "the token is not valid yet",
    "issuer": "the token has another issuer (issuer)",
    "audience": "the token is for another audience (audience)",
    "credentials": "the key, user or password is wrong",
    "untrusted": "the server could not verify the client's certificate",
    "subject": "the client's certificate has none of the names that the scheme allows (subjects)",
    "scope": "the credential does not have a scope that the endpoint needs (scopes)",
    "claim": "the credential does not have a claim that the endpoint needs (claims)",
    "unavailable": "the issuer's keys are not available at the moment",
    "busy": "too many credentials are being verified at once",
}

# (exchange, status, reason for the log) -> detail for the client; empty for none
Explain = Callable[[Exchange, int, str], str]


class Explanations:
    """Explains refusals with the keys and values of the manifest in use."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._file = manifest.source.name if manifest.source is not None else "the manifest"
        self._values: dict[str, Any] | None = None

    def __call__(self, exchange: Exchange, status: int, reason: str) -> str:
        method, path = printable(exchange.method[:20]), printable(exchange.path[:200])
        if status == 400 and reason.endswith("(server.paths)"):
            broken = _BROKEN_RULES.get(reason.partition(" ")[0], "the path can be read in more than one way")
            hint = f"write server.paths: lenient in {self._file}, or `paths: lenient` in a mount"
            return f"{broken}; to pass such paths to the application, {hint}"
        if reason == KEY:
            return f"the host does not answer to this Host: add its name to {KEY} in {self._file}"
        if reason == ORIGIN_REFUSED:
            return (
                "a page of another site may not open a WebSocket here: add its origin to server.cors.allow_origins in"
                f" {self._file}"
            )
        if reason == "no such endpoint (endpoints)":
            return f"no endpoint is declared for {method} {path}: add it to endpoints in {self._file}"
        if reason == "no such method here (endpoints)":
            route = exchange.plan.route
            return f"{route} is declared without {method}: add it to its methods in endpoints in {self._file}"
        if reason == "no application under this path":
            return f"no application is mounted at {path}: see app.route_prefix and mounts in {self._file}"
        if reason == "a path of the host":
            key = self._own_path_key(exchange.path)
            return f"{path} is a path of the host ({key} in {self._file}), which accepts GET and HEAD only"
        if reason == "server.timeouts.shutdown":
            return "the host stopped before the request was answered: send it again"
        if reason.startswith("auth."):
            scheme, _, why = reason.partition(": ")
            return f"{_AUTH_REASONS.get(why, why)}; see {scheme} in {self._file}"
        if reason == "another endpoint's path in other words (auth)":
            return "an application may read this path as that of an endpoint which needs another credential"
        if status in _LIMITS:
            return self._over_limit(status, reason)
        return ""

    def _over_limit(self, status: int, key: str) -> str:
        if self._values is None:
            self._values = dict(_leaves(dump(self._manifest, masked=True), ()))
        if key not in self._values:
            return ""
        return _LIMITS[status].format(limit=f"{key} in {self._file}, which is {self._values[key]}")

    def _own_path_key(self, path: str) -> str:
        health = self._manifest.health
        keys = {
            self._manifest.metrics.path: "metrics.path",
            health.path: "health.path",
            health.liveness: "health.liveness",
            health.readiness: "health.readiness",
        }
        return keys.get(path, "health")


def _leaves(value: Any, path: tuple[str | int, ...]) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _leaves(item, (*path, name))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _leaves(item, (*path, number))
    else:
        yield display_path(path), value
