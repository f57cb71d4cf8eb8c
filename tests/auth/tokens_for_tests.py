"""Tokens of the simplest kind, made with the library itself and not with what is under test."""

from __future__ import annotations

import time
from typing import Any

from joserfc import jwt
from joserfc.jwk import OctKey

SECRET = "a secret of more than thirty-two bytes"


def signed(secret: str = SECRET, **claims: Any) -> str:
    """An HS256 token that holds for ten minutes, unless the claims say otherwise; None takes one out."""
    said = {"sub": "test", "exp": int(time.time()) + 600, **claims}
    kept = {name: value for name, value in said.items() if value is not None}
    return jwt.encode({"alg": "HS256", "typ": "JWT"}, kept, OctKey.import_key(secret))
