"""One trace over the gateway, two modules, a message, an outbound request and a query; and what `up` keeps of its
traces."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest

from pywatt_host.runtime.control_client import ask
from tests.collector import Collected, Collector, collecting
from tests.orchestrator.test_up import RUST, Workspace
from tests.process.supervised import until
from tests.processes import PATIENCE, Connection, Project

SHOP = """
    from fastapi import FastAPI, WebSocket

    def create_app(state):
        app = FastAPI()

        @app.get("/orders/{id}")
        async def order(id: int):
            price = await state.request(target="prices", message={"type": "price", "id": id})
            await state.http.get("module://prices/stock/7")
            return price

        @app.websocket("/ws")
        async def ws(socket: WebSocket):
            await socket.accept()
            await socket.close()

        return app
"""
PRICES = """
    from fastapi import FastAPI

    def create_app(state):
        app = FastAPI()

        @state.on_message("price")
        async def price(message):
            return {"price": await state.db.fetchval("SELECT price FROM prices WHERE id = $1", message["id"])}

        @app.get("/stock/{id}")
        async def stock(id: int):
            return id

        return app
"""
# A program of another kind: it sends a span where OpenTelemetry's variables say.
FOREIGN = """
    import json, os, sys, urllib.request
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    request = ExportTraceServiceRequest()
    resource = request.resource_spans.add()
    pair = resource.resource.attributes.add()
    pair.key, pair.value.string_value = "service.name", os.environ["OTEL_SERVICE_NAME"]
    span = resource.scope_spans.add().spans.add()
    span.trace_id, span.span_id, span.name, span.kind = b"\\x05" * 16, b"\\x06" * 8, "foreign work", 1
    name, _, value = os.environ["OTEL_EXPORTER_OTLP_TRACES_HEADERS"].partition("=")
    headers = {"content-type": "application/x-protobuf", name: value}
    url = os.environ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"]
    sys.stdin.readline()
    urllib.request.urlopen(urllib.request.Request(url, request.SerializeToString(), headers)).read()
    print(json.dumps({"listen": "127.0.0.1:1", "endpoints": []}), flush=True)
    for line in sys.stdin:
        if "shutdown" in line:
            break
        if "heartbeat" in line:
            print('{"op":"heartbeat_ack"}', flush=True)
