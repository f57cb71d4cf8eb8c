"""What a reload does with each changed key: a rule for every key, exact paths, and what only a restart changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pywatt_host.manifest import Manifest, Source, load
from pywatt_host.manifest.schema.shape import key_paths, manifest_shape, shape_at
from pywatt_host.runtime.manifest_answer import manifest_answer
from pywatt_host.workers.plan import RULES, Change, Described, compare, plan, rule_for

FOLDER = Path(__file__).parent


def manifest(server: dict[str, Any] | None = None, **keys: Any) -> Manifest:
    data = {"app": "main:app", "server": {"reload": "signal", **(server or {})}, **keys}
    return load(Source.of_text(json.dumps(data), directory=FOLDER), environ={}).manifest


def paths(old: Manifest, new: Manifest) -> list[tuple[str, str]]:
    return [(change.path, change.action) for change in plan(old, new)]


# The table ------------------------------------------------------------------------------------------------------------


def test_every_key_of_the_model_has_a_rule() -> None:
    rules = {tuple(rule.key.split(".")) for rule in RULES}
    for path in key_paths(manifest_shape()):
        covered = any(path[:length] in rules for length in range(1, len(path) + 1))
        section = any(rule[: len(path)] == path for rule in rules)
        assert covered or section, f"{'.'.join(path)} has no rule in workers/plan.py: add one row"


def test_every_rule_is_about_a_key_of_the_model_and_no_key_has_two() -> None:
    keys = [rule.key for rule in RULES]
    assert [key for key in keys if shape_at(manifest_shape(), key.split(".")) is None] == []
    assert len(keys) == len(set(keys))
    assert [rule.key for rule in RULES if rule.action == "refused" and "restart the host" not in rule.reason] == []


def test_a_key_without_a_rule_is_an_error() -> None:
    with pytest.raises(KeyError, match=r"server\.new"):
        rule_for(("server", "new"))


# Paths ----------------------------------------------------------------------------------------------------------------


def test_equal_manifests_have_no_change() -> None:
    assert plan(manifest(), manifest()) == []
    assert plan(manifest(endpoints=[{"path": "/"}]), manifest(endpoints=[{"path": "/", "methods": ["GET"]}])) == []


def test_the_path_is_that_of_the_deepest_key_that_differs() -> None:
    old = manifest(
        {"limits": {"body": "1MiB", "websocket": {"message": "1MiB"}}},
        endpoints=[{"path": "/"}, {"path": "/a", "methods": ["GET"]}],
        config={"page": {"size": 1, "odd.name": 1}, "kept": True},
        mounts=[{"route_prefix": "/s", "directory": "."}],
        databases={"default": "sqlite:///a.db"},
    )
    new = manifest(
        {"limits": {"body": "1MiB", "websocket": {"message": "2MiB"}}},
        endpoints=[{"path": "/"}, {"path": "/a", "methods": ["GET", "POST"]}],
        config={"page": {"size": 2, "odd.name": 2}, "kept": 1},
        mounts=[{"route_prefix": "/s", "directory": ".", "cache": "1h"}],
        databases={"default": "sqlite:///b.db", "other": "sqlite:///c.db"},
    )
    assert paths(old, new) == [
        ("mounts[0].cache", "rebuilt"),
        ("config.page.size", "rebuilt"),
        ('config.page["odd.name"]', "rebuilt"),
        ("config.kept", "rebuilt"),
        ("server.limits.websocket.message", "rebuilt"),
        ("endpoints[1].methods", "rebuilt"),
        ("databases.default.url", "rebuilt"),
        ("databases.other", "rebuilt"),
    ]


def test_a_list_of_another_length_is_one_change_and_so_is_another_kind_of_value() -> None:
    assert paths(manifest({"listen": "127.0.0.1:1"}), manifest({"listen": ["127.0.0.1:1", "127.0.0.1:2"]})) == [
        ("server.listen", "in_place")
    ]
    assert paths(manifest({"listen": "127.0.0.1:1"}), manifest({"listen": "127.0.0.1:2"})) == [
        ("server.listen[0]", "in_place")
    ]
    assert paths(manifest(), manifest(endpoints=[{"path": "/"}])) == [("endpoints", "rebuilt")]


def test_a_section_that_comes_or_goes_is_one_change() -> None:
    admin = manifest({"admin": {"listen": "127.0.0.1:9090"}})
    assert paths(manifest(), admin) == paths(admin, manifest()) == [("server.admin", "in_place")]
    moved = manifest({"admin": {"listen": "127.0.0.1:9091"}})
    assert paths(admin, moved) == [("server.admin.listen[0]", "in_place")]


# What happens to them -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({}, {"app": "other:app"}, ("app.import_path", "rebuilt")),
        ({}, {"state": "main:build"}, ("state", "rebuilt")),
        ({}, {"auth": {"key": {"type": "api_key", "keys": "${secret:K}"}}}, ("auth.key", "rebuilt")),
        ({}, {"caches": {"default": "memory://"}}, ("caches.default", "rebuilt")),
        ({}, {"health": "/up"}, ("health.path", "rebuilt")),
        ({}, {"metrics": {"enabled": False, "labels": {"a": "b"}}}, ("metrics.labels.a", "in_place")),
        ({}, {"logging": {"level": "debug"}}, ("logging.level", "in_place")),
        ({}, {"logging": {"access": False}}, ("logging.access.enabled", "rebuilt")),
        ({}, {"secrets": ["A"]}, ("secrets.keys.A", "in_place")),
        ({}, {"secrets": {"sources": ["env"]}}, ("secrets.sources", "in_place")),
        ({}, {"server": {"workers": 3, "reload": "signal"}}, ("server.workers.count", "in_place")),
        (
            {},
            {"server": {"workers": {"recycle": {"age": "6h"}}, "reload": "signal"}},
            ("server.workers.recycle.age", "in_place"),
        ),
        (
            {},
            {"server": {"workers": {"start": "spawn"}, "reload": "signal"}},
            ("server.workers.start", "rebuilt"),
        ),
        ({}, {"server": {"reload": "watch"}}, ("server.reload", "in_place")),
        (
            {},
            {"server": {"reload": "signal", "timeouts": {"shutdown": "9s"}}},
            ("server.timeouts.shutdown", "in_place"),
        ),
        ({}, {"server": {"reload": "signal", "timeouts": {"request": "9s"}}}, ("server.timeouts.request", "rebuilt")),
        ({}, {"server": {"reload": "signal", "control": "off"}}, ("server.control", "refused")),
        ({}, {"channels": {"stdio": "off"}}, ("channels.stdio", "refused")),
        ({}, {"services": {"register": [{"name": "a", "type": "api"}]}}, ("services.register", "rebuilt")),
        ({}, {"module": {"id": "other"}}, ("module.id", "refused")),
        ({}, {"module": {"version": "2"}}, ("module.version", "rebuilt")),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_a_change_is_rebuilt_taken_over_in_place_or_refused(
    old: dict[str, Any], new: dict[str, Any], expected: tuple[str, str]
) -> None:
    assert paths(manifest(**old), manifest(**new)) == [expected]


def test_a_refusal_says_why() -> None:
    (change,) = plan(manifest(), manifest(channels={"stdio": "off"}))
    assert change == Change(
        "channels.stdio",
        "refused",
        rule_for(("channels",)).reason,
    )


def test_an_id_that_is_written_out_is_no_change() -> None:
    assert plan(manifest(), manifest(module={"id": FOLDER.name})) == []
    assert plan(manifest(module={"id": "a"}), manifest(module={"id": "b"}))[0].action == "refused"


def test_a_host_that_would_stop_reloading_refuses() -> None:
    two = manifest({"workers": 2})
    off = plan(two, manifest({"workers": 2, "reload": "off"}))
    assert [(change.path, change.action) for change in off] == [("server.reload", "refused")]
    assert off[0].reason == "the host would not reload any more; restart it for that"
    by_default = load(Source.of_text("app: main:app\nserver: {workers: 2}", directory=FOLDER), environ={}).manifest
    one = load(Source.of_text("app: main:app", directory=FOLDER), environ={}).manifest
    (change,) = plan(by_default, one)
    assert (change.path, change.action) == ("server.workers.count", "refused")
    assert "set server.reload: signal" in change.reason
    # Only what was left out leaves with the number of workers.
    assert paths(by_default, manifest({"workers": 1})) == [
        ("server.workers.count", "in_place"),
        ("server.reload", "in_place"),
    ]
    assert paths(two, by_default) == [("server.reload", "in_place")]


@pytest.mark.parametrize("server", [{"reload": "off"}, {"workers": 2, "reload": "off"}])
def test_a_host_that_does_not_reload_refuses_everything(server: dict[str, Any]) -> None:
    found = plan(manifest(server), manifest({**server, "reload": "watch"}, config={"a": 1}, logging={"level": "debug"}))
    assert [change.path for change in found] == ["config.a", "server.reload", "logging.level"]
    assert {change.action for change in found} == {"refused"}
    assert all("server.reload is off" in change.reason for change in found)


# A running host -------------------------------------------------------------------------------------------------------


def test_the_answer_of_a_running_host_is_compared_as_its_manifest_would_be() -> None:
    secret = {"databases": {"default": "postgresql://me:a-long-password@db/users"}}
    old, new = manifest(**secret), manifest({"workers": 3}, **secret)
    answer = json.loads(json.dumps(manifest_answer(old, 4)))
    assert answer["generation"] == 4
    assert "a-long-password" not in str(answer)
    assert compare(Described.running(answer), Described.of(new, masked=True)) == plan(old, new)
    assert compare(Described.running(answer), Described.of(old, masked=True)) == []


def test_a_host_of_another_version_may_have_other_keys() -> None:
    answer = manifest_answer(manifest(), 1)
    del answer["manifest"]["server"]["workers"]
    answer["manifest"]["server"]["later"] = True
    changes = compare(Described.running(answer), Described.of(manifest(), masked=True))
    assert [change.path for change in changes][:2] == ["server.workers.count", "server.workers.start"]
    assert (changes[-1].path, changes[-1].action) == ("server.later", "refused")
    assert "different versions" in changes[-1].reason


@pytest.mark.parametrize("answer", [{}, {"manifest": [], "module_id": "a", "reload": "off"}, {"manifest": {}}])
def test_another_answer_is_an_error(answer: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="not the manifest of a running host"):
        Described.running(answer)
