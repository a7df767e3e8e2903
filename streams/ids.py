"""Positions in the log: entry ids, and the source of an output down to the tick.

A `StreamID` is an ordered pair of integers and is never compared as text ("9-0" sorts after "10-0" as text).
"""

from __future__ import annotations

from typing import NamedTuple

MAX_U64 = 2**64 - 1


class StreamID(NamedTuple):
    """A Redis stream entry id: milliseconds and sequence number, both unsigned 64 bit."""

    ms: int
    seq: int

    @classmethod
    def parse(cls, text: str | bytes) -> StreamID:
        """Read `"1526919030474-55"` (or `"1526919030474"`, sequence 0).

        Raises:
            ValueError: the text is no entry id.
        """
        raw = text.decode("ascii", "replace") if isinstance(text, bytes) else text
        ms, _, seq = raw.partition("-")
        if not (ms.isascii() and ms.isdigit() and (seq == "" or (seq.isascii() and seq.isdigit()))):
            raise ValueError(f"{raw!r} is no stream entry id; expected MILLISECONDS-SEQUENCE such as 1526919030474-0")
        found = cls(int(ms), int(seq or 0))
        if found.ms > MAX_U64 or found.seq > MAX_U64:
            raise ValueError(f"{raw!r} is no stream entry id: a part exceeds 64 bits")
        return found

    def next(self) -> StreamID:
        """The smallest id after this one."""
        return StreamID(self.ms, self.seq + 1) if self.seq < MAX_U64 else StreamID(self.ms + 1, 0)

    def __str__(self) -> str:
        return f"{self.ms}-{self.seq}"


ZERO = StreamID(0, 0)


class Source(NamedTuple):
    """Where an output comes from: `incarnation:entry:tick:ordinal`.

    Attributes:
        incarnation: how often the partition's input stream began anew (0 for the first).
        entry: the input entry.
        tick: the tick's index within the entry (0 unless the entry is a block).
        ordinal: numbers the outputs that one tick causes, from 0; on a position without output it is 0.
    """

    incarnation: int
    entry: StreamID
    tick: int
    ordinal: int

    @classmethod
    def parse(cls, text: str | bytes) -> Source:
        """Read the text form, `"0:1526919030474-55:0:2"`.

        Raises:
            ValueError: the text is no source.
        """
        raw = text.decode("ascii", "replace") if isinstance(text, bytes) else text
        parts = raw.split(":")
        if len(parts) != 4:
            raise ValueError(f"{raw!r} is no source; expected INCARNATION:ENTRY:TICK:ORDINAL")
        return cls(int(parts[0]), StreamID.parse(parts[1]), int(parts[2]), int(parts[3]))

    def __str__(self) -> str:
        return f"{self.incarnation}:{self.entry}:{self.tick}:{self.ordinal}"
