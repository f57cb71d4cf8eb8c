"""What the tests of API keys and passwords share: a clock, and a rotation of a scheme's secrets."""

from __future__ import annotations

from pywatt_host.auth.api_key import ApiKeyScheme
from pywatt_host.auth.basic import BasicScheme


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def renew(scheme: ApiKeyScheme | BasicScheme, **secret_values: str) -> None:
    """Do what a rotation does: the options stay, and the value of the secret changes."""
    scheme._options = scheme._options.model_copy(update=secret_values)
    scheme.prepare({}).commit()
