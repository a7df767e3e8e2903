"""A replay publishes every tick once, in order of time, when it is due."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from producers.publisher import AsyncTickPublisher, TickPublisher
from producers.replay import Replayed, first_new, merged, plan, replay, replay_async
from streams.append import PublishError
from streams.columns import Ticks
from streams.errors import BadRecord, ConfigurationError, RedisUnavailable
from streams.keys import Keys
from streams.settings import load_settings
from tests.servers import Server

SECOND = 1_000_000_000


def table(name: str, times: list[int]) -> Ticks:
    """Ticks of one symbol, each with its row as its size."""
    return Ticks(
        (name,),
        np.zeros(len(times), np.int32),
        np.ones(len(times)),
        np.arange(len(times), dtype=np.float64),
        np.array(times, np.int64),
    )


def rows_of(ticks: Ticks) -> list[tuple[int, str, float]]:
    return [
        (int(ts), ticks.names[code], float(size))
        for ts, code, size in zip(ticks.ts, ticks.codes, ticks.size, strict=True)
    ]


class Recorder:
    """Stands for a publisher."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.sent: list[tuple[float, Ticks]] = []
        self.clock = clock or Clock()

    def rewind(self) -> None:
        raise AssertionError("nothing is lost here")

    def publish_many(self, ticks: Ticks, /) -> int:
        self.sent.append((self.clock.at, ticks))
        return len(ticks)

    @property
    def rows(self) -> list[tuple[int, str, float]]:
        return [row for _, ticks in self.sent for row in rows_of(ticks)]


class Clock:
    def __init__(self) -> None:
        self.at = 100.0

    def now(self) -> float:
        return self.at

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.at += seconds


@given(
    tables=st.lists(st.lists(st.integers(0, 12), max_size=30).map(sorted), max_size=4),
    piece=st.integers(1, 7),
)
def test_the_merge_is_stable_and_complete(tables: list[list[int]], piece: int) -> None:
    given_tables = [table(f"T{number}", times) for number, times in enumerate(tables)]
    pieces = list(merged(given_tables, piece))
    expected = sorted(
        ((ts, number, row) for number, times in enumerate(tables) for row, ts in enumerate(times)),
        key=lambda item: (item[0], item[1]),
    )
    assert [row for part in pieces for row in rows_of(part)] == [(ts, f"T{n}", float(row)) for ts, n, row in expected]
    assert all(0 < len(part) <= piece * len(tables) for part in pieces)


@given(times=st.lists(st.integers(0, 20), max_size=30).map(sorted), cut=st.integers(-1, 22))
def test_stopping_and_going_on_is_the_same_as_not_stopping(times: list[int], cut: int) -> None:
    tables = [table("A", times), table("B", times[::2])]
    whole, halves = Recorder(), Recorder()
    replay(whole, tables)
    first = replay(halves, tables, until=cut)
    second = replay(halves, tables, start=cut)
    assert halves.rows == whole.rows
    assert first.ticks + second.ticks == len(whole.rows)
    assert all(ts < cut for ts, _, _ in halves.rows[: first.ticks])


@pytest.mark.parametrize("speed", [0.5, 1.0, 1000.0, 1e6])
def test_paced_ticks_go_out_when_they_are_due(speed: float) -> None:
    clock = Clock()
    recorder = Recorder(clock)
    times = [7 * SECOND + offset * SECOND // 3 for offset in (0, 0, 1, 2, 50, 51, 1000)]
    result = replay(recorder, [table("A", times)], speed=speed, now=clock.now, sleep=clock.sleep)
    assert result.ticks == len(times)
    assert (result.first_ts, result.last_ts) == (times[0], times[-1])
    assert result.seconds == pytest.approx((times[-1] - times[0]) / SECOND / speed, abs=1e-4)
    for at, sent in recorder.sent:
        due = 100 + (sent.ts - times[0]) / SECOND / speed
        assert (due <= at + 2e-6).all()
        assert at - due[0] < 1e-4


def test_a_slow_publisher_catches_up_without_waiting() -> None:
    clock = Clock()
    steps = plan([table("A", [0, SECOND, 2 * SECOND, 3 * SECOND])], speed=1, now=clock.now)
    first = next(steps)
    assert isinstance(first, Ticks)
    assert len(first) == 1
    clock.at += 2.5
    late = next(steps)
    assert isinstance(late, Ticks)
    assert len(late) == 2
    assert next(steps) == pytest.approx(0.5)


def test_progress_is_told_and_bad_arguments_are_refused() -> None:
    told: list[tuple[int, int, int]] = []
    replay(Recorder(), [table("A", [1, 2]), table("B", [3])], on_progress=lambda *args: told.append(args))
    assert told[-1] == (3, 3, 3)
    assert replay(Recorder(), [], now=lambda: 1.0) == Replayed(0, None, None, 0.0)
    with pytest.raises(BadRecord, match="table 1: row 1 is earlier"):
        replay(Recorder(), [table("A", [1]), table("B", [2, 1])])
    for speed in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigurationError, match="speed"):
            replay(Recorder(), [], speed=speed)


