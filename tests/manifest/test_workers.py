"""`server.workers` and `server.reload`: their defaults, layers and origins, and warnings about the machine."""

from __future__ import annotations

import pytest

from pywatt_host.manifest import Loaded, Manifest, Source, load
from pywatt_host.manifest.checks.workers import WORKER_MEMORY, WorkerChecks
from pywatt_host.manifest.problems import KeyPath, Severity


def loaded(server: str, *, overrides: tuple[str, ...] = (), profile: str | None = None, **environ: str) -> Loaded:
    text = f"app: main:app\nserver: {server}\nprofiles: {{prod: {{server: {{workers: 3, reload: watch}}}}}}\n"
    return load(Source.of_text(text), overrides=overrides, profile=profile, environ=environ)


def manifest(server: str) -> Manifest:
    return loaded(server).manifest


@pytest.mark.parametrize(
    ("server", "reload", "supervised"),
    [
        ("{}", "off", False),
        ("{workers: 1}", "off", False),
        ("{workers: 2}", "signal", True),
        ("{workers: 2, reload: off}", "off", True),
        ("{reload: signal}", "signal", True),
        ("{reload: watch}", "watch", True),
        ("{workers: 2, reload: watch}", "watch", True),
    ],
)
def test_a_host_with_more_than_one_worker_reloads_by_signal_unless_the_manifest_says_otherwise(
    server: str, reload: str, supervised: bool
) -> None:
    found = manifest(server).server
    assert (found.reload_mode, found.supervised) == (reload, supervised)


def test_auto_is_the_number_of_usable_cores() -> None:
    workers = manifest("{workers: auto}").server.workers
    assert workers.resolved(lambda: 6) == 6
    assert workers.resolved(lambda: 0) == 1
    assert workers.resolved() >= 1
    assert manifest("{workers: 4}").server.workers.resolved(lambda: 6) == 4


def test_values_come_from_every_layer_and_say_where_from() -> None:
    result = loaded(
        "{workers: '${N}'}",
        overrides=("server.workers.ping_limit=3s",),
        N="2",
        PYWATT__SERVER__WORKERS__RECYCLE__REQUESTS="500",
    )
    workers = result.manifest.server.workers
    assert (workers.count, workers.ping_limit, workers.recycle.requests) == (2, 3.0, 500)
    assert result.origin("server.workers.count") == "pywatt.yaml:2:19"
    assert result.origin("server.workers.ping_limit") == "--set"
    assert result.origin("server.workers.recycle.requests") == "PYWATT__SERVER__WORKERS__RECYCLE__REQUESTS"
    assert result.origin("server.workers.start") == "default"
    assert {path: value for path, value, _ in result.origins()}["server.workers.recycle.jitter"] == "10%"


def test_a_profile_and_an_override_of_the_whole_key_win_over_the_file() -> None:
    found = loaded("{workers: 2}", profile="prod")
    assert (found.manifest.server.workers.count, found.manifest.server.reload) == (3, "watch")
    assert found.origin("server.reload").startswith("profile prod")
    found = loaded("{workers: 2}", profile="prod", PYWATT__SERVER__WORKERS="auto", PYWATT__SERVER__RELOAD="off")
    assert (found.manifest.server.workers.count, found.manifest.server.reload) == ("auto", "off")
    assert found.origin("server.workers.count") == "PYWATT__SERVER__WORKERS"
    assert loaded("{workers: 2}", overrides=("server.workers=5",)).manifest.server.workers.count == 5


def test_a_flow_value_of_a_variable_may_hold_the_whole_mapping() -> None:
    found = loaded("{}", PYWATT__SERVER__WORKERS="{count: 4, recycle: {jitter: 0%, memory: 1GiB}}")
    workers = found.manifest.server.workers
    assert (workers.count, workers.recycle.jitter, workers.recycle.memory) == (4, 0.0, 1024**3)


# Warnings ------------------------------------------------------------------------------------------------------------


def warnings(
    server: str, more: str = "", *, cores: int = 64, memory: int | None = None, unset: bool = False
) -> list[str]:
    found: list[str] = []

    def add(path: KeyPath, code: str, message: str, hint: str = "", severity: Severity = "error") -> None:
        assert severity == "warning"
        found.append(f"{'.'.join(map(str, path))} | {code} | {message} ({hint})")

    text = f"app: main:app\nserver: {server}\n{more}"
    subject = load(Source.of_text(text), environ={}).manifest
    WorkerChecks(subject, add, lambda path: unset, cores=lambda: cores, memory=lambda: memory).check()
    return found


def test_more_workers_than_fit_into_the_memory_are_a_warning() -> None:
    assert warnings("{workers: 8}", memory=8 * WORKER_MEMORY) == []
    assert warnings("{workers: 8}", memory=7 * WORKER_MEMORY) == [
        "server.workers.count | workers-memory | 8 workers need at least 480 MiB of memory, but this process may use"
        " 420 MiB (write at most 7, or give the process more memory)"
    ]
    assert [each.split(" | ")[1] for each in warnings("{workers: auto}", cores=4, memory=1)] == ["workers-memory"]


def test_more_than_four_workers_for_each_core_are_a_warning() -> None:
    assert warnings("{workers: 8}", cores=2) == []
    assert warnings("{workers: 9}", cores=2) == [
        "server.workers.count | workers-cores | 9 workers are more than 4 for each core: this process may use 2 cores"
        " (write auto, or a number up to twice the cores)"
    ]
    assert warnings("{workers: auto}", cores=200) == []


def test_one_worker_is_never_a_warning() -> None:
    caches = "caches: {default: memory://}\n"
    assert warnings("{}", caches, cores=0, memory=1) == []
    assert warnings("{workers: auto}", caches, cores=1, memory=1) == []


def test_a_cache_in_memory_with_several_workers_is_a_warning() -> None:
    caches = "caches: {default: memory://, shared: 'redis://127.0.0.1:6379/0', other: {url: '${secret:CACHE}'}}\n"
    assert warnings("{workers: 2}", caches) == [
        "caches.default.url | cache-per-worker | each of the 2 workers has a cache of its own: what one stores, the"
        " others do not see (use redis:// or memcached:// for a cache that all workers share)"
    ]


def test_a_number_of_workers_that_is_not_known_yet_is_no_warning() -> None:
    assert warnings("{workers: 9}", cores=1, memory=1, unset=True) == []
