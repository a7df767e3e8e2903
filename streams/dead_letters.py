"""What was set aside: the dead letters of all partitions, and the requests that were given up. Look, publish again,
drop.

Reads the `dead` streams of a tenant and deletes from them; appends to ticks and requests. Owns

    red10:{T:p}:retried   zset   letters of other partitions that were published here again -> when, ms; the last `KEPT`

A letter is published again byte for byte as the entry that it is about. Letter and target share a slot mostly; then
appending and deleting are one script, and a letter cannot be published twice. A tick that came to the wrong partition
goes to the right one, in another slot: it is appended there once under a mark, then deleted here. A crash between the
two leaves the letter, and the mark tells the next try that only the deleting is left to do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, cast

import redis

from streams.clients import expecting
from streams.errors import BadName, BadRecord, Red10Error
from streams.ids import StreamID
from streams.raw import raw_words
from streams.records import DeadLetter, DeadRequest
from streams.series import check_symbol
from streams.tenant import Tenant

#: Where the requests that were given up are, in the references to letters.
REQUESTS = "requests"
#: Reason of an entry that is no dead letter of Red10's.
UNREADABLE = "unreadable"
#: Letters read in one piece.
PIECE = 1000
#: Marks kept per partition.
KEPT = 10_000


class NoSuchLetter(Red10Error):
    """A reference to a dead letter that is not there, or is none; carries it as `ref`."""

    def __init__(self, ref: str, detail: str) -> None:
        super().__init__(f"{detail}: `red10 dead list` shows the dead letters that are kept")
        self.ref = ref


class CannotRetry(Red10Error):
    """A dead letter that cannot be published again."""


@dataclass(frozen=True, slots=True)
class Letter:
    """One dead letter.

    Attributes:
        where: its partition as text, or `requests`.
        entry: its entry id.
        fields: its entry as it stands there.
        record: the same, read; `None` if it is no dead letter of Red10's.
    """

    where: str
    entry: StreamID
    fields: dict[bytes, bytes]
    record: DeadLetter | DeadRequest | None

    @property
    def ref(self) -> str:
        """How people name it: `7/1714573800123-0`."""
        return f"{self.where}/{self.entry}"

    @property
    def reason(self) -> str:
        """One short word."""
        return UNREADABLE if self.record is None else self.record.reason

    @property
    def words(self) -> list[bytes]:
        """Names and values of the entry that it is about; empty if they cannot be read."""
        return [] if self.record is None else raw_words(self.record.fields)


@dataclass(frozen=True, slots=True)
class Retried:
    """A letter that was published again.

    Attributes:
        key: the stream that it went to.
        entry: its new entry id; `None` if it had been published by an earlier try that did not come to its end.
    """

    ref: str
    key: str
    entry: StreamID | None


class DeadLetters:
    """The dead letters of one tenant. Driver errors come out as they are, but for `BrokenKey`: a key is no stream."""

    def __init__(self, client: redis.Redis, tenant: Tenant) -> None:
        self._client = client
        self._tenant = tenant
        partitions = {str(number): tenant.keys.partition(number).dead for number in range(tenant.partitions)}
        self._keys = {**partitions, REQUESTS: tenant.keys.dead}
        self._move = client.register_script(files("streams").joinpath("move_entry.lua").read_text("utf-8"))
        self._once = client.register_script(files("streams").joinpath("append_once.lua").read_text("utf-8"))

    def newest(self, count: int, reason: str | None = None) -> list[Letter]:
        """The newest letters of all streams, the newest first."""
        found = []
        for where in self._keys:
            of_one = 0
            for letter in self._read(where, backwards=True):
                if reason is None or letter.reason == reason:
                    found.append(letter)
                    of_one += 1
                if of_one == count:
                    break
        return sorted(found, key=lambda letter: letter.entry, reverse=True)[:count]

    def all(self, reason: str | None = None) -> Iterator[Letter]:
        """All letters, oldest first in each stream; those that come after the call began are left out.

        Letters may be retried or dropped meanwhile.
        """
        with self._client.pipeline(transaction=False) as pipe:
            for key in self._keys.values():
                pipe.xrevrange(key, count=1)
            newest = pipe.execute(raise_on_error=False)
        for where, rows in zip(self._keys, newest, strict=True):
            with expecting(self._keys[where], "stream"):
                if isinstance(rows, Exception):
                    raise rows
            if rows:
                end = rows[0][0].decode()
                yield from (found for found in self._read(where, end) if reason is None or found.reason == reason)

    def total(self) -> int:
        """How many letters are kept."""
        with self._client.pipeline(transaction=False) as pipe:
            for key in self._keys.values():
                pipe.xlen(key)
            return sum(pipe.execute())

    def get(self, ref: str) -> Letter:
        """One letter.

        Args:
            ref: `PARTITION/ENTRY` or `requests/ENTRY`; `ENTRY` alone if there is only one of that id.

        Raises:
            NoSuchLetter: there is none, or there are several.
        """
        where, slash, entry = ref.rpartition("/")
        try:
            wanted = StreamID.parse(entry)
        except ValueError:
            raise NoSuchLetter(ref, f"{ref!r} names no dead letter; write 7/1714573800123-0") from None
        if slash and where not in self._keys:
            raise NoSuchLetter(ref, f"{ref!r}: there is no partition {where!r} (0 to {self._tenant.partitions - 1})")
        found = [letter for place in ([where] if slash else self._keys) for letter in self._at(place, wanted)]
        if not found:
            raise NoSuchLetter(ref, f"there is no dead letter {ref}")
        if len(found) > 1:
            raise NoSuchLetter(ref, f"{ref} is ambiguous ({', '.join(letter.ref for letter in found)})")
        return found[0]

    def retry(self, letter: Letter) -> Retried | None:
        """Publish a letter's entry again and delete the letter; safe to repeat.

        Returns:
            Where it went; `None` if the letter is not there any more, because somebody else was faster.

        Raises:
            CannotRetry: the letter does not hold an entry.
        """
        words = letter.words
        # A bar that could not be computed is told of, but it came as ticks, and those counted.
        if not words or words[:2] == [b"kind", b"bar"]:
            raise CannotRetry(
                f"{letter.ref} holds no entry that could be published again: `red10 dead show {letter.ref}` shows it, "
                f"`red10 dead drop {letter.ref}` deletes it"
            )
        dead = self._keys[letter.where]
        if letter.where == REQUESTS:
            return self._moved(letter, dead, self._tenant.keys.requests, words)
        partition = self._partition_of(letter, words)
        home = self._tenant.keys.partition(partition)
        if str(partition) == letter.where:
            return self._moved(letter, dead, home.ticks, words)
        if not self._at(letter.where, letter.entry):
            return None
        entry: Any = self._once([home.ticks, home.retried], [KEPT, letter.ref, *words])
        self._client.xdel(dead, str(letter.entry))
        return Retried(letter.ref, home.ticks, StreamID.parse(entry) if entry else None)

    def drop(self, letter: Letter) -> bool:
        """Delete a letter; whether it was still there."""
        return bool(self._client.xdel(self._keys[letter.where], str(letter.entry)))

    def _moved(self, letter: Letter, dead: str, target: str, words: list[bytes]) -> Retried | None:
        entry: Any = self._move([dead, target], [str(letter.entry), *words])
        return Retried(letter.ref, target, StreamID.parse(entry)) if entry else None

    def _partition_of(self, letter: Letter, words: list[bytes]) -> int:
        """The right partition of a tick; of anything else the one that it came to."""
        symbol = dict(zip(words[::2], words[1::2], strict=True)).get(b"symbol", b"")
        try:
            return self._tenant.partition_of(check_symbol(symbol.decode()))
        except (BadName, UnicodeDecodeError):
            return int(letter.where)

    def _at(self, where: str, entry: StreamID) -> list[Letter]:
        with expecting(self._keys[where], "stream"):
            rows = cast(list[Any], self._client.xrange(self._keys[where], str(entry), str(entry)))
        return [self._letter(where, *row) for row in rows]

    def _read(self, where: str, end: str = "+", *, backwards: bool = False) -> Iterator[Letter]:
        first, last = "-", end
        while True:
            key = self._keys[where]
            with expecting(key, "stream"):
                read = self._client.xrevrange(key, last, first, PIECE) if backwards else None
                piece = cast(list[Any], read if read is not None else self._client.xrange(key, first, last, PIECE))
            for row in piece:
                yield self._letter(where, *row)
            if len(piece) < PIECE:
                return
            beyond = f"({piece[-1][0].decode()}"
            first, last = (first, beyond) if backwards else (beyond, last)

    def _letter(self, where: str, entry: bytes, fields: dict[bytes, bytes]) -> Letter:
        kind = DeadRequest if where == REQUESTS else DeadLetter
        try:
            record: DeadLetter | DeadRequest | None = kind.from_fields(fields)
        except BadRecord:
            record = None
        return Letter(where, StreamID.parse(entry), fields, record)
