"""How a publisher numbers its ticks, so that none is appended twice and none left out.

Owns, as a writer, the publisher's record in `red10:{T:p}:publishers` (see `publish.lua`). A publisher counts the ticks
that it sends to each partition; a tick's place in that sequence is its identity. The log keeps how many of them it has
taken, in the same script call that appends them. So a call whose reply was lost is sent again without harm, and a
source that can be read again from its start (a file) can be published again after a crash: what the log has is passed
over.

- An *anonymous* publisher is a sequence of its own, made with the object and forgotten when it is closed, unless a
  reply was lost: a call that is still on its way must find the record.
- A *named* one goes on where the last publisher of this name stopped. The same name says: the same sequence, if it
  begins again. If it does not (a live feed), or has no name (and its process was forked), another publisher of the
  name has ticks of its own: then this one goes on numbering behind them, and none is passed over for the other's.

A `Numbering` is in memory what the log is believed to have; a crash loses nothing, since the records are asked first.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, field

from streams.errors import BadName
from streams.keys import PartitionKeys

#: A publisher that was silent for so long is forgotten, ms: a week.
EXPIRY_MS = 7 * 24 * 3600 * 1000

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,63}")


def check_publisher(name: str) -> str:
    """Check a publisher's name; return it.

    Raises:
        BadName: it cannot be one.
    """
    if not _NAME.fullmatch(name):
        raise BadName(
            f"{name!r} is no publisher's name: use 1 to 64 of the letters A-Z a-z, digits and . _ - : / @ +, beginning "
            "with a letter or digit"
        )
    return name


@dataclass(slots=True)
class Place:
    """Where a publisher is in one partition.

    Attributes:
        sent: ticks of its sequence that it has come past.
        taken: ticks of its sequence that the log is known to have; more than `sent` where it begins again.
        last: the last entry that it knows of, "" for none.
        doubtful: whether ticks of a sequence that can be sent again were left in doubt: it must begin again.
    """

    sent: int = 0
    taken: int = 0
    last: str = ""
    doubtful: bool = False


@dataclass(slots=True)
class Numbering:
    """A publisher's name, and where it is in every partition.

    Attributes:
        name: as it stands in the log.
        named: whether the name was given.
        repeats: whether others of this name publish the same ticks, which can be sent again from the first one on.
        places: by the key of the partition's stream.
        passed_over: ticks that were not sent, since the log had them.
        gaps: how often the log turned out to have lost ticks of this publisher that it had acknowledged.
        lost: how many those were, as far as is known.
        resets: how often the log knew nothing of what this publisher had sent.
        rivals: how often another publisher of this name, with other ticks, had come first.
        unsure: whether a reply was ever lost, so that a call may still be on its way.
        script_known: whether the server is believed to know the script.
    """

    name: str
    named: bool
    repeats: bool
    places: dict[str, Place] = field(default_factory=dict)
    passed_over: int = 0
    gaps: int = 0
    lost: int = 0
    resets: int = 0
    rivals: int = 0
    unsure: bool = False
    script_known: bool = False

    @classmethod
    def of(cls, name: str | None, *, from_start: bool = True) -> Numbering:
        """A named one, which begins its sequence again or does not, or an anonymous one for `None`.

        Raises:
            BadName: the name cannot be one.
        """
        if name is None:
            return cls("~" + secrets.token_hex(8), False, False)
        return cls(check_publisher(name), True, from_start)

    def place(self, keys: PartitionKeys) -> Place:
        """Where the publisher is in a partition."""
        return self.places.setdefault(keys.ticks, Place())


def taken_of(record: bytes | None) -> int:
    """How many ticks a publisher's record says were taken; 0 without one.

    Raises:
        ValueError: it is no record.
    """
    return 0 if record is None else int(record.split(b" ", 1)[0])
