"""Ticks are appended once and in order, whatever is refused, lost on the way, or forgotten by the log."""

from __future__ import annotations

import copy
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import pytest
import redis

from streams.append import PublishError, PublishGap, append
from streams.clients import connect
from streams.columns import Ticks
from streams.errors import BadName
from streams.exchange import Exchange, Outcome, Steps, run
from streams.ids import StreamID
from streams.keys import Keys
from streams.numbering import Numbering
from streams.publish import Group, clock_fields, group_ticks
from streams.room import Pause
from tests.conftest import binary_of
from tests.servers import Server
from tests.streams.test_publish import entries_of, send

KEYS = Keys("t")
HOME = KEYS.partition(0)
STREAM = HOME.ticks


def test_refused_for_lack_of_memory_then_accepted_in_order(server: Server, client: redis.Redis) -> None:
    """Memory that becomes free meanwhile must not let later ticks overtake refused ones."""
    rows = [("SPY", float(i + 1), 0.0, i) for i in range(500)]
    group = group_ticks(Ticks.from_rows(rows), lambda symbol: HOME)
    client.set("ballast", b"x" * 2_000_000)
    client.config_set("maxmemory", 1_500_000)
    steps = append(group, Numbering.of(None), server.url, patience_s=60, blocks="never")
    pauses = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        assert client.xlen(STREAM) == 0
        if len(pauses) == 3:
            client.config_set("maxmemory", 0)

    run(client, steps, sleep)
    assert len(pauses) == 3
    assert pauses == sorted(pauses)
    assert [float(fields[b"price"]) for fields in entries_of(client)] == [row[1] for row in rows]


def test_a_refusal_that_lasts_is_an_error_that_says_what_is_in(server: Server, client: redis.Redis) -> None:
    rows = [("SPY", float(i + 1), 0.0, i) for i in range(5)]
    client.config_set("maxmemory", 1)
    clock = iter(range(1000))
    steps = append(
        group_ticks(Ticks.from_rows(rows), lambda symbol: HOME),
        Numbering.of(None),
        server.url,
        patience_s=3,
        before=7,
        now=lambda: float(next(clock)),
    )
    with pytest.raises(PublishError, match="refuses for now") as caught:
        run(client, steps, lambda seconds: None)
    error = caught.value
    assert (error.accepted, error.unsure, error.out, error.next_row) == (7, (), (0, 1, 2, 3, 4), 5)


@pytest.mark.parametrize("key", [STREAM, HOME.publishers])
def test_a_key_of_the_wrong_type_fails_at_once(client: redis.Redis, key: str) -> None:
    client.set(key, "x")
    rows = [("SPY", 1.0, 0.0, 1)] * 3
    with pytest.raises(PublishError, match=f"{key} is no .*RENAME") as caught:
        send(client, group_ticks(Ticks.from_rows(rows), lambda symbol: HOME), patience_s=60)
    assert caught.value.out == (0, 1, 2)


def test_a_stream_whose_ids_are_nearly_used_up_takes_all_or_nothing(client: redis.Redis) -> None:
    client.xadd(STREAM, {"by": "somebody"}, id=f"{2**64 - 1}-{2**64 - 4}")
    rows = [("SPY", float(i + 1), 0.0, i) for i in range(5)]
    with pytest.raises(PublishError, match=f"{STREAM} is no stream with ids left.*RENAME") as caught:
        send(client, group_ticks(Ticks.from_rows(rows), lambda symbol: HOME), patience_s=60)
    assert (caught.value.out, client.xlen(STREAM)) == ((0, 1, 2, 3, 4), 1)
    client.xtrim(STREAM, 0, approximate=False)
    with pytest.raises(PublishError, match=f"{STREAM} is no stream with ids left"):
        send(client, group_ticks(Ticks.from_rows(rows), lambda symbol: HOME), patience_s=60)
    client.rename(STREAM, "aside")
    send(client, group_ticks(Ticks.from_rows(rows), lambda symbol: HOME), patience_s=60)
    assert client.xlen(STREAM) == 5


def drive(steps: Any, outcomes: list[Outcome]) -> list[Any]:
    """Answer exchanges with these outcomes; give what the steps asked for."""
    asked = []
    try:
        step = next(steps)
        while True:
            asked.append(step)
            step = steps.send(outcomes.pop(0) if isinstance(step, Exchange) else None)
    except StopIteration:
        return asked


def ticks_of(*prices: float) -> Ticks:
    return Ticks.from_rows([("SPY", price, 0.0, 1) for price in prices])


