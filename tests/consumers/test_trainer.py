from __future__ import annotations

import asyncio
import inspect
import logging
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, cast

import pytest
import redis

from consumers.fit import FitParameters, FitRequest, fit_series
from consumers.fitpool import FitFailure, FitPool, Fitted, Job, fit_or_explain
from consumers.plans import Plan, Refusal, check_bars, decide
from consumers.request_queue import Limits, RequestQueue
from consumers.requests import post_request
from consumers.trainer import GRACE_S, Trainer, TrainerOptions
from modelstore.releases import Releases
from modelstore.saves import Persistence, SaveBarrier, SaveFailed, Step, Watch
from modelstore.store import ModelStore
from modelstore.verdicts import Verdicts
from streams.clients import connect, connect_async
from streams.ids import StreamID
from streams.keys import TRAINERS, Keys
from streams.records import TrainingResult
from streams.series import Series
from streams.settings import Pipeline
from streams.tenant import Tenant
from tests.conftest import binary_of
from tests.consumers.asking import asked, idle_ms, pending, results, until
from tests.consumers.walks import random_bars, store_bars
from tests.servers import Server

PARAMETERS = FitParameters(rounds=3, max_depth=2, learning_rate=0.3, min_child_weight=5, seed=0, min_rows=50)
PIPELINE = Pipeline(intervals=("1d",), columns=("close", "volume"), horizons=(1, 3))
TENANT = Tenant(Keys("t"), 2, PIPELINE)
NEEDED = 61 - 1 + 3 + 50


@pytest.fixture(scope="module")
def pool() -> Iterator[FitPool]:
    """Training processes shared by the tests of this module: each costs a second to start."""
    shared = FitPool(1)
    yield shared
    shared.close()


@asynccontextmanager
async def open_trainer(
    streams: Server,
    pool: FitPool,
    *,
    models: Server | None = None,
    consumer: str = "trainer-1",
    max_bars: int = 10_000,
    limits: Limits | None = None,
) -> AsyncIterator[Trainer]:
    options = TrainerOptions(PARAMETERS, max_bars=max_bars, processes=1, limits=limits or Limits())
    async with connect_async(streams.url, block_ms=200) as own:
        with connect(streams.url) as bars, connect((models or streams).url) as store:
            yield Trainer(
                streams=own, bars=bars, models=store, tenant=TENANT, options=options, consumer=consumer, pool=pool
            )


def add_bars(client: redis.Redis, symbol: str, count: int = 150, seed: int = 0) -> None:
    key = TENANT.keys.partition(TENANT.partition_of(symbol)).bars(f"{symbol}:1d")
    store_bars(client, key, random_bars(count, seed))


def post(client: redis.Redis, series: str, **fields: Any) -> StreamID:
    return post_request(client, TENANT.keys, asked(series, **fields))


async def next_batch(trainer: Trainer, count: int) -> list[tuple[StreamID, dict[bytes, bytes]]]:
    """Read until there are requests: the first read may only make the group."""
    for _ in range(5):
        batch = await trainer.read(200)
        if batch:
            assert len(batch) == count
            return batch
    raise AssertionError("no requests came")


async def train(trainer: Trainer, count: int) -> tuple[TrainingResult, ...]:
    return (await trainer.handle(await next_batch(trainer, count))).results


def champions(client: redis.Redis) -> dict[tuple[str, str], str]:
    releases = Releases(client, TENANT.keys)
    current = releases.current()
    return dict(releases.get(current.id).aliases) if current else {}


# Judging requests


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"series": "SPY:1m"}, "no bars of 1m; its intervals are 1d"),
        ({"series": "SPY:1d", "targets": ["close_2", "close_1"]}, "close_2 is no target .* such as close_1"),
        ({"series": "SPY:1d", "targets": []}, "no target is named"),
    ],
)
def test_a_request_that_the_pipeline_does_not_allow_is_refused_with_what_it_does(
    fields: dict[str, Any], said: str
) -> None:
    decision = decide(asked(**fields), PIPELINE)
    assert isinstance(decision, Refusal)
    assert re.search(said, decision.reason)


def test_a_request_without_targets_asks_for_all_and_a_double_counts_once() -> None:
    series = Series.parse("SPY:1d")
    assert decide(asked("SPY:1d"), PIPELINE) == Plan(series, PIPELINE.targets, None)
    twice = asked("SPY:1d", targets=["close_3", "close_1", "close_3"], as_of=5)
    assert decide(twice, PIPELINE) == Plan(series, ("close_3", "close_1"), 5)


