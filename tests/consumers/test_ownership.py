"""Who owns which partition: the decision alone, and workers that share partitions on a real Redis.

The partitions' loops are stand-ins here; that the real ones lose nothing on the way is held by `tests.test_recovery`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
import redis
import redis.asyncio

from consumers.ownership import HEAD_START_S, Ownership, wanted
from consumers.partition import PartitionTask
from streams.assignment import assign, succession
from streams.clients import connect_async
from streams.keys import Keys
from tests.servers import Server

KEYS = Keys("t")
PARTITIONS = 8
LEASE_MS = 1000
ALL = set(range(PARTITIONS))


def test_what_is_assigned_is_kept_and_the_rest_is_handed_over() -> None:
    members = ["a", "b", "c"]
    owners = assign(PARTITIONS, members)
    for me in members:
        mine = {partition for partition, owner in owners.items() if owner == me}
        assert mine
        assert wanted(me, members, ALL, {}, PARTITIONS) == mine


def test_a_free_partition_is_taken_in_the_order_of_succession() -> None:
    members = ["a", "b", "c"]
    for partition in ALL:
        order = succession(partition, assign(PARTITIONS, members)[partition], members)
        for place, me in enumerate(order):
            early, late = place * HEAD_START_S - 0.01, place * HEAD_START_S
            assert wanted(me, members, set(), {partition: late}, PARTITIONS) == {partition}
            assert wanted(me, members, set(), {partition: early}, PARTITIONS) == set()


class Loop:
    """Stands in for a partition's loop."""

    def __init__(self, partition: int, token: str) -> None:
        self.keys = KEYS.partition(partition)
        self.token = token
        self.stuck_since: float | None = None
        self._stopping = asyncio.Event()

    @property
    def progress(self) -> float:
        return time.monotonic() if self.stuck_since is None else self.stuck_since

    def stop(self) -> None:
        self._stopping.set()

    async def run(self) -> None:
        await self._stopping.wait()

    async def announce(self, release: object) -> None:
        raise AssertionError("no release was loaded")


async def kept() -> bool:
    return False


@asynccontextmanager
async def worker(server: Server, name: str) -> AsyncIterator[tuple[Ownership, asyncio.Event]]:
    """A worker that shares the partitions; setting the event stops it."""
    async with connect_async(server.url) as client:
        ownership = Ownership(
            client,
            KEYS,
            worker=name,
            partitions=PARTITIONS,
            lease_ms=LEASE_MS,
            make_task=lambda partition, token: cast(PartitionTask, Loop(partition, token)),
            keep_tenant=kept,
        )
        stop = asyncio.Event()
        running = asyncio.create_task(ownership.run(stop))
        try:
            yield ownership, stop
        finally:
            stop.set()
            await running


async def until(holds: Callable[[], bool]) -> None:
    """Wait for what nobody announces."""
    async with asyncio.timeout(15):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def holders(client: redis.Redis) -> dict[int, bytes | None]:
    return {partition: cast(Any, client.get(KEYS.partition(partition).lease)) for partition in ALL}


async def test_workers_share_the_partitions_and_take_over_from_one_that_leaves(
    server: Server, client: redis.Redis
) -> None:
    async with worker(server, "a") as (first, _):
        await until(lambda: set(first.tasks) == ALL)
        async with worker(server, "b") as (second, stop):
            await until(lambda: set(first.tasks) | set(second.tasks) == ALL and len(second.tasks) == PARTITIONS // 2)
            assert not set(first.tasks) & set(second.tasks)
            assert {p: token and token.decode() for p, token in holders(client).items()} == {
                partition: task.token for own in (first, second) for partition, task in own.tasks.items()
            }
            began = time.monotonic()
            stop.set()
            await until(lambda: set(first.tasks) == ALL)
            assert time.monotonic() - began < LEASE_MS / 1000, "given back, not left to expire"
    assert set(holders(client).values()) == {None}
    assert client.zcard(KEYS.members) == 0


async def test_a_lease_that_went_to_somebody_else_ends_the_loop(server: Server, client: redis.Redis) -> None:
    async with worker(server, "a") as (own, _):
        await until(lambda: set(own.tasks) == ALL)
        client.set(KEYS.partition(3).lease, "somebody else")
        await until(lambda: 3 not in own.tasks)
        assert client.get(KEYS.partition(3).lease) == b"somebody else"
        assert set(own.tasks) == ALL - {3}


async def test_a_stuck_loop_loses_its_lease_and_the_others_keep_theirs(
    server: Server, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    async with worker(server, "a") as (own, _):
        await until(lambda: set(own.tasks) == ALL)
        tokens = holders(client)
        cast(Any, own.tasks[5]).stuck_since = time.monotonic()
        await until(lambda: client.get(KEYS.partition(5).lease) is None)
        assert "no progress" in caplog.text
        await asyncio.sleep(LEASE_MS / 1000)  # the others' leases would have run out by now
        assert {p: token for p, token in holders(client).items() if p != 5} == {
            p: token for p, token in tokens.items() if p != 5
        }
