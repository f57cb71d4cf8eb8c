"""Tells which variables of a configuration are secrets. Their values are never written into a manifest."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from pywatt_host.manifest.values import SECRET_NAME

# The last word of the name: `TOKEN_TTL` and `SECRET_KEY_FILE` are no secrets.
_NAME = re.compile(
    r"(^|[_-])(SECRETS?|SECRET_?KEY(_BASE)?|PASS(WORD|WD|PHRASE)?|PWD|(AUTH|ACCESS|API|BEARER|REFRESH)?_?TOKENS?"
    r"|(API|ACCESS|PRIVATE)?_?KEYS?|CREDENTIALS?|SALT|DSN)([_-]?\d+)?\Z",
    re.IGNORECASE,
)
_OTHER_KEYS = re.compile(r"(PUBLIC|CACHE|SORT|PARTITION|PRIMARY|FOREIGN|HOST)_?KEYS?\Z", re.IGNORECASE)
# Credentials that services give out, keys and tokens in PEM and JSON form, and passwords in connection strings.
_VALUE = re.compile(
    r"^(sk_live_|sk-|rk_live_|gh[pousr]_|github_pat_|glpat-|AKIA[0-9A-Z]{12}|xox[abprs]-|eyJ[\w-]{10,}\.)"
    r"|-----BEGIN|\b(password|pwd)\s*=\s*[^\s;&]",
    re.IGNORECASE,
)
_NOT_NAMES = frozenset({"PWD", "OLDPWD"})  # working directories
_SECRET_NAME = re.compile(SECRET_NAME[1:-1] + r"\Z")


def is_sensitive(name: str, value: str) -> bool:
    """Whether a variable is a secret: by its name, or because its value has a password or a private key."""
    if name in _NOT_NAMES or not value:
        return False
    named = _NAME.search(name) is not None and _OTHER_KEYS.search(name) is None
    return named or _VALUE.search(value) is not None or _has_password(value)


def can_be_secret_name(name: str) -> bool:
    """Whether a manifest can refer to a secret of this name."""
    return bool(_SECRET_NAME.match(name))


def _has_password(value: str) -> bool:
    if "://" not in value:
        return False
    try:
        return bool(urlsplit(value).password)
    except ValueError:
        return "@" in value
