"""`memory`: what a model takes in Redis, as the growth of used_memory over an empty server, indexes included.

A whole version is everything that the store holds of the models, releases and indexes too, shared out over them. The
forest alone is what somebody stores who only scores: the forest of each version under its key, and the same indexes.
"""

from __future__ import annotations

from typing import cast

import redis

from benchmarks.models.made import TENANT, Made
from benchmarks.models.timing import median
from benchmarks.server import own_server

_PIPELINE = 200
#: What is part of a version; everything else is an index.
_PARTS = ("manifest", "serving", "ubj", "parts", "name", "number", "created")


def measure(made: Made, repeat: int) -> dict[str, float]:
    """The figures of the member, bytes per model."""
    found = [_measure(made) for _ in range(repeat)]
    whole, forest = ([one[part] / len(made.names) for one in found] for part in (0, 1))
    return {
        "forest_bytes": round(median(forest)),
        "forest_kb": round(median(forest) / 1024, 3),
        "version_bytes": round(median(whole)),
        "version_kb": round(median(whole) / 1024, 3),
        "p95_forest_kb": round(max(forest) / 1024, 3),
        "p95_version_kb": round(max(whole) / 1024, 3),
        "snapshot_bytes": round(made.snapshot.stat().st_size / len(made.names)),
        "repetitions": repeat,
    }


def _measure(made: Made) -> tuple[int, int]:
    with own_server() as empty, empty.client() as client:
        nothing = _used(client)
    with own_server(snapshot=made.snapshot) as server, server.client() as client:
        whole = _used(client)
        keys = [TENANT.version(digest.decode()) for digest in cast(list[bytes], client.zrange(TENANT.versions, 0, -1))]
        for at in range(0, len(keys), _PIPELINE):
            with client.pipeline(transaction=False) as pipe:
                for key in keys[at : at + _PIPELINE]:
                    pipe.hdel(key, *_PARTS)
                pipe.execute()
        return whole - nothing, _used(client) - nothing


def _used(client: redis.Redis) -> int:
    # What a connection of ours takes is the same in both.
    return int(client.info("memory")["used_memory"])
