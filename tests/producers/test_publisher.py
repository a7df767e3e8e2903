"""Publishers create the tenant, put every tick into its partition in order, and say what went wrong."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any, cast

import orjson
import pytest
import redis

from producers import plan as plan_module
from producers.plan import EXCHANGE_ROWS
from producers.publisher import AsyncTickPublisher, TickPublisher
from streams.append import PublishError
from streams.clients import connect
from streams.columns import Ticks
from streams.errors import BadRecord, ConfigurationError, RedisUnavailable, TenantMismatch
from streams.exchange import Exchange, Outcome, _send, _send_async
from streams.ids import StreamID
from streams.keys import Keys
from streams.locate import locate
from streams.records import Tick
from streams.series import partition_of
from streams.settings import load_settings
from streams.tenant import find_tenant
from tests.servers import Server

KEYS = Keys("default")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No `red10.toml` and no data directory of the project is read."""
    monkeypatch.chdir(tmp_path)


def ticks_in(client: redis.Redis, partition: int, keys: Keys = KEYS) -> list[Tick]:
    return [Tick.from_fields(fields) for _, fields in cast(Any, client.xrange(keys.partition(partition).ticks))]


def test_a_tick_lands_in_its_partition_with_the_id_that_is_returned(server: Server, client: redis.Redis) -> None:
    with TickPublisher(url=server.url, now=lambda: 42) as publisher:
        entry = publisher.publish("SPY", 412.35, size=100)
        publisher.publish("SPY", 412.5, ts=43, bid=412.25, ask=412.75, id="x")
    partition = partition_of("SPY", 8)
    found = ticks_in(client, partition)
    assert [(t.price, t.size, t.ts, t.bid, t.ask, t.id) for t in found] == [
        (412.35, 100.0, 42, None, None, None),
        (412.5, 0.0, 43, 412.25, 412.75, "x"),
    ]
    first = cast(Any, client.xrange(KEYS.partition(partition).ticks, count=1))[0][0]
    assert entry == StreamID.parse(first)


def test_the_tenant_is_created_once_and_then_obeyed(server: Server, client: redis.Redis) -> None:
    with TickPublisher(load_settings(partitions=3, tenant="mine")[0], url=server.url) as publisher:
        publisher.publish("A", 1.0)
    tenant = find_tenant(client, "mine")
    assert tenant is not None
    assert tenant.partitions == 3
    with TickPublisher(url=server.url, tenant="mine") as publisher:
        assert publisher.tenant.partitions == 3
    with (
        TickPublisher(load_settings(partitions=4)[0], url=server.url, tenant="mine") as publisher,
        pytest.raises(TenantMismatch, match="partitions = 3"),
    ):
        publisher.publish("A", 1.0)


@pytest.mark.parametrize("form", ["columns", "list", "iterator"])
def test_many_ticks_keep_their_order_per_symbol(server: Server, client: redis.Redis, form: str) -> None:
    rows = [(f"S{i % 7}", 1.0 + i, 1.0, i) for i in range(2 * EXCHANGE_ROWS + 500)]
    given: Any = {"columns": Ticks.from_rows(rows), "list": rows, "iterator": iter(rows)}[form]
    with TickPublisher(url=server.url, blocks="never") as publisher:
        assert publisher.publish_many(given) == len(rows)
    found = [tick for partition in range(8) for tick in ticks_in(client, partition)]
    assert len(found) == len(rows)
    for symbol in {row[0] for row in rows}:
        mine = [tick.ts for tick in ticks_in(client, partition_of(symbol, 8)) if tick.symbol == symbol]
        assert mine == [row[3] for row in rows if row[0] == symbol]


def test_nothing_of_a_list_with_a_bad_row_is_published(server: Server, client: redis.Redis) -> None:
    rows = [("A", 1.0, 1.0, i) for i in range(3000)]
    rows[2500] = ("A", -1.0, 1.0, 2500)
    with TickPublisher(url=server.url, blocks="never") as publisher:
        with pytest.raises(BadRecord, match="row 2500"):
            publisher.publish_many(rows)
        assert not ticks_in(client, partition_of("A", 8))
        with pytest.raises(BadRecord, match=r"row 2500: .* The 2000 ticks before row 2000 were published"):
            publisher.publish_many(iter(rows))
        assert len(ticks_in(client, partition_of("A", 8))) == 2000
        with pytest.raises(BadRecord, match="price"):
            publisher.publish("A", float("nan"))


