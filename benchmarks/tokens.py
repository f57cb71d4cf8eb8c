"""The tokens that the load brings along, and the secret that they are signed with: a client of its own on each
connection."""

from __future__ import annotations

from pywatt_host.auth.minting import mint

SECRET = "the secret of the benchmarks, of more than 32 octets"
_FAR = 4_102_444_800  # the year 2100, in seconds since the epoch


def authorization(number: int) -> str:
    """The Authorization header of a connection."""
    return f"Bearer {mint(SECRET, {'sub': f'client-{number}', 'scope': 'read write', 'exp': _FAR})}"
