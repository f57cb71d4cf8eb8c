"""Notes in a database, read through a cache: SQLite and memory here; change two lines for PostgreSQL and Redis.

python examples/database_module.py
curl -X POST 'http://127.0.0.1:8080/notes?text=milk'
curl http://127.0.0.1:8080/notes/1
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, HTTPException

from pywatt_host import AnnouncedEndpoint, AppState, pywatt_module


@pywatt_module(
    enable_database=True,
    database_config={"type": "sqlite", "url": "sqlite:///notes.db", "init": "notes.sql"},
    enable_cache=True,
    cache_config={"type": "memory", "ttl": "60s"},
    endpoints=[AnnouncedEndpoint("/notes", methods=["GET", "POST"]), AnnouncedEndpoint("/notes/{id}")],
    metrics=True,
)
async def create_app(app_state: AppState) -> FastAPI:
    app = FastAPI()
    db, cache = app_state.db, app_state.cache

    @app.post("/notes", status_code=201)
    async def write(text: str) -> dict[str, Any]:
        async with db.transaction() as conn:
            await conn.execute("INSERT INTO notes (text) VALUES ($1)", text)
            row = await conn.fetchrow("SELECT id, text FROM notes ORDER BY id DESC LIMIT 1")
        assert row is not None
        return dict(row)

    @app.get("/notes")
    async def listed() -> list[dict[str, Any]]:
        return [dict(row) async for row in db.iterate("SELECT id, text FROM notes ORDER BY id")]

    @app.get("/notes/{id}")
    async def read(id: int) -> dict[str, Any]:
        async def look() -> dict[str, Any] | None:
            row = await db.fetchrow("SELECT id, text FROM notes WHERE id = :id", id=id)
            return dict(row) if row is not None else None

        note: dict[str, Any] | None = await cache.get_or_set(f"note:{id}", look)
        if note is None:
            raise HTTPException(404)
        return note

    return app
