"""A subscriber gives every record once and in order, from wherever it is told to begin, whatever becomes of Redis."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
import redis

from streams.errors import BadName, ConfigurationError, Red10Error, RedisUnavailable
from streams.keys import Keys
from streams.records import Bar, DeadLetter, Outcome, Prediction, Record, Signal
from streams.settings import load_settings
from streams.subscribe import AsyncSubscriber, Subscriber
from streams.tenant import open_tenant
from tests.conftest import binary_of
from tests.servers import Server

KEYS = Keys("default")
SECOND = 1_000_000_000
#: Event time of signal 0: in the past, as in a replay.
T0 = 951_868_800 * SECOND


def signal(number: int, series: str = "SPY:1m") -> Signal:
    return Signal(
        series=series,
        ts=T0 + number * SECOND,
        bar=number,
        side="buy",
        position=1,
        strength=1.5,
        expected_return=0.001,
        cost=0.0005,
        horizon=5,
        price=100.0 + number,
        valid_until=T0 + 300 * SECOND,
        release="ab" * 32,
        version="0123456789ab",
        model_age=0,
        proven=False,
        in_range=True,
        src="0:1-0:0:0",
    )


def bar(number: int, series: str = "SPY:1m") -> Bar:
    start = T0 + number * 60 * SECOND
    prices: dict[str, Any] = {name: 1.0 for name in ("open", "high", "low", "close")}
    span = {"start": start, "end": start + 60 * SECOND, "first": "0:1-0:0:0", "last": "0:1-0:0:0", "src": "0:1-0:0:0"}
    return Bar(series=series, bar=number, volume=1.0, ticks=1, **cast(Any, prices | span))


def put(client: redis.Redis, key: str, *records: Record, entry: str = "*") -> None:
    for record in records:
        client.xadd(key, cast(Any, record.to_fields()), id=entry)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No `red10.toml` and no data directory of the project is read."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def tenant(client: redis.Redis) -> Keys:
    """The default tenant with three partitions; SPY is in 1, AAPL in 1, QQQ in 2."""
    return open_tenant(client, load_settings(partitions=3)[0]).keys


def bars_of(records: list[Any]) -> list[int]:
    return [record.bar for record in records]


def test_what_exists_is_read_once_in_order(server: Server, client: redis.Redis, tenant: Keys) -> None:
    for number in range(2500):
        put(client, tenant.partition(number % 3).signals, signal(number))
    with Subscriber(url=server.url, since="start", follow=False) as subscriber:
        found = list(subscriber)
        for partition in range(3):
            assert [n for n in bars_of(found) if n % 3 == partition] == list(range(partition, 2500, 3))
        assert found[0] == signal(0)
        assert list(subscriber) == []


def test_now_means_what_comes_after_opening(server: Server, client: redis.Redis, tenant: Keys) -> None:
    put(client, tenant.partition(0).signals, signal(1))
    with Subscriber(url=server.url) as subscriber:
        put(client, tenant.partition(0).signals, signal(2))
        put(client, tenant.partition(2).signals, signal(3))
        assert bars_of(subscriber.poll(1000)) == [2, 3]
        assert subscriber.poll(0) == []


def test_a_kept_position_goes_on_behind_the_record_that_was_handed_out(
    server: Server, client: redis.Redis, tenant: Keys
) -> None:
    for number in range(30):
        put(client, tenant.partition(number % 3).signals, signal(number))
    seen: list[int] = []
    position: Any = "start"
    while len(seen) < 30:
        # Each run handles seven records of a batch that held more, keeps the position, and dies.
        with Subscriber(url=server.url, since=position, follow=False) as subscriber:
            for record, _ in zip(subscriber, range(7), strict=False):
                seen.append(record.bar)
                position = json.loads(json.dumps(subscriber.position))
    assert sorted(seen) == list(range(30))


def test_since_is_event_time(server: Server, client: redis.Redis, tenant: Keys) -> None:
    for number in range(10):
        put(client, tenant.partition(0).signals, signal(number))
    for since in (T0 + 7 * SECOND, datetime.fromtimestamp(T0 // SECOND + 7, UTC)):
        with Subscriber(url=server.url, since=since, follow=False) as subscriber:
            assert bars_of(list(subscriber)) == [7, 8, 9]
    with Subscriber(url=server.url, since=T0 + 99 * SECOND, follow=False) as subscriber:
        assert list(subscriber) == []
        assert subscriber.position["at"][tenant.partition(0).signals] != "0-0"


def test_since_skips_old_entries_without_leaving_out_a_bar_that_closed_ahead(
    server: Server, client: redis.Redis, tenant: Keys
) -> None:
    """An output's event time may exceed its entry's time by max_ahead_ms and a bar's length, and no more."""
    ahead_ms = 300_000 + 60_000
    key = tenant.partition(0).signals
    put(client, key, signal(1), entry=f"{T0 // 1_000_000 - ahead_ms - 1}-0")
    put(client, key, signal(2), entry=f"{T0 // 1_000_000 - ahead_ms}-0")
    with Subscriber(url=server.url, since=T0, follow=False) as subscriber:
        assert bars_of(list(subscriber)) == [2]


