"""Faults of different sections do not hide each other: any of them together give what each gives alone."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from pywatt_host.exceptions import ManifestError
from pywatt_host.manifest import Source, load

SCHEMES = {"key": {"type": "api_key", "keys": "${secret:KEYS}"}}
GOOD: dict[str, Any] = {"app": "main:app"}

# Each is a fault, or several, of one section, of every kind: structure, types, references, files, values.
FAULTS: dict[str, dict[str, Any]] = {
    "app-folder": {"app": {"import_path": "main:app", "working_dir": "not-there"}},
    "app-path": {"app": {"import_path": "main.py", "threads": 0}},
    "app-env": {"app": {"import_path": "main:app", "env": {"A": "${NOT_SET}", "B": "a\0b"}}},
    "unknown-section": {"profils": {}},
    "misplaced": {"workers": 4},
    "mounts": {
        "mounts": [{"route_prefix": "/a", "directory": "not-there"}, {"route_prefix": "/a", "import_path": "b:c"}]
    },
    "listen": {"server": {"listen": [8080, ":8080", ":8080"]}},
    "limits": {"server": {"limits": {"body": "10mb"}, "trusted_proxies": ["10.0.0.1/8", "0.0.0.0/0"]}},
    "redirect": {"server": {"listen": "unix:a.sock", "admin": {"listen": "unix:a.sock"}, "timeouts": {"header": 5}}},
    "secrets": {"secrets": {"sources": ["env", "env"], "keys": {"A": {"type": "int", "default": 5}}}},
    "endpoints": {"endpoints": [{"path": "/a", "auth": "kye"}, {"path": "/a"}, {"path": "b"}, {"methods": ["GET"]}]},
    "rules": {"endpoints": {"from": "auto", "auth": "key", "rules": [{"path": "/a", "auth": "none", "timeout": 5}]}},
    "schemes": {"auth": {"weak": {"type": "jwt", "secret": "short", "leeway": 5}, "none": {"type": "jwt"}}},
    "health": {"health": {"path": "/up", "liveness": "/up", "interval": "5"}},
    "metrics": {"metrics": {"path": "/livez", "auth": "nobody"}},
    "channels": {"channels": {"ipc": {"mode": "rw"}, "tcp": {"listen": ":9000"}, "limits": {"frame": 1}}},
    "resiliency": {
        "resiliency": {
            "policies": {"timeouts": {"fast": 2}},
            "targets": {
                "modules": {"a": {"timeout": "fast", "retry": "gentle"}},
                "clients": {"b": {"timeout": "fats"}},
            },
        }
    },
    "clients": {"clients": {"c": {"base_url": "http://c.example", "client_id": 5, "client_secret": "${secret:C}"}}},
    "databases": {"databases": {"default": "psql://h/d", "b": {"url": "sqlite:///b.db", "init": "not-there.sql"}}},
    "caches": {"caches": {"default": {"url": "redis://h", "max_entries": 5, "ttl": 5}}},
    "services": {
        "services": {"register": [{"name": "a"}], "static": [{"name": "b", "type": "module", "address": "?"}]}
    },
    "logging": {"logging": {"level": "loud"}},
    "tracing": {"tracing": "127.0.0.1:4318"},
    "version": {"version": 2},
}
# What an application's own schemes are, or whether there is one, is not what these are about.
_DEPENDS = {"unused-scheme", "no-app", "not-mounted", "open-endpoint", "served-source", "metrics-public"}


def found(*names: str) -> set[tuple[str, str, str]]:
    data: dict[str, Any] = dict(GOOD)
    for name in names:
        data |= FAULTS[name]
    data["auth"] = SCHEMES | data.get("auth", {})
    text = repr(data).replace("True", "true").replace("\\x00", "\\0")
    with pytest.raises(ManifestError) as caught:
        load(Source.of_text(_yaml(text)), environ={})
    return {(each.code, each.path, each.message) for each in caught.value.problems if each.code not in _DEPENDS}


def _yaml(text: str) -> str:
    return text.replace("'", '"')


@pytest.mark.parametrize("name", FAULTS)
def test_each_alone_is_a_fault(name: str) -> None:
    assert found(name) or FAULTS[name] == {}


def _pairs() -> list[tuple[str, str]]:
    return [pair for pair in itertools.combinations(FAULTS, 2) if not FAULTS[pair[0]].keys() & FAULTS[pair[1]].keys()]


def test_two_of_different_sections_give_what_each_gives_alone() -> None:
    alone = {name: found(name) for name in FAULTS}
    wrong = {}
    for pair in _pairs():
        expected = alone[pair[0]] | alone[pair[1]]
        if (both := found(*pair)) != expected:
            wrong[pair] = (sorted(expected - both), sorted(both - expected))
    assert wrong == {}


def test_one_of_each_section_give_what_each_gives_alone() -> None:
    names = [name for name in FAULTS if name not in ("app-path", "app-env", "limits", "redirect", "rules")]
    expected = set().union(*(found(name) for name in names))
    assert found(*names) == expected
