"""Many more ticks than Redis has room for, with a scorer that pauses: does everything arrive, within the memory?

    python -m benchmarks memory [--ticks 10000000] [--maxmemory-mb 256] [--pause 5] [--server PATH] [--json]

A publisher sends ticks in blocks as fast as it can to an embedded Redis with that much `maxmemory`; a scorer makes
one-minute bars of 100 symbols and keeps nothing that is consumed. When a third is sent the scorer is stopped (SIGSTOP)
for `--pause` seconds, or until memory stands at the mark, whichever comes later. Memory is looked at 50 times a second.

It is no race: the figures of interest are the greatest memory, how long the publisher was held back, and that bars and
open bars hold every tick once.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import orjson
import redis

from ops.embedded import open_roles
from ops.entries import all_entries
from ops.up import worker_env
from producers.publisher import TickPublisher
from streams.clients import connect
from streams.columns import Ticks
from streams.settings import load_settings
from streams.tenant import Tenant

SYMBOLS = tuple(f"S{number:03d}" for number in range(100))
#: Ticks of all symbols between two of the same symbol are this far apart, ns: 1,000 ticks per symbol and minute.
STEP_NS = 600_000
#: 2024-01-01.
BEGIN_NS = 1_704_067_200_000_000_000
PIECE = 200_000


@dataclass(frozen=True, slots=True)
class Found:
    """What came of it.

    Attributes:
        ticks: sent.
        counted: ticks in closed and open bars.
        maxmemory_mb, greatest_mb: what Redis may use, and the most that it used.
        throttled_s: how long the publisher was held back.
        seconds: from the first tick sent to the last one consumed.
        ticks_per_s: over all that time, pause included.
    """

    ticks: int
    counted: int
    maxmemory_mb: int
    greatest_mb: float
    throttled_s: float
    seconds: float
    ticks_per_s: float


class _Watch(threading.Thread):
    """Looks at Redis's memory until told to stop."""

    def __init__(self, client: redis.Redis) -> None:
        super().__init__(daemon=True)
        self._client = client
        self._over = threading.Event()
        self.used = self.greatest = 0

    def run(self) -> None:
        while not self._over.wait(0.02):
            self.used = int(self._client.info("memory")["used_memory"])
            self.greatest = max(self.greatest, self.used)

    def stop(self) -> None:
        self._over.set()
        self.join()


def made_up(first: int, count: int) -> Ticks:
    """Ticks `first` to `first + count` of an endless stream in which the symbols take turns."""
    number = np.arange(first, first + count, dtype=np.int64)
    price = 100.0 + (number * 7919 % 1000) / 100.0
    codes = (number % len(SYMBOLS)).astype(np.int32)
    return Ticks(SYMBOLS, codes, price, np.ones(count), BEGIN_NS + number * STEP_NS)


def run(ticks: int, maxmemory_mb: int, pause_s: float, server: Path | None = None) -> Found:
    """Run it in a temporary directory."""
    with tempfile.TemporaryDirectory(prefix="red10-memory-") as directory:
        settings, origins = load_settings(
            data_dir=directory, keep_ticks_s=0, redis_server=server, keep_outputs=100_000, log_level="warning"
        )
        with open_roles(settings) as roles, connect(roles.streams_url) as client:
            client.config_set("maxmemory", maxmemory_mb * 2**20)
            handed = {**origins, "streams_url": "flag", "models_url": "flag"}
            environment = worker_env(roles.settings, handed, 0)
            with open(Path(directory) / "scorer.log", "wb") as log:
                scorer = subprocess.Popen(
                    (sys.executable, "-m", "red10", "worker", "--role", "scorer"),
                    env={**os.environ, **environment}, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                )  # fmt: skip
            try:
                with connect(roles.streams_url) as second:
                    watch = _Watch(second)
                    watch.start()
                    found = _publish(roles.settings, scorer, watch, ticks, maxmemory_mb, pause_s)
                    watch.stop()
            finally:
                scorer.send_signal(signal.SIGCONT)
                scorer.terminate()
                scorer.wait(30)
            client.config_set("maxmemory", 0)
            return found


def _publish(
    settings: Any, scorer: subprocess.Popen[bytes], watch: _Watch, ticks: int, maxmemory_mb: int, pause_s: float
) -> Found:
    mark = maxmemory_mb * 2**20 * settings.memory_mark
    began = time.monotonic()
    paused: threading.Thread | None = None
    with TickPublisher(settings) as publisher, connect(publisher._plan.url) as client:
        tenant = publisher.tenant
        for first in range(0, ticks, PIECE):
            if paused is None and first * 3 >= ticks:
                paused = threading.Thread(target=_pause, args=(scorer, watch, mark, pause_s), daemon=True)
                paused.start()
            publisher.publish_many(made_up(first, min(PIECE, ticks - first)))
        if paused is not None:
            paused.join()
        while not _caught_up(client, tenant):
            time.sleep(0.05)
            if scorer.poll() is not None:
                raise RuntimeError("the scorer ended")
        seconds = time.monotonic() - began
        counted = _counted(client, tenant)
        throttled = publisher.throttled_s
    greatest = watch.greatest / 2**20
    return Found(ticks, counted, maxmemory_mb, greatest, throttled, seconds, ticks / seconds)


def _pause(scorer: subprocess.Popen[bytes], watch: _Watch, mark: float, pause_s: float) -> None:
    scorer.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    try:
        while time.monotonic() < began + pause_s or (watch.used < mark and time.monotonic() < began + 60):
            time.sleep(0.02)
    finally:
        scorer.send_signal(signal.SIGCONT)


def _caught_up(client: redis.Redis, tenant: Tenant) -> bool:
    for partition in range(tenant.partitions):
        keys = tenant.keys.partition(partition)
        last = cast(Any, client.xrevrange(keys.ticks, count=1))
        if last and client.hget(keys.state, "checkpoint") != last[0][0]:
            return False
    return True


def _counted(client: redis.Redis, tenant: Tenant) -> int:
    total = 0
    for partition in range(tenant.partitions):
        keys = tenant.keys.partition(partition)
        for name, value in cast(dict[bytes, bytes], client.hgetall(keys.state)).items():
            if name.startswith(b"s:"):
                _, per_interval = orjson.loads(value)
                total += sum(int(bar[6]) for bar in per_interval[0][2])
                series = f"{name[2:].decode()}:{tenant.pipeline.intervals[0]}"
                total += sum(int(fields[b"ticks"]) for _, fields in all_entries(client, keys.bars(series)))
    return total


def main(arguments: Sequence[str]) -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks memory", description=__doc__)
    parser.add_argument("--ticks", type=int, default=10_000_000)
    parser.add_argument("--maxmemory-mb", type=int, default=256)
    parser.add_argument("--pause", type=float, default=5.0)
    parser.add_argument("--server", type=Path, default=None)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args(arguments)
    found = run(chosen.ticks, chosen.maxmemory_mb, chosen.pause, chosen.server)
    if chosen.json:
        print(orjson.dumps(asdict(found)).decode())
        return
    for name, value in asdict(found).items():
        print(f"{name:14} {value:,.1f}" if isinstance(value, float) else f"{name:14} {value:,}")
