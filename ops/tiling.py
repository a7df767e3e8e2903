"""Proof that nothing was lost and nothing counted twice: bars, open bars and dead letters must tile the input.

Reads a tenant's streams as they stand and recounts them from the raw input, apart from the code that made them: which
ticks belong into which bar follows from symbol and event time alone. `count` is pure; `check` reads. The input must
not have been trimmed, and nothing may be under way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import cast

import orjson
import redis

from ops.entries import all_entries
from streams.block import read_block
from streams.errors import BadRecord
from streams.ids import Source, StreamID
from streams.raw import named
from streams.series import Interval
from streams.tenant import Tenant

#: (symbol, interval in ns, start of the bar in ns)
Place = tuple[str, int, int]


@dataclass(frozen=True, slots=True)
class Tiling:
    """What the count found.

    Attributes:
        ticks: usable ticks in the input.
        dead: ticks that were set aside.
        lost: ticks that no bar counts, over all intervals.
        doubled: ticks counted more often than they came, over all intervals.
    """

    ticks: int = 0
    dead: int = 0
    lost: int = 0
    doubled: int = 0

    def __add__(self, other: Tiling) -> Tiling:
        return Tiling(
            self.ticks + other.ticks, self.dead + other.dead, self.lost + other.lost, self.doubled + other.doubled
        )


def count(
    inputs: Iterable[tuple[StreamID, Mapping[bytes, bytes]]],
    dead: set[tuple[StreamID, int]],
    bars: Iterable[tuple[Place, int]],
    intervals: Iterable[Interval],
) -> Tiling:
    """Hold what came against what was counted. Pure.

    Args:
        inputs: entry id and fields of every entry of a partition.
        dead: the ticks that were set aside: entry, and place within it if that is a block, else 0.
        bars: place and tick count of every closed and every open bar; a bar that stands twice counts twice.
    """
    lengths = [interval.ns for interval in intervals]
    came: Counter[Place] = Counter()
    ticks = 0
    for entry, fields in inputs:
        for symbol, ts in _ticks(entry, fields, dead):
            ticks += 1
            for length in lengths:
                came[symbol, length, ts // length * length] += 1
    counted: Counter[Place] = Counter()
    for place, number in bars:
        counted[place] += number
    return Tiling(ticks, len(dead), (came - counted).total(), (counted - came).total())


def _ticks(
    entry: StreamID, fields: Mapping[bytes, bytes], dead: set[tuple[StreamID, int]]
) -> Iterator[tuple[str, int]]:
    """Symbol and event time of an entry's ticks, without those that were set aside."""
    if fields.get(b"kind") == b"block":
        if (entry, 0) in dead and not _readable(fields):
            return
        block = read_block(fields[b"data"])
        for tick in range(len(block)):
            if (entry, tick) not in dead:
                yield block.table[block.code[tick]].decode(), int(block.ts[tick])
    elif (entry, 0) not in dead and fields.get(b"kind", b"tick") == b"tick":
        yield fields[b"symbol"].decode(), int(fields[b"ts"])


def _readable(fields: Mapping[bytes, bytes]) -> bool:
    try:
        read_block(fields.get(b"data", b""))
    except BadRecord:
        return False
    return True


def set_aside(letters: Iterable[Mapping[bytes, bytes]]) -> set[tuple[StreamID, int]]:
    """What dead letters set aside of the input. Some speak of a gap in it, or of a bar, and of no entry."""
    found = set()
    for fields in letters:
        raw = orjson.loads(fields[b"fields"])
        if raw and named(raw).get("kind") != "bar":
            source = Source.parse(fields[b"src"])
            found.add((source.entry, source.tick))
    return found


def check(client: redis.Redis, tenant: Tenant) -> Tiling:
    """Count all partitions of a tenant.

    Raises:
        redis.RedisError: as the client raises it.
    """
    total = Tiling()
    intervals = tenant.pipeline.parsed_intervals
    for partition in range(tenant.partitions):
        keys = tenant.keys.partition(partition)
        state = cast(dict[bytes, bytes], client.hgetall(keys.state))
        symbols = {name[2:].decode(): orjson.loads(value) for name, value in state.items() if name.startswith(b"s:")}
        dead = set_aside(fields for _, fields in all_entries(client, keys.dead))
        found: list[tuple[Place, int]] = []
        for symbol, (_, per_interval) in symbols.items():
            for interval, (_, _, still_open, _) in zip(intervals, per_interval, strict=True):
                found += [((symbol, interval.ns, int(bar[0])), int(bar[6])) for bar in still_open]
                key = keys.bars(f"{symbol}:{interval}")
                for _, fields in all_entries(client, key):
                    found.append(((symbol, interval.ns, int(fields[b"start"])), int(fields[b"ticks"])))
        total += count(all_entries(client, keys.ticks), dead, found, intervals)
    return total
