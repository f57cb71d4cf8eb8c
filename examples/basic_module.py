"""A small HTTP API as a decorated function.

Run it with `python examples/basic_module.py` or `pywatt-host run examples/basic_module.py`.
"""

from __future__ import annotations

from fastapi import FastAPI, HTTPException

from pywatt_host import AnnouncedEndpoint, AppState, pywatt_module
from pywatt_host.fastapi import State

GREETINGS = {"en": "Hello", "de": "Hallo", "fr": "Bonjour"}


@pywatt_module(
    version="1.0.0",
    endpoints=[
        AnnouncedEndpoint(path="/", methods=["GET"]),
        AnnouncedEndpoint(path="/greetings/{language}", methods=["GET"], rate_limit="100/s"),
        AnnouncedEndpoint(path="/health", methods=["GET"]),
    ],
    health="/health",
    config={"name": "world"},
    framework="fastapi",
)
async def create_app(app_state: AppState) -> FastAPI:
    app = FastAPI(title="Greetings")
    greeted = app_state.metrics.counter("greetings", "Greetings given.", labels=["language"])

    @app.get("/")
    async def root(state: State) -> dict[str, str]:
        return {"module": state.module_id, "version": state.manifest.module.version or ""}

    @app.get("/greetings/{language}")
    async def greet(language: str) -> dict[str, str]:
        if language not in GREETINGS:
            raise HTTPException(404, f"no greeting in {language}")
        greeted.labels(language).inc()
        return {"greeting": f"{GREETINGS[language]}, {app_state.config['name']}!"}

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "healthy"}

    return app
