"""Where reading goes on when the input changed under a reader."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import redis
import redis.asyncio

from streams.clients import connect_async
from streams.ids import ZERO, StreamID
from streams.keys import SCORERS, Keys
from streams.resume import Input, Resume, lag, look, restore_group, resume
from tests.servers import Server

KEYS = Keys("t").partition(0)
AT = StreamID(5, 0)


@pytest.fixture
async def async_client(server: Server) -> AsyncIterator[redis.asyncio.Redis]:
    client = connect_async(server.url)
    yield client
    await client.aclose()


@pytest.mark.parametrize(
    ("checkpoint", "found", "expected"),
    [
        (ZERO, Input(None, False), Resume.GO_ON),
        (ZERO, Input(StreamID(9, 0), False), Resume.GO_ON),
        (AT, Input(StreamID(9, 0), True), Resume.GO_ON),
        (AT, Input(AT, True), Resume.GO_ON),
        (AT, Input(StreamID(9, 0), False), Resume.GAP),
        (AT, Input(AT, False), Resume.GAP),
        (AT, Input(StreamID(4, 9), False), Resume.ANEW),
        (AT, Input(None, False), Resume.ANEW),
    ],
)
def test_the_checkpoint_is_held_against_what_the_stream_has(
    checkpoint: StreamID, found: Input, expected: Resume
) -> None:
    assert resume(checkpoint, found) is expected


async def test_what_the_stream_has_is_read_as_it_is(client: redis.Redis, async_client: redis.asyncio.Redis) -> None:
    modern = not str(client.info("server")["redis_version"]).startswith("6.")
    assert await look(async_client, KEYS, AT) == Input(None, False, group=False)
    client.xadd(KEYS.ticks, {"a": "b"}, id="5-0")
    client.xadd(KEYS.ticks, {"a": "b"}, id="7-3")
    assert await look(async_client, KEYS, AT) == Input(StreamID(7, 3), True, group=False, first=AT)
    assert (await look(async_client, KEYS, AT, StreamID(7, 4))).anchor is False, (
        "the entry that was read in part is gone"
    )
    await restore_group(async_client, KEYS, AT, 2, modern=modern)
    await restore_group(async_client, KEYS, ZERO, 0, modern=modern)
    [group] = client.xinfo_groups(KEYS.ticks)
    assert group["last-delivered-id"] == b"5-0", "who is late moves nothing"
    client.xgroup_destroy(KEYS.ticks, SCORERS)
    client.xtrim(KEYS.ticks, minid="6-0", approximate=False)
    last = StreamID(7, 3)
    found = Input(last, False, group=False, first=last, gone=1 if modern else None)
    assert await look(async_client, KEYS, AT) == found
    client.xadd(KEYS.ticks, {"a": "b"}, id="9-0")
    assert (await look(async_client, KEYS, StreamID(8, 0))).gone is None, "one that is left came before"


async def test_a_key_of_another_type_is_an_error_and_its_lag_unknown(
    client: redis.Redis, async_client: redis.asyncio.Redis
) -> None:
    client.set(KEYS.ticks, "x")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        await look(async_client, KEYS, AT)
    assert await lag(async_client, KEYS, AT) is None


async def test_no_stream_and_nothing_after_the_checkpoint_mean_no_lag(
    client: redis.Redis, async_client: redis.asyncio.Redis
) -> None:
    assert await lag(async_client, KEYS, ZERO) == 0
    client.xadd(KEYS.ticks, {"a": "b"}, id="5-0")
    assert await lag(async_client, KEYS, AT) == 0
    assert await lag(async_client, KEYS, ZERO) is None, "without a group nobody counts"
