"""`red10 demo`: the whole job once, on real data, with real servers and workers.

The stocks' history is published as ticks, and with it two controls, series made up so that the truth is known: RANDOM,
in which nothing can be found, and PLANTED, with a relation that flips midway. A scorer and a trainer, both processes of
their own, make bars, models, predictions, signals and outcomes of it.

The replay runs in lockstep with what decides about models: at each of `PAUSES` it stops, lets the scorer catch up, asks
for the first training of series that have none, runs the monitor over the new outcomes, waits for the trainings that
the monitor asks for, and goes on when the release in force has reached every partition. Between pauses nothing about
models changes. So the outputs are a function of the data alone, and two runs end with the same digest over all signals
and outcomes.

Owns nothing in Redis; each run uses a fresh tenant, which stays, and writes its report to `TENANT.html` in the data
directory. A run that is killed leaves its tenant half-filled, and its workers stop by themselves.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Protocol

import redis

from consumers.monitor import Monitor
from consumers.requests import post_requests, wait_results
from consumers.retraining import Rules
from modelstore.names import CHAMPION, PROVEN, ModelName
from modelstore.releases import Releases
from ops.demo_outcome import Outcome, SeriesCount, facts_of, outputs_digest, replayed_text
from ops.demo_trials import Receiver, crash, latency, paced
from ops.demo_workers import DemoFailed, DemoWorkers
from ops.embedded import Roles, kept_running, open_roles
from ops.entries import all_entries
from ops.report_gather import gather
from ops.report_html import write_report
from ops.report_plots import check_plots
from ops.report_words import headline
from ops.status import read_partitions
from ops.tiling import check
from producers.bars import TICKS_PER_BAR, Bars, to_ticks
from producers.controls import planted, random_walk
from producers.publisher import TickPublisher
from producers.replay import merged, replay
from producers.sample import load_stocks
from streams.clients import connect
from streams.ids import ZERO, StreamID
from streams.records import Outcome as Judged
from streams.records import Signal, TrainingRequest, TrainingResult
from streams.settings import Origins, Settings
from streams.tenant import Tenant, find_tenant

#: When the replay stops, UTC: every quarter, but for the last year with its trials. Nearly four years without models
#: come before.
PAUSES = (
    *(datetime(2004 + quarter // 4, 1 + quarter % 4 * 3, 1, tzinfo=UTC) for quarter in range(8 * 4 + 1)),
    datetime(2013, 1, 1, tzinfo=UTC),
)
#: All models of a series are trained anew whenever it has grown by this share: by way of the monitor.
RETRAIN_GROWTH = 0.5
#: The whole run should end within 90 s on two cores; no single wait may take longer than this, seconds.
PATIENCE_S = 120.0
POLL_S = 0.02
#: The year before this is when the demo kills its own processes, and then measures latency.
TRIALS_UNTIL = datetime(2013, 1, 1, tzinfo=UTC)
CRASH_UNTIL = datetime(2012, 7, 1, tzinfo=UTC)
#: How long the paced phase takes, seconds.
PACED_S = 6.0
#: The demo's workers hold short leases, so that the way back from a crash is not all waiting, ms.
LEASE_MS = 1000


class Display(Protocol):
    """Where progress is shown."""

    def phase(self, text: str) -> None:
        """What is being done now."""

    def advance(self, ticks: int, total: int) -> None:
        """How far the replay is."""


def demo_settings(settings: Settings, origins: Origins, now: datetime) -> tuple[Settings, Origins]:
    """The settings of a run: daily bars in a fresh tenant; everything else as it was given."""
    tenant = settings.tenant if origins["tenant"] != "default" else f"demo-{now:%Y%m%d-%H%M%S}"
    changed = {
        "tenant": tenant,
        "intervals": ("1d",),
        "partitions": 4,
        "lease_ms": LEASE_MS,
        "retrain_growth": RETRAIN_GROWTH,
    }
    return settings.model_copy(update=changed), {**origins, **dict.fromkeys(changed, "flag")}


def run(settings: Settings, origins: Origins, display: Display, say: Callable[[str], None]) -> Outcome:
    """Run the demo.

    Args:
        say: told of what goes wrong on the way and is mended.

    Raises:
        Red10Error: it cannot be run, or a worker cannot.
    """
    began = time.monotonic()
    settings, origins = demo_settings(settings, origins, datetime.now(UTC))
    series = {**load_stocks(), **{name: bars for bars in (random_walk(), planted()) for name in bars.names}}
    check_plots()
    display.phase("starting Redis")
    with open_roles(settings, progress=display.phase) as roles:
        log = settings.data_dir / f"{settings.tenant}.log"
        with kept_running(roles.embedded.values(), say), DemoWorkers(roles, origins, log, say) as workers:
            demo = _Demo(roles, origins, display, series, workers)
            demo.run()
            demo.outcome.seconds = time.monotonic() - began
            return demo.outcome


class _Demo:
    """One run."""

    def __init__(
        self, roles: Roles, origins: Origins, display: Display, series: Mapping[str, Bars], workers: DemoWorkers
    ) -> None:
        settings = roles.settings
        self._workers = workers
        self._store = roles.embedded.get("models")
        assert settings.streams_url is not None
        assert settings.models_url is not None
        self._settings = settings
        self._display = display
        self._streams: redis.Redis = connect(settings.streams_url, block_ms=5000)
        self._models: redis.Redis = connect(settings.models_url)
        self._publisher = TickPublisher(settings, origins=origins)
        self._bars = series
        self._tables = [to_ticks(bars) for bars in series.values()]
        self._total = sum(map(len, self._tables))
        self._done = 0
        self._known = ZERO
        self.outcome = Outcome(settings.tenant)

    @property
    def _tenant(self) -> Tenant:
        return self._publisher.tenant

    def run(self) -> None:
        """Replay and train in turn, then count.

        Raises:
            DemoFailed: the tenant exists, or something took too long.
        """
        try:
            if find_tenant(self._streams, self._settings.tenant) is not None:
                raise DemoFailed(
                    f"tenant {self._settings.tenant!r} exists, and the demo needs a fresh one: leave --tenant out"
                )
            rules = Rules.of(self._settings, self._tenant.pipeline)
            monitor = Monitor(streams=self._streams, models=self._models, tenant=self._tenant, rules=rules)
            start: int | None = None
            for at in PAUSES:
                moment = _ns(at)
                if at == TRIALS_UNTIL:
                    start = self._trials(start, moment)
                self._replay(start, moment)
                self._review(monitor, moment, at)
                start = moment
            self._replay(start, None)
            last = max(int(table.ts[-1]) for table in self._tables)
            self._clock(last - last % (86_400 * 1_000_000_000) + 86_400 * 1_000_000_000)
            self._review(monitor, None, None)
            self._display.phase("counting")
            self._count()
            self._report()
        finally:
            self._publisher.close()
            self._streams.close()
            self._models.close()

    def _replay(self, start: int | None, until: int | None) -> None:
        began = time.monotonic()
        self._display.phase("replaying ticks through the live path")
        self.outcome.replayed += self._publish(start, until)
        if until is not None:
            self._clock(until)
        self.outcome.replay_s += time.monotonic() - began

    def _trials(self, start: int | None, until: int) -> int:
        """Crash, then publish at a pace; the event time up to which ticks were published."""
        self._display.phase("killing the scorer and the model Redis (SIGKILL)")
        tenant, pid = self._tenant, self._workers.scorer_pid
        assert pid is not None, "the watcher has it running"
        before = {part.partition: part.checkpoint for part in read_partitions(self._streams, tenant)}

        def committed() -> bool:
            parts = read_partitions(self._streams, tenant)
            return any(part.checkpoint != before[part.partition] for part in parts)

        def publish() -> None:
            self._publish(start, _ns(CRASH_UNTIL))

        self.outcome.crash = crash(pid, self._store, publish, committed, self._workers.health, self._until)
        self._clock(_ns(CRASH_UNTIL))
        ticks = next(merged([table.slice(_ns(CRASH_UNTIL), until) for table in self._tables]), None)
        assert ticks is not None, "the sample data has ticks there"
        self._display.phase("publishing at a steady pace")
        base = self._done

        def progress(done: int) -> None:
            self._done = base + done
            self._display.advance(self._done, self._total)

        assert self._settings.streams_url is not None
        with connect(self._settings.streams_url, block_ms=1000) as client, Receiver(client, tenant) as receiver:
            due = paced(self._publisher, ticks, PACED_S, progress)
            self._clock(until)
            self.outcome.latency = latency(due, receiver.received, PACED_S)
        return until

    def _publish(self, start: int | None, until: int | None) -> int:
        base = self._done

        def progress(done: int, total: int, ts: int) -> None:
            self._done = base + done
            self._display.advance(self._done, self._total)

        return replay(self._publisher, self._tables, start=start, until=until, on_progress=progress).ticks

    def _clock(self, ts: int) -> None:
        """Close the bars up to here, and wait until everything published is scored."""
        self._publisher.clock(ts)
        for _ in self._until("the scorer catches up"):
            partitions = read_partitions(self._streams, self._tenant)
            if all(part.last is None or part.checkpoint == part.last for part in partitions):
                return

    def _review(self, monitor: Monitor, as_of: int | None, at: datetime | None) -> None:
        """Have series without models trained at the turn of a year, and the monitor decide on all new outcomes."""
        began = time.monotonic()
        if at is not None and as_of is not None and at.month == 1:
            wanted = [
                f"{name}:1d"
                for name, bars in self._bars.items()
                if int(bars.start[0]) < as_of and not self._count_of(f"{name}:1d").models
            ]
            post_requests(
                self._streams,
                self._tenant.keys,
                [TrainingRequest(series=name, as_of=as_of, why="the series has no models yet") for name in wanted],
            )
        self._display.phase("monitoring: what did the forecasts come to?")
        # A training that was asked for has to be done before the next outcomes are decided on, else it would depend
        # on the trainer's pace whether a challenger is still there when it is to be promoted.
        self._await_trainings(at)
        while monitor.take():
            monitor.judge()
            report = monitor.settle()
            self.outcome.promotions += report.promotions
            self.outcome.drifts += report.drifts
            self._await_trainings(at)
        self._in_force()
        self.outcome.training_s += time.monotonic() - began

    def _await_trainings(self, at: datetime | None) -> None:
        """Wait for the results of all requests that were posted since the last time."""
        keys = self._tenant.keys
        posted: dict[StreamID, TrainingRequest] = {}
        for entry, fields in all_entries(self._streams, keys.requests, after=self._known):
            posted[entry] = TrainingRequest.from_fields(fields)
            self._known = entry
        if not posted:
            return
        what = ", ".join(dict.fromkeys(request.series for request in posted.values()))
        self._display.phase(f"training{'' if at is None else f' on the bars before {at:%Y-%m-%d}'}: {what}")
        self.outcome.requested += sum(request.id is not None for request in posted.values())
        for result in wait_results(self._streams, keys, list(posted), timeout_s=PATIENCE_S).values():
            self._take(result)

    def _count_of(self, series: str) -> SeriesCount:
        return self.outcome.series.setdefault(series, SeriesCount())

    def _take(self, result: TrainingResult) -> None:
        count = self._count_of(result.series)
        if result.status == "failed":
            raise DemoFailed(f"training {result.series} failed: {result.reason}")
        if result.status == "refused":
            count.refused = result.reason
            return
        count.refused = ""
        count.trainings += 1
        count.models = max(count.models, len(result.versions))
        self.outcome.versions += len(result.versions)

    def _in_force(self) -> None:
        """Wait until the store's release is in force in every partition."""
        info = Releases(self._models, self._tenant.keys).current()
        if info is None:
            return
        for _ in self._until("the new release is in force"):
            if all(part.release == info.id for part in read_partitions(self._streams, self._tenant)):
                return

    def _until(self, what: str) -> Iterator[None]:
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            self._workers.check()
            yield
            time.sleep(POLL_S)
        raise DemoFailed(
            f"waited {PATIENCE_S:g} s until {what}, in vain: {self._settings.data_dir / self._settings.tenant}.log "
            "says what the workers did"
        )

    def _count(self) -> None:
        outcome, tenant = self.outcome, self._tenant
        for name, bars in self._bars.items():
            self._count_of(f"{name}:1d").ticks = len(bars) * TICKS_PER_BAR
        signals: list[Signal] = []
        judged: list[Judged] = []
        for partition in range(tenant.partitions):
            keys = tenant.keys.partition(partition)
            signals += [Signal.from_fields(fields) for _, fields in all_entries(self._streams, keys.signals)]
            judged += [Judged.from_fields(fields) for _, fields in all_entries(self._streams, keys.outcomes)]
            for _, fields in all_entries(self._streams, keys.predictions):
                self._count_of(fields[b"series"].decode()).predictions += 1
        for signal in signals:
            self._count_of(signal.series).signals += 1
        for record in judged:
            self._count_of(record.series).judged += bool(record.targets)
        for series, counted in outcome.series.items():
            symbol = series.partition(":")[0]
            counted.bars = int(self._streams.xlen(tenant.keys.partition(tenant.partition_of(symbol)).bars(series)))
        self._count_models()
        outcome.digest = outputs_digest([*signals, *judged])
        outcome.tiling = check(self._streams, tenant)

    def _report(self) -> None:
        """Write the report."""
        self._display.phase("writing the report")
        found = gather(
            self._streams, self._models, self._tenant, facts=facts_of(self.outcome), caveats=(replayed_text(),)
        )
        self.outcome.headline = headline(found)
        self.outcome.report = self._settings.data_dir / f"{self.outcome.tenant}.html"
        write_report(found, self.outcome.report)

    def _count_models(self) -> None:
        releases = Releases(self._models, self._tenant.keys)
        info = releases.current()
        aliases = releases.get(info.id).aliases if info is not None else {}
        for (name, alias), digest in aliases.items():
            counted = self._count_of(ModelName.parse(name).series)
            if alias == PROVEN:
                counted.proven += aliases.get((name, CHAMPION)) == digest


def _ns(at: datetime) -> int:
    return int(at.timestamp()) * 1_000_000_000
