"""Versions for tests, made up or fitted; all of them small."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import redis

from modelstore.manifest import Manifest, NaiveKind, Serving
from modelstore.version import NewVersion

FEATURES = 4


#: Id of the feature set that made-up versions are of.
FEATURE_SET = b"features"


def contents(client: redis.Redis) -> dict[bytes, object]:
    """Everything in a Redis by value. (DUMP of equal hashes can differ.)"""
    found: dict[bytes, object] = {}
    for key in client.scan_iter():
        match client.type(key):
            case b"hash":
                found[key] = client.hgetall(key)
            case b"zset":
                found[key] = client.zrange(key, 0, -1, withscores=True)
            case b"set":
                found[key] = client.smembers(key)
            case b"list":
                found[key] = client.lrange(key, 0, -1)
            case b"stream":
                found[key] = client.xrange(key)
            case _:
                found[key] = client.get(key)
    return found


def manifest(name: str, through: int) -> Manifest:
    return Manifest(
        name=name,
        dataset={"fingerprint": "00", "rows": 1, "from": 0, "through": through},
        trained_through=through,
        feature_set={"name": "made", "version": 1, "columns": [f"f{index}" for index in range(FEATURES)]},
        target={"column": "close", "horizon": 5},
        parameters={"rounds": 3},
        seed=0,
    )


def made_up(name: str, seed: int = 0) -> NewVersion:
    """A version whose forest and model are bytes without meaning; another seed makes another version."""
    random = np.random.default_rng(seed)
    low = random.normal(size=FEATURES).astype(np.float32)
    return NewVersion(
        manifest(name, seed), Serving(seed, FEATURE_SET, low, low + 1), random.bytes(700), random.bytes(1500)
    )


def made_up_many(names: Sequence[str], seed: int = 0) -> list[NewVersion]:
    return [made_up(name, seed) for name in names]


def fitted(name: str, seed: int = 0, features: int = FEATURES) -> NewVersion:
    """A version of a real booster and a mean as its naive forecast; another seed makes another version."""
    import xgboost

    from modelstore.compiler import compile_booster

    random = np.random.default_rng(seed)
    rows = random.normal(size=(60, features)).astype(np.float32)
    booster = xgboost.train(
        {"max_depth": 2, "nthread": 1, "base_score": 0.0}, xgboost.DMatrix(rows, rows[:, 0] + seed), num_boost_round=3
    )
    return NewVersion(
        manifest(name, seed),
        Serving(
            seed,
            FEATURE_SET,
            rows.min(axis=0),
            rows.max(axis=0),
            NaiveKind.MEAN,
            np.array([0.25 + seed], np.float32),
        ),
        compile_booster(booster),
        bytes(booster.save_raw("ubj")),
    )
