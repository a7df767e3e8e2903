from __future__ import annotations

import asyncio
import itertools
import threading
from typing import Any

import pytest
import redis

from consumers import request_queue
from consumers import requests as requests_module
from consumers.request_queue import RequestQueue
from consumers.requests import ResultsLate, post_once, post_request, post_requests, wait_results
from streams.clients import connect, connect_async
from streams.errors import BadRecord
from streams.ids import StreamID
from streams.keys import TRAINERS, Keys
from streams.records import TrainingRequest, TrainingResult
from tests.consumers.asking import asked, entries, idle_ms, pending
from tests.servers import Server

KEYS = Keys("t")


def result(request: StreamID, reason: str = "") -> TrainingResult:
    fields = {"request": str(request), "series": "SPY:1d", "status": "done", "reason": reason}
    return TrainingResult.model_validate(fields)


def put_result(client: redis.Redis, found: TrainingResult) -> None:
    client.xadd(KEYS.results, {name: value for name, value in found.to_fields().items()})


def test_a_posted_request_is_found_as_it_was_written(client: redis.Redis) -> None:
    request = asked("SPY:1d", targets=["close_5", "low_10"], as_of=17, id="mine")
    entry = post_request(client, KEYS, request)
    ((found, fields),) = entries(client, KEYS.requests)
    assert TrainingRequest.from_fields(fields) == request
    assert found == entry


def test_results_are_found_in_any_order_once_each_and_others_are_passed_over(client: redis.Redis) -> None:
    first, second, other = (post_request(client, KEYS, asked(f"{name}:1d")) for name in "ABC")
    for entry, reason in ((other, ""), (second, "one"), (second, "two"), (first, "")):
        put_result(client, result(entry, reason=reason))
    seen: list[TrainingResult] = []
    found = wait_results(client, KEYS, [first, second], timeout_s=5, progress=seen.append)
    assert list(found) == [first, second]
    assert found[second].reason == "one"
    assert [item.request for item in seen] == [str(second), str(first)]


def test_results_that_come_while_waiting_are_found(client: redis.Redis, server: Server) -> None:
    entry = post_request(client, KEYS, asked("A:1d"))
    waiting = threading.Event()

    def later() -> None:
        waiting.wait(10)
        with server.client() as own:
            put_result(own, result(entry))

    thread = threading.Thread(target=later)
    thread.start()
    ticks = itertools.count()

    def clock() -> float:
        waiting.set()
        return next(ticks) * 1e-6

    assert set(wait_results(client, KEYS, [entry], timeout_s=30, clock=clock)) == {entry}
    thread.join()


def test_no_request_needs_no_waiting(client: redis.Redis) -> None:
    assert wait_results(client, KEYS, [], timeout_s=0) == {}


def test_a_missing_result_is_named_with_what_was_found(client: redis.Redis) -> None:
    first, second = (post_request(client, KEYS, asked(f"{name}:1d")) for name in "AB")
    put_result(client, result(first))
    with pytest.raises(ResultsLate, match=r"1 of 2 training requests have no result after 0\.05 s") as caught:
        wait_results(client, KEYS, [first, second], timeout_s=0.05)
    assert caught.value.missing == (second,)
    assert set(caught.value.found) == {first}


def test_a_server_that_stays_away_is_named_as_the_cause(server: Server) -> None:
    gone = connect(f"unix://{server.directory}/no-such.sock")
    with pytest.raises(ResultsLate, match=r"the last try failed with: .*no-such\.sock"):
        wait_results(gone, KEYS, [StreamID(1, 0)], timeout_s=0.1)


def test_a_malformed_result_is_refused(client: redis.Redis) -> None:
    client.xadd(KEYS.results, {"request": "1-0", "status": "maybe", "series": "x"})
    with pytest.raises(BadRecord, match="training result: field status"):
        wait_results(client, KEYS, [StreamID(1, 0)], timeout_s=1)


#: What anybody may have added to the results, by hand or by another program.
JUNK: list[Any] = [{"hello": "world"}, {"request": "mine"}, {"request": b"\xff"}, {"request": "7-0", "status": "maybe"}]


def test_entries_that_are_no_result_of_ours_are_passed_over(client: redis.Redis) -> None:
    entry = post_request(client, KEYS, asked("A:1d"))
    for fields in JUNK:
        client.xadd(KEYS.results, fields)
    put_result(client, result(entry))
    assert set(wait_results(client, KEYS, [entry], timeout_s=5)) == {entry}


async def test_entries_that_are_no_result_do_not_keep_a_trainer_from_starting(
    server: Server, client: redis.Redis
) -> None:
    for fields in JUNK:
        client.xadd(KEYS.results, fields)
    entry = post_request(client, KEYS, asked("A:1d"))
    async with connect_async(server.url, block_ms=1000) as own:
        queue = RequestQueue(own, KEYS, "a")
        assert await queue.read(1) == []
        assert [found for found, _ in await queue.read(1000)] == [entry]


async def test_results_are_kept_up_to_a_number(
    server: Server, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_queue, "KEEP_RESULTS", 1)
    async with connect_async(server.url, block_ms=1000) as own:
        queue = RequestQueue(own, KEYS, "a")
        await queue.read(1)
        answer = [(StreamID(1, number), result(StreamID(1, number))) for number in range(300)]
        await queue.answer(answer)
        # Redis drops whole nodes of 100 entries.
        assert 1 <= client.xlen(KEYS.results) <= 200


