"""NGINX Unit: six configurations serve the answers that Unit gives, by its documentation; and nothing is dropped."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from pywatt_host.imports import Imported, UnreadableError
from tests.imports.serving import Asked, compare, imported, keys, project

PROXIED = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "203.0.113.7"}


@dataclass(frozen=True)
class Case:
    """A configuration, in which @ is the project's folder, the answers, and the settings that are listed."""

    config: dict[str, Any]
    answers: list[Asked]
    lost: set[str] = field(default_factory=set)
    differs: set[str] = field(default_factory=set)
    exposed: set[str] = field(default_factory=set)


def python(module: str = "wsgi_one", **more: Any) -> dict[str, Any]:
    return {"type": "python", "path": "@", "module": module, **more}


CASES = {
    "django-with-static-files": Case(
        {
            "listeners": {
                "*:8080": {"pass": "routes", "forwarded": {"source": ["10.0.0.0/8", "192.168.1.1-192.168.1.2"]}}
            },
            "routes": [
                {
                    "match": {"uri": "/static/*"},
                    "action": {"share": "@/www$uri", "response_headers": {"Cache-Control": "max-age=60"}},
                },
                {"action": {"pass": "applications/shop"}},
            ],
            "applications": {
                "shop": python(
                    "shop.wsgi",
                    threads=4,
                    processes=2,
                    environment={"MODE": "prod"},
                    user="www",
                    limits={"requests": 100},
                )
            },
            "settings": {"http": {"max_body_size": 2048, "idle_timeout": 60, "log_route": True}},
        },
        [
            Asked("/static/site.css", body="body {}", answered={"cache-control": "public, max-age=60"}),
            Asked("/static/docs/", body="the docs"),
            Asked("/static/none.css", 404),
            Asked("/users", body="GET  /users http 0 prod"),
            Asked("/users", body="GET  /users https 0 prod", headers=PROXIED, client="10.1.2.3"),
            Asked("/users", body="GET  /users http 0 prod", headers=PROXIED, client="172.16.0.1"),
            Asked("/users", method="POST", body="POST  /users http 2048 prod", sent=b"x" * 2048),
            Asked("/users", 413, method="POST", sent=b"x" * 2049),
            Asked("/a//b", body="GET  /a//b http 0 prod"),
        ],
        lost={"applications.shop.user", "settings.http.log_route"},
    ),
    "one-application-at-its-paths": Case(
        {
            "listeners": {"127.0.0.1:8300": {"pass": "routes/main"}},
            "routes": {
                "main": [
                    {
                        "match": {"uri": ["/api/*", "/status"], "method": ["GET", "POST"]},
                        "action": {"pass": "applications/api"},
                    },
                    {"action": {"return": 404}},
                ]
            },
            "applications": {"api": python(callable="second")},
        },
        [
            Asked("/api/users", body="second"),
            Asked("/status", body="second", method="POST"),
            Asked("/status", 405, method="DELETE"),
            Asked("/other", 404),
            Asked("/", 404),
        ],
        differs={"applications.api"},
    ),
    "targets-below-prefixes": Case(
        {
            "listeners": {"*:80": {"pass": "routes"}},
            "routes": [
                {"match": {"uri": "/shop/*"}, "action": {"pass": "applications/both/shop"}},
                {"action": {"pass": "applications/both/root"}},
            ],
            "applications": {
                "both": {
                    "type": "python 3.11",
                    "path": ["@", "@/lib"],
                    "targets": {
                        "root": {"module": "wsgi_one"},
                        "shop": {"module": "shop.wsgi", "prefix": "/shop"},
                    },
                }
            },
        },
        [
            Asked("/shop/cart", body="GET /shop /cart http 0 -"),
            Asked("/cart", body="GET  /cart http 0 -"),
            Asked("/missing", 404, "nothing here"),
        ],
        lost={"applications.both.path"},
    ),
    "asgi-and-a-factory": Case(
        {
            "listeners": {
                "*:8080": {"pass": "applications/chat"},
                "unix:/run/chat.sock": {"pass": "applications/chat", "backlog": 64},
            },
            "applications": {
                "chat": python(
                    "asgi_one", callable="app", protocol="asgi", limits={"timeout": 5}, processes={"max": 3, "spare": 1}
                )
            },
            "access_log": {"path": "/var/log/access.log", "format": "$remote_addr"},
        },
        [Asked("/a", body="GET  /a http 127.0.0.1"), Asked("/missing", 404)],
        lost={"access_log"},
        differs={"applications.chat.limits.timeout", "applications.chat.processes"},
    ),
    "files-first-and-a-host": Case(
        {
            "listeners": {"*:8080": {"pass": "routes"}},
            "routes": [
                {"match": {"uri": "/admin/*", "source": "!10.0.0.1"}, "action": {"return": 403}},
                {"match": {"uri": "/old/*"}, "action": {"return": 301, "location": "/new/"}},
                {"match": {"host": "www.example.org"}, "action": {"return": 301, "location": "https://example.com"}},
                {
                    "match": {"host": ["example.com", "*.example.com"]},
                    "action": {"share": "@/www$uri", "fallback": {"pass": "applications/shop"}},
                },
            ],
            "applications": {"shop": python(), "blog": {"type": "php", "root": "/www/blog"}},
        },
        [
            Asked("/static/site.css", body="body {}", headers={"Host": "www.example.com"}),
            Asked("/users", body="GET  /users http 0 -", headers={"Host": "example.com"}),
            Asked("/users", 421, headers={"Host": "example.org"}),
        ],
        lost={"routes[1].action.return", "routes[2].action.return", "routes[3].action.share", "applications.blog"},
        differs={"routes[3].action", "routes[3].action.share"},
        exposed={"routes[0]"},
    ),
    "only-files": Case(
        {
            "listeners": {"*:8080": {"pass": "routes"}},
            "routes": [{"action": {"share": "@/www$uri", "index": "index.html", "chroot": "@/www"}}],
        },
        [Asked("/", body="the page"), Asked("/static/site.css", body="body {}"), Asked("/users", 404)],
        differs={"routes[0].action.chroot"},
    ),
}


