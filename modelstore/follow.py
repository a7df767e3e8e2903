"""Following the release in force: the newest one loaded, whatever happens to the store.

Events only wake (they are lost when the store restarts), so the pointer is looked at when one arrives, when the store
is back, and every `follow_ms`. It is compared by id and number and by the store's uuid: a store that was killed and
restored from an older snapshot has an older release and gives numbers again, and is followed all the same.

While the store is away, empty, or holds a release that cannot be read, what is loaded stays in force. The follower says
each of these once in the log, and once when it is over; it never ends by itself.

Redis is called in threads, through a client from the factory, made anew after an error. A release is loaded once even
if several ask for it; the last few stay at hand, and the next is loaded as the difference to one of them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple, TypeVar, cast

import redis
import redis.client
from redis.exceptions import NoPermissionError, RedisError

from modelstore.errors import BadModel, NotFound
from modelstore.loaded import EMPTY, LoadedRelease, load_release
from modelstore.releases import ReleaseInfo, Releases
from modelstore.versions import VersionStore
from streams.clients import REPLY_TIMEOUT_S, Backoff, explain, where_of
from streams.errors import Red10Error
from streams.keys import Keys

T = TypeVar("T")

log = logging.getLogger(__name__)

#: How many loaded releases stay at hand; they share the versions that they have in common.
KEEP = 4
#: Longest wait for an event in one go, s: a thread that waits cannot be cancelled, and delays the end of the process.
SLICE_S = 0.25


class _Link(NamedTuple):
    """A client and what speaks through it."""

    client: redis.Redis
    store: VersionStore
    releases: Releases


class _Seen(NamedTuple):
    """What a look at the store found."""

    uuid: str | None
    pointer: ReleaseInfo | None


class Follower:
    """Keeps the release in force loaded. All methods belong to one event loop.

    Attributes:
        current: the newest release that could be loaded; `EMPTY` before there is one.
        away_since: `clock()` at the first failed look since the store was last there; `None` while it is there.
        problem: why the release in force could not be loaded although the store is there; `None` if it could.
        ready: set once a look has succeeded, be it that there is no release yet.
    """

    def __init__(
        self,
        factory: Callable[[], redis.Redis],
        keys: Keys,
        *,
        targets: Sequence[str],
        feature_count: int,
        features: bytes,
        follow_ms: int = 2000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Put a follower together; nothing is sent yet.

        Args:
            factory: makes a blocking client of the models role, such as `lambda: connect(url)`.
            targets: the pipeline's targets.
            feature_count: features of a row.
            features: id of the feature set; see `load_release`.
            follow_ms: how often the pointer is looked at when no event arrives.
            clock: seconds, monotonic.
        """
        self.current: LoadedRelease = EMPTY
        self.away_since: float | None = None
        self.problem: str | None = None
        self.ready = asyncio.Event()
        self._factory = factory
        self._keys = keys
        self._targets = tuple(targets)
        self._feature_count = feature_count
        self._features = features
        self._follow_s = follow_ms / 1000
        self._clock = clock
        self._link: _Link | None = None
        self._events: redis.client.PubSub | None = None
        self._deaf = False
        self._untold = False
        self._loaded: OrderedDict[str, LoadedRelease] = OrderedDict()
        self._loading = asyncio.Lock()
        self._seen: _Seen | None = None
        # The last one that was known: a store has none before its first version, and that one is not another store.
        self._uuid: str | None = None

    async def get(self, release_id: str) -> LoadedRelease:
        """A release by its id, loaded now if it is not at hand; "" is the empty one.

        Raises:
            NotFound: the store does not hold it.
            BadModel: it is damaged.
            RedisUnavailable, RedisRefused: the store is away, or refuses for now.
        """
        return await self._load(release_id, None)

    async def refresh(self) -> bool:
        """Look at the store once, and load the release in force if it is another.

        Returns:
            Whether `current` is now a release of another id.

        Raises:
            RedisUnavailable, RedisRefused: the store is away, or refuses for now.
            NotFound, BadModel: the release in force cannot be loaded; `current` stays.
        """
        seen = await self._call(_look)
        before = self.current
        if seen.pointer is None:
            gone = before.id != EMPTY.id
            self._note(f"it holds no release any more, {_going_on(before)}" if gone else None)
        elif seen != self._seen or self.problem is not None:
            try:
                self.current = await self._load(seen.pointer.id, seen.pointer.number)
            except (NotFound, BadModel) as error:
                self._note(f"release {seen.pointer.number} cannot be loaded, {_going_on(before)}: {error}")
                raise
            self._note(None)
        if seen.uuid is not None:
            if self._uuid not in (None, seen.uuid):
                log.warning("the models Redis now holds another store than before")
            self._uuid = seen.uuid
        self._seen = seen
        self.ready.set()
        return self.current.id != before.id

    async def run(self, on_change: Callable[[LoadedRelease], Awaitable[None]]) -> None:
        """Follow until cancelled.

        Args:
            on_change: called with each release of another id, in order, `current` at the start included unless it is
                `EMPTY`; several changes between two looks are one. If it raises, that is logged, and it is called again
                with what is current then.
        """
        told = EMPTY.id
        backoff = Backoff()
        try:
            while True:
                settled = await self._try_refresh()
                release = self.current
                if told != release.id and await self._tell(on_change, release):
                    told = release.id
                settled = settled and told == release.id and await self._wait_for_event()
                if settled:
                    backoff.reset()
                else:
                    await asyncio.sleep(backoff.next())
        finally:
            self.close()

    def close(self) -> None:
        """Drop the connections; a thread that still waits on one ends. The next call makes new ones."""
        link, self._link, self._events = self._link, None, None
        if link is not None:
            link.client.connection_pool.disconnect()

    async def _try_refresh(self) -> bool:
        """`refresh`, with all that passes already noted; whether the store is there."""
        try:
            await self.refresh()
        except (NotFound, BadModel):
            return True
        except Red10Error:
            return False
        return True

    async def _tell(self, on_change: Callable[[LoadedRelease], Awaitable[None]], release: LoadedRelease) -> bool:
        try:
            await on_change(release)
        except Exception:
            # Whatever it is: following must go on, and the change be told again.
            if not self._untold:
                log.exception("release %s was loaded but could not be passed on; trying again", release.id[:12])
            self._untold = True
            return False
        self._untold = False
        return True

    async def _wait_for_event(self) -> bool:
        """Wait for an event, at most `follow_ms`; at once after subscribing. Whether the store was there."""
        deadline = self._clock() + self._follow_s
        while (left := deadline - self._clock()) > 0:
            if self._deaf:
                await asyncio.sleep(left)
                continue
            try:
                if await self._call(partial(self._listen, wait_s=min(left, SLICE_S))):
                    return True
            except Red10Error:
                return False
        return True

    async def _load(self, release_id: str, number: int | None) -> LoadedRelease:
        if release_id == EMPTY.id:
            return EMPTY
        async with self._loading:
            found = self._loaded.get(release_id)
            if found is None:
                nearest = next(reversed(self._loaded.values()), None)
                found = await self._call(
                    lambda link: load_release(
                        link.store,
                        link.releases,
                        release_id,
                        targets=self._targets,
                        feature_count=self._feature_count,
                        features=self._features,
                        previous=nearest,
                    )
                )
                _report(found)
            if number is not None and found.number != number:
                found = replace(found, number=number)
            self._loaded[release_id] = found
            self._loaded.move_to_end(release_id)
            while len(self._loaded) > KEEP:
                self._loaded.popitem(last=False)
            return found

    async def _call(self, use: Callable[[_Link], T]) -> T:
        """Use the client in a thread; note when the store goes and when it is back."""
        link = self._link
        if link is None:
            client = self._factory()
            link = self._link = _Link(client, VersionStore(client, self._keys), Releases(client, self._keys))
        try:
            found = await asyncio.to_thread(use, link)
        except (RedisError, OSError) as error:
            if link is self._link:
                self.close()
            explained = explain(error, where_of(link.client))
            if self.away_since is None:
                self.away_since = self._clock()
                log.warning("the models Redis is away, %s: %s", _going_on(self.current), explained)
            raise explained from error
        if self.away_since is not None:
            log.warning("the models Redis is back after %.1f s", self._clock() - self.away_since)
            self.away_since = None
        return found

    def _listen(self, link: _Link, wait_s: float) -> bool:
        """Whether there was an event, or was just subscribed: what happened before that is to be looked at."""
        events = self._events
        if events is None:
            events = cast(Callable[[], redis.client.PubSub], link.client.pubsub)()
            try:
                events.subscribe(self._keys.events)
                # Until the server has confirmed it, an event may pass unheard.
                events.get_message(timeout=REPLY_TIMEOUT_S)
            except NoPermissionError as error:
                events.close()
                self._deaf = True
                log.warning("no events of the models Redis, looking every %g s instead: %s", self._follow_s, error)
                return False
            # A thread that outlived the close of its client must not leave its connection to the next one.
            self._events = events if link is self._link else None
            return True
        heard = events.get_message(timeout=wait_s) is not None
        while heard and events.get_message(timeout=0) is not None:
            pass
        return heard

    def _note(self, problem: str | None) -> None:
        if problem is not None and problem != self.problem:
            log.error("the models Redis is there, but %s", problem)
        if problem is None and self.problem is not None:
            log.warning("the models Redis has a release again that can be loaded")
        self.problem = problem


def _look(link: _Link) -> _Seen:
    return _Seen(link.store.find_uuid(), link.releases.current())


def _going_on(current: LoadedRelease) -> str:
    if current.id == EMPTY.id:
        return "nothing is loaded yet"
    return f"going on with release {current.id[:12]} ({current.models} models)"


def _report(release: LoadedRelease) -> None:
    if release.refused:
        name, reason = next(iter(release.refused.items()))
        log.error(
            "release %s: %d models are served, %d are not, such as %s: %s",
            release.id[:12],
            release.models,
            len(release.refused),
            name,
            reason,
        )