async def test_requests_posted_at_once_reach_a_waiting_trainer_as_one_batch(
    server: Server, client: redis.Redis
) -> None:
    async with connect_async(server.url, block_ms=5000) as own:
        queue = RequestQueue(own, KEYS, "a")
        await queue.read(1)
        reading = asyncio.create_task(queue.read(5000))
        while not client.info("clients")["blocked_clients"]:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        posted = await asyncio.to_thread(post_requests, client, KEYS, [asked(f"{name}:1d") for name in "ABC"])
        assert [found for found, _ in await reading] == posted


async def test_a_result_that_does_not_fit_into_memory_leaves_its_request_pending(
    server: Server, client: redis.Redis
) -> None:
    async with connect_async(server.url, block_ms=1000) as own:
        queue = RequestQueue(own, KEYS, "a")
        await queue.read(1)
        entry = post_request(client, KEYS, asked("A:1d"))
        await queue.read(1000)
        client.config_set("maxmemory", 1)
        try:
            with pytest.raises(redis.RedisError, match="maxmemory"):
                await queue.answer([(entry, result(entry))])
        finally:
            client.config_set("maxmemory", 0)
        assert pending(client, KEYS) == 1
        await queue.answer([(entry, result(entry))])
        assert pending(client, KEYS) == 0


async def test_a_request_is_pending_until_it_is_answered(server: Server, client: redis.Redis) -> None:
    async with connect_async(server.url, block_ms=1000) as own:
        queue = RequestQueue(own, KEYS, "a")
        assert await queue.read(1) == []
        entry = post_request(client, KEYS, asked("A:1d"))
        first = await queue.read(1000)
        assert [found for found, _ in first] == [entry]
        assert await queue.read(1) == first, "not answered: handed out again"
        await queue.answer([(entry, result(entry))])
        assert await queue.read(1) == []
        assert pending(client, KEYS) == 0
        assert client.xlen(KEYS.results) == 1


async def test_requests_of_a_dead_trainer_are_taken_over_and_those_of_a_live_one_are_not(
    server: Server, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connect_async(server.url, block_ms=1000) as own:
        live, other = RequestQueue(own, KEYS, "live"), RequestQueue(own, KEYS, "other")
        await live.read(1)
        entry = post_request(client, KEYS, asked("A:1d"))
        await live.read(1000)
        assert await other.read(1) == []
        client.xclaim(KEYS.requests, TRAINERS, "live", 0, [str(entry)], idle=29_000)
        await live.keep([entry])
        assert idle_ms(client, KEYS) < 20_000
        assert await other.read(1) == []
        client.xclaim(KEYS.requests, TRAINERS, "live", 0, [str(entry)], idle=31_000)
        assert [found for found, _ in await other.read(1)] == [entry]


async def test_a_lost_group_is_made_again_and_answered_requests_are_not_done_again(
    server: Server, client: redis.Redis
) -> None:
    async with connect_async(server.url, block_ms=1000) as own:
        queue = RequestQueue(own, KEYS, "a")
        await queue.read(1)
        first, second, third = (post_request(client, KEYS, asked(f"{name}:1d")) for name in "ABC")
        await queue.read(1000)
        await queue.answer([(first, result(first)), (third, result(third))])
        client.xgroup_destroy(KEYS.requests, TRAINERS)
        assert await queue.read(1) == []
        assert [found for found, _ in await queue.read(1000)] == [second]
        assert pending(client, KEYS) == 1


async def test_a_deleted_request_comes_without_fields(server: Server, client: redis.Redis) -> None:
    async with connect_async(server.url, block_ms=1000) as own:
        queue = RequestQueue(own, KEYS, "a")
        await queue.read(1)
        entry = post_request(client, KEYS, asked("A:1d"))
        await queue.read(1000)
        client.xdel(KEYS.requests, str(entry))
        assert await queue.read(1) == [(entry, {})]


async def test_whether_an_answer_landed_is_told_by_what_is_pending(server: Server, client: redis.Redis) -> None:
    lost = redis.ConnectionError("reply lost")
    async with connect_async(server.url, block_ms=1000) as own:
        queue = RequestQueue(own, KEYS, "a")
        await queue.read(1)
        entry = post_request(client, KEYS, asked("A:1d"))
        await queue.read(1000)
        answer = [(entry, result(entry))]
        assert not await queue.landed(answer, lost)
        await queue.answer(answer)
        assert await queue.landed(answer, lost)
        assert not await queue.landed(answer, redis.ResponseError("OOM")), "a refusal wrote nothing"


def test_a_request_with_an_id_is_posted_once_however_often_it_is_tried(client: redis.Redis) -> None:
    request = asked("SPY:1d", id="mine", why="drift")
    entry = post_once(client, KEYS, request)
    assert post_once(client, KEYS, request) is None
    other = post_once(client, KEYS, asked("SPY:1d", id="other"))
    found = entries(client, KEYS.requests)
    assert [key for key, _ in found] == [entry, other]
    assert TrainingRequest.from_fields(found[0][1]) == request
    assert client.zscore(KEYS.posted, "mine") == (entry.ms if entry else None)
    with pytest.raises(ValueError, match="needs an id"):
        post_once(client, KEYS, asked("SPY:1d"))


def test_only_so_many_ids_are_remembered_the_newest(client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests_module, "KEPT_IDS", 3)
    client.zadd(KEYS.posted, {f"old-{number}": number for number in range(5)})
    post_once(client, KEYS, asked("SPY:1d", id="mine"))
    assert client.zrange(KEYS.posted, 0, -1) == [b"old-3", b"old-4", b"mine"]
