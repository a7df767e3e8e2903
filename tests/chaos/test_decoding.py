"""The checker's decoder reads what publishers write, and takes no damaged block for one."""

from __future__ import annotations

import math

import pytest

from streams.block import pack_block
from streams.columns import Ticks
from tests.chaos.decoding import Bad, Clock, Release, Tick, items
from tests.chaos.feed import feeds

ROWS = [
    ("AB", 1.5, 2.0, 1_700_000_000_000_000_000, 1.4, 1.6, "x1"),
    ("ABCDEFGHI", 2.5, 0.0, 1_700_000_000_000_000_001, None, 2.6, None),
    ("AB", 3.5, 7.0, 1_700_000_000_000_000_002, 3.4, None, "é"),
]
PLAIN = [tuple(tick) for tick in feeds(1, 40)[0].ticks()]


@pytest.mark.parametrize("rows", [ROWS, [row[:4] for row in ROWS], ROWS[:1], PLAIN], ids=["all", "four", "one", "feed"])
def test_a_block_is_read_tick_by_tick(rows: list[tuple[object, ...]]) -> None:
    data = pack_block(Ticks.from_rows(rows))
    found = items([b"kind", b"block", b"data", data])
    assert found == [Tick(at, *row[:4]) for at, row in enumerate(rows)]  # type: ignore[arg-type]


def test_a_block_that_is_cut_or_flipped_anywhere_is_none() -> None:
    data = pack_block(Ticks.from_rows(ROWS))
    for at in range(len(data)):
        flipped = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        assert items([b"kind", b"block", b"data", flipped]) == [Bad(0, "malformed")]
        assert items([b"kind", b"block", b"data", data[:at]]) == [Bad(0, "malformed")]


def test_single_entries_are_read() -> None:
    assert items([b"symbol", b"A", b"price", b"1.5", b"ts", b"7"]) == [Tick(0, "A", 1.5, 0.0, 7)]
    assert items([b"symbol", b"A", b"price", b"-1", b"ts", b"7"]) == [Bad(0, "bad_price")]
    assert items([b"symbol", b"A", b"price", b"x", b"ts", b"7"]) == [Bad(0, "malformed")]
    assert items([b"symbol", b"A", b"price", str(math.inf).encode(), b"ts", b"7"]) == [Bad(0, "malformed")]
    assert items([b"kind", b"clock", b"ts", b"9"]) == [Clock(9)]
    assert items([b"kind", b"release", b"release", b"ab"]) == [Release("ab")]
    assert items([b"kind", b"clock"]) == [Bad(0, "malformed")]
