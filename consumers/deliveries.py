"""What is known of a request's deliveries, and what becomes of one that was delivered too often. Pure.

A request is *delivered* when a trainer takes it to carry it out. That is noted in Redis in the same step
(`take_requests.lua`), so the count is right even if the trainer is killed a moment later. A request that was delivered
`max_deliveries` times without an answer is given up: answered `failed`, and kept as a dead letter with its history.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import orjson

from consumers.answers import without_work
from streams.ids import StreamID
from streams.raw import escaped_fields, kept
from streams.records import DeadRequest, Record

Fields = dict[bytes, bytes]

#: Nanoseconds in a millisecond.
MS = 1_000_000
MAX_REASON = 300


class How(StrEnum):
    """How a request was taken."""

    NEW = "new"  #: not delivered before
    OWN = "own"  #: delivered to this trainer before
    CLAIMED = "claimed"  #: taken over from another trainer
    SPENT = "spent"  #: delivered as often as is allowed: to be given up
    GONE = "gone"  #: its entry was deleted


@dataclass(frozen=True, slots=True)
class History:
    """The deliveries of one request.

    Attributes:
        deliveries: how many.
        first, last: when, epoch ms.
        consumers: names of the trainers, in the order of their first delivery.
        reason: why the last one but this came to nothing; empty if nothing is known.
    """

    deliveries: int
    first: int
    last: int
    consumers: tuple[str, ...]
    reason: str = ""

    @classmethod
    def parse(cls, text: bytes) -> History:
        """Read the JSON that the scripts keep."""
        found: dict[str, Any] = orjson.loads(text)
        # Lua has one kind of table: an empty list comes as an empty object.
        consumers = tuple(found["consumers"] or ())
        return cls(int(found["deliveries"]), int(found["first"]), int(found["last"]), consumers, found["reason"])


@dataclass(frozen=True, slots=True)
class Taken:
    """A request as it was taken; `words` are its field names and values in turn, as they stand in the stream."""

    entry: StreamID
    how: How
    words: tuple[bytes, ...]
    history: History

    @classmethod
    def parse(cls, row: Sequence[Any]) -> Taken:
        """Read one row of the script's answer."""
        entry, how, words, history = row
        return cls(StreamID.parse(entry), How(how.decode()), tuple(words), History.parse(history))

    @property
    def fields(self) -> Fields:
        """Field -> value; of a name that occurs twice the last one."""
        return dict(zip(self.words[::2], self.words[1::2], strict=True))


def give_up(taken: Taken) -> tuple[Record, DeadRequest]:
    """The answer to a request that is given up, and its dead letter."""
    history = taken.history
    names = ", ".join(history.consumers) or "an unknown trainer"
    why = f"; the last time {history.reason}" if history.reason else ""
    detail = (
        f"delivered {history.deliveries} times without an answer (to {names}){why}. "
        "Look for what kills the trainer, then `red10 dead retry`"
    )
    result = without_work(taken.entry, taken.fields, "failed", f"given up: {detail}")
    words, note = kept(taken.words)
    letter = DeadRequest(
        reason="deliveries",
        detail=detail + note,
        request=str(taken.entry),
        deliveries=history.deliveries,
        consumers=history.consumers,
        first=history.first * MS,
        last=history.last * MS,
        last_reason=history.reason[:MAX_REASON] or None,
        fields=escaped_fields(words),
    )
    return result, letter
