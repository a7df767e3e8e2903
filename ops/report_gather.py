"""A report of a tenant, gathered from its streams and its model store. Reads only.

What it takes is what the tenant put out: bars, outcomes, signals, trainings, verdicts, versions and the release in
force. Series of the symbols RANDOM and PLANTED are the controls. Nothing is fitted and nothing forecast anew, so the
report says what a subscriber could have seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import redis
from numpy.typing import NDArray

from consumers.history import CLOSE, BarWindow, read_bars
from consumers.targets import Target
from modelstore.errors import BadModel, NotFound
from modelstore.names import CHAMPION
from modelstore.release import Aliases
from modelstore.releases import Releases
from modelstore.store import ModelStore
from modelstore.verdicts import Noted, Verdicts
from ops.entries import all_entries
from ops.report_account import equity_of
from ops.report_controls import FLIP_NS, expect_nothing, expect_planted
from ops.report_evaluation import PLANTED_HORIZONS, kind_of
from ops.report_history import (
    Training,
    champions_table,
    decisions_table,
    events_of,
    models_table,
    read_trainings,
    read_verdicts,
)
from ops.report_model import Event, Expectation, Fact, Report, SeriesReport
from ops.report_model import Signal as Shown
from ops.report_outcomes import (
    MOST_OUTCOMES,
    Losses,
    Made,
    SeriesOutcomes,
    cell_of,
    digests_behind,
    forecasts_of,
    losses_of,
    read_outcomes,
    rolling_of,
)
from ops.report_words import in_days, listed, when
from streams.errors import BadRecord, ConfigurationError
from streams.keys import TENANTS
from streams.records import Signal
from streams.series import Series
from streams.tenant import Tenant

#: Random policies that an account is held against.
POLICIES = 1000
#: Bars ahead of the close that is drawn, if the signals do not say.
SHOWN_HORIZON = 10

OnProgress = Callable[[str], None]


class NothingJudged(ConfigurationError):
    """The tenant has no outcomes, so there is nothing to report."""

    def __init__(self, tenant: str, others: Sequence[str]) -> None:
        hint = f". Other tenants: {', '.join(others)} (--tenant NAME)" if others else ""
        super().__init__(
            f"tenant {tenant!r} has no outcomes yet, so there is nothing to report: forecasts are judged once models "
            f"are trained (`red10 train SERIES`) and their horizon has passed. `red10 demo` makes a tenant with "
            f"everything in it{hint}"
        )


@dataclass(slots=True)
class _Store:
    """What the model store knows, as far as it was asked: releases by id, versions by digest; each is read once."""

    releases: Releases
    versions: ModelStore
    aliases: dict[str, Aliases | None] = field(default_factory=dict)
    made: dict[str, Made] = field(default_factory=dict)
    through: dict[str, int] = field(default_factory=dict)

    def release(self, release: str) -> Aliases | None:
        """The aliases of a release; `None` if the store does not have it any more."""
        if release not in self.aliases:
            try:
                self.aliases[release] = self.releases.get(release).aliases
            except (NotFound, BadModel):
                self.aliases[release] = None
        return self.aliases[release]

    def learn(self, digests: Iterable[str]) -> None:
        """Read the manifests of versions; those that are gone or damaged stay unknown."""
        for digest in digests:
            if digest in self.made:
                continue
            try:
                manifest = self.versions.manifest(digest)
            except (NotFound, BadModel):
                self.made[digest] = Made(None, "")
                continue
            rounds, kind = manifest.parameters.get("rounds"), manifest.naive.get("kind")
            self.made[digest] = Made(rounds if isinstance(rounds, int) else None, kind if isinstance(kind, str) else "")
            self.through[digest] = manifest.trained_through


def gather(
    streams: redis.Redis,
    models: redis.Redis,
    tenant: Tenant,
    *,
    facts: Sequence[Fact] = (),
    caveats: Sequence[str] = (),
    policies: int = POLICIES,
    level: float = 0.95,
    on_progress: OnProgress = lambda what: None,
) -> Report:
    """Gather the report of a tenant.

    Args:
        streams, models: clients of the two roles.
        facts: about the run, put before those that are counted here.
        caveats: sentences that go before those of every report.
        policies: random ones per account.
        level: of the intervals.
        on_progress: told what is being done.

    Raises:
        NothingJudged: there are no outcomes.
        BadRecord: an entry of the bars is no bar.
        redis.RedisError: as the clients raise it.
    """
    on_progress("reading outcomes")
    outcomes = read_outcomes(streams, tenant)
    if not outcomes:
        newest = (name.decode() for name in cast(list[bytes], streams.zrevrange(TENANTS, 0, 4)))
        raise NothingJudged(tenant.keys.tenant, [name for name in newest if name != tenant.keys.tenant])
    signals = read_signals(streams, tenant)
    trainings = read_trainings(streams, tenant.keys)
    store = _Store(Releases(models, tenant.keys), ModelStore(models, tenant.keys))
    names = store.versions.names()
    noted = read_verdicts(Verdicts(models, tenant.keys), names)
    series: list[SeriesReport] = []
    expected: list[Expectation] = []
    for name, found in outcomes.items():
        on_progress(f"judging {name}")
        window, ends = _bars(streams, tenant, Series.parse(name))
        one, losses = _series(found, window, ends, signals.get(name, []), trainings, noted, store, policies, level)
        series.append(one)
        if one.kind == "random":
            expected.insert(0, expect_nothing(one))
        elif one.kind == "planted":
            expected += expect_planted(one, losses, level)
    current = store.releases.current()
    aliases = (store.release(current.id) if current is not None else None) or {}
    store.learn(aliases[key] for key in aliases if key[1] == CHAMPION)
    numbers = {name: max((info.number for info in store.versions.versions(name)), default=0) for name in names}
    ordered = sorted(series, key=lambda one: (one.kind != "real", one.kind != "random", one.name))
    return Report(
        title=f"Red10: {tenant.keys.tenant}",
        subtitle=_subtitle(ordered, outcomes),
        series=tuple(ordered),
        expectations=tuple(expected),
        models=(
            models_table([one.name for one in ordered], aliases, numbers, store.made, noted),
            decisions_table(noted),
            champions_table([one.name for one in ordered], aliases, store.made, store.through),
        ),
        facts=(*facts, *_counts(outcomes, signals, trainings, numbers, current.number if current else 0)),
        caveats=(*caveats, *_silent(streams, tenant, outcomes)),
        level=level,
    )


def read_signals(client: redis.Redis, tenant: Tenant) -> dict[str, list[Signal]]:
    """All signals that are kept, by series, in order of time; what is no signal is passed over.

    Raises:
        redis.RedisError: as the client raises it.
    """
    found: dict[str, list[Signal]] = {}
    for partition in range(tenant.partitions):
        for _, fields in all_entries(client, tenant.keys.partition(partition).signals):
            try:
                signal = Signal.from_fields(fields)
            except BadRecord:
                continue
            mine = found.setdefault(signal.series, [])
            # A time that falls: the tenant's state was begun anew.
            if mine and signal.ts <= mine[-1].ts:
                mine.clear()
            mine.append(signal)
    return found


def _bars(client: redis.Redis, tenant: Tenant, series: Series) -> tuple[BarWindow, NDArray[np.int64]]:
    """The bars of a series that its outcomes may be about, and their ends."""
    keys = tenant.keys.partition(tenant.partition_of(series.symbol))
    limit = MOST_OUTCOMES + 2 * max(tenant.pipeline.horizons) + 100
    return read_bars(client, keys, series, as_of=None, limit=limit, interval_ns=series.interval.ns)


def _series(
    found: SeriesOutcomes,
    window: BarWindow,
    ends: NDArray[np.int64],
    signals: Sequence[Signal],
    trainings: Sequence[Training],
    noted: Sequence[Noted],
    store: _Store,
    policies: int,
    level: float,
) -> tuple[SeriesReport, dict[str, Losses]]:
    """One series, and the losses of its targets."""
    kind = kind_of(found.series)
    releases = {release: store.release(release) for release in found.releases}
    losses = {str(target): losses_of(found, at, window, ends) for at, target in enumerate(found.targets)}
    cells = []
    for at, target in enumerate(found.targets):
        behind = digests_behind(found, at, releases, CHAMPION).most_common()
        store.learn(digest for digest, _ in behind)
        made = [(store.made[digest], count) for digest, count in behind]
        cells.append(cell_of(target, losses[str(target)], made, level))
    events = events_of(found.series, trainings, noted)
    if kind == "planted" and len(ends) and ends[0] < FLIP_NS < ends[-1]:
        flip = Event(FLIP_NS, "flip", "until here a rise was followed by a rise, from here on by a fall")
        events = tuple(sorted((*events, flip), key=lambda event: event.ts))
    wanted = signals[-1].horizon if signals else SHOWN_HORIZON
    shown = _shown(found.targets, losses, (wanted,))
    curves = _shown(found.targets, losses, PLANTED_HORIZONS) if kind == "planted" else shown
    report = SeriesReport(
        name=found.series,
        kind=kind,
        ts=ends,
        close=window.values[:, CLOSE].copy(),
        cells=tuple(cells),
        signals=tuple(
            Shown(signal.ts, "buy" if signal.side == "buy" else "sell", signal.position, signal.price)
            for signal in signals
        ),
        forecasts=forecasts_of(shown[0], losses[str(shown[0])]) if shown else None,
        equity=equity_of(found, signals, window, ends, policies=policies),
        rolling=tuple(rolling_of(target, losses[str(target)]) for target in curves),
        events=events,
        notes=() if shown else ("All its models are their naive forecasts.",),
    )
    return report, losses


def _shown(targets: Sequence[Target], losses: Mapping[str, Losses], horizons: Sequence[int]) -> list[Target]:
    """What is drawn: for each horizon wanted the nearest close, each once; without trees there is nothing to draw.

    If no close has any, the target that differs from its naive forecast most often; not the best one.
    """
    differs = {target: int((losses[str(target)].loss != losses[str(target)].naive).sum()) for target in targets}
    closes = [target for target in targets if target.column == "close" and differs[target]]
    nearest = [min(closes, key=lambda target: abs(target.horizon - wanted)) for wanted in horizons if closes]
    if not nearest:
        nearest = [target for target in targets if differs[target] and differs[target] == max(differs.values())][:1]
    return list(dict.fromkeys(nearest))


def _subtitle(series: Sequence[SeriesReport], outcomes: Mapping[str, SeriesOutcomes]) -> str:
    lengths = listed(sorted({str(Series.parse(one.name).interval) for one in series}))
    begin = min(int(found.ts[0]) for found in outcomes.values())
    end = max(int(found.ts[-1]) for found in outcomes.values())
    days = all(in_days(found.ts) for found in outcomes.values())
    judged = sum(int(np.isfinite(found.errors).sum()) for found in outcomes.values())
    return (
        f"{len(series)} series of {lengths} bars; {judged:,} forecasts judged as they came true or not, from "
        f"{when(begin, days=days)} to {when(end, days=days)}"
    )


def _counts(
    outcomes: Mapping[str, SeriesOutcomes],
    signals: Mapping[str, Sequence[Signal]],
    trainings: Sequence[Training],
    numbers: Mapping[str, int],
    releases: int,
) -> tuple[Fact, ...]:
    judged = sum(int(np.isfinite(found.errors).sum()) for found in outcomes.values())
    return (
        Fact("forecasts judged", f"{judged:,}", "of champions, none of them on bars trained on"),
        Fact("signals", f"{sum(map(len, signals.values())):,}"),
        Fact("trainings", f"{len(trainings):,}", f"{sum(numbers.values()):,} versions of {len(numbers):,} models"),
        Fact("releases", f"{releases:,}"),
    )


def _silent(client: redis.Redis, tenant: Tenant, outcomes: Mapping[str, SeriesOutcomes]) -> tuple[str, ...]:
    """A sentence on series that have bars and no outcome."""
    found = []
    for partition in range(tenant.partitions):
        # The state has a field `s:SYMBOL` for each symbol that ticks came of.
        for name in cast(list[bytes], client.hkeys(tenant.keys.partition(partition).state)):
            if name.startswith(b"s:"):
                found += [f"{name[2:].decode()}:{interval}" for interval in tenant.pipeline.parsed_intervals]
    missing = sorted(set(found) - outcomes.keys())
    if not missing:
        return ()
    return (f"Not judged: {listed(missing)}. There were too few bars to train on, or no horizon has passed since.",)
