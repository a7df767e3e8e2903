"""One partition's loop against a real Redis: lost replies, rival owners, a Redis that went back, broken keys, stops."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any, cast

import orjson
import pytest
import redis
import redis.asyncio
from prometheus_client import CollectorRegistry
from redis.exceptions import ConnectionError

from consumers import partition
from consumers.bars import BarBuilder
from consumers.memo import Memo
from consumers.metrics import Metrics
from consumers.partition import PartitionTask
from consumers.policy import Hysteresis
from consumers.recovery import recover
from consumers.spec import Spec
from modelstore.loaded import LoadedRelease
from streams import raw
from streams.append import append
from streams.block import MOST_TICKS, pack_block
from streams.channel import WorkChannel
from streams.clients import connect_async, read_raw
from streams.columns import Ticks
from streams.commit import Committer, Retention
from streams.errors import RedisUnavailable
from streams.exchange import run
from streams.ids import StreamID
from streams.numbering import Numbering
from streams.publish import group_ticks, release_fields
from streams.raw import raw_words
from streams.records import DeadLetter, Tick
from streams.resume import lag
from tests.consumers.test_scorer import AWAY, FAKES, HOME, KEYS, SPEC
from tests.servers import Server, entries

S = 1_000_000_000
TOKEN = "me/1"

Find = Callable[[str], Awaitable[LoadedRelease | None]]


async def find_fake(release: str) -> LoadedRelease | None:
    return FAKES.get(release)


class Serial:
    """Carries units of work out one at a time, as the agent does."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    async def do(self, carry_out: Callable[[], Awaitable[Any]]) -> Any:
        async with self._lock:
            return await carry_out()


@pytest.fixture
async def made(server: Server) -> AsyncIterator[Callable[[], redis.asyncio.Redis]]:
    """Makes clients as workers use them."""
    clients: list[redis.asyncio.Redis] = []

    def make() -> redis.asyncio.Redis:
        clients.append(read_raw(connect_async(server.url, block_ms=50)))
        return clients[-1]

    yield make
    for found in clients:
        await found.aclose()


def make_task(
    link: redis.asyncio.Redis,
    version: str,
    token: str = TOKEN,
    *,
    spec: Spec = SPEC,
    find: Find = find_fake,
    channel: Any = None,
    memo: Memo | None = None,
    start_anew: bool = False,
    short: Callable[[], bool] = lambda: False,
) -> PartitionTask:
    return PartitionTask(
        link,
        KEYS,
        token,
        spec,
        Committer(link, KEYS, server=version, retention=Retention(100_000), short=short),
        cast(WorkChannel, channel or Serial()),
        find,
        Metrics(CollectorRegistry()),
        batch_ticks=7,
        batch_outputs=1000,
        batch_s=10.0,
        block_ms=20,
        memo=memo or Memo(),
        start_anew=start_anew,
    )


@pytest.fixture
def version(client: redis.Redis) -> str:
    found: str = client.info("server")["redis_version"]
    return found


async def until(condition: Callable[[], Any], what: str, timeout_s: float = 20.0) -> None:
    """Poll until a condition holds."""
    for _ in range(int(timeout_s * 100)):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"waited {timeout_s:g} s until {what}, in vain")


@contextlib.asynccontextmanager
async def running(task: PartitionTask) -> AsyncIterator[asyncio.Task[None]]:
    """The loop, which must end soon after it was told to stop."""
    loop = asyncio.create_task(task.run())
    try:
        yield loop
    finally:
        task.stop()
        await asyncio.wait_for(loop, 5)


def fill(client: redis.Redis, count: int, seed: int = 3, *, begin: int = 0) -> None:
    """Ticks in rising order with some late and stray ones, clocks and release switches; ids are the same each time."""
    choose = random.Random(seed)
    for at in range(begin, begin + count):
        ts, kind = at * S // 4, choose.random()
        fields: dict[str, object] = {
            "symbol": choose.choice(HOME[:2]),
            "price": 100 + choose.random(),
            "size": 1,
            "ts": ts,
        }
        if kind < 0.05:
            fields = {"kind": "clock", "ts": ts}
        elif kind < 0.1:
            fields = {"kind": "release", "release": choose.choice("abc") * 64}
        elif kind < 0.15:
            fields |= {"symbol": choose.choice([AWAY, "?"])}
        elif kind < 0.2:
            fields |= {"ts": max(0, ts - 10 * S)}
        flat = {name: str(value) for name, value in fields.items()}
        client.xadd(KEYS.ticks, cast(Any, flat), id=f"{1_700_000_000_000 + at}-0")


