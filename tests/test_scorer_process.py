"""A real scorer whose models come from a snapshot: what it serves, what it follows, and what it never loads."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import orjson
import pytest
import xgboost

from consumers.features import fingerprint
from modelstore.manifest import feature_set_id
from modelstore.releases import Releases
from modelstore.store import ModelStore
from modelstore.version import NewVersion
from streams.keys import Keys
from streams.publish import release_fields
from tests.consumers.walks import DAY_NS
from tests.modelstore.made import fitted
from tests.price_features import PRICES
from tests.servers import Server, embedded_binary, entries
from tests.workers import until, workers

TENANT = Keys("default")
PARTITION = TENANT.partition(0)


def version(seed: int) -> NewVersion:
    found = fitted("SPY:1d/close_1", seed)
    identity = feature_set_id(fingerprint(PRICES))
    return replace(found, serving=replace(found.serving, features=identity))


def forecast(of: NewVersion, price: float) -> float:
    """The naive forecast plus what XGBoost itself adds to it."""
    booster = xgboost.Booster({"nthread": 1}, model_file=bytearray(of.ubj))
    row = np.full((1, 4), price, np.float32)
    return float(of.serving.naive_table[0]) + float(booster.predict(xgboost.DMatrix(row), output_margin=True)[0])


@pytest.fixture
def models(tmp_path: Path) -> Iterator[Server]:
    """A store that snapshots are taken of; no worker ever talks to it."""
    server = Server(embedded_binary()).start()
    yield server
    server.close()


def release(models: Server, of: NewVersion, path: Path) -> str:
    """Put a version in force, and the snapshot of that in the place of the one before."""
    with models.client() as client:
        ModelStore(client, TENANT).put_many([of])
        found = Releases(client, TENANT).promote({("SPY:1d/close_1", "champion"): of.digest}, who="t", why="").id
        client.save()
    beside = path.with_name("beside")
    shutil.copy(models.directory / "dump.rdb", beside)
    beside.replace(path)
    return found


def mapped(pid: int) -> str:
    """Every file that a process has in its memory."""
    return Path(f"/proc/{pid}/maps").read_text()


def tick(price: float, day: int) -> dict[str, str]:
    return {"symbol": "SPY", "price": str(price), "size": "1", "ts": str(day * DAY_NS)}


def test_a_scorer_serves_and_follows_a_snapshot_and_never_loads_xgboost(
    server: Server, models: Server, tmp_path: Path
) -> None:
    path, first, second = tmp_path / "models.rdb", version(1), version(2)
    env = {
        "RED10_STREAMS_URL": server.url,
        "RED10_MODELS_URL": f"rdb://{path}",
        "RED10_DATA_DIR": str(tmp_path / "data"),
        "RED10_PARTITIONS": "1",
        "RED10_INTERVALS": "1d",
        "RED10_COLUMNS": "close",
        "RED10_HORIZONS": "1",
        "RED10_FEATURE_SET": "tests.price_features:PRICES",
        "RED10_FOLLOW_MS": "100",
        "PYTHONPATH": os.getcwd(),
    }
    with server.client() as client, workers(env, tmp_path) as team:

        def add(fields: dict[str, str]) -> None:
            client.xadd(PARTITION.ticks, cast(Any, fields))

        def predictions() -> Any:
            found = [fields for _, fields in entries(client, PARTITION.predictions)]
            return [(fields[b"release"].decode(), orjson.loads(fields[b"values"])[0]) for fields in found]

        def wait(condition: Any, what: str) -> None:
            until(condition, what, logs=team.logs)

        before = release(models, first, path)
        add(release_fields(before))
        for day in (1, 2):
            add(tick(400.0, day))
        worker = team.start("scorer")
        wait(lambda: len(predictions()) == 1, "the first bar is scored")
        assert predictions() == [(before, pytest.approx(forecast(first, 400.0), abs=1e-5))]

        after = release(models, second, path)
        wait(
            lambda: client.hget(PARTITION.state, "release") == after.encode(), "the new snapshot's release is in force"
        )
        add(tick(400.0, 3))
        wait(lambda: len(predictions()) == 2, "the second bar is scored")
        assert predictions()[1] == (after, pytest.approx(forecast(second, 400.0), abs=1e-5))

        assert worker.process is not None
        loaded = mapped(worker.process.pid)
        assert "llvmlite" in loaded, "this sees what is loaded"
        for name in ("xgboost", "numba", "scipy", "pandas", "pyarrow", "river", "boto"):
            assert f"/{name}" not in loaded, name
        assert worker.stop() == 0
    assert list((tmp_path / "data").iterdir()) == []


@pytest.mark.parametrize("role", ["trainer", "monitor"])
def test_a_worker_that_stores_models_refuses_a_snapshot(server: Server, tmp_path: Path, role: str) -> None:
    env = {"RED10_STREAMS_URL": server.url, "RED10_MODELS_URL": f"rdb://{tmp_path}/models.rdb"}
    with workers(env, tmp_path) as team:
        worker = team.start(role)
        assert worker.process is not None
        assert worker.process.wait(60) == 2
        assert "read only" in team.logs()
