"""The monitor's checkpoint: how far it has read, and what it knows of each series.

Owns, in the streams role:

    red10:{T}:monitor   hash   counter       decimal, how often it was written
                               partition:P   the last entry of P's outcomes that was decided on
                               series:S      JSON: bar, incarnation, from, marks, retrain
                                             (`consumers.memory`)

It is written by compare and set on `counter` (`checkpoint.lua`), all fields in one step. Of two monitors at once one
writes and the other, told so, reads what the first has written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any, cast

import orjson
import redis

from streams.ids import StreamID
from streams.keys import Keys

_PARTITION, _SERIES = "partition:", "series:"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What is stored. Series as the monitor wrote them."""

    counter: int = 0
    positions: Mapping[int, StreamID] = field(default_factory=dict)
    series: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


class Checkpoints:
    """Reads and writes the checkpoint of one tenant. Driver errors come out as they are."""

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        self._client = client
        self._key = keys.monitor
        self._script = files("consumers").joinpath("checkpoint.lua").read_text("utf-8")

    def read(self) -> Checkpoint:
        """What is stored; empty if nothing is."""
        found = cast(dict[bytes, bytes], self._client.hgetall(self._key))
        text = {name.decode(): value for name, value in found.items()}
        return Checkpoint(
            int(text.get("counter", b"0")),
            {
                int(name.removeprefix(_PARTITION)): StreamID.parse(value)
                for name, value in text.items()
                if name.startswith(_PARTITION)
            },
            {
                name.removeprefix(_SERIES): orjson.loads(value)
                for name, value in text.items()
                if name.startswith(_SERIES)
            },
        )

    def write(self, counter: int, positions: Mapping[int, StreamID], series: Mapping[str, Mapping[str, Any]]) -> bool:
        """Write the fields given, if the counter is still this one; others stay.

        Returns:
            Whether it was; if an error is raised it may have been.
        """
        fields: list[str | bytes] = []
        for partition, position in positions.items():
            fields += (f"{_PARTITION}{partition}", str(position))
        for name, state in series.items():
            fields += (f"{_SERIES}{name}", orjson.dumps(state))
        argv = [str(counter), str(counter + 1), *fields]
        return bool(self._client.eval(self._script, 1, self._key, *cast(list[str], argv)))
