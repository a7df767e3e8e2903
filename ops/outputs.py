"""Looking at outputs: the newest records of a kind over all partitions, and the place to follow them from.

Reads only. Entries of different partitions are put in the order of their ids, that is, of the time they were written.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from operator import itemgetter
from typing import cast

import redis

from streams.errors import BadRecord, ConfigurationError
from streams.ids import StreamID
from streams.keys import TENANTS
from streams.records import Record
from streams.tenant import Tenant, find_tenant
from streams.wanted import KINDS, Kind, Position, understand

#: Entries read from one stream at a time, newest first.
PAGE = 200


@dataclass(frozen=True, slots=True)
class Tail:
    """The newest records, oldest first, and the position behind all that was there."""

    records: list[Record]
    position: Position


def need_tenant(client: redis.Redis, name: str) -> Tenant:
    """The stored tenant.

    Raises:
        ConfigurationError: there is none of that name; the message names those that exist.
    """
    found = find_tenant(client, name)
    if found is not None:
        return found
    others = [member.decode() for member in cast(list[bytes], client.zrevrange(TENANTS, 0, 4))]
    hint = (
        f"give another with --tenant, such as {', '.join(others)}"
        if others
        else "`red10 demo` makes one with data in it, the first `red10 publish` an empty one"
    )
    raise ConfigurationError(f"there is no tenant {name!r} yet: {hint}")


def read_tail(client: redis.Redis, tenant: Tenant, kind: Kind, symbols: Iterable[str] | None, count: int) -> Tail:
    """The newest `count` records of the symbols (`None` for all).

    Raises:
        BadName: a symbol cannot be one.
    """
    wanted = understand(tenant, kind, symbols, "start").wanted
    keys = wanted.streams()
    at = {key: entry for key in keys if (entry := _last(client, key)) is not None}
    newest = heapq.merge(*(_backwards(client, key, at[key], kind) for key in at), key=itemgetter(0), reverse=True)
    found = islice((record for entry, record in newest if wanted.wants(record, entry)), count)
    return Tail(list(found)[::-1], wanted.position(at))


def _last(client: redis.Redis, key: str) -> StreamID | None:
    rows = cast(list[tuple[bytes, dict[bytes, bytes]]], client.xrevrange(key, count=1))
    return StreamID.parse(rows[0][0]) if rows else None


def _backwards(client: redis.Redis, key: str, last: StreamID, kind: Kind) -> Iterator[tuple[StreamID, Record]]:
    """A stream's records from `last` back to its beginning; what is no record is passed over."""
    high = str(last)
    while True:
        rows = cast(list[tuple[bytes, dict[bytes, bytes]]], client.xrevrange(key, high, "-", PAGE))
        for entry, fields in rows:
            try:
                yield StreamID.parse(entry), KINDS[kind].from_fields(fields)
            except BadRecord:
                continue
        if len(rows) < PAGE:
            return
        high = "(" + rows[-1][0].decode()
