"""Putting new versions in place: store, one release for a batch, and a save that covers both. The models side of
training.

A models Redis that restarted in between may have forgotten what was written before; its run id then differs, and
`Again` says that the batch is to be done once more.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import redis

from consumers.patience import Patience, Stopped
from consumers.training import Work, alias_changes
from modelstore.errors import NotFound, ReleaseConflict
from modelstore.releases import Releases
from modelstore.saves import SaveBarrier, SaveFailed
from modelstore.store import ModelStore
from modelstore.version import NewVersion
from streams.tenant import Tenant

#: How long one save may take before it is said and waited for again, s: a store of 100 GB takes some minutes.
SAVE_TIMEOUT_S = 900.0


class Again(Exception):
    """The models Redis lost what this batch wrote: leave it pending, do it again."""


class Placing:
    """Writes to the model store. Waits where the models Redis is away."""

    def __init__(self, client: redis.Redis, tenant: Tenant, who: str, patience: Patience) -> None:
        """Put it together; nothing is sent yet.

        Args:
            who: for the history of releases.
        """
        self.store = ModelStore(client, tenant.keys)
        self._client = client
        self._releases = Releases(client, tenant.keys)
        self._who = who
        self._patience = patience
        self._abandoned = threading.Event()
        self._saves = SaveBarrier(client, sleep=self._sleep)

    def abandon(self) -> None:
        """Let nobody wait for a save any more."""
        self._abandoned.set()

    async def put(self, versions: Sequence[NewVersion]) -> None:
        """Store versions; storing again changes nothing."""
        await self._patience(lambda: asyncio.to_thread(self.store.put_many, versions))

    async def release(self, works: Sequence[Work]) -> str | None:
        """Give all new versions their aliases in one release; `None` if there are no versions.

        Raises:
            Again: the store does not hold them any more.
        """
        names = {name for work in works for name in work.models}
        if not names:
            return None
        what = ", ".join(work.plan.subject for work in works if work.models)
        why = f"trained {len(names)} models: {what[:200]}"

        def promote() -> str:
            return self._releases.promote(
                lambda aliases: alias_changes(works, aliases)[0],
                who=self._who,
                why=why,
                notes=lambda aliases: alias_changes(works, aliases)[1],
            ).id

        try:
            return await self._patience(lambda: asyncio.to_thread(promote), also=(ReleaseConflict,))
        except NotFound as error:
            raise Again(f"the models Redis forgot new versions before they were saved ({error})") from error

    async def saved(self, run_id: str) -> None:
        """Wait for a save that covers what was written, and make sure that it was still there to be saved.

        Args:
            run_id: what `run_id` gave before the first write.

        Raises:
            Again: the Redis restarted meanwhile.
        """
        await self._patience(lambda: asyncio.to_thread(self._saves.wait_saved, SAVE_TIMEOUT_S), also=(SaveFailed,))
        if await self.run_id() != run_id:
            raise Again("the models Redis restarted before new versions were saved")

    async def run_id(self) -> str:
        """What tells one life of the models Redis from another."""

        def ask() -> str:
            return str(self._client.info("server")["run_id"])

        return await self._patience(lambda: asyncio.to_thread(ask))

    def _sleep(self, seconds: float) -> None:
        """Sleep in the thread that waits for a save; a batch that was abandoned must not keep the thread."""
        if self._abandoned.wait(seconds):
            raise Stopped
