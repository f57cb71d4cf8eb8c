# mypy: disable-error-code="import-not-found, import-untyped"
"""Datasette (ASGI) with one in-memory table: pip install datasette."""

from __future__ import annotations

from typing import Any

from datasette.app import Datasette

TREES = "create table trees (species text, height real); insert into trees values ('oak', 21.5), ('ash', 18.0)"


async def create_app(title: str) -> Any:
    site = Datasette(memory=True, metadata={"title": title})
    await site.add_memory_database("town").execute_write_script(TREES)
    return site.app()
