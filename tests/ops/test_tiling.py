"""The count of lost and doubled ticks finds what is lost and doubled."""

from __future__ import annotations

import pytest

from ops.tiling import Place, Tiling, count, set_aside
from streams.block import pack_block
from streams.columns import Ticks
from streams.ids import StreamID
from streams.series import Interval

S = 1_000_000_000
INTERVALS = (Interval(1), Interval(5))


def tick(symbol: str, ts: int) -> dict[bytes, bytes]:
    return {b"symbol": symbol.encode(), b"price": b"1", b"ts": str(ts).encode()}


INPUT = [
    (StreamID(1, 0), tick("A", 0)),
    (StreamID(2, 0), tick("A", S // 2)),
    (StreamID(3, 0), {b"kind": b"clock", b"ts": b"1"}),
    (StreamID(4, 0), tick("B", 6 * S)),
    (StreamID(5, 0), {b"nonsense": b"1"}),
]
DEAD = {(StreamID(5, 0), 0)}
BARS: dict[Place, int] = {
    ("A", S, 0): 2,
    ("A", 5 * S, 0): 2,
    ("B", S, 6 * S): 1,
    ("B", 5 * S, 5 * S): 1,
}


def test_what_tiles_has_nothing_lost_and_nothing_doubled() -> None:
    assert count(INPUT, DEAD, BARS.items(), INTERVALS) == Tiling(3, 1, 0, 0)


@pytest.mark.parametrize("place", BARS)
def test_a_missing_bar_is_lost_ticks(place: Place) -> None:
    rest = [item for item in BARS.items() if item[0] != place]
    assert count(INPUT, DEAD, rest, INTERVALS) == Tiling(3, 1, BARS[place], 0)


@pytest.mark.parametrize("place", BARS)
def test_a_bar_that_stands_twice_is_doubled_ticks(place: Place) -> None:
    twice = [*BARS.items(), (place, BARS[place])]
    assert count(INPUT, DEAD, twice, INTERVALS) == Tiling(3, 1, 0, BARS[place])


def test_a_tick_in_the_wrong_bar_is_both_lost_and_doubled() -> None:
    moved = {**BARS, ("A", S, 0): 1, ("A", S, S): 1}
    assert count(INPUT, DEAD, moved.items(), INTERVALS) == Tiling(3, 1, 1, 1)


def test_a_tick_set_aside_for_nothing_is_doubled() -> None:
    assert count(INPUT, {*DEAD, (StreamID(1, 0), 0)}, BARS.items(), INTERVALS) == Tiling(2, 2, 0, 2)


def test_a_block_counts_tick_by_tick() -> None:
    ticks = Ticks.from_rows([("A", 1.0, 0.0, 0), ("A", 1.0, 0.0, S // 2), ("B", 1.0, 0.0, 6 * S)])
    block = (StreamID(1, 0), {b"kind": b"block", b"data": pack_block(ticks)})
    assert count([block], set(), BARS.items(), INTERVALS) == Tiling(3, 0, 0, 0)
    assert count([block], {(StreamID(1, 0), 1)}, BARS.items(), INTERVALS) == Tiling(2, 1, 0, 2)
    spoilt = (StreamID(2, 0), {b"kind": b"block", b"data": b"R10B"})
    assert count([block, spoilt], {(StreamID(2, 0), 0)}, BARS.items(), INTERVALS) == Tiling(3, 1, 0, 0)


def test_letters_of_a_gap_or_of_a_bar_set_no_tick_aside() -> None:
    letters = [
        {b"src": b"0:5-0:3:0", b"fields": b'{"symbol":"A"}'},
        {b"src": b"0:6-0:0:0", b"fields": b"{}"},
        {b"src": b"0:7-0:0:0", b"fields": b'{"kind":"bar","series":"A:1s","bar":"1"}'},
    ]
    assert set_aside(letters) == {(StreamID(5, 0), 3)}


def test_a_tick_that_says_its_kind_is_a_tick() -> None:
    named = [(StreamID(9, 0), {b"kind": b"tick", **tick("C", 0)})]
    assert count(named, set(), [(("C", S, 0), 1), (("C", 5 * S, 0), 1)], INTERVALS) == Tiling(1, 0, 0, 0)
