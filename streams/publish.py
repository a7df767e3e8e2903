"""What goes into a partition's `ticks` stream, packed as Redis commands. Pure.

An entry is a flat list of fields: a tick is `symbol price size ts` and, where known, `bid ask id`, in this order
(scorers read it fastest so); many ticks may share one entry, a block (`streams.block`); a control entry begins with
`kind`. Numbers are the shortest text that reads back as the same double, times are integers.

Entries are packed straight into the Redis protocol (RESP 2 bulk strings), which costs about 1 µs a tick; a client's own
packer takes several. In a block a tick takes some 30 ns and 26 bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from streams.block import pack_block
from streams.columns import END_OF_TIME, Ticks
from streams.errors import BadRecord
from streams.keys import PartitionKeys
from streams.records import number_text

#: When ticks share entries: never; where at least `BLOCK_FROM` go to one partition at once; or always.
Blocks = Literal["never", "auto", "always"]
#: Fewer ticks than this travel one by one unless blocks are asked for.
BLOCK_FROM = 16
#: Most ticks in one block: its 53 KB are computed within a millisecond.
BLOCK_TICKS = 2048


@dataclass(frozen=True, slots=True)
class Packed:
    """Entries as arguments of the publishing script: for each the number of its words, then the words."""

    arguments: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Group:
    """What is to be appended to one partition, in order: ticks, or one control entry.

    Attributes:
        keys: the partition's.
        rows: int64 (n,), the entries' numbers in the caller's order.
        ticks: checked ticks, of length n.
        control: instead of ticks, the fields of one control entry.
    """

    keys: PartitionKeys
    rows: NDArray[np.int64]
    ticks: Ticks | None
    control: dict[str, str] | None = None

    @property
    def count(self) -> int:
        """Ticks in it."""
        return 0 if self.ticks is None else len(self.ticks)

    def without(self, first: int) -> Group:
        """The same without its first ticks."""
        assert self.ticks is not None, "a control entry is not counted"
        return replace(self, rows=self.rows[first:], ticks=self.ticks.take(slice(first, None)))

    def packed(self, blocks: Blocks) -> Packed:
        """The entries."""
        if self.ticks is None:
            assert self.control is not None, "a group has ticks or a control entry"
            return _framed([_entry(self.control)])
        if blocks == "always" or (blocks == "auto" and len(self.ticks) >= BLOCK_FROM):
            return _packed_blocks(self.ticks)
        return _framed(_tick_entries(self.ticks))


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


def _entry(fields: dict[str, str]) -> tuple[int, str]:
    """How many words an entry has, and these as bulk strings."""
    return 2 * len(fields), "".join(bulk(word) for pair in fields.items() for word in pair)


#: The number of words before an entry; a tick has at most seven fields.
_COUNTS = {words: bulk(str(words)) for words in range(2, 16, 2)}


def _framed(entries: list[tuple[int, str]]) -> Packed:
    arguments = sum(words for words, _ in entries) + len(entries)
    return Packed(arguments, "".join([f"{_COUNTS[words]}{text}" for words, text in entries]).encode())


def _packed_blocks(ticks: Ticks) -> Packed:
    head = (bulk("4") + bulk("kind") + bulk("block") + bulk("data")).encode()
    parts = []
    for chunk in ticks.chunks(BLOCK_TICKS):
        data = pack_block(chunk)
        parts.append(b"%b$%d\r\n%b\r\n" % (head, len(data), data))
    return Packed(5 * len(parts), b"".join(parts))


def _tick_entries(ticks: Ticks) -> list[tuple[int, str]]:
    """One entry per tick."""
    if ticks.bid is not None or ticks.ask is not None or ticks.ids is not None:
        return _whole_entries(ticks)
    heads = [bulk("symbol") + bulk(symbol) + bulk("price") for symbol in ticks.names]
    # `tolist` gives Python's own numbers, whose repr is the wire's; it is ASCII, so characters are bytes.
    columns = zip(ticks.codes.tolist(), ticks.price.tolist(), ticks.size.tolist(), ticks.ts.tolist(), strict=True)
    packed = []
    for code, price, size, ts in columns:
        p, s, t = repr(price), repr(size), str(ts)
        text = f"{heads[code]}${len(p)}\r\n{p}\r\n$4\r\nsize\r\n${len(s)}\r\n{s}\r\n$2\r\nts\r\n${len(t)}\r\n{t}\r\n"
        packed.append((8, text))
    return packed


def _whole_entries(ticks: Ticks) -> list[tuple[int, str]]:
    count = len(ticks)

    def known(column: NDArray[np.float64] | None) -> list[float | None]:
        return [None] * count if column is None else [None if v != v else v for v in column.tolist()]

    ids: list[str | None] = [None] * count if ticks.ids is None else ticks.ids.tolist()
    bids, asks = known(ticks.bid), known(ticks.ask)
    columns = zip(
        ticks.codes.tolist(), ticks.price.tolist(), ticks.size.tolist(), ticks.ts.tolist(), bids, asks, ids, strict=True
    )
    return [
        _entry(tick_fields(ticks.names[code], price, size, ts, bid, ask, venue_id))
        for code, price, size, ts, bid, ask, venue_id in columns
    ]


def group_ticks(ticks: Ticks, home_of: Callable[[str], PartitionKeys], first_row: int = 0) -> list[Group]:
    """Split ticks by partition, keeping their order within each.

    Args:
        ticks: checked ticks.
        home_of: the keys of a symbol's partition.
        first_row: number of the first tick in the caller's order.
    """
    homes = list(map(home_of, ticks.names))
    different = list(dict.fromkeys(homes))
    if len(different) <= 1:
        rows = np.arange(first_row, first_row + len(ticks))
        return [Group(keys, rows, ticks) for keys in different if len(ticks)]
    number = {keys: index for index, keys in enumerate(different)}
    home = np.array([number[keys] for keys in homes], np.int64)[ticks.codes]
    order = np.argsort(home, kind="stable")
    ends = np.searchsorted(home[order], np.arange(len(different) + 1))
    groups = []
    for index, keys in enumerate(different):
        rows = order[ends[index] : ends[index + 1]]
        if len(rows):
            groups.append(Group(keys, rows + first_row, ticks.take(rows)))
    return groups
