"""Leases and membership: who may work on a partition, and who is there.

Owns `red10:{T:p}:lease` (string: a random token with a time to live) and `red10:{T}:members` (sorted set: worker name
-> last heartbeat in ms of Redis's own clock). A lease gives liveness only; safety comes from the commit, which checks
the token. A worker that dies leaves its lease to expire and its member to be swept by the next heartbeat of another.
"""

from __future__ import annotations

import secrets
from typing import Any, cast

import redis.asyncio

from streams.keys import Keys, PartitionKeys

# KEYS: lease. ARGV: token, ttl in ms. When memory is full SET is refused, but not behind a write that is not; without
# that, nobody could take over from an owner that died then, and only an owner can free memory.
_ACQUIRE = """
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""

# KEYS: lease. ARGV: token, ttl in ms. PEXPIRE works when memory is full, SET does not.
_RENEW = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""

# KEYS: lease. ARGV: token. (The waking PUBLISH is sent apart: its channel may live in another slot.)
_RELEASE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
"""

# KEYS: members. ARGV: name, ms after which a silent member is gone.
_HEARTBEAT = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('(%d', now - ARGV[2]))
if ARGV[1] ~= '' then redis.call('ZADD', KEYS[1], now, ARGV[1]) end
return redis.call('ZRANGE', KEYS[1], 0, -1)
"""


def new_token(worker: str) -> str:
    """A lease token: the worker's name for people, and 64 random bits for safety."""
    return f"{worker}/{secrets.token_hex(8)}"


async def acquire(client: redis.asyncio.Redis, keys: PartitionKeys, token: str, lease_ms: int) -> bool:
    """Take the lease if nobody holds it."""
    return bool(await _eval(client, _ACQUIRE, keys.lease, token, str(lease_ms)))


async def renew(client: redis.asyncio.Redis, keys: PartitionKeys, token: str, lease_ms: int) -> bool:
    """Extend the lease if it is still held under `token`."""
    return bool(await _eval(client, _RENEW, keys.lease, token, str(lease_ms)))


async def release(client: redis.asyncio.Redis, keys: PartitionKeys, token: str) -> bool:
    """Give the lease up if it is still held under `token`, and wake those who wait for it."""
    given = bool(await _eval(client, _RELEASE, keys.lease, token))
    if given:
        await client.publish(Keys(keys.tenant).wake, str(keys.partition))
    return given


async def heartbeat(client: redis.asyncio.Redis, keys: Keys, name: str, silent_ms: int) -> list[str]:
    """Say that `name` is here and sweep members silent for longer than `silent_ms`.

    Returns:
        The members, sorted by name.
    """
    members = cast(list[bytes], await _eval(client, _HEARTBEAT, keys.members, name, str(silent_ms)))
    return sorted(member.decode() for member in members)


async def leave(client: redis.asyncio.Redis, keys: Keys, name: str) -> None:
    """Take `name` off the members."""
    await client.zrem(keys.members, name)


async def _eval(client: redis.asyncio.Redis, script: str, key: str, *argv: str) -> Any:
    return await client.eval(script, 1, key, *argv)
