from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, cast

import orjson
import pytest
import redis

from consumers import request_queue
from consumers.deliveries import How
from consumers.request_queue import Entry, Limits, RequestQueue
from consumers.requests import post_request, post_requests
from streams.clients import connect_async
from streams.errors import BrokenKey
from streams.ids import StreamID
from streams.keys import TRAINERS, Keys
from streams.raw import raw_words
from streams.records import DeadRequest, TrainingResult
from tests.consumers.asking import asked, entries, idle_ms, pending, results
from tests.servers import Server

KEYS = Keys("t")
LIMITS = Limits(claim_idle_ms=30_000, max_deliveries=3)


def result(request: StreamID, reason: str = "") -> TrainingResult:
    fields = {"request": str(request), "series": "SPY:1d", "status": "done", "reason": reason}
    return TrainingResult.model_validate(fields)


@asynccontextmanager
async def queues(
    server: Server, *names: str, taken: list[How] | None = None, limits: Limits = LIMITS
) -> AsyncIterator[list[RequestQueue]]:
    async with AsyncExitStack() as stack:
        found = []
        for name in names:
            own = await stack.enter_async_context(connect_async(server.url, block_ms=5000))
            told = (lambda how: None) if taken is None else taken.append
            found.append(RequestQueue(own, KEYS, name, limits, on_delivery=told))
        yield found


def post(client: redis.Redis, *names: str) -> list[StreamID]:
    return post_requests(client, KEYS, [asked(f"{name}:1d", id=name) for name in names])


def ids(batch: list[Entry]) -> list[StreamID]:
    return [entry for entry, _ in batch]


def deliveries(client: redis.Redis) -> list[int]:
    found = cast(list[dict[str, int]], client.xpending_range(KEYS.requests, TRAINERS, "-", "+", 100))
    return [row["times_delivered"] for row in found]


def silence(client: redis.Redis, ms: int = 31_000) -> None:
    """Make pending requests look as if their trainers had not touched them for long; no delivery is counted."""
    for row in cast(Any, client.xpending_range(KEYS.requests, TRAINERS, "-", "+", 100)):
        client.xclaim(
            KEYS.requests, TRAINERS, row["consumer"], 0, [row["message_id"]], idle=ms, justid=True
        )  # fmt: skip


async def blocked(client: redis.Redis, count: int = 1) -> None:
    while client.info("clients")["blocked_clients"] < count:  # noqa: ASYNC110
        await asyncio.sleep(0.005)


# Taking


async def test_requests_posted_at_once_reach_a_waiting_trainer_as_one_batch(
    server: Server, client: redis.Redis
) -> None:
    async with queues(server, "a") as [queue]:
        reading = asyncio.create_task(queue.read(5000))
        await blocked(client)
        posted = await asyncio.to_thread(post, client, "A", "B", "C")
        assert ids(await reading) == posted


async def test_of_two_waiting_trainers_one_gets_a_request(server: Server, client: redis.Redis) -> None:
    async with queues(server, "a", "b") as both:
        reading = [asyncio.create_task(queue.read(1000)) for queue in both]
        await blocked(client, 2)
        posted = post(client, "A")
        first, second = [await task for task in reading]
        assert ids(first + second) == posted


async def test_a_request_is_pending_until_it_is_answered(server: Server, client: redis.Redis) -> None:
    taken: list[How] = []
    async with queues(server, "a", taken=taken) as [queue]:
        assert await queue.read(1) == []
        [entry] = post(client, "A")
        first = await queue.read(1000)
        assert ids(first) == [entry]
        assert await queue.read(1) == first, "not answered: handed out again"
        assert await queue.answer([(entry, result(entry))]) == 1
        assert await queue.read(1) == []
    assert (pending(client, KEYS), client.xlen(KEYS.results), client.exists(KEYS.attempts)) == (0, 1, 0)
    assert taken == ["new", "own"]


