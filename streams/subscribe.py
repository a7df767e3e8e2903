"""Following signals, predictions, outcomes, bars and dead letters: `Subscriber`, and `AsyncSubscriber` for asyncio.

    for signal in Subscriber(kind="signals", since="start"):
        ...

Reads only: no consumer group, nothing left in Redis. `position` tells how far the records that were handed out reach;
kept anywhere and given back as `since`, the next subscriber goes on with the record after it. A crash between handling
a record and keeping the position repeats that record, one the other way round leaves it out: the caller chooses.

While Redis is away a subscriber that follows waits, says so once in the log, and goes on from its position.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from types import TracebackType
from typing import Any, Generic, Literal, Self, TypedDict, TypeVar, Unpack, cast, overload

import redis
import redis.asyncio
from pydantic import SecretStr
from redis.exceptions import RedisError

from streams.clients import connect, connect_async, translate
from streams.errors import ConfigurationError, Red10Error
from streams.following import Follower, Item, Pause, Read, Steps
from streams.locate import locate
from streams.records import Bar, DeadLetter, Outcome, Prediction, Record, Signal
from streams.settings import Settings, load_settings
from streams.tenant import Tenant, find_tenant
from streams.wanted import Kind, Position, Since, understand

R = TypeVar("R", bound=Record)

#: Longest BLOCK of one command; a longer poll is several.
LONGEST_BLOCK_MS = 5000


class Options(TypedDict, total=False):
    """What both subscribers take besides `settings` and `kind`.

    Keys:
        url: the Redis of the streams; left out, `RED10_STREAMS_URL` or the embedded server that runs in the data
            directory.
        tenant: instead of the settings' tenant.
        symbols: symbols or series (`SPY`, `SPY:1m`), one or several; left out, all.
        since: `"now"` (unless said otherwise), `"start"`, an event time (aware `datetime`, or epoch ns) or a position.
        follow: whether to wait for what comes when all there is has been read; `True` unless said otherwise.
    """

    url: str | SecretStr
    tenant: str
    symbols: str | Iterable[str] | None
    since: Since
    follow: bool


class _Subscription:
    """What both subscribers are made of."""

    def __init__(self, settings: Settings | None, kind: Kind, options: Options) -> None:
        if settings is None:
            settings = load_settings(tenant=options.get("tenant"))[0]
        self._kind: Kind = kind
        self._options = options
        self._name = options.get("tenant", settings.tenant)
        self.block_ms = settings.block_ms
        self.url = options["url"] if "url" in options else locate(settings, "streams")
        self.follow = options.get("follow", True)
        self._follower: Follower | None = None

    @property
    def ready(self) -> bool:
        return self._follower is not None

    @property
    def follower(self) -> Follower:
        """The follower, made at the first call, which asks Redis for the tenant."""
        if self._follower is None:
            with connect(self.url) as client, translate(self.url):
                tenant = find_tenant(client, self._name)
            self._follower = self._begin(tenant)
        return self._follower

    def _begin(self, tenant: Tenant | None) -> Follower:
        if tenant is None:
            raise ConfigurationError(
                f"there is no tenant {self._name!r} yet: publish a tick to it, or start `red10 up`, or name another "
                "with --tenant or RED10_TENANT"
            )
        options = self._options
        start = understand(tenant, self._kind, options.get("symbols"), options.get("since", "now"))
        return Follower(start, self.url)

    def poll(self, block_ms: int) -> Steps:
        return self.follower.poll(block_ms, patient=self.follow)

    def hand_out(self, items: Iterable[Item]) -> Iterator[Any]:
        """The records; the position moves before each is given."""
        for item in items:
            self.follower.handed_out(item)
            yield item.record


class Subscriber(Generic[R]):
    """Iterates over records as they come, blocking. A context manager; for one thread.

    Args:
        settings: as `load_settings` gives them; left out, they are read.
        kind: `"signals"`, `"predictions"`, `"outcomes"`, `"bars"` or `"dead"`.
        options: see `Options`.

    Raises:
        ConfigurationError: no Redis is known, or a setting is wrong; on first use: there is no such tenant, or `since`
            makes no sense.
        RedisUnavailable: on first use, or without `follow`: Redis does not answer.
    """

    @overload
    def __init__(
        self: Subscriber[Signal],
        settings: Settings | None = None,
        *,
        kind: Literal["signals"] = ...,
        **options: Unpack[Options],
    ) -> None: ...
    @overload
    def __init__(
        self: Subscriber[Prediction],
        settings: Settings | None = None,
        *,
        kind: Literal["predictions"],
        **options: Unpack[Options],
    ) -> None: ...
    @overload
    def __init__(
        self: Subscriber[Outcome],
        settings: Settings | None = None,
        *,
        kind: Literal["outcomes"],
        **options: Unpack[Options],
    ) -> None: ...
    @overload
    def __init__(
        self: Subscriber[Bar], settings: Settings | None = None, *, kind: Literal["bars"], **options: Unpack[Options]
    ) -> None: ...
    @overload
    def __init__(
        self: Subscriber[DeadLetter],
        settings: Settings | None = None,
        *,
        kind: Literal["dead"],
        **options: Unpack[Options],
    ) -> None: ...
    @overload
    def __init__(
        self: Subscriber[Any], settings: Settings | None = None, *, kind: Kind, **options: Unpack[Options]
    ) -> None: ...
    def __init__(self, settings: Settings | None = None, *, kind: Kind = "signals", **options: Unpack[Options]) -> None:
        self._subscription = _Subscription(settings, kind, options)
        self._client: redis.Redis = connect(self._subscription.url, block_ms=LONGEST_BLOCK_MS)

    def open(self) -> Self:
        """Ask Redis for the tenant and fix where to begin, `"now"` for one; the first read would do it otherwise."""
        self._run(self._subscription.follower.begin())
        return self

    @property
    def position(self) -> Position:
        """How far the records that were handed out reach; may be kept as JSON and given back as `since`."""
        return self.open()._subscription.follower.position

    @property
    def skipped(self) -> int:
        """Entries that could not be read as records and were passed over (each is in the log)."""
        return self._subscription.follower.skipped if self._subscription.ready else 0

    def poll(self, block_ms: int | None = None) -> list[R]:
        """Read all streams once, waiting for a first record; what it returns counts as handed out.

        Args:
            block_ms: how long to wait; left out, the settings' `block_ms`; 0 not at all.
        """
        wait = self._subscription.block_ms if block_ms is None else block_ms
        deadline = time.monotonic() + wait / 1000
        while True:
            read = self._read(wait)
            wait = int((deadline - time.monotonic()) * 1000)
            if read.items or wait <= 0:
                return list(self._subscription.hand_out(read.items))

    def __iter__(self) -> Iterator[R]:
        follow = self._subscription.follow
        while True:
            read = self._read(self._subscription.block_ms if follow else 0)
            yield from self._subscription.hand_out(read.items)
            if read.exhausted and not follow:
                return

    def _read(self, block_ms: int) -> Read:
        return cast(Read, self._run(self._subscription.poll(min(block_ms, LONGEST_BLOCK_MS))))

    def _run(self, steps: Steps) -> Any:
        with translate(self._subscription.url):
            try:
                step = next(steps)
                while True:
                    if isinstance(step, Pause):
                        time.sleep(step.seconds)
                        step = steps.send([])
                        continue
                    try:
                        with self._client.pipeline(transaction=False) as pipe:
                            send: Any = pipe.execute_command
                            for command in step.commands:
                                send(*command)
                            replies = pipe.execute(raise_on_error=False)
                    except (RedisError, OSError) as error:
                        step = steps.throw(error)
                    else:
                        step = steps.send(replies)
            except StopIteration as end:
                return end.value

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncSubscriber(Generic[R]):
    """`Subscriber` under asyncio: `async for`, `await poll()`; an asynchronous context manager."""

    @overload
    def __init__(
        self: AsyncSubscriber[Signal],
        settings: Settings | None = None,
        *,
        kind: Literal["signals"] = ...,
        **options: Unpack[Options],
    ) -> None: ...
    @overload
    def __init__(
        self: AsyncSubscriber[Prediction],
        settings: Settings | None = None,
        *,
        kind: Literal["predictions"],
        **options: Unpack[Options],
    ) -> None: ...
    @overload
    def __init__(
        self: AsyncSubscriber[Outcome],
        settings: Settings | None = None,
        *,
        kind: Literal["outcomes"],
        **options: Unpack[Options],
    ) -> None: ...
    @overload
    def __init__(
        self: AsyncSubscriber[Bar],
        settings: Settings | None = None,
        *,
        kind: Literal["bars"],
        **options: Unpack[Options],
    ) -> None: ...
    @overload
    def __init__(
        self: AsyncSubscriber[DeadLetter],
        settings: Settings | None = None,
        *,
        kind: Literal["dead"],
        **options: Unpack[Options],
    ) -> None: ...
    @overload
    def __init__(
        self: AsyncSubscriber[Any], settings: Settings | None = None, *, kind: Kind, **options: Unpack[Options]
    ) -> None: ...
    def __init__(self, settings: Settings | None = None, *, kind: Kind = "signals", **options: Unpack[Options]) -> None:
        self._subscription = _Subscription(settings, kind, options)
        self._client: redis.asyncio.Redis = connect_async(self._subscription.url, block_ms=LONGEST_BLOCK_MS)

    async def open(self) -> Self:
        """Ask Redis for the tenant and fix where to begin; see `Subscriber.open`."""
        if not self._subscription.ready:
            await asyncio.to_thread(lambda: self._subscription.follower)
        await self._run(self._subscription.follower.begin())
        return self

    @property
    def position(self) -> Position:
        """How far the records that were handed out reach; may be kept as JSON and given back as `since`.

        Raises:
            Red10Error: the subscriber was not opened.
        """
        if not self._subscription.ready:
            raise Red10Error("an AsyncSubscriber has no position before `async with`, `await open()` or a first read")
        return self._subscription.follower.position

    @property
    def skipped(self) -> int:
        """Entries that could not be read as records and were passed over (each is in the log)."""
        return self._subscription.follower.skipped if self._subscription.ready else 0

    async def poll(self, block_ms: int | None = None) -> list[R]:
        """Read all streams once, waiting for a first record; see `Subscriber.poll`."""
        wait = self._subscription.block_ms if block_ms is None else block_ms
        deadline = time.monotonic() + wait / 1000
        while True:
            read = await self._read(wait)
            wait = int((deadline - time.monotonic()) * 1000)
            if read.items or wait <= 0:
                return list(self._subscription.hand_out(read.items))

    async def __aiter__(self) -> AsyncIterator[R]:
        follow = self._subscription.follow
        while True:
            read = await self._read(self._subscription.block_ms if follow else 0)
            for record in self._subscription.hand_out(read.items):
                yield record
            if read.exhausted and not follow:
                return

    async def _read(self, block_ms: int) -> Read:
        if not self._subscription.ready:
            await asyncio.to_thread(lambda: self._subscription.follower)
        return cast(Read, await self._run(self._subscription.poll(min(block_ms, LONGEST_BLOCK_MS))))

    async def _run(self, steps: Steps) -> Any:
        with translate(self._subscription.url):
            try:
                step = next(steps)
                while True:
                    if isinstance(step, Pause):
                        await asyncio.sleep(step.seconds)
                        step = steps.send([])
                        continue
                    try:
                        async with self._client.pipeline(transaction=False) as pipe:
                            send: Any = pipe.execute_command
                            for command in step.commands:
                                send(*command)
                            replies = await pipe.execute(raise_on_error=False)
                    except (RedisError, OSError) as error:
                        step = steps.throw(error)
                    else:
                        step = steps.send(replies)
            except StopIteration as end:
                return end.value

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
