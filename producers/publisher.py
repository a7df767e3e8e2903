"""Publishing ticks, blocking (`TickPublisher`) and under asyncio (`AsyncTickPublisher`).

Owns the partitions' `ticks` streams as a writer, and creates the tenant when it is missing. Both publishers share one
plan: ticks are checked before any of them is sent, cut into exchanges, and appended in the caller's order, each once
(`streams.append` says what a refusal, a lost reply or a broken connection leads to). A publisher that dies leaves a
prefix of its exchanges behind; if it has a name, the next one of that name goes on there (`streams.numbering`).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self

import redis
import redis.asyncio
from pydantic import SecretStr
from redis.exceptions import RedisError

from producers.plan import Plan, single
from streams.clients import connect, connect_async
from streams.columns import TickLike, Ticks
from streams.exchange import run, run_async
from streams.ids import StreamID
from streams.numbering import Numbering
from streams.publish import Blocks
from streams.settings import Origins, Settings
from streams.tenant import Tenant


class TickPublisher:
    """Publishes ticks to the log. Not safe for use by several threads at once; a context manager.

    Args:
        settings: as `load_settings` gives them; left out, they are read.
        origins: where the settings came from: those left at their default give way to what the tenant was created with.
        url: the Redis of the streams; left out, `RED10_STREAMS_URL` or the embedded server that runs in the data
            directory.
        tenant: instead of the settings' tenant.
        patience_s: how long Redis may refuse or be away in the midst of publishing before that is an error, seconds.
        publisher: a name for a sequence of ticks that can be published again, such as a file: whoever publishes it
            under the same name after a crash sends only what the log does not have yet.
        from_start: whether a named publisher begins its sequence again (and passes over what the log has), or goes on
            behind what the log has, as a live feed does.
        blocks: whether ticks share entries: `auto`, where many go to one partition at once; `never`; `always`.
        now: the present, epoch ns: the event time of ticks published without one.
        sleep: waits, seconds.

    Raises:
        ConfigurationError: no Redis is known, or a setting is wrong.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        origins: Origins | None = None,
        url: str | SecretStr | None = None,
        tenant: str | None = None,
        patience_s: float = 60.0,
        publisher: str | None = None,
        from_start: bool = True,
        blocks: Blocks = "auto",
        now: Callable[[], int] = time.time_ns,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._plan = Plan(settings, origins, url, tenant, patience_s, publisher, from_start, blocks)
        self._client: redis.Redis = connect(self._plan.url)
        self._now = now
        self._sleep = sleep

    @property
    def tenant(self) -> Tenant:
        """The tenant; opened, or created with the settings' partitions and pipeline, at the first use.

        Raises:
            TenantMismatch: a setting that was asked for differs from what is stored.
            RedisUnavailable: Redis does not answer.
        """
        return self._plan.tenant

    def publish(
        self,
        symbol: str,
        price: float,
        size: float = 0.0,
        ts: int | None = None,
        bid: float | None = None,
        ask: float | None = None,
        id: str | None = None,
    ) -> StreamID:
        """Publish one tick.

        Args:
            symbol: see `streams.series.check_symbol`.
            price: above zero.
            size: zero or more.
            ts: event time, epoch ns; left out, now.
            bid, ask: best prices at the time, if known.
            id: the venue's own id of the trade, if known.

        Returns:
            The id of the tick's entry.

        Raises:
            BadRecord: the tick cannot be sent.
            PublishError: it may not be in the log.
        """
        at = self._now() if ts is None else ts
        key, steps = self._plan.one(single(symbol, price, size, at, bid, ask, id))
        return run(self._client, steps, self._sleep)[key]

    def publish_many(self, ticks: Ticks | Iterable[TickLike]) -> int:
        """Publish ticks in order.

        Args:
            ticks: columns, or ticks one by one as `Tick`, mapping, or `(symbol, price, size, ts[, bid, ask, id])`.
                A list is checked as a whole before any of it is sent, an iterator some thousand ticks at a time.

        Returns:
            How many there were; those that a named publisher passed over are among them.

        Raises:
            BadRecord: a row cannot be sent; the message names it.
            PublishGap: the log lost ticks of a named sequence, or an error before left some in doubt: `rewind`, and
                publish it from its start.
            PublishError: publishing stopped on the way; the error says how far it certainly came.
        """
        count = 0
        for rows, steps in self._plan.many(ticks):
            run(self._client, steps, self._sleep)
            count += rows
        return count

    def clock(self, ts: int) -> None:
        """Say in every partition that nothing earlier than `ts` (epoch ns) will follow: closes bars of quiet symbols.

        Raises:
            BadRecord: `ts` is no time, or further ahead of now than a tick may be (`max_ahead_ms`).
            PublishError: some partitions may not have it; a clock may be said again without harm.
        """
        run(self._client, self._plan.clock(ts, self._now()), self._sleep)

    @property
    def numbering(self) -> Numbering:
        """What became of this publisher's sequence: `passed_over`, `gaps`, `lost`, `resets`."""
        return self._plan.numbering

    @property
    def throttled_s(self) -> float:
        """Seconds that this publisher has waited for room in Redis."""
        return self._plan.room.throttled_s

    def positions(self) -> dict[int, int]:
        """How many ticks of this publisher's sequence the log has taken, by partition."""
        return self._plan.positions()

    def rewind(self) -> None:
        """Begin a named publisher's sequence again: what is published next is its first tick. The log is asked anew how
        much it has, and that much is passed over. For a publisher without a name it does nothing.

        Raises:
            RedisUnavailable: Redis does not answer.
        """
        self._plan.rewind()

    def close(self) -> None:
        """Close the connections."""
        with contextlib.suppress(RedisError, OSError):  # what stays behind expires
            for key, field in self._plan.records():
                self._client.hdel(key, field)
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncTickPublisher:
    """`TickPublisher` under asyncio; an asynchronous context manager.

    Several tasks may publish at once; the order between their calls is not fixed.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        origins: Origins | None = None,
        url: str | SecretStr | None = None,
        tenant: str | None = None,
        patience_s: float = 60.0,
        publisher: str | None = None,
        from_start: bool = True,
        blocks: Blocks = "auto",
        now: Callable[[], int] = time.time_ns,
    ) -> None:
        self._plan = Plan(settings, origins, url, tenant, patience_s, publisher, from_start, blocks)
        self._client: redis.asyncio.Redis = connect_async(self._plan.url)
        self._now = now
        # Ticks are numbered in the order in which they are sent, so calls take turns.
        self._turn = asyncio.Lock()

    async def open(self) -> Tenant:
        """The tenant; see `TickPublisher.tenant`."""
        if not self._plan.ready:
            # Several tasks may be here at once: what the slower ones find is out of date.
            self._plan.opened(*await asyncio.to_thread(self._plan.look))
        return self._plan.tenant

    async def publish(
        self,
        symbol: str,
        price: float,
        size: float = 0.0,
        ts: int | None = None,
        bid: float | None = None,
        ask: float | None = None,
        id: str | None = None,
    ) -> StreamID:
        """Publish one tick; see `TickPublisher.publish`."""
        await self.open()
        at = self._now() if ts is None else ts
        ticks = single(symbol, price, size, at, bid, ask, id)
        async with self._turn:
            key, steps = self._plan.one(ticks)
            return (await run_async(self._client, steps))[key]

    async def publish_many(self, ticks: Ticks | Iterable[TickLike]) -> int:
        """Publish ticks in order; see `TickPublisher.publish_many`."""
        await self.open()
        count = 0
        async with self._turn:
            for rows, steps in self._plan.many(ticks):
                await run_async(self._client, steps)
                count += rows
        return count

    async def clock(self, ts: int) -> None:
        """Say in every partition that nothing earlier than `ts` will follow; see `TickPublisher.clock`."""
        await self.open()
        async with self._turn:
            await run_async(self._client, self._plan.clock(ts, self._now()))

    @property
    def numbering(self) -> Numbering:
        """What became of this publisher's sequence; see `TickPublisher.numbering`."""
        return self._plan.numbering

    async def positions(self) -> dict[int, int]:
        """How many ticks of this publisher's sequence the log has taken, by partition."""
        await self.open()
        return self._plan.positions()

    async def rewind(self) -> None:
        """Begin a named publisher's sequence again; see `TickPublisher.rewind`."""
        async with self._turn:
            await asyncio.to_thread(self._plan.rewind)

    async def close(self) -> None:
        """Close the connections."""
        with contextlib.suppress(RedisError, OSError):  # what stays behind expires
            for key, field in self._plan.records():
                await self._client.hdel(key, field)
        await self._client.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
