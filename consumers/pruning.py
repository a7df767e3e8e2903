"""Removing, now and then, the versions that need not be kept, so that a store that is trained into for years does not
grow for ever. What is kept is said in `modelstore.retention`.

Every trainer offers to do it; a mark in the store (`…:pruned`, which expires) lets one of them do so per period. One
that dies on the way leaves a store that is whole, and the next period removes the rest.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable

import redis

from modelstore.errors import ModelStoreError
from modelstore.retention import Pruned
from modelstore.store import ModelStore
from streams.clients import error_code
from streams.settings import Settings

log = logging.getLogger(__name__)

#: Seconds between two looks at the mark.
LOOK_S = 30.0


class PruningEnded(Exception):
    """The trainer ends while it prunes."""


class Pruning:
    """Prunes one store as the settings say; `run` until cancelled, `close` from anywhere."""

    def __init__(
        self, store: ModelStore, settings: Settings, on_pruned: Callable[[int], None] = lambda versions: None
    ) -> None:
        """Put it together; nothing is sent yet.

        Args:
            store: its client is used in a thread of its own.
            settings: `prune_every_s`, `keep_versions`, `keep_releases`.
            on_pruned: told how many versions were removed.
        """
        self._store = store
        self._settings = settings
        self._on_pruned = on_pruned
        self._closed = threading.Event()

    async def run(self, look_s: float = LOOK_S) -> None:
        """Prune whenever it is time, until cancelled. A Redis that is away, or a damaged release, is waited for."""
        if not self._settings.prune_every_s:
            return
        said = ""
        while not self._closed.is_set():
            try:
                pruned = await asyncio.to_thread(self.prune_if_due)
                said = ""
                if pruned is not None:
                    self._note(pruned)
            except PruningEnded:
                return
            except (redis.RedisError, ModelStoreError, OSError) as error:
                # Once per cause: it may last for days.
                if str(error) != said:
                    log.warning("old versions were not removed, which is tried again: %s", error)
                said = str(error)
            await asyncio.sleep(look_s)

    def _note(self, pruned: Pruned) -> None:
        removed = sum(map(len, pruned.versions.values()))
        self._on_pruned(removed)
        if removed:
            log.info("removed %d versions of %d models that were not kept", removed, len(pruned.versions))

    def prune_if_due(self) -> Pruned | None:
        """Prune unless that was done within the period; what was removed. Blocks.

        Raises:
            redis.RedisError: the store is away, or refuses.
            BadModel: a kept release is damaged.
            ReleaseConflict: others switched releases all the time.
            PruningEnded: it was closed on the way.
        """
        settings = self._settings
        if not self._take_turn():
            return None
        return self._store.prune(
            settings.keep_versions, keep_releases=settings.keep_releases, progress=self._unless_closed
        )

    def _take_turn(self) -> bool:
        try:
            return bool(self._store.client.set(self._store.keys.pruned, "1", nx=True, ex=self._settings.prune_every_s))
        except redis.RedisError as error:
            # A full memory takes no mark, and needs the room that pruning makes; that several prune does no harm.
            if error_code(error) == "OOM":
                return True
            raise

    def close(self) -> None:
        """Stop after the versions that are being removed."""
        self._closed.set()

    def _unless_closed(self, done: int, wanted: int) -> None:
        if self._closed.is_set():
            raise PruningEnded
