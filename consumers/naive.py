"""Naive forecasts: what a model starts from, and what it is measured against. Pure.

A model is fitted on `label - naive forecast` with a base score of 0, so a forest without trees is exactly the naive
forecast; what is forecast is the naive forecast plus the forest's margin. The kinds, in unit-free labels of bar t:

    NO_CHANGE     0: the price stays at the close, as much volume as lately
    PERSISTENCE   the column stays as it is: prices log(x[t] / close[t]), volume log(volume[t] / mean) as in
                  `consumers.targets`, the mean over the last 20 bars. For the close that is NO_CHANGE
    MEAN          prices: the column stays where it usually lies from the close, the mean log(x / close) of the rows
                  trained on. volume: the mean label of those rows
    TIME_OF_DAY   volume of bars below a day: the mean label of the rows trained on whose bar starts in the same five
                  minutes of the UTC day; the mean of all for slots without such rows

All of them look at the bars t-19 … t and at nothing later. `Naive.history` and `forecasts` have equal bits: both take
sums in one order and logarithms one by one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from consumers.history import CLOSE, VOLUME, BarWindow
from consumers.targets import LEAST_RATIO, VOLUME_BARS, Target
from modelstore.manifest import DAY_SLOTS, NaiveKind, check_naive
from streams.series import NS
from streams.settings import COLUMNS

__all__ = ["Naive", "NaiveKind", "NaiveRows", "forecasts", "offered"]

DAY_NS = 86_400 * NS
SLOT_NS = DAY_NS // DAY_SLOTS
ALL_ROWS = slice(None)


def _no_table() -> NDArray[np.float32]:
    return np.empty(0, np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Naive:
    """One naive forecast with its constants.

    Attributes:
        kind: see the module.
        table: float32 (k,), labels: empty, one number (`MEAN`), or one per slot of the day (`TIME_OF_DAY`).

    Raises:
        BadModel: the table is none of this kind.
    """

    kind: NaiveKind = NaiveKind.NO_CHANGE
    table: NDArray[np.float32] = field(default_factory=_no_table)

    def __post_init__(self) -> None:
        check_naive(self.kind, self.table)

    @classmethod
    def fitted(cls, kind: NaiveKind, label: NDArray[np.float64], start: NDArray[np.int64]) -> Naive:
        """Take the constants from training rows.

        Args:
            label: float64 (n,), what to take means of, of at least one row: labels, or see `NaiveRows.usual`.
            start: int64 (n,), start of each row's bar, epoch ns.
        """
        if kind in (NaiveKind.NO_CHANGE, NaiveKind.PERSISTENCE):
            return cls(kind)
        mean = label.mean()
        if kind is NaiveKind.MEAN:
            return cls(kind, np.array([mean], np.float32))
        slots = _slots(start)
        counts = np.bincount(slots, minlength=DAY_SLOTS)
        sums = np.bincount(slots, label, minlength=DAY_SLOTS)
        return cls(kind, np.where(counts > 0, sums / np.maximum(counts, 1), mean).astype(np.float32))

    def history(self, target: Target, bars: BarWindow) -> NDArray[np.float64]:
        """Forecast labels at every bar.

        Returns:
            float64 (n,): NaN where undefined: persistence of volume with fewer than 20 bars, or whose mean is zero.
        """
        if self.kind is NaiveKind.PERSISTENCE:
            return _persistence(target.column, bars)
        return self.constants(bars.start)

    def constants(self, start: NDArray[np.int64]) -> NDArray[np.float64]:
        """Forecast labels of a kind that looks at no prices or volumes, by the starts of the bars; float64 (n,)."""
        if self.kind is NaiveKind.TIME_OF_DAY:
            return self.table[_slots(start)].astype(np.float64)
        return np.full(len(start), self.table[0] if self.kind is NaiveKind.MEAN else 0.0, np.float64)


def forecasts(targets: Sequence[Target], naives: Sequence[Naive], bars: BarWindow) -> NDArray[np.float64]:
    """Forecast labels at the newest bar, one per target: the last of `Naive.history`, bit for bit.

    Args:
        bars: at least one bar; persistence of volume needs the last 20.

    Returns:
        float64 (T,): NaN as in `Naive.history`.
    """
    found = np.zeros(len(targets))
    newest = bars.last(1)
    slot = int(_slots(newest.start)[0])
    stays: dict[str, float] = {}
    for index, (target, naive) in enumerate(zip(targets, naives, strict=True)):
        if naive.kind is NaiveKind.MEAN:
            found[index] = naive.table[0]
        elif naive.kind is NaiveKind.TIME_OF_DAY:
            found[index] = naive.table[slot]
        elif naive.kind is NaiveKind.PERSISTENCE:
            column = target.column
            if column not in stays:
                stays[column] = _stays(column, bars)
            found[index] = stays[column]
    return found


def offered(column: str, interval_ns: int) -> tuple[NaiveKind, ...]:
    """The kinds that are tried for a column, in the order in which ties are broken.

    Args:
        interval_ns: length of a bar.
    """
    kinds = [NaiveKind.NO_CHANGE]
    if column != "close":
        kinds += (NaiveKind.PERSISTENCE, NaiveKind.MEAN)
    if column == "volume" and interval_ns < DAY_NS:
        kinds.append(NaiveKind.TIME_OF_DAY)
    return tuple(kinds)


@dataclass(frozen=True, slots=True, eq=False)
class NaiveRows:
    """What naive forecasts are fitted on and forecast for: training rows of one target.

    Attributes:
        label: float64 (n,), known labels.
        start: int64 (n,), start of each row's bar, epoch ns.
        persistence: float64 (n,), what `PERSISTENCE` forecasts at the rows.
        usual: float64 (n,), what `MEAN` is the mean of; `None` for the labels. Of prices not the labels: those have a
            drift, and the drift of some years is a poor guide to the next.
    """

    label: NDArray[np.float64]
    start: NDArray[np.int64]
    persistence: NDArray[np.float64]
    usual: NDArray[np.float64] | None = None

    @classmethod
    def of(cls, target: Target, bars: BarWindow, rows: NDArray[np.int64], label: NDArray[np.float64]) -> NaiveRows:
        """The rows of a target.

        Args:
            rows: int64 (n,), index of each row's bar.
            label: float64 (n,), the rows' labels.
        """
        persistence = _persistence(target.column, bars)[rows]
        return cls(label, bars.start[rows], persistence, None if target.column == "volume" else persistence)

    def fit(self, kind: NaiveKind, train: slice = ALL_ROWS) -> Naive:
        """A naive forecast with the constants of some rows."""
        values = self.usual if kind is NaiveKind.MEAN and self.usual is not None else self.label
        return Naive.fitted(kind, values[train], self.start[train])

    def residuals(self, naive: Naive, part: slice = ALL_ROWS) -> NDArray[np.float64]:
        """Labels less the naive forecast at some rows, float64: what trees are fitted on."""
        if naive.kind is NaiveKind.PERSISTENCE:
            return self.label[part] - self.persistence[part]
        return self.label[part] - naive.constants(self.start[part])

    def choose(self, kinds: Sequence[NaiveKind], folds: Sequence[tuple[slice, slice]], horizon: int) -> NaiveKind:
        """The kind that did best over all test parts, its constants from each training part.

        It is the simplest whose squared error does not exceed the least by more than one standard error, as with trees:
        over a few years the mean of past returns often did better than no change, and seldom goes on to.

        Args:
            kinds: as `offered` gives them, the simplest first; it is taken if there are no folds. Persistence is passed
                over where it is undefined at any row.
            folds: rows of (training part, test part).
            horizon: of the target, bars.
        """
        # Not at the head: scorers import this module, and scipy would cost them half a second at their start.
        from consumers.har import gains, har_mean

        if not folds:
            return kinds[0]
        undefined = not np.isfinite(self.persistence).all()
        losses = {
            kind: np.concatenate([np.square(self.residuals(self.fit(kind, train), test)) for train, test in folds])
            for kind in kinds
            if not (undefined and kind is NaiveKind.PERSISTENCE)
        }
        best = min(losses, key=lambda kind: float(losses[kind].sum()))
        for kind, loss in losses.items():
            gained = gains(losses[best], loss)
            test = har_mean(gained, horizon)
            # Too few rows for a test: the least error then decides alone.
            if kind is best or (not gained.any() if test is None else test.mean <= test.se):
                return kind
        raise AssertionError("unreachable: the best is one of them")


def _slots(start: NDArray[np.int64]) -> NDArray[np.int64]:
    return start % DAY_NS // SLOT_NS


def _persistence(column: str, bars: BarWindow) -> NDArray[np.float64]:
    values = bars.values[:, COLUMNS.index(column)]
    if column != "volume":
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            return _logs(values / bars.values[:, CLOSE])
    ratio = np.full(len(bars), np.nan)
    known = len(bars) - VOLUME_BARS + 1
    if known > 0:
        # Not a mean over windows: how numpy adds those up depends on how many there are.
        total = np.zeros(known)
        for first in range(VOLUME_BARS):
            total += values[first : first + known]
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            ratio[VOLUME_BARS - 1 :] = np.maximum(
                bars.values[VOLUME_BARS - 1 :, VOLUME] / (total / VOLUME_BARS), LEAST_RATIO
            )
    return _logs(ratio)


def _stays(column: str, bars: BarWindow) -> float:
    """The last of `_persistence`: prices without arrays, which costs a tenth, at every close."""
    if column == "volume":
        return float(_persistence(column, bars.last(VOLUME_BARS))[-1])
    price, close = float(bars.values[-1, COLUMNS.index(column)]), float(bars.values[-1, CLOSE])
    ratio = price / close if close else math.nan
    return math.log(ratio) if 0 < ratio < math.inf else math.nan


def _logs(ratios: NDArray[np.float64]) -> NDArray[np.float64]:
    """Logarithms, NaN where there is none. One by one: numpy's may round otherwise in vectors of another length."""
    return np.array([math.log(ratio) if 0 < ratio < math.inf else math.nan for ratio in ratios.tolist()], np.float64)
