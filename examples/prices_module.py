"""A module that offers prices to other modules, by message and over HTTP. `service_discovery.py` asks it."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import FastAPI, HTTPException

from pywatt_host import AnnouncedEndpoint, AppState, pywatt_module

PRICES = {"tea": 3, "coffee": 4}


@dataclass
class Quote:
    """The content of a message of type `quote`. The host answers a message that does not fit with an error."""

    article: str
    count: int = 1


@pywatt_module(endpoints=[AnnouncedEndpoint(path="/prices/{article}")], framework="fastapi")
async def create_app(app_state: AppState) -> FastAPI:
    app = FastAPI()
    await app_state.register_service(name="price-list", service_type="prices", address="auto")

    @app_state.on_message("quote")
    async def quote(wanted: Quote) -> dict[str, object]:
        return {"cents": PRICES.get(wanted.article, 0) * wanted.count * 100, "known": wanted.article in PRICES}

    @app.get("/prices/{article}")
    async def price(article: str) -> dict[str, int]:
        if article not in PRICES:
            raise HTTPException(404, f"there is no price for {article}")
        return {"cents": PRICES[article] * 100}

    return app