GROUPS = [
    Group(KEYS.partition(0), np.array([0, 2]), ticks_of(1.0, 3.0)),
    Group(KEYS.partition(1), np.array([1]), ticks_of(2.0)),
]
LOST = redis.ConnectionError("Connection reset by peer")
#: Answers of the script.
OK_2, OK_1 = [b"OK", b"2", b"5-1"], [b"OK", b"1", b"6-1"]


def begin(**options: Any) -> tuple[Steps, Numbering]:
    numbering = Numbering.of(None)
    return append(GROUPS, numbering, "redis://test", **{"patience_s": 60, "blocks": "never", **options}), numbering


def test_a_group_without_reply_is_sent_again_and_no_other() -> None:
    steps, numbering = begin()
    asked = drive(steps, [Outcome([OK_2], LOST, sent=True), Outcome([[b"DUP", b"1", b"6-1"]], None, sent=True)])
    assert isinstance(asked[1], Pause)
    assert (asked[0].replies, asked[2].replies) == (2, 1)
    assert KEYS.partition(1).ticks.encode() in asked[2].payload
    assert [place.sent for place in numbering.places.values()] == [2, 1]


def test_what_was_never_sent_is_sent_again() -> None:
    steps, _ = begin()
    asked = drive(steps, [Outcome([], LOST, sent=False), Outcome([OK_2, OK_1], None, sent=True)])
    assert isinstance(asked[1], Pause)
    assert asked[0] == asked[2]


def test_only_the_refused_group_is_sent_again() -> None:
    loading = redis.exceptions.BusyLoadingError("Redis is loading the dataset in memory")
    steps, _ = begin()
    asked = drive(steps, [Outcome([OK_2, loading], None, sent=True), Outcome([OK_1], None, sent=True)])
    assert asked[2].replies == 1
    assert KEYS.partition(1).ticks.encode() in asked[2].payload


def test_when_patience_ends_rows_without_reply_are_in_doubt_and_the_next_ones_are_not_taken_for_them() -> None:
    steps, numbering = begin(patience_s=0)
    with pytest.raises(PublishError) as caught:
        drive(steps, [Outcome([OK_2], LOST, sent=True)])
    error = caught.value
    assert (error.accepted, error.unsure, error.out) == (2, (1,), ())
    assert "2 entries are certainly in the log" in str(error)
    assert "1 more may be in it or not" in str(error)
    later = error.shifted(10)
    assert (later.accepted, later.unsure, later.next_row) == (12, (11,), 13)
    place = numbering.place(KEYS.partition(1))
    assert (place.sent, place.last) == (1, ""), "the next tick is number 2, whether number 1 is there or not"


def test_a_refusal_after_a_lost_reply_leaves_the_doubt() -> None:
    oom = redis.exceptions.OutOfMemoryError("OOM command not allowed")
    clock = iter([0.0, 1.0, 1.0, 99.0])
    steps, _ = begin(patience_s=10, now=lambda: next(clock))
    with pytest.raises(PublishError) as caught:
        drive(steps, [Outcome([], LOST, sent=True), Outcome([oom, oom], None, sent=True)])
    assert caught.value.unsure == (0, 1, 2)


def test_an_interrupted_exchange_is_left_behind() -> None:
    steps, numbering = begin()
    next(steps)
    steps.close()
    assert [(place.sent, place.last) for place in numbering.places.values()] == [(2, ""), (1, "")]


def test_a_sequence_whose_end_is_in_doubt_is_begun_again_before_it_goes_on(client: redis.Redis) -> None:
    """Else a later publisher of the name would pass over ticks that never came, taking others for them."""
    numbering = Numbering.of("feed")
    publish(client, numbering, 1.0, 2.0)
    steps = append([Group(HOME, np.arange(2), ticks_of(3.0, 4.0))], numbering, "redis://test", patience_s=60)
    next(steps)
    steps.close()
    with pytest.raises(PublishGap, match=r"in doubt.*rewind") as caught:
        publish(client, numbering, 5.0)
    assert (caught.value.accepted, caught.value.unsure, caught.value.out) == (0, (), (0,))
    send(client, [Group(HOME, np.array([0]), None, clock_fields(1))], numbering=numbering)
    publish(client, Numbering.of("feed"), 1.0, 2.0, 3.0, 4.0, 5.0)
    assert [float(f[b"price"]) for f in entries_of(client) if b"price" in f] == [1.0, 2.0, 3.0, 4.0, 5.0]


