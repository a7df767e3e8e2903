"""A batch may be cut anywhere, inside a block as well: nobody can tell from what comes of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from streams.block import pack_block
from streams.codec import decode
from streams.columns import Ticks
from streams.decoded import Cut, RawEntry, TickRun
from streams.ids import StreamID
from tests.consumers.committed import Store, raw_entry
from tests.consumers.test_scorer import AWAY, HOME, NOW_MS, S, bad, controls, store, ticks

#: Ticks that a block can carry: any symbol that is one, and values that a block does not refuse as a whole.
sound = ticks.filter(lambda tick: tick["symbol"] in {*HOME, AWAY})
blocks = st.lists(sound, min_size=1, max_size=12)
inputs = st.lists(st.one_of(ticks, ticks, blocks, blocks, controls, bad), min_size=1, max_size=25)


def packed(rows: Sequence[dict[str, Any]], spoilt: int | None = None) -> bytes:
    made = Ticks.from_rows([(row["symbol"], row["price"], row["size"], row["ts"]) for row in rows])
    if spoilt is not None and spoilt < len(rows):
        made.price[spoilt] = -1.0
    return pack_block(made)


def entries_of(items: Sequence[Any], spoilt: int | None = None) -> list[RawEntry]:
    entries: list[RawEntry] = []
    for number, item in enumerate(items):
        if isinstance(item, list):
            fields = [b"kind", b"block", b"data", packed(item, spoilt)]
            entries.append((f"{NOW_MS + number}-0".encode(), fields))
        else:
            entries.append(raw_entry(NOW_MS + number, **item))
    return entries


def left(found: Store, entries: Sequence[RawEntry]) -> list[RawEntry]:
    """What a new owner would read: everything after the checkpoint."""
    checkpoint = StreamID.parse(found.state.get(b"checkpoint", b"0-0"))
    return [entry for entry in entries if StreamID.parse(entry[0]) > checkpoint]


@settings(max_examples=150, deadline=None)
@given(inputs, st.lists(st.integers(1, 9), min_size=1), st.booleans(), st.none() | st.integers(0, 11))
def test_outputs_do_not_depend_on_where_batches_are_cut_and_owners_change(
    items: list[Any], sizes: list[int], restart: bool, spoilt: int | None
) -> None:
    entries = entries_of(items, spoilt)
    whole, pieces = store(), store()
    whole.run(whole.scorer(), entries)
    scorer, step = pieces.scorer(), 0
    while rest := left(pieces, entries):
        decoded = decode(rest)
        within = scorer.state.within
        cut = decoded.begin
        if within is not None:
            assert within[0] == decoded.id(0)
            cut = Cut(0, within[1])
        while cut < decoded.end:
            window = decoded.window(cut, sizes[step % len(sizes)])
            step += 1
            assert 1 <= window.units <= 2 * sizes[(step - 1) % len(sizes)]
            pieces.take(scorer, window)
            cut = window.end
            if restart:
                scorer = pieces.scorer()
                break
    assert pieces.streams == whole.streams
    assert {**pieces.state, b"counter": b""} == {**whole.state, b"counter": b""}
    assert {k: v for k, v in pieces.counts.items() if v} == {k: v for k, v in whole.counts.items() if v}


def test_a_block_counts_like_its_ticks_one_by_one() -> None:
    rows = [{"symbol": HOME[at % 2], "price": 100.0 + at, "size": 1.0, "ts": at * S // 3} for at in range(30)]
    one, other = store(), store()
    one.run(one.scorer(), entries_of([rows]))
    other.run(other.scorer(), entries_of(rows))
    assert one.counts["ticks"] == other.counts["ticks"] == 30
    key = one.keys.bars(f"{HOME[0]}:1s")
    names = {"first", "last", "src"}
    strip = [[dict(zip(f[::2], f[1::2], strict=True)) for f in found.streams[key]] for found in (one, other)]
    assert len(strip[0]) > 5
    assert [{k: v for k, v in row.items() if k not in names} for row in strip[0]] == [
        {k: v for k, v in row.items() if k not in names} for row in strip[1]
    ]
    assert strip[0][0]["last"].split(":")[1:3] == [f"{NOW_MS}-0", "2"], "a source names the tick in its block"


def test_a_dead_letter_of_a_block_holds_the_one_tick() -> None:
    rows = [{"symbol": HOME[0], "price": 100.0, "size": 1.0, "ts": at} for at in range(3)]
    found = store()
    found.run(found.scorer(), entries_of([rows], spoilt=1))
    [letter] = found.streams[found.keys.dead]
    named = dict(zip(letter[::2], letter[1::2], strict=True))
    assert named["reason"] == "bad_price"
    assert named["src"] == f"0:{NOW_MS}-0:1:0"
    assert named["fields"] == '{"symbol":"' + HOME[0] + '","price":"-1.0","size":"1.0","ts":"1"}'
    assert found.counts["ticks"] == 2


def test_a_window_is_never_empty_and_windows_tile_the_batch() -> None:
    rows = [{"symbol": HOME[0], "price": 1.0, "size": 0.0, "ts": at} for at in range(5)]
    clock = {"kind": "clock", "ts": 3}
    decoded = decode(entries_of([rows, clock, {"nonsense": 1}, rows[0], rows, clock], spoilt=2))
    cut, seen = decoded.begin, 0
    while cut < decoded.end:
        window = decoded.window(cut, 2)
        assert window.begin == cut < window.end
        seen += window.units
        assert all(len(part) for part in window.parts if isinstance(part, TickRun))
        cut = window.end
    assert seen == decoded.units == 5 + 1 + 1 + 1 + 5 + 1
