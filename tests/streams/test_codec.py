"""Decoding entries: columns, control entries, and what is set aside."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.codec import decode
from streams.decoded import Clock, ReleaseSwitch, TickRun
from streams.ids import StreamID

RELEASE = b"ab" * 32


def entry(number: int, **fields: object) -> tuple[bytes, list[bytes]]:
    flat: list[bytes] = []
    for name, value in fields.items():
        flat += (name.encode(), value if isinstance(value, bytes) else str(value).encode())
    return f"{number}-0".encode(), flat


def tick(number: int, **changes: object) -> tuple[bytes, list[bytes]]:
    return entry(number, **{"symbol": "A", "price": "1.5", "size": "2", "ts": "7", **changes})


def test_ticks_between_control_entries_come_in_runs() -> None:
    found = decode(
        [tick(1), tick(2, symbol="B"), entry(3, kind="clock", ts=9), tick(4), entry(5, kind="release", release=RELEASE)]
    )
    first, clock, second, release = found.parts
    assert isinstance(first, TickRun)
    assert [first.table[code] for code in first.code] == [b"A", b"B"]
    assert first.position.tolist() == [0, 1]
    assert (first.price.dtype.name, first.ts.dtype.name, first.size.tolist()) == ("float64", "int64", [2.0, 2.0])
    assert clock == Clock(9, 2)
    assert isinstance(second, TickRun)
    assert second.position.tolist() == [3]
    assert release == ReleaseSwitch(RELEASE.decode(), 4)
    assert not found.unusable


def test_fields_may_come_in_any_order_with_others_among_them_and_without_a_size() -> None:
    found = decode([entry(1, venue="X", ts=7, price="1e2", symbol="A", id="77", bid="1", ask="2")])
    [run] = found.parts
    assert isinstance(run, TickRun)
    assert (run.price.tolist(), run.size.tolist(), run.ts.tolist()) == ([100.0], [0.0], [7])


@pytest.mark.parametrize(
    ("bad", "reason", "words"),
    [
        ({"price": "abc"}, "malformed", "price"),
        ({"price": "nan"}, "malformed", "price"),
        ({"price": "inf"}, "malformed", "price"),
        ({"price": "1_0"}, "malformed", "price"),
        ({"price": "-1"}, "bad_price", "above zero"),
        ({"price": "0"}, "bad_price", "above zero"),
        ({"size": "-1"}, "malformed", "size"),
        ({"size": "1e999"}, "malformed", "size"),
        ({"ts": "-5"}, "malformed", "ts"),
        ({"ts": "+5"}, "malformed", "ts"),
        ({"ts": " 5"}, "malformed", "ts"),
        ({"ts": "1.5"}, "malformed", "ts"),
        ({"ts": str(2**63)}, "malformed", "ts"),
        ({"ts": "9" * 40}, "malformed", "ts"),
        ({"symbol": ""}, "malformed", "symbol"),
        ({"bid": "-1"}, "bad_price", "bid"),
        ({"ask": "x"}, "malformed", "ask"),
        ({"kind": "quote"}, "malformed", "kind"),
        ({"kind": "clock", "ts": "x"}, "malformed", "ts"),
        ({"kind": "release", "release": "x"}, "malformed", "release"),
        ({"price": b"\xff\xfe"}, "malformed", "price"),
    ],
)
def test_what_cannot_be_used_is_set_aside_with_its_reason_and_the_rest_goes_on(
    bad: dict[str, object], reason: str, words: str
) -> None:
    found = decode([tick(1), tick(2, **bad), tick(3)])
    [item] = found.unusable
    assert (item.reason, item.position) == (reason, 1)
    assert words in item.detail
    kept = [position for part in found.parts if isinstance(part, TickRun) for position in part.position.tolist()]
    assert kept == [0, 2]


@given(
    st.lists(st.lists(st.binary(max_size=12), min_size=2, max_size=12).filter(lambda f: len(f) % 2 == 0), max_size=8)
)
def test_no_entry_can_make_decoding_fail(fields: list[list[bytes]]) -> None:
    found = decode([(f"{n}-0".encode(), raw) for n, raw in enumerate(fields)])
    runs = [part for part in found.parts if isinstance(part, TickRun)]
    assert sum(len(run) for run in runs) + len(found.unusable) + len(found.parts) - len(runs) == len(fields)


numbers = st.sampled_from(
    [b"1.5", b"2", b"0", b"-1", b"1e3", b" 7", b"1_0", b"nan", b"inf", b"x", b"", b"1e999", b"9" * 25]
)
times = st.sampled_from(
    [b"7", b"0", b"+7", b" 7", b"-7", b"7.0", b"1_0", b"", b"0" * 30, b"%d" % (2**63 - 1), b"%d" % 2**63]
)
odd_ticks = st.builds(
    lambda symbol, price, size, ts: [b"symbol", symbol, b"price", price, b"size", size, b"ts", ts],
    st.sampled_from([b"A", b"B", b"", b"\xff"]), numbers, numbers, times,
)  # fmt: skip


@given(st.lists(odd_ticks, min_size=1, max_size=4))
def test_a_batch_of_plain_ticks_is_decoded_like_one_with_other_entries_among_them(rows: list[list[bytes]]) -> None:
    """Whole columns or entry by entry: which way a batch goes leaves no trace."""
    batch = [(f"{n}-0".encode(), raw) for n, raw in enumerate(rows)]
    whole, mixed = decode(batch), decode([*batch, entry(len(batch), kind="clock", ts=1)])
    ways = []
    for found in (whole, mixed):
        runs = [part for part in found.parts if isinstance(part, TickRun)]
        columns = [
            [*zip([r.table[c] for c in r.code], r.price, r.size, r.ts, r.position, r.tick, strict=True)] for r in runs
        ]
        ways.append((columns, [run.ts.dtype for run in runs], found.unusable))
    assert ways[0] == ways[1]


def test_ids_keep_both_their_halves() -> None:
    found = decode([(b"18446744073709551615-18446744073709551614", tick(1)[1]), (b"0-1", tick(1)[1])])
    assert [found.id(0), found.id(-1)] == [StreamID(2**64 - 1, 2**64 - 2), StreamID(0, 1)]


@given(st.floats(min_value=5e-324, max_value=1e308), st.floats(min_value=0, max_value=1e308))
def test_numbers_come_back_bit_for_bit(price: float, size: float) -> None:
    found = decode([tick(1, price=repr(price), size=repr(size))])
    if math.isfinite(price + size):
        [run] = found.parts
        assert isinstance(run, TickRun)
        assert (run.price[0], run.size[0]) == (price, size)
