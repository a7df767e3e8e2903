"""`reload`: from the start of a worker process to its first score, all models from an RDB file.

The worker is `red10 worker --role scorer` as anybody would start it, with `models_url=rdb://…`; a streams Redis runs,
in which a release entry and ticks wait. Measured is from the start of the process until a subscriber has the first
prediction, an entry with the forecasts of all models of SPY. So the figure includes Python, imports, the private Redis
that loads the file, reading, checking and packing all models, taking the partition over, and the commit.

Beside it: `Booster.load_model` on each model, from memory, in a process that has imported everything; and the floor, a
Redis that loads the file plus reading its forests by pipelined HGETs, from a process that runs already.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, cast

import orjson
import redis

from benchmarks.models.features import MADE_UP
from benchmarks.models.made import COLUMNS, TENANT, Made
from benchmarks.models.peers import Boosters
from benchmarks.models.timing import in_ms, median, ratio, timed
from benchmarks.server import OwnServer, own_server
from streams.publish import release_fields

_DAY_NS = 86_400_000_000_000
#: So many forests are asked for at once.
_PIPELINE = 200


def measure(made: Made, boosters: Boosters, repeat: int) -> dict[str, float]:
    """The figures of the member."""
    with own_server() as streams:
        # The first start reads everything from the disk, and may have to compile.
        ours = [_first_score(made, streams) for _ in range(repeat + 1)][1:]
    floors = [_floor(made) for _ in range(repeat)]
    loads = [boosters.load_all() for _ in range(repeat)]
    loading, reading = ([floor[part] for floor in floors] for part in (0, 1))
    floor = [sum(parts) for parts in floors]
    return in_ms(ours) | {
        "ratio_load_model": ratio(loads, ours),
        "ratio_floor": ratio(ours, floor),
        "load_model_ms": in_ms(loads)["ms"],
        "floor_ms": in_ms(floor)["ms"],
        "floor_redis_ms": round(1000 * median(loading), 3),
        "floor_read_ms": round(1000 * median(reading), 3),
        "repetitions": repeat,
    }


def _first_score(made: Made, streams: OwnServer) -> float:
    """Seconds from the start of a worker to its first prediction."""
    horizons = sorted({int(target.partition("_")[2]) for target in made.targets})
    keys = TENANT.partition(0)
    with tempfile.TemporaryDirectory(prefix="red10-bench-") as directory, streams.client() as client:
        client.flushall()
        client.xadd(keys.ticks, cast(Any, release_fields(made.release)))
        for day in range(3):
            stamp = str((day + 1) * _DAY_NS)
            client.xadd(keys.ticks, {"symbol": "SPY", "price": str(400 + day), "size": "1", "ts": stamp})
        settings = {
            "STREAMS_URL": streams.url,
            "MODELS_URL": f"rdb://{made.snapshot.absolute()}",
            "DATA_DIR": directory,
            "PARTITIONS": "1",
            "INTERVALS": "1d",
            "COLUMNS": ",".join(COLUMNS),
            "HORIZONS": ",".join(map(str, horizons)),
            "FEATURE_SET": f"{type(MADE_UP).__module__}:MADE_UP",
            "WEB_PORT": "0",
        }
        # Not what was set for the peers; and Python keeps what it compiled of the sources, as it does by itself.
        without = ("OMP_NUM_THREADS", "PYTHONDONTWRITEBYTECODE")
        inherited = {name: value for name, value in os.environ.items() if name not in without}
        environment = inherited | {f"RED10_{name}": value for name, value in settings.items()}
        begun = time.perf_counter()
        worker = subprocess.Popen(
            [sys.executable, "-m", "red10", "worker", "--role", "scorer"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=open(Path(directory) / "log", "wb"),  # noqa: SIM115  (the worker's, closed with this process)
        )
        try:
            [[_, [(_, fields)]]] = cast(Any, client.xread({keys.predictions: "0"}, count=1, block=60_000)) or [
                [0, [(0, {})]]
            ]
            seconds = time.perf_counter() - begun
        finally:
            worker.send_signal(signal.SIGTERM)
            worker.wait(30)
        _check(made, fields, Path(directory) / "log")
        return seconds


def _check(made: Made, fields: dict[bytes, bytes], log: Path) -> None:
    """The prediction must be of all models of the series."""
    if not fields:
        raise SystemExit(f"the worker gave no prediction; it said:\n{log.read_text()}")
    forecasts = orjson.loads(fields[b"values"])
    wanted = sum(name.startswith("SPY:") for name in made.names)
    if sum(value is not None for value in forecasts) != wanted:
        raise SystemExit(f"the first prediction has {len(forecasts)} forecasts, not {wanted}")


def _floor(made: Made) -> tuple[float, float]:
    begun = time.perf_counter()
    with own_server(snapshot=made.snapshot) as server, server.client() as client:
        loaded = time.perf_counter() - begun
        digests = [digest.decode() for digest in cast(list[bytes], client.zrange(TENANT.versions, 0, -1))]
        return loaded, timed(lambda: _read_forests(client, digests))


def _read_forests(client: redis.Redis, digests: list[str]) -> None:
    for at in range(0, len(digests), _PIPELINE):
        with client.pipeline(transaction=False) as pipe:
            for digest in digests[at : at + _PIPELINE]:
                pipe.hget(TENANT.version(digest), "forest")
            pipe.execute()
