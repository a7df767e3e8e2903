"""The trainers' side of the request stream: take requests, keep them, answer them.

Owns, besides the consumer group `trainers` of `red10:{T}:requests` and what is written to the answers' streams,

    red10:{T}:answered   zset   requests still in the stream that have their answer -> when they were posted, ms
    red10:{T}:attempts   hash   request under way -> history of its deliveries (`consumers.deliveries`)

Every step is one script, so that a crash falls between two of them:

1. *take*: own pending requests first, then those of trainers that have been silent for `claim_idle_ms`, then new ones.
   A delivery is noted where it is made; if the reply is lost, the same call comes again and does not count twice.
   XPENDING and XCLAIM do the work of XAUTOCLAIM, which tells no delivery counts, and on 6.2 hands out deleted entries
   as nil and keeps them pending for ever.
2. *keep*: a live trainer touches what it works on, so that nobody takes it over.
3. *leave*: a stopping trainer gives back what it cannot finish; others take it at once, and the delivery does not
   count.
4. *answer*: result and acknowledgement, or dead letter, result and acknowledgement. A request is answered at most once,
   however many trainers carried it out and however often the reply to the script was lost: it can be sent again.

A crash after 1 leaves a request pending, to be taken again after `claim_idle_ms`, or at once by the same consumer. A
group that was lost is made again from the stream's beginning, and what has its answer is passed over. So is a stream
or a Redis that was emptied: the next read begins anew.

The stream keeps about `KEEP_REQUESTS` requests that were answered, to be looked back at. What is pending or was not
handed out yet is never trimmed.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import redis.asyncio

from consumers.deliveries import Fields, How, Taken, give_up
from streams.errors import BrokenKey
from streams.ids import StreamID
from streams.keys import TRAINERS, Keys
from streams.records import DeadRequest, PredictionResult, Record, TrainingResult

#: Most requests in one batch: they share a release and a save.
BATCH = 64
#: Answered requests, results, and dead letters of requests that are kept, about.
KEEP_REQUESTS = 10_000
KEEP_RESULTS = 100_000
KEEP_DEAD = 10_000
#: Answers to prediction requests that are kept, about: they may be large.
KEEP_PREDICTIONS = 1_000
#: How often consumers that are gone are looked for, s, and how long one is silent before it counts as gone, ms.
TIDY_EVERY_S = 60.0
TIDY_IDLE_MS = 3_600_000

Entry = tuple[StreamID, Fields]


@dataclass(frozen=True, slots=True)
class Limits:
    """When requests are taken over and given up; the fields are those of the settings."""

    claim_idle_ms: int = 30_000
    max_deliveries: int = 5

    @property
    def keep_every_s(self) -> float:
        """How often a trainer touches the requests that it works on, s: often enough to miss a few times."""
        return self.claim_idle_ms / 6000


class RequestQueue:
    """Takes and answers requests as one consumer of the group.

    Driver errors come out as they are. Every method raises `BrokenKey` if a key holds something of the wrong type.
    """

    def __init__(
        self,
        client: redis.asyncio.Redis,
        keys: Keys,
        consumer: str,
        limits: Limits,
        *,
        batch: int = BATCH,
        on_delivery: Callable[[How], None] = lambda how: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Put a queue together; nothing is sent yet.

        Args:
            consumer: a name that no other process has.
            on_delivery: told of every request that is taken.
            clock: seconds, monotonic.
        """
        self._client = client
        self._keys = keys
        self._consumer = consumer
        self._limits = limits
        self._batch = batch
        self._on_delivery = on_delivery
        self._clock = clock
        self._tidy_at = clock()
        self._call = secrets.token_hex(8)
        self._outputs: Mapping[type[Record], tuple[str, int]] = {
            TrainingResult: (keys.results, KEEP_RESULTS),
            PredictionResult: (keys.predictions, KEEP_PREDICTIONS),
            DeadRequest: (keys.dead, KEEP_DEAD),
        }

        def script(name: str) -> Any:
            return client.register_script(files("consumers").joinpath(f"{name}.lua").read_text("utf-8"))

        self._take_script, self._keep_script, self._leave_script, self._answer_script, self._tidy_script = map(
            script, ("take_requests", "keep_requests", "leave_requests", "answer_requests", "tidy_trainers")
        )

    async def read(self, block_ms: int) -> list[Entry]:
        """The next requests, oldest first; waits up to `block_ms` for new ones.

        A request whose entry was deleted comes without fields. One that was delivered too often does not come: it is
        given up here.
        """
        await self._tidy()
        taken, cursor = await self._take()
        if not taken:
            streams: dict[Any, Any] = {self._keys.requests: cursor}
            if not await self._client.xread(streams, count=1, block=block_ms):
                return []
            taken, _ = await self._take()
        for found in taken:
            self._on_delivery(found.how)
        spent = [found for found in taken if found.how is How.SPENT]
        if spent:
            await self._answer((found.entry, give_up(found)) for found in spent)
        # What was delivered is about to be handed on; until here it may have been lost.
        self._call = secrets.token_hex(8)
        rest = [(found.entry, found.fields) for found in taken if found.how is not How.SPENT]
        return sorted(rest, key=lambda entry: entry[0])

    async def _take(self) -> tuple[list[Taken], str]:
        """What there is to take now, and the last entry that the group was given."""
        keys = [self._keys.requests, self._keys.answered, self._keys.attempts]
        limits = self._limits
        arguments = [TRAINERS, self._consumer, limits.claim_idle_ms, limits.max_deliveries, self._batch, self._call]
        while True:
            cursor, more, *taken = _checked(await self._take_script(keys, arguments))
            if taken or not more:
                return [Taken.parse(row) for row in taken], cursor.decode()

    async def _tidy(self) -> None:
        if self._clock() >= self._tidy_at:
            self._tidy_at = self._clock() + TIDY_EVERY_S
            await self._tidy_script([self._keys.requests], [TRAINERS, self._consumer, TIDY_IDLE_MS])

    async def keep(self, entries: Sequence[StreamID]) -> list[StreamID]:
        """Say that these are being worked on; those that are still this consumer's."""
        if not entries:
            return []
        mine = await self._keep_script([self._keys.requests], [TRAINERS, self._consumer, *map(str, entries)])
        return [StreamID.parse(entry) for entry in mine]

    async def leave(self, entries: Sequence[StreamID], reason: str, *, give_back: bool) -> None:
        """Leave these undone.

        Args:
            reason: for the history.
            give_back: let other trainers take them at once, and do not count the delivery.
        """
        arguments = [TRAINERS, self._consumer, "1" if give_back else "0", reason[:300], *map(str, entries)]
        await self._leave_script([self._keys.requests, self._keys.attempts], arguments)

    async def answer(self, results: Sequence[tuple[StreamID, Record]]) -> int:
        """Add the results and acknowledge their requests; safe to repeat.

        Returns:
            How many were answered by this call; the others had their answer already.

        Raises:
            redis.RedisError: nothing was written, or, where the reply was lost, it may have been: call it again.
            BrokenKey: nothing was written.
        """
        return await self._answer((entry, (result,)) for entry, result in results)

    async def _answer(self, answers: Iterable[tuple[StreamID, Sequence[Record]]]) -> int:
        keys = [self._keys.requests, self._keys.answered, self._keys.attempts]
        arguments: list[str | int] = [TRAINERS, KEEP_REQUESTS]
        position: dict[str, int] = {}
        for entry, records in answers:
            arguments += (str(entry), len(records))
            for record in records:
                key, most = self._outputs[type(record)]
                if key not in position:
                    keys.append(key)
                    position[key] = len(keys)
                words = [word for pair in record.to_fields().items() for word in pair]
                arguments += (position[key], most, len(words), *words)
        if len(arguments) == 2:
            return 0
        (answered,) = _checked(await self._answer_script(keys, arguments))
        return int(answered)


def _checked(reply: Sequence[Any]) -> Sequence[Any]:
    """What follows `OK` in a script's answer."""
    if reply[0] == b"BROKEN":
        raise BrokenKey(reply[1].decode(), reply[2].decode())
    return reply[1:]
