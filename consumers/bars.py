"""Bars from ticks, by event time; one compiled kernel over a batch, with state that can be saved and restored.

A bar of interval I covers [k·I, (k+1)·I) of epoch time and exists only where ticks are. A symbol's watermark is its
latest ts minus the allowed lateness, raised by clock entries; a bar closes when the watermark reaches its end, and is
immutable from then on. A tick is late if any interval's bar for its ts has closed; it then counts for no interval, so
that bars and dead letters tile the input. Open and close are the prices of the earliest and latest ts (among equal
ts: first and last to arrive); volume is summed in order of arrival, so batch boundaries leave no trace in the bits, and
stays finite: a sum past the largest double would be written as no number, and no owner could read the state back.

Pure: no I/O. `BarBuilder` is the mutable part of a partition's state; `tests/consumers/reference.py` says the same
slowly, in plain Python.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelstore.native import Routine, address, as_array
from streams.ids import Source, StreamID

#: One bar, open or closed. `start` is -1 in an unused slot. Sources are kept as numbers; see `first_source`.
BAR = np.dtype(
    [
        ("start", "<i8"),
        ("open", "<f8"),
        ("high", "<f8"),
        ("low", "<f8"),
        ("close", "<f8"),
        ("volume", "<f8"),
        ("ticks", "<i8"),
        ("open_ts", "<i8"),
        ("close_ts", "<i8"),
        ("first_incarnation", "<i8"),
        ("first_ms", "<u8"),
        ("first_seq", "<u8"),
        ("first_tick", "<i8"),
        ("last_incarnation", "<i8"),
        ("last_ms", "<u8"),
        ("last_seq", "<u8"),
        ("last_tick", "<i8"),
    ]
)

#: A closed bar: which symbol and interval, and the position of the tick that closed it.
CLOSED = np.dtype([("slot", "<i8"), ("interval", "<i8"), ("by", "<i8"), ("bar", BAR)])

#: Largest volume, the largest double.
MOST_VOLUME = float(np.finfo(np.float64).max)

#: Watermark of a symbol without ticks.
NEVER = np.iinfo(np.int64).min

#: The kernel; see `consumers.bars_source` for its arguments.
ADD_TICKS = Routine("consumers.bars_source", "add_ticks", "ppppqpppqpqqqppqpp", ("consumers.bars",))


def first_source(bar: np.void) -> Source:
    """Source of the bar's first tick in order of arrival."""
    entry = StreamID(int(bar["first_ms"]), int(bar["first_seq"]))
    return Source(int(bar["first_incarnation"]), entry, int(bar["first_tick"]), 0)


def last_source(bar: np.void) -> Source:
    """Source of the bar's last tick in order of arrival."""
    entry = StreamID(int(bar["last_ms"]), int(bar["last_seq"]))
    return Source(int(bar["last_incarnation"]), entry, int(bar["last_tick"]), 0)


class BarBuilder:
    """Open bars and watermarks of one partition's symbols.

    Args:
        intervals_ns: bar lengths in ns, shortest first.
        lateness_ns: how long a bar waits for late ticks.

    Attributes:
        symbols: name per slot.
        watermark: int64 (slots,); `NEVER` before the first tick.
        clock: latest clock entry, ns; `NEVER` without one.
        open: BAR (slots, intervals, k).
    """

    def __init__(self, intervals_ns: Sequence[int], lateness_ns: int) -> None:
        self.intervals = np.array(intervals_ns, np.int64)
        self.lateness = lateness_ns
        # Bars that can be open at once: those that overlap (latest ts - lateness, latest ts].
        self.width = lateness_ns // int(self.intervals[0]) + 2
        self.symbols: list[str] = []
        self.watermark = np.full(0, NEVER, np.int64)
        self.clock = int(NEVER)
        self.open = np.zeros((0, len(intervals_ns), self.width), BAR)

    def add_symbol(self, symbol: str) -> int:
        """Make a slot for a symbol; its number."""
        slot = len(self.symbols)
        self.symbols.append(symbol)
        if slot >= len(self.watermark):
            room = max(16, 2 * slot)
            self.watermark = np.concatenate([self.watermark, np.full(room - slot, NEVER, np.int64)])
            empty = np.zeros((room - slot, len(self.intervals), self.width), BAR)
            empty["start"] = -1
            self.open = np.concatenate([self.open, empty])
        return slot

    def add_ticks(
        self,
        slot: NDArray[np.int64],
        ts: NDArray[np.int64],
        price: NDArray[np.float64],
        size: NDArray[np.float64],
        incarnation: int,
        ms: NDArray[np.uint64],
        seq: NDArray[np.uint64],
        tick: NDArray[np.int32],
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Take ticks in order of arrival; all arrays have length n. No `ts` may lie within a day of 2^63.

        Returns:
            The bars that closed, CLOSED (m,), in the order in which they closed, `by` being the position of the tick
            that closed them; and a mask bool (n,) of late ticks, which were left out.
        """
        late = np.zeros(len(ts), np.bool_)
        # Every closed bar was opened by a tick of this batch or stood open before it.
        room = (len(ts) + min(len(self.symbols), len(ts)) * self.width) * len(self.intervals)
        closed = np.zeros(room, CLOSED)
        held = [
            as_array(slot, np.int64),
            as_array(ts, np.int64),
            as_array(price, np.float64),
            as_array(size, np.float64),
        ]
        held += [as_array(ms, np.uint64), as_array(seq, np.uint64), as_array(tick, np.int32)]
        columns, sources = [address(array) for array in held[:4]], [address(array) for array in held[4:]]
        count = ADD_TICKS(
            *columns, incarnation, *sources, len(ts), address(self.intervals), len(self.intervals), self.lateness,
            self.clock, address(self.watermark), address(self.open), self.width, address(late), address(closed),
        )  # fmt: skip
        return closed[:count], late

    def advance(self, ts: int, by: int) -> NDArray[Any]:
        """Take a clock entry: nothing earlier than `ts` (below 2^63 - 1) will follow; closes bars that end by then.

        Returns:
            The bars that closed, CLOSED (m,), ordered by end, symbol and interval.
        """
        if ts <= self.clock:
            return np.zeros(0, CLOSED)
        self.clock = ts
        count = len(self.symbols)
        bars = self.open[:count]
        due = (bars["start"] >= 0) & (bars["start"] + self.intervals[None, :, None] <= ts)
        found = sorted(
            (int(bars["start"][at] + self.intervals[at[1]]), self.symbols[at[0]], at)
            for at in map(tuple, np.argwhere(due).tolist())
        )
        closed = np.zeros(len(found), CLOSED)
        for row, (_, _, at) in enumerate(found):
            closed[row] = (at[0], at[1], by, bars[at])
        bars["start"][due] = -1
        return closed

    def open_bars(self, slot: int, interval: int) -> list[np.void]:
        """The open bars of a symbol and interval, oldest first."""
        bars = self.open[slot, interval]
        return sorted(bars[bars["start"] >= 0], key=lambda bar: int(bar["start"]))

    def restore(self, slot: int, watermark: int, bars: Sequence[Sequence[tuple[Any, ...]]]) -> None:
        """Put back a symbol's watermark and open bars (per interval, as tuples in the order of `BAR`)."""
        self.watermark[slot] = watermark
        for interval, rows in enumerate(bars):
            for at, row in enumerate(rows):
                self.open[slot, interval, at] = row
