"""All cases of the suite."""

from __future__ import annotations

from tests.http.server.connections import connection, framing, heads, responses, upgrades

CASES = [*framing.CASES, *heads.CASES, *connection.CASES, *upgrades.CASES, *responses.CASES]