def written(folder: Path, config: Any) -> str:
    path = folder / "unit.json"
    path.write_text(json.dumps(config, indent=2).replace('"@', f'"{folder}'))
    return str(path)


@pytest.mark.parametrize("name", CASES)
def test_a_configuration_serves_the_same_answers(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    project(tmp_path)
    made = imported("unit", written(tmp_path, case.config), folder=tmp_path)
    assert keys(made, "lost") == case.lost
    assert keys(made, "differs") == case.differs | {"health"}
    assert keys(made, "exposed") == case.exposed
    compare(made.files["pywatt.yaml"], tmp_path, case.answers)


def test_applications_that_expect_the_whole_path_become_modules_of_a_workspace(tmp_path: Path) -> None:
    project(tmp_path)
    config = {
        "listeners": {"127.0.0.1:8080": {"pass": "routes"}},
        "routes": [
            {"match": {"uri": "/api/*"}, "action": {"pass": "applications/api"}},
            {"match": {"uri": "/static/*"}, "action": {"share": "@/www$uri"}},
            {"action": {"pass": "applications/shop"}},
        ],
        "applications": {"api": python(), "shop": python("shop.wsgi", environment={"MODE": "prod"})},
    }
    made = imported("unit", written(tmp_path, config), folder=tmp_path)
    assert list(made.files) == ["wattson.yaml", "api-app.yaml", "shop.yaml", "static-files.yaml"]
    workspace = yaml.safe_load(made.files["wattson.yaml"])
    assert workspace["gateway"] == {"listen": "127.0.0.1:8080", "allowed_hosts": ["*"]}
    assert set(workspace["modules"]) == {"api-app", "shop", "static-files"}
    compare(made.files["api-app.yaml"], tmp_path, [Asked("/api/x", body="GET  /api/x http 0 -"), Asked("/x", 404)])
    compare(made.files["shop.yaml"], tmp_path, [Asked("/x", body="GET  /x http 0 prod")])
    compare(made.files["static-files.yaml"], tmp_path, [Asked("/static/site.css", body="body {}"), Asked("/x", 404)])


def test_listeners_that_serve_different_things_become_manifests_of_their_own(tmp_path: Path) -> None:
    project(tmp_path)
    config = {
        "listeners": {
            "*:8080": {"pass": "applications/api"},
            "*:9090": {"pass": "applications/shop"},
            "*:443": {"pass": "applications/api", "tls": {"certificate": "bundle", "session": {"timeout": 5}}},
            "*:80": {"pass": "routes/secure"},
        },
        "routes": {"secure": [{"action": {"return": 301, "location": "https://$host$request_uri"}}]},
        "applications": {"api": python(), "shop": python("shop.wsgi")},
    }
    root = {"certificates": {"bundle": {"key": "RSA (2048 bits)"}}, "status": {"requests": {}}, "config": config}
    made = imported("unit", written(tmp_path, root), folder=tmp_path)
    assert list(made.files) == ["pywatt.yaml", "shop.yaml"]
    server = yaml.safe_load(made.files["pywatt.yaml"])["server"]
    tls = {"cert": "tls/bundle.pem", "key": "tls/bundle.pem"}
    assert server["listen"] == [{"address": ":8080", "tls": "off"}, {"address": ":443", "tls": tls}]
    assert yaml.safe_load(made.files["shop.yaml"])["server"]["listen"] == ":9090"
    assert "config.listeners.*:443.tls.certificate" in keys(made, "todo")
    assert "config.listeners.*:443.tls.session" in keys(made, "lost")


def test_what_one_listener_serves_does_not_hinder_the_others(tmp_path: Path) -> None:
    project(tmp_path)
    both = [
        {"match": {"uri": "/api/*"}, "action": {"pass": "applications/api"}},
        {"action": {"pass": "applications/shop"}},
    ]
    config = {
        "listeners": {
            "*:8002": {"pass": "applications/go"},
            "*:8000": {"pass": "routes/one"},
            "*:8001": {"pass": "routes/two"},
        },
        "routes": {"one": both, "two": both},
        "applications": {"go": {"type": "go"}, "api": python(), "shop": python("shop.wsgi")},
    }
    made = imported("unit", written(tmp_path, config), folder=tmp_path)
    first = ["wattson.yaml", "api-app.yaml", "shop.yaml"]
    assert list(made.files) == [*first, "two.wattson.yaml", "api-app-2.yaml", "shop-2.yaml"]
    assert {"listeners.*:8002", "listeners.*:8002.pass"} <= keys(made, "lost")


def test_a_listener_that_only_redirects_to_https_becomes_a_redirect(tmp_path: Path) -> None:
    project(tmp_path)
    config = {
        "listeners": {
            "*:80": {"pass": "routes"},
            "*:443": {"pass": "applications/api", "tls": {"certificate": ["bundle", "other"]}},
        },
        "routes": [{"action": {"return": 301, "location": "https://${host}$request_uri"}}],
        "applications": {"api": python()},
    }
    made = imported("unit", written(tmp_path, config), folder=tmp_path)
    server = yaml.safe_load(made.files["pywatt.yaml"])["server"]
    assert server["listen"] == ":443"
    assert server["tls"] == {"cert": "tls/bundle.pem", "key": "tls/bundle.pem", "redirect": ":80"}


def test_what_an_action_does_that_the_host_does_not_is_listed_with_its_line(tmp_path: Path) -> None:
    project(tmp_path)
    config = {
        "listeners": {"*:8080": {"pass": "routes"}},
        "routes": [
            {"match": {"headers": {"x-beta": "1"}}, "action": {"pass": "applications/beta"}},
            {"match": {"uri": "/up/*"}, "action": {"proxy": "http://127.0.0.1:9000"}},
            {"match": {"uri": "/balance/*"}, "action": {"pass": "upstreams/pool"}},
            {"match": {"uri": "*.php"}, "action": {"pass": "applications/api"}},
            {"match": {"uri": "/icon.png"}, "action": {"share": "@/www/icon.png"}},
            {"match": {"uri": "/media/*"}, "action": {"share": "@/www$uri", "types": ["image/*"]}},
            {
                "action": {
                    "pass": "applications/api",
                    "rewrite": "/v1$uri",
                    "response_headers": {"X-A": "b", "Server": None},
                }
            },
            {"match": {"uri": "/late/*"}, "action": {"return": 200}},
        ],
        "upstreams": {"pool": {"servers": {"127.0.0.1:1": {}}}},
        "applications": {"api": python(made_up=True), "beta": python()},
        "isolated": {"a": 1},
    }
    name = written(tmp_path, config)
    made = imported("unit", name, folder=tmp_path)
    lost = keys(made, "lost")
    assert {
        "routes[0]",
        "routes[1].action.proxy",
        "routes[2].action.pass",
        "routes[3]",
        "routes[4].action.share",
    } <= lost
    assert {"routes[6].action.rewrite", "routes[6].action.response_headers.Server", "routes[7].action"} <= lost
    assert {"upstreams", "applications.beta", "applications.api.made_up", "isolated"} <= lost
    assert keys(made, "exposed") == {"routes[5].action.types"}
    for finding in made.findings:
        if finding.key == "isolated":
            assert '"isolated"' in Path(name).read_text().splitlines()[finding.place.line - 1]


def test_secrets_among_the_variables_are_left_out(tmp_path: Path) -> None:
    project(tmp_path)
    environment = {"SECRET_KEY": "s3cr3t-value", "DATABASE": "postgresql://u:pass-word%40x@db/x", "TOKEN_TTL": "300"}
    config = {
        "listeners": {"*:8080": {"pass": "applications/api"}},
        "applications": {"api": python(environment=environment)},
    }
    made = imported("unit", written(tmp_path, config), folder=tmp_path)
    manifest = yaml.safe_load(made.files["pywatt.yaml"])
    assert manifest["app"]["env"] == {
        "SECRET_KEY": "${secret:SECRET_KEY}",
        "DATABASE": "${secret:DATABASE}",
        "TOKEN_TTL": "300",
    }
    assert manifest["secrets"] == ["SECRET_KEY", "DATABASE"]
    told = made.files["pywatt.yaml"] + "".join(map(str, made.findings))
    assert "s3cr3t" not in told
    assert "pass-word" not in told


def test_comments_are_allowed_and_do_not_move_lines(tmp_path: Path) -> None:
    project(tmp_path)
    text = """// Unit
    {"listeners": {"*:8080": {"pass": "applications/a"}}, /* two
    lines */ "applications": {"a": {"type": "python", "module": "wsgi_one", // here
      "stderr": "/dev/null", "environment": {"URL": "http://x//y"}}}}
    """
    (tmp_path / "unit.json").write_text(text)
    made = imported("unit", str(tmp_path / "unit.json"), folder=tmp_path)
    assert [finding.place.line for finding in made.findings if finding.key == "applications.a.stderr"] == [4]
    assert "http://x//y" in made.files["pywatt.yaml"]


SMALL = '{"listeners": {"*:80": {"pass": "applications/a"}}, "applications": {"a": {"type": "python", "module": "m"}}}'


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (SMALL[:-1], 1, 'a comma or "}" is expected'),
        (SMALL + "]", 1, "after the end of the document"),
        ('{\n"a": 1,\n"a": 2}', 3, 'the key "a" is given twice'),
        ('{"a": 1,}', 1, "a key in double quotes is expected"),
        ('{"a": tru}', 1, "did you mean true?"),
        ('{"a": "\\ud800"}', 1, "half of a character"),
        ("[" * 100_000, 1, "nested more than 64 times"),
        ("[" + "1," * 21_000 + "1]", 1, "more than 20000 values"),
        ("[]", 1, "is not an object"),
        ("{}", 1, "has no listeners"),
        (SMALL.replace("applications/a", "applications/b"), 1, "there is no application b"),
        (SMALL.replace("applications/a", "routes"), 1, "the configuration has no routes"),
        (SMALL.replace("python", "php"), 1, "the host serves Python"),
        (SMALL.replace('"m"', '"m-n"'), 1, "is not module:attribute"),
        (SMALL.replace("*:80", "*:99999"), 1, "no listener has an address"),
    ],
)
def test_a_fault_is_one_clear_error(text: str, line: int, message: str, tmp_path: Path) -> None:
    (tmp_path / "unit.json").write_text(text)
    with pytest.raises(UnreadableError) as caught:
        imported("unit", str(tmp_path / "unit.json"), folder=tmp_path)
    assert message in str(caught.value)
    assert caught.value.place.line == line


