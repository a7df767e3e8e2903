"""Bars of a random walk, for tests: deterministic by seed, and put into a `bars` stream as the scorer writes them."""

from __future__ import annotations

import numpy as np
import redis

from consumers.history import BarWindow
from streams.series import NS

DAY_NS = 86_400 * NS


def random_bars(count: int, seed: int = 0, *, interval_ns: int = DAY_NS) -> BarWindow:
    """Bars of a random walk with some volume, prices of about 100."""
    rng = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(rng.normal(0, 0.01, count)))
    opened = np.concatenate(([100.0], close[:-1])) * np.exp(rng.normal(0, 0.002, count))
    high = np.maximum(opened, close) * np.exp(rng.exponential(0.003, count))
    low = np.minimum(opened, close) * np.exp(-rng.exponential(0.003, count))
    volume = rng.integers(1, 10_000, count).astype(float)
    values = np.ascontiguousarray(np.column_stack((opened, high, low, close, volume)))
    start = np.arange(10_000, 10_000 + count, dtype=np.int64) * interval_ns
    return BarWindow(start, values)


def store_bars(client: redis.Redis, key: str, bars: BarWindow, *, interval_ns: int = DAY_NS, first: int = 0) -> None:
    """Write bars as entries of a `bars` stream."""
    with client.pipeline(transaction=False) as pipe:
        for number, (start, row) in enumerate(zip(bars.start.tolist(), bars.values.tolist(), strict=True)):
            fields: dict[str, str | int] = {
                "series": "x",
                "bar": first + number,
                "start": start,
                "end": start + interval_ns,
            }
            fields |= dict(zip(("open", "high", "low", "close", "volume"), map(repr, row), strict=True))
            fields |= {"ticks": 4, "first": "0:1-0:0:0", "last": "0:1-0:0:0", "src": "0:1-0:0:0"}
            pipe.xadd(key, {name: str(value) for name, value in fields.items()})
        pipe.execute()