def done(client: redis.Redis) -> bool:
    last: Any = client.xrevrange(KEYS.ticks, count=1)
    return bool(client.hget(KEYS.state, "checkpoint") == last[0][0])


def written(client: redis.Redis) -> dict[bytes, Any]:
    """All outputs, without ids, and what must be the same in the state."""
    found: dict[bytes, Any] = {}
    for key in client.scan_iter():
        if client.type(key) == b"stream" and key != KEYS.ticks.encode():
            found[key] = [fields for _, fields in entries(client, key.decode())]
    state = client.hgetall(KEYS.state)
    return {**found, b"state": {name: state[name] for name in state if name not in (b"counter", b"nonce")}}


def wipe_outputs(client: redis.Redis) -> None:
    for key in client.scan_iter():
        if key != KEYS.ticks.encode():
            client.delete(key)
    client.xgroup_destroy(KEYS.ticks, "scorers")


SIZED = replace(SPEC, keep_ticks_ms=10_000_000)


async def calm(client: redis.Redis, link: redis.asyncio.Redis, version: str) -> dict[bytes, Any]:
    """What an undisturbed run writes; afterwards there is only the input again."""
    client.set(KEYS.lease, TOKEN)
    async with running(make_task(link, version, spec=SIZED)):
        await until(lambda: done(client), "the undisturbed run is done")
    found = written(client)
    wipe_outputs(client)
    return found


def make_lossy(link: redis.asyncio.Redis, choose: random.Random, part: float) -> None:
    """Lose part of the calls on the way there, and of the replies on the way back."""
    real: Any = link.execute_command
    real_pipeline = link.pipeline

    async def execute_command(*args: Any, **options: Any) -> Any:
        if choose.random() < part / 2:
            raise ConnectionError("lost on the way there")
        reply = await real(*args, **options)
        if choose.random() < part:
            raise ConnectionError(f"the reply to {args[0]} was lost")
        return reply

    def pipeline(*args: Any, **options: Any) -> Any:
        pipe = real_pipeline(*args, **options)
        execute = pipe.execute

        async def lossy(**options: Any) -> Any:
            reply = await execute(**options)
            if choose.random() < part:
                raise ConnectionError("the reply to a pipeline was lost")
            return reply

        cast(Any, pipe).execute = lossy
        return pipe

    cast(Any, link).execute_command = execute_command
    cast(Any, link).pipeline = pipeline


