"""Outcomes as arrays, and what they say of each target: a report's cells and curves.

`read_outcomes` reads a tenant's `red10:{T:p}:outcomes` streams; the rest is pure. A model's skill is measured as
`consumers.evaluate` does it: against the naive forecast that its versions start from, and against those that need no
training (no change, persistence) worked out from the bars; the strictest of them counts, so that whoever picks the
naive forecast cannot flatter the model.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import redis
from numpy.typing import NDArray

from consumers.har import Skill, skill_of
from consumers.history import BarWindow
from consumers.naive import Naive, NaiveKind, offered
from consumers.targets import Target
from modelstore.release import Aliases
from ops.entries import all_entries
from ops.report_model import Cell, Forecasts, Rolling
from streams.errors import BadRecord
from streams.records import Outcome, Vector
from streams.tenant import Tenant

#: Most outcomes per series, the newest: 80 years of days; bounds the memory to some 40 MB a series of 30 targets.
MOST_OUTCOMES = 20_000
#: Judged forecasts behind each point of a curve of skill, if there are twice as many.
ROLLING = 250

#: What naive forecasts are called, by kind in lower case as manifests have it.
NAIVE_NAMES = {kind.name.lower(): kind.name.lower().replace("_", " ") for kind in NaiveKind}
#: Those that have no constants, so that they can be worked out from the bars alone.
_FREE = (NaiveKind.NO_CHANGE, NaiveKind.PERSISTENCE)


@dataclass(frozen=True, slots=True, eq=False)
class SeriesOutcomes:
    """The outcomes of one series in order, n of them, of T targets; NaN where nothing was judged.

    Attributes:
        series: such as `SPY:1m`.
        targets: T targets, in the pipeline's order.
        ts: int64 (n,), ends of the bars that told, ns.
        actuals, errors, naive_errors: float64 (n, T).
        releases: ids of the releases that made the forecasts.
        made_by: int32 (n, T), index in `releases`; -1 where nothing was judged.
        position: int8 (n,), held at the bar's close.
        profit, market: float64 (n,), log return of the account after cost, and of the close.
    """

    series: str
    targets: tuple[Target, ...]
    ts: NDArray[np.int64]
    actuals: NDArray[np.float64]
    errors: NDArray[np.float64]
    naive_errors: NDArray[np.float64]
    releases: tuple[str, ...]
    made_by: NDArray[np.int32]
    position: NDArray[np.int8]
    profit: NDArray[np.float64]
    market: NDArray[np.float64]

    def judged(self, at: int) -> NDArray[np.bool_]:
        """bool (n,): where the target with index `at` was judged."""
        return np.isfinite(self.errors[:, at]) & np.isfinite(self.naive_errors[:, at])


class _Rows:
    """The newest outcomes of one series, as they come."""

    def __init__(self) -> None:
        self.rows: deque[Outcome] = deque(maxlen=MOST_OUTCOMES)

    def add(self, outcome: Outcome) -> None:
        # A bar number that falls: the tenant's state was begun anew, and what came before is another history.
        if self.rows and outcome.bar <= self.rows[-1].bar:
            self.rows.clear()
        self.rows.append(outcome)


def read_outcomes(client: redis.Redis, tenant: Tenant) -> dict[str, SeriesOutcomes]:
    """The newest outcomes of every series that has any, by name of the series; what is no outcome is passed over.

    Raises:
        redis.RedisError: as the client raises it.
    """
    found: dict[str, _Rows] = {}
    for partition in range(tenant.partitions):
        for _, fields in all_entries(client, tenant.keys.partition(partition).outcomes):
            try:
                outcome = Outcome.from_fields(fields)
            except BadRecord:
                continue
            if _fits(outcome):
                found.setdefault(outcome.series, _Rows()).add(outcome)
    targets = tuple(map(Target.parse, tenant.pipeline.targets))
    return {series: as_arrays(series, targets, found[series].rows) for series in sorted(found)}


def _fits(outcome: Outcome) -> bool:
    vectors = (outcome.actuals, outcome.errors, outcome.naive_errors, outcome.made_by)
    return all(len(vector) == len(outcome.targets) for vector in vectors) and all(
        0 <= at < len(outcome.releases) for at in outcome.made_by
    )


def as_arrays(series: str, targets: tuple[Target, ...], rows: Sequence[Outcome]) -> SeriesOutcomes:
    """Outcomes of one series as arrays; targets that are not among `targets` are left out."""
    place = {str(target): at for at, target in enumerate(targets)}
    shape = (len(rows), len(targets))
    actuals, errors, naive_errors = (np.full(shape, np.nan) for _ in range(3))
    made_by = np.full(shape, -1, np.int32)
    releases: dict[str, int] = {}
    for row, outcome in enumerate(rows):
        chosen = [at for at, name in enumerate(outcome.targets) if name in place]
        columns = [place[outcome.targets[at]] for at in chosen]
        for array, vector in (
            (actuals, outcome.actuals),
            (errors, outcome.errors),
            (naive_errors, outcome.naive_errors),
        ):
            array[row, columns] = _numbers(vector, chosen)
        ids = [releases.setdefault(release, len(releases)) for release in outcome.releases]
        made_by[row, columns] = [ids[outcome.made_by[at]] for at in chosen]
    return SeriesOutcomes(
        series,
        targets,
        np.array([outcome.ts for outcome in rows], np.int64),
        actuals,
        errors,
        naive_errors,
        tuple(releases),
        made_by,
        np.array([outcome.position for outcome in rows], np.int8),
        np.array([outcome.profit for outcome in rows], np.float64),
        np.array([outcome.market for outcome in rows], np.float64),
    )


def _numbers(vector: Vector, chosen: Sequence[int]) -> list[float]:
    return [np.nan if (number := vector[at]) is None else number for at in chosen]


@dataclass(frozen=True, slots=True)
class Made:
    """What is known of a version behind forecasts: its trees, and the kind of its naive forecast."""

    trees: int | None
    naive: str


def digests_behind(found: SeriesOutcomes, at: int, releases: Mapping[str, Aliases | None], alias: str) -> Counter[str]:
    """How many judged forecasts of the target with index `at` each version made; unknown releases are left out."""
    indices, counts = np.unique(found.made_by[found.judged(at), at], return_counts=True)
    behind: Counter[str] = Counter()
    for index, count in zip(indices.tolist(), counts.tolist(), strict=True):
        aliases = releases.get(found.releases[index])
        digest = None if aliases is None else aliases.get((f"{found.series}/{found.targets[at]}", alias))
        if digest is not None:
            behind[digest] += count
    return behind


@dataclass(frozen=True, slots=True, eq=False)
class Losses:
    """Squared errors of one target, m judged forecasts in order of time; all (m,).

    Attributes:
        ts: ends of the bars that told, ns.
        loss: of the champions.
        naive: of the strictest naive forecast.
        against: what that is called; "" for the one that the versions start from.
        said, came: the forecast label, and the label that came.
        made_by: int32, number of the release that made the forecast.
    """

    ts: NDArray[np.int64]
    loss: NDArray[np.float64]
    naive: NDArray[np.float64]
    against: str
    said: NDArray[np.float64]
    came: NDArray[np.float64]
    made_by: NDArray[np.int32]

    def between(self, begin: int, end: int) -> Losses:
        """Of the bars that end after `begin` and not after `end`, ns; against the same naive forecast."""
        return self._some((self.ts > begin) & (self.ts <= end))

    def after_switch(self, ts: int) -> Losses:
        """Forecasts that were made with releases that came into force after `ts`, ns."""
        before = np.flatnonzero(self.ts <= ts)
        if not len(before):
            return self
        return self._some((self.ts > ts) & (self.made_by > self.made_by[before].max()))

    def _some(self, some: NDArray[np.bool_]) -> Losses:
        return Losses(
            self.ts[some], self.loss[some], self.naive[some], self.against, self.said[some], self.came[some],
            self.made_by[some],
        )  # fmt: skip

    def skill(self, horizon: int, level: float = 0.95) -> Skill | None:
        """Skill with its interval; `None` where it cannot be tested."""
        return skill_of(self.loss, self.naive, horizon, level)

    @property
    def plain(self) -> float | None:
        """Skill without a test; `None` without outcomes, or where the naive forecast never erred."""
        total = float(self.naive.sum())
        return 1 - float(self.loss.sum()) / total if total > 0 else None


def losses_of(found: SeriesOutcomes, at: int, bars: BarWindow, ends: NDArray[np.int64]) -> Losses:
    """The losses of the target with index `at`.

    Args:
        bars, ends: the series' bars as far as they are kept, and their ends, int64, ns.
    """
    target, chosen = found.targets[at], found.judged(at)
    ts, came, error = found.ts[chosen], found.actuals[chosen, at], found.errors[chosen, at]
    naive, against = found.naive_errors[chosen, at] ** 2, ""
    if len(ts) and len(bars):
        interval_ns = int(ends[0] - bars.start[0])
        told = np.searchsorted(ends, ts)
        made = told - target.horizon
        known = bool(np.all((told < len(ends)) & (made >= 0)) and np.array_equal(ends[told], ts))
        for kind in (kind for kind in offered(target.column, interval_ns) if kind in _FREE and known):
            loss = (Naive(kind).history(target, bars)[made] - came) ** 2
            # Forecasts are float32 on their way here: the same naive forecast must not win by rounding.
            if np.isfinite(loss).all() and loss.sum() < naive.sum() * (1 - 1e-6):
                naive, against = loss, NAIVE_NAMES[kind.name.lower()]
    return Losses(ts, error**2, naive, against, came + error, came, found.made_by[chosen, at])


def cell_of(target: Target, losses: Losses, made: Sequence[tuple[Made, int]], level: float) -> Cell:
    """A target's cell.

    Args:
        made: the versions behind the forecasts, each with how many it made, most first.
    """
    told = losses.skill(target.horizon, level)
    directed = losses.said != 0
    hits = up = None
    if target.column == "close" and directed.any():
        came = losses.came[directed]
        hits = float((np.sign(losses.said[directed]) == np.sign(came)).mean())
        up = float((came > 0).mean())
    kinds = dict.fromkeys(NAIVE_NAMES.get(one.naive, one.naive) for one, _ in made if one.naive)
    trees = [(one.trees, count) for one, count in made if one.trees is not None]
    return Cell(
        target=str(target),
        n=len(losses.ts),
        skill=losses.plain,
        low=None if told is None else told.low,
        high=None if told is None else told.high,
        p=None if told is None else told.test.p_greater,
        naive=losses.against or " or ".join(kinds),
        hits=hits,
        up=up,
        trees=sum(n * count for n, count in trees) / sum(count for _, count in trees) if trees else None,
    )


def rolling_of(target: Target, losses: Losses) -> Rolling:
    """Skill over a moving window."""
    count = len(losses.ts)
    window = max(1, min(ROLLING, count // 2))
    sums = np.cumsum(np.concatenate((np.zeros((2, 1)), np.stack((losses.loss, losses.naive))), axis=1), axis=1)
    ours, naive = sums[:, window:] - sums[:, :-window]
    known = naive > 0
    return Rolling(str(target), window, losses.ts[window - 1 :][known], 1 - ours[known] / naive[known])


def forecasts_of(target: Target, losses: Losses) -> Forecasts:
    """Forecasts beside what came."""
    return Forecasts(str(target), losses.ts, losses.said, losses.came)