async def test_requests_of_a_silent_trainer_are_taken_over_and_those_of_a_live_one_are_not(
    server: Server, client: redis.Redis
) -> None:
    taken: list[How] = []
    async with queues(server, "live", "other", taken=taken) as [live, other]:
        [entry] = post(client, "A")
        await live.read(1000)
        silence(client, 29_000)
        assert await live.keep([entry]) == [entry]
        assert idle_ms(client, KEYS) < 20_000
        assert deliveries(client) == [1], "touching is no delivery"
        assert await other.read(1) == []
        silence(client)
        assert ids(await other.read(1)) == [entry]
        assert deliveries(client) == [2]
        assert await live.keep([entry]) == [], "what was taken over is left to the other one"
        assert await live.read(1) == []
    assert taken == ["new", "claimed"]


async def test_what_was_delivered_before_is_taken_with_few_others_then_alone(
    server: Server, client: redis.Redis
) -> None:
    """A deadly request takes no other one along to the end, and the others of its batch need not go one by one."""
    async with queues(server, "dead", "heir", "next") as [dead, heir, third]:
        posted = post(client, *(f"S{number}" for number in range(20)))
        assert ids(await dead.read(1000)) == posted
        silence(client)
        assert ids(await heir.read(1)) == posted[:8]
        silence(client)
        for entry in posted[:8]:
            assert ids(await third.read(1)) == [entry], "its last time"
            await third.answer([(entry, result(entry))])
        for piece in (posted[8:16], posted[16:]):
            assert ids(await third.read(1)) == piece
            await third.answer([(entry, result(entry)) for entry in piece])
        assert await third.read(1) == []


async def test_the_last_delivery_is_alone_however_few_there_are(server: Server, client: redis.Redis) -> None:
    async with queues(server, "dead", "heir", limits=Limits(max_deliveries=2)) as [dead, heir]:
        posted = post(client, "A", "B")
        assert ids(await dead.read(1000)) == posted
        silence(client)
        assert ids(await heir.read(1)) == posted[:1]


