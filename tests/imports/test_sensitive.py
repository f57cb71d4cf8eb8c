"""Which variables of a configuration are secrets."""

from __future__ import annotations

import pytest

from pywatt_host.imports.sensitive import is_sensitive


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SECRET_KEY", "x"),
        ("DB_PASSWORD", "x"),
        ("password1", "x"),
        ("STRIPE_KEY", "x"),
        ("AWS_SECRET_ACCESS_KEY", "x"),
        ("GITHUB_TOKEN", "x"),
        ("SENTRY_DSN", "x"),
        ("DATABASE_URL", "postgresql://user:word@db/x"),
        ("CONNECTION", "Server=db;Password=word;"),
        ("PAYMENT", "sk_live_0123456789"),
        ("CERTIFICATE", "-----BEGIN PRIVATE KEY-----"),
    ],
)
def test_a_secret(name: str, value: str) -> None:
    assert is_sensitive(name, value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MODE", "prod"),
        ("TOKEN_TTL", "300"),
        ("SECRET_KEY_FILE", "/run/secrets/key"),
        ("PUBLIC_KEY", "abc"),
        ("CACHE_KEY", "users"),
        ("PWD", "/srv"),
        ("MONKEY", "see"),
        ("DATABASE_URL", "postgresql://db/x"),
        ("DATABASE_URL", "postgresql://user@db/x"),
        ("API_KEY", ""),
    ],
)
def test_no_secret(name: str, value: str) -> None:
    assert not is_sensitive(name, value)
