"""Metrics: the names that operators know, bounded whatever clients send, and the application's own beside them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.parser import text_string_to_metric_families as prometheus

from pywatt_host.types import Receive, Scope, Send
from tests.hosting import Answer, Hosted, Recorder, hello, hosted, run

DURATION = "http_server_request_duration_seconds"
LISTED = {"metrics": True, "endpoints": [{"path": "/users/{id}", "methods": ["GET", "PUT"]}, {"path": "/boom"}]}


async def scrape(host: Hosted, **more: Any) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample by its name and labels."""
    text = (await host.get("/metrics", **more)).body.decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in prometheus(text)
        for sample in family.samples
    }


def count(samples: dict[tuple[str, frozenset[tuple[str, str]]], float], method: str, route: str, status: int) -> float:
    labels = {"http_request_method": method, "http_route": route, "http_response_status_code": str(status)}
    return samples.get((f"{DURATION}_count", frozenset(labels.items())), 0.0)


def test_requests_are_counted_by_method_template_and_status() -> None:
    async def main() -> None:
        async with hosted(LISTED, Recorder()) as host:
            for number in range(3):
                await host.get(f"/users/{number}")
            await host.request("PUT", "/users/1")
            await host.request("DELETE", "/users/1")
            await host.get("/nowhere")
            await host.get("/a//b")
            samples = await scrape(host)
            assert count(samples, "GET", "/users/{id}", 200) == 3
            assert count(samples, "PUT", "/users/{id}", 200) == 1
            assert count(samples, "DELETE", "/users/{id}", 405) == 1
            assert count(samples, "GET", "unmatched", 404) == 1
            assert count(samples, "GET", "unmatched", 400) == 1

    run(main)


def test_probes_and_scrapes_are_not_counted() -> None:
    async def main() -> None:
        async with hosted({"metrics": True}, Recorder()) as host:
            for path in ("/health", "/livez", "/readyz", "/metrics"):
                await host.get(path)
            assert not [key for key in await scrape(host) if key[0].startswith(DURATION)]

    run(main)


def test_the_histogram_is_cumulative_and_its_buckets_are_the_manifests() -> None:
    async def main() -> None:
        manifest = {"metrics": {"buckets": [0.5, 100]}, "endpoints": [{"path": "/"}]}
        async with hosted(manifest, hello) as host:
            await host.get("/")
            text = (await host.get("/metrics")).body.decode()
            (family,) = [family for family in prometheus(text) if family.name == DURATION]
            assert family.type == "histogram"
            buckets = [(s.labels["le"], s.value) for s in family.samples if s.name.endswith("_bucket")]
            assert [le for le, _ in buckets] == ["0.5", "100.0", "+Inf"]
            assert [value for _, value in buckets] == sorted(value for _, value in buckets)
            assert buckets[-1][1] == 1
            assert 0 < next(s.value for s in family.samples if s.name.endswith("_sum")) < 60

    run(main)


def test_the_running_requests_and_the_process_are_there() -> None:
    seen: list[float] = []

    async def main() -> None:
        host: Hosted

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            assert scope["type"] == "http"
            samples = await scrape(host)
            seen.append(samples["http_server_active_requests", frozenset()])
            await hello(scope, receive, send)

        async with hosted({"metrics": True, "health": False}, app) as host:
            await host.get("/")
            assert seen == [1.0]
            samples = await scrape(host)
            assert samples["http_server_active_requests", frozenset()] == 0.0
            assert any(name == "python_info" for name, _ in samples)

    run(main)


def test_ten_thousand_hostile_paths_and_methods_do_not_make_more_series() -> None:
    async def main() -> None:
        async with hosted(LISTED, Recorder()) as host:
            for number in range(5_000):
                await host.request(f"M{number}", f"/users/{number}")
                await host.request("GET", f"/{number}/x")
            samples = await scrape(host)
            counts = {labels: value for (name, labels), value in samples.items() if name == f"{DURATION}_count"}
            assert sum(counts.values()) == 10_000
            assert count(samples, "_OTHER", "/users/{id}", 405) == 5_000
            assert count(samples, "GET", "unmatched", 404) == 5_000
            assert len(counts) == 2

    run(main)


def test_the_same_holds_where_the_application_decides_what_there_is() -> None:
    async def main() -> None:
        async with hosted({"metrics": True, "endpoints": "auto"}, Recorder()) as host:
            for number in range(200):
                await host.request(f"M{number}", f"/{number}")
            assert count(await scrape(host), "_OTHER", "unmatched", 200) == 200

    run(main)


