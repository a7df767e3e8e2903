"""Bars as arrays, and reading them back from the log.

`BarWindow` is what features and labels are computed from. `read_bars` fills one from a series' `bars` stream
(`red10:{T:p}:bars:SERIES`), newest first in chunks, and reads nothing else; it owns no keys and writes none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
import redis
from numpy.typing import NDArray

from streams.errors import BadRecord
from streams.keys import PartitionKeys
from streams.series import Series
from streams.settings import COLUMNS

#: Entries per XREVRANGE: a reply of about 1 MB, some 10 ms of Redis's time.
CHUNK = 2000

OPEN, HIGH, LOW, CLOSE, VOLUME = range(len(COLUMNS))
_FIELDS = tuple(name.encode() for name in COLUMNS)


@dataclass(frozen=True, slots=True, eq=False)
class BarWindow:
    """Consecutive closed bars of one series, oldest first.

    Attributes:
        start: int64 (n,), first nanosecond of each bar's interval, rising.
        values: float64 (n, 5), C-contiguous; columns open, high, low, close, volume.
    """

    start: NDArray[np.int64]
    values: NDArray[np.float64]

    def __post_init__(self) -> None:
        if self.start.ndim != 1 or self.values.shape != (len(self.start), len(COLUMNS)):
            raise ValueError(
                f"a window needs start (n,) and values (n, 5), got {self.start.shape}, {self.values.shape}"
            )

    def __len__(self) -> int:
        return len(self.start)

    def slice(self, begin: int, end: int) -> BarWindow:
        """Bars `begin` to `end`, the latter excluded: a view, nothing is copied."""
        return BarWindow(self.start[begin:end], self.values[begin:end])

    def last(self, count: int) -> BarWindow:
        """The newest `count` bars, or all if there are fewer: a view."""
        return self.slice(max(0, len(self) - count), len(self))

    def copy(self) -> BarWindow:
        """The same bars in memory of their own."""
        return BarWindow(self.start.copy(), self.values.copy())


def read_bars(
    client: redis.Redis,
    keys: PartitionKeys,
    series: Series,
    *,
    as_of: int | None,
    limit: int,
    interval_ns: int,
) -> tuple[BarWindow, NDArray[np.int64]]:
    """Read the newest bars of a series.

    Args:
        as_of: only bars that end at or before this, epoch ns; `None`: all.
        limit: most bars.
        interval_ns: length of a bar; a bar ends at `start + interval_ns`.

    Returns:
        The bars, oldest first, and their ends, int64 (n,), epoch ns.

    Raises:
        BadRecord: an entry is no bar (reason `malformed`), or starts do not rise (reason `unordered`).
        redis.RedisError: as the driver raises it.
    """
    key = keys.bars(series)
    newest_start = None if as_of is None else as_of - interval_ns
    starts: list[int] = []
    rows: list[tuple[float, ...]] = []
    before = "+"
    while len(starts) < limit:
        chunk = cast(list[tuple[bytes, dict[bytes, bytes]]], client.xrevrange(key, max=before, min="-", count=CHUNK))
        for entry, fields in chunk:
            start, row = parse_bar(key, entry, fields)
            if newest_start is not None and start > newest_start:
                continue
            if starts and start >= starts[-1]:
                raise BadRecord(
                    "unordered", f"{key}: the bar at {entry.decode()} starts at {start}, not before its successor"
                )
            starts.append(start)
            rows.append(row)
        if len(chunk) < CHUNK:
            break
        before = "(" + chunk[-1][0].decode()
    start_array = np.array(starts[:limit][::-1], np.int64)
    values = np.array(rows[:limit][::-1], np.float64).reshape(-1, len(COLUMNS))
    return BarWindow(start_array, values), start_array + interval_ns


def parse_bar(key: str, entry: bytes, fields: Mapping[bytes, bytes]) -> tuple[int, tuple[float, ...]]:
    """Start (ns) and open, high, low, close, volume of a bar's entry.

    Raises:
        BadRecord: the entry is no bar.
    """
    try:
        return int(fields[b"start"]), tuple([float(fields[name]) for name in _FIELDS])
    except (KeyError, ValueError) as error:
        raise BadRecord("malformed", f"{key}: entry {entry.decode()} is no bar: {error!r}") from None
