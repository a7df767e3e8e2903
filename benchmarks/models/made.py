"""Ten thousand models for the benchmarks: trained once, kept under `build/benchmarks`, as a snapshot of a models Redis.

Each is an XGBoost model of its own, really trained: 100 trees of depth 3, on 1,000 made-up rows of 30 features with
labels of its own. Features come in 16 bins, so that nearly every tree has all of its 7 splits (the run says how many).
They are named as the ancestor's were: 10,806 of them, of five funds and IRIS. Training takes about 25 ms a model, one
process per core. What is stored is what a trainer stores: manifest with golden rows, serving block, forest and XGBoost
model of each, and one release in which all are champions.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from benchmarks.models.timing import show_progress
from benchmarks.server import own_server
from modelstore.kernel import ForestPack
from modelstore.manifest import Manifest, NaiveKind, Serving, feature_set_id
from modelstore.releases import Releases
from modelstore.store import ModelStore
from modelstore.version import NewVersion
from streams.keys import Keys

#: Models of each series, as many as the ancestor had.
ANCESTOR = {"SPY": 2263, "XLE": 2077, "XLF": 2170, "XLI": 2108, "XLU": 2170, "IRIS": 18}
ALL = sum(ANCESTOR.values())
COLUMNS = ("open", "high", "low", "close", "volume")
TREES, DEPTH, FEATURES, ROWS, BINS = 100, 3, 30, 1000, 16
FEATURE_SET = {"name": "made-up", "version": 1, "columns": [f"feature_{number:02}" for number in range(FEATURES)]}
FEATURES_ID = feature_set_id(FEATURE_SET)
TENANT = Keys("default")
WHERE = Path("build/benchmarks")
PARAMETERS = {
    "objective": "reg:squarederror", "tree_method": "hist", "max_bin": BINS, "max_depth": DEPTH, "learning_rate": 0.1,
    "min_child_weight": 0, "lambda": 0.0, "base_score": 0.0, "seed": 0,
}  # fmt: skip
#: Changed when what is stored of a version changes.
FORM = 2
_AT_ONCE = 50


@dataclass(frozen=True, slots=True)
class Made:
    """The models of a run.

    Attributes:
        snapshot: an RDB file with all of them.
        names: `SERIES/target`, in the order in which they were numbered.
        release: id of the release in which all are champions.
        splits: mean number of splits of a tree.
    """

    snapshot: Path
    names: tuple[str, ...]
    release: str
    splits: float

    @property
    def targets(self) -> tuple[str, ...]:
        """All targets that occur."""
        return tuple(dict.fromkeys(name.rpartition("/")[2] for name in self.names))


def names_of(count: int) -> list[str]:
    """So many names, shared out over the series as the ancestor's were."""
    series = {name: max(1, models * count // ALL) for name, models in ANCESTOR.items()}
    series["SPY"] += count - sum(series.values())
    targets = [f"{column}_{horizon}" for horizon, column in product(range(1, 2 + count // len(COLUMNS)), COLUMNS)]
    return [f"{name}:1d/{target}" for name, models in series.items() for target in targets[:models]]


def make(count: int) -> Made:
    """The models, trained now unless they are at hand."""
    import xgboost

    directory = WHERE / f"models-{count}"
    note = {"xgboost": xgboost.__version__, "numpy": np.__version__, "parameters": PARAMETERS, "form": FORM}
    about = directory / "made.json"
    if about.exists():
        found = orjson.loads(about.read_bytes())
        if found["note"] == note:
            return Made(directory / "models.rdb", tuple(names_of(count)), found["release"], found["splits"])
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    release, splits = _fill(directory / "models.rdb", names_of(count))
    about.write_bytes(orjson.dumps({"note": note, "release": release, "splits": splits}))
    return Made(directory / "models.rdb", tuple(names_of(count)), release, splits)


def _fill(snapshot: Path, names: Sequence[str]) -> tuple[str, float]:
    with own_server() as server, server.client() as client:
        champions: dict[tuple[str, str], str] = {}
        store, splits, done = ModelStore(client, TENANT), 0, 0
        for versions, found in _trained(names):
            store.put_many(versions)
            champions |= {(version.manifest.name, "champion"): version.digest for version in versions}
            splits, done = splits + found, done + len(versions)
            show_progress("training the models, once", done, len(names))
        if len({version for version in champions.values()}) != len(names):
            raise SystemExit("two models are the same: the figures would be of fewer models")
        release = Releases(client, TENANT).promote(champions, who="benchmarks", why="all of them").id
        client.save()
        shutil.move(server.directory / "dump.rdb", snapshot)
    return release, splits / len(names) / TREES


def _trained(names: Sequence[str]) -> Iterator[tuple[list[NewVersion], int]]:
    parts = [(at, names[at : at + _AT_ONCE]) for at in range(0, len(names), _AT_ONCE)]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with ProcessPoolExecutor(cores, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(train, *zip(*parts, strict=True))


def train(first: int, names: Sequence[str]) -> tuple[list[NewVersion], int]:
    """Versions of some models, the first of which has this number; and how many splits their trees have."""
    import xgboost

    from modelstore.compiler import compile_booster

    random = np.random.default_rng(first)
    rows = random.normal(size=(ROWS, FEATURES)).astype(np.float32)
    data = xgboost.QuantileDMatrix(rows, max_bin=BINS, nthread=1)
    golden = np.concatenate([rows[:3], np.full((1, FEATURES), np.nan, np.float32)])
    versions, splits = [], 0
    for number, name in enumerate(names, first):
        data.set_label(rows @ random.normal(size=FEATURES) + random.normal(size=ROWS))
        booster = xgboost.Booster(PARAMETERS | {"nthread": 1}, [data])
        for done in range(TREES):
            booster.update(data, done)
        splits += sum(tree.count("yes=") for tree in booster.get_dump())
        margins = booster.predict(xgboost.DMatrix(golden, nthread=1), output_margin=True)
        versions.append(
            NewVersion(
                manifest=plain_manifest(name, number).model_copy(update={"golden": _golden(golden, margins)}),
                serving=Serving(
                    number, FEATURES_ID, rows.min(0), rows.max(0), NaiveKind.MEAN, np.array([number], np.float32)
                ),
                forest=compile_booster(booster),
                ubj=bytes(booster.save_raw("ubj")),
            )
        )
    return versions, splits


def plain_manifest(name: str, number: int) -> Manifest:
    """As long as those of a trainer but for golden rows, with figures without meaning."""
    figures = np.random.default_rng(number).random(9)
    kinds = ("skill", "skill_low", "skill_high", "label_std", "train_rmse", "train_rmse_naive")
    fold = ("mse", "naive_mse", "skill")
    return Manifest(
        name=name,
        dataset={"fingerprint": f"{number:064x}", "rows": ROWS, "from": 0, "through": number},
        trained_through=number,
        feature_set=FEATURE_SET,
        target={"column": name.rpartition("/")[2].partition("_")[0], "horizon": 5},
        parameters=PARAMETERS | {"rounds": TREES, "most_rounds": TREES, "folds": 4},
        seed=0,
        naive={"kind": "mean", "value": float(number)},
        metrics={"rounds": TREES, "rows": ROWS} | dict(zip(kinds, figures.tolist(), strict=False)),
        folds=tuple(
            {"from": at, "through": at + 1, "rows": 250, "rounds": TREES} | dict(zip(fold, figures[at:], strict=False))
            for at in range(4)
        ),
        libraries={"numpy": np.__version__},
    )


def _golden(rows: NDArray[np.float32], margins: NDArray[np.float32]) -> dict[str, Any]:
    shown = [[None if np.isnan(value) else float(value) for value in row] for row in rows]
    return {"rows": shown, "margins": margins.tolist()}


def read(made: Made) -> tuple[ForestPack, list[bytes]]:
    """The forests, packed, and the XGBoost models, in the order of the names."""
    with own_server(snapshot=made.snapshot) as server, server.client() as client:
        store, champions = ModelStore(client, TENANT), Releases(client, TENANT).get(made.release).aliases
        digests = [champions[name, "champion"] for name in made.names]
        return ForestPack.build([store.forest(digest) for digest in digests]), [store.ubj(one) for one in digests]
