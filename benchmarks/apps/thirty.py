"""A FastAPI application of thirty routes with models, as a small service has them: it shows what a worker takes."""

from __future__ import annotations

import os

from fastapi import FastAPI
from pydantic import BaseModel, create_model

ROUTES = 30

app = FastAPI()


@app.get("/")
async def root() -> dict[str, str]:
    return {"message": "Hello, world!"}


@app.get("/pid")
async def pid() -> int:
    return os.getpid()


def _add(number: int) -> None:
    thing: type[BaseModel] = create_model(f"Thing{number}", name=(str, ...), count=(int, 0), tags=(list[str], []))

    @app.post(f"/things{number}/{{id}}", name=f"thing {number}")
    async def store(id: int, body: thing) -> dict[str, object]:  # type: ignore[valid-type]
        return {"id": id, "body": body}


# The two above are routes as well.
for each in range(ROUTES - 2):
    _add(each)
