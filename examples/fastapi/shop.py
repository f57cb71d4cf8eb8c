"""A FastAPI application with a lifespan. Nothing in it knows about the host."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypedDict

from fastapi import FastAPI, HTTPException, Request
from pydantic import BaseModel


class Item(BaseModel):
    name: str
    price: float


class Kept(TypedDict):
    """The state that the lifespan gives to every request."""

    items: dict[str, Item]


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[Kept]:
    yield {"items": {"tea": Item(name="Tea", price=3.5)}}


app = FastAPI(title="Shop", lifespan=lifespan)


@app.get("/items")
async def list_items(request: Request) -> dict[str, Item]:
    items: dict[str, Item] = request.state.items
    return items


@app.get("/items/{sku}")
async def read_item(sku: str, request: Request) -> Item:
    items: dict[str, Item] = request.state.items
    if sku not in items:
        raise HTTPException(404, "no such item")
    return items[sku]


@app.put("/items/{sku}")
async def put_item(sku: str, item: Item, request: Request) -> Item:
    request.state.items[sku] = item
    return item
