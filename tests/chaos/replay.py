"""The undisturbed run: the archived input put through the pure scorer once, in order, in one process.

What the scorers under test put out must equal this to the bit, forecasts, signals and outcomes included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from consumers.spec import Spec
from modelstore.loaded import LoadedRelease
from streams.keys import Keys
from tests.chaos.evidence import Entry, Partition, Row
from tests.consumers.committed import Store

_BATCH = 500


def replay(
    spec: Spec,
    tenant: str,
    partition: int,
    archive: Sequence[Entry],
    releases: Mapping[str, LoadedRelease],
) -> Partition:
    """Every output of one partition, and the state that it ends in."""
    store = Store(spec, Keys(tenant).partition(partition), releases)
    scorer = store.scorer()
    for begin in range(0, len(archive), _BATCH):
        batch: list[Any] = [(f"{ms}-{seq}".encode(), words) for (ms, seq), words in archive[begin : begin + _BATCH]]
        store.run(scorer, batch)
    outputs: dict[str, list[Row]] = {
        key.partition("}:")[2]: [dict(zip(fields[::2], fields[1::2], strict=True)) for fields in rows]
        for key, rows in store.streams.items()
    }
    return Partition(outputs, store.state)
