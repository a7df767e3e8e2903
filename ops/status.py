"""What is going on: servers, members, partitions with their lag, training requests, the release in force.

Reads only, without taking part: no group is created, no lease touched. What cannot be known is `None`, never a guess: a
lag that Redis does not tell (6.2, or after a deletion) is counted if it is small, else it is only said that it exceeds
what was counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import redis
from pydantic import SecretStr
from redis.exceptions import ResponseError

from streams.clients import connect, error_code, expecting, safe_url, translate
from streams.errors import BrokenKey, Red10Error
from streams.ids import StreamID
from streams.keys import SCORERS, TRAINERS, Keys, PartitionKeys
from streams.locate import Role
from streams.room import Memory
from streams.tenant import Tenant, find_tenant

#: How far a lag is counted entry by entry where Redis does not tell it.
COUNT_TO = 1000
#: Partitions asked about in one round trip.
CHUNK = 64


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """One Redis. Everything but `role` and `url` is `None` while it is away, and `error` says why.

    Attributes:
        url: without user and password.
        memory: bytes in use.
        memory_limit: bytes that may be used: `maxmemory`, or the machine's memory.
        uptime_s: seconds since its start.
    """

    role: Role
    url: str
    version: str | None = None
    memory: int | None = None
    memory_limit: int | None = None
    uptime_s: int | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class PartitionStatus:
    """One partition.

    Attributes:
        owner: the worker that holds the lease.
        lease_ms: how long the lease lasts unless renewed.
        checkpoint: the last entry consumed.
        oldest: the oldest entry kept.
        last: the last entry published.
        lag: entries published and not consumed; a block is one.
        lag_exceeds: a number that the lag is above, where it is not known itself.
        release: the release in force.
        dead: dead letters kept; `None` if that is not known.
        groups: other consumer groups of the input, each with its lag, `None` where Redis does not tell it.
        missing: required groups that were not made yet, so that no input is dropped.
        broken: keys that hold something of another type, so that nothing goes on.
    """

    partition: int
    owner: str | None
    lease_ms: int | None
    checkpoint: StreamID | None
    oldest: StreamID | None
    last: StreamID | None
    lag: int | None
    lag_exceeds: int | None
    release: str | None
    dead: int | None
    groups: dict[str, int | None]
    missing: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Member:
    """A worker that heartbeats; `age_ms` since its last one."""

    name: str
    age_ms: int


@dataclass(frozen=True, slots=True)
class Training:
    """The request stream: all requests kept, those taken up and not answered, those not taken up, those given up."""

    requests: int
    pending: int
    waiting: int | None
    dead: int


@dataclass(frozen=True, slots=True)
class Models:
    """The model store: how many models, and the release in force."""

    models: int
    release: str | None
    number: int | None


@dataclass(frozen=True, slots=True)
class Status:
    """Everything that `red10 status` shows; parts are `None` where their server is away or the tenant is missing."""

    tenant: str
    servers: tuple[ServerStatus, ...]
    partitions: tuple[PartitionStatus, ...] | None
    members: tuple[Member, ...] | None
    training: Training | None
    models: Models | None


def read_status(
    name: str, streams_url: SecretStr, models_url: SecretStr, *, required_groups: Sequence[str] = ()
) -> Status:
    """Look at both servers.

    Args:
        name: the tenant's.
        required_groups: the setting.

    Raises:
        ConfigurationError: a URL is none, or the stored tenant is of another version.
    """
    partitions = members = training = models = None
    with connect(streams_url) as streams, connect(models_url) as store:
        servers = (_server("streams", streams, streams_url), _server("models", store, models_url))
        if servers[0].error is None:
            with translate(streams_url):
                tenant = find_tenant(streams, name)
                if tenant is not None:
                    partitions = read_partitions(streams, tenant, required_groups)
                    members = read_members(streams, tenant.keys)
                    training = read_training(streams, tenant.keys)
        if servers[1].error is None:
            with translate(models_url):
                models = read_models(store, Keys(name))
    return Status(name, servers, partitions, members, training, models)


def _server(role: Role, client: redis.Redis, url: SecretStr) -> ServerStatus:
    try:
        with translate(url):
            info = client.info()
    except Red10Error as error:
        return ServerStatus(role, safe_url(url), error=str(error))
    version = str(info.get("valkey_version", info["redis_version"]))
    memory = Memory.of(info)
    return ServerStatus(role, safe_url(url), version, memory.used, memory.limit, info["uptime_in_seconds"])


def read_partitions(
    client: redis.Redis, tenant: Tenant, required_groups: Sequence[str] = ()
) -> tuple[PartitionStatus, ...]:
    """The partitions in order; one round trip per `CHUNK` of them, one more for each lag that Redis does not tell."""
    found: list[PartitionStatus] = []
    for first in range(0, tenant.partitions, CHUNK):
        numbers = range(first, min(first + CHUNK, tenant.partitions))
        with client.pipeline(transaction=False) as pipe:
            for number in numbers:
                keys = tenant.keys.partition(number)
                pipe.get(keys.lease)
                pipe.pttl(keys.lease)
                pipe.hmget(keys.state, ["checkpoint", "release"])
                pipe.xinfo_stream(keys.ticks)
                pipe.xinfo_groups(keys.ticks)
                pipe.xlen(keys.dead)
            replies = pipe.execute(raise_on_error=False)
        for at, number in enumerate(numbers):
            keys = tenant.keys.partition(number)
            found.append(_partition(client, keys, replies[6 * at : 6 * at + 6], required_groups))
    return tuple(found)


def _partition(
    client: redis.Redis, keys: PartitionKeys, replies: Sequence[Any], required_groups: Sequence[str]
) -> PartitionStatus:
    lease, ttl, state, stream, groups, dead = (_readable(reply) for reply in replies)
    checkpoint, release = state or (None, None)
    at = StreamID.parse(checkpoint) if checkpoint else None
    last = StreamID.parse(stream["last-generated-id"]) if stream else None
    oldest = StreamID.parse(stream["first-entry"][0]) if stream and stream["first-entry"] else None
    asked = (keys.lease, keys.lease, keys.state, keys.ticks, keys.ticks, keys.dead)
    errors = [(key, reply) for key, reply in zip(asked, replies, strict=True) if isinstance(reply, ResponseError)]
    broken = tuple(dict.fromkeys(key for key, error in errors if not _no_such_key(error)))
    if keys.ticks in broken or keys.state in broken:
        lag, exceeds = None, None
    elif at is None:
        # Nothing was consumed, so nothing was trimmed.
        lag, exceeds = (stream["length"] if stream else 0), None
    else:
        lag, exceeds = _lag(client, keys, at, last, groups or [])
    others = {group["name"].decode(): group.get("lag") for group in groups or [] if group["name"] != SCORERS.encode()}
    return PartitionStatus(
        partition=keys.partition,
        owner=lease.decode().rpartition("/")[0] or lease.decode() if lease else None,
        lease_ms=ttl if lease and ttl >= 0 else None,
        checkpoint=at,
        oldest=oldest,
        last=last,
        lag=lag,
        lag_exceeds=exceeds,
        release=release.decode() if release else None,
        dead=dead,
        groups=others,
        missing=tuple(name for name in required_groups if stream and name not in others),
        broken=broken,
    )


def _readable(reply: Any) -> Any:
    """A reply of a pipeline; what is missing or of the wrong type is `None`, what may not be read is an error."""
    if isinstance(reply, ResponseError):
        if _no_such_key(reply) or error_code(reply) == "WRONGTYPE":
            return None
        raise reply
    return reply


def _no_such_key(error: ResponseError) -> bool:
    return "no such key" in str(error)


def _lag(
    client: redis.Redis, keys: PartitionKeys, checkpoint: StreamID, last: StreamID | None, groups: Sequence[Any]
) -> tuple[int | None, int | None]:
    """The lag, or what it exceeds."""
    # 1. Everything was consumed.
    if last == checkpoint:
        return 0, None
    # 2. The stream is gone, or its ids restarted below the checkpoint: it will be read anew once an owner notices.
    if last is None or last < checkpoint:
        return None, None
    # 3. Redis keeps the count (7.0, unless entries were deleted ahead of the group).
    known = next((group.get("lag") for group in groups if group["name"] == SCORERS.encode()), None)
    # Below zero: a cursor that is ahead of the stream's own count, as after a stream was deleted and made anew.
    if known is not None and known >= 0:
        return int(known), None
    # 4. It does not: count what is there, up to a bound.
    following = cast(list[Any], client.xrange(keys.ticks, f"({checkpoint}", "+", COUNT_TO + 1))
    return (len(following), None) if len(following) <= COUNT_TO else (None, COUNT_TO)


def read_members(client: redis.Redis, keys: Keys) -> tuple[Member, ...]:
    """The workers, by name.

    Raises:
        BrokenKey: where they should be is something else.
    """
    seconds, micros = client.time()
    now = seconds * 1000 + micros // 1000
    with expecting(keys.members, "sorted set"):
        rows = cast(list[tuple[bytes, float]], client.zrange(keys.members, 0, -1, withscores=True))
    return tuple(sorted((Member(name.decode(), now - int(at)) for name, at in rows), key=lambda member: member.name))


def read_training(client: redis.Redis, keys: Keys) -> Training:
    """The request stream.

    Raises:
        BrokenKey: it is none, or that of dead requests is.
    """
    with client.pipeline(transaction=False) as pipe:
        pipe.xlen(keys.requests)
        pipe.xinfo_groups(keys.requests)
        pipe.xlen(keys.dead)
        replies = pipe.execute(raise_on_error=False)
    for key, reply in zip((keys.requests, keys.requests, keys.dead), replies, strict=True):
        if isinstance(reply, ResponseError) and error_code(reply) == "WRONGTYPE":
            raise BrokenKey(key, "stream") from reply
    length, groups, dead = map(_readable, replies)
    group = next((g for g in groups or [] if g["name"] == TRAINERS.encode()), None)
    if group is None:
        return Training(length, 0, length, dead)
    told: int | None = group.get("lag")
    if told is not None:
        return Training(length, group["pending"], told, dead)
    start = f"({group['last-delivered-id'].decode()}"
    following = cast(list[Any], client.xrange(keys.requests, start, "+", COUNT_TO + 1))
    return Training(length, group["pending"], len(following) if len(following) <= COUNT_TO else None, dead)


def read_models(client: redis.Redis, keys: Keys) -> Models:
    """The model store."""
    count = client.zcard(keys.models)
    pointer = cast(list[bytes | None], client.hmget(keys.release_pointer, ["id", "number"]))
    release, number = pointer
    return Models(count, release.decode() if release else None, int(number) if number else None)