def test_history_that_is_one_bar_short_is_refused_with_both_numbers() -> None:
    plan = Plan(Series.parse("SPY:1d"), PIPELINE.targets, None)
    assert check_bars(plan, NEEDED, NEEDED) is None
    refusal = check_bars(plan, NEEDED - 1, NEEDED)
    assert refusal is not None
    assert f"SPY:1d needs {NEEDED} bars, found {NEEDED - 1}" in refusal.reason


def lying(request: Job) -> Fitted:
    """In the training process: versions whose XGBoost model is no model."""
    assert isinstance(request, FitRequest)
    outcome = fit_series(request)
    return replace(outcome, versions=tuple(replace(version, ubj=b"no model") for version in outcome.versions))


async def test_versions_that_fail_their_check_are_not_stored_and_the_answer_says_why(
    server: Server, client: redis.Redis
) -> None:
    add_bars(client, "SPY")
    post(client, "SPY:1d")
    pool = FitPool(1, lying)
    async with open_trainer(server, pool) as trainer:
        (result,) = await train(trainer, 1)
        trainer.close()
    assert result.status == "failed"
    assert result.reason is not None
    assert "does not read its own model back" in result.reason
    assert ModelStore(client, TENANT.keys).count() == 0
    assert champions(client) == {}
    assert pending(client, TENANT.keys) == 0


# The way of a request


async def test_a_request_becomes_champions_and_one_acknowledged_result(
    server: Server, client: redis.Redis, pool: FitPool
) -> None:
    add_bars(client, "SPY")
    entry = post(client, "SPY:1d", id="mine")
    async with open_trainer(server, pool) as trainer:
        assert trainer.needed == NEEDED
        report = await trainer.handle(await next_batch(trainer, 1))
    (result,) = report.results
    assert results(client, TENANT.keys) == [result]
    assert (result.request, result.id, result.series, result.status) == (str(entry), "mine", "SPY:1d", "done")
    assert (result.bars, report.models, len(result.versions)) == (150, 4, 4)
    assert result.trained_through == random_bars(150).start[-1] + Series.parse("SPY:1d").interval.ns
    assert champions(client) == {
        (f"SPY:1d/{target}", "champion"): digest
        for target, digest in zip(PIPELINE.targets, result.versions, strict=True)
    }
    current = Releases(client, TENANT.keys).current()
    assert current is not None
    assert result.release == current.id
    assert pending(client, TENANT.keys) == 0


async def test_a_batch_makes_one_release_and_answers_in_the_order_of_requests(
    server: Server, client: redis.Redis, pool: FitPool
) -> None:
    for seed, symbol in enumerate(("A", "B", "C")):
        add_bars(client, symbol, seed=seed)
    entries = [post(client, f"{symbol}:1d") for symbol in ("B", "FB", "A", "C")]
    async with open_trainer(server, pool) as trainer:
        found = await train(trainer, 4)
    assert [result.request for result in found] == [str(entry) for entry in entries]
    assert [result.status for result in found] == ["done", "refused", "done", "done"]
    assert len({result.release for result in found if result.release}) == 1
    current = Releases(client, TENANT.keys).current()
    assert current is not None
    assert current.number == 1
    assert len(champions(client)) == 12


async def test_equal_requests_are_fitted_once_and_answered_each(
    server: Server, client: redis.Redis, pool: FitPool
) -> None:
    add_bars(client, "SPY")
    post(client, "SPY:1d", id="one")
    post(client, "SPY:1d", id="two")
    async with open_trainer(server, pool) as trainer:
        report = await trainer.handle(await next_batch(trainer, 2))
    assert [result.id for result in report.results] == ["one", "two"]
    assert report.models == 4


async def test_of_two_moments_of_one_new_series_the_later_request_is_in_force(
    server: Server, client: redis.Redis, pool: FitPool
) -> None:
    add_bars(client, "SPY")
    ends = [int(start) + Series.parse("SPY:1d").interval.ns for start in random_bars(150).start]
    for as_of in (ends[-1], ends[-20]):
        post(client, "SPY:1d", targets=["close_1"], as_of=as_of)
    async with open_trainer(server, pool) as trainer:
        newer, older = await train(trainer, 2)
    assert (newer.bars, older.bars) == (150, 131)
    assert older.trained_through is not None
    assert newer.trained_through is not None
    assert older.trained_through < newer.trained_through <= ends[-1]
    assert set(champions(client).values()) == set(older.versions)


