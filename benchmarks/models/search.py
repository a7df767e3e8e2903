"""`search_ms`: how long a search takes among 100,000 versions, the slowest of several kinds of search.

The versions are of 2,000 models, 50 each, with manifests and figures as others have them; forests and XGBoost models
are a few bytes, since no search looks at them. They are made once and kept under `build/benchmarks`.
"""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.models.made import FEATURES, FEATURES_ID, FORM, TENANT, WHERE, names_of, plain_manifest
from benchmarks.models.timing import in_ms, median, show_progress, timed
from benchmarks.server import own_server
from modelstore.manifest import Serving
from modelstore.search import Query
from modelstore.store import ModelStore
from modelstore.version import NewVersion

MODELS, EACH = 2_000, 50
#: What people ask, and what must be found at least.
QUERIES = {
    "where": Query(where="skill > 0.02", sort="skill", limit=20),
    "narrow": Query(dataset="SPY:*", target="close_*", where="skill > 0.9", sort="skill", limit=20),
    "several": Query(where="skill > 0.5 and train_rmse < 0.5", sort="train_rmse", ascending=True, limit=20),
    "newest": Query(sort="created", limit=20),
    "age": Query(since_ms=1, where="skill > 0.02", sort="trained_through", limit=1000),
}


def measure(repeat: int) -> dict[str, float]:
    """The figures of the member."""
    with own_server(snapshot=_made()) as server, server.client() as client:
        store = ModelStore(client, TENANT)
        times: dict[str, list[float]] = {name: [] for name in QUERIES}
        for _ in range(repeat + 1):
            for name, query in QUERIES.items():
                times[name].append(timed(partial(_must_find, store, query)))
        # The first of each finds no connection, and numpy's caches cold.
        times = {name: taken[1:] for name, taken in times.items()}
        slowest = max(times.values(), key=median)
        each = {f"{name}_ms": in_ms(taken)["ms"] for name, taken in times.items()}
        return in_ms(slowest) | {"versions": store.count(), "repetitions": repeat} | each


def _must_find(store: ModelStore, query: Query) -> None:
    found = store.search(query)
    if len(found) != query.limit:
        raise SystemExit(f"{query} found {len(found)} versions, not {query.limit}")


def _made() -> Path:
    snapshot = WHERE / f"versions-{MODELS * EACH}-{FORM}.rdb"
    if snapshot.exists():
        return snapshot
    WHERE.mkdir(parents=True, exist_ok=True)
    low = np.zeros(FEATURES, np.float32)
    with own_server() as server, server.client() as client:
        store = ModelStore(client, TENANT)
        for done, name in enumerate(names_of(MODELS)):
            numbers = range(done * EACH, (done + 1) * EACH)
            store.put_many(
                [
                    NewVersion(
                        plain_manifest(name, number), Serving(number, FEATURES_ID, low, low), b"forest", b"%d" % number
                    )
                    for number in numbers
                ]
            )
            show_progress("making versions to search, once", (done + 1) * EACH, MODELS * EACH)
        client.save()
        shutil.move(server.directory / "dump.rdb", snapshot)
    return snapshot