def test_an_error_on_the_way_counts_over_the_whole_replay() -> None:
    class Failing(Recorder):
        def publish_many(self, ticks: Ticks, /) -> int:
            if self.sent:
                raise PublishError(RedisUnavailable("here", "gone"), 3, [4], [5], 6)
            return super().publish_many(ticks)

    tables = [table("A", list(range(15_000)))]
    with pytest.raises(PublishError) as caught:
        replay(Failing(), tables)
    error = caught.value
    assert (error.accepted, error.unsure, error.out, error.next_row) == (10_003, (10_004,), (10_005,), 10_006)


async def test_both_publishers_replay_into_redis(
    server: Server, client: redis.Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tables = [table("A", list(range(0, 3000, 2))), table("B", list(range(1, 3000, 2)))]

    def stored(tenant: str) -> list[Any]:
        keys = Keys(tenant)
        return [[f for _, f in cast(Any, client.xrange(keys.partition(p).ticks))] for p in range(8)]

    with TickPublisher(url=server.url, tenant="one", blocks="never") as publisher:
        assert replay(publisher, tables).ticks == 3000
    async with AsyncTickPublisher(url=server.url, tenant="two", blocks="never") as asynchronous:
        assert (await replay_async(asynchronous, tables, speed=1e6)).ticks == 3000
    assert stored("one") == stored("two")
    assert sum(map(len, stored("one"))) == 3000


def test_a_replay_under_a_name_goes_on_where_it_was_killed(server: Server, client: redis.Redis) -> None:
    """It died in the midst of an exchange; the next one sends what is missing, in whatever pieces."""
    tables = [table("A", list(range(0, 3000, 2))), table("B", list(range(1, 3000, 2)))]

    settings = load_settings(tenant="one")[0]
    whole = Ticks.concat(tables)
    whole = whole.take(np.argsort(whole.ts, kind="stable"))
    with TickPublisher(settings, url=server.url, publisher="file", blocks="never") as publisher:
        publisher.publish_many(whole.take(slice(0, 1234)))
        first = publisher.positions()
    assert sum(first.values()) == 1234
    with TickPublisher(settings, url=server.url, publisher="file", blocks="never") as publisher:
        tenant = publisher.tenant
        assert first_new(tables, publisher.positions(), tenant.partition_of) == int(whole.ts[1234])
        assert replay(publisher, tables).ticks == 3000
        assert publisher.numbering.passed_over == 1234
        assert first_new(tables, publisher.positions(), tenant.partition_of) is None
    for name in "AB":
        rows = cast(Any, client.xrange(tenant.keys.partition(tenant.partition_of(name)).ticks))
        times = [int(fields[b"ts"]) for _, fields in rows if fields[b"symbol"] == name.encode()]
        assert times == tables["AB".index(name)].ts.tolist()


def test_what_the_log_has_is_not_waited_for() -> None:
    times = [0, SECOND, 2 * SECOND, 3 * SECOND, 4 * SECOND]
    steps = list(islice(plan([table("A", times)], speed=1.0, paced_from=3 * SECOND, now=lambda: 0.0), 2))
    assert isinstance(steps[0], Ticks)
    assert steps[0].ts.tolist() == [0, SECOND, 2 * SECOND, 3 * SECOND]
    assert steps[1] == 1.0


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_what_the_log_loses_of_a_named_replay_is_sent_again(
    server: Server, client: redis.Redis, asynchronous: bool
) -> None:
    """As after a restart from an older append-only file."""
    tables = [table("A", list(range(0, 80_000, 2))), table("B", list(range(1, 80_000, 2)))]
    settings = load_settings(tenant="one")[0]
    older: dict[bytes, bytes] = {}

    def trouble(done: int, total: int, ts: int) -> None:
        if not older:
            older.update({key: cast(bytes, client.dump(key)) for key in client.scan_iter("red10:{one:*")})
        elif b"restored" not in older:
            older[b"restored"] = b""
            for key, value in older.items():
                if value:
                    client.restore(key, 0, value, replace=True)

    if asynchronous:
        async with AsyncTickPublisher(settings, url=server.url, publisher="file", blocks="never") as publisher:
            assert (await replay_async(publisher, tables, on_progress=trouble)).ticks == 80_000
            numbering, tenant = publisher.numbering, await publisher.open()
    else:
        with TickPublisher(settings, url=server.url, publisher="file", blocks="never") as blocking:
            assert replay(blocking, tables, on_progress=trouble).ticks == 80_000
            numbering, tenant = blocking.numbering, blocking.tenant
    assert (numbering.gaps, numbering.lost) == (1, 0)
    for name in "AB":
        rows = cast(Any, client.xrange(tenant.keys.partition(tenant.partition_of(name)).ticks))
        times = [int(fields[b"ts"]) for _, fields in rows if fields[b"symbol"] == name.encode()]
        assert times == tables["AB".index(name)].ts.tolist()
