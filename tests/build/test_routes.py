"""From the manifest's endpoints to the edge's table, and declared against served."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pywatt_host.app.applications import Application
from pywatt_host.app.introspection import Route
from pywatt_host.app.route_report import RouteRow, compare
from pywatt_host.build.routes import compile_routes
from pywatt_host.http.endpoints import Table, allowed, lookup
from pywatt_host.manifest import Manifest, Source, load
from pywatt_host.net.limits import LocalLimits
from pywatt_host.observability.metrics import NoRequestMetrics


def manifest(endpoints: Any, *mounts: str, **server: Any) -> Manifest:
    data = {
        "app": "main:app",
        "endpoints": endpoints,
        "mounts": [{"route_prefix": prefix, "import_path": "m:app"} for prefix in mounts],
        "server": server,
    }
    return load(Source.of_data(data, name="test"), environ={}).manifest


def application(of: Manifest, *routes: tuple[str, str], opaque: bool = False, mount: int | None = None) -> Application:
    options = of.app if mount is None else of.mounts[mount]
    assert options is not None
    made = Application("app", options, of)
    if not opaque:
        made.routes = [Route(path, tuple(methods.split()), "") for path, methods in routes]
    return made


# The table ------------------------------------------------------------------------------------------------------------


def test_a_template_with_a_method_twice_is_refused_whatever_its_parameters_are_called() -> None:
    table: Table[int] = Table()
    table.add("/users/{id}", ["GET"], 1)
    table.add("/users/{name}", ["PUT"], 2)
    with pytest.raises(ValueError, match=r"^/users/\{other\} \[GET\] is declared twice$"):
        table.add("/users/{other}", ["POST", "GET"], 3)
    assert table.match("/users/7") == {"GET": 1, "PUT": 2}


def test_the_walk_goes_back_where_a_literal_leads_nowhere() -> None:
    table: Table[int] = Table()
    table.add("/a/b/c", ["GET"], 1)
    table.add("/a/{x}/d", ["GET"], 2)
    table.add("/{rest:path}", ["GET"], 3)
    assert [table.match(path) for path in ("/a/b/c", "/a/b/d", "/a/b/e", "/", "")] == [
        {"GET": 1},
        {"GET": 2},
        {"GET": 3},
        {"GET": 3},
        None,
    ]


def test_a_slash_at_the_end_makes_no_difference_except_where_both_spellings_have_the_method() -> None:
    table: Table[int] = Table()
    for number, (template, method) in enumerate(
        [
            ("/a", "GET"),
            ("/a/", "POST"),
            ("/b", "GET"),
            ("/b/", "*"),
            ("/c/{x}/", "GET"),
            ("/d", "HEAD"),
            ("/d/", "GET"),
        ]
    ):
        table.add(template, [method], number)
    table.add_other_spellings()
    found = {path: table.match(path) for path in ("/a", "/a/", "/b", "/b/", "/c/1", "/c/1/", "/d", "/d/", "/c/")}
    assert found == {
        "/a": {"GET": 0, "POST": 1},
        "/a/": {"GET": 0, "POST": 1},
        "/b": {"GET": 2, "*": 3},
        "/b/": {"*": 3},
        "/c/1": {"GET": 4},
        "/c/1/": {"GET": 4},
        "/d": {"HEAD": 5, "GET": 6},
        "/d/": {"GET": 6},
        "/c/": None,
    }


def test_head_is_get_and_a_star_is_every_method_and_websockets_too() -> None:
    methods = {"GET": 1, "*": 2}
    assert [lookup(methods, method) for method in ("GET", "HEAD", "BREW", "WEBSOCKET")] == [1, 1, 2, 2]
    assert lookup({"WEBSOCKET": 3}, "GET") is None
    assert allowed(["POST", "WEBSOCKET", "GET"]) == "GET, HEAD, POST"


SEGMENTS = st.sampled_from(["a", "b", "c"])
TEMPLATES = st.builds(
    lambda segments, rest: "/" + "/".join([*segments, *(["{rest:path}"] if rest else [])]),
    st.lists(st.one_of(SEGMENTS, st.just("{x}")), max_size=4),
    st.booleans(),
)


def _fits(template: str, path: str) -> list[int] | None:
    """How specific a template is for a path, segment by segment; None where it does not fit. Said plainly."""
    wanted, given_ = template.split("/")[1:], path.split("/")[1:]
    ranks: list[int] = []
    for number, segment in enumerate(wanted):
        if segment == "{rest:path}" and number == len(given_):  # the rest is missing
            return [*ranks, 2]
        if number >= len(given_) or (segment == "{x}" and not given_[number]):
            return None
        if segment == "{rest:path}":  # which may be empty, after its slash
            return [*ranks, 2]
        if segment not in ("{x}", given_[number]):
            return None
        ranks.append(1 if segment == "{x}" else 0)
    return ranks if len(wanted) == len(given_) else None


@given(
    templates=st.lists(TEMPLATES, unique=True, max_size=8),
    path=st.lists(st.sampled_from(["a", "b", "c", "d", ""]), max_size=5).map(lambda parts: "/" + "/".join(parts)),
)
def test_the_table_finds_what_the_rule_in_words_finds(templates: list[str], path: str) -> None:
    table: Table[str] = Table()
    for template in templates:
        table.add(template, ["GET"], template)
    fitting = [(ranks, template) for template in templates if (ranks := _fits(template, path)) is not None]
    found = table.match(path)
    assert (found or {}).get("GET") == (min(fitting)[1] if fitting else None)


# Plans ----------------------------------------------------------------------------------------------------------------


def test_an_endpoint_overrides_the_server_and_its_limits_name_its_keys() -> None:
    of = manifest(
        [{"path": "/a"}, {"path": "/b", "timeout": "off", "body": "1B", "concurrency": 3, "rate_limit": "5/s"}],
        timeouts={"request": "9s"},
        limits={"body": "7B"},
    )
    routes = compile_routes(of, [], NoRequestMetrics(), lambda requirement: None, LocalLimits())
    plain, bounded = [(routes.table.match(path) or {})["GET"] for path in ("/a", "/b")]
    assert (plain.timeout, plain.body, plain.gate, plain.rate) == (9.0, 7, None, None)
    assert (bounded.timeout, bounded.body) == (None, 1)
    assert bounded.gate is not None
    assert bounded.gate.limit == 3
    assert bounded.keys == {
        "timeout": "endpoints[1].timeout",
        "body": "endpoints[1].body",
        "concurrency": "endpoints[1].concurrency",
        "rate": "endpoints[1].rate_limit",
    }
    assert routes.closed


def test_a_rule_is_for_its_methods_and_its_limits_hold_for_all_below_it_together() -> None:
    rules = [{"path": "/api/{p:path}", "methods": ["POST"], "concurrency": 1}, {"path": "/x", "body": "1B"}]
    of = manifest({"from": "auto", "rules": rules})
    app = application(of, ("/api/a", "GET POST"), ("/api/{id}", "POST"), ("/x", "GET"))
    routes = compile_routes(of, [app], NoRequestMetrics(), lambda requirement: None, LocalLimits())

    assert routes.plan_for is not None
    plan_for = routes.plan_for

    def plan(path: str, method: str) -> Any:
        methods = routes.table.match(path)
        return plan_for(lookup(methods, method) if methods else None, path, method)

    first, second = plan("/api/a", "POST"), plan("/api/7", "POST")
    assert (first.route, second.route) == ("/api/a", "/api/{id}")
    assert first.gate is second.gate is not None
    assert plan("/api/a", "POST") is first
    assert plan("/api/a", "GET").gate is None
    assert plan("/x", "GET").body == plan("/x/", "GET").body == 1
    assert plan("/elsewhere", "GET") is routes.unmatched
    assert plan("/api/undeclared/deep", "POST").gate is first.gate


def test_an_application_that_has_a_path_twice_is_no_fault() -> None:
    of = manifest("auto")
    routes = compile_routes(
        of,
        [application(of, ("/a", "GET"), ("/a", "GET POST"))],
        NoRequestMetrics(),
        lambda requirement: None,
        LocalLimits(),
    )
    assert set(routes.table.match("/a") or {}) == {"GET", "POST"}


# Declared against served ----------------------------------------------------------------------------------------------


def states(rows: list[RouteRow]) -> list[tuple[str, tuple[str, ...], str]]:
    return [(row.path, row.methods, row.state) for row in rows]


def test_drift_is_seen_in_both_directions() -> None:
    of = manifest([{"path": "/users/{id}", "methods": ["GET", "PUT"]}, {"path": "/gone"}, {"path": "/ok"}])
    app = application(of, ("/users/{name}", "GET"), ("/ok", "GET POST"), ("/hidden", "GET"))
    assert states(compare(of, [app])) == [
        ("/users/{id}", ("GET", "PUT"), "missing"),
        ("/gone", ("GET",), "missing"),
        ("/ok", ("GET",), "served"),
        ("/ok", ("POST",), "undeclared"),
        ("/hidden", ("GET",), "undeclared"),
    ]


def test_what_an_opaque_application_serves_is_unknown_and_under_auto_all_is_served() -> None:
    of = manifest([{"path": "/legacy/a"}, {"path": "/b"}], "/legacy")
    apps = [application(of), application(of, opaque=True, mount=0)]
    assert states(compare(of, apps)) == [("/legacy/a", ("GET",), "unknown"), ("/b", ("GET",), "missing")]
    of = manifest("auto")
    assert states(compare(of, [application(of, ("/a", "GET POST"))])) == [("/a", ("GET", "POST"), "served")]
