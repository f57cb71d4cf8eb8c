"""The metrics of several workers are one: what counts never goes back, and gauges go by their mode."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.core import InfoMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as prometheus
from prometheus_client.registry import Collector

from pywatt_host.observability.exposition import FamilyCollector, MetricsRegistry
from pywatt_host.observability.metrics import Family, GaugeMode, Histogram
from pywatt_host.observability.snapshots import MergedMetrics, snapshot

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


class Worker:
    """A registry of its own, as a worker has one."""

    def __init__(self) -> None:
        self.registry = MetricsRegistry()

    def counter(self, name: str = "orders", labels: Sequence[str] = ()) -> Any:
        return self.registry.metric("Counter", name, "Orders.", labels)

    def histogram(self, buckets: Sequence[float] = (1, 2)) -> Any:
        return self.registry.metric("Histogram", "size", "Sizes.", (), buckets)

    def gauge(self, mode: GaugeMode = "sum", labels: Sequence[str] = ()) -> Any:
        return self.registry.metric("Gauge", "level", "Level.", labels, mode=mode)

    def collector(self, *metrics: Metric) -> None:
        class Fixed(Collector):
            def collect(self) -> Iterator[Metric]:
                yield from metrics

        self.registry.register(Fixed())

    def snapshot(self) -> list[dict[str, Any]]:
        """As it arrives at the supervisor."""
        return json.loads(json.dumps(snapshot(self.registry), allow_nan=False))  # type: ignore[no-any-return]


@pytest.fixture
def merged() -> MergedMetrics:
    return MergedMetrics(MetricsRegistry())


def samples(merged: MergedMetrics) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for metric in merged.collect()
        for sample in metric.samples
    }


def value(merged: MergedMetrics, name: str, **labels: str) -> float:
    return samples(merged)[name, frozenset(labels.items())]


def families(merged: MergedMetrics) -> dict[str, Metric]:
    return {metric.name: metric for metric in merged.collect()}


# What counts ----------------------------------------------------------------------------------------------------------


def test_counters_are_the_sum_over_workers_by_labels(merged: MergedMetrics) -> None:
    one, two = Worker(), Worker()
    one.counter(labels=("country",)).labels("ch").inc(2)
    two.counter(labels=("country",)).labels("ch").inc(3)
    two.counter(labels=("country",)).labels("de").inc(4)
    merged.update("1", one.snapshot())
    merged.update("2", two.snapshot())
    assert value(merged, "orders_total", country="ch") == 5
    assert value(merged, "orders_total", country="de") == 4


def test_a_newer_snapshot_takes_the_place_of_the_one_before(merged: MergedMetrics) -> None:
    worker = Worker()
    for _ in range(3):
        worker.counter().inc()
        merged.update("1", worker.snapshot())
    assert value(merged, "orders_total") == 3


def test_what_a_worker_counted_stays_when_it_ends_and_its_gauges_go(merged: MergedMetrics) -> None:
    one, two = Worker(), Worker()
    for worker in (one, two):
        worker.counter().inc(2)
        worker.histogram().observe(1.5)
        worker.registry.metric("Summary", "age", "Ages.", ()).observe(7)
        worker.gauge().set(5)
    merged.update("1", one.snapshot())
    merged.update("2", two.snapshot())
    assert value(merged, "level") == 10
    merged.ended("1")
    assert value(merged, "level") == 5
    merged.ended("2")
    assert "level" not in families(merged)
    assert value(merged, "orders_total") == 4
    assert value(merged, "size_bucket", le="1.0") == 0
    assert value(merged, "size_bucket", le="2.0") == value(merged, "size_count") == 2
    assert value(merged, "size_sum") == 3
    assert (value(merged, "age_count"), value(merged, "age_sum")) == (2, 14)


def test_ending_a_worker_twice_or_one_that_told_nothing_changes_nothing(merged: MergedMetrics) -> None:
    worker = Worker()
    worker.counter().inc()
    merged.update("1", worker.snapshot())
    for name in ("1", "1", "2"):
        merged.ended(name)
    assert value(merged, "orders_total") == 1


def test_another_process_under_the_same_name_is_added_even_where_it_has_counted_more(merged: MergedMetrics) -> None:
    for count in (3, 5, 1):
        worker = Worker()
        worker.counter().inc(count)
        merged.update("1", worker.snapshot())
    assert value(merged, "orders_total") == 9


def test_another_process_under_the_same_name_that_lacks_a_series_takes_nothing_away(merged: MergedMetrics) -> None:
    worker = Worker()
    worker.counter().inc(3)
    merged.update("1", worker.snapshot())
    merged.update("1", Worker().snapshot())
    assert value(merged, "orders_total") == 3


def test_a_counter_without_a_beginning_that_goes_back_is_added(merged: MergedMetrics) -> None:
    worker = Worker()
    counts: dict[tuple[str, ...], float] = {(): 5.0}
    worker.registry.register(FamilyCollector(lambda: [Family("counter", "rows", "Rows.", (), counts)]))
    merged.update("1", worker.snapshot())
    counts[()] = 2.0
    merged.update("1", worker.snapshot())
    assert value(merged, "rows_total") == 7


def test_a_counter_that_begins_anew_within_a_worker_is_added(merged: MergedMetrics) -> None:
    worker = Worker()
    worker.counter().inc(3)
    merged.update("1", worker.snapshot())
    worker.counter().reset()
    worker.counter().inc(8)
    merged.update("1", worker.snapshot())
    assert value(merged, "orders_total") == 11


def test_a_series_that_an_application_removes_stays_while_another_worker_has_it(merged: MergedMetrics) -> None:
    one, two = Worker(), Worker()
    for name, worker in (("1", one), ("2", two)):
        worker.counter(labels=("user",)).labels("ann").inc()
        merged.update(name, worker.snapshot())
    one.counter(labels=("user",)).remove("ann")
    merged.update("1", one.snapshot())
    assert value(merged, "orders_total", user="ann") == 2
    two.counter(labels=("user",)).remove("ann")
    merged.update("2", two.snapshot())
    assert ("orders_total", frozenset({("user", "ann")})) not in samples(merged)


def test_ended_workers_leave_one_series_however_many_they_were(merged: MergedMetrics) -> None:
    counts = []
    for number in range(50):
        worker = Worker()
        worker.counter().inc()
        worker.gauge(labels=("of",)).labels(str(number)).set(1)
        merged.update(str(number), worker.snapshot())
        merged.ended(str(number))
        counts.append(len(samples(merged)))
    assert len(set(counts)) == 1
    assert value(merged, "orders_total") == 50


def test_a_sum_was_created_when_its_first_part_was(merged: MergedMetrics) -> None:
    first, second = Worker(), Worker()
    first.counter().inc()
    second.counter().inc()
    merged.update("2", second.snapshot())
    merged.update("1", first.snapshot())
    (told,) = [family for family in first.snapshot() if family.get("name") == "orders"]
    assert value(merged, "orders_created") == told["series"][0][3]


def test_histograms_of_other_bounds_are_merged_without_going_back(merged: MergedMetrics) -> None:
    """A count at a bound that an old generation did not have is that of its next lower bound."""
    old, new = Worker(), Worker()
    for size in (0.5, 1.5, 5, 50):
        old.histogram((1, 2, 10)).observe(size)
    merged.update("1", old.snapshot())
    before = samples(merged)
    new.histogram((2, 5, 20)).observe(3)
    merged.update("2", new.snapshot())
    merged.ended("1")
    buckets = [
        (sample.labels["le"], sample.value)
        for sample in families(merged)["size"].samples
        if sample.name == "size_bucket"
    ]
    assert buckets == [("1.0", 1), ("2.0", 2), ("5.0", 3), ("10.0", 4), ("20.0", 4), ("+Inf", 5)]
    after = samples(merged)
    assert all(after[key] >= count for key, count in before.items() if key[0].startswith("size"))


# Gauges ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "shown"), [("sum", 12.0), ("max", 9.0), ("last", 3.0)])
def test_a_gauge_goes_by_its_mode(merged: MergedMetrics, mode: GaugeMode, shown: float) -> None:
    one, two, idle = Worker(), Worker(), Worker()
    one.gauge(mode).set(9)
    two.gauge(mode).set(3)
    idle.gauge(mode)
    for name, worker in (("2", two), ("1", one), ("3", idle)):
        merged.update(name, worker.snapshot())
    assert value(merged, "level") == shown


def test_the_last_value_is_told_by_when_it_was_set_for_each_series(merged: MergedMetrics) -> None:
    one, two = Worker(), Worker()
    gauges = [worker.gauge("last", ("queue",)) for worker in (one, two)]
    gauges[0].labels(queue="a").set(1)
    gauges[1].labels("a").set(1)
    gauges[1].labels("b").set(5)
    gauges[0].labels("b").inc(2)
    gauges[0].labels("a").set(0)
    merged.update("1", one.snapshot())
    merged.update("2", two.snapshot())
    assert value(merged, "level", queue="a") == 0
    assert value(merged, "level", queue="b") == 2
    gauges[1].labels("b").dec()
    merged.update("2", two.snapshot())
    assert value(merged, "level", queue="b") == 4
    gauges[0].labels("a").set_function(lambda: 7)
    merged.update("1", one.snapshot())
    assert value(merged, "level", queue="a") == 7


def test_a_series_of_a_gauge_that_was_removed_was_never_set() -> None:
    worker = Worker()
    gauge = worker.gauge("last", ("queue",))
    gauge.labels("a").set(1)
    assert gauge.changed_at({"queue": "a"}) > 0
    gauge.remove("a")
    assert gauge.changed_at({"queue": "a"}) == 0
    gauge.labels("a")
    assert gauge.changed_at({"queue": "a"}) == 0


def test_a_gauge_of_the_last_value_tells_a_scrape_no_time() -> None:
    worker = Worker()
    worker.gauge("last").set(3)
    (metric,) = [metric for metric in worker.registry.collect() if metric.name == "level"]
    assert [(sample.value, sample.timestamp) for sample in metric.samples] == [(3, None)]


def test_the_mode_of_a_gauge_of_the_host_is_told(merged: MergedMetrics) -> None:
    for name, state in (("1", 2.0), ("2", 1.0)):
        worker = Worker()
        broken = Family("gauge", "breaker", "State.", ("target",), {("users",): state}, mode="max")
        worker.registry.register(FamilyCollector(lambda broken=broken: [broken]))  # type: ignore[misc]
        merged.update(name, worker.snapshot())
    assert value(merged, "breaker", target="users") == 2


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_does_not_have_arrive(merged: MergedMetrics, odd: float) -> None:
    worker = Worker()
    worker.gauge().set(odd)
    merged.update("1", worker.snapshot())
    assert str(value(merged, "level")) == str(odd)


def test_no_number_is_less_than_any(merged: MergedMetrics) -> None:
    for name, level in (("1", math.nan), ("2", -3.0), ("3", math.nan)):
        worker = Worker()
        worker.gauge("max").set(level)
        merged.update(name, worker.snapshot())
    assert value(merged, "level") == -3


# Families -------------------------------------------------------------------------------------------------------------


def test_families_that_only_some_workers_have_are_there(merged: MergedMetrics) -> None:
    one, two = Worker(), Worker()
    one.counter("orders").inc()
    two.counter("mails").inc(2)
    merged.update("1", one.snapshot())
    merged.update("2", two.snapshot())
    assert value(merged, "orders_total") == 1
    assert value(merged, "mails_total") == 2


def test_a_family_of_another_type_in_a_new_generation_takes_the_place_with_one_warning(
    merged: MergedMetrics, caplog: pytest.LogCaptureFixture
) -> None:
    old, new = Worker(), Worker()
    old.counter("level").inc(7)
    new.gauge().set(2)
    with caplog.at_level(logging.WARNING, "pywatt.host"):
        merged.update("1", old.snapshot())
        merged.update("2", new.snapshot())
        merged.update("1", old.snapshot())
        merged.update("2", new.snapshot())
        merged.ended("1")
    assert [sample.name for sample in families(merged)["level"].samples] == ["level"]
    assert value(merged, "level") == 2
    (record,) = caplog.records
    assert "level was of type counter and is of type gauge" in record.getMessage()


def test_what_is_said_of_a_family_is_what_the_newest_generation_says(merged: MergedMetrics) -> None:
    old, new = Worker(), Worker()
    old.registry.metric("Gauge", "level", "Old words.", (), mode="sum").set(3)
    new.registry.metric("Gauge", "level", "New words.", (), mode="max").set(2)
    for name, worker in (("1", old), ("2", new), ("1", old)):
        merged.update(name, worker.snapshot())
    assert families(merged)["level"].documentation == "New words."
    assert value(merged, "level") == 3


def test_other_types_are_shown_once_and_quantiles_not_at_all(merged: MergedMetrics) -> None:
    for name in ("1", "2"):
        worker = Worker()
        quantiles = SummaryMetricFamily("age", "Ages.", count_value=2, sum_value=5)
        quantiles.add_sample("age", {"quantile": "0.5"}, 2.5)
        worker.collector(InfoMetricFamily("build", "Build.", {"version": "1"}), quantiles)
        merged.update(name, worker.snapshot())
    assert value(merged, "build_info", version="1") == 1
    assert [(sample.name, sample.value) for sample in families(merged)["age"].samples] == [
        ("age_count", 4),
        ("age_sum", 10),
    ]


def test_stock_metrics_are_sums_with_the_supervisors_own_and_the_start_is_its_own() -> None:
    own = MetricsRegistry()
    merged = MergedMetrics(own)
    alone = samples(merged)
    workers = [Worker(), Worker()]
    for number, worker in enumerate(workers):
        told = worker.snapshot()
        for family in told[1:]:
            if family["name"] == "process_start_time_seconds":
                family["series"][0][2] += 100
        merged.update(str(number), told)
    together = samples(merged)
    assert {metric.name for metric in own.collect()} == set(families(merged))
    (python,) = [key for key in together if key[0] == "python_info"]
    assert together[python] == 1
    key = ("python_gc_collections_total", frozenset({("generation", "2")}))
    assert together[key] >= 3 * alone[key] > 0
    if ("process_max_fds", frozenset[tuple[str, str]]()) in alone:
        assert value(merged, "process_max_fds") == 3 * alone["process_max_fds", frozenset()]
        assert value(merged, "process_resident_memory_bytes") > 2 * alone["process_resident_memory_bytes", frozenset()]
        assert value(merged, "process_start_time_seconds") == alone["process_start_time_seconds", frozenset()]


def test_channels_of_workers_are_not_those_of_the_host(merged: MergedMetrics) -> None:
    worker = Worker()
    connected = Family("gauge", "pywatt_channel_connected", "Channels.", ("channel",), {("stdio",): 1.0})
    worker.registry.register(FamilyCollector(lambda: [connected]))
    merged.update("1", worker.snapshot())
    assert "pywatt_channel_connected" not in families(merged)
    seen = MergedMetrics(MetricsRegistry(), of_host=())
    seen.update("1", worker.snapshot())
    assert value(seen, "pywatt_channel_connected", channel="stdio") == 1


# As text --------------------------------------------------------------------------------------------------------------


def filled(merged: MergedMetrics) -> None:
    for number in range(3):
        worker = Worker()
        worker.counter(labels=("country",)).labels('c"h\n').inc(number, {"trace_id": "abc"})
        worker.histogram().observe(number)
        worker.registry.metric("Summary", "age", "Ages.", ()).observe(7)
        worker.gauge("last", ("of",)).labels("x").set(5)
        worker.collector(InfoMetricFamily("build", "Build.", {"version": "1"}))
        merged.update(str(number), worker.snapshot())
    merged.ended("0")


@pytest.mark.parametrize(
    ("accept", "content_type", "parse"),
    [("", "text/plain; version=0.0.4", prometheus), (OPENMETRICS, "application/openmetrics-text", openmetrics)],
)
def test_the_text_can_be_read_in_both_formats(
    merged: MergedMetrics, accept: str, content_type: str, parse: Callable[[str], Iterator[Metric]]
) -> None:
    filled(merged)
    own: list[Family | Histogram] = [
        Family("counter", "pywatt_worker_restarts", "Restarts.", (), {(): 2.0}),
        Histogram("took", "Took.", (), (0.5,), {(): (1, 0, 0.25)}),
        Family("gauge", "level", "Mine.", (), {(): 1.0}),
    ]
    body, told_type = merged.render(own, {"team": "core", "of": "all"}, accept)
    assert told_type.startswith(content_type)
    found: dict[str, Metric] = {}
    for metric in parse(body.decode()):
        assert metric.name not in found
        found[metric.name] = metric
        assert all(sample.labels["team"] == "core" for sample in metric.samples)
        assert all(sample.exemplar is None and sample.timestamp is None for sample in metric.samples)
    (orders,) = [sample for sample in found["orders"].samples if sample.name == "orders_total"]
    assert (orders.labels["country"], orders.value) == ('c"h\n', 3)
    assert [sample.value for sample in found["level"].samples] == [1]
    restarts = [sample for sample in found["pywatt_worker_restarts"].samples if sample.name.endswith("_total")]
    assert [sample.value for sample in restarts] == [2]


def test_labels_of_a_series_win_over_those_of_the_manifest(merged: MergedMetrics) -> None:
    filled(merged)
    body, _ = merged.render([], {"of": "all"}, "")
    assert b'level{of="x"} 5.0' in body
    assert b'age_count{of="all"} 3.0' in body


# Whatever happens -----------------------------------------------------------------------------------------------------

NAMES = st.sampled_from(["a", "b", "c"])
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("count"), NAMES, st.sampled_from(["x", "y"])),
        st.tuples(st.just("observe"), NAMES, st.sampled_from([0.5, 1.5, 2.5, 9.0])),
        st.tuples(st.just("snapshot"), NAMES, st.none()),
        st.tuples(st.just("snapshot"), NAMES, st.none()),
        st.tuples(st.just("ended"), NAMES, st.none()),
        st.tuples(st.just("restarted"), NAMES, st.sampled_from([(1.0, 2.0), (2.0, 4.0), (0.5,)])),
    ),
    max_size=60,
)


class Truth:
    """One worker's name: its process, and what its last snapshot has told."""

    def __init__(self, buckets: Sequence[float] = (1.0, 2.0)) -> None:
        self.worker = Worker()
        self.buckets = buckets
        self.counts = {"x": 0, "y": 0}
        self.observed: list[float] = []
        self.told: tuple[dict[str, int], list[float]] = ({"x": 0, "y": 0}, [])

    def happen(self, what: str, value: Any) -> None:
        if what == "count":
            self.counts[value] += 1
            self.worker.counter(labels=("of",)).labels(value).inc()
        elif what == "observe":
            self.observed.append(value)
            self.worker.histogram(self.buckets).observe(value)

    def tell(self) -> list[dict[str, Any]]:
        self.told = (dict(self.counts), list(self.observed))
        return self.worker.snapshot()


