"""Nothing that happens to one partition costs a worker the others, and nothing but a stop ends it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import pytest
import redis
import redis.asyncio

from consumers.ownership import Ownership, wanted
from consumers.partition import PartitionTask
from streams.assignment import assign
from streams.clients import connect_async
from streams.keys import Keys
from tests.servers import Server

KEYS = Keys("t")
CREW = ["a", "b", "c"]


def test_who_is_no_member_yet_comes_last_and_keeps_what_it_has_when_alone() -> None:
    assert wanted("new", CREW, set(), {0: 0.29}, 6) == set()
    assert wanted("new", CREW, set(), {0: 0.31}, 6) == {0}
    assert wanted("new", [], {1}, {0: 0.0}, 2) == {0, 1}


def test_who_stands_in_keeps_the_partition_for_a_while() -> None:
    """Else an owner that cannot take its partition has it thrown to and fro."""
    absent = next(partition for partition, owner in assign(6, CREW).items() if owner != "a")
    assert wanted("a", CREW, {absent}, {}, 6, {absent}) == {absent}
    assert wanted("a", CREW, {absent}, {}, 6) == set()


async def kept() -> bool:
    return False


class FakeTask:
    """A loop that does nothing, and ends when told to, unless it is stubborn."""

    def __init__(self, partition: int, token: str, *, stubborn: bool = False) -> None:
        self.keys = KEYS.partition(partition)
        self.token = token
        self._progress = time.monotonic()
        self.alive = True
        self.stubborn = stubborn
        self.stopping = asyncio.Event()

    @property
    def progress(self) -> float:
        return time.monotonic() if self.alive else self._progress

    def stop(self) -> None:
        self.stopping.set()

    async def run(self) -> None:
        await self.stopping.wait()
        while self.stubborn:  # noqa: ASYNC110  (as one that waits for something that does not come)
            await asyncio.sleep(0.01)


class Crew:
    """Members of one tenant in this process."""

    def __init__(self, link: redis.asyncio.Redis, lease_ms: int) -> None:
        self.link = link
        self.lease_ms = lease_ms
        self.made: dict[str, dict[int, FakeTask]] = {}

    @contextlib.asynccontextmanager
    async def member(self, name: str, partitions: int, *, stubborn: bool = False) -> AsyncIterator[Ownership]:
        made = self.made[name] = {}

        def make_task(partition: int, token: str) -> PartitionTask:
            made[partition] = FakeTask(partition, token, stubborn=stubborn)
            return cast(PartitionTask, made[partition])

        found = Ownership(
            self.link, KEYS, worker=name, partitions=partitions, lease_ms=self.lease_ms, make_task=make_task,
            keep_tenant=kept,
        )  # fmt: skip
        stop = asyncio.Event()
        loop = asyncio.create_task(found.run(stop))
        try:
            yield found
            assert not loop.done(), "nothing ends the ownership but a stop"
        finally:
            for task in made.values():
                task.stubborn = False
            stop.set()
            await asyncio.wait_for(loop, 10)


@pytest.fixture
async def crew(server: Server) -> AsyncIterator[Crew]:
    link = connect_async(server.url)
    yield Crew(link, 400)
    await link.aclose()


async def until(condition: Callable[[], Any], what: str, timeout_s: float = 10.0) -> None:
    for _ in range(int(timeout_s * 100)):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"waited {timeout_s:g} s until {what}, in vain")


def held(client: redis.Redis, partitions: int) -> dict[int, str]:
    found: dict[int, Any] = {at: client.get(KEYS.partition(at).lease) for at in range(partitions)}
    return {at: token.decode().partition("/")[0] for at, token in found.items() if token}


async def test_a_partition_that_is_slow_to_end_costs_no_other_its_lease(client: redis.Redis, crew: Crew) -> None:
    async with crew.member("a", 4, stubborn=True):
        await until(lambda: len(held(client, 4)) == 4, "the only member has all")
        tokens = [client.get(KEYS.partition(at).lease) for at in range(4)]
        async with crew.member("b", 4):
            await until(lambda: any(task.stopping.is_set() for task in crew.made["a"].values()), "it is to hand over")
            await asyncio.sleep(crew.lease_ms * 3 / 1000)
            assert [client.get(KEYS.partition(at).lease) for at in range(4)] == tokens
            for task in crew.made["a"].values():
                task.stubborn = False
            await until(lambda: sorted(held(client, 4).values()) == ["a", "a", "b", "b"], "half is handed over")
    assert not held(client, 4)
    assert not client.exists(KEYS.members)


async def test_who_stands_in_for_a_member_that_is_stuck_does_not_give_back_at_once(
    client: redis.Redis, crew: Crew
) -> None:
    async with crew.member("a", 2), crew.member("b", 2):
        await until(lambda: sorted(held(client, 2).values()) == ["a", "b"], "each has one")
        [stuck] = [at for at, name in held(client, 2).items() if name == "a"]
        crew.made["a"][stuck].alive = False
        await until(lambda: held(client, 2).get(stuck) == "b", "the other stands in")
        token = client.get(KEYS.partition(stuck).lease)
        await asyncio.sleep(crew.lease_ms * 2 / 1000)
        assert client.get(KEYS.partition(stuck).lease) == token


async def test_a_lease_of_another_type_is_of_no_concern_to_the_other_partitions(
    client: redis.Redis, crew: Crew, caplog: pytest.LogCaptureFixture
) -> None:
    async with crew.member("a", 3):
        await until(lambda: len(held(client, 3)) == 3, "the only member has all")
        lease = KEYS.partition(1).lease
        client.delete(lease)
        client.rpush(lease, "not ours")
        await until(lambda: caplog.records, "it says so")
        await asyncio.sleep(crew.lease_ms * 2 / 1000)
        assert [record.message for record in caplog.records if lease in record.message] == [caplog.records[0].message]
        assert client.exists(KEYS.partition(0).lease, KEYS.partition(2).lease) == 2
        client.rename(lease, "aside")
        await until(lambda: len(held(client, 3)) == 3, "it is taken again")


async def test_members_of_another_type_are_waited_out(client: redis.Redis, crew: Crew) -> None:
    client.set(KEYS.members, "not ours")
    async with crew.member("a", 2) as found:
        await until(lambda: found.away, "it finds out")
        client.delete(KEYS.members)
        await until(lambda: len(held(client, 2)) == 2, "it goes on")
        # The leases are in Redis before the round that took them has come to its end.
        await until(lambda: not found.away, "it knows that Redis is back")


async def test_hundreds_of_reads_may_wait_at_once(crew: Crew) -> None:
    streams: list[Any] = [{KEYS.partition(at).ticks: "0-0"} for at in range(300)]
    await asyncio.gather(*(crew.link.xread(stream, block=200) for stream in streams))
