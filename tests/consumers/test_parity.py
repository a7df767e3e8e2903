"""No skew: the features of the live path equal those of training, bit for bit, on the vendored data."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from consumers.features import STANDARD, feature_matrix
from consumers.history import BarWindow
from consumers.policy import Hysteresis
from consumers.spec import Spec
from consumers.targets import Target
from modelstore.loaded import LoadedRelease, SeriesModels
from modelstore.manifest import NaiveKind
from producers.bars import Bars, to_ticks
from producers.sample import load_stocks
from streams.keys import Keys
from streams.publish import tick_fields
from streams.series import Interval, partition_of
from tests.consumers.committed import Store, raw_entry

DAY = Interval(86_400)
NOW_MS = 1_700_000_000_000
RELEASE = "a" * 64


class Listener:
    """A release that keeps the feature rows it is asked to score."""

    id = RELEASE

    def __init__(self) -> None:
        self.rows: list[NDArray[np.float32]] = []

    def group(self, series: str) -> SeriesModels:
        one = np.zeros((1, len(STANDARD.columns)), np.float32)
        through = np.zeros(1, np.int64)
        naive = ((int(NaiveKind.NO_CHANGE), np.empty(0, np.float32)),)
        place, proven = np.zeros(1, np.int32), np.zeros(1, np.bool_)
        return SeriesModels(series, ("close_1",), ("b" * 64,), place, through, one, one, naive, proven)

    def challengers(self, series: str) -> None:
        return None

    def score(self, rows: NDArray[np.float32], groups: Sequence[SeriesModels]) -> list[NDArray[np.float32]]:
        self.rows += list(rows.copy())
        return [np.zeros(1, np.float32) for _ in groups]


def live_rows(symbol: str, bars: Bars, seed: int) -> NDArray[np.float32]:
    """The rows that the live path scores: ticks as text through codec, bars and tails, with restarts in between."""
    spec = Spec(
        partitions=1,
        intervals=(DAY,),
        lateness_ns=0,
        max_ahead_ns=0,
        keep_ticks_ms=0,
        features=STANDARD,
        policy=Hysteresis(horizon=1),
        targets={"close_1": Target("close", 1)},
        fingerprint="f" * 64,
    )
    listener = Listener()
    store = Store(spec, Keys("t").partition(partition_of(symbol, 1)), {RELEASE: cast(LoadedRelease, listener)})
    ticks = to_ticks(bars)
    entries = [raw_entry(NOW_MS, kind="release", release=RELEASE)]
    for number in range(len(ticks)):
        fields = tick_fields(symbol, ticks.price[number], ticks.size[number], int(ticks.ts[number]))
        entries.append(raw_entry(NOW_MS + number + 1, **fields))
    entries.append(raw_entry(NOW_MS + len(ticks) + 1, kind="clock", ts=int(bars.start[-1]) + DAY.ns))
    cuts = sorted(random.Random(seed).sample(range(1, len(entries)), 40))
    for begin, end in zip([0, *cuts], [*cuts, len(entries)], strict=True):
        store.run(store.scorer(), entries[begin:end])
    return np.stack(listener.rows)


def test_live_features_equal_batch_features_bit_for_bit_restarts_included() -> None:
    for seed, (symbol, bars) in enumerate(load_stocks().items()):
        columns = [bars.open, bars.high, bars.low, bars.close, bars.volume]
        batch = feature_matrix(STANDARD, BarWindow(bars.start, np.ascontiguousarray(np.stack(columns, axis=1))))
        live = live_rows(symbol, bars, seed)
        assert len(live) == len(bars) - STANDARD.window + 1
        assert live.tobytes() == batch.tobytes(), symbol