@settings(max_examples=150)
@given(EVENTS)
def test_sums_never_go_back_and_are_what_was_told_last(events: list[tuple[str, str, Any]]) -> None:
    merged = MergedMetrics(MetricsRegistry())
    running = {name: Truth() for name in "abc"}
    told: list[Truth] = list(running.values())
    before: Samples = {}
    for what, name, extra in events:
        if what == "snapshot":
            merged.update(name, running[name].tell())
        elif what in ("ended", "restarted"):  # a restart: another process tells under the same name
            if what == "ended":
                merged.ended(name)
            running[name] = Truth(extra or (1.0, 2.0))
            told.append(running[name])
        else:
            running[name].happen(what, extra)
        now = {key: count for key, count in samples(merged).items() if key[0].startswith(("orders_", "size_"))}
        grown = {key: count for key, count in before.items() if not key[0].endswith("_created")}
        assert all(now[key] >= count for key, count in grown.items()), what
        before = now
    for of in "xy":
        expected = sum(truth.told[0][of] for truth in told)
        assert before.get(("orders_total", frozenset({("of", of)})), 0) == expected
    observed = [value for truth in told for value in truth.told[1]]
    assert before.get(("size_count", frozenset()), 0) == len(observed)
    assert before.get(("size_sum", frozenset()), 0) == sum(observed)
    buckets = {float(dict(labels)["le"]): count for (name, labels), count in before.items() if name == "size_bucket"}
    assert list(buckets) == sorted(buckets)
    assert list(buckets.values()) == sorted(buckets.values())
    assert all(count <= sum(value <= bound for value in observed) for bound, count in buckets.items())
    if observed:
        assert buckets[math.inf] == len(observed)
