"""`red10 demo`: the whole job once, on real data, with real servers and workers.

The stocks' history is published as ticks; a scorer and a trainer, both processes of their own, make bars, models,
predictions and signals of it. The replay runs in lockstep with training: at each of `RETRAIN_AT` it stops, lets the
scorer catch up, asks for training as of that moment, and goes on when the new release is in force in every partition.
So the outputs are a function of the data alone, and two runs end with the same digest over all signals.

Owns nothing in Redis; each run uses a fresh tenant, which stays. A run that is killed leaves its tenant half-filled,
and its workers stop by themselves.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

import redis

from consumers.requests import post_requests, wait_results
from modelstore.releases import Releases
from ops.demo_trials import Crash, Latency, Receiver, crash, latency, paced
from ops.demo_workers import DemoFailed, DemoWorkers
from ops.embedded import Roles, kept_running, open_roles
from ops.entries import all_entries
from ops.status import read_partitions
from ops.tiling import Tiling, check
from producers.bars import TICKS_PER_BAR, Bars, to_ticks
from producers.publisher import TickPublisher
from producers.replay import merged, replay
from producers.sample import load_stocks, stock_splits
from streams.clients import connect
from streams.records import Signal, TrainingRequest, TrainingResult
from streams.settings import Origins, Settings
from streams.tenant import Tenant, find_tenant

#: When the replay stops for training, UTC. Four years come before the first.
RETRAIN_AT = tuple(datetime(year, 1, 1, tzinfo=UTC) for year in range(2004, 2014))
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


@dataclass(slots=True)
class SeriesCount:
    """What became of one series."""

    ticks: int = 0
    bars: int = 0
    models: int = 0
    trainings: int = 0
    predictions: int = 0
    signals: int = 0
    refused: str = ""


@dataclass(slots=True)
class Outcome:
    """What a run did.

    Attributes:
        digest: SHA-256 over all signals; the same for every run on the same libraries.
        replay_s, training_s: seconds spent publishing and scoring at full speed, and waiting for training.
        replayed: ticks that went through in `replay_s`.
        crash, latency: what the second half measured; `latency` is `None` if nothing was put out meanwhile.
        tiling: ticks lost and doubled, counted at the end.
    """

    tenant: str
    series: dict[str, SeriesCount] = field(default_factory=dict)
    digest: str = ""
    seconds: float = 0.0
    replay_s: float = 0.0
    replayed: int = 0
    training_s: float = 0.0
    versions: int = 0
    crash: Crash | None = None
    latency: Latency | None = None
    tiling: Tiling = field(default_factory=Tiling)


def demo_settings(settings: Settings, origins: Origins, now: datetime) -> tuple[Settings, Origins]:
    """The settings of a run: daily bars in a fresh tenant; everything else as it was given."""
    tenant = settings.tenant if origins["tenant"] != "default" else f"demo-{now:%Y%m%d-%H%M%S}"
    changed = {"tenant": tenant, "intervals": ("1d",), "partitions": 4, "lease_ms": LEASE_MS}
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
    stocks = load_stocks()
    display.phase("starting Redis")
    with open_roles(settings, progress=display.phase) as roles:
        log = settings.data_dir / f"{settings.tenant}.log"
        with kept_running(roles.embedded.values(), say), DemoWorkers(roles, origins, log, say) as workers:
            demo = _Demo(roles, origins, display, stocks, workers)
            demo.run()
            demo.outcome.seconds = time.monotonic() - began
            return demo.outcome


class _Demo:
    """One run."""

    def __init__(
        self, roles: Roles, origins: Origins, display: Display, stocks: Mapping[str, Bars], workers: DemoWorkers
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
        self._stocks = stocks
        self._tables = [to_ticks(bars) for bars in stocks.values()]
        self._total = sum(map(len, self._tables))
        self._done = 0
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
            start: int | None = None
            for at in RETRAIN_AT:
                moment = _ns(at)
                if at == TRIALS_UNTIL:
                    start = self._trials(start, moment)
                self._replay(start, moment)
                self._train(moment, at)
                start = moment
            self._replay(start, None)
            last = max(int(table.ts[-1]) for table in self._tables)
            self._clock(last - last % (86_400 * 1_000_000_000) + 86_400 * 1_000_000_000)
            self._display.phase("counting")
            self._count()
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

    def _train(self, as_of: int, at: datetime) -> None:
        began = time.monotonic()
        series = [f"{name}:1d" for name, bars in self._stocks.items() if int(bars.start[0]) < as_of]
        self._display.phase(f"training on the bars before {at:%Y-%m-%d}: {', '.join(series)}")
        keys = self._tenant.keys
        wanted = [TrainingRequest(series=name, as_of=as_of) for name in series]
        requests = post_requests(self._streams, keys, wanted)
        results = wait_results(self._streams, keys, requests, timeout_s=PATIENCE_S)
        for result in results.values():
            self._take(result)
        if any(result.status == "done" for result in results.values()):
            self._in_force()
        self.outcome.training_s += time.monotonic() - began

    def _take(self, result: TrainingResult) -> None:
        count = self.outcome.series.setdefault(result.series, SeriesCount())
        if result.status == "failed":
            raise DemoFailed(f"training {result.series} failed: {result.reason}")
        if result.status == "refused":
            count.refused = result.reason
            return
        count.refused = ""
        count.trainings += 1
        count.models = len(result.versions)
        self.outcome.versions += len(result.versions)

    def _in_force(self) -> None:
        """Wait until the store's release is in force in every partition."""
        info = Releases(self._models, self._tenant.keys).current()
        assert info is not None, "training made one"
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
        for name, bars in self._stocks.items():
            outcome.series.setdefault(f"{name}:1d", SeriesCount()).ticks = len(bars) * TICKS_PER_BAR
        signals: list[dict[bytes, bytes]] = []
        for partition in range(tenant.partitions):
            keys = tenant.keys.partition(partition)
            signals += [fields for _, fields in all_entries(self._streams, keys.signals)]
            predicted = Counter(
                fields[b"series"].decode() for _, fields in all_entries(self._streams, keys.predictions)
            )
            for series, count in predicted.items():
                outcome.series[series].predictions = count
        for series, count in Counter(fields[b"series"].decode() for fields in signals).items():
            outcome.series[series].signals = count
        for series, counted in outcome.series.items():
            symbol = series.partition(":")[0]
            counted.bars = int(self._streams.xlen(tenant.keys.partition(tenant.partition_of(symbol)).bars(series)))
        outcome.digest = signals_digest(signals)
        outcome.tiling = check(self._streams, tenant)


def _ns(at: datetime) -> int:
    return int(at.timestamp()) * 1_000_000_000


def signals_digest(signals: Sequence[Mapping[bytes, bytes]]) -> str:
    """SHA-256 over signals in order of time and series; `src` names entry ids, which differ from run to run."""
    lines = []
    for fields in signals:
        signal = Signal.from_fields(fields)
        text = signal.model_dump_json(exclude={"src"})
        lines.append((signal.ts, signal.series, text))
    return hashlib.sha256("\n".join(text for _, _, text in sorted(lines)).encode()).hexdigest()


def splits_text() -> str:
    """The splits that the sample data is adjusted for, in words."""
    return ", ".join(f"{split.symbol} {split.day:%Y-%m-%d} ({split.ratio:g}:1)" for split in stock_splits())
