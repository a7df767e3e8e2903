"""Leases and members on a real Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import redis
import redis.asyncio

from streams import leases
from streams.clients import connect_async
from streams.keys import Keys
from tests.servers import Server

KEYS = Keys("t")
LEASE = KEYS.partition(0)


@pytest.fixture
async def async_client(server: Server) -> AsyncIterator[redis.asyncio.Redis]:
    client = connect_async(server.url)
    yield client
    await client.aclose()


async def test_only_one_holds_a_lease_and_only_the_holder_moves_it(async_client: redis.asyncio.Redis) -> None:
    assert await leases.acquire(async_client, LEASE, "a", 60_000)
    assert not await leases.acquire(async_client, LEASE, "b", 60_000)
    assert not await leases.renew(async_client, LEASE, "b", 60_000)
    assert not await leases.release(async_client, LEASE, "b")
    assert await leases.renew(async_client, LEASE, "a", 90_000)
    assert await async_client.pttl(LEASE.lease) > 60_000
    assert await leases.release(async_client, LEASE, "a")
    assert await leases.acquire(async_client, LEASE, "b", 60_000)


async def test_a_lease_can_be_renewed_when_memory_is_full(
    client: redis.Redis, async_client: redis.asyncio.Redis
) -> None:
    await leases.acquire(async_client, LEASE, "a", 60_000)
    client.config_set("maxmemory", 1)
    try:
        assert await leases.renew(async_client, LEASE, "a", 60_000)
    finally:
        client.config_set("maxmemory", 0)


async def test_releasing_wakes_those_who_wait(async_client: redis.asyncio.Redis) -> None:
    await leases.acquire(async_client, LEASE, "a", 60_000)
    async with async_client.pubsub() as pubsub:
        await pubsub.subscribe(KEYS.wake)
        await pubsub.get_message(timeout=5)
        await leases.release(async_client, LEASE, "a")
        message = await pubsub.get_message(timeout=5)
    assert message is not None
    assert message["data"] == b"0"


async def test_members_are_those_who_spoke_lately(client: redis.Redis, async_client: redis.asyncio.Redis) -> None:
    seconds, micros = client.time()
    now = seconds * 1000 + micros // 1000
    client.zadd(KEYS.members, {"silent": now - 10_000, "recent": now - 100})
    assert await leases.heartbeat(async_client, KEYS, "me", 5000) == ["me", "recent"]
    await leases.leave(async_client, KEYS, "me")
    assert await leases.heartbeat(async_client, KEYS, "", 5000) == ["recent"]


def test_tokens_differ_and_name_the_worker() -> None:
    one, other = leases.new_token("w1"), leases.new_token("w1")
    assert one != other
    assert one.startswith("w1/")


async def test_a_lease_can_be_taken_and_kept_when_memory_is_full(
    client: redis.Redis, async_client: redis.asyncio.Redis
) -> None:
    """Else nobody could take over from an owner that died then, and only an owner can free memory."""
    client.config_set("maxmemory", 1)
    try:
        assert await leases.acquire(async_client, LEASE, "a", 60_000)
        assert await leases.renew(async_client, LEASE, "a", 60_000)
        assert await leases.heartbeat(async_client, Keys("t"), "a", 60_000) == ["a"]
        assert await leases.release(async_client, LEASE, "a")
        assert await leases.acquire(async_client, LEASE, "b", 60_000)
    finally:
        client.config_set("maxmemory", 0)
    assert 0 < client.pttl(LEASE.lease) <= 60_000
