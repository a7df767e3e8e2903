"""A batch of input, decoded: columns of ticks, what stands between them, what cannot be used; and parts of it. Pure.

A batch is read at once and carried out in windows, which may begin and end inside a block. A place in it is a `Cut`:
everything whose (position of its entry, tick within the entry) is smaller lies before it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streams.block import Block
from streams.ids import StreamID

#: A raw entry as RESP2 gives it: id, and field names and values in turn.
RawEntry = tuple[bytes, Sequence[bytes]]


class Cut(NamedTuple):
    """A place in a batch: before tick `tick` of the entry at `position`."""

    position: int
    tick: int


@dataclass(slots=True)
class TickRun:
    """Ticks between two control entries, in order of arrival; all columns have length n.

    Attributes:
        table: the different symbols, UTF-8 bytes, as they came.
        code: int32, each tick's index in `table`.
        price, size: float64; finite, price > 0, size >= 0.
        ts: int64, epoch ns, >= 0.
        position: int64, the entry's position in the batch.
        tick: int32, the tick's index within its entry.
    """

    table: list[bytes]
    code: NDArray[np.int32]
    price: NDArray[np.float64]
    size: NDArray[np.float64]
    ts: NDArray[np.int64]
    position: NDArray[np.int64]
    tick: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.ts)

    def row(self, cut: Cut) -> int:
        """The first row that does not lie before `cut`."""
        first, end = np.searchsorted(self.position, (cut.position, cut.position + 1))
        return int(first + np.searchsorted(self.tick[first:end], cut.tick))

    def cut(self, row: int) -> Cut:
        """The place before a row."""
        return Cut(int(self.position[row]), int(self.tick[row]))

    def rows(self, first: int, end: int) -> TickRun:
        """Some rows, as views."""
        at = slice(first, end)
        return TickRun(
            self.table, self.code[at], self.price[at], self.size[at], self.ts[at], self.position[at], self.tick[at]
        )


@dataclass(frozen=True, slots=True)
class Clock:
    """Nothing earlier than `ts` (epoch ns) will follow in this partition."""

    ts: int
    position: int


@dataclass(frozen=True, slots=True)
class ReleaseSwitch:
    """From here on, this release is in force."""

    release: str
    position: int


@dataclass(frozen=True, slots=True)
class Unusable:
    """An entry, or a tick of a block, that cannot be used: `reason` is a short stable word, `detail` is for people."""

    reason: str
    detail: str
    position: int
    tick: int = 0


def _place(item: Unusable) -> Cut:
    return Cut(item.position, item.tick)


@dataclass(slots=True)
class Decoded:
    """A batch, or a window of one, in order of arrival.

    Attributes:
        ms, seq: uint64 (n,), the two halves of the entry ids.
        entries: the raw entries, at least one.
        parts: runs of ticks and control entries, in order.
        unusable: what is set aside, in order.
        blocks: the blocks among the entries, by position.
        begin, end: what of the batch this is.
    """

    ms: NDArray[np.uint64]
    seq: NDArray[np.uint64]
    entries: Sequence[RawEntry]
    parts: list[TickRun | Clock | ReleaseSwitch]
    unusable: list[Unusable]
    blocks: dict[int, Block]
    begin: Cut
    end: Cut

    def id(self, position: int) -> StreamID:
        """The id of an entry; -1 is the last of the batch."""
        return StreamID(int(self.ms[position]), int(self.seq[position]))

    @property
    def passed(self) -> int:
        """Entries that end here: the last one does not if `end` lies within it."""
        return self.end.position - self.begin.position

    @property
    def units(self) -> int:
        """How many things are to be done: ticks, control entries, and what is set aside."""
        ticks = sum(len(part) if isinstance(part, TickRun) else 1 for part in self.parts)
        return ticks + len(self.unusable)

    def window(self, begin: Cut, most: int) -> Decoded:
        """From `begin` on at most `most` ticks and control entries, and at most as many unusable ones; `most` >= 1."""
        end = self._after(begin, most)
        first = bisect_left(self.unusable, begin, key=_place)
        if first + most < len(self.unusable):
            end = min(end, _place(self.unusable[first + most]))
        return self.between(begin, end)

    def _after(self, begin: Cut, most: int) -> Cut:
        left = most
        for part in self.parts:
            if not isinstance(part, TickRun):
                here = Cut(part.position, 0)
                if here < begin:
                    continue
                if left == 0:
                    return here
                left -= 1
                continue
            row = part.row(begin)
            if len(part) - row > left:
                return part.cut(row + left)
            left -= len(part) - row
        return self.end

    def between(self, begin: Cut, end: Cut) -> Decoded:
        """What lies from `begin` on and before `end`; ticks as views."""
        parts: list[TickRun | Clock | ReleaseSwitch] = []
        for part in self.parts:
            if isinstance(part, TickRun):
                first, last = part.row(begin), part.row(end)
                if first < last:
                    parts.append(part.rows(first, last))
            elif begin <= (part.position, 0) < end:
                parts.append(part)
        first, last = (bisect_left(self.unusable, cut, key=_place) for cut in (begin, end))
        unusable = self.unusable[first:last]
        return replace(self, parts=parts, unusable=unusable, begin=begin, end=end)

    @property
    def first(self) -> Cut:
        """Where the first tick or control entry stands; the beginning if there is none."""
        for part in self.parts:
            return part.cut(0) if isinstance(part, TickRun) else Cut(part.position, 0)
        return self.begin

    def set_aside(self, reason: str, detail: str) -> Decoded:
        """The same with none of its ticks and control entries used, the first of which is told of."""
        aside = Unusable(reason, detail, *self.first)
        return replace(self, parts=[], unusable=[*self.unusable, aside])