async def test_a_later_version_challenges_the_champion_and_both_have_their_verdict(
    server: Server, client: redis.Redis, pool: FitPool
) -> None:
    add_bars(client, "SPY")
    ends = [int(start) + Series.parse("SPY:1d").interval.ns for start in random_bars(150).start]
    async with open_trainer(server, pool) as trainer:
        post(client, "SPY:1d", targets=["close_1"], as_of=ends[-20])
        (first,) = await train(trainer, 1)
        post(client, "SPY:1d", targets=["close_1"], why="drift in close_1")
        (second,) = await train(trainer, 1)
        post(client, "SPY:1d", targets=["close_1"], as_of=ends[-20])
        (again,) = await train(trainer, 1)
    assert again.versions == first.versions != second.versions
    assert champions(client) == {
        ("SPY:1d/close_1", "champion"): first.versions[0],
        ("SPY:1d/close_1", "challenger"): second.versions[0],
    }
    assert again.release == second.release, "a version that serves already changes nothing"
    newest, oldest = Verdicts(client, TENANT.keys).of("SPY:1d/close_1")
    assert (oldest.note.verdict, oldest.note.version, oldest.release) == ("first", first.versions[0], first.release)
    assert (newest.note.verdict, newest.note.version, newest.note.over) == (
        "challenger",
        second.versions[0],
        first.versions[0],
    )
    assert newest.note.at == second.trained_through
    assert newest.note.reason.endswith("trained because: drift in close_1")


async def test_a_request_with_since_is_trained_on_the_bars_after_it_or_refused_with_their_number(
    server: Server, client: redis.Redis, pool: FitPool
) -> None:
    add_bars(client, "SPY")
    ends = [int(start) + Series.parse("SPY:1d").interval.ns for start in random_bars(150).start]
    fresh = 3 + 50
    for bars in (fresh, fresh - 1):
        post(client, "SPY:1d", targets=["close_1"], since=ends[-bars - 1])
    async with open_trainer(server, pool) as trainer:
        done, refused = await train(trainer, 2)
    assert (done.status, done.bars) == ("done", 150)
    assert ModelStore(client, TENANT.keys).manifest(done.versions[0]).dataset["rows"] == 50
    assert refused.status == "refused"
    assert f"needs {fresh} bars, found {fresh - 1} after " in refused.reason


async def test_no_more_bars_are_used_than_the_settings_allow(
    server: Server, client: redis.Redis, pool: FitPool
) -> None:
    add_bars(client, "SPY")
    post(client, "SPY:1d")
    async with open_trainer(server, pool, max_bars=120) as trainer:
        (result,) = await train(trainer, 1)
    assert (result.status, result.bars) == ("done", 120)


async def test_what_cannot_be_done_is_answered_and_never_blocks(
    server: Server, client: redis.Redis, pool: FitPool
) -> None:
    add_bars(client, "FB", count=NEEDED - 1)
    add_bars(client, "QUIET")
    client.set(TENANT.keys.partition(TENANT.partition_of("ODD")).bars("ODD:1d"), "no stream")
    requests = TENANT.keys.requests
    post(client, "FB:1d")
    post(client, "NONE:1d")
    post(client, "SPY:5m", id="x")
    post(client, "SPY:1d", targets=["close_7"])
    client.xadd(requests, {"series": b"\xff", "id": "y"})
    client.xadd(requests, {"kind": "dance", "series": "SPY:1d"})
    client.xadd(requests, {"nonsense": "1"})
    post(client, "ODD:1d")
    post(client, "QUIET:1d")
    async with open_trainer(server, pool) as trainer:
        found = await train(trainer, 9)
    assert [result.status for result in found] == ["refused"] * 7 + ["failed", "done"]
    assert f"FB:1d needs {NEEDED} bars, found {NEEDED - 1}" in found[0].reason
    assert f"needs {NEEDED} bars, found 0" in found[1].reason
    assert found[2].id == "x"
    assert "close_7 is no target" in found[3].reason
    assert found[4].id == "y"
    assert "WRONGTYPE" in found[7].reason
    assert pending(client, TENANT.keys) == 0
    assert len(results(client, TENANT.keys)) == 9