def test_a_clock_reaches_every_partition(server: Server, client: redis.Redis) -> None:
    with TickPublisher(url=server.url) as publisher:
        publisher.clock(77)
    for partition in range(8):
        [(_, fields)] = cast(Any, client.xrange(KEYS.partition(partition).ticks))
        assert fields == {b"kind": b"clock", b"ts": b"77"}


def test_a_clock_may_not_run_ahead_further_than_a_tick(server: Server, client: redis.Redis) -> None:
    with TickPublisher(url=server.url, now=lambda: 1000 * 10**9) as publisher:
        publisher.clock(1300 * 10**9)
        with pytest.raises(BadRecord, match="1,000 s ahead of now"):
            publisher.clock(2000 * 10**9)
    assert all(client.xlen(KEYS.partition(partition).ticks) == 1 for partition in range(8))


def test_the_error_counts_over_all_exchanges(server: Server, client: redis.Redis) -> None:
    rows = [("A", 1.0, 1.0, i) for i in range(2500)]
    settings = load_settings()[0].model_copy(update={"memory_mark": 0.0})
    with TickPublisher(settings, url=server.url, patience_s=0, blocks="never", sleep=lambda _: None) as publisher:
        publisher.publish("A", 1.0)

        def poisoned() -> Any:
            yield from rows[:EXCHANGE_ROWS]
            client.config_set("maxmemory", 1)
            yield from rows[EXCHANGE_ROWS:]

        with pytest.raises(PublishError) as caught:
            publisher.publish_many(poisoned())
    error = caught.value
    assert (error.accepted, error.unsure, error.next_row) == (1000, (), 2000)
    assert error.out == tuple(range(1000, 2000))


def test_an_absent_redis_is_said_at_once() -> None:
    with (
        TickPublisher(url="redis://127.0.0.1:1") as publisher,
        pytest.raises(RedisUnavailable, match="Is the server running"),
    ):
        publisher.publish("A", 1.0)


def test_without_a_url_the_running_embedded_server_is_found(
    server: Server, client: redis.Redis, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match=r"RED10_STREAMS_URL is not set.*red10 up"):
        TickPublisher()
    notice = tmp_path / "red10-data" / "streams" / "server.json"
    notice.parent.mkdir(parents=True)
    stale = {"pid": 1, "socket": str(tmp_path / "gone.sock"), "port": 1}
    for text in (b"", b"[]", orjson.dumps(stale)):
        notice.write_bytes(text)
        with pytest.raises(ConfigurationError, match="no embedded server runs"):
            TickPublisher()
    notice.write_bytes(orjson.dumps(stale | {"socket": server.url.removeprefix("unix://")}))
    with TickPublisher() as publisher:
        publisher.publish("A", 1.0)
    assert len(ticks_in(client, partition_of("A", 8))) == 1
    with pytest.raises(ConfigurationError, match="RED10_MODELS_URL"):
        locate(load_settings()[0], "models")


def test_a_set_url_wins(monkeypatch: pytest.MonkeyPatch, server: Server, client: redis.Redis) -> None:
    monkeypatch.setenv("RED10_STREAMS_URL", server.url)
    with TickPublisher() as publisher:
        publisher.publish("A", 1.0)
    assert len(ticks_in(client, partition_of("A", 8))) == 1


async def test_the_asynchronous_publisher_does_the_same(server: Server, client: redis.Redis) -> None:
    rows = [(f"S{i % 7}", 1.0 + i, 1.0, i) for i in range(1500)]
    async with AsyncTickPublisher(url=server.url, blocks="never", now=lambda: 42) as publisher:
        assert await publisher.publish_many(rows) == 1500
        entry = await publisher.publish("NEW", 2.0)
        await publisher.clock(99)
    partition = partition_of("NEW", 8)
    [*_, (last, tick), (_, clock)] = cast(Any, client.xrange(KEYS.partition(partition).ticks))
    assert StreamID.parse(last) == entry
    assert Tick.from_fields(tick).ts == 42
    assert clock == {b"kind": b"clock", b"ts": b"99"}
    assert sum(client.xlen(KEYS.partition(p).ticks) for p in range(8)) == 1500 + 1 + 8


