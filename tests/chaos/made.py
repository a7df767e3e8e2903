"""Evidence of a run in which nothing went wrong, made in memory: for tests that then make something wrong in it."""

from __future__ import annotations

import zlib
from typing import Any, cast

from consumers.scorer_process import make_spec
from consumers.spec import Spec
from streams.keys import Keys
from streams.settings import Settings
from streams.tenant import Tenant
from tests.chaos.evidence import Entry, Evidence, Partition, Row, Said
from tests.chaos.feed import feeds
from tests.chaos.pipeline import PARTITIONS, SETTINGS
from tests.consumers.committed import Store

TENANT = "made"
#: Epoch ms of the first entry.
_FIRST_MS = 1_790_000_000_000


def spec() -> Spec:
    """The pipeline under test."""
    settings = Settings(**cast(dict[str, Any], {**SETTINGS, "tenant": TENANT}))
    return make_spec(Tenant(Keys(TENANT), PARTITIONS, settings.pipeline), settings)


def archive(seed: int, count: int) -> tuple[list[Any], dict[int, list[Entry]]]:
    """Feeds, and the log as it would be if their publishers took turns."""
    found: dict[int, list[Entry]] = {at: [] for at in range(PARTITIONS)}
    sources = feeds(seed, count)
    for number, row in enumerate(zip(*(feed.ticks() for feed in sources), strict=True)):
        for tick in row:
            words = ["symbol", tick.symbol, "price", repr(tick.price), "size", repr(tick.size), "ts", str(tick.ts)]
            entry = ((_FIRST_MS + number, len(found[zlib.crc32(tick.symbol.encode()) % PARTITIONS])), words)
            found[zlib.crc32(tick.symbol.encode()) % PARTITIONS].append((entry[0], [word.encode() for word in words]))
    return [(feed, Said(feed.count, True)) for feed in sources], found


def evidence(seed: int = 1, count: int = 2800) -> Evidence:
    """A whole run's evidence: outputs by the pure scorer, two owners one after the other, two trained requests."""
    said, entries = archive(seed, count)
    pipeline = spec()
    partitions = {}
    for at, rows in entries.items():
        store = Store(pipeline, Keys(TENANT).partition(at), {})
        scorer = store.scorer()
        store.run(scorer, cast(Any, [(f"{ms}-{seq}".encode(), words) for (ms, seq), words in rows]))
        outputs: dict[str, list[Row]] = {
            key.partition("}:")[2]: [dict(zip(fields[::2], fields[1::2], strict=True)) for fields in written]
            for key, written in store.streams.items()
        }
        partitions[at] = Partition(outputs, store.state)
    return Evidence(
        spec=pipeline,
        tenant=TENANT,
        feeds=said,
        archive=entries,
        partitions=partitions,
        journal=[
            *owner("one", 100, (1, 2, 3)),
            {"what": "commit", "answer": "FENCED", "counter": 4, **common("one"), "began": 510, "at": 512},
            *owner("two", 500, (4, 5)),
        ],
        posted=["a"],
        requests=[("1-0", "a"), ("2-0", "b")],
        results=[{"request": "1-0", "status": "done"}, {"request": "2-0", "status": "refused"}],
        versions={"P0.0:1s/close_1": ["aa", "bb"]},
    )


def common(token: str) -> dict[str, Any]:
    return {"token": token, "partition": 0, "tenant": TENANT}


def owner(token: str, at: int, counters: tuple[int, ...]) -> list[dict[str, Any]]:
    """The journal of one owner: a lease, then commits ten apart."""
    lines: list[dict[str, Any]] = [{"what": "acquired", "at": at, **common(token)}]
    for place, counter in enumerate(counters, 1):
        began = at + 10 * place
        lines.append(
            {"what": "commit", "answer": "OK", "counter": counter, "began": began, "at": began + 2, **common(token)}
        )
    return lines
