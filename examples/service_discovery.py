"""A module that finds another module and asks it, by message and over HTTP.

Run it together with `prices_module.py`: `pywatt-host up examples/service_discovery_wattson.yaml`.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, HTTPException

from pywatt_host import AnnouncedEndpoint, AppState, MessagingError, pywatt_module


@pywatt_module(
    endpoints=[
        AnnouncedEndpoint(path="/providers"),
        AnnouncedEndpoint(path="/total/{article}/{count}"),
        AnnouncedEndpoint(path="/price/{article}"),
    ],
    framework="fastapi",
)
async def create_app(app_state: AppState) -> FastAPI:
    app = FastAPI()

    @app.get("/providers")
    async def providers() -> list[dict[str, Any]]:
        return [
            {"name": each.name, "module": each.module_id, "address": each.address, "healthy": each.is_healthy}
            for each in await app_state.discover_services("prices")
        ]

    @app.get("/total/{article}/{count}")
    async def total(article: str, count: int) -> dict[str, Any]:
        """Ask by message, at the module that offers the service."""
        found = await app_state.discover_services("prices")
        if not found:
            raise HTTPException(503, "no module offers prices; is prices_module running?")
        message = {"type": "quote", "article": article, "count": count}
        try:
            answer = await app_state.request(found[0].module_id, message, timeout=2)
        except MessagingError as error:
            raise HTTPException(502, str(error)) from error
        return dict(answer)

    @app.get("/price/{article}")
    async def price(article: str) -> dict[str, Any]:
        """Ask over HTTP, by the name of the service. The processes that offer it take turns."""
        response = await app_state.http.get(f"module://price-list/prices/{article}")
        if response.status_code != 200:
            raise HTTPException(response.status_code, response.json().get("detail"))
        return dict(response.json())

    return app
