"""Rules that require a credential and fit no route are named, with the route that was probably meant."""

from __future__ import annotations

from typing import Any

import pytest

from pywatt_host.app.unmatched_rules import unmatched_rules
from pywatt_host.manifest import Manifest, Source, load
from tests.auth.tokens_for_tests import SECRET
from tests.build.test_routes import application
from tests.hosting import hosted, run

ROUTES = (
    ("/", "GET"),
    ("/api/users/{id}", "GET DELETE"),
    ("/api/orders/", "GET POST"),
    ("/admin", "GET"),
    ("/admin/{page}", "GET"),
    ("/live", "WEBSOCKET"),
    ("/any", "*"),
    ("/files/{path:path}", "GET"),
)


def manifest(endpoints: Any) -> Manifest:
    data = {
        "app": "main:app",
        "auth": {"jwt": {"secret": SECRET}},
        "endpoints": endpoints,
        "mounts": [{"route_prefix": "/legacy", "import_path": "m:app"}],
    }
    return load(Source.of_data(data, name="test"), environ={}).manifest


@pytest.mark.parametrize(
    ("rule", "hint"),
    [
        ({"path": "/api/users/{user_id}"}, None),
        ({"path": "/api/users/me"}, None),
        ({"path": "/api/users/{id}/"}, None),
        ({"path": "/api/orders"}, None),
        ({"path": "/admin/{rest:path}"}, None),
        ({"path": "/{rest:path}"}, None),
        ({"path": "/files/a/b"}, None),
        ({"path": "/legacy/anything"}, None),  # its routes cannot be read
        ({"path": "/any", "methods": ["PUT"]}, None),
        ({"path": "/api/users/{id}", "methods": ["HEAD"]}, None),
        ({"path": "/live", "methods": ["WEBSOCKET"]}, None),
        ({"path": "/nowhere", "auth": "none"}, None),  # it protects nothing, and does not mean to
        ({"path": "/nowhere", "auth": None}, None),
        ({"path": "/api/user/{id}"}, "did you mean /api/users/{id}?"),
        ({"path": "/API/users/{id}"}, "did you mean /api/users/{id}?"),
        ({"path": "/users/{id}"}, "did you mean /api/users/{id}?"),
        ({"path": "/admn/{rest:path}"}, "did you mean /admin/{rest:path}?"),
        ({"path": "/Admin"}, "did you mean /admin?"),
        ({"path": "/api/users/{id}", "methods": ["POST"]}, "its methods are GET, DELETE"),
        ({"path": "/zzzzzzzz"}, "run `pywatt-host routes` to see the routes"),
    ],
)
def test_a_protecting_rule_that_fits_no_route_is_named_with_a_near_miss(rule: dict[str, Any], hint: str | None) -> None:
    rule = {key: value for key, value in {"auth": "jwt", **rule}.items() if value is not None}
    other = {"path": "/any", "methods": ["GET"], "auth": "jwt"}
    for endpoints, key in (({"from": "auto", "rules": [other, rule]}, "endpoints.rules[1].path"), ([other, rule], "")):
        of = manifest(endpoints)
        apps = [application(of, *ROUTES), application(of, opaque=True, mount=0)]
        if not key:
            if "methods" not in rule:
                continue  # an endpoint is for GET, a rule for every method
            key = "endpoints[1].path"
        assert [(each.key, each.hint) for each in unmatched_rules(of, apps)] == ([(key, hint)] if hint else [])


def test_the_start_warns_about_it() -> None:
    from starlette.applications import Starlette
    from starlette.routing import Route

    async def main() -> None:
        rules = [{"path": "/api/user/{id}", "auth": "jwt"}, {"path": "/api/users/{id}", "auth": "jwt"}]
        data = {"auth": {"jwt": {"secret": SECRET}}, "endpoints": {"from": "auto", "auth": "none", "rules": rules}}
        async with hosted(data, Starlette(routes=[Route("/api/users/{id}", print)])) as host:
            warnings = [each for each in host.logs("pywatt.edge") if each.get("key", "").startswith("endpoints")]
            assert [(each["level"], each["key"]) for each in warnings] == [("warning", "endpoints.rules[0].path")]
            assert "did you mean /api/users/{id}?" in warnings[0]["message"]

    run(main)
