"""What a worker tells Prometheus: every metric, its labels and its meaning, in one place.

`Metrics` registers in the registry that it is given and has one method per thing that happens; `render` gives the text
that `/metrics` serves. Nothing here blocks, reads a Redis, or survives the process: counters begin at 0 with it.

Two rules. What is unknown has no sample: a lag that Redis does not give, the age of champions that are not loaded yet.
What is known to be none is 0 from the start: counters of a stream begin at 0 when its partition is taken, so that the
first event is seen as a rise, and an alert on "no ticks" sees a stream that never had one.

Models appear only as counts: one series per model would be 10,000 series.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from consumers.deliveries import How
from streams.commit import Answer
from streams.keys import SCORERS

#: Seconds. A batch takes at most a tenth of the lease, 500 ms by default; a commit some 10 ms.
BATCH_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
#: Seconds. From a few small fits to a night's work.
TRAINING_BUCKETS = (0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)

#: Label `answer` of a commit that has no answer yet, because Redis is away or refuses; counted once per try.
WAIT = "WAIT"

SIDES = ("buy", "sell")
#: Reason of dead letters that an alert is about: its first one must be seen as a rise.
POISON = "poison"
#: How a partition's input can turn out to have changed (`streams.resume.Resume`).
CHANGES = ("gap", "anew")
STATUSES = ("done", "refused", "failed")


class _Known(Collector):
    """A gauge without labels that has a sample only while its value is known."""

    def __init__(self, registry: CollectorRegistry, name: str, documentation: str) -> None:
        self._name = name
        self._documentation = documentation
        self.read: Callable[[], float | None] = lambda: None
        registry.register(self)

    def set(self, value: float | None) -> None:
        self.read = lambda: value

    def describe(self) -> Iterable[Metric]:
        # Lets the registry refuse a second collector of this name.
        return [GaugeMetricFamily(self._name, self._documentation)]

    def collect(self) -> Iterable[Metric]:
        family = GaugeMetricFamily(self._name, self._documentation)
        value = self.read()
        if value is not None:
            family.add_metric([], value)
        return [family]


class _Plain(Collector):
    """A registry without the `_created` samples: in Prometheus's text format they would be gauges of their own."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        for family in self._registry.collect():
            family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
            yield family


