"""How long a search takes among many versions, and what the index takes of memory per version.

Versions are small ones, made up: a search reads none of them, only the index. Their metrics are those that training
writes. Each query is run several times through `ModelStore.search`, which also reads names and numbers of what was
found. `python -m benchmarks models` calls `search_ms`; `python -m benchmarks search` runs it alone.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import redis

from modelstore.manifest import Manifest
from modelstore.search import Query
from modelstore.store import ModelStore
from modelstore.version import Incoming, RawVersion, digest_of
from streams.keys import Keys

VERSIONS = 100_000
REPETITIONS = 20
#: Targets of a series, and versions of a model; the number of series follows.
TARGETS = tuple(
    f"{column}_{horizon}" for column in ("open", "high", "low", "close", "volume") for horizon in (5, 10, 15)
)
OF_A_MODEL = 10
METRICS = (
    "skill", "skill_low", "skill_high", "out_of_fold_rows", "rounds", "rows", "label_std", "train_rmse",
)  # fmt: skip

#: What is asked for: from what finds little to what fits nearly everything, and is sorted by something else.
QUERIES = {
    "newest": Query(limit=50),
    "metric": Query(where="skill > 0.02", sort="skill", limit=50),
    "three metrics": Query(where="skill > -1 and skill_low > -1 and rows > 0", sort="train_rmse", limit=50),
    "series": Query(dataset="S7:1m", where="skill > 0", sort="skill", limit=50),
    "pattern": Query(dataset="S1*", target="close_*", where="skill > 0", sort="skill", limit=50),
    "common tag": Query(tags=("checked",), where="skill > 0", limit=50),
    "nothing": Query(where="skill > 1e9", limit=50),
}


def search_ms(client: redis.Redis, versions: int = VERSIONS, repetitions: int = REPETITIONS) -> dict[str, Any]:
    """Fill an empty tenant of a Redis with versions, search, and measure.

    Returns:
        `ms`: the slowest query's median; `p95_ms`: the highest 95th percentile; `queries`: both of each query, and how
        many versions it found; `versions`; `index_bytes`: used memory per version that the index takes.
    """
    store = ModelStore(client, Keys("search-benchmark"))
    fill(store, versions)
    found = {name: _measure(store, query, repetitions) for name, query in QUERIES.items()}
    return {
        "ms": max(one["ms"] for one in found.values()),
        "p95_ms": max(one["p95_ms"] for one in found.values()),
        "versions": versions,
        "index_bytes": index_bytes(store),
        "queries": found,
    }


def _measure(store: ModelStore, query: Query, repetitions: int) -> dict[str, Any]:
    taken = []
    for _ in range(repetitions):
        begun = time.perf_counter()
        found = store.search(query)
        taken.append(1000 * (time.perf_counter() - begun))
    return {"ms": float(np.median(taken)), "p95_ms": float(np.percentile(taken, 95)), "found": len(found)}


def fill(store: ModelStore, versions: int) -> None:
    """Store made-up versions, one in ten tagged."""
    random = np.random.default_rng(0)
    values = random.normal(scale=0.05, size=(versions, len(METRICS)))
    chunk: list[Incoming] = []
    for number in range(versions):
        chunk.append(_version(number, values[number]))
        if len(chunk) == 1000 or number + 1 == versions:
            store.put_incoming(chunk)
            chunk = []


def _version(number: int, values: Any) -> Incoming:
    model = number // OF_A_MODEL
    metrics: dict[str, float | int | None] = dict(zip(METRICS, values.tolist(), strict=True))
    metrics |= {
        "rounds": number % 41,
        "rows": 1000 + number,
        "skill_low": None if number % 7 == 0 else metrics["skill_low"],
    }
    manifest = Manifest(
        name=f"S{model // len(TARGETS)}:1m/{TARGETS[model % len(TARGETS)]}",
        dataset={},
        trained_through=1_700_000_000_000_000_000 + number,
        feature_set={},
        target={},
        parameters={},
        seed=number,
        metrics=metrics,
    )
    raw = RawVersion(manifest.canonical(), b"", b"", b"")
    tags = {"checked": ""} if number % 10 == 0 else {}
    return Incoming(digest_of(raw.parts), raw, manifest, tags)


def index_bytes(store: ModelStore) -> float:
    """Used memory that the index takes per version: what is given back when it and its field in each are dropped."""
    client, keys = store.client, store.keys
    count = store.count()
    before = client.info("memory")["used_memory"]
    store.index.drop()
    for name in store.names():
        with client.pipeline(transaction=False) as pipe:
            for info in store.versions(name):
                pipe.hdel(keys.version(info.digest), "row")
            pipe.execute()
    return float(before - client.info("memory")["used_memory"]) / max(count, 1)


def main(arguments: Sequence[str]) -> None:
    """Run it on a Redis that is empty and may be filled."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks search", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("url", help="URL of an empty Redis, such as unix:///tmp/redis.sock")
    parser.add_argument("--versions", type=int, default=VERSIONS)
    given = parser.parse_args(arguments)
    with redis.Redis.from_url(given.url, protocol=2) as client:
        print(json.dumps(search_ms(client, given.versions)))
