"""Feature sets: pure functions of the last W closed bars of one series.

A feature set declares its name, version, window W and columns, and is called with exactly W bars. Training and live
scoring call the same function through `feature_row`, window by window, on a copy of the same shape and alignment;
nothing is carried from one window to the next. So live and batch features have equal bits by construction, and a
window cannot see a later bar. Raise a set's version whenever its numbers change: versions of models record it.

`STANDARD` is the set that is used unless the settings name another: scale-free features of price and volume.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from consumers.history import CLOSE, HIGH, LOW, VOLUME, BarWindow
from consumers.plugins import load_plugin
from streams.errors import ConfigurationError
from streams.series import NS
from streams.settings import COLUMNS

#: Bytes. Vector units may take another path, with other rounding, on data that is aligned differently.
ALIGNMENT = 64

_COLUMN = re.compile(r"[A-Za-z0-9_.\-]{1,64}", re.ASCII)


@runtime_checkable
class FeatureSet(Protocol):
    """What a feature set is."""

    @property
    def name(self) -> str:
        """Its name, recorded in every version trained on it."""

    @property
    def version(self) -> int:
        """Raised whenever the numbers change."""

    @property
    def window(self) -> int:
        """W: bars it looks at, the newest included."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the features, in order."""

    def __call__(self, bars: BarWindow) -> NDArray[np.float64] | Sequence[float]:
        """Compute the features at the newest of exactly W bars; NaN where one is undefined. The bars are read-only."""


def load_feature_set(spec: str) -> FeatureSet:
    """Load a feature set named in the settings as `module:attribute`.

    Raises:
        ConfigurationError: it cannot be imported, or is no feature set.
    """
    found = load_plugin(spec, "feature set")
    if not isinstance(found, FeatureSet) or isinstance(found, type):
        raise ConfigurationError(
            f"feature set {spec!r} is {found!r:.80}: it must be an object with name, version, window and columns "
            "that can be called with a BarWindow (see consumers.features.FeatureSet)"
        )
    columns = found.columns
    if (
        not isinstance(columns, tuple)
        or not columns
        or len(set(columns)) != len(columns)
        or not all(isinstance(column, str) and _COLUMN.fullmatch(column) for column in columns)
    ):
        raise ConfigurationError(
            f"feature set {spec!r}: columns must be a tuple of different names (A-Z a-z 0-9 _ . -)"
        )
    if not (isinstance(found.window, int) and found.window >= 1 and isinstance(found.version, int)):
        raise ConfigurationError(f"feature set {spec!r}: window must be an integer from 1 on, version an integer")
    return found


def fingerprint(features: FeatureSet) -> dict[str, Any]:
    """What identifies a feature set: recorded in the manifests of versions, part of the fingerprint of a state."""
    return {"name": features.name, "version": features.version, "columns": list(features.columns)}


def feature_row(features: FeatureSet, bars: BarWindow) -> NDArray[np.float32]:
    """Features at the newest of exactly W bars: what live scoring and training both call.

    Returns:
        float32 (F,): NaN where a feature is undefined, infinite, or beyond float32.

    Raises:
        ConfigurationError: the feature set returned another number of values than it has columns.
        ValueError: there are not exactly W bars.
    """
    if len(bars) != features.window:
        raise ValueError(f"feature set {features.name!r} is called with {features.window} bars, not {len(bars)}")
    with np.errstate(all="ignore"):
        row = np.asarray(features(_aligned_copy(bars)), np.float64).astype(np.float32)
    if row.shape != (len(features.columns),):
        raise ConfigurationError(
            f"feature set {features.name!r} returned shape {row.shape} for {len(features.columns)} columns: "
            "return one number per column"
        )
    row[~np.isfinite(row)] = np.nan
    return row


def feature_matrix(features: FeatureSet, bars: BarWindow) -> NDArray[np.float32]:
    """Features at every bar that has W - 1 bars before it: `feature_row`, window by window.

    Returns:
        float32 (n - W + 1, F), C-contiguous; row i is bar W - 1 + i. No rows if there are fewer than W bars.

    Raises:
        ConfigurationError: as `feature_row`.
    """
    width = features.window
    count = max(0, len(bars) - width + 1)
    matrix = np.empty((count, len(features.columns)), np.float32)
    for index in range(count):
        matrix[index] = feature_row(features, bars.slice(index, index + width))
    return matrix


