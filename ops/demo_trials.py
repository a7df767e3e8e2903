"""The demo's second half: what a crash costs, and how long a tick takes to become a signal.

`crash` kills the demo's own scorer and model Redis with SIGKILL in the midst of the replay and times the way back;
`paced` publishes ticks on a schedule and times each output against the moment that its tick was due (a replay at full
speed would only measure how long the queue is). Neither changes an output: those depend on the input stream alone.
"""

from __future__ import annotations

import os
import signal
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import orjson
import redis
from redis.exceptions import RedisError

from ops.embedded import EmbeddedServer
from producers.publisher import TickPublisher
from streams.columns import Ticks
from streams.ids import Source, StreamID
from streams.tenant import Tenant


@dataclass(frozen=True, slots=True)
class Crash:
    """What a crash cost.

    Attributes:
        killed: what was killed.
        back_s: from the kill to the first commit of the scorer that took over, its models loaded.
        models: models that it had loaded by then, from the RDB of the store that was killed with it.
    """

    killed: tuple[str, ...]
    back_s: float
    models: int


@dataclass(frozen=True, slots=True)
class Latency:
    """Time from the moment that a tick was due to the receipt of what it caused.

    Attributes:
        outputs: signals and predictions measured; both are posted by the same commit.
        rate: ticks per second.
        p50_ms, p99_ms: percentiles.
    """

    outputs: int
    rate: float
    p50_ms: float
    p99_ms: float


def crash(
    scorer_pid: int,
    store: EmbeddedServer | None,
    publish: Callable[[], None],
    committed: Callable[[], bool],
    health: str,
    wait: Callable[[str], Any],
) -> Crash:
    """Kill, publish on, and wait until scoring goes on with all models.

    Args:
        store: the embedded model Redis; `None` if it is somebody else's, which is left alone.
        publish: publishes the next stretch of ticks, so that there is something to go on with.
        committed: whether a commit has landed since the kill.
        health: URL of the scorer's `/health`.
        wait: iterates until the demo's patience ends; gets what is waited for.
    """
    before = _health(health)
    killed = ["the scorer"]
    began = time.monotonic()
    os.kill(scorer_pid, signal.SIGKILL)
    if store is not None:
        os.kill(store.pid, signal.SIGKILL)
        killed.append("the model Redis")
    publish()
    for _ in wait("the scorer is back after it was killed"):
        if committed():
            now = _health(health)
            if now.get("models") == before.get("models") and now.get("release") == before.get("release"):
                break
    return Crash(tuple(killed), time.monotonic() - began, int(before.get("models", 0)))


def _health(url: str) -> Mapping[str, Any]:
    try:
        with urllib.request.urlopen(url, timeout=2) as reply:
            return cast(Mapping[str, Any], orjson.loads(reply.read()))
    except (OSError, orjson.JSONDecodeError):
        # Not up yet, or not healthy yet: ask again.
        return {}


class Receiver:
    """Notes when outputs arrive; a thread of its own, for the length of a block.

    Attributes:
        received: source entry and tick of each output -> `clock()` at its receipt.
    """

    def __init__(self, client: redis.Redis, tenant: Tenant, clock: Callable[[], float] = time.monotonic) -> None:
        self.received: dict[StreamID, float] = {}
        self._client = client
        self._clock = clock
        self._after: dict[str, str] = {}
        for partition in range(tenant.partitions):
            keys = tenant.keys.partition(partition)
            for key in (keys.predictions, keys.signals):
                last = cast(list[tuple[bytes, Any]], client.xrevrange(key, count=1))
                self._after[key] = last[0][0].decode() if last else "0-0"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="demo-receiver", daemon=True)

    def __enter__(self) -> Receiver:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                reply: Any = self._client.xread(cast(dict[Any, Any], self._after), block=100)
            except (RedisError, OSError):
                # The demo itself says when Redis is gone; what was missed is not measured.
                self._stop.wait(0.1)
                continue
            now = self._clock()
            for key, entries in reply:
                for entry, fields in entries:
                    self._after[key.decode()] = entry.decode()
                    self.received.setdefault(Source.parse(fields[b"src"]).entry, now)


def paced(
    publisher: TickPublisher,
    ticks: Ticks,
    seconds: float,
    on_progress: Callable[[int], None],
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[StreamID, float]:
    """Publish ticks evenly over `seconds`; entry id -> when the tick was due, by `clock`."""
    due: dict[StreamID, float] = {}
    began = clock()
    for number in range(len(ticks)):
        at = began + number * seconds / len(ticks)
        left = at - clock()
        if left > 0:
            sleep(left)
        entry = publisher.publish(
            ticks.names[ticks.codes[number]],
            float(ticks.price[number]),
            float(ticks.size[number]),
            int(ticks.ts[number]),
        )
        due[entry] = at
        on_progress(number + 1)
    return due


def latency(due: Mapping[StreamID, float], received: Mapping[StreamID, float], seconds: float) -> Latency | None:
    """Percentiles over the outputs of the ticks that were paced; `None` if there were none. Pure."""
    times: Sequence[float] = [received[entry] - at for entry, at in due.items() if entry in received]
    if not times:
        return None
    p50, p99 = np.percentile(np.array(times) * 1000, (50, 99))
    return Latency(len(times), len(due) / seconds, float(p50), float(p99))
