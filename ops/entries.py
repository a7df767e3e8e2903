"""Reading a whole stream in pieces."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import redis

from streams.ids import ZERO, StreamID

#: Entries read in one piece.
PIECE = 2000


def all_entries(
    client: redis.Redis, key: str, *, after: StreamID = ZERO
) -> Iterator[tuple[StreamID, dict[bytes, bytes]]]:
    """All entries of a stream, oldest first; those that come meanwhile included.

    Args:
        after: leave out entries up to and with this one.

    Raises:
        redis.RedisError: as the client raises it.
    """
    begin = "-" if after == ZERO else f"({after}"
    while True:
        piece = cast(list[tuple[bytes, dict[bytes, bytes]]], client.xrange(key, begin, "+", PIECE))
        for entry, fields in piece:
            yield StreamID.parse(entry), fields
        if len(piece) < PIECE:
            return
        begin = f"({piece[-1][0].decode()}"