async def test_the_asynchronous_publisher_waits_for_memory(server: Server, client: redis.Redis) -> None:
    unmarked = load_settings()[0].model_copy(update={"memory_mark": 0.0})
    async with (
        AsyncTickPublisher(unmarked, url=server.url, patience_s=0.1) as publisher,
        AsyncTickPublisher(unmarked, url=server.url, patience_s=60) as patient,
    ):
        await publisher.publish("A", 1.0)
        await patient.open()
        client.config_set("maxmemory", 1)
        with pytest.raises(PublishError, match="refuses for now"):
            await publisher.publish("A", 1.0)
        waiting = asyncio.create_task(patient.publish("A", 2.0))
        done, _ = await asyncio.wait([waiting], timeout=0.2)
        assert not done
        client.config_set("maxmemory", 0)
        await waiting
    assert [tick.price for tick in ticks_in(client, partition_of("A", 8))] == [1.0, 2.0]


def test_a_ctrl_c_leaves_no_reply_behind_for_the_next_tick(
    server: Server, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = KEYS.partition(partition_of("A", 8)).ticks
    with TickPublisher(url=server.url) as publisher:
        publisher.publish("A", 1.0)
        with monkeypatch.context() as patched:

            def interrupted(*args: Any, **options: Any) -> None:
                raise KeyboardInterrupt

            # Redis answers later, so that the connection looks clean when it is used again.
            client.client_pause(300)
            patched.setattr("redis.connection.AbstractConnection.read_response", interrupted)
            with pytest.raises(KeyboardInterrupt):
                publisher.publish("A", 2.0)
        entry = publisher.publish("A", 3.0)
    last, fields = cast(Any, client.xrevrange(key, count=1))[0]
    assert Tick.from_fields(fields).price == 3.0
    assert StreamID.parse(last) == entry


async def test_a_cancelled_task_leaves_no_reply_behind_for_the_next_tick(server: Server, client: redis.Redis) -> None:
    key = KEYS.partition(partition_of("A", 8)).ticks
    async with AsyncTickPublisher(url=server.url) as publisher:
        await publisher.publish("A", 1.0)
        client.client_pause(300)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(publisher.publish("A", 2.0), 0.1)
        entry = await publisher.publish("A", 3.0)
    last, fields = cast(Any, client.xrevrange(key, count=1))[0]
    assert Tick.from_fields(fields).price == 3.0
    assert StreamID.parse(last) == entry


async def test_tasks_that_open_a_named_publisher_at_once_lose_no_tick(
    server: Server, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How far the log had come is asked twice, and the second answer arrives when the first tick is in already."""
    real, first_in, calls = plan_module._places, threading.Event(), iter(range(10))

    def slow(*args: Any) -> Any:
        found = real(*args)
        if next(calls):
            first_in.wait(1)
        return found

    monkeypatch.setattr(plan_module, "_places", slow)
    async with AsyncTickPublisher(url=server.url, publisher="feed") as publisher:
        other = asyncio.create_task(publisher.publish("A", 2.0))
        await publisher.publish("A", 1.0)
        first_in.set()
        await other
        await publisher.publish("A", 3.0)
    assert sorted(tick.price for tick in ticks_in(client, partition_of("A", 8))) == [1.0, 2.0, 3.0]


async def test_a_call_that_arrives_after_its_publisher_was_closed_doubles_nothing(
    server: Server, client: redis.Redis
) -> None:
    """A call was given up (its connection hung) and sent again; the first one comes to its end when all is over."""
    home = KEYS.partition(partition_of("A", 8))
    sent: list[bytes] = []
    publisher = AsyncTickPublisher(url=server.url)
    await publisher.open()
    steps = publisher._plan.one(Ticks.from_rows([("A", 1.0, 1.0, 1)]))[1]
    step = next(steps)
    while True:
        try:
            if not isinstance(step, Exchange):
                step = steps.send(None)
            elif not sent:
                sent.append(step.payload)
                step = steps.send(Outcome([], redis.ConnectionError("timed out"), sent=True))
            else:
                step = steps.send(await _send_async(publisher._client, step))
        except StopIteration:
            break
    await publisher.close()
    with connect(server.url) as late:
        assert _send(late, Exchange(sent[0], 1)).replies[0][0] == b"DUP"
    assert client.xlen(home.ticks) == 1