async def test_a_delivery_whose_reply_was_lost_does_not_count(
    server: Server, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with queues(server, "a", "b") as [first, second]:
        posted = post(client, "A", "B", "C")
        for queue in (first, second):
            take = queue._take

            async def lost(take: Any = take) -> Any:
                await take()
                raise redis.ConnectionError("Connection reset by peer")

            monkeypatch.setattr(queue, "_take", lost)
            for _ in range(LIMITS.max_deliveries + 1):
                with pytest.raises(redis.ConnectionError):
                    await queue.read(1)
            monkeypatch.undo()
            assert ids(await queue.read(1)) == posted, "as one batch"
            assert deliveries(client) == [1 if queue is first else 2] * 3
            silence(client)
        histories = [orjson.loads(raw) for raw in client.hvals(KEYS.attempts)]
        assert [found["deliveries"] for found in histories] == [2, 2, 2]
        assert {found["reason"] for found in histories} == {"trainer a went silent"}


async def test_what_a_stopping_trainer_gives_back_is_taken_at_once_and_was_not_delivered(
    server: Server, client: redis.Redis
) -> None:
    async with queues(server, "stops", "next") as [stops, heir]:
        posted = post(client, "A", "B")
        await stops.read(1000)
        await stops.leave(posted, "its trainer was stopped", give_back=True)
        assert deliveries(client) == [0, 0]
        assert ids(await heir.read(1)) == posted, "as one batch"
        assert deliveries(client) == [1, 1]
        await stops.leave(posted, "too late", give_back=True)
        assert deliveries(client) == [1, 1], "they are another's now"


# Answering


async def test_a_request_that_two_trainers_carried_out_has_one_result(server: Server, client: redis.Redis) -> None:
    async with queues(server, "paused", "other") as [paused, other]:
        [entry] = post(client, "A")
        await paused.read(1000)
        silence(client)
        await other.read(1)
        assert await other.answer([(entry, result(entry, "other"))]) == 1
        assert await paused.answer([(entry, result(entry, "paused"))]) == 0
        assert await other.answer([(entry, result(entry, "again"))]) == 0
    assert [found.reason for found in results(client, KEYS)] == ["other"]
    assert pending(client, KEYS) == 0


async def test_a_trainer_that_wakes_long_after_does_not_answer_what_was_answered_and_trimmed(
    server: Server, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_queue, "KEEP_REQUESTS", 1)
    async with queues(server, "paused", "other") as [paused, other]:
        [entry] = post(client, "A")
        await paused.read(1000)
        silence(client)
        await other.read(1)
        await other.answer([(entry, result(entry))])
        for name in "BC":
            [later] = post(client, name)
            await other.read(1000)
            await other.answer([(later, result(later))])
        assert client.xrange(KEYS.requests, str(entry), str(entry)) == []
        assert client.zscore(KEYS.answered, str(entry)) is None
        assert await paused.answer([(entry, result(entry, "late"))]) == 0
        assert client.xlen(KEYS.results) == 3


async def test_answered_requests_are_trimmed_but_never_what_is_pending_or_not_taken(
    server: Server, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_queue, "KEEP_REQUESTS", 2)
    async with queues(server, "slow", "quick") as [slow, quick]:
        before = post(client, *"ABCD")
        done = await quick.read(1000)
        await quick.answer([(entry, result(entry)) for entry in ids(done)])
        assert [found for found, _ in entries(client, KEYS.requests)] == before[2:]
        [held] = post(client, "E")
        await slow.read(1000)
        after = [StreamID(held.ms + more, 0) for more in (1, 2, 3)]
        for entry in after:
            client.xadd(KEYS.requests, {"series": "F:1d"}, id=str(entry))
        await quick.read(1000)
        await quick.answer([(entry, result(entry)) for entry in after])
        waiting = [StreamID(held.ms + 4, 0)]
        client.xadd(KEYS.requests, {"series": "I:1d"}, id=str(waiting[0]))
        assert [found for found, _ in entries(client, KEYS.requests)] == [held, *after, *waiting]
        assert client.zcard(KEYS.answered) == 3
        await slow.answer([(held, result(held))])
        assert [found for found, _ in entries(client, KEYS.requests)] == [after[-1], *waiting]
        assert client.zcard(KEYS.answered) == 1
        assert ids(await quick.read(1)) == waiting


async def test_results_are_kept_up_to_a_number(
    server: Server, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_queue, "KEEP_RESULTS", 1)
    async with queues(server, "a") as [queue]:
        posted = post(client, *[f"A{number}" for number in range(300)])
        await queue.read(1000)
        await queue.answer([(entry, result(entry)) for entry in posted])
        # Redis drops whole nodes of 100 entries.
        assert 1 <= client.xlen(KEYS.results) <= 200


async def test_a_result_that_does_not_fit_into_memory_leaves_its_request_pending(
    server: Server, client: redis.Redis
) -> None:
    async with queues(server, "a") as [queue]:
        assert await queue.read(1) == []
        [entry] = post(client, "A")
        client.config_set("maxmemory", 1)
        try:
            assert ids(await queue.read(1000)) == [entry], "taking needs no memory"
            with pytest.raises(redis.RedisError, match="maxmemory"):
                await queue.answer([(entry, result(entry))])
        finally:
            client.config_set("maxmemory", 0)
        assert pending(client, KEYS) == 1
        assert client.exists(KEYS.answered) == 0
        await queue.answer([(entry, result(entry))])
        assert pending(client, KEYS) == 0


@pytest.mark.parametrize("key", [KEYS.results, KEYS.answered, KEYS.attempts])
async def test_a_key_of_the_wrong_type_is_said_and_nothing_is_acknowledged_without_an_answer(
    server: Server, client: redis.Redis, key: str
) -> None:
    async with queues(server, "a") as [queue]:
        [entry] = post(client, "A")
        await queue.read(1000)
        client.delete(key)
        client.set(key, "x")
        with pytest.raises(BrokenKey, match=f"{key} is no .*RENAME"):
            await queue.answer([(entry, result(entry))])
        assert pending(client, KEYS) == 1
        client.delete(key)
        assert await queue.answer([(entry, result(entry))]) == 1
    assert client.xlen(KEYS.results) == 1


async def test_a_request_stream_that_is_none_is_said(server: Server, client: redis.Redis) -> None:
    client.set(KEYS.requests, "x")
    async with queues(server, "a") as [queue]:
        with pytest.raises(BrokenKey, match=f"{KEYS.requests} is no stream"):
            await queue.read(1)
    assert client.get(KEYS.requests) == b"x"


async def test_results_whose_ids_are_used_up_are_said(server: Server, client: redis.Redis) -> None:
    client.xadd(KEYS.results, {"a": "b"}, id=f"{2**64 - 1}-{2**64 - 1}")
    async with queues(server, "a") as [queue]:
        [entry] = post(client, "A")
        await queue.read(1000)
        with pytest.raises(BrokenKey, match="ids left"):
            await queue.answer([(entry, result(entry))])
    assert pending(client, KEYS) == 1


# Deliveries


async def test_a_request_that_is_never_answered_is_given_up_with_its_history(
    server: Server, client: redis.Redis
) -> None:
    taken: list[How] = []
    raw = {b"series": b"A:1d", b"id": b"mine", b"odd": b"\xff\\x41"}
    async with queues(server, "a", "b", "c", "d", taken=taken) as [first, second, third, fourth]:
        entry = StreamID.parse(cast(bytes, client.xadd(KEYS.requests, cast(Any, raw))))
        assert ids(await first.read(1000)) == [entry]
        silence(client)
        assert ids(await second.read(1)) == [entry]
        await second.leave([entry], "out of luck", give_back=False)
        silence(client)
        assert ids(await third.read(1)) == [entry]
        assert client.exists(KEYS.dead) == 0
        silence(client)
        assert await fourth.read(1) == []
        assert await fourth.read(1) == []
    assert taken == ["new", "claimed", "claimed", "spent"]
    [answer] = results(client, KEYS)
    assert (answer.request, answer.id, answer.series, answer.status) == (str(entry), "mine", "A:1d", "failed")
    assert "delivered 3 times without an answer (to a, b, c); the last time trainer c went silent" in answer.reason
    [(_, fields)] = entries(client, KEYS.dead)
    letter = DeadRequest.from_fields(fields)
    assert (letter.reason, letter.request, letter.deliveries) == ("deliveries", str(entry), 3)
    assert letter.consumers == ("a", "b", "c")
    assert letter.last_reason == "trainer c went silent"
    assert entry.ms <= letter.first // 1_000_000 <= letter.last // 1_000_000
    assert raw_words(letter.fields) == [word for pair in raw.items() for word in pair]
    assert (pending(client, KEYS), client.exists(KEYS.attempts)) == (0, 0)


async def test_a_reason_that_was_given_for_the_last_delivery_is_kept(server: Server, client: redis.Redis) -> None:
    async with queues(server, "a", limits=Limits(max_deliveries=1)) as [queue]:
        [entry] = post(client, "A")
        await queue.read(1000)
        await queue.leave([entry], "out of luck", give_back=False)
        assert await queue.read(1) == []
    [(_, fields)] = entries(client, KEYS.dead)
    assert DeadRequest.from_fields(fields).last_reason == "out of luck"


async def test_giving_up_is_one_step(server: Server, client: redis.Redis) -> None:
    async with queues(server, "a", limits=Limits(max_deliveries=1)) as [queue]:
        post(client, "A")
        await queue.read(1000)
        client.set(KEYS.dead, "x")
        for _ in range(2):
            with pytest.raises(BrokenKey, match=KEYS.dead):
                await queue.read(1)
        assert (pending(client, KEYS), deliveries(client), client.exists(KEYS.results)) == (1, [1], 0)
        client.delete(KEYS.dead)
        assert await queue.read(1) == []
    assert [found.status for found in results(client, KEYS)] == ["failed"]
    assert client.xlen(KEYS.dead) == 1


async def test_deliveries_are_counted_over_the_loss_of_the_group(server: Server, client: redis.Redis) -> None:
    async with queues(server, "a") as [queue]:
        deadly, other = post(client, "A", "B")
        await queue.read(1000)
        client.xgroup_destroy(KEYS.requests, TRAINERS)
        assert ids(await queue.read(1)) == [deadly, other]
        client.xgroup_destroy(KEYS.requests, TRAINERS)
        assert ids(await queue.read(1)) == [deadly], "alone, since it is the last time"
        client.xgroup_destroy(KEYS.requests, TRAINERS)
        assert ids(await queue.read(1)) == [other]
    assert [found.status for found in results(client, KEYS)] == ["failed"]


async def test_a_deleted_request_is_answered_and_not_pending_for_ever(server: Server, client: redis.Redis) -> None:
    async with queues(server, "dead", "next") as [dead, heir]:
        deleted, kept = post(client, "A", "B")
        await dead.read(1000)
        silence(client)
        client.xdel(KEYS.requests, str(deleted))
        assert await heir.read(1) == [(deleted, {}), *[(kept, fields) for _, fields in entries(client, KEYS.requests)]]
        await heir.answer([(deleted, result(deleted, "gone")), (kept, result(kept))])
    assert pending(client, KEYS) == 0
    assert [found.reason for found in results(client, KEYS)] == ["gone", ""]


async def test_a_request_that_is_deleted_while_it_is_carried_out_has_its_answer(
    server: Server, client: redis.Redis
) -> None:
    async with queues(server, "a") as [queue]:
        [entry] = post(client, "A")
        await queue.read(1000)
        client.xdel(KEYS.requests, str(entry))
        assert await queue.keep([entry]) == [entry]
        assert await queue.answer([(entry, result(entry))]) == 1
        assert await queue.answer([(entry, result(entry))]) == 0
    assert client.xlen(KEYS.results) == 1


# Repair


async def test_a_lost_group_is_made_again_and_no_trainer_does_answered_requests_again(
    server: Server, client: redis.Redis
) -> None:
    async with queues(server, "a", "b") as [first, second]:
        posted = post(client, *"ABC")
        await first.read(1000)
        await first.answer([(posted[0], result(posted[0])), (posted[2], result(posted[2]))])
        client.xgroup_destroy(KEYS.requests, TRAINERS)
        assert ids(await second.read(1)) == [posted[1]]
        assert pending(client, KEYS) == 1
        assert await first.answer([(posted[1], result(posted[1]))]) == 1
        assert await second.answer([(posted[1], result(posted[1]))]) == 0
    assert client.xlen(KEYS.results) == 3


async def test_an_answer_after_the_group_was_lost_is_given_once(server: Server, client: redis.Redis) -> None:
    async with queues(server, "a") as [queue]:
        [entry] = post(client, "A")
        await queue.read(1000)
        client.xgroup_destroy(KEYS.requests, TRAINERS)
        assert await queue.answer([(entry, result(entry))]) == 1
        assert await queue.read(1) == []
    assert (pending(client, KEYS), client.xlen(KEYS.results)) == (0, 1)


@pytest.mark.parametrize("how", ["group", "stream", "everything"])
async def test_a_trainer_that_waits_while_its_group_or_stream_is_deleted_goes_on_with_what_comes(
    server: Server, client: redis.Redis, how: str
) -> None:
    async with queues(server, "a") as [queue]:
        [old] = post(client, "A")
        await queue.read(1000)
        await queue.answer([(old, result(old))])
        reading = asyncio.create_task(queue.read(300))
        await blocked(client)
        if how == "group":
            client.xgroup_destroy(KEYS.requests, TRAINERS)
        elif how == "stream":
            client.delete(KEYS.requests)
        else:
            client.flushall()
        # Lower than what was read: ids of a stream that was made anew may begin anywhere.
        entry = StreamID(old.ms + 1, 0) if how == "group" else StreamID(5, 0)
        client.xadd(KEYS.requests, {"series": "B:1d"}, id=str(entry))
        found = await reading or await queue.read(1)
        assert ids(found) == [entry]
        assert await queue.answer([(entry, result(entry))]) == 1


async def test_consumers_that_are_gone_are_removed_but_none_with_pending_requests(
    server: Server, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_queue, "TIDY_IDLE_MS", 0)
    monkeypatch.setattr(request_queue, "TIDY_EVERY_S", 0.0)
    async with queues(server, "done", "holds", "live") as [done, holds, live]:
        [entry] = post(client, "A")
        await done.read(1000)
        await done.answer([(entry, result(entry))])
        post(client, "B")
        await holds.read(1000)
        await live.read(1)
        await live.read(1)
        rows = cast(Any, client.xinfo_consumers(KEYS.requests, TRAINERS))
        # Redis notes a consumer only once there was something for it.
        assert {row["name"] for row in rows} - {b"live"} == {b"holds"}
        assert pending(client, KEYS) == 1


async def test_entries_that_are_no_result_do_not_keep_a_trainer_from_starting(
    server: Server, client: redis.Redis
) -> None:
    client.xadd(KEYS.results, {"hello": "world"})
    entry = post_request(client, KEYS, asked("A:1d"))
    async with queues(server, "a") as [queue]:
        assert ids(await queue.read(1)) == [entry]
