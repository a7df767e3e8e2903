"""Output entries as the hot path writes them: flat field lists, without going through pydantic.

The fields are those of `streams.records`, in the same order; a test reads every entry back through its record.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import orjson
from numpy.typing import NDArray

from consumers.judge import Forecasts, Judged
from consumers.policy import Decision
from streams.ids import Source
from streams.raw import escaped_fields, kept

Fields = list[str]


@dataclass(slots=True)
class Close:
    """One closed bar on its way out.

    Attributes:
        series: such as `SPY:1m`.
        number: of the bar in its series.
        start, end: of the interval, ns.
        ohlcv: open, high, low, close, volume.
        ticks: ticks in the bar.
        first, last: sources of its first and last tick.
        release: id of the release in force, "" for none.
    """

    series: str
    number: int
    start: int
    end: int
    ohlcv: tuple[float, float, float, float, float]
    ticks: int
    first: Source
    last: Source
    release: str


@dataclass(slots=True)
class Forecast:
    """What the champions said at one close; arrays have one element per target that has a model.

    Attributes:
        values: float32, forecast labels.
        naive: float32, the naive forecasts beside them.
        levels: the values as prices or volumes.
        versions: digests.
        in_sample: whether the version was trained on this bar or a later one.
    """

    targets: tuple[str, ...]
    values: NDArray[np.float32]
    naive: NDArray[np.float32]
    levels: NDArray[np.float64]
    versions: tuple[str, ...]
    in_sample: NDArray[np.bool_]


def vector(values: NDArray[np.float32] | NDArray[np.float64]) -> str:
    """A JSON array of the shortest texts that read back as the same numbers; what is not finite becomes `null`."""
    return orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY).decode()


def short(digest: str) -> str:
    """A digest as records show it: its first 12 hex digits."""
    return digest[:12]


def bar_fields(close: Close, src: Source, kept: Forecasts | None) -> Fields:
    """Fields of a bar, with the forecasts that are to be judged."""
    opened, high, low, closed, volume = close.ohlcv
    fields = [
        "series", close.series, "bar", str(close.number), "start", str(close.start), "end", str(close.end),
        "open", repr(opened), "high", repr(high), "low", repr(low), "close", repr(closed), "volume", repr(volume),
        "ticks", str(close.ticks), "first", str(close.first), "last", str(close.last), "src", str(src),
    ]  # fmt: skip
    if close.release:
        fields += ("release", close.release)
    if kept is not None:
        fields += ("values", vector(kept.values), "naive", vector(kept.naive))
        if np.isfinite(kept.challengers).any():
            fields += ("challengers", vector(kept.challengers))
    return fields


def prediction_fields(close: Close, src: Source, forecast: Forecast) -> Fields:
    """Fields of a prediction."""
    return [
        "series", close.series, "bar", str(close.number), "ts", str(close.end), "close", repr(close.ohlcv[3]),
        "targets", orjson.dumps(forecast.targets).decode(),
        "values", vector(forecast.values),
        "levels", vector(forecast.levels),
        "versions", orjson.dumps([short(digest) for digest in forecast.versions]).decode(),
        "in_sample", orjson.dumps(forecast.in_sample.astype(int).tolist()).decode(),
        "release", close.release, "src", str(src),
    ]  # fmt: skip


def outcome_fields(
    close: Close,
    src: Source,
    targets: Sequence[str],
    judged: Judged | None,
    *,
    position: int,
    profit: float,
    market: float,
) -> Fields:
    """Fields of an outcome; `targets` are the pipeline's."""
    if judged is None:
        lists = ["targets", "[]", "actuals", "[]", "errors", "[]", "naive_errors", "[]", "challenger_errors", "[]"]
        lists += ["hits", "[]", "releases", "[]", "made_by", "[]"]
    else:
        lists = [
            "targets", orjson.dumps([targets[at] for at in judged.targets.tolist()]).decode(),
            "actuals", vector(judged.actuals), "errors", vector(judged.errors),
            "naive_errors", vector(judged.naive_errors), "challenger_errors", vector(judged.challenger_errors),
            "hits", vector(judged.hits),
            "releases", orjson.dumps(judged.releases).decode(),
            "made_by", orjson.dumps(judged.made_by.tolist()).decode(),
        ]  # fmt: skip
    return [
        "series", close.series, "bar", str(close.number), "ts", str(close.end), *lists,
        "position", str(position), "profit", repr(profit), "market", repr(market), "src", str(src),
    ]  # fmt: skip


def signal_fields(
    close: Close, src: Source, decision: Decision, *, version: str, trained_through: int, in_range: bool, proven: bool
) -> Fields:
    """Fields of a signal."""
    interval = close.end - close.start
    return [
        "series", close.series, "ts", str(close.end), "bar", str(close.number),
        "side", "buy" if decision.change > 0 else "sell", "position", str(decision.position),
        "strength", repr(decision.strength), "expected_return", repr(decision.expected_return),
        "cost", repr(decision.cost), "horizon", str(decision.horizon), "price", repr(close.ohlcv[3]),
        "valid_until", str(close.end + decision.horizon * interval), "release", close.release,
        "version", short(version), "model_age", str(close.end - trained_through),
        "proven", "1" if proven else "0", "in_range", "1" if in_range else "0", "src", str(src),
    ]  # fmt: skip


def dead_fields(reason: str, detail: str, src: Source, raw: Sequence[bytes]) -> Fields:
    """Fields of a dead letter."""
    words, note = kept(raw)
    return [
        "reason", reason, "detail", detail + note, "src", str(src),
        "fields", orjson.dumps(escaped_fields(words)).decode(),
    ]  # fmt: skip
