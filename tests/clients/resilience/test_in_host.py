"""Policies of a manifest in a host: health, metrics, requests to clients."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from pywatt_host.app.state import AppState
from pywatt_host.clients.http import HttpClients
from pywatt_host.clients.resilience.targets import Resilience
from pywatt_host.types import Receive, Scope, Send
from tests.clients.resilience.sides import manifest, side
from tests.hosting import hosted, run

POLICIES = {
    "policies": {
        "retries": {"p": {"duration": "1ms", "max_retries": 2}},
        "circuit_breakers": {"p": {"consecutive_failures": 2}},
    },
    "targets": {"modules": {"users": {"retry": "p", "circuit_breaker": "p"}}},
}


async def nothing(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 404, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def test_health_and_metrics_tell_of_targets() -> None:
    async def main() -> None:
        async with hosted({"resiliency": POLICIES, "metrics": True}, app=nothing) as host:
            checks = (await host.get("/health")).json()["checks"]
            assert "breaker:users" in checks
            with pytest.raises(httpx.ConnectError, match="there is no orchestrator"):
                await host.state.http.get("module://users/")
            text = (await host.get("/metrics")).body.decode()
            assert 'pywatt_circuit_breaker_state{target="users"} 2.0' in text
            assert 'pywatt_circuit_breaker_rejected_total{target="users"} 0.0' in text
            assert 'pywatt_retries_total{target="users"} 1.0' in text

    run(main)


def test_the_blocking_client_of_an_application_keeps_to_them_too() -> None:
    async def main() -> None:
        def create_app(state: AppState) -> Any:
            def app(environ: Any, start_response: Any) -> list[bytes]:
                if environ["PATH_INFO"] == "/ask":
                    with pytest.raises(httpx.ConnectError, match="there is no orchestrator"):
                        state.sync.http.get("module://users/")
                start_response("200 OK", [("content-length", "0")])
                return []

            return app

        async with hosted({"resiliency": POLICIES}, app=create_app) as host:
            assert (await host.get("/ask")).status == 200

    run(main)


@pytest.mark.parametrize("blocking", [False, True])
def test_a_client_is_its_origin_and_no_other_port(blocking: bool) -> None:
    async def main() -> None:
        async with side("target") as target, side("other") as other:
            client = {"base_url": target.address, "token_url": f"{other.address}/token", "client_id": "a"}
            made = manifest({}, {"payments": client | {"client_secret": "b"}}, retries={"p": {"duration": "1ms"}})
            resilience = Resilience(made)
            outbound = HttpClients(resilience=resilience)

            async def ask(url: str) -> httpx.Response:
                if blocking:
                    return await asyncio.to_thread(lambda: outbound.blocking().get(url))
                return await outbound.client().get(url)

            async with asyncio.TaskGroup() as tasks, outbound.running(tasks):
                target.statuses, other.statuses = [503, 0], [503]
                assert (await ask(f"{target.address}/a")).text == "target"
                assert len(target.lines) == 3
                assert (await ask(f"{other.address}/a")).status_code == 503
                assert len(other.lines) == 1
            assert resilience.for_client("payments").retries == 2
            assert resilience.for_client("whoever").schedule is None

    run(main)