"""


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as found:
        yield found


def module(project: Project, name: str, code: str, keys: str = "") -> dict[str, Any]:
    project.write(f"{name}/main.py", code)
    project.write(f"{name}/pywatt.yaml", f"app: main:create_app\n{keys}")
    return {"manifest": f"{name}/pywatt.yaml"}


def shop_of(project: Project) -> dict[str, Any]:
    project.write("prices/schema.sql", "CREATE TABLE prices (id INTEGER PRIMARY KEY, price INTEGER NOT NULL);\n")
    stores = "databases: {default: {url: 'sqlite:///prices.db', init: schema.sql}}\nserver: {workers: 2}\n"
    return {"shop": module(project, "shop", SHOP), "prices": module(project, "prices", PRICES, stores)}


def traces(workspace: Workspace, path: str = "/traces") -> Any:
    (control,) = (workspace.project.folder / "pywatt").glob(f"*-{workspace.up.child.pid}.sock")
    return ask(control, "GET", path, timeout=PATIENCE)


def below(spans: list[Collected], parent: Collected) -> list[Collected]:
    return [span for span in spans if span.parent == parent.id]


def test_one_trace_over_gateway_modules_message_request_and_query(project: Project, collector: Collector) -> None:
    workspace = Workspace(project, modules=shop_of(project), tracing=collector.url)
    status, _ = workspace.get("/shop/orders/3")
    assert status == 200
    (root,) = collector.wait("GET /shop/orders/{id}")
    collector.wait("GET /stock/{id}", "SELECT prices", "process prices price", "GET /orders/{id}")
    spans = [span for span in collector.spans() if span.trace == root.trace]

    def only(parent: Collected, kind: str, name: str = "") -> Collected:
        (found,) = [span for span in below(spans, parent) if span.kind == kind and name in span.name]
        return found

    assert (root.service, root.kind, root.parent) == ("wattson", "server", "")
    assert (root.attributes["http.route"], root.attributes["http.response.status_code"]) == ("/shop/orders/{id}", 200)
    passed_on = only(root, "client")
    assert (passed_on.service, passed_on.attributes["pywatt.module"]) == ("wattson", "shop")
    assert (root.attributes["url.path"], passed_on.attributes["url.path"]) == ("/shop/orders/3", "/orders/3")
    order = only(passed_on, "server")
    assert (order.service, order.name) == ("shop", "GET /orders/{id}")
    asked, called = only(order, "client", "request prices price"), only(order, "client", "GET")
    handled, stock = only(asked, "consumer"), only(called, "server")
    assert (asked.service, handled.service) == ("shop", "prices")
    assert (called.service, stock.service, stock.name) == ("shop", "prices", "GET /stock/{id}")
    query = only(handled, "client")
    assert (query.service, query.name) == ("prices", "SELECT prices")
    assert query.attributes["db.query.text"] == "SELECT price FROM prices WHERE id = $1"
    assert root.start <= passed_on.start <= order.start <= asked.start <= handled.start <= query.start
    # `up` has the same trace, once.
    kept = traces(workspace, f"/traces/{root.trace}")["spans"]
    assert sorted(span["span_id"] for span in kept) == sorted(span.id for span in spans)
    assert len({span.id for span in spans}) == len(spans)
    assert workspace.up.stop() == 0


def test_up_keeps_traces_without_any_endpoint_and_follows_the_callers_flag(project: Project) -> None:
    workspace = Workspace(project, modules={"shop": module(project, "shop", SHOP)})
    with Connection(workspace.ready()["listen"][0]) as connection:
        trace, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
        unsampled = f"00-{'a' * 32}-{parent}-00"
        connection.request("GET", "/shop/openapi.json", traceparent=unsampled)
        connection.request("GET", "/shop/openapi.json", traceparent=f"00-{trace}-{parent}-01", tracestate="v=1")
        connection.request("GET", "/nowhere")
    until(lambda: {each["trace_id"]: each["spans"] for each in traces(workspace)["traces"]}.get(trace) == 3)
    until(lambda: any(each["name"] == "GET" for each in traces(workspace)["traces"]))
    listed = {each["trace_id"]: each for each in traces(workspace)["traces"]}
    assert "a" * 32 not in listed
    assert (listed[trace]["services"], listed[trace]["errors"]) == (["shop", "wattson"], 0)
    gateway, client, server = traces(workspace, f"/traces/{trace}")["spans"]
    assert (gateway["parent_id"], client["parent_id"], server["parent_id"]) == (
        parent, gateway["span_id"], client["span_id"],
    )  # fmt: skip
    assert (server["service"], server["attributes"]["url.path"]) == ("shop", "/openapi.json")
    nowhere = next(each for each in listed.values() if each["trace_id"] != trace and each["name"] == "GET")
    assert (nowhere["services"], nowhere["spans"]) == (["wattson"], 1)
    assert workspace.up.stop() == 0


def test_spans_of_websockets_and_of_other_programs_and_modules_that_do_not_trace(project: Project) -> None:
    project.write("foreign.py", FOREIGN)
    workspace = Workspace(
        project,
        modules={
            "shop": module(project, "shop", SHOP),
            "quiet": module(project, "quiet", PRICES, "tracing: false\n"),
            "foreign": {"command": [sys.executable, "foreign.py"]},
        },
    )
    with Connection(workspace.ready()["listen"][0]) as connection:
        connection.request("GET", "/quiet/stock/1")
    with Connection(workspace.ready()["listen"][0]) as connection:
        key = {"Sec_WebSocket_Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec_WebSocket_Version": "13"}
        connection.head("GET", "/shop/ws", Upgrade="websocket", Connection="Upgrade", **key)
        assert connection.response_head()[0] == 101
        connection.rest()
    # Beside the traces of the starts.
    wanted = {"foreign work", "GET /quiet/stock/{id}", "GET /shop/ws"}
    until(lambda: wanted <= {each["name"] for each in traces(workspace)["traces"]})
    found = {each["name"]: each for each in traces(workspace)["traces"]}
    assert (found["foreign work"]["services"], found["foreign work"]["spans"]) == (["foreign"], 1)
    assert found["GET /quiet/stock/{id}"]["services"] == ["wattson"]
    until(lambda: {e["name"]: e for e in traces(workspace)["traces"]}["GET /shop/ws"]["spans"] == 3)
    spans = traces(workspace, f"/traces/{found['GET /shop/ws']['trace_id']}")["spans"]
    assert [span["service"] for span in spans] == ["wattson", "wattson", "shop"]
    assert [span["attributes"].get("http.response.status_code") for span in spans] == [101, 101, 101]
    assert workspace.up.stop() == 0


def test_a_workspace_without_traces_keeps_none_and_passes_headers_on_as_they_are(project: Project) -> None:
    workspace = Workspace(project, modules={"rusty": {"command": RUST}}, tracing=False)
    given: dict[str, Any] = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01", "tracestate": "v=1"}
    with Connection(workspace.ready()["listen"][0]) as connection:
        seen = connection.request("GET", "/rusty/things/1", **given).json()["headers"]
    assert {name: seen[name] for name in given} == given
    with pytest.raises(Exception, match="tracing is off"):
        traces(workspace)
    assert workspace.up.stop() == 0
