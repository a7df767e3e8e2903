"""The trainers' side of the request stream.

Owns the consumer group `trainers` of `red10:{T}:requests` and writes `red10:{T}:results`. A request is pending from
when it is read until one MULTI adds its result and acknowledges it, so a crash anywhere in between leaves it pending:
the same consumer reads it again at once, another one takes it over when it was idle for `CLAIM_IDLE_MS`. A live trainer
keeps the requests that it works on from being idle (`keep`).

A result can be written twice only if the reply to the MULTI was lost and it was carried out after we looked whether it
had been; results carry the request's id, and readers take the first.

A group that was lost is made again from the stream's beginning. What has a result already is then not done again:
retraining old requests would put old models in force.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import redis.asyncio
from redis.exceptions import ResponseError

from consumers.requests import request_of
from streams.clients import error_code, lost_reply
from streams.ids import StreamID
from streams.keys import TRAINERS, Keys
from streams.records import TrainingResult

#: A request that its trainer has not touched for so long is taken over, ms.
CLAIM_IDLE_MS = 30_000
#: How often a trainer touches the requests that it works on, s.
KEEP_EVERY_S = 5.0
#: Most requests in one batch: they share a release and a save.
BATCH = 64
#: Results kept, about.
KEEP_RESULTS = 100_000

Fields = dict[bytes, bytes]
Entry = tuple[StreamID, Fields]


class RequestQueue:
    """Reads and answers requests as one consumer of the group. Driver errors come out as they are."""

    def __init__(self, client: redis.asyncio.Redis, keys: Keys, consumer: str, *, batch: int = BATCH) -> None:
        self._client = client
        self._keys = keys
        self._consumer = consumer
        self._batch = batch
        self._answered: set[StreamID] = set()

    async def read(self, block_ms: int) -> list[Entry]:
        """The next requests: own pending ones, else idle ones of other trainers, else new ones, oldest first.

        Waits up to `block_ms` for new ones. A request whose entry was deleted comes without fields.
        """
        try:
            found = await self._read("0", None) or await self._claim() or await self._read(">", block_ms)
        except ResponseError as error:
            if error_code(error) != "NOGROUP" and "UNBLOCKED" not in str(error):
                raise
            await self._create_group()
            return []
        done = [entry for entry, _ in found if entry in self._answered]
        if done:
            await self._client.xack(self._keys.requests, TRAINERS, *map(str, done))
        return [(entry, fields) for entry, fields in found if entry not in self._answered]

    async def _read(self, after: str, block_ms: int | None) -> list[Entry]:
        streams: dict[Any, Any] = {self._keys.requests: after}
        reply = cast(
            list[tuple[bytes, list[tuple[bytes, Fields | None]]]],
            await self._client.xreadgroup(TRAINERS, self._consumer, streams, count=self._batch, block=block_ms),
        )
        return [(StreamID.parse(entry), fields or {}) for _, entries in reply or [] for entry, fields in entries]

    async def _claim(self) -> list[Entry]:
        reply: list[Any] = await self._client.xautoclaim(
            self._keys.requests, TRAINERS, self._consumer, CLAIM_IDLE_MS, count=self._batch
        )
        # Redis 6.2 hands out deleted entries as nil, without an id, and keeps them pending for ever; `_read("0")`
        # then finds them under this consumer's name, with their id and no fields.
        return [(StreamID.parse(entry), fields or {}) for entry, fields in reply[1] if entry is not None]

    async def _create_group(self) -> None:
        """Create the group at the stream's beginning, and learn what was answered before it was lost."""
        answered: set[StreamID] = set()
        after = "-"
        while True:
            chunk = cast(
                list[tuple[bytes, Fields]], await self._client.xrange(self._keys.results, after, "+", count=1000)
            )
            answered.update(request for _, fields in chunk if (request := request_of(fields)) is not None)
            if len(chunk) < 1000:
                break
            after = "(" + chunk[-1][0].decode()
        self._answered = answered
        try:
            await self._client.xgroup_create(self._keys.requests, TRAINERS, "0", mkstream=True)
        except ResponseError as error:
            if error_code(error) != "BUSYGROUP":
                raise

    async def keep(self, entries: Sequence[StreamID]) -> None:
        """Say that these are being worked on, so that no other trainer takes them over."""
        if entries:
            await self._client.xclaim(
                self._keys.requests, TRAINERS, self._consumer, 0, [str(entry) for entry in entries], justid=True
            )

    async def answer(self, results: Sequence[tuple[StreamID, TrainingResult]]) -> None:
        """Add the results and acknowledge their requests in one MULTI; safe to repeat.

        Raises:
            redis.RedisError: nothing was written, or, where the reply was lost, it may have been: call it again.
        """
        if not results:
            return
        async with self._client.pipeline(transaction=True) as pipe:
            for _, result in results:
                fields: dict[Any, Any] = {**result.to_fields()}
                pipe.xadd(self._keys.results, fields, maxlen=KEEP_RESULTS, approximate=True)
            pipe.xack(self._keys.requests, TRAINERS, *(str(entry) for entry, _ in results))
            await pipe.execute()

    async def landed(self, results: Sequence[tuple[StreamID, TrainingResult]], error: BaseException) -> bool:
        """Whether an `answer` that raised was carried out all the same: none of its requests is pending any more."""
        if not lost_reply(error):
            return False
        for entry, _ in results:
            pending = await self._client.xpending_range(self._keys.requests, TRAINERS, str(entry), str(entry), 1)
            if pending:
                return False
        return True