async def test_targets_that_cannot_be_trained_are_named_in_the_result_of_the_others(
    server: Server, client: redis.Redis, pool: FitPool
) -> None:
    bars = random_bars(150)
    bars.values[:, 4] = 0
    store_bars(client, TENANT.keys.partition(TENANT.partition_of("FX")).bars("FX:1d"), bars)
    post(client, "FX:1d")
    post(client, "FX:1d", targets=["volume_1"])
    async with open_trainer(server, pool) as trainer:
        some, none = await train(trainer, 2)
    assert (some.status, len(some.versions)) == ("done", 2)
    assert "not trained: volume_1 (0 rows with a known label, 50 needed); volume_3" in some.reason
    assert (none.status, none.versions, none.release) == ("refused", (), None)


def first_target_fails(request: Job) -> Fitted:
    assert isinstance(request, FitRequest)
    return FitFailure("out of luck") if "close_1" in request.targets else fit_or_explain(request)


async def test_a_series_is_never_half_new(
    server: Server, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    add_bars(client, "SPY")
    post(client, "SPY:1d")
    async with open_trainer(server, FitPool(2, first_target_fails)) as trainer:
        (result,) = await train(trainer, 1)
        trainer.close()
    assert (result.status, result.reason, result.versions) == ("failed", "out of luck", ())
    assert ModelStore(client, TENANT.keys).count() == 0
    assert "fitting SPY:1d failed: out of luck" in caplog.text


# Crashes


class Crash(Exception):
    """The process ends here."""


def crash_after(monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> None:
    original: Callable[..., Any] = getattr(owner, name)

    if inspect.iscoroutinefunction(original):

        async def crash_async(*args: Any, **kwargs: Any) -> Any:
            await original(*args, **kwargs)
            raise Crash

        monkeypatch.setattr(owner, name, crash_async)
        return

    def crash(*args: Any, **kwargs: Any) -> Any:
        original(*args, **kwargs)
        raise Crash

    monkeypatch.setattr(owner, name, crash)


@pytest.mark.parametrize(
    ("owner", "step"),
    [(FitPool, "fit"), (ModelStore, "put_many"), (Releases, "promote"), (SaveBarrier, "wait_saved")],
)
async def test_a_crash_before_the_acknowledgement_leaves_the_request_and_it_is_done_once(
    server: Server, client: redis.Redis, pool: FitPool, owner: type, step: str
) -> None:
    add_bars(client, "SPY")
    post(client, "SPY:1d")
    async with open_trainer(server, pool) as trainer:
        batch = await next_batch(trainer, 1)
        with pytest.MonkeyPatch.context() as patch:
            crash_after(patch, owner, step)
            with pytest.raises(Crash):
                await trainer.handle(batch)
    assert results(client, TENANT.keys) == []
    assert pending(client, TENANT.keys) == 1
    assert b"its trainer failed" in cast(bytes, client.hget(TENANT.keys.attempts, str(batch[0][0])))
    async with open_trainer(server, pool) as trainer:
        (result,) = await train(trainer, 1)
        assert await trainer.read(1) == []
    assert result.status == "done"
    assert pending(client, TENANT.keys) == 0
    store = ModelStore(client, TENANT.keys)
    assert [len(store.versions(f"SPY:1d/{target}")) for target in PIPELINE.targets] == [1, 1, 1, 1]
    current = Releases(client, TENANT.keys).current()
    assert current is not None
    assert current.number == 1


async def test_an_answer_whose_reply_was_lost_is_not_given_twice(
    server: Server, client: redis.Redis, pool: FitPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    post(client, "NONE:1d")
    original = RequestQueue.answer
    lost: list[bool] = []

    async def lose_first(self: RequestQueue, found: Any) -> int:
        answered = await original(self, found)
        if not lost:
            lost.append(True)
            raise redis.ConnectionError("reply lost")
        return answered

    monkeypatch.setattr(RequestQueue, "answer", lose_first)
    async with open_trainer(server, pool) as trainer:
        await train(trainer, 1)
    assert lost
    assert len(results(client, TENANT.keys)) == 1


async def test_results_that_are_no_stream_are_said_and_the_answer_waits(
    server: Server, client: redis.Redis, pool: FitPool, caplog: pytest.LogCaptureFixture
) -> None:
    client.set(TENANT.keys.results, "x")
    post(client, "NONE:1d")
    async with open_trainer(server, pool) as trainer:
        work = asyncio.create_task(trainer.handle(await next_batch(trainer, 1)))
        await until(lambda: f"{TENANT.keys.results} is no stream" in caplog.text)
        assert trainer.away["streams"]
        assert pending(client, TENANT.keys) == 1
        client.delete(TENANT.keys.results)
        await work
    assert len(results(client, TENANT.keys)) == 1
    assert pending(client, TENANT.keys) == 0


@pytest.fixture(params=["embedded", "system"])
def mortal(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server of the test's own, to be killed."""
    own = Server(binary_of(request.param)).start()
    yield own
    own.close()


async def test_a_models_redis_that_forgot_everything_before_the_save_gets_it_again(
    server: Server, client: redis.Redis, mortal: Server, pool: FitPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_bars(client, "SPY")
    post(client, "SPY:1d")
    original = SaveBarrier.wait_saved
    restarts: list[bool] = []

    def restart_first(self: SaveBarrier, timeout_s: float) -> Any:
        if not restarts:
            restarts.append(True)
            mortal.kill()
            mortal.start()
        return original(self, timeout_s)

    monkeypatch.setattr(SaveBarrier, "wait_saved", restart_first)
    async with open_trainer(server, pool, models=mortal) as trainer:
        report = await trainer.handle(await next_batch(trainer, 1))
        assert restarts
        assert report.results == ()
        assert pending(client, TENANT.keys) == 1
        (result,) = await train(trainer, 1)
    mortal.kill()
    mortal.start()
    with mortal.client() as models:
        assert set(champions(models).values()) == set(result.versions), "what is acknowledged survives"


async def test_a_store_that_forgot_the_versions_before_the_switch_gets_them_again(
    server: Server, client: redis.Redis, mortal: Server, pool: FitPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_bars(client, "SPY")
    post(client, "SPY:1d")
    original = Releases.promote
    emptied: list[bool] = []

    def empty_first(self: Releases, *arguments: Any, **named: Any) -> Any:
        if not emptied:
            emptied.append(True)
            with mortal.client() as models:
                models.flushall()
        return original(self, *arguments, **named)

    monkeypatch.setattr(Releases, "promote", empty_first)
    async with open_trainer(server, pool, models=mortal) as trainer:
        assert (await trainer.handle(await next_batch(trainer, 1))).results == ()
        assert emptied
        assert pending(client, TENANT.keys) == 1
        (result,) = await train(trainer, 1)
    assert result.status == "done"


async def test_requests_under_way_are_kept_from_other_trainers(
    server: Server, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    add_bars(client, "SPY")
    post(client, "SPY:1d")
    limits = Limits(claim_idle_ms=120)
    async with open_trainer(server, FitPool(1, never_ends), limits=limits) as trainer:
        work = asyncio.create_task(trainer.handle(await next_batch(trainer, 1)))
        for _ in range(2):
            age_pending(client)
            await until(lambda: idle_ms(client, TENANT.keys) < limits.claim_idle_ms)
        assert pending_rows(client)[0]["times_delivered"] == 1
        client.xclaim(TENANT.keys.requests, TRAINERS, "other", 0, [pending_rows(client)[0]["message_id"]])
        await until(lambda: "took over" in caplog.text)
        client.xgroup_destroy(TENANT.keys.requests, TRAINERS)
        await until(lambda: "cannot be kept" in caplog.text)
        assert not work.done(), "the work goes on"
        trainer.stop()
        trainer.close()
        assert (await work).results == ()


def pending_rows(client: redis.Redis) -> list[dict[str, Any]]:
    return cast(list[dict[str, Any]], client.xpending_range(TENANT.keys.requests, TRAINERS, "-", "+", 10))


def age_pending(client: redis.Redis) -> None:
    """Make the pending request look as if its trainer had not touched it for long."""
    [found] = pending_rows(client)
    client.xclaim(TENANT.keys.requests, TRAINERS, found["consumer"], 0, [found["message_id"]], idle=31_000, justid=True)


async def test_a_save_that_fails_is_not_acknowledged_before_one_succeeds(
    server: Server,
    client: redis.Redis,
    pool: FitPool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    add_bars(client, "SPY")
    post(client, "SPY:1d")
    original = SaveBarrier.wait_saved
    seen: list[int] = []

    def fail_twice(self: SaveBarrier, timeout_s: float) -> Any:
        seen.append(pending(client, TENANT.keys))
        if len(seen) < 3:
            raise SaveFailed("no space left on device")
        return original(self, timeout_s)

    monkeypatch.setattr(SaveBarrier, "wait_saved", fail_twice)
    async with open_trainer(server, pool) as trainer:
        (result,) = await train(trainer, 1)
    assert result.status == "done"
    assert seen == [1, 1, 1]
    assert sum("no space left" in record.message for record in caplog.records) == 1


@pytest.mark.parametrize("role", ["streams", "models"])
async def test_a_redis_that_goes_away_midway_is_waited_for_and_said_once(
    server: Server,
    client: redis.Redis,
    mortal: Server,
    pool: FitPool,
    role: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    streams, models = (mortal, server) if role == "streams" else (server, mortal)
    with streams.client() as direct:
        add_bars(direct, "SPY")
        post(direct, "SPY:1d")
    async with open_trainer(streams, pool, models=models) as trainer:
        batch = await next_batch(trainer, 1)
        with mortal.client() as direct:
            direct.save()
        mortal.kill()
        work = asyncio.create_task(trainer.handle(batch))
        await until(lambda: any("waiting for" in record.message for record in caplog.records))
        assert not work.done()
        await asyncio.to_thread(mortal.start)
        report = await work
    assert [result.status for result in report.results] == ["done"]
    messages = [record.message for record in caplog.records if f"the {role} Redis" in record.message]
    assert ["waiting" in messages[0], "back" in messages[1], len(messages)] == [True, True, 2]
    with streams.client() as direct:
        assert pending(direct, TENANT.keys) == 0


# Stopping


def never_ends(request: Job) -> Fitted:
    time.sleep(600)
    return FitFailure("unreachable")


async def test_a_stopping_trainer_gives_a_long_batch_back(server: Server, client: redis.Redis) -> None:
    add_bars(client, "SPY")
    post(client, "SPY:1d")
    async with open_trainer(server, FitPool(1, never_ends)) as trainer:
        batch = await next_batch(trainer, 1)
        began = time.monotonic()
        asyncio.get_running_loop().call_later(0.1, trainer.stop)
        report = await trainer.handle(batch)
        assert time.monotonic() - began < GRACE_S + 2
        trainer.close()
        assert report.results == ()
        assert await trainer.read(200) == []
        assert (await trainer.handle(batch)).results == ()
    assert pending(client, TENANT.keys) == 1
    assert results(client, TENANT.keys) == []
    async with open_trainer(server, FitPool(1, first_target_fails), consumer="trainer-2") as other:
        (result,) = await train(other, 1)
        other.close()
        assert result.status == "failed", "taken over at once"
    assert client.exists(TENANT.keys.attempts) == 0


async def test_what_comes_to_a_trainer_that_was_just_stopped_is_given_back(
    server: Server, client: redis.Redis, pool: FitPool
) -> None:
    post(client, "SPY:1d")
    async with open_trainer(server, pool) as trainer:
        batch = await next_batch(trainer, 1)
        trainer.stop()
        assert (await trainer.handle(batch)).results == ()
    [row] = cast(Any, client.xpending_range(TENANT.keys.requests, TRAINERS, "-", "+", 1))
    assert (row["times_delivered"], row["time_since_delivered"] > 3_600_000) == (0, True), "others take it at once"


async def test_a_stopping_trainer_does_not_wait_for_a_long_save(
    server: Server, client: redis.Redis, pool: FitPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_bars(client, "SPY")
    post(client, "SPY:1d")
    saving = asyncio.Event()
    loop = asyncio.get_running_loop()

    def never_done(self: Watch, now: Persistence) -> Step:
        loop.call_soon_threadsafe(saving.set)
        return Step.WAIT

    monkeypatch.setattr(Watch, "judge", never_done)
    async with open_trainer(server, pool) as trainer:
        work = asyncio.create_task(trainer.handle(await next_batch(trainer, 1)))
        await saving.wait()
        trainer.stop()
        assert (await work).results == ()
        # Joins the threads, as the end of the process does.
        await asyncio.wait_for(loop.shutdown_default_executor(), 5)
    assert pending(client, TENANT.keys) == 1


async def test_a_stopping_trainer_that_waits_for_redis_ends(mortal: Server, pool: FitPool) -> None:
    async with open_trainer(mortal, pool) as trainer:
        mortal.kill()
        reading = asyncio.create_task(trainer.read(200))
        await asyncio.sleep(0)
        trainer.stop()
        assert await asyncio.wait_for(reading, 5) == []
