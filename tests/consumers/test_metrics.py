"""What `/metrics` says: nothing unknown is guessed, nothing known is missing, and everything is documented."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from consumers.deliveries import How
from consumers.metrics import Metrics
from streams.commit import Answer
from streams.keys import SCORERS, Keys

OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"
TICKS = Keys("t").partition(3).ticks
OTHER = Keys("t").partition(4).ticks

Labels = tuple[tuple[str, str], ...]


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def metrics(clock: Clock) -> Metrics:
    return Metrics(CollectorRegistry(), clock=clock)


def samples(metrics: Metrics) -> dict[str, dict[Labels, float]]:
    """Sample name -> labels -> value, as a Prometheus server reads them."""
    found: dict[str, dict[Labels, float]] = {}
    for family in text_string_to_metric_families(metrics.render().decode()):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return samples(metrics).get(name, {}).get(tuple(sorted(labels.items())))


def everything(metrics: Metrics) -> None:
    """Call every method, so that every metric has a sample."""
    metrics.owned([TICKS])
    metrics.batch(TICKS, {"ticks": 5, "signals:buy": 1, "dead:late": 1}, 0.1)
    metrics.committed(TICKS, "OK", 0.1)
    metrics.lag(TICKS, SCORERS, 1)
    metrics.release("r", loaded=1, refused=0, oldest_created_ms=1)
    metrics.redis("models", up=True)
    metrics.input_lost(TICKS, "old", 1)
    metrics.memory(1, 2)
    metrics.trained(["done"], 30, 1.0)
    metrics.predicted(["done"])
    metrics.delivered(How.NEW)
    metrics.dead_requests(Keys("t").dead, 1)
    metrics.monitored(outcomes=1, promotions=1, drifts=1, requests=1)


def test_a_batch_is_counted_by_stream_side_and_reason(metrics: Metrics) -> None:
    counts = {
        "ticks": 990,
        "bars": 4,
        "predictions": 3,
        "outcomes": 5,
        "signals:buy": 2,
        "dead:late": 6,
        "dead:future": 4,
    }
    metrics.batch(TICKS, counts, 0.02)
    metrics.batch(TICKS, counts, 0.03)
    metrics.batch(OTHER, {"ticks": 1}, 0.01)
    assert value(metrics, "red10_ticks_total", stream=TICKS) == 1980
    assert value(metrics, "red10_ticks_total", stream=OTHER) == 1
    assert value(metrics, "red10_bars_total", stream=TICKS) == 8
    assert value(metrics, "red10_predictions_total", stream=TICKS) == 6
    assert value(metrics, "red10_outcomes_total", stream=TICKS) == 10
    assert value(metrics, "red10_signals_total", stream=TICKS, side="buy") == 4
    assert value(metrics, "red10_dead_letters_total", stream=TICKS, reason="late") == 12
    assert value(metrics, "red10_dead_letters_total", stream=TICKS, reason="future") == 8
    assert value(metrics, "red10_batch_seconds_count") == 3
    assert value(metrics, "red10_batch_seconds_sum") == pytest.approx(0.06)


def test_a_commit_that_waits_counts_but_is_timed_only_when_it_ends(metrics: Metrics) -> None:
    metrics.committed(TICKS, "WAIT", None)
    metrics.committed(TICKS, "WAIT", None)
    metrics.committed(TICKS, "OK", 0.004)
    assert value(metrics, "red10_commits_total", stream=TICKS, answer="WAIT") == 2
    assert value(metrics, "red10_commits_total", stream=TICKS, answer="OK") == 1
    assert value(metrics, "red10_commit_seconds_count") == 1


def test_counters_of_a_taken_partition_begin_at_zero(metrics: Metrics) -> None:
    metrics.owned([TICKS])
    assert value(metrics, "red10_ticks_total", stream=TICKS) == 0
    for answer in Answer:
        assert value(metrics, "red10_commits_total", stream=TICKS, answer=answer.value) == 0
    assert value(metrics, "red10_signals_total", stream=TICKS, side="sell") == 0
    assert value(metrics, "red10_input_changes_total", stream=TICKS, change="gap") == 0


def test_taking_a_partition_again_keeps_its_counts(metrics: Metrics) -> None:
    metrics.owned([TICKS])
    metrics.batch(TICKS, {"ticks": 7}, 0.01)
    metrics.owned([])
    metrics.owned([TICKS, OTHER])
    assert value(metrics, "red10_ticks_total", stream=TICKS) == 7
    assert value(metrics, "red10_partitions_owned") == 2


def test_a_lag_that_is_not_known_has_no_sample(metrics: Metrics) -> None:
    metrics.owned([TICKS])
    assert value(metrics, "red10_lag_entries", stream=TICKS, group=SCORERS) is None
    metrics.lag(TICKS, SCORERS, None)
    metrics.lag(TICKS, SCORERS, 0)
    assert value(metrics, "red10_lag_entries", stream=TICKS, group=SCORERS) == 0
    metrics.lag(TICKS, SCORERS, None)
    assert value(metrics, "red10_lag_entries", stream=TICKS, group=SCORERS) is None


def test_the_lag_of_a_partition_that_was_given_up_is_not_told_any_more(metrics: Metrics) -> None:
    metrics.owned([TICKS, OTHER])
    metrics.lag(TICKS, SCORERS, 10)
    metrics.lag(OTHER, SCORERS, 20)
    metrics.owned([OTHER])
    metrics.lag(TICKS, SCORERS, 11)  # asked before, answered after
    assert value(metrics, "red10_lag_entries", stream=TICKS, group=SCORERS) is None
    assert value(metrics, "red10_lag_entries", stream=OTHER, group=SCORERS) == 20


def test_gauges_have_no_sample_before_their_value_is_known(metrics: Metrics) -> None:
    found = samples(metrics)
    gauges = re.findall(r"^# TYPE (\w+) gauge$", metrics.render().decode(), re.MULTILINE)
    assert len(gauges) == 11
    assert not set(gauges) & set(found)


def test_the_age_of_the_oldest_champion_grows_with_the_clock_and_is_unknown_without_models(
    metrics: Metrics, clock: Clock
) -> None:
    metrics.release("a" * 64, loaded=30, refused=1, oldest_created_ms=int((clock.now - 60) * 1000))
    assert value(metrics, "red10_oldest_champion_age_seconds") == pytest.approx(60)
    clock.now += 3600
    assert value(metrics, "red10_oldest_champion_age_seconds") == pytest.approx(3660)
    metrics.release("", loaded=0, refused=0, oldest_created_ms=None)
    assert value(metrics, "red10_oldest_champion_age_seconds") is None
    assert value(metrics, "red10_models_loaded") == 0


def test_a_store_whose_clock_is_ahead_makes_no_negative_age(metrics: Metrics, clock: Clock) -> None:
    metrics.release("a" * 64, loaded=1, refused=0, oldest_created_ms=int((clock.now + 5) * 1000))
    assert value(metrics, "red10_oldest_champion_age_seconds") == 0


def test_only_the_release_in_force_has_a_sample(metrics: Metrics) -> None:
    metrics.release("", loaded=0, refused=0, oldest_created_ms=None)
    assert "red10_release_info" not in samples(metrics)
    for release in ("a" * 64, "b" * 64, "b" * 64):
        metrics.release(release, loaded=30, refused=0, oldest_created_ms=1)
    assert samples(metrics)["red10_release_info"] == {(("release", "b" * 64),): 1}
    metrics.release("", loaded=0, refused=0, oldest_created_ms=None)
    assert "red10_release_info" not in samples(metrics)


def test_the_model_store_is_the_redis_of_the_models_role(metrics: Metrics) -> None:
    metrics.redis("streams", up=True)
    assert value(metrics, "red10_model_store_up") is None
    metrics.redis("models", up=False)
    assert value(metrics, "red10_model_store_up") == 0
    assert value(metrics, "red10_redis_up", role="models") == 0
    assert value(metrics, "red10_redis_up", role="streams") == 1


def test_training_is_counted_by_what_became_of_each_request(metrics: Metrics) -> None:
    metrics.trained(["done", "done", "refused"], 60, 2.5)
    assert value(metrics, "red10_training_requests_total", status="done") == 2
    assert value(metrics, "red10_training_requests_total", status="refused") == 1
    assert value(metrics, "red10_training_requests_total", status="failed") == 0
    assert value(metrics, "red10_models_trained_total") == 60
    assert value(metrics, "red10_training_seconds_sum") == 2.5


def test_predictions_are_counted_by_what_became_of_each_request(metrics: Metrics) -> None:
    metrics.predicted(["done", "refused", "done"])
    found = {status: value(metrics, "red10_prediction_requests_total", status=status) for status in ("done", "failed")}
    assert found == {"done": 2, "failed": 0}


def test_deliveries_are_counted_by_how_a_request_came_to_the_trainer(metrics: Metrics) -> None:
    metrics.delivered(How.CLAIMED)
    for how in How:
        assert value(metrics, "red10_request_deliveries_total", how=how) == (how is How.CLAIMED)


def test_dead_requests_that_are_not_known_have_no_sample(metrics: Metrics) -> None:
    dead = Keys("t").dead
    metrics.dead_requests(dead, None)
    metrics.dead_requests(dead, 2)
    assert value(metrics, "red10_dead_requests", stream=dead) == 2
    metrics.dead_requests(dead, None)
    assert value(metrics, "red10_dead_requests", stream=dead) is None


def test_two_workers_in_one_process_share_nothing() -> None:
    one, two = Metrics(CollectorRegistry()), Metrics(CollectorRegistry())
    one.trained(["done"], 30, 1.0)
    assert value(two, "red10_models_trained_total") == 0


def test_one_registry_takes_one_metrics() -> None:
    registry = CollectorRegistry()
    Metrics(registry)
    with pytest.raises(ValueError, match="Duplicated"):
        Metrics(registry)


def test_no_creation_times_are_exposed(metrics: Metrics) -> None:
    everything(metrics)
    assert "_created" not in metrics.render().decode()


def test_names_follow_the_conventions_of_prometheus(metrics: Metrics) -> None:
    for name, kind in re.findall(r"^# TYPE (\w+) (\w+)$", metrics.render().decode(), re.MULTILINE):
        assert name.startswith("red10_")
        assert name.endswith("_total") == (kind == "counter")
        assert name.endswith("_seconds") or kind != "histogram"


def test_the_operations_page_documents_every_metric_with_type_and_labels(metrics: Metrics) -> None:
    everything(metrics)
    rows = re.findall(r"^\| `(red10_\w+)` \| (\w+) \|([^|]*)\| [^|]{10,} \|$", OPERATIONS.read_text(), re.MULTILINE)
    documented = {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    exposed = {}
    for name, kind in re.findall(r"^# TYPE (\w+) (\w+)$", metrics.render().decode(), re.MULTILINE):
        found = samples(metrics)[name if kind != "histogram" else f"{name}_count"]
        exposed[name] = (kind, {label for labels in found for label, _ in labels})
    assert documented == exposed


def test_a_round_of_the_monitor_is_counted(metrics: Metrics) -> None:
    for _ in range(2):
        metrics.monitored(outcomes=40, promotions=2, drifts=1, requests=3)
    names = ("outcomes_judged", "promotions", "drifts", "retrainings_requested")
    assert [value(metrics, f"red10_{name}_total") for name in names] == [80, 4, 2, 6]