def test_constant_labels_are_on_every_sample() -> None:
    async def main() -> None:
        async with hosted({**LISTED, "metrics": {"labels": {"team": "core"}}}, Recorder()) as host:
            host.state.metrics.counter("sales", labels=("shop",)).labels("a").inc()
            await host.get("/users/1")
            for (name, labels), _ in (await scrape(host)).items():
                assert ("team", "core") in labels, name

    run(main)


def test_openmetrics_is_what_accept_asks_for() -> None:
    async def main() -> None:
        async with hosted(LISTED, Recorder()) as host:
            host.state.metrics.counter("sales").inc(2)
            await host.get("/users/1")
            plain = await host.get("/metrics")
            assert plain.header("content-type").startswith("text/plain; version=")
            answer = await host.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
            assert answer.header("content-type").startswith("application/openmetrics-text; version=1.0.0")
            assert answer.body.endswith(b"# EOF\n")
            text = answer.body.decode()
            families = {family.name: family for family in openmetrics_parser.text_string_to_metric_families(text)}  # type: ignore[no-untyped-call]
            assert families[DURATION].type == "histogram"
            assert [sample.value for sample in families["sales"].samples if sample.name == "sales_total"] == [2.0]

    run(main)


HOSTILE = st.one_of(
    st.text(st.characters(max_codepoint=255), max_size=60),
    st.lists(
        st.sampled_from(
            [
                "application/openmetrics-text",
                "text/plain",
                ";",
                "version=",
                "1.0.0",
                ",",
                "q=0",
                "=",
                "escaping=",
                "x",
                " ",
            ]
        )
    ).map("".join),
    st.builds(
        "{};version={};escaping={}".format,
        st.sampled_from(["application/openmetrics-text", "text/plain"]),
        st.text(st.sampled_from('0123456789.x"\xe9 ;,='), max_size=8),
        st.sampled_from(["", "allow-utf-8", "dots", "values", "x"]),
    ),
)


def test_no_accept_header_makes_a_scrape_fail() -> None:
    async def main() -> None:
        async with hosted({"metrics": True}, Recorder()) as host:
            for accept in [
                "application/openmetrics-text; version",
                "application/openmetrics-text; version=",
                "application/openmetrics-text; version=x.y",
                "text/plain; version=1.0.0; escaping",
                "application/openmetrics-text;version=1.0.0;escaping=nonsense",
                ";;,,;=,=",
                "\xff" * 2000,
            ]:
                assert (await host.get("/metrics", headers={"Accept": accept})).status == 200, accept

    run(main)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(accept=HOSTILE)
def test_no_accept_header_at_all_makes_the_rendering_fail(accept: str) -> None:
    from prometheus_client.registry import CollectorRegistry

    from pywatt_host.observability.exposition import render

    text, content_type = render(CollectorRegistry(), {}, accept)
    assert isinstance(text, bytes)
    assert re.match(r"(text/plain|application/openmetrics-text); version=[0-9.]+(; [a-z0-9=;. _-]+)?\Z", content_type)


# The application's own ------------------------------------------------------------------------------------------------


def test_a_metric_asked_for_twice_is_one_and_shows_in_the_scrape() -> None:
    async def main() -> None:
        async with hosted({"metrics": True}, Recorder()) as host:
            metrics = host.state.metrics
            assert metrics.counter("sales", "What was sold", ["shop"]) is metrics.counter("sales", labels=("shop",))
            metrics.counter("sales", labels=("shop",)).labels("a").inc(3)
            metrics.gauge("stock").set(7)
            metrics.histogram("weight_grams", buckets=(1, 10)).observe(5)
            metrics.summary("age").observe(2)
            samples = await scrape(host)
            assert samples["sales_total", frozenset({("shop", "a")})] == 3
            assert samples["stock", frozenset()] == 7
            assert samples["weight_grams_bucket", frozenset({("le", "10.0")})] == 1
            assert samples["age_count", frozenset()] == 1

    run(main)


