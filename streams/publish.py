"""What goes into a partition's `ticks` stream, packed as Redis commands. Pure.

An entry is a flat list of text fields: a tick is `symbol price size ts` and, where known, `bid ask id`, in this order
(scorers read it fastest so); a control entry begins with `kind`. Numbers are the shortest text that reads back as the
same double, times are integers.

Entries are packed straight into the Redis protocol (RESP 2 bulk strings), which costs about 1 µs a tick; a client's own
packer takes several.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streams.columns import END_OF_TIME, Ticks
from streams.errors import BadRecord
from streams.records import number_text

#: An entry, packed: how many words (field names and values) it has, and these as bulk strings one after the other.
Entry = tuple[int, str]


@dataclass(frozen=True, slots=True)
class Group:
    """Entries for one partition, in order.

    Attributes:
        key: the partition's stream.
        entries: packed entries, at least one.
        rows: the entries' numbers in the caller's order.
    """

    key: str
    entries: list[Entry]
    rows: list[int]


def tick_fields(
    symbol: str,
    price: float,
    size: float,
    ts: int,
    bid: float | None = None,
    ask: float | None = None,
    venue_id: str | None = None,
) -> dict[str, str]:
    """The fields of one tick, not checked (see `streams.columns.check_ticks`)."""
    fields = {"symbol": symbol, "price": number_text(price), "size": number_text(size), "ts": str(ts)}
    if bid is not None:
        fields["bid"] = number_text(bid)
    if ask is not None:
        fields["ask"] = number_text(ask)
    if venue_id is not None:
        fields["id"] = venue_id
    return fields


def clock_fields(ts: int) -> dict[str, str]:
    """The fields of a clock entry: nothing earlier than `ts` (epoch ns) will follow in this partition.

    Raises:
        BadRecord: `ts` is no time.
    """
    if not 0 <= ts < END_OF_TIME:
        raise BadRecord("malformed", f"clock: ts is no time in epoch nanoseconds: {ts}")
    return {"kind": "clock", "ts": str(ts)}


def release_fields(release: str) -> dict[str, str]:
    """The fields of a release entry: from here on, this release is in force.

    Raises:
        BadRecord: `release` is no release id (64 hex digits, lower case).
    """
    if len(release) != 64 or not set(release) <= set("0123456789abcdef"):
        raise BadRecord("malformed", f"{release[:80]!r} is no release id: it has 64 hex digits, lower case")
    return {"kind": "release", "release": release}


def bulk(text: str) -> str:
    """A RESP bulk string."""
    return f"${len(text.encode())}\r\n{text}\r\n"


def pack(fields: dict[str, str]) -> Entry:
    """One entry, packed."""
    return 2 * len(fields), "".join(bulk(word) for pair in fields.items() for word in pair)


def pack_ticks(ticks: Ticks) -> list[Entry]:
    """One entry per tick; the ticks must have been checked."""
    if ticks.bid is not None or ticks.ask is not None or ticks.ids is not None:
        return _pack_whole(ticks)
    heads = [bulk("symbol") + bulk(symbol) + bulk("price") for symbol in ticks.names]
    # `tolist` gives Python's own numbers, whose repr is the wire's; it is ASCII, so characters are bytes.
    columns = zip(ticks.codes.tolist(), ticks.price.tolist(), ticks.size.tolist(), ticks.ts.tolist(), strict=True)
    packed = []
    for code, price, size, ts in columns:
        p, s, t = repr(price), repr(size), str(ts)
        text = f"{heads[code]}${len(p)}\r\n{p}\r\n$4\r\nsize\r\n${len(s)}\r\n{s}\r\n$2\r\nts\r\n${len(t)}\r\n{t}\r\n"
        packed.append((8, text))
    return packed


def _pack_whole(ticks: Ticks) -> list[Entry]:
    count = len(ticks)

    def known(column: NDArray[np.float64] | None) -> list[float | None]:
        return [None] * count if column is None else [None if v != v else v for v in column.tolist()]

    ids: list[str | None] = [None] * count if ticks.ids is None else ticks.ids.tolist()
    bids, asks = known(ticks.bid), known(ticks.ask)
    columns = zip(
        ticks.codes.tolist(), ticks.price.tolist(), ticks.size.tolist(), ticks.ts.tolist(), bids, asks, ids, strict=True
    )
    return [
        pack(tick_fields(ticks.names[code], price, size, ts, bid, ask, venue_id))
        for code, price, size, ts, bid, ask, venue_id in columns
    ]


def group_ticks(ticks: Ticks, stream_of: Callable[[str], str], first_row: int = 0) -> list[Group]:
    """Pack ticks and split them by stream, keeping their order within each.

    Args:
        ticks: checked ticks.
        stream_of: the key of a symbol's partition.
        first_row: number of the first tick in the caller's order.
    """
    groups: dict[str, Group] = {}
    by_code = [groups.setdefault(key, Group(key, [], [])) for key in map(stream_of, ticks.names)]
    for row, (code, entry) in enumerate(zip(ticks.codes.tolist(), pack_ticks(ticks), strict=True), first_row):
        group = by_code[code]
        group.entries.append(entry)
        group.rows.append(row)
    return [group for group in groups.values() if group.rows]
