"""Which partitions this worker owns: heartbeats, leases, and one `PartitionTask` per lease held.

`wanted` decides, `Ownership` does. Members and the assignment are the same for everybody (`streams.assignment`), so
nobody leads. A lease moves when it is given back (successors are woken by `red10:{T}:wake`) or expires. If the assigned
owner does not take a free lease, the k-th in the succession does after k × 100 ms. A lease is renewed only while its
partition's loop makes progress, so a stuck loop loses it.

Nothing here waits for a partition's loop but the end of the process: one that takes its time to end must not keep the
others' leases from being renewed. Nor does an error end it: what Redis refuses is said once and tried again.

A worker that dies leaves its leases to expire and its member to be swept; nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from typing import Any

import redis.asyncio
from redis.exceptions import RedisError, ResponseError

from consumers.partition import PartitionTask
from modelstore.loaded import LoadedRelease
from streams import leases
from streams.assignment import assign, succession
from streams.clients import TRANSIENT, Backoff, Verdict, classify, error_code
from streams.keys import Keys

log = logging.getLogger("red10.ownership")

#: Leases renewed at once.
RENEWALS = 64
#: Leases taken in one round: those that are held must be renewed in between.
TAKES = 32
#: Seconds that a stop waits for Redis to take leases back.
GIVE_BACK_S = 2.0
#: Head start of each place in the succession over the next, seconds.
HEAD_START_S = 0.1
#: A worker that stands in for the owner keeps the partition for so many lease times, then tries to hand it over again.
STAND_IN_LEASES = 4
#: A member is gone after this part of the lease time without a heartbeat; it sends three in that time.
SILENT_PART = 0.75


def wanted(
    me: str,
    members: Sequence[str],
    owned: set[int],
    free_s: Mapping[int, float],
    partitions: int,
    stands_in: Set[int] = frozenset(),
) -> set[int]:
    """Which partitions this worker should own or try to take. Pure.

    Args:
        members: all workers that are alive, this one included.
        owned: partitions that it owns.
        free_s: for partitions whose lease nobody holds, how long that has been so, seconds.
        stands_in: owned ones whose owner did not take them of late: they are not given back to it at once.

    Returns:
        Owned ones to keep, and free ones to try; an owned one that is not returned is to be handed over.
    """
    owners = assign(partitions, members)
    keep = {partition for partition in owned if owners.get(partition, me) == me or partition in stands_in}
    take = set()
    for partition, seconds in free_s.items():
        order = succession(partition, owners.get(partition, me), members)
        place = order.index(me) if me in order else len(order)
        if seconds >= place * HEAD_START_S:
            take.add(partition)
    return keep | take


class Ownership:
    """The partitions of one worker.

    Args:
        make_task: builds the loop of a partition from its number and lease token.
        keep_tenant: called with every heartbeat; writes the tenant anew if it is gone, and tells whether it was.
    """

    def __init__(
        self,
        client: redis.asyncio.Redis,
        keys: Keys,
        *,
        worker: str,
        partitions: int,
        lease_ms: int,
        make_task: Callable[[int, str], PartitionTask],
        keep_tenant: Callable[[], Awaitable[bool]],
        on_owned: Callable[[list[str]], None] = lambda streams: None,
    ) -> None:
        self.tasks: dict[int, PartitionTask] = {}
        self._running: dict[int, asyncio.Task[None]] = {}
        self._client = client
        self._keys = keys
        self._worker = worker
        self._partitions = partitions
        self._lease_ms = lease_ms
        self._lease_s = lease_ms / 1000
        self._make_task = make_task
        self._keep_tenant = keep_tenant
        self._on_owned = on_owned
        self._members: list[str] = []
        self._beat_at = 0.0
        self._renewed: dict[int, float] = {}
        self._free_since: dict[int, float] = {}
        self._stood_in: dict[int, float] = {}
        self._said: dict[int, str] = {}
        self._wake = asyncio.Event()
        self.release: LoadedRelease | None = None
        #: Whether Redis did not answer in the last round, or refused.
        self.away = False

    async def run(self, stop: asyncio.Event) -> None:
        """Take, renew and hand over partitions until `stop`, then give all of them back."""
        listener = asyncio.ensure_future(self._listen())
        backoff = Backoff()
        pause = min(0.25, self._lease_s / 10)
        try:
            while not stop.is_set():
                try:
                    await self._round_unless_stopped(stop)
                    if self.away:
                        log.warning("Redis is back")
                    self.away = False
                    backoff.reset()
                    await self._sleep(stop, pause)
                except (RedisError, OSError) as error:
                    if not self.away:
                        refuses = classify(error) is Verdict.FAIL or error_code(error) in TRANSIENT
                        what = f"Redis refuses to keep {self._keys.members} or leases" if refuses else "Redis is away"
                        log.error("%s, waiting: %s", what, error)
                    self.away = True
                    await self._sleep(stop, backoff.next())
        finally:
            listener.cancel()
            await asyncio.gather(listener, return_exceptions=True)
            await self.give_back_all()

    async def give_back_all(self) -> None:
        """Stop every loop after its batch under way, then release the leases and leave the members.

        Redis is not waited for: leases expire by themselves, and a silent member is swept.
        """
        for task in self.tasks.values():
            task.stop()
        await asyncio.gather(*self._running.values(), return_exceptions=True)
        with contextlib.suppress(RedisError, OSError, TimeoutError):
            async with asyncio.timeout(GIVE_BACK_S):
                await asyncio.gather(*(self._ended(partition) for partition in list(self.tasks)))
                await leases.leave(self._client, self._keys, self._worker)

    async def _round_unless_stopped(self, stop: asyncio.Event) -> None:
        """One round; a stop does not wait for it if Redis does not answer. A lease taken unawares expires by itself."""
        round_, stopped = asyncio.ensure_future(self._round()), asyncio.ensure_future(stop.wait())
        either: set[asyncio.Future[Any]] = {round_, stopped}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({round_}, timeout=GIVE_BACK_S)
            if round_.done():
                round_.result()
        finally:
            for future in either:
                future.cancel()
            await asyncio.gather(*either, return_exceptions=True)

    async def _round(self) -> None:
        now = time.monotonic()
        if now - self._beat_at >= self._lease_s * SILENT_PART / 3:
            silent_ms = int(self._lease_ms * SILENT_PART)
            self._members = await leases.heartbeat(self._client, self._keys, self._worker, silent_ms)
            if await self._keep_tenant():
                log.error("%s was gone, as after FLUSHALL: written anew, everything begins empty", self._keys.meta)
            self._beat_at = now
        for partition, running in list(self._running.items()):
            if running.done():
                await self._ended(partition)
        await self._renew_all(now)
        free = await self._free(now)
        stands_in = {at for at, since in self._stood_in.items() if now - since < STAND_IN_LEASES * self._lease_s}
        want = wanted(self._worker, self._members, set(self.tasks), free, self._partitions, stands_in)
        for partition in sorted(set(self.tasks) - want):
            self.tasks[partition].stop()
        wished = sorted(want - set(self.tasks))
        for partition in wished[:TAKES]:
            await self._take(partition)
        if len(wished) > TAKES:
            self._wake.set()
        if self.release is not None:
            for task in list(self.tasks.values()):
                await task.announce(self.release)

    async def _renew_all(self, now: float) -> None:
        due = []
        for partition, task in self.tasks.items():
            if now - self._renewed[partition] < self._lease_s / 4:
                continue
            if now - task.progress > self._lease_s:
                self._say(partition, f"no progress for {self._lease_s:.1f} s: the lease is left to expire")
                continue
            due.append(partition)
        # Together: between two replies the loop may compute a batch, and many of those would outlast the lease.
        for begin in range(0, len(due), RENEWALS):
            chunk = due[begin : begin + RENEWALS]
            renewals = (
                leases.renew(self._client, self.tasks[at].keys, self.tasks[at].token, self._lease_ms) for at in chunk
            )
            found = await asyncio.gather(*renewals, return_exceptions=True)
            for partition, held in zip(chunk, found, strict=True):
                self._renewal(partition, held, now)

    def _renewal(self, partition: int, held: bool | BaseException, now: float) -> None:
        """Note what came of a renewal."""
        if isinstance(held, ResponseError) and classify(held) is Verdict.FAIL:
            # A key of another type, most likely: of no concern to the other partitions.
            self._say(partition, f"the lease cannot be renewed, move its key away (RENAME): {held}")
        elif isinstance(held, BaseException):
            raise held
        elif held:
            self._renewed[partition] = now
            self._said.pop(partition, None)
        else:
            self._renewed[partition] = now
            log.warning("%s: the lease was lost", self.tasks[partition].keys.lease)
            self.tasks[partition].stop()

    async def _free(self, now: float) -> dict[int, float]:
        """For how long each partition's lease has been free, as far as this worker saw."""
        others = [partition for partition in range(self._partitions) if partition not in self.tasks]
        async with self._client.pipeline(transaction=False) as pipe:
            for partition in others:
                pipe.exists(self._keys.partition(partition).lease)
            held = await pipe.execute() if others else []
        since = {
            partition: self._free_since.get(partition, now)
            for partition, taken in zip(others, held, strict=True)
            if not taken
        }
        self._free_since = since
        return {partition: now - first for partition, first in since.items()}

    async def _take(self, partition: int) -> None:
        keys = self._keys.partition(partition)
        token = leases.new_token(self._worker)
        if not await leases.acquire(self._client, keys, token, self._lease_ms):
            return
        task = self._make_task(partition, token)
        self.tasks[partition] = task
        self._renewed[partition] = time.monotonic()
        self._free_since.pop(partition, None)
        if assign(self._partitions, self._members).get(partition) != self._worker:
            self._stood_in[partition] = self._renewed[partition]
        running = self._running[partition] = asyncio.ensure_future(task.run())
        running.add_done_callback(lambda _: self._wake.set())
        self._on_owned([owned.keys.ticks for owned in self.tasks.values()])

    async def _ended(self, partition: int) -> None:
        """Give the lease of a loop that has ended back."""
        task, running = self.tasks.pop(partition), self._running.pop(partition)
        self._renewed.pop(partition, None)
        self._stood_in.pop(partition, None)
        self._on_owned([owned.keys.ticks for owned in self.tasks.values()])
        if not running.cancelled() and (error := running.exception()) is not None:
            log.error("%s: the loop ended with a fault", task.keys.ticks, exc_info=error)
        with contextlib.suppress(RedisError, OSError):  # the lease expires by itself
            await leases.release(self._client, task.keys, task.token)

    async def _listen(self) -> None:
        """Wake the loop when a lease was released or, by `notify`, when a release was loaded."""
        backoff = Backoff()
        while True:
            try:
                async with self._client.pubsub() as pubsub:
                    await pubsub.subscribe(self._keys.wake)
                    while True:
                        message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=5.0)
                        backoff.reset()
                        if message is not None:
                            self._wake.set()
            except (RedisError, OSError):  # `run` says when Redis is away
                await asyncio.sleep(backoff.next())

    def _say(self, partition: int, message: str) -> None:
        """Say once what is wrong with a partition's lease."""
        if self._said.get(partition) != message:
            self._said[partition] = message
            log.error("%s: %s", self.tasks[partition].keys.lease, message)

    def notify(self, release: LoadedRelease) -> None:
        """A release was loaded: announce it in the owned partitions."""
        self.release = release
        self._wake.set()

    async def _sleep(self, stop: asyncio.Event, seconds: float) -> None:
        waits = [asyncio.ensure_future(stop.wait()), asyncio.ensure_future(self._wake.wait())]
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        self._wake.clear()
