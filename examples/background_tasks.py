"""A Flask application with a job queue: a background worker does the jobs, and the host restarts it when it crashes."""

from __future__ import annotations

import asyncio
import queue
from typing import Any

from flask import Flask, request

from pywatt_host import AnnouncedEndpoint, AppState, pywatt_module


@pywatt_module(
    endpoints=[
        AnnouncedEndpoint(path="/jobs", methods=["POST"], body="4KiB"),
        AnnouncedEndpoint(path="/jobs/{number}"),
    ],
    metrics=True,
    config={"seconds": 0.05},
    framework="flask",
)
def create_app(app_state: AppState) -> Flask:
    app = Flask(__name__)
    jobs: dict[int, dict[str, Any]] = {}
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    done = app_state.metrics.counter("jobs", "Jobs done.")

    async def work() -> None:
        """Do one job after the other. If a job raises an exception, it is dropped, and the host restarts the worker."""
        while True:
            if waiting.empty():
                await asyncio.sleep(0.01)
                continue
            job = jobs[waiting.get()]
            job["state"] = "failed"  # until it succeeds
            await asyncio.sleep(app_state.config["seconds"])
            job["result"] = sum(int(number) for number in job["numbers"].split())
            job["state"] = "done"
            done.inc()

    app_state.spawn(work, name="worker", on_failure="restart")

    @app.post("/jobs")
    def begin() -> tuple[dict[str, Any], int]:
        number = len(jobs) + 1
        jobs[number] = {"state": "waiting", "numbers": request.get_data(as_text=True)}
        waiting.put(number)
        return {"job": number}, 202

    @app.get("/jobs/<int:number>")
    def show(number: int) -> Any:
        return jobs.get(number) or ({"error": "no such job"}, 404)

    @app_state.on_shutdown
    def say_what_is_left() -> None:
        app_state.logger.info("%d jobs are left", waiting.qsize())

    return app
