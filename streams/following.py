"""Following output streams: where to read next, what was read, and what to do when a stream is not what it was.

A `Follower` does no I/O: it says what to ask Redis (generators that yield `Ask` and `Pause`) and is sent the answers;
`streams.subscribe` does the asking. It reads with XREAD, without a consumer group, so it needs no right to write and
leaves nothing behind. Records come in order per series; across partitions only about so.

Streams of bars of all symbols are found by SCAN, and looked for again every `CHECK_S`.

A stream may come back shorter than the position in it, which is looked at after each reconnection and every `CHECK_S`.
If its last entry is one that was read lately, the tail was lost (fail-over, power loss): reading goes on behind it.
Otherwise it began anew: it is read from its start. Either is logged.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import SecretStr

from streams.clients import Backoff, Verdict, classify, explain, safe_url
from streams.errors import BadRecord
from streams.ids import ZERO, StreamID
from streams.records import Record
from streams.wanted import KINDS, Position, Start

log = logging.getLogger("streams.subscribe")

#: Seconds between looks for new streams of bars, and for streams that are shorter than the position in them.
CHECK_S = 5.0
#: Most entries that one read takes from each stream.
READ_COUNT = 1000
#: Ids per stream that are remembered, to tell a lost tail from a stream that began anew.
REMEMBERED = 1000


@dataclass(frozen=True, slots=True)
class Ask:
    """Send these commands in one round trip; the answer is a list, errors of the server among it."""

    commands: Sequence[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Item:
    """A record and where it stood."""

    stream: str
    id: StreamID
    record: Record


@dataclass(frozen=True, slots=True)
class Read:
    """What one read gave: the records that are wanted, and whether there was nothing more to read."""

    items: list[Item]
    exhausted: bool


#: Yields what to do, is sent the answers to an `Ask` (or thrown the driver's error), returns what was asked for.
Steps = Generator[Ask | Pause, list[Any], Any]


class Follower:
    """The state of one subscriber.

    Args:
        start: what is wanted, and from where on.
        url: for messages.
        now: a monotonic clock, seconds.
    """

    def __init__(self, start: Start, url: SecretStr | str, now: Callable[[], float] = time.monotonic) -> None:
        self._wanted = start.wanted
        self._from_now = start.from_now
        self._at = dict(start.at)
        self._url = url
        self._now = now
        self._recent: dict[str, deque[StreamID]] = {}
        self._begun = False
        self._checked = now()
        self._away = False
        self._backoff = Backoff()
        #: Entries that could not be read as records and were passed over.
        self.skipped = 0

    @property
    def position(self) -> Position:
        """How far what was handed out reaches."""
        return self._wanted.position(self._at)

    def handed_out(self, item: Item) -> None:
        """The position moves behind this item."""
        self._at[item.stream] = item.id

    def begin(self) -> Steps:
        """Find the streams and where to begin in each; a second call does nothing."""
        if self._begun:
            return
        keys = yield from self._streams()
        new = [key for key in keys if key not in self._at]
        before = self._wanted.before()
        if self._from_now or before > ZERO:
            # A position beyond a stream's end would look as if the stream had begun anew.
            for key, end in (yield from self._last_ids(new)).items():
                self._at[key] = end if self._from_now else min(end, before)
        else:
            self._at.update(dict.fromkeys(new, ZERO))
        self._begun = True

    def poll(self, block_ms: int, *, patient: bool) -> Steps:
        """One read of all streams: a `Read`, in order of entry id; its records count as not yet handed out.

        Args:
            block_ms: how long to wait for a first entry; 0 not at all.
            patient: pause and give nothing while Redis is away, instead of raising.
        """
        try:
            yield from self.begin()
            if self._away or self._now() - self._checked >= CHECK_S:
                yield from self._check()
            wait = ("BLOCK", block_ms) if block_ms else ()
            if not self._at:
                yield Pause(block_ms / 1000)
                return Read([], True)
            ids = [str(entry) for entry in self._at.values()]
            [reply] = yield Ask([("XREAD", "COUNT", READ_COUNT, *wait, "STREAMS", *self._at, *ids)])
            if isinstance(reply, Exception):
                raise reply
        except Exception as error:
            if not patient or classify(error) is not Verdict.RETRY:
                raise
            if not self._away:
                self._away = True
                log.warning("%s Waiting for it.", explain(error, self._url))
            yield Pause(self._backoff.next())
            return Read([], False)
        if self._away:
            self._away = False
            self._backoff.reset()
            log.warning("Redis at %s answers again.", safe_url(self._url))
        return Read(self._items(reply), not reply)

    def _streams(self) -> Steps:
        return (yield from self._scan()) if self._wanted.all_bars else self._wanted.streams()

    def _scan(self) -> Steps:
        pattern = f"red10:{{{self._wanted.tenant.keys.tenant}:*}}:bars:*"
        cursor, found = 0, set[str]()
        while True:
            [reply] = yield Ask([("SCAN", cursor, "MATCH", pattern, "COUNT", 1000, "TYPE", "stream")])
            if isinstance(reply, Exception):
                raise reply
            cursor = int(reply[0])
            found.update(key.decode() for key in reply[1])
            if cursor == 0:
                return sorted(found)

    def _last_ids(self, keys: Sequence[str]) -> Steps:
        """The last id that each stream ever gave; zero where there is no stream."""
        if not keys:
            return {}
        replies = yield Ask([("XINFO STREAM", key) for key in keys])
        last = {}
        for key, reply in zip(keys, replies, strict=True):
            if isinstance(reply, Exception):
                if "no such key" not in str(reply):
                    raise reply
                last[key] = ZERO
            else:
                last[key] = StreamID.parse(reply["last-generated-id"])
        return last

    def _check(self) -> Steps:
        """Look for new streams of bars, and for streams that are shorter than the position in them."""
        self._checked = self._now()
        if self._wanted.all_bars:
            for key in (yield from self._streams()):
                # Whatever is in a stream that came up meanwhile is new.
                self._at.setdefault(key, ZERO)
        last = yield from self._last_ids([key for key, entry in self._at.items() if entry > ZERO])
        for key, end in last.items():
            at = self._at[key]
            if end >= at:
                continue
            if end in self._recent.get(key, ()):
                log.warning("%s lost its entries after %s; going on from there.", key, end)
                self._at[key] = end
            else:
                log.warning("%s began anew (it ends at %s, before %s): reading it from its start.", key, end, at)
                self._at[key] = ZERO

    def _items(self, reply: Any) -> list[Item]:
        items: list[Item] = []
        for name, entries in reply or ():
            key = name.decode()
            recent = self._recent.setdefault(key, deque(maxlen=REMEMBERED))
            for raw_id, fields in entries:
                entry = StreamID.parse(raw_id)
                recent.append(entry)
                record = self._record(key, entry, fields)
                if record is not None:
                    items.append(Item(key, entry, record))
            # What stands behind the last wanted record is passed over with it, so that it is not read again.
            if entries and (not items or items[-1].stream != key):
                self._at[key] = StreamID.parse(entries[-1][0])
        # A batch may hold more of one stream than of another; ids are times, so this is nearly the order of events.
        items.sort(key=lambda item: item.id)
        return items

    def _record(self, key: str, entry: StreamID, fields: Mapping[bytes, bytes] | None) -> Record | None:
        try:
            record = KINDS[self._wanted.kind].from_fields(fields or {})
        except BadRecord as error:
            self.skipped += 1
            log.warning("%s %s is passed over: %s", key, entry, error)
            return None
        return record if self._wanted.wants(record, entry) else None
