"""Where reading goes on: the checkpoint held against what the input stream still has. The decision is pure.

XREAD passes over trimmed entries in silence, and waits for ever when a stream's ids restart below the position it was
given. So whoever takes a partition over, or finds nothing to read, checks that the checkpoint's own entry, the anchor,
is still there.
"""

from __future__ import annotations

import contextlib
import enum
from dataclasses import dataclass
from typing import Any

import redis.asyncio
from redis.exceptions import ResponseError

from streams.clients import error_code
from streams.ids import ZERO, StreamID
from streams.keys import SCORERS, PartitionKeys


@dataclass(frozen=True, slots=True)
class Input:
    """What the input stream has.

    Attributes:
        last: the last id that the stream gave out; `None` if there is no stream.
        anchor: whether the checkpoint's entry is in it, and the one that was read in part, if any.
        group: whether the scorers' consumer group is there.
        first: the oldest entry; `None` if there is none.
        gone: how many entries it had that are no longer in it, if all that are were added after the checkpoint; else
            `None`, as before Redis 7.
    """

    last: StreamID | None
    anchor: bool
    group: bool = True
    first: StreamID | None = None
    gone: int | None = None


class Resume(enum.Enum):
    """How to go on from a checkpoint."""

    GO_ON = "go on"  #: the anchor is there, or nothing was ever read
    GAP = "gap"  #: the anchor is gone but the stream went on: what lay between cannot be known
    ANEW = "anew"  #: the stream is gone, or its ids fell behind the checkpoint: a new incarnation


def resume(tip: StreamID, found: Input) -> Resume:
    """Decide. Pure.

    Args:
        tip: the last entry of which anything was consumed, `ZERO` for none.
    """
    if tip == ZERO or found.anchor:
        return Resume.GO_ON
    if found.last is None or found.last < tip:
        return Resume.ANEW
    return Resume.GAP


async def look(
    client: redis.asyncio.Redis, keys: PartitionKeys, checkpoint: StreamID, within: StreamID | None = None
) -> Input:
    """Read what `resume` decides on.

    Args:
        within: the entry after the checkpoint, if part of it was consumed.

    Raises:
        RedisError: as the client raises it; WRONGTYPE if the key is no stream.
    """
    try:
        info = await client.xinfo_stream(keys.ticks)
    except ResponseError as error:
        if "no such key" in str(error):
            return Input(None, False, group=False)
        raise
    anchor = True
    for entry in (checkpoint, within):
        if entry is not None and entry != ZERO:
            anchor = anchor and bool(await client.xrange(keys.ticks, str(entry), str(entry), 1))
    groups = await client.xinfo_groups(keys.ticks)
    named = any(group["name"] == SCORERS.encode() for group in groups)
    added, oldest = info.get("entries-added"), info["first-entry"]
    first = None if oldest is None else StreamID.parse(oldest[0])
    unread = first is None or first > checkpoint
    gone = None if added is None or not unread else int(added) - int(info["length"])
    return Input(StreamID.parse(info["last-generated-id"]), anchor, named, first, gone)


async def restore_group(
    client: redis.asyncio.Redis, keys: PartitionKeys, checkpoint: StreamID, entries: int, *, modern: bool
) -> None:
    """Make the scorers' group anew at the checkpoint, as the next commit would; done twice it does no harm.

    Args:
        entries: input entries passed.
        modern: whether the server knows ENTRIESREAD (7.0).
    """
    words = ("XGROUP", "CREATE", keys.ticks, SCORERS, str(checkpoint))
    with contextlib.suppress(ResponseError):  # the stream is gone as well, or somebody was faster
        raw: Any = client
        await raw.execute_command(*words, *(("ENTRIESREAD", str(entries)) if modern else ()))


async def lag(client: redis.asyncio.Redis, keys: PartitionKeys, checkpoint: StreamID) -> int | None:
    """Input entries after the checkpoint; `None` where it cannot be known.

    Redis 7 counts them for the group whose cursor the commit moves; 6.2 does not, but "none at all" can be seen there
    too.
    """
    try:
        known = await group_lag(client, keys.ticks, SCORERS)
        if known is not None:
            return known
        following = await client.xrange(keys.ticks, f"({checkpoint}", "+", 1)
    except ResponseError as error:
        if error_code(error) == "WRONGTYPE":
            return None
        return 0 if "no such key" in str(error) else None
    return None if following else 0


async def group_lag(client: redis.asyncio.Redis, key: str, group: str) -> int | None:
    """What Redis itself says of a group's lag; `None` before 7.0, and where it does not know.

    Raises:
        ResponseError: there is no such stream.
    """
    groups = await client.xinfo_groups(key)
    known = next((found.get("lag") for found in groups if found["name"] == group.encode()), None)
    # Below zero: a cursor that is ahead of the stream's own count, as after a stream was deleted and made anew.
    return None if known is None or known < 0 else int(known)
