"""The kernel of `consumers.bars`, for numba: one pass over the ticks of a batch. Imported only to be compiled.

`add_ticks` takes addresses and numbers (`modelstore.native`) and checks nothing: the caller gives a `slot` for every
tick that is one, arrays as long as they must be, and room for every bar that can close.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray

from consumers.bars import BAR, CLOSED, MOST_VOLUME


def add_ticks(  # noqa: C901  (one loop over ticks; splitting it would pass a dozen arrays along)
    slots: Any, times: Any, prices: Any, sizes: Any, incarnation: Any, entries: Any, numbers: Any, places: Any,
    ticks: Any, lengths: Any, kinds: Any, lateness: Any, clock: Any, watermarks: Any, open_bars: Any, width: Any,
    late_ticks: Any, closed_bars: Any,
) -> int:  # fmt: skip
    """Take `ticks` ticks into the open bars (slots, kinds, width); how many bars closed, written to `closed_bars`.

    `entries`, `numbers` and `places` are the parts of each tick's source: milliseconds, sequence, index in the entry.
    """
    slot, ts = carray(slots, ticks, np.int64), carray(times, ticks, np.int64)
    price, size = carray(prices, ticks, np.float64), carray(sizes, ticks, np.float64)
    ms, seq, tick = (
        carray(entries, ticks, np.uint64),
        carray(numbers, ticks, np.uint64),
        carray(places, ticks, np.int32),
    )
    intervals = carray(lengths, kinds, np.int64)
    # Of no length: they are as long as the slots that occur, and are read without a check.
    watermark, bars = carray(watermarks, 0, np.int64), carray(open_bars, (0, kinds, width), BAR)
    late, closed = carray(late_ticks, ticks, np.bool_), carray(closed_bars, 0, CLOSED)
    count = 0
    for n in range(len(ts)):
        s = slot[n]
        t = ts[n]
        # 1. Late: a bar for this ts has closed, in any interval.
        reached = max(watermark[s], clock)
        too_late = False
        for i in range(len(intervals)):
            if (t // intervals[i] + 1) * intervals[i] <= reached:
                too_late = True
        if too_late:
            late[n] = True
            continue
        # 2. The watermark moves, and bars whose end it has reached close, by end and then by interval.
        if t - lateness > watermark[s]:
            watermark[s] = t - lateness
            reached = max(watermark[s], clock)
            while True:
                best_i, best_k, best_end = -1, -1, reached + 1
                for i in range(len(intervals)):
                    for k in range(width):
                        start = bars[s, i, k].start
                        if start >= 0 and start + intervals[i] < best_end:
                            best_i, best_k, best_end = i, k, start + intervals[i]
                if best_i < 0:
                    break
                closed[count].slot = s
                closed[count].interval = best_i
                closed[count].by = n
                closed[count].bar = bars[s, best_i, best_k]
                bars[s, best_i, best_k].start = -1
                count += 1
        # 3. The tick joins its bar in every interval.
        for i in range(len(intervals)):
            start = t // intervals[i] * intervals[i]
            at, free = -1, -1
            for k in range(width):
                if bars[s, i, k].start == start:
                    at = k
                elif bars[s, i, k].start < 0:
                    free = k
            if at < 0:
                bar = bars[s, i, free]
                bar.start = start
                bar.open = bar.high = bar.low = bar.close = price[n]
                bar.volume = 0.0
                bar.ticks = 0
                bar.open_ts = bar.close_ts = t
                bar.first_incarnation = incarnation
                bar.first_ms = ms[n]
                bar.first_seq = seq[n]
                bar.first_tick = tick[n]
            else:
                bar = bars[s, i, at]
            bar.high = max(bar.high, price[n])
            bar.low = min(bar.low, price[n])
            if t < bar.open_ts:
                bar.open_ts = t
                bar.open = price[n]
            if t >= bar.close_ts:
                bar.close_ts = t
                bar.close = price[n]
            bar.volume = min(bar.volume + size[n], MOST_VOLUME)
            bar.ticks += 1
            bar.last_incarnation = incarnation
            bar.last_ms = ms[n]
            bar.last_seq = seq[n]
            bar.last_tick = tick[n]
    return count
