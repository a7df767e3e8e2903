"""The judge: holds forecasts against what came, when their horizon has passed. Pure.

At the close of bar n it judges, for every target with horizon h, the forecast made at the close of bar n - h. It keeps
the forecasts of the last H bars of a series, H being the longest horizon; each bar's entry in the log carries them too,
and after a restart they are read back from there, so nothing of this is in a partition's state.

An error is forecast label minus actual label (`consumers.targets`). Forecasts for bars that a version was trained on do
not count: whoever keeps a forecast here leaves those out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import orjson
from numpy.typing import NDArray

from consumers.history import CLOSE, VOLUME, BarWindow
from consumers.targets import LEAST_RATIO, VOLUME_BARS, Target
from streams.settings import COLUMNS


@dataclass(frozen=True, slots=True, eq=False)
class Forecasts:
    """What was forecast at one close; float32 (T,), T targets of the pipeline, NaN where nothing counts.

    Attributes:
        values: of the champions.
        naive: the naive forecasts of the champions.
        challengers: of the challengers.
        release: id of the release that made them.
    """

    values: NDArray[np.float32]
    naive: NDArray[np.float32]
    challengers: NDArray[np.float32]
    release: str


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """What one close tells about earlier forecasts; J targets, in the pipeline's order.

    Attributes:
        targets: index of each in the pipeline.
        actuals: float64 (J,), labels that came.
        errors, naive_errors, challenger_errors: float64 (J,), NaN where nothing was forecast.
        hits: float64 (J,), close only: 1 where the forecast had the sign of what came, else 0; NaN for other columns,
            and for a forecast of no change, which has none.
        releases: ids of the releases that made the forecasts.
        made_by: int64 (J,), index in `releases`.
    """

    targets: NDArray[np.int64]
    actuals: NDArray[np.float64]
    errors: NDArray[np.float64]
    naive_errors: NDArray[np.float64]
    challenger_errors: NDArray[np.float64]
    hits: NDArray[np.float64]
    releases: tuple[str, ...]
    made_by: NDArray[np.int64]


class Judge:
    """What all series of a pipeline share: its targets as arrays.

    Attributes:
        targets: T names, in the pipeline's order.
        longest: H, the longest horizon.
        bars: newest bars that `actuals` looks at.
    """

    def __init__(self, targets: Mapping[str, Target]) -> None:
        found = tuple(targets.values())
        self.targets = tuple(targets)
        self.longest = max(target.horizon for target in found)
        self.bars = max(target.horizon + target.lookback for target in found)
        self._all = np.arange(len(found))
        self._horizon = np.array([target.horizon for target in found], np.int64)
        self._column = np.array([COLUMNS.index(target.column) for target in found], np.int64)
        self._close = self._column == CLOSE
        self._volume = np.flatnonzero(self._column == VOLUME)
        self._price = np.flatnonzero(self._column != VOLUME)

    def log(self) -> ForecastLog:
        """An empty log of forecasts for one series."""
        return ForecastLog(self.longest, len(self.targets))

    def actuals(self, bars: BarWindow) -> NDArray[np.float64]:
        """The labels that the newest bar tells, one per target: that of the bar `horizon` bars before it.

        Returns:
            float64 (T,): NaN where there are too few bars, or the label is undefined.
        """
        found = np.full(len(self.targets), np.nan)
        at = len(bars) - 1 - self._horizon
        known = self._price[at[self._price] >= 0]
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            found[known] = np.log(bars.values[-1, self._column[known]] / bars.values[at[known], CLOSE])
        for index in self._volume.tolist():
            end = int(at[index]) + 1
            if end >= VOLUME_BARS:
                mean = float(bars.values[end - VOLUME_BARS : end, VOLUME].mean())
                if mean > 0:
                    found[index] = np.log(max(float(bars.values[-1, VOLUME]) / mean, LEAST_RATIO))
        found[~np.isfinite(found)] = np.nan
        return found

    def judge(self, log: ForecastLog, bar: int, actuals: NDArray[np.float64]) -> Judged | None:
        """Hold the forecasts whose horizon ends with bar number `bar` against what it tells.

        Call it before the forecasts of the same bar are kept.

        Args:
            actuals: float64 (T,), of this bar; see `actuals`.

        Returns:
            `None` if there is nothing to judge.
        """
        if bar - log.newest > self.longest or log.newest < 0:
            return None
        made = bar - self._horizon
        slot = made % self.longest
        values, naive, challengers = (rows[slot, self._all] for rows in (log.values, log.naive, log.challengers))
        known = np.isfinite(actuals) & np.isfinite(naive) & np.isfinite(values) & (made >= 0)
        targets = np.flatnonzero(known)
        if not len(targets):
            return None
        came, said = actuals[targets], values[targets].astype(np.float64)
        told = self._close[targets] & (said != 0)
        hits = np.where(told, (np.sign(said) == np.sign(came)).astype(np.float64), np.nan)
        names: dict[str, int] = {}
        made_by = [names.setdefault(log.releases[at], len(names)) for at in slot[targets].tolist()]
        return Judged(
            targets=targets,
            actuals=came,
            errors=said - came,
            naive_errors=naive[targets].astype(np.float64) - came,
            challenger_errors=challengers[targets].astype(np.float64) - came,
            hits=hits,
            releases=tuple(names),
            made_by=np.array(made_by, np.int64),
        )


class ForecastLog:
    """The forecasts of the last H bars of one series; arrays are made with the first forecast.

    Attributes:
        newest: number of the last bar with a forecast; -1 without one.
        values, naive, challengers: float32 (H, T); row n % H is bar n's.
        releases: of each row.
    """

    def __init__(self, longest: int, targets: int) -> None:
        self.newest = -1
        self._shape = (longest, targets)
        none = np.empty((0, 0), np.float32)
        self.values, self.naive, self.challengers = none, none, none
        self.releases: list[str] = []

    def keep(self, bar: int, forecasts: Forecasts | None) -> None:
        """Keep what was forecast at the close of bar number `bar`; to be called for every bar, in order."""
        if forecasts is None and bar - self.newest > self._shape[0]:
            return
        if not self.releases:
            if forecasts is None:
                return
            self.values, self.naive, self.challengers = (np.full(self._shape, np.nan, np.float32) for _ in range(3))
            self.releases = [""] * self._shape[0]
        row = bar % self._shape[0]
        if forecasts is None:
            self.values[row] = self.naive[row] = self.challengers[row] = np.nan
            return
        if bar - self.newest > self._shape[0]:
            self.values[:] = np.nan
        self.newest = bar
        self.values[row], self.naive[row] = forecasts.values, forecasts.naive
        self.challengers[row], self.releases[row] = forecasts.challengers, forecasts.release


def read_forecasts(fields: Mapping[bytes, bytes], targets: int) -> Forecasts | None:
    """The forecasts that a bar's entry carries; `None` if it has none.

    Raises:
        ValueError: they cannot be read, or are of another number of targets.
    """
    if b"values" not in fields:
        return None
    values, naive, challengers = (_vector(fields.get(name), targets) for name in _FIELDS)
    return Forecasts(values, naive, challengers, fields.get(b"release", b"").decode())


_FIELDS = (b"values", b"naive", b"challengers")


def _vector(raw: bytes | None, targets: int) -> NDArray[np.float32]:
    numbers: Sequence[float | None] = [None] * targets if raw is None else orjson.loads(raw)
    found = np.array(numbers, np.float64).astype(np.float32)
    if found.shape != (targets,):
        raise ValueError(f"{len(numbers)} forecasts for {targets} targets")
    return found
