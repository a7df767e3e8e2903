from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
import redis

from consumers.outputs import dead_fields
from streams import dead_letters
from streams.dead_letters import CannotRetry, DeadLetters, Letter, NoSuchLetter
from streams.errors import BrokenKey
from streams.ids import Source, StreamID
from streams.keys import Keys
from streams.records import DeadRequest
from streams.settings import Pipeline
from streams.tenant import Tenant
from tests.consumers.asking import entries

TENANT = Tenant(Keys("t"), 8, Pipeline())
SPY = TENANT.partition_of("SPY")
OTHER = (SPY + 1) % 8
ODD = [b"symbol", b"SPY", b"price", b"\xff\\x41", b"price", b"2", b"\\", "é".encode()]


@pytest.fixture
def letters(client: redis.Redis) -> DeadLetters:
    return DeadLetters(client, TENANT)


def bury(client: redis.Redis, partition: int, words: list[bytes], reason: str = "malformed") -> str:
    """Set an entry aside as a scorer does; the letter's reference."""
    fields = dead_fields(reason, "it is wrong", Source(0, StreamID(1, 0), 0, 0), words)
    entry: Any = client.xadd(TENANT.keys.partition(partition).dead, dict(zip(fields[::2], fields[1::2], strict=True)))
    return f"{partition}/{entry.decode()}"


def bury_request(client: redis.Redis, keys: Keys = TENANT.keys) -> str:
    letter = DeadRequest(
        reason="deliveries",
        detail="it kills",
        request="1-0",
        deliveries=5,
        consumers=("a", "b"),
        first=1,
        last=2,
        fields={"series": "SPY:1m", "id": "mine"},
    )
    entry: Any = client.xadd(keys.dead, cast(Any, letter.to_fields()))
    return f"requests/{entry.decode()}"


def raw(client: redis.Redis, key: str) -> list[list[bytes]]:
    """The entries of a stream as names and values in turn; a dictionary would have each name once."""
    found: Any = client.eval("return redis.call('XRANGE', KEYS[1], '-', '+')", 1, key)
    return [words for _, words in found]


def test_an_entry_is_published_again_byte_for_byte_and_its_letter_is_gone(
    client: redis.Redis, letters: DeadLetters
) -> None:
    ref = bury(client, SPY, ODD)
    letter = letters.get(ref)
    done = letters.retry(letter)
    assert done is not None
    assert (done.ref, done.key) == (ref, TENANT.keys.partition(SPY).ticks)
    [(entry, _)] = entries(client, done.key)
    assert entry == done.entry
    assert raw(client, done.key) == [ODD]
    assert letters.total() == 0
    assert letters.retry(letter) is None, "somebody else was faster"
    assert client.xlen(done.key) == 1


def test_a_tick_in_the_wrong_partition_goes_to_the_right_one(client: redis.Redis, letters: DeadLetters) -> None:
    words = [b"symbol", b"SPY", b"price", b"1", b"ts", b"5"]
    done = letters.retry(letters.get(bury(client, OTHER, words, "wrong_partition")))
    assert done is not None
    assert done.key == TENANT.keys.partition(SPY).ticks
    assert raw(client, done.key) == [words]
    assert letters.total() == 0


