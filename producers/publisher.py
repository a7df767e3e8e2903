"""Publishing ticks, blocking (`TickPublisher`) and under asyncio (`AsyncTickPublisher`).

Owns the partitions' `ticks` streams as a writer, and creates the tenant when it is missing. Both publishers share one
plan: ticks are checked before any of them is sent, cut into exchanges of `EXCHANGE_ROWS`, and appended in the caller's
order (`streams.append` says what a refusal, a lost reply or a broken connection leads to). A publisher that dies leaves
a prefix of its exchanges behind.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from types import TracebackType
from typing import Self

import redis
import redis.asyncio
from pydantic import SecretStr

from streams.append import Steps, append, run, run_async
from streams.clients import connect, connect_async, translate
from streams.columns import TickLike, Ticks, check_ticks
from streams.errors import BadRecord
from streams.ids import StreamID
from streams.locate import locate
from streams.publish import Group, clock_fields, group_ticks, pack
from streams.series import check_tenant
from streams.settings import Origins, Settings, load_settings
from streams.tenant import Tenant, open_tenant

#: Ticks per round trip: one script of this many XADDs holds Redis up for 3 ms.
EXCHANGE_ROWS = 1000


class _Plan:
    """What both publishers are made of, without I/O of their own except opening the tenant."""

    def __init__(
        self,
        settings: Settings | None,
        origins: Origins | None,
        url: str | SecretStr | None,
        tenant: str | None,
        patience_s: float,
    ) -> None:
        if settings is None:
            settings, origins = load_settings(tenant=tenant)
        elif tenant is not None:
            settings = settings.model_copy(update={"tenant": check_tenant(tenant)})
        self.settings = settings
        self.origins = origins
        self.url: str | SecretStr = locate(settings, "streams") if url is None else url
        self.patience_s = patience_s
        self._tenant: Tenant | None = None

    @property
    def ready(self) -> bool:
        return self._tenant is not None

    @property
    def tenant(self) -> Tenant:
        """The tenant, opened (or created) at the first call."""
        if self._tenant is None:
            with connect(self.url) as client, translate(self.url):
                self._tenant = open_tenant(client, self.settings, self.origins)
        return self._tenant

    def stream_of(self, symbol: str) -> str:
        return self.tenant.keys.partition(self.tenant.partition_of(symbol)).ticks

    def one(self, ticks: Ticks) -> tuple[str, Steps]:
        groups = group_ticks(ticks, self.stream_of)
        return groups[0].key, self.append(groups)

    def many(self, ticks: Ticks | Iterable[TickLike]) -> Iterator[tuple[int, Steps]]:
        """Exchange by exchange: how many ticks it has, and its steps. A bad row ends it."""
        sent = 0
        for part in _parts(ticks):
            for chunk in part.chunks(EXCHANGE_ROWS):
                yield len(chunk), self.append(group_ticks(chunk, self.stream_of, sent), before=sent)
                sent += len(chunk)

    def clock(self, ts: int, now: int) -> Steps:
        entry = pack(clock_fields(ts))
        ahead_ms = (ts - now) // 1_000_000
        if ahead_ms > self.tenant.pipeline.max_ahead_ms:
            raise BadRecord(
                "future",
                f"clock: {ts} lies {ahead_ms / 1000:,.0f} s ahead of now, and all ticks before it would come too late: "
                "say it when that time has passed",
            )
        keys = [self.tenant.keys.partition(partition).ticks for partition in range(self.tenant.partitions)]
        return self.append([Group(key, [entry], [row]) for row, key in enumerate(keys)])

    def append(self, groups: Sequence[Group], before: int = 0) -> Steps:
        return append(groups, self.url, patience_s=self.patience_s, before=before)


def _parts(ticks: Ticks | Iterable[TickLike]) -> Iterator[Ticks]:
    """Checked ticks: all at once where all are at hand, else piece by piece."""
    if isinstance(ticks, Ticks):
        check_ticks(ticks)
        yield ticks
    elif isinstance(ticks, Sequence):
        yield Ticks.from_rows(ticks)
    else:
        first, source = 0, iter(ticks)
        while rows := list(islice(source, EXCHANGE_ROWS)):
            try:
                part = Ticks.from_rows(rows, first)
            except BadRecord as error:
                raise BadRecord(error.reason, f"{error}. The {first} ticks before row {first} were published") from None
            yield part
            first += len(rows)


def _single(
    symbol: str,
    price: float,
    size: float,
    ts: int,
    bid: float | None,
    ask: float | None,
    venue_id: str | None,
) -> Ticks:
    try:
        return Ticks.from_rows([(symbol, price, size, ts, bid, ask, venue_id)])
    except BadRecord as error:
        # There is but one row.
        raise BadRecord(error.reason, str(error).removeprefix("row 0: ")) from None


class TickPublisher:
    """Publishes ticks to the log. Not safe for use by several threads at once; a context manager.

    Args:
        settings: as `load_settings` gives them; left out, they are read.
        origins: where the settings came from: those left at their default give way to what the tenant was created with.
        url: the Redis of the streams; left out, `RED10_STREAMS_URL` or the embedded server that runs in the data
            directory.
        tenant: instead of the settings' tenant.
        patience_s: how long Redis may refuse or be away in the midst of publishing before that is an error, seconds.
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
        now: Callable[[], int] = time.time_ns,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._plan = _Plan(settings, origins, url, tenant, patience_s)
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
        key, steps = self._plan.one(_single(symbol, price, size, at, bid, ask, id))
        return run(self._client, steps, self._sleep)[key]

    def publish_many(self, ticks: Ticks | Iterable[TickLike]) -> int:
        """Publish ticks in order.

        Args:
            ticks: columns, or ticks one by one as `Tick`, mapping, or `(symbol, price, size, ts[, bid, ask, id])`.
                A list is checked as a whole before any of it is sent, an iterator a thousand ticks at a time.

        Returns:
            How many were published.

        Raises:
            BadRecord: a row cannot be sent; the message names it.
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

    def close(self) -> None:
        """Close the connections."""
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
        now: Callable[[], int] = time.time_ns,
    ) -> None:
        self._plan = _Plan(settings, origins, url, tenant, patience_s)
        self._client: redis.asyncio.Redis = connect_async(self._plan.url)
        self._now = now

    async def open(self) -> Tenant:
        """The tenant; see `TickPublisher.tenant`."""
        if not self._plan.ready:
            await asyncio.to_thread(lambda: self._plan.tenant)
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
        key, steps = self._plan.one(_single(symbol, price, size, at, bid, ask, id))
        return (await run_async(self._client, steps))[key]

    async def publish_many(self, ticks: Ticks | Iterable[TickLike]) -> int:
        """Publish ticks in order; see `TickPublisher.publish_many`."""
        await self.open()
        count = 0
        for rows, steps in self._plan.many(ticks):
            await run_async(self._client, steps)
            count += rows
        return count

    async def clock(self, ts: int) -> None:
        """Say in every partition that nothing earlier than `ts` will follow; see `TickPublisher.clock`."""
        await self.open()
        await run_async(self._client, self._plan.clock(ts, self._now()))

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