def test_a_metric_asked_for_as_something_else_is_an_error_that_says_what_is_there() -> None:
    async def main() -> None:
        async with hosted({"metrics": True}, Recorder()) as host:
            metrics = host.state.metrics
            metrics.counter("sales", labels=("shop",))
            with pytest.raises(ValueError, match=r"'sales' exists already.* counter .*\['shop'\]"):
                metrics.gauge("sales", labels=("shop",))
            with pytest.raises(ValueError, match="already"):
                metrics.counter("sales", labels=("town",))
            metrics.histogram("weight", buckets=(1, 2))
            with pytest.raises(ValueError, match="already"):
                metrics.histogram("weight", buckets=(1, 3))
            for name in (DURATION, "http_server_active_requests"):
                with pytest.raises(ValueError, match=r"[Dd]uplicate|already"):
                    metrics.gauge(name)

    run(main)


def test_a_gauge_has_one_mode_which_changes_nothing_with_one_worker() -> None:
    async def main() -> None:
        async with hosted({"metrics": True}, Recorder()) as host:
            metrics = host.state.metrics
            assert metrics.gauge("stock", mode="sum") is metrics.gauge("stock")
            with pytest.raises(
                ValueError, match=r"'stock' exists already, as a gauge of mode 'sum' with the labels \[\]"
            ):
                metrics.gauge("stock", mode="max")
            with pytest.raises(ValueError, match=r"'stocks': 'min' is not a mode of gauges \(sum, max, last\)"):
                metrics.gauge("stocks", mode="min")  # type: ignore[arg-type]
            metrics.gauge("stock").set(7)
            metrics.gauge("age", labels=("of",), mode="max").labels("x").set(3)
            metrics.gauge("imported", labels=("of",), mode="last").labels(of="x").set(5)
            samples = await scrape(host)
            assert samples["stock", frozenset()] == 7
            assert samples["age", frozenset({("of", "x")})] == 3
            assert samples["imported", frozenset({("of", "x")})] == 5

    run(main)


def test_two_hosts_in_one_process_share_no_metric() -> None:
    async def main() -> None:
        async with hosted({"metrics": True}, Recorder()) as host:
            host.state.metrics.counter("sales").inc()
        async with hosted({"metrics": True}, Recorder()) as host:
            host.state.metrics.counter("sales")
            assert (await scrape(host))["sales_total", frozenset()] == 0

    run(main)


def test_metrics_can_be_off_and_the_application_then_owns_the_path() -> None:
    async def main() -> None:
        app = Recorder()
        async with hosted({"metrics": False}, app) as host:
            assert (await host.get("/metrics")).body == b"seen"

    run(main)


def test_with_an_admin_listener_health_and_metrics_are_there_and_only_there(tmp_path: Path) -> None:
    async def main() -> None:
        app = Recorder()
        manifest = {"metrics": True, "server": {"admin": {"listen": "127.0.0.1:0"}}, "endpoints": [{"path": "/"}]}
        async with hosted(manifest, app) as host:
            for path in ("/health", "/livez", "/readyz", "/metrics"):
                assert (await host.get(path)).status == 404, path
                served: Answer = await host.get(path, admin=True)
                assert served.status == 200, path
                assert (await host.request("POST", path, admin=True)).header("allow") == "GET, HEAD"
            assert (await host.get("/", admin=True)).status == 404
            assert app.scopes == []

    run(main)


def counters(path: str) -> Any:
    from fastapi import FastAPI
    from prometheus_client import CollectorRegistry, make_asgi_app

    app = FastAPI()
    app.mount(path, make_asgi_app(CollectorRegistry()))
    return app


def test_counters_of_the_application_at_the_same_path_are_a_warning_that_says_what_to_do() -> None:
    async def main() -> None:
        async with hosted({"metrics": True}, counters("/metrics")) as host:
            assert b"http_server_active_requests" in (await host.get("/metrics")).body
            (line,) = [line for line in host.logs("pywatt.edge") if line["level"] == "warning"]
            assert line["key"] == "metrics.path"
            assert "hides the route of under_test:app" in line["message"]
            assert "set metrics.path to another path, such as /host/metrics" in line["message"]
        async with hosted({"metrics": "/host-metrics"}, counters("/metrics")) as host:
            assert b"http_server_active_requests" in (await host.get("/host-metrics")).body
            assert (await host.get("/metrics/")).status == 200
            assert host.logs("pywatt.edge") == []

    run(main)


@pytest.mark.parametrize("path", ["/metric", "/metricsx", "/", "/other/metrics"])
def test_routes_elsewhere_are_no_warning(path: str) -> None:
    async def main() -> None:
        async with hosted({"metrics": True}, counters(path)) as host:
            assert host.logs("pywatt.edge") == []

    run(main)