class Metrics:
    """The metrics of one process: scorer, trainer or monitor.

    `stream` is always a full key, such as `red10:{default:3}:ticks`, and `group` a consumer group, labelled as
    redis_exporter labels them, so that both can be joined.
    """

    def __init__(self, registry: CollectorRegistry, *, clock: Callable[[], float] = time.time) -> None:
        """Register everything.

        Args:
            registry: a registry that no other `Metrics` is in.
            clock: epoch seconds, against which the age of models is reckoned.
        """
        self._registry = registry
        self._clock = clock
        self._owned: frozenset[str] = frozenset()
        self._release: str | None = None

        def counter(name: str, documentation: str, *labels: str) -> Counter:
            return Counter(name, documentation, labels, registry=registry)

        self._ticks = counter("red10_ticks_total", "Ticks that went into bars.", "stream")
        self._bars = counter("red10_bars_total", "Bars that closed, of all intervals.", "stream")
        self._predictions = counter("red10_predictions_total", "Bar closes that were scored, all targets.", "stream")
        self._outcomes = counter("red10_outcomes_total", "Bar closes at which forecasts were judged.", "stream")
        self._signals = counter("red10_signals_total", "Changes of a target position.", "stream", "side")
        self._dead = counter("red10_dead_letters_total", "Ticks and entries set aside.", "stream", "reason")
        self._commits = counter("red10_commits_total", "Commits by what the script answered.", "stream", "answer")
        self._changes = counter(
            "red10_input_changes_total", "Times that the input was found changed under its reader.", "stream", "change"
        )
        self._input_lost = counter(
            "red10_input_lost_total",
            "Entries dropped before a consumer group that is not required had read them.",
            "stream",
            "group",
        )
        self._requests = counter("red10_training_requests_total", "Training requests by what became of them.", "status")
        self._questions = counter(
            "red10_prediction_requests_total", "Prediction requests by what became of them.", "status"
        )
        self._deliveries = counter(
            "red10_request_deliveries_total", "Requests taken by a trainer, by how they came to it.", "how"
        )
        self._judged = counter("red10_outcomes_judged_total", "Outcomes that the monitor decided on.")
        self._promotions = counter("red10_promotions_total", "Challengers that became champion.")
        self._drifts = counter("red10_drifts_total", "Champions that were seen to drift.")
        self._retrainings = counter("red10_retrainings_requested_total", "Trainings that the monitor asked for.")
        self._models_trained = counter("red10_models_trained_total", "Versions of models that were fitted.")
        self._pruned = counter("red10_versions_pruned_total", "Versions of models that were removed, not being kept.")

        self._lag = Gauge(
            "red10_lag_entries", "Entries that the group has not read yet.", ["stream", "group"], registry=registry
        )
        self._dead_requests = Gauge(
            "red10_dead_requests",
            "Requests that were given up and wait to be looked at.",
            ["stream"],
            registry=registry,
        )
        self._release_info = Gauge(
            "red10_release_info", "1 for the release in force that is loaded.", ["release"], registry=registry
        )
        self._redis_up = Gauge(
            "red10_redis_up", "1 if the Redis of this role answered when last asked.", ["role"], registry=registry
        )
        self._memory_used = _Known(registry, "red10_redis_memory_bytes", "Memory that the streams Redis uses.")
        self._memory_limit = _Known(
            registry,
            "red10_redis_memory_limit_bytes",
            "Memory that the streams Redis may use: maxmemory, or all there is.",
        )
        self._partitions_owned = _Known(registry, "red10_partitions_owned", "Partitions whose lease this worker holds.")
        self._models_loaded = _Known(registry, "red10_models_loaded", "Champions that are loaded and can score.")
        self._models_refused = _Known(registry, "red10_models_refused", "Champions left out: damaged or not fitting.")
        self._age = _Known(
            registry, "red10_oldest_champion_age_seconds", "Time since the oldest champion in force was stored."
        )
        self._age.read = self._age_s
        self._oldest_created_ms: int | None = None
        self._store_up = _Known(
            registry, "red10_model_store_up", "1 if the model store answered when last asked; 0: scoring goes on."
        )

        self._batch_seconds = Histogram(
            "red10_batch_seconds",
            "Time to compute a batch, without the commit.",
            buckets=BATCH_BUCKETS,
            registry=registry,
        )
        self._commit_seconds = Histogram(
            "red10_commit_seconds", "Time to commit a batch, waits included.", buckets=BATCH_BUCKETS, registry=registry
        )
        self._training_seconds = Histogram(
            "red10_training_seconds",
            "Time from taking a batch of training requests to their answers.",
            buckets=TRAINING_BUCKETS,
            registry=registry,
        )
        for status in STATUSES:
            self._requests.labels(status)
            self._questions.labels(status)
        for how in How:
            self._deliveries.labels(how)

    # Scorer

    def owned(self, streams: Collection[str]) -> None:
        """Say which partitions' input streams this worker owns now.

        Counters of a new one begin at 0; the lag of one that is gone is no longer this worker's to tell.
        """
        now = frozenset(streams)
        for stream in now - self._owned:
            for counter in (self._ticks, self._bars, self._predictions, self._outcomes):
                counter.labels(stream)
            self._dead.labels(stream, POISON)
            for side in SIDES:
                self._signals.labels(stream, side)
            for answer in (*(answer.value for answer in Answer), WAIT):
                self._commits.labels(stream, answer)
            for change in CHANGES:
                self._changes.labels(stream, change)
        for stream in self._owned - now:
            self.lag(stream, SCORERS, None)
        self._owned = now
        self._partitions_owned.set(len(now))

    def batch(self, stream: str, counts: Mapping[str, int], seconds: float) -> None:
        """Count a batch that was committed.

        Args:
            counts: `ticks`, `bars`, `predictions`, `outcomes`, `signals:SIDE`, `dead:REASON`.
            seconds: how long computing it took.
        """
        plain = {
            "ticks": self._ticks,
            "bars": self._bars,
            "predictions": self._predictions,
            "outcomes": self._outcomes,
        }
        labelled = {"signals": self._signals, "dead": self._dead}
        for name, count in counts.items():
            what, _, label = name.partition(":")
            if label:
                labelled[what].labels(stream, label).inc(count)
            else:
                plain[what].labels(stream).inc(count)
        self._batch_seconds.observe(seconds)

    def committed(self, stream: str, answer: str, seconds: float | None) -> None:
        """Count an answer of the commit script, or `WAIT` for a try that got none.

        Args:
            seconds: how long the commit took; `None` if it did not end.
        """
        self._commits.labels(stream, answer).inc()
        if seconds is not None:
            self._commit_seconds.observe(seconds)

    def input_changed(self, stream: str, change: str) -> None:
        """Count that a stream lost entries under its reader (`gap`), or began again (`anew`)."""
        self._changes.labels(stream, change).inc()

    def input_lost(self, stream: str, group: str, entries: int) -> None:
        """Count entries that a group which is not required will never read."""
        self._input_lost.labels(stream, group).inc(entries)

    def memory(self, used: int, limit: int | None) -> None:
        """Set what the streams Redis uses and may use, bytes."""
        self._memory_used.set(used)
        self._memory_limit.set(limit or None)

    def lag(self, stream: str, group: str, entries: int | None) -> None:
        """Set how far a group is behind; `None`, if Redis does not know, takes the sample away.

        The lag of scorers is the owner's to tell: it is passed over if the partition was given up meanwhile.
        """
        if entries is None or (group == SCORERS and stream not in self._owned):
            self._lag.remove(stream, group)
        else:
            self._lag.labels(stream, group).set(entries)

    def release(self, release: str, *, loaded: int, refused: int, oldest_created_ms: int | None) -> None:
        """Say which release is in force and loaded; "" for none yet.

        Args:
            loaded, refused: champions that can score, and champions that were left out.
            oldest_created_ms: when the oldest of the loaded ones was stored, epoch ms.
        """
        if self._release is not None and self._release != release:
            self._release_info.remove(self._release)
        self._release = release or None
        if release:
            self._release_info.labels(release).set(1)
        self._models_loaded.set(loaded)
        self._models_refused.set(refused)
        self._oldest_created_ms = oldest_created_ms

    # Trainer

    def trained(self, statuses: Iterable[str], models: int, seconds: float) -> None:
        """Count a batch of training requests that was answered.

        Args:
            statuses: of each request: `done`, `refused` or `failed`.
            models: versions that were fitted.
            seconds: from taking the batch to its answers.
        """
        for status in statuses:
            self._requests.labels(status).inc()
        self._models_trained.inc(models)
        self._training_seconds.observe(seconds)

    def pruned(self, versions: int) -> None:
        """Count versions that were removed since nothing needs them."""
        self._pruned.inc(versions)

    def predicted(self, statuses: Iterable[str]) -> None:
        """Count prediction requests that were answered, by `done`, `refused` or `failed`."""
        for status in statuses:
            self._questions.labels(status).inc()

    def delivered(self, how: How) -> None:
        """Count a request that a trainer took."""
        self._deliveries.labels(how).inc()

    def dead_requests(self, stream: str, count: int | None) -> None:
        """Set how many dead requests are kept; `None`, if it is not known, takes the sample away."""
        if count is None:
            self._dead_requests.remove(stream)
        else:
            self._dead_requests.labels(stream).set(count)

    # Monitor

    def monitored(self, *, outcomes: int, promotions: int, drifts: int, requests: int) -> None:
        """Count a round of the monitor, once its checkpoint was written.

        Args:
            outcomes: bar closes whose outcomes were decided on.
            promotions: challengers that became champion.
            drifts: champions that were seen to drift.
            requests: trainings that were asked for.
        """
        self._judged.inc(outcomes)
        self._promotions.inc(promotions)
        self._drifts.inc(drifts)
        self._retrainings.inc(requests)

    # All

    def redis(self, role: str, *, up: bool) -> None:
        """Say whether the Redis of a role, `streams` or `models`, answered when last asked."""
        self._redis_up.labels(role).set(up)
        if role == "models":
            self._store_up.set(up)

    def render(self) -> bytes:
        """All metrics in Prometheus's text format, version 0.0.4."""
        return generate_latest(_Plain(self._registry))

    def _age_s(self) -> float | None:
        created = self._oldest_created_ms
        # The store's clock may be ahead of this machine's.
        return None if created is None else max(0.0, self._clock() - created / 1000)