def test_after_a_gap_nothing_is_taken_for_what_came_beside_it(client: redis.Redis) -> None:
    """The exchange that met the gap appended to another partition, which nobody was told of."""
    numbering, beside = Numbering.of("feed"), KEYS.partition(1)
    publish(client, numbering, 1.0)
    client.hset(HOME.publishers, "feed", b"0 0-0 1")
    groups = [Group(HOME, np.array([0]), ticks_of(2.0)), Group(beside, np.array([1]), ticks_of(3.0))]
    with pytest.raises(PublishGap):
        send(client, groups, numbering=numbering)
    assert client.xlen(beside.ticks) == 1
    with pytest.raises(PublishGap):
        send(client, [Group(beside, np.array([0]), ticks_of(4.0))], numbering=numbering)


def test_a_reply_lost_on_the_way_costs_no_tick_and_doubles_none(server: Server, client: redis.Redis) -> None:
    """A proxy passes the request on and cuts the connection instead of the answer."""
    group = group_ticks(Ticks.from_rows([("SPY", 1.0 + t, 0.0, t) for t in range(300)]), lambda symbol: HOME)
    numbering = Numbering.of(None)
    with cutting_proxy(server, b"EVAL") as url, connect(url) as through:
        run(through, append(group, numbering, url, patience_s=30, blocks="never"))
    assert [float(fields[b"price"]) for fields in entries_of(client)] == [1.0 + t for t in range(300)]
    assert numbering.place(HOME).sent == 300


def publish(client: redis.Redis, numbering: Numbering, *prices: float) -> dict[str, StreamID]:
    return send(client, [Group(HOME, np.arange(len(prices)), ticks_of(*prices))], numbering=numbering)


def prices_of(client: redis.Redis) -> list[float]:
    return [float(fields[b"price"]) for fields in entries_of(client)]


def test_a_sequence_that_begins_again_is_passed_over_as_far_as_the_log_has_it(client: redis.Redis) -> None:
    publish(client, Numbering.of("feed"), 1.0, 2.0, 3.0)
    again = Numbering.of("feed")  # believes that nothing was sent
    publish(client, again, 1.0, 2.0)
    publish(client, again, 3.0, 4.0)
    publish(client, again, 5.0)
    assert prices_of(client) == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert cast(bytes, client.hget(HOME.publishers, "feed")).startswith(b"5 ")


@pytest.mark.parametrize("known", [False, True], ids=["begun again", "late"])
def test_a_clock_takes_nothing_back_of_what_the_log_has_taken(client: redis.Redis, known: bool) -> None:
    first = Numbering.of("feed")
    publish(client, first, 1.0, 2.0)
    again = Numbering.of("feed")
    if known:  # a call without reply that comes to its end only now
        again.place(HOME).last = first.place(HOME).last
    send(client, [Group(HOME, np.array([0]), None, clock_fields(1))], numbering=again)
    publish(client, again, 1.0, 2.0, 3.0)
    publish(client, Numbering.of("feed"), 1.0, 2.0, 3.0, 4.0)
    assert [float(f[b"price"]) for f in entries_of(client) if b"price" in f] == [1.0, 2.0, 3.0, 4.0]


@pytest.mark.parametrize("name", ["feed", None], ids=["live", "forked"])
def test_ticks_that_another_publisher_of_the_name_does_not_have_are_not_passed_over(
    client: redis.Redis, name: str | None
) -> None:
    """Two live feeds under one name, one of them woken as a zombie; or two processes after a fork."""
    one = Numbering.of(name, from_start=False)
    publish(client, one, 1.0)
    other = copy.deepcopy(one)
    publish(client, one, 2.0, 3.0)
    publish(client, other, 4.0)
    publish(client, one, 5.0)
    assert prices_of(client) == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert (one.rivals, other.rivals) == (1, 1)
    assert (one.passed_over, one.gaps, other.passed_over, other.gaps) == (0, 0, 0, 0)


def test_two_sequences_do_not_disturb_each_other(client: redis.Redis) -> None:
    one, other = Numbering.of("one"), Numbering.of(None)
    publish(client, one, 1.0)
    publish(client, other, 1.0)
    publish(client, one, 2.0)
    assert prices_of(client) == [1.0, 1.0, 2.0]