def test_routes_in_a_circle_are_a_fault(tmp_path: Path) -> None:
    config = {
        "listeners": {"*:80": {"pass": "routes/a"}},
        "routes": {"a": [{"action": {"pass": "routes/b"}}], "b": [{"action": {"pass": "routes/a"}}]},
    }
    with pytest.raises(UnreadableError, match="in a circle"):
        imported("unit", written(tmp_path, config), folder=tmp_path)


def test_one_pattern_that_cannot_be_expressed_does_not_drop_the_others(tmp_path: Path) -> None:
    project(tmp_path)

    def made(uri: list[str], action: dict[str, Any]) -> Imported:
        routes = [{"match": {"uri": uri}, "action": action}, {"action": {"pass": "applications/a"}}]
        python = {"type": "python", "module": "wsgi_one"}
        text = json.dumps({"listeners": {"*:80": {"pass": "routes"}}, "routes": routes, "applications": {"a": python}})
        (tmp_path / "unit.json").write_text(text)
        return imported("unit", str(tmp_path / "unit.json"), folder=tmp_path)

    found = made(["/static/*", "*.ico"], {"share": f"{tmp_path}/www$uri"})
    assert [each["route_prefix"] for each in yaml.safe_load(found.files["pywatt.yaml"])["mounts"]] == ["/static"]
    assert [each.message for each in found.findings if each.key == "routes[0].match.uri"] == [
        "a manifest has paths and prefixes, and no patterns like *.ico: the step does not answer these"
    ]
    found = made(["/static/*", "!*.php"], {"share": f"{tmp_path}/www$uri"})
    assert "mounts" not in yaml.safe_load(found.files["pywatt.yaml"])
    assert "routes[0].match.uri" in keys(made(["/a/*", "~^/b$"], {"return": 403}), "exposed")
