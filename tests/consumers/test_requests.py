from __future__ import annotations

import itertools
import threading
from typing import Any

import pytest
import redis

from consumers import requests as requests_module
from consumers.requests import ResultsLate, post_once, post_request, wait_results
from streams.clients import connect
from streams.errors import BadRecord
from streams.ids import StreamID
from streams.keys import Keys
from streams.records import TrainingRequest, TrainingResult
from tests.consumers.asking import asked, entries
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
