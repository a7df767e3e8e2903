"""From a file's rows to ticks or bars: every check of what the rows say. Needs pandas.

The first row that is wrong is named, counted from 1 without the header. All functions raise `BadTable`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from producers.bars import Bars
from producers.errors import BadTable
from streams.columns import Ticks, check_ticks
from streams.errors import BadName, BadRecord
from streams.series import NS, Interval, check_symbol

if TYPE_CHECKING:
    import pandas as pd

PRICES = ("open", "high", "low", "close")
#: How files write that a number is missing.
_MISSING = frozenset({"", "na", "nan", "n/a", "null", "none"})


def symbols_of(path: Path, frame: pd.DataFrame, symbol: str | None) -> tuple[tuple[str, ...], NDArray[np.int32]]:
    """The different symbols, and each row's index among them."""
    import pandas as pd

    if symbol is not None:
        check_symbol(symbol)
        return (symbol,), np.zeros(len(frame), np.int32)
    column = frame["symbol"]
    codes, names = pd.factorize(column, use_na_sentinel=True)
    if (codes < 0).any():
        raise BadTable(str(path), f"row {int(np.argmax(codes < 0)) + 1}: the symbol is missing")
    texts = tuple(str(name) for name in names)
    for code, name in enumerate(texts):
        try:
            check_symbol(name)
        except BadName as error:
            raise BadTable(str(path), f"row {int(np.argmax(codes == code)) + 1}: {error}") from None
    return texts, codes.astype(np.int32)


def order_of(path: Path, codes: NDArray[np.int32], ts: NDArray[np.int64], sort: bool) -> NDArray[np.int64]:
    """The rows in order of time; refuses rows that go back within their symbol."""
    if not sort:
        by_symbol = np.argsort(codes, kind="stable")
        back = (np.diff(ts[by_symbol]) < 0) & (np.diff(codes[by_symbol]) == 0)
        if back.any():
            row = int(by_symbol[1:][back].min())
            raise BadTable(
                str(path), f"row {row + 1} is earlier than the row before it of the same symbol: sort it with --sort"
            )
    return np.argsort(ts, kind="stable")


def _numbers(column: pd.Series[Any]) -> NDArray[np.float64]:
    """A column as doubles, correctly rounded; NaN for what is no number."""
    import pandas as pd

    if pd.api.types.is_numeric_dtype(column.dtype):
        return column.to_numpy(dtype=np.float64, na_value=np.nan)
    return np.array([_float(value) for value in column], np.float64)


def _float(value: object) -> float:
    try:
        # Python reads 1_000; files don't mean it.
        text = str(value)
        return math.nan if "_" in text else float(text)
    except ValueError:
        return math.nan


def _number(path: Path, frame: pd.DataFrame, name: str, *, zero: bool) -> NDArray[np.float64]:
    """A column of finite numbers, above zero or (`zero`) not below it."""
    found = _numbers(frame[name])
    bad = ~np.isfinite(found) | (found < 0 if zero else found <= 0)
    if bad.any():
        row = int(np.argmax(bad))
        want = "a number that is zero or more" if zero else "a number above zero"
        raise BadTable(str(path), f"row {row + 1}: {name} is {str(frame[name].iloc[row])!r}; it must be {want}")
    return found


def ticks_of(
    path: Path,
    frame: pd.DataFrame,
    names: tuple[str, ...],
    codes: NDArray[np.int32],
    ts: NDArray[np.int64],
    order: NDArray[np.int64],
) -> Ticks:
    """Ticks in order of time."""
    import pandas as pd

    def optional(name: str) -> NDArray[np.float64] | None:
        if name not in frame:
            return None
        found = _numbers(frame[name])
        missing = [pd.isna(value) or str(value).strip().lower() in _MISSING for value in frame[name]]
        wrong = np.isnan(found) & ~np.array(missing, np.bool_)
        if wrong.any():
            row = int(np.argmax(wrong))
            raise BadTable(str(path), f"row {row + 1}: {name} is {str(frame[name].iloc[row])!r}, no number")
        return None if np.isnan(found).all() else found

    ids = None
    if "id" in frame:
        ids = np.array([None if pd.isna(v) or str(v) == "" else str(v) for v in frame["id"]], np.object_)
    ticks = Ticks(
        names,
        codes,
        _number(path, frame, "price", zero=False),
        _number(path, frame, "size", zero=True) if "size" in frame else np.zeros(len(frame)),
        ts,
        optional("bid"),
        optional("ask"),
        ids,
    )
    try:
        check_ticks(ticks, 1)
    except BadRecord as error:
        raise BadTable(str(path), str(error)) from None
    return ticks.take(order)


def bars_of(
    path: Path,
    frame: pd.DataFrame,
    names: tuple[str, ...],
    codes: NDArray[np.int32],
    ts: NDArray[np.int64],
    order: NDArray[np.int64],
    interval: Interval | None,
) -> Bars:
    """Bars in order of time; the interval, if not given, is the shortest distance between two bars of a symbol."""
    prices = {name: _number(path, frame, name, zero=False) for name in PRICES}
    highest = np.maximum(prices["open"], prices["close"])
    lowest = np.minimum(prices["open"], prices["close"])
    outside = (highest > prices["high"]) | (lowest < prices["low"])
    if outside.any():
        raise BadTable(str(path), f"row {int(np.argmax(outside)) + 1}: open or close lies outside low to high")
    volume = _number(path, frame, "volume", zero=True)
    by_time = np.lexsort((ts, codes))
    same = (np.diff(ts[by_time]) == 0) & (np.diff(codes[by_time]) == 0)
    if same.any():
        row = int(by_time[1:][same].min())
        raise BadTable(str(path), f"row {row + 1} is a second bar of {names[codes[row]]} at the same time: remove one")
    length = interval or _shortest(path, codes[by_time], ts[by_time])
    crooked = ts % length.ns != 0
    if crooked.any():
        row = int(np.argmax(crooked))
        raise BadTable(
            str(path),
            f"row {row + 1}: a bar of {length} does not begin at {frame['ts'].iloc[row]}: stamps must be the bars' "
            "starts, multiples of their length in UTC; check --tz and --interval",
        )
    columns = [prices[name][order] for name in PRICES]
    return Bars(length, names, codes[order], ts[order], columns[0], columns[1], columns[2], columns[3], volume[order])


def _shortest(path: Path, codes: NDArray[np.int32], ts: NDArray[np.int64]) -> Interval:
    """The shortest distance between two bars of a symbol; rows are ordered by symbol and time."""
    steps = np.diff(ts)[np.diff(codes) == 0]
    if not len(steps):
        raise BadTable(str(path), "one bar per symbol does not tell how long a bar is: give --interval")
    shortest = int(steps.min())
    try:
        if shortest % NS:
            raise BadName("not a number of seconds")
        return Interval.parse(f"{shortest // NS}s")
    except BadName:
        raise BadTable(
            str(path),
            f"the shortest distance between two bars is {shortest / NS:g} s, no length of bars: give --interval",
        ) from None