def _aligned_copy(bars: BarWindow) -> BarWindow:
    """A read-only copy whose two arrays begin at multiples of `ALIGNMENT`, whatever the original's place in memory."""
    count = len(bars)
    words = ALIGNMENT // 8
    values_size = count * len(COLUMNS)
    starts_at = -(-values_size // words) * words
    buffer = np.empty(starts_at + count + words, np.float64)
    skip = (-buffer.ctypes.data % ALIGNMENT) // 8
    values = buffer[skip : skip + values_size].reshape(count, len(COLUMNS))
    start = buffer[skip + starts_at : skip + starts_at + count].view(np.int64)
    values[:] = bars.values
    start[:] = bars.start
    values.flags.writeable = False
    start.flags.writeable = False
    return BarWindow(start, values)


_RETURNS = (1, 2, 3, 5, 10, 20, 60)
_SPANS = (5, 20, 60)
_DAY_S = 86_400
#: Bars of the share of up moves, the usual length of Wilder's relative strength index.
_STRENGTH_BARS = 14


@dataclass(frozen=True, slots=True)
class StandardFeatures:
    """Scale-free features of one series: multiplying all prices, or all volumes, by a constant only alters rounding.

    Log returns over 1 to 60 bars; volatility (root mean square of log returns); high-low ranges and the close's place
    in them; distance of the close from its means; gap and body; volume against its means (no volume counts as 1e-3 of
    the mean); the share of up moves (Wilder 1978, with plain sums); time of day and day of the week of the bar's start,
    UTC. Undefined (a range of zero, no volume at all) is NaN.
    """

    name: str = "standard"
    version: int = 1
    window: int = 61
    columns: tuple[str, ...] = (
        *(f"return_{bars}" for bars in _RETURNS),
        *(f"volatility_{bars}" for bars in _SPANS),
        *(f"distance_{bars}" for bars in _SPANS),
        *(f"range_{bars}" for bars in (1, 5, 20, 60)),
        *(f"place_{bars}" for bars in (1, 5, 20, 60)),
        "gap",
        "body",
        "volume_1_20",
        "volume_5_60",
        f"up_share_{_STRENGTH_BARS}",
        "day_sin",
        "day_cos",
        "weekday",
    )

    def __call__(self, bars: BarWindow) -> list[float]:
        """Features at the newest of 61 bars, in the order of `columns`."""
        # One pass through numpy for what is an array, plain floats for the rest: a numpy call on one number costs more
        # than the arithmetic. Columns as contiguous rows: reductions over them are faster.
        columns = np.ascontiguousarray(bars.values.T)
        closes, volumes = columns[CLOSE], columns[VOLUME]
        open_, high, low, close, volume = (float(value) for value in bars.values[-1])
        logs = np.log(closes)
        moves = logs[1:] - logs[:-1]
        path: list[float] = logs.tolist()
        now = path[-1]
        squares = moves * moves
        found = [now - path[-1 - bars] for bars in _RETURNS]
        found += [math.sqrt(_mean(squares, span)) for span in _SPANS]
        found += [_log_ratio(close, _mean(closes, span)) for span in _SPANS]
        highest = [high, *(float(np.maximum.reduce(columns[HIGH][-span:])) for span in _SPANS)]
        lowest = [low, *(float(np.minimum.reduce(columns[LOW][-span:])) for span in _SPANS)]
        found += [_log_ratio(top, bottom) for top, bottom in zip(highest, lowest, strict=True)]
        found += [_ratio(close - bottom, top - bottom) for top, bottom in zip(highest, lowest, strict=True)]
        found.append(_log_ratio(open_, float(closes[-2])))
        found.append(_log_ratio(close, open_))
        found.append(_volume_ratio(volume, _mean(volumes, 20)))
        found.append(_volume_ratio(_mean(volumes, 5), _mean(volumes, 60)))
        recent: list[float] = moves[-_STRENGTH_BARS:].tolist()
        found.append(_ratio(sum(move for move in recent if move > 0), sum(abs(move) for move in recent)))
        days, seconds = divmod(int(bars.start[-1]) // NS, _DAY_S)
        angle = 2 * math.pi * seconds / _DAY_S
        found += [math.sin(angle), math.cos(angle), float((days + 3) % 7)]  # 1970-01-01 was a Thursday, Monday is 0
        return found


def _mean(values: NDArray[np.float64], count: int) -> float:
    return float(np.add.reduce(values[-count:])) / count


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else math.nan


def _log_ratio(one: float, other: float) -> float:
    ratio = _ratio(one, other)
    return math.log(ratio) if ratio > 0 else math.nan


def _volume_ratio(volume: float, mean: float) -> float:
    return math.log(max(volume / mean, 1e-3)) if mean > 0 else math.nan


STANDARD = StandardFeatures()
