"""The bar kernel against its slow reference, over random ticks, batches, clocks and restarts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumers.bars import BarBuilder, first_source, last_source
from tests.consumers.reference import Bar, ReferenceBars, Tick

S = 1_000_000_000
SYMBOLS = ("A", "B", "C")

ticks = st.tuples(
    st.sampled_from(SYMBOLS),
    st.integers(0, 200).map(lambda tenths: tenths * S // 10),
    st.floats(0.01, 1e6, allow_nan=False),
    st.floats(0, 1e6, allow_nan=False),
)
clocks = st.integers(0, 25).map(lambda seconds: seconds * S)
steps = st.lists(st.one_of(st.lists(ticks, min_size=1, max_size=20), clocks), max_size=12)


def builder(intervals: list[int], lateness: int) -> BarBuilder:
    found = BarBuilder(intervals, lateness)
    for symbol in SYMBOLS:
        found.add_symbol(symbol)
    return found


def feed(bars: BarBuilder, batch: list[Tick]) -> tuple[list[Any], list[int]]:
    number = np.array([tick.number for tick in batch], np.uint64)
    closed, late = bars.add_ticks(
        np.array([SYMBOLS.index(tick.symbol) for tick in batch], np.int64),
        np.array([tick.ts for tick in batch], np.int64),
        np.array([tick.price for tick in batch], np.float64),
        np.array([tick.size for tick in batch], np.float64),
        0,
        number,
        number,
        np.zeros(len(batch), np.int32),
    )
    return list(closed), [batch[at].number for at in np.flatnonzero(late)]


def restarted(bars: BarBuilder) -> BarBuilder:
    """Another builder with what a restart restores."""
    again = builder([int(i) for i in bars.intervals], bars.lateness)
    again.clock = bars.clock
    for slot in range(len(SYMBOLS)):
        rows: list[Any] = [[bar.item() for bar in bars.open_bars(slot, i)] for i in range(len(bars.intervals))]
        again.restore(slot, int(bars.watermark[slot]), rows)
    return again


def described(item: Any, intervals: list[int]) -> tuple[Any, ...]:
    bar = item["bar"]
    ohlcv = tuple(float(bar[name]) for name in ("open", "high", "low", "close", "volume"))
    ends = (first_source(bar).entry.ms, last_source(bar).entry.seq)
    name = SYMBOLS[int(item["slot"])]
    return (name, intervals[int(item["interval"])], int(bar["start"]), ohlcv, int(bar["ticks"]), ends)


def expected(bar: Bar) -> tuple[Any, ...]:
    ends = (bar.ticks[0].number, bar.ticks[-1].number)
    return (bar.symbol, bar.interval, bar.start, bar.ohlcv, len(bar.ticks), ends)


@settings(max_examples=200, deadline=None)
@given(
    steps,
    st.sampled_from([[S], [S, 5 * S], [2 * S, 10 * S]]),
    st.sampled_from([0, S // 2, 3 * S]),
    st.booleans(),
)
def test_bars_equal_the_reference_whatever_the_batches_clocks_and_restarts(
    sequence: list[Any], intervals: list[int], lateness: int, restart: bool
) -> None:
    reference, bars = ReferenceBars(intervals, lateness), builder(intervals, lateness)
    closed: list[Any] = []
    late: list[int] = []
    number = 0
    for step in sequence:
        if isinstance(step, int):
            reference.advance(step)
            closed += list(bars.advance(step, 0))
            continue
        batch = [Tick(symbol, ts, price, size, number + at) for at, (symbol, ts, price, size) in enumerate(step)]
        number += len(batch)
        for tick in batch:
            reference.tick(tick)
        more, too_late = feed(bars, batch)
        closed += more
        late += too_late
        if restart:
            bars = restarted(bars)
    assert late == reference.late
    assert [described(item, intervals) for item in closed] == [expected(bar) for bar in reference.closed]
    counted = sum(int(item["bar"]["ticks"]) for item in closed if int(item["interval"]) == 0)
    standing = sum(int(bar["ticks"]) for slot in range(len(SYMBOLS)) for bar in bars.open_bars(slot, 0))
    assert counted + standing + len(late) == number


def test_a_clock_closes_quiet_symbols_in_order_of_end_symbol_and_interval() -> None:
    bars = builder([S, 5 * S], 0)
    feed(bars, [Tick("C", 0, 1.0, 1.0, 0), Tick("A", 0, 1.0, 1.0, 1), Tick("B", 4 * S, 1.0, 1.0, 2)])
    closed = bars.advance(5 * S, 0)
    order = [(SYMBOLS[int(item["slot"])], int(item["interval"])) for item in closed]
    assert order == [("A", 0), ("C", 0), ("A", 1), ("B", 0), ("B", 1), ("C", 1)]
    assert not len(bars.advance(5 * S, 0))


def test_ticks_of_one_time_keep_their_order_of_arrival() -> None:
    bars = builder([S], 0)
    feed(bars, [Tick("A", 5, price, 1.0, n) for n, price in enumerate([3.0, 9.0, 1.0, 2.0])])
    [closed] = bars.advance(S, 0)
    assert [float(closed["bar"][name]) for name in ("open", "high", "low", "close")] == [3.0, 9.0, 1.0, 2.0]


def test_a_volume_past_the_largest_double_stays_a_number_that_can_be_stored() -> None:
    bars = builder([S], 0)
    feed(bars, [Tick("A", 5, 1.0, 1.7e308, n) for n in range(3)])
    [standing] = bars.open_bars(0, 0)
    assert float(standing["volume"]) == float(np.finfo(np.float64).max)


@pytest.mark.parametrize("count", [1, 40])
def test_slots_grow_with_symbols(count: int) -> None:
    bars = BarBuilder([S], 0)
    assert [bars.add_symbol(f"S{n}") for n in range(count)] == list(range(count))
    assert len(bars.open) >= count
    assert not bars.open_bars(count - 1, 0)
