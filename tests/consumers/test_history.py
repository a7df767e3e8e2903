from __future__ import annotations

import numpy as np
import pytest
import redis

from consumers.history import CHUNK, BarWindow, read_bars
from streams.errors import BadRecord
from streams.keys import PartitionKeys
from streams.series import Series
from tests.consumers.walks import DAY_NS, random_bars, store_bars

SERIES = Series.parse("SPY:1d")
KEYS = PartitionKeys("t", 0)


def read(client: redis.Redis, *, as_of: int | None = None, limit: int = 100_000) -> tuple[BarWindow, list[int]]:
    bars, ends = read_bars(client, KEYS, SERIES, as_of=as_of, limit=limit, interval_ns=DAY_NS)
    return bars, ends.tolist()


def test_bars_come_back_bit_for_bit_over_several_chunks(client: redis.Redis) -> None:
    written = random_bars(2 * CHUNK + 3)
    store_bars(client, KEYS.bars(SERIES), written)
    bars, ends = read(client)
    assert bars.start.tobytes() == written.start.tobytes()
    assert bars.values.tobytes() == written.values.tobytes()
    assert bars.values.flags.c_contiguous
    assert ends == (written.start + DAY_NS).tolist()


def test_as_of_includes_the_bar_that_ends_then_and_none_after_it(client: redis.Redis) -> None:
    written = random_bars(50)
    store_bars(client, KEYS.bars(SERIES), written)
    end = int(written.start[30]) + DAY_NS
    assert read(client, as_of=end)[1][-1] == end
    assert read(client, as_of=end - 1)[1][-1] == end - DAY_NS
    assert len(read(client, as_of=0)[0]) == 0


def test_the_limit_keeps_the_newest_bars_up_to_as_of(client: redis.Redis) -> None:
    written = random_bars(CHUNK + 50)
    store_bars(client, KEYS.bars(SERIES), written)
    as_of = int(written.start[-10]) + DAY_NS
    bars, _ = read(client, as_of=as_of, limit=CHUNK)
    assert bars.start.tolist() == written.start[-9 - CHUNK : -9].tolist()


def test_a_series_without_bars_is_an_empty_window(client: redis.Redis) -> None:
    bars, ends = read(client)
    assert bars.values.shape == (0, 5)
    assert ends == []


@pytest.mark.parametrize("fields", [{"start": "1", "open": "1"}, {"start": "x"}, {"other": "1"}])
def test_an_entry_that_is_no_bar_is_named(client: redis.Redis, fields: dict[str, str]) -> None:
    client.xadd(KEYS.bars(SERIES), {name: value for name, value in fields.items()}, id="77-1")
    with pytest.raises(BadRecord, match="77-1 is no bar"):
        read(client)


def test_bars_that_do_not_rise_are_refused(client: redis.Redis) -> None:
    written = random_bars(10)
    store_bars(client, KEYS.bars(SERIES), written)
    store_bars(client, KEYS.bars(SERIES), written.slice(9, 10))
    with pytest.raises(BadRecord, match="not before its successor"):
        read(client)


def test_a_window_slices_without_copying() -> None:
    bars = random_bars(10)
    assert np.shares_memory(bars.slice(2, 5).values, bars.values)
    assert bars.last(3).start.tolist() == bars.start[7:].tolist()
    assert len(bars.last(100)) == 10


def test_a_window_of_unequal_lengths_is_refused() -> None:
    with pytest.raises(ValueError, match=r"start \(n,\)"):
        BarWindow(np.zeros(3, np.int64), np.zeros((4, 5)))