@pytest.mark.parametrize("seed", range(3))
async def test_lost_calls_and_replies_leave_no_trace(
    client: redis.Redis,
    made: Callable[[], redis.asyncio.Redis],
    version: str,
    seed: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("streams.clients.Backoff.next", lambda self: 0.001)
    fill(client, 150, seed)
    expected = await calm(client, made(), version)
    client.set(KEYS.lease, TOKEN)
    link = made()
    make_lossy(link, random.Random(seed), 0.25)
    async with running(make_task(link, version, spec=SIZED)):
        await until(lambda: done(client), "everything is scored in spite of the losses")
    assert written(client) == expected


async def test_owners_that_take_turns_in_the_midst_of_batches_never_interleave(
    client: redis.Redis, made: Callable[[], redis.asyncio.Redis], version: str
) -> None:
    """Zombies: the lease goes over while batches are read and computed, and both loops go on as long as they can."""
    fill(client, 200)
    expected = await calm(client, made(), version)
    choose = random.Random(1)
    tokens = ["one/1", "two/2"]
    client.set(KEYS.lease, tokens[0])
    loops: dict[str, tuple[PartitionTask, asyncio.Task[None]]] = {}
    fenced = 0
    try:
        async with asyncio.timeout(30):
            while not done(client):
                for token in tokens:
                    if token not in loops:
                        task = make_task(made(), version, token, spec=SIZED)
                        loops[token] = (task, asyncio.create_task(task.run()))
                    elif loops[token][1].done():
                        fenced += 1
                        del loops[token]
                await asyncio.sleep(choose.random() * 0.01)
                client.set(KEYS.lease, choose.choice(tokens))
    finally:
        for task, loop in loops.values():
            task.stop()
            await asyncio.wait_for(loop, 5)
    assert fenced > 3
    assert written(client) == expected


async def test_a_quiet_partition_finds_out_that_redis_went_back_and_makes_the_outputs_again(
    client: redis.Redis, made: Callable[[], redis.asyncio.Redis], version: str
) -> None:
    """As after a restart from an older append-only file; nothing new comes in."""
    client.set(KEYS.lease, TOKEN)
    fill(client, 40)
    async with running(make_task(made(), version, spec=SIZED)):
        await until(lambda: done(client), "the first part")
        older = {key: client.dump(key) for key in client.scan_iter() if key != KEYS.ticks.encode()}
        fill(client, 40, 4, begin=40)
        await until(lambda: done(client), "the second part")
        newer = written(client)
        wipe_outputs(client)
        for key, value in older.items():
            client.restore(key, 0, cast(bytes, value), replace=True)
        await until(lambda: done(client), "the second part again")
    assert written(client) == newer


async def test_ids_that_fall_back_after_a_gap_are_noticed(
    client: redis.Redis, made: Callable[[], redis.asyncio.Redis], version: str
) -> None:
    client.set(KEYS.lease, TOKEN)
    fill(client, 20)
    task = make_task(made(), version)
    async with running(task):
        await until(lambda: done(client), "the first entries")
        client.xtrim(KEYS.ticks, 0, approximate=False)
        await until(lambda: task.scorer is not None and task.scorer.state.anchor != task.scorer.state.checkpoint, "gap")
        client.delete(KEYS.ticks)
        fields = {"symbol": HOME[0], "price": "5", "size": "1", "ts": str(100 * S)}
        client.xadd(KEYS.ticks, cast(Any, fields), id=f"{1_600_000_000_000}-0")
        await until(lambda: done(client), "the stream that began again is read")
    assert client.hget(KEYS.state, "incarnation") == b"1"


async def test_a_deleted_stream_is_on_record_though_its_owner_ends_before_anything_comes(
    client: redis.Redis, made: Callable[[], redis.asyncio.Redis], version: str
) -> None:
    client.set(KEYS.lease, TOKEN)
    fill(client, 30)
    async with running(make_task(made(), version)):
        await until(lambda: done(client), "the first entries")
        client.delete(KEYS.ticks)
        await until(lambda: client.hget(KEYS.state, "incarnation") == b"1", "a new incarnation")
    fill(client, 10, begin=100)
    async with running(make_task(made(), version)):
        await until(lambda: done(client), "the new entries")
    [gap] = [fields for _, fields in entries(client, KEYS.dead) if fields[b"reason"] == b"gap"]
    assert gap[b"src"] == b"1:0-0:0:0"


async def test_lag_is_not_below_zero_after_a_stream_was_deleted_and_filled_again(
    client: redis.Redis, made: Callable[[], redis.asyncio.Redis], version: str
) -> None:
    client.set(KEYS.lease, TOKEN)
    fill(client, 30)
    link = made()
    async with running(make_task(link, version)) as loop:
        await until(lambda: done(client), "the first entries")
        client.delete(KEYS.ticks)
        fill(client, 10, begin=100)
        await until(lambda: done(client), "the new entries")
        assert not loop.done()
        fill(client, 1, begin=200)
        await until(lambda: done(client), "one more")
    fill(client, 5, begin=300)
    last = client.hget(KEYS.state, "checkpoint")
    assert last is not None
    found = await lag(link, KEYS, StreamID.parse(last))
    assert found == (None if version.startswith("6.") else 5)


@pytest.mark.parametrize("what", ["ticks", "state", "dead", "predictions", "bars"])
async def test_a_key_of_another_type_stops_the_partition_until_it_is_moved_away(
    client: redis.Redis,
    made: Callable[[], redis.asyncio.Redis],
    version: str,
    what: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(partition, "BROKEN_CAP_S", 0.1)
    fill(client, 60)
    expected = await calm(client, made(), version)
    client.set(KEYS.lease, TOKEN)
    key = KEYS.bars(f"{HOME[0]}:1s") if what == "bars" else str(getattr(KEYS, what))
    if what == "ticks":
        client.rename(key, "input")
    client.set(key, "not ours")
    with caplog.at_level(logging.ERROR):
        async with running(make_task(made(), version, spec=SIZED)) as loop:
            await until(lambda: caplog.records, "it says that the key is broken")
            await asyncio.sleep(0.3)
            assert not loop.done()
            client.delete(key)
            if what == "ticks":
                client.rename("input", key)
            await until(lambda: done(client), "the partition goes on")
    assert len(caplog.records) == 1, "said once"
    assert key in caplog.text
    client.delete("input")
    assert written(client) == expected


class RaisesOnce(Hysteresis):
    """A policy with a bug in it, until it is mended."""

    broken = False

    def decide(self, state: Any, outlook: Any) -> Any:
        if RaisesOnce.broken:
            raise ZeroDivisionError("a bug")
        return super().decide(state, outlook)


async def test_a_policy_that_raises_costs_signals_but_no_tick_bar_or_forecast(
    client: redis.Redis,
    made: Callable[[], redis.asyncio.Redis],
    version: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(RaisesOnce, "broken", True)
    fill(client, 60)
    expected = await calm(client, made(), version)
    client.set(KEYS.lease, TOKEN)
    task = make_task(made(), version, spec=replace(SIZED, policy=RaisesOnce(horizon=2, cost_bps=1)))
    with caplog.at_level(logging.ERROR):
        async with running(task):
            await until(lambda: done(client), "the partition goes on")
    assert "ZeroDivisionError: a bug" in caplog.records[0].message
    assert "test_partition.py, line" in caplog.records[0].message
    found = written(client)
    poison = [row for row in found[KEYS.dead.encode()] if row[b"reason"] == b"poison"]
    assert [row for row in found[KEYS.dead.encode()] if row not in poison] == expected[KEYS.dead.encode()]
    # Without signals other outputs of the same tick have other numbers.
    for key in (KEYS.predictions, KEYS.bars(f"{HOME[0]}:1s")):
        ways = [[{**row, b"src": b""} for row in way[key.encode()]] for way in (found, expected)]
        assert ways[0] == ways[1]
    assert len(poison) == len(found[KEYS.predictions.encode()])
    assert all(b"the policy" in row[b"detail"] and b"ZeroDivisionError: a bug" in row[b"detail"] for row in poison)
    assert orjson.loads(poison[0][b"fields"])["kind"] == "bar"


async def test_a_policy_that_raised_in_passing_costs_nothing(
    client: redis.Redis,
    made: Callable[[], redis.asyncio.Redis],
    version: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fill(client, 60)
    expected = await calm(client, made(), version)
    client.set(KEYS.lease, TOKEN)
    real, calls = Hysteresis.decide, []

    def once(self: Hysteresis, *args: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise OSError("a passing trouble")
        return real(self, *args)

    monkeypatch.setattr(Hysteresis, "decide", once)
    async with running(make_task(made(), version, spec=SIZED)):
        await until(lambda: done(client), "the partition goes on")
    assert written(client) == expected


@pytest.mark.parametrize("packed", [False, True], ids=["single", "block"])
async def test_poison_is_found_by_halving_and_set_aside_alone(
    client: redis.Redis,
    made: Callable[[], redis.asyncio.Redis],
    version: str,
    monkeypatch: pytest.MonkeyPatch,
    packed: bool,
) -> None:
    """A tick with which Red10's own code fails: all others count, and the partition goes on."""
    rows = [(HOME[0], 100.0 + at, 1.0, at * S // 4) for at in range(60)]
    bad = 37
    group = group_ticks(Ticks.from_rows(rows), lambda symbol: KEYS)
    run(client, append(group, Numbering.of(None), "", patience_s=5, blocks="always" if packed else "never"))
    client.set(KEYS.lease, TOKEN)
    break_price(monkeypatch, rows[bad][1])
    async with running(make_task(made(), version)):
        await until(lambda: done(client), "the partition goes on")
    [(_, letter)] = entries(client, KEYS.dead)
    assert letter[b"reason"] == b"poison"
    assert b"RuntimeError: a fault" in letter[b"detail"]
    assert Tick.from_fields(orjson.loads(letter[b"fields"])).price == rows[bad][1]
    state = cast(dict[bytes, bytes], client.hgetall(KEYS.state))
    _, [[_, _, still_open, _], *_] = orjson.loads(state[f"s:{HOME[0]}".encode()])
    closed = [int(fields[b"ticks"]) for _, fields in entries(client, KEYS.bars(f"{HOME[0]}:1s"))]
    assert sum(closed) + sum(bar[6] for bar in still_open) == 59


@pytest.mark.parametrize("side", ["before", "behind"])
async def test_poison_beside_something_unusable_is_found_as_well(
    client: redis.Redis,
    made: Callable[[], redis.asyncio.Redis],
    version: str,
    monkeypatch: pytest.MonkeyPatch,
    side: str,
) -> None:
    """What is unusable comes along with the tick that the batch was halved down to; that is no reason to halve on."""
    for at in range(20):
        if side == "before" and at == 11:
            client.xadd(KEYS.ticks, {"nonsense": 1})
        fields: dict[str, object] = {"symbol": HOME[0], "price": 100 + at, "size": 1, "ts": at * S // 4}
        client.xadd(KEYS.ticks, cast(dict[Any, Any], fields))
        if side == "behind" and at == 11:
            client.xadd(KEYS.ticks, {"nonsense": 1})
    client.set(KEYS.lease, TOKEN)
    break_price(monkeypatch, 111.0)
    async with running(make_task(made(), version)):
        await until(lambda: done(client), "the partition goes on")
    assert sorted(letter[b"reason"] for _, letter in entries(client, KEYS.dead)) == [b"malformed", b"poison"]


async def test_what_another_owner_passed_is_not_blamed_on_the_tick_that_follows(
    client: redis.Redis,
    made: Callable[[], redis.asyncio.Redis],
    version: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A worker found the tick to blame and lost its lease before it could set it aside; later it owns the partition
    again, and the next tick is another one."""
    for at in range(4):
        fields: dict[str, object] = {"symbol": HOME[0], "price": 100 + at, "size": 1, "ts": at * S // 4}
        client.xadd(KEYS.ticks, cast(dict[Any, Any], fields))
    client.set(KEYS.lease, TOKEN)
    memo, channel = Memo(), Serial()
    with monkeypatch.context() as patch:
        break_price(patch, 100.0)

        async def fence(carry_out: Callable[[], Awaitable[Any]]) -> Any:
            if memo.suspicion.found:
                client.set(KEYS.lease, "other/1")
            return await carry_out()

        patch.setattr(channel, "do", fence)
        async with running(make_task(made(), version, memo=memo, channel=channel)) as loop:
            await until(loop.done, "the lease is lost")
    assert memo.suspicion.found
    async with running(make_task(made(), version, "other/1")):
        await until(lambda: done(client), "the other owner has passed it")
    client.xadd(KEYS.ticks, {"symbol": HOME[0], "price": 104, "size": 1, "ts": S})
    client.set(KEYS.lease, TOKEN)
    async with running(make_task(made(), version, memo=memo)):
        await until(lambda: done(client), "the first worker goes on")
    assert not entries(client, KEYS.dead)


def break_price(monkeypatch: pytest.MonkeyPatch, price: float) -> None:
    """Red10's own code fails with the tick of this price."""
    real = BarBuilder.add_ticks

    def faulty(self: BarBuilder, slot: Any, ts: Any, prices: Any, *rest: Any) -> Any:
        if (prices == price).any():
            raise RuntimeError("a fault")
        return real(self, slot, ts, prices, *rest)

    monkeypatch.setattr(BarBuilder, "add_ticks", faulty)


async def test_a_fault_is_said_with_its_traceback_and_tried_again(
    client: redis.Redis, made: Callable[[], redis.asyncio.Redis], version: str, caplog: pytest.LogCaptureFixture
) -> None:
    client.set(KEYS.lease, TOKEN)
    fill(client, 60)
    faults = [KeyError("a fault"), KeyError("a fault")]

    async def find(release: str) -> LoadedRelease | None:
        if faults:
            raise faults.pop()
        return FAKES.get(release)

    with caplog.at_level(logging.ERROR):
        async with running(make_task(made(), version, find=find)):
            await until(lambda: done(client), "the partition goes on")
    [record] = [record for record in caplog.records if record.name == "red10.partition"]
    assert record.exc_info


async def hang(release: str) -> LoadedRelease | None:
    await asyncio.sleep(3600)
    return None


async def test_a_stop_ends_a_wait_for_the_model_store(
    client: redis.Redis, made: Callable[[], redis.asyncio.Redis], version: str
) -> None:
    client.set(KEYS.lease, TOKEN)
    release = {"kind": "release", "release": "a" * 64}
    client.xadd(KEYS.ticks, cast(Any, release))
    async with running(make_task(made(), version, find=hang)):
        await asyncio.sleep(0.1)
    assert not client.exists(KEYS.state)
    async with running(make_task(made(), version)):
        await until(lambda: done(client), "the release is in force")
    task = make_task(made(), version, find=hang)
    async with running(task):  # in the midst of taking over
        await asyncio.sleep(0.1)
        assert task.scorer is None


async def test_a_partition_that_waits_for_the_model_store_is_alive_and_holds_no_other_up(
    client: redis.Redis, made: Callable[[], redis.asyncio.Redis], version: str
) -> None:
    client.set(KEYS.lease, TOKEN)
    client.xadd(KEYS.ticks, cast(Any, {"kind": "release", "release": "a" * 64}))
    channel = Serial()
    task = make_task(made(), version, find=hang, channel=channel)
    async with running(task):
        await until(lambda: task.scorer is not None, "the partition is taken over")
        await asyncio.sleep(0.1)
        before = task.progress

        async def other() -> str:
            return "done"

        assert await asyncio.wait_for(channel.do(other), 1) == "done"
        await until(lambda: task.progress > before, "a sign of life")


@pytest.mark.parametrize("error", [ConnectionError("away"), RedisUnavailable("there", "away")])
async def test_a_stop_ends_a_commit_that_redis_does_not_take(
    client: redis.Redis, made: Callable[[], redis.asyncio.Redis], version: str, error: Exception
) -> None:
    client.set(KEYS.lease, TOKEN)
    fill(client, 5)
    link, tries = made(), 0

    async def away(*args: Any) -> Any:
        nonlocal tries
        tries += 1
        raise error

    cast(Any, link).evalsha = away
    async with running(make_task(link, version)):
        await until(lambda: tries > 1, "some tries")


async def test_a_lost_state_begins_a_new_incarnation_so_that_no_source_is_given_twice(
    client: redis.Redis, made: Callable[[], redis.asyncio.Redis], version: str
) -> None:
    client.set(KEYS.lease, TOKEN)
    fill(client, 60)
    async with running(make_task(made(), version, spec=SIZED)):
        await until(lambda: done(client), "the first run")
    for run_ in ("second", "third"):
        client.delete(KEYS.state)
        async with running(make_task(made(), version, spec=SIZED)):
            await until(lambda: done(client), f"the {run_} run")
    sources = [fields[b"src"] for key in (KEYS.dead, KEYS.bars(f"{HOME[0]}:1s")) for _, fields in entries(client, key)]
    assert len(sources) == len(set(sources)) > 20
    assert client.hget(KEYS.state, "incarnation") == b"2"


async def test_lag_is_right_after_the_state_of_a_trimmed_input_was_lost(
    client: redis.Redis, made: Callable[[], redis.asyncio.Redis], version: str
) -> None:
    client.set(KEYS.lease, TOKEN)
    fill(client, 60)
    link, spec = made(), replace(SPEC, keep_ticks_ms=0)
    async with running(make_task(link, version, spec=spec)):
        await until(lambda: done(client), "the first run")
    assert client.xlen(KEYS.ticks) < 20
    client.delete(KEYS.state)
    async with running(make_task(link, version, spec=spec)):
        await until(lambda: done(client), "the second run")
    last = client.hget(KEYS.state, "checkpoint")
    assert last is not None
    assert await lag(link, KEYS, StreamID.parse(last)) == 0
    fill(client, 3, begin=100)
    assert await lag(link, KEYS, StreamID.parse(last)) == (None if version.startswith("6.") else 3)


async def test_a_crash_just_after_a_new_incarnation_began_leaves_a_state_that_can_be_read(
    client: redis.Redis, made: Callable[[], redis.asyncio.Redis], version: str
) -> None:
    client.set(KEYS.lease, TOKEN)
    fill(client, 20)
    async with running(make_task(made(), version)):
        await until(lambda: done(client), "the first run")
    client.delete(KEYS.state)
    await recover(made(), KEYS, TOKEN, SPEC, find_fake)
    async with running(make_task(made(), version)):
        await until(lambda: done(client), "the next owner's run")
    assert client.hget(KEYS.state, "incarnation") == b"1"


async def test_a_state_that_cannot_be_read_at_all_can_be_started_anew(
    client: redis.Redis, made: Callable[[], redis.asyncio.Redis], version: str
) -> None:
    client.set(KEYS.lease, TOKEN)
    fill(client, 20)
    client.hset(KEYS.state, mapping={"counter": "x", "incarnation": "?", "schema": "1", "fingerprint": "y"})
    async with running(make_task(made(), version, start_anew=True)):
        await until(lambda: done(client), "the input is read anew")


@pytest.mark.parametrize("packed", [False, True], ids=["single", "block"])
async def test_input_goes_when_memory_is_short_though_nothing_comes_in(
    client: redis.Redis, made: Callable[[], redis.asyncio.Redis], version: str, packed: bool
) -> None:
    """All publishers hold back, so there is no batch whose commit could trim, and they would wait for ever."""
    rows = [(HOME[0], 100.0 + at, 1.0, at * S // 4) for at in range(60)]
    for part in (rows[:40], rows[40:]):
        group = group_ticks(Ticks.from_rows(part), lambda symbol: KEYS)
        run(client, append(group, Numbering.of(None), "", patience_s=5, blocks="always" if packed else "never"))
    client.set(KEYS.lease, TOKEN)
    short: list[bool] = []
    async with running(make_task(made(), version, short=lambda: bool(short))) as loop:
        await until(lambda: done(client), "all is consumed")
        before, counter = client.xlen(KEYS.ticks), client.hget(KEYS.state, "counter")
        short.append(True)
        await until(lambda: client.xlen(KEYS.ticks) == 1, f"one of {before} entries is left, the anchor")
        client.xadd(KEYS.ticks, {"symbol": HOME[0], "price": 1, "size": 1, "ts": 15 * S})
        await until(lambda: done(client), "it goes on")
        assert not loop.done()
    assert before > 1
    assert counter != client.hget(KEYS.state, "counter")
    assert not entries(client, KEYS.dead)


async def test_the_size_of_batches_outlives_the_lease(
    client: redis.Redis, made: Callable[[], redis.asyncio.Redis], version: str
) -> None:
    """Else a worker that loses its lease over long batches would begin with the same long batch for ever."""
    client.set(KEYS.lease, TOKEN)
    fill(client, 20)
    memo = Memo(6)
    task = make_task(made(), version, memo=memo)
    task._batch_s = 0.0  # every batch takes too long
    async with running(task):
        await until(lambda: done(client), "the input is read")
    assert memo.ticks == 1


async def test_a_batch_with_more_outputs_than_a_commit_can_carry_is_read_in_parts(
    client: redis.Redis,
    made: Callable[[], redis.asyncio.Redis],
    version: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fill(client, 60)
    expected = await calm(client, made(), version)
    monkeypatch.setattr(partition, "MOST_ARGUMENTS", 100)
    client.set(KEYS.lease, TOKEN)
    async with running(make_task(made(), version, spec=SIZED)):
        await until(lambda: done(client), "everything, in smaller batches")
    assert written(client) == expected


async def test_a_batch_with_larger_dead_letters_than_a_commit_can_carry_is_read_in_parts(
    client: redis.Redis, made: Callable[[], redis.asyncio.Redis], version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.set(KEYS.lease, TOKEN)
    fill(client, 5)
    for number in range(20):
        client.xadd(KEYS.ticks, {"kind": "?", "data": f"{number}" + "x" * 300})
    monkeypatch.setattr(partition, "MOST_DEAD", 1000)
    async with running(make_task(made(), version)):
        await until(lambda: done(client), "everything, in smaller batches")
    assert [orjson.loads(fields[b"fields"])["data"].strip("x") for _, fields in entries(client, KEYS.dead)] == [
        str(number) for number in range(20)
    ]
    assert int(client.hget(KEYS.state, "counter") or 0) >= 10, "two at a time, at most"


async def test_what_is_too_large_is_set_aside_without_its_fields(
    client: redis.Redis, made: Callable[[], redis.asyncio.Redis], version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole, and escaped, it could be larger than what Redis takes at once, and the partition would stand for ever."""
    largest = pack_block(Ticks.from_rows([("A", 1.0, 1.0, number) for number in range(MOST_TICKS)]))
    assert len(largest) < raw.MOST_KEPT
    monkeypatch.setattr(raw, "MOST_KEPT", 65_536)
    client.set(KEYS.lease, TOKEN)
    client.xadd(KEYS.ticks, {"kind": "block", "data": b"\xff" * 60_000})
    client.xadd(KEYS.ticks, {"kind": "block", "data": b"\xff" * 70_000})
    async with running(make_task(made(), version)):
        await until(lambda: done(client), "it goes on")
    kept, bare = [DeadLetter.from_fields(fields) for _, fields in entries(client, KEYS.dead)]
    assert raw_words(kept.fields) == [b"kind", b"block", b"data", b"\xff" * 60_000]
    assert not bare.fields
    assert "it does not begin as one (its fields, 70,013 bytes, are too large to be kept here)" in bare.detail


async def test_a_release_that_an_older_announcement_undid_is_announced_again(
    client: redis.Redis, made: Callable[[], redis.asyncio.Redis], version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker was paused while it announced what was in force before; its entry comes behind the new owner's."""
    older, newer = list(FAKES)[:2]
    client.set(KEYS.lease, TOKEN)
    fill(client, 5)
    task = make_task(made(), version)

    async def in_force(release: str) -> None:
        await until(lambda: client.hget(KEYS.state, "release") == release.encode() and done(client), "it is in force")

    async with running(task):
        await until(lambda: done(client), "it is at work")
        await task.announce(FAKES[newer])
        await in_force(newer)
        client.xadd(KEYS.ticks, cast(Any, release_fields(older)))
        await in_force(older)
        await task.announce(FAKES[newer])
        assert client.hget(KEYS.state, "release") == older.encode(), "not at once"
        monkeypatch.setattr(partition, "ANNOUNCE_EVERY_S", 0.0)
        await task.announce(FAKES[newer])
        await in_force(newer)
        await task.announce(FAKES[newer])
    assert [fields[b"release"].decode() for _, fields in entries(client, KEYS.ticks) if b"release" in fields] == [
        newer, older, newer
    ]  # fmt: skip


async def test_reads_that_are_cancelled_leave_no_connection_behind(
    client: redis.Redis, made: Callable[[], redis.asyncio.Redis], version: str
) -> None:
    client.set(KEYS.lease, TOKEN)
    fill(client, 5)
    link = made()
    for _ in range(20):
        async with running(make_task(link, version)):
            await until(lambda: done(client), "the partition waits for more")
            await asyncio.sleep(0.005)
    pool: Any = link.connection_pool
    assert not pool._in_use_connections
    assert client.info("clients")["connected_clients"] < 10
    assert await link.ping()
