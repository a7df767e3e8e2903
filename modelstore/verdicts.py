"""What was decided about models, and why: put in force, promoted, proven, dropped, seen to drift.

Owns, in the models role:

    red10:{T}:verdicts:NAME   stream   one entry per decision about a model, the last 100 or so, in the order in which
                                       they were made
                                       at       event time of the decision, epoch ns
                                       verdict  one word
                                       version  digest that it is about
                                       over     digest that it was held against, "" for none
                                       reason   a sentence
                                       release  the release that the decision put in force, or that was

`switch_release.lua` writes an entry in the same call as the switch that it explains. A decision that switches nothing
is written by `note`. Either way a verdict about a version stands there once for one moment: what is written again,
because a reply was lost or its writer began anew, is passed over while it is among the last `RECENT`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import cast

import redis

from streams.keys import Keys

#: About how many verdicts are kept per model.
KEPT = 100
#: How many of the last ones are looked at for the same verdict.
RECENT = 20
#: Longest reason, in characters.
MAX_REASON = 300


@dataclass(frozen=True, slots=True)
class Note:
    """One decision about a model. Fields: see the module; `name` is the model's."""

    name: str
    at: int
    verdict: str
    version: str
    over: str | None
    reason: str

    def values(self) -> list[str]:
        """What the scripts take: at, verdict, version, over, reason."""
        return [str(self.at), self.verdict, self.version, self.over or "", self.reason[:MAX_REASON]]


@dataclass(frozen=True, slots=True)
class Noted:
    """A decision as it is on record, with the release and the store's time of writing, epoch ms."""

    note: Note
    release: str
    created_ms: int


class Verdicts:
    """Reads verdicts, and writes those that switch nothing. Driver errors come out as they are."""

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        self._client = client
        self._keys = keys
        self._script = files("modelstore").joinpath("note_verdict.lua").read_text("utf-8")

    def note(self, notes: Sequence[Note]) -> None:
        """Write verdicts down, all or none of them; what stands there already is passed over."""
        if not notes:
            return
        keys = [self._keys.release_pointer, *(self._keys.verdicts(note.name) for note in notes)]
        values = [value for note in notes for value in note.values()]
        self._client.eval(self._script, len(keys), *keys, str(KEPT), str(RECENT), *values)

    def of(self, name: str, count: int = KEPT) -> list[Noted]:
        """The last verdicts on a model, the newest first."""
        entries = cast(
            list[tuple[bytes, Mapping[bytes, bytes]]], self._client.xrevrange(self._keys.verdicts(name), count=count)
        )
        return [_noted(name, entry, fields) for entry, fields in entries]


def _noted(name: str, entry: bytes, fields: Mapping[bytes, bytes]) -> Noted:
    text = {field.decode(): value.decode() for field, value in fields.items()}
    note = Note(name, int(text["at"]), text["verdict"], text["version"], text["over"] or None, text["reason"])
    return Noted(note, text["release"], int(entry.partition(b"-")[0]))