@pytest.mark.parametrize("trouble", ["deleted", "flushed", "forgotten", "begun again"])
def test_a_log_that_forgot_says_reset_and_publishing_goes_on(client: redis.Redis, trouble: str) -> None:
    numbering = Numbering.of("feed")
    publish(client, numbering, 1.0, 2.0)
    if trouble == "flushed":
        client.flushall()
    elif trouble == "forgotten":
        client.delete(HOME.publishers)
    else:
        client.delete(STREAM)
    if trouble == "begun again":  # as a scorer does, behind what it had read
        client.xgroup_create(STREAM, "scorers", "0", mkstream=True)
    publish(client, numbering, 3.0)
    publish(client, numbering, 4.0)
    assert prices_of(client)[-2:] == [3.0, 4.0]
    assert (numbering.resets, numbering.gaps) == (1, 0)


@pytest.mark.parametrize("repeats", [False, True], ids=["live", "repeatable"])
def test_a_log_that_fell_back_says_gap(client: redis.Redis, repeats: bool) -> None:
    """A live feed goes on; a sequence that can be sent again is begun again."""
    numbering = Numbering.of("feed", from_start=repeats)
    publish(client, numbering, 1.0)
    stream, table = client.dump(STREAM), client.dump(HOME.publishers)
    publish(client, numbering, 2.0, 3.0)
    client.restore(STREAM, 0, cast(bytes, stream), replace=True)
    client.restore(HOME.publishers, 0, cast(bytes, table), replace=True)
    if repeats:
        with pytest.raises(PublishGap, match=r"lost 2 ticks of publisher feed .*`rewind`"):
            publish(client, numbering, 4.0)
        publish(client, Numbering.of("feed"), 1.0, 2.0, 3.0, 4.0)
        assert prices_of(client) == [1.0, 2.0, 3.0, 4.0]
        return
    publish(client, numbering, 4.0)
    publish(client, numbering, 5.0)
    assert prices_of(client) == [1.0, 4.0, 5.0]
    assert (numbering.gaps, numbering.lost, numbering.resets) == (1, 2, 0)


def test_silent_publishers_are_forgotten(client: redis.Redis) -> None:
    old = {f"old{at}": f"1 1-1 {at}" for at in range(126)} | {"nobody": "is no record"}
    client.hset(HOME.publishers, mapping=cast(Any, old))
    publish(client, Numbering.of("new"), 1.0)
    assert cast(Any, client.hkeys(HOME.publishers)) == [b"new"]


def test_a_script_that_the_server_forgot_is_sent_again(client: redis.Redis) -> None:
    numbering = Numbering.of(None)
    publish(client, numbering, 1.0)
    client.script_flush()
    publish(client, numbering, 2.0)
    assert prices_of(client) == [1.0, 2.0]


@pytest.mark.parametrize("name", ["", "~x", "a b", "x" * 65, "é"])
def test_a_publishers_name_is_checked(name: str) -> None:
    with pytest.raises(BadName, match="publisher's name"):
        Numbering.of(name)


@contextmanager
def cutting_proxy(server: Server, word: bytes) -> Iterator[str]:
    """A proxy to `server` that swallows the answer to the first command that holds `word`, and hangs up."""
    path = server.directory / "proxy.sock"
    cut = threading.Event()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            while True:
                try:
                    near, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=pump, args=(near,), daemon=True).start()

        def pump(near: socket.socket) -> None:
            with near, socket.socket(socket.AF_UNIX) as far:
                far.connect(str(server.directory / "redis.sock"))
                armed = False
                while True:
                    ready, _, _ = select.select([near, far], [], [])
                    source = ready[0]
                    data = source.recv(65536)
                    armed = armed or (source is near and word in data and not cut.is_set())
                    if not data or (source is far and armed):
                        cut.set()
                        return
                    (far if source is near else near).sendall(data)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"unix://{path}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
    path.unlink()


def test_a_server_that_comes_back_is_connected_to_again() -> None:
    for kind in ("embedded", "system"):
        server = Server(binary_of(kind), ("--appendonly", "yes", "--appendfsync", "always")).start()
        try:
            client = server.client()
            one = group_ticks(Ticks.from_rows([("SPY", 1.0, 0.0, 1)]), lambda symbol: HOME)
            send(client, one)
            server.kill()
            naps = iter(range(1000))

            def start_again(_: float, server: Server = server, naps: Any = naps) -> None:
                if next(naps) == 1:
                    server.start()

            run(client, append(one, Numbering.of(None), server.url, patience_s=30), start_again)
            assert client.xlen(STREAM) == 2
            client.close()
        finally:
            server.close()