def test_a_crash_between_appending_and_deleting_leaves_the_letter_and_publishes_nothing_twice(
    client: redis.Redis, letters: DeadLetters, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = bury(client, OTHER, [b"symbol", b"SPY", b"price", b"1", b"ts", b"5"], "wrong_partition")

    def crash(self: redis.Redis, *args: Any) -> int:
        raise KeyboardInterrupt

    letter = letters.get(ref)
    with monkeypatch.context() as patch:
        patch.setattr(redis.Redis, "xdel", crash)
        with pytest.raises(KeyboardInterrupt):
            letters.retry(letter)
    assert letters.total() == 1
    done = letters.retry(letters.get(ref))
    assert done is not None
    assert done.entry is None
    assert client.xlen(done.key) == 1
    assert letters.total() == 0


@pytest.mark.parametrize(
    "words",
    [[b"kind", b"clock", b"ts", b"99"], [b"symbol", b"\xff", b"price", b"1"], [b"symbol", b"?", b"ts", b"1"]],
)
def test_what_names_no_symbol_goes_back_where_it_came_to(
    client: redis.Redis, letters: DeadLetters, words: list[bytes]
) -> None:
    done = letters.retry(letters.get(bury(client, OTHER, words)))
    assert done is not None
    assert done.key == TENANT.keys.partition(OTHER).ticks
    assert raw(client, done.key) == [words]


def test_a_request_is_posted_again(client: redis.Redis, letters: DeadLetters) -> None:
    done = letters.retry(letters.get(bury_request(client)))
    assert done is not None
    assert done.key == TENANT.keys.requests
    assert raw(client, done.key) == [[b"series", b"SPY:1m", b"id", b"mine"]]
    assert client.exists(TENANT.keys.dead) == 1
    assert letters.total() == 0


@pytest.mark.parametrize("partition", [SPY, OTHER])
def test_a_full_memory_leaves_the_letter(client: redis.Redis, letters: DeadLetters, partition: int) -> None:
    letter = letters.get(bury(client, partition, ODD))
    client.config_set("maxmemory", 1)
    try:
        with pytest.raises(redis.RedisError, match="maxmemory"):
            letters.retry(letter)
    finally:
        client.config_set("maxmemory", 0)
    assert letters.total() == 1
    assert client.exists(TENANT.keys.partition(SPY).ticks) == 0


@pytest.mark.parametrize("partition", [SPY, OTHER])
def test_a_target_of_the_wrong_type_leaves_the_letter(
    client: redis.Redis, letters: DeadLetters, partition: int
) -> None:
    letter = letters.get(bury(client, partition, ODD))
    client.set(TENANT.keys.partition(SPY).ticks, "x")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        letters.retry(letter)
    assert letters.total() == 1


def test_letters_of_all_partitions_and_requests_are_found_newest_first(
    client: redis.Redis, letters: DeadLetters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "PIECE", 2)
    late = [bury(client, number % 3, [b"symbol", str(number).encode()], "late") for number in range(9)]
    request = bury_request(client)
    refs = [letter.ref for letter in letters.newest(100)]
    assert set(refs) == {*late, request}
    times = [letter.entry for letter in letters.newest(100)]
    assert times == sorted(times, reverse=True)
    assert len(letters.newest(4)) == 4
    assert {letter.ref for letter in letters.newest(100, "late")} == set(late)
    assert [letter.ref for letter in letters.newest(1, "deliveries")] == [request]
    assert sorted(letter.ref for letter in letters.all()) == sorted(refs)
    assert letters.total() == 10


def test_letters_that_come_while_all_are_retried_are_left_for_the_next_time(
    client: redis.Redis, letters: DeadLetters
) -> None:
    for number in range(3):
        bury(client, SPY, [b"symbol", b"SPY", b"price", str(number).encode()])
    done = 0
    for letter in letters.all():
        letters.retry(letter)
        bury(client, SPY, [b"symbol", b"SPY", b"price", b"again"])
        done += 1
    assert (done, letters.total()) == (3, 3)


def test_a_reference_is_found_short_if_it_is_the_only_one(client: redis.Redis, letters: DeadLetters) -> None:
    ref = bury(client, 3, [b"a", b"b"])
    where, _, entry = ref.partition("/")
    assert letters.get(entry).ref == ref
    client.xadd(TENANT.keys.dead, {"a": "b"}, id=entry)
    with pytest.raises(NoSuchLetter, match=rf"ambiguous \({where}/{entry}, requests/{entry}\).*red10 dead list"):
        letters.get(entry)


@pytest.mark.parametrize("ref", ["5-5", "3/5-5", "99/5-5", "requests/5-5", "nonsense", "", "3/"])
def test_a_reference_to_nothing_is_refused_with_what_to_do(letters: DeadLetters, ref: str) -> None:
    with pytest.raises(NoSuchLetter, match="red10 dead list"):
        letters.get(ref)


def test_an_entry_that_is_no_letter_can_be_seen_and_dropped_but_not_retried(
    client: redis.Redis, letters: DeadLetters
) -> None:
    client.xadd(TENANT.keys.partition(3).dead, {"hello": b"\xff"})
    [letter] = letters.newest(5)
    assert (letter.reason, letter.record) == ("unreadable", None)
    with pytest.raises(CannotRetry, match=f"red10 dead drop {letter.ref}"):
        letters.retry(letter)
    assert letters.drop(letter)
    assert not letters.drop(letter)
    assert letters.total() == 0


def test_a_letter_of_a_bar_or_of_a_gap_holds_nothing_to_publish(client: redis.Redis, letters: DeadLetters) -> None:
    for words in ([b"kind", b"bar", b"series", b"SPY:1m", b"bar", b"7"], []):
        with pytest.raises(CannotRetry):
            letters.retry(letters.get(bury(client, OTHER, words, "poison")))


def test_marks_of_letters_that_moved_are_kept_up_to_a_number(
    client: redis.Redis, letters: DeadLetters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "KEPT", 2)
    for number in range(4):
        letter: Letter = letters.get(bury(client, OTHER, [b"symbol", b"SPY", b"price", str(number).encode()]))
        letters.retry(letter)
    assert client.zcard(TENANT.keys.partition(SPY).retried) == 2


def test_a_key_that_is_no_stream_is_named(client: redis.Redis, letters: DeadLetters) -> None:
    key = TENANT.keys.partition(SPY).dead
    client.set(key, "x")
    looks: list[Callable[[], Any]] = [
        lambda: letters.newest(1),
        lambda: list(letters.all()),
        lambda: letters.get("1-0"),
    ]
    for look in looks:
        with pytest.raises(BrokenKey, match=f"{key} is no stream.*RENAME"):
            look()