def test_a_time_after_all_entries_is_no_stream_that_began_anew(
    server: Server,
    client: redis.Redis,
    tenant: Keys,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("streams.following.CHECK_S", 0.0)
    put(client, tenant.partition(0).signals, signal(1), entry="1-1")
    with Subscriber(url=server.url, since=T0 + 5 * SECOND) as subscriber:
        assert subscriber.poll(0) == []
        assert subscriber.poll(0) == []
        put(client, tenant.partition(0).signals, signal(6), entry="1-2")
        assert bars_of(subscriber.poll(0)) == [6]
    assert not caplog.records


def test_symbols_and_series_are_chosen(server: Server, client: redis.Redis, tenant: Keys) -> None:
    for number, series in enumerate(["SPY:1m", "SPY:1d", "AAPL:1m", "QQQ:1m"]):
        for partition in range(3):
            put(client, tenant.partition(partition).signals, signal(number, series))

    def numbers(symbols: Any) -> list[int]:
        with Subscriber(url=server.url, symbols=symbols, since="start", follow=False) as subscriber:
            return bars_of(list(subscriber))

    assert numbers("SPY") == [0, 1]
    assert numbers(["SPY:1d"]) == [1]
    assert sorted(numbers(["QQQ", "AAPL"])) == [2, 2, 3, 3]


def test_entries_that_are_not_wanted_do_not_end_the_reading(server: Server, client: redis.Redis, tenant: Keys) -> None:
    key = tenant.partition(1).signals
    with client.pipeline(transaction=False) as pipe:
        for _ in range(2500):
            pipe.xadd(key, cast(Any, signal(0, "AAPL:1m").to_fields()))
        pipe.execute()
    put(client, key, signal(7), signal(8, "AAPL:1m"))
    with Subscriber(url=server.url, symbols="SPY", since="start", follow=False) as subscriber:
        assert bars_of(list(subscriber)) == [7]


def test_every_kind_is_its_record(server: Server, client: redis.Redis, tenant: Keys) -> None:
    prediction = Prediction(
        series="SPY:1m",
        bar=3,
        ts=T0,
        close=1.0,
        targets=("close_5",),
        values=(None,),
        levels=(1.5,),
        versions=("0123456789ab",),
        in_sample=(True,),
        release="ab" * 32,
        src="0:1-0:0:0",
    )
    outcome = Outcome(
        series="SPY:1m",
        bar=8,
        ts=T0,
        targets=("close_5",),
        actuals=(0.5,),
        errors=(-0.5,),
        naive_errors=(-0.5,),
        challenger_errors=(None,),
        hits=(None,),
        releases=("ab" * 32,),
        made_by=(0,),
        position=0,
        profit=0.0,
        market=0.5,
        src="0:1-0:0:1",
    )
    dead = DeadLetter(reason="malformed", detail="x", src="0:1-0:0:0", fields={"symbol": "SPY", "price": "x"})
    put(client, tenant.partition(1).predictions, prediction)
    put(client, tenant.partition(1).outcomes, outcome)
    put(client, tenant.partition(2).dead, dead, dead.model_copy(update={"fields": {}}))
    put(client, tenant.partition(1).bars("SPY:1m"), bar(3))
    for kind, record in (("predictions", prediction), ("outcomes", outcome), ("dead", dead), ("bars", bar(3))):
        for symbols in (None, "SPY"):
            with Subscriber(url=server.url, kind=cast(Any, kind), symbols=symbols, since="start", follow=False) as s:
                assert next(iter(s)) == record
                assert len(list(s)) == (1 if kind == "dead" and symbols is None else 0)


def test_bars_of_series_that_appear_later_are_found(
    server: Server, client: redis.Redis, tenant: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.following.CHECK_S", 0.0)
    put(client, tenant.partition(1).bars("SPY:1m"), bar(1))
    with Subscriber(url=server.url, kind="bars") as subscriber:
        put(client, tenant.partition(1).bars("SPY:1m"), bar(2))
        put(client, tenant.partition(2).bars("QQQ:1m"), bar(3, "QQQ:1m"))
        put(client, Keys("other").partition(2).bars("QQQ:1m"), bar(4, "QQQ:1m"))
        assert sorted(bars_of(subscriber.poll(0))) == [2, 3]


def test_an_unreadable_entry_is_passed_over_and_said(
    server: Server, client: redis.Redis, tenant: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    key = tenant.partition(0).signals
    put(client, key, signal(1))
    client.xadd(key, {"series": "SPY:1m"})
    put(client, key, signal(2))
    with Subscriber(url=server.url, since="start", follow=False) as subscriber:
        assert bars_of(list(subscriber)) == [1, 2]
        assert subscriber.skipped == 1
    assert "is passed over: signal: field ts" in caplog.text


@pytest.fixture(params=["embedded", "system"])
def durable(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server that survives being killed."""
    server = Server(binary_of(request.param), ("--appendonly", "yes", "--appendfsync", "always")).start()
    yield server
    server.close()


def test_it_outlives_a_redis_that_is_killed_and_says_so_once(durable: Server, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    with durable.client() as client:
        keys = open_tenant(client, load_settings()[0]).keys
        put(client, keys.partition(0).signals, signal(1))
    with Subscriber(url=durable.url, since="start") as subscriber:
        assert bars_of(subscriber.poll(1000)) == [1]
        durable.kill()
        for _ in range(3):
            assert subscriber.poll(0) == []
        durable.start()
        with durable.client() as client:
            put(client, keys.partition(0).signals, signal(2))
        assert bars_of(subscriber.poll(5000)) == [2]
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert said[0].endswith("Waiting for it.")
    assert said[1].endswith("answers again.")


def test_a_stream_that_began_anew_is_read_from_its_start(
    server: Server,
    client: redis.Redis,
    tenant: Keys,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("streams.following.CHECK_S", 0.0)
    key = tenant.partition(0).signals
    put(client, key, signal(1), signal(2))
    with Subscriber(url=server.url, since="start") as subscriber:
        assert bars_of(subscriber.poll(0)) == [1, 2]
        client.delete(key)
        put(client, key, signal(3), entry="1-1")
        put(client, key, signal(4), entry="1-2")
        assert bars_of(subscriber.poll(0)) == [3, 4]
    assert "began anew (it ends at 1-2" in caplog.text


def test_a_lost_tail_is_not_read_as_a_new_stream(
    server: Server,
    client: redis.Redis,
    tenant: Keys,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Old signals handed out again after a fail-over would be traded again."""
    monkeypatch.setattr("streams.following.CHECK_S", 0.0)
    key = tenant.partition(0).signals
    for number in range(5):
        put(client, key, signal(number), entry=f"{number + 1}-0")
    with Subscriber(url=server.url, since="start") as subscriber:
        assert bars_of(subscriber.poll(0)) == list(range(5))
        client.delete(key)
        for number in range(3):
            put(client, key, signal(number), entry=f"{number + 1}-0")
        assert subscriber.poll(0) == []
        put(client, key, signal(7), entry="4-0")
        assert bars_of(subscriber.poll(0)) == [7]
    assert "lost its entries after 3-0" in caplog.text


def test_what_makes_no_sense_is_refused(server: Server, client: redis.Redis, tenant: Keys) -> None:
    def message(error: type[Red10Error], **options: Any) -> str:
        with pytest.raises(error) as caught, Subscriber(url=server.url, **options) as subscriber:
            subscriber.poll(0)
        return str(caught.value)

    assert "cannot be followed" in message(ConfigurationError, kind="trades")
    assert "since='yesterday'" in message(ConfigurationError, since="yesterday")
    assert "no time zone" in message(ConfigurationError, since=datetime(2013, 1, 1))
    assert "no tenant 'nobody'" in message(ConfigurationError, tenant="nobody")
    assert "cannot be a symbol" in message(BadName, symbols="a b")
    with Subscriber(url=server.url, symbols="SPY") as subscriber:
        kept = subscriber.position
    assert "kept with symbols ['SPY'], but None" in message(ConfigurationError, since=kept)
    assert "kept with kind 'signals'" in message(ConfigurationError, since=kept, kind="bars", symbols="SPY")
    damaged = {**kept, "at": {"x": "y"}}
    assert "cannot be read" in message(ConfigurationError, since=damaged, symbols="SPY")
    with pytest.raises(RedisUnavailable):
        Subscriber(url="redis://127.0.0.1:1").open()


async def test_the_asynchronous_subscriber_does_the_same(server: Server, client: redis.Redis, tenant: Keys) -> None:
    for number in range(5):
        put(client, tenant.partition(number % 3).signals, signal(number))
    async with AsyncSubscriber(url=server.url, since="start", follow=False) as subscriber:
        seen = [record.bar async for record in subscriber]
        kept = subscriber.position
    assert sorted(seen) == list(range(5))
    async with AsyncSubscriber(url=server.url, since=kept) as subscriber:
        waiting = asyncio.create_task(subscriber.poll(10_000))
        await asyncio.sleep(0)
        put(client, tenant.partition(0).signals, signal(9))
        assert bars_of(await waiting) == [9]
        # A task that is cancelled while it waits leaves the subscriber usable.
        waiting = asyncio.create_task(subscriber.poll(10_000))
        await asyncio.wait([waiting], timeout=0.05)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        put(client, tenant.partition(0).signals, signal(10))
        assert bars_of(await subscriber.poll(1000)) == [10]
    unopened = AsyncSubscriber(url=server.url)
    with pytest.raises(Red10Error, match="no position before"):
        _ = unopened.position
    await unopened.close()
