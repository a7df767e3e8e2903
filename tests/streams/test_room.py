"""Publishers hold back before Redis is full."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from streams.append import PublishError, append
from streams.columns import Ticks
from streams.errors import RedisRefused
from streams.exchange import Exchange, Outcome, run
from streams.keys import Keys
from streams.numbering import Numbering
from streams.publish import group_ticks
from streams.room import PROBE_EVERY_BYTES, Memory, Pause, Probe, Room

FULL, ROOMY = Memory(81, 100), Memory(79, 100)


def walk(room: Room, answers: list[Memory | None]) -> list[Any]:
    """Answer its questions; what it asked for."""
    asked = []
    steps = room.wait()
    try:
        step = next(steps)
        while True:
            asked.append(type(step))
            step = steps.send(answers.pop(0) if isinstance(step, Probe) else None)
    except StopIteration:
        return asked


def test_it_asks_seldom_while_there_is_room_and_more_often_the_more_is_sent() -> None:
    now = [100.0]
    room = Room(0.8, "block", now=lambda: now[0])
    assert walk(room, [ROOMY]) == [Probe]
    assert walk(room, []) == []
    now[0] += 1
    assert walk(room, [ROOMY]) == [Probe]
    room.sent(PROBE_EVERY_BYTES)
    assert walk(room, [ROOMY]) == [Probe]


def test_it_waits_until_there_is_room_again_and_counts_how_long() -> None:
    now = [100.0]
    room = Room(0.8, "block", now=lambda: now[0])
    steps = room.wait()
    assert isinstance(next(steps), Probe)
    assert isinstance(steps.send(FULL), Pause)
    now[0] += 7
    assert isinstance(next(steps), Probe)
    with pytest.raises(StopIteration):
        steps.send(ROOMY)
    assert room.throttled_s == 7


def test_time_spent_waiting_for_room_does_not_use_the_patience_up() -> None:
    """A server that goes away just when there is room again is given the whole of it."""
    now = [100.0]
    group = group_ticks(Ticks.from_rows([("SPY", 1.0, 0.0, 1)]), lambda symbol: Keys("t").partition(0))
    room = Room(0.8, "block", now=lambda: now[0])
    steps = append(group, Numbering.of(None), "redis://t", patience_s=60, room=room, now=lambda: now[0])
    assert isinstance(next(steps), Probe)
    assert isinstance(steps.send(FULL), Pause)
    now[0] += 90
    assert isinstance(next(steps), Probe)
    assert isinstance(steps.send(ROOMY), Exchange)
    away = redis.ConnectionError("Connection refused")
    assert isinstance(steps.send(Outcome([], away, sent=False)), Pause)
    now[0] += 61
    assert isinstance(next(steps), Probe)
    assert isinstance(steps.send(None), Exchange)
    with pytest.raises(PublishError, match="Connection refused"):
        steps.send(Outcome([], away, sent=False))


@pytest.mark.parametrize("answer", [None, Memory(10**12, None), Memory(10**12, 0)])
def test_what_is_not_known_holds_nobody_back(answer: Memory | None) -> None:
    room = Room(0.8, "refuse")
    assert walk(room, [answer]) == [Probe]


def test_without_a_mark_it_never_asks() -> None:
    assert walk(Room(0.0, "block"), []) == []


def test_it_refuses_where_that_is_wanted_and_nothing_is_sent(client: redis.Redis) -> None:
    keys = Keys("t").partition(0)
    group = group_ticks(Ticks.from_rows([("SPY", 1.0, 0.0, 1)] * 3), lambda symbol: keys)
    client.config_set("maxmemory", 100)
    numbering = Numbering.of("feed")
    with pytest.raises(PublishError, match=r"of its memory; publishers hold back from 80% on") as caught:
        run(client, append(group, numbering, "", patience_s=60, room=Room(0.8, "refuse")))
    client.config_set("maxmemory", 0)
    assert isinstance(caught.value.cause, RedisRefused)
    assert caught.value.cause.code == "FULL"
    assert (caught.value.accepted, caught.value.unsure, caught.value.out) == (0, (), (0, 1, 2))
    assert not client.exists(keys.ticks)
    assert numbering.place(keys).sent == 0, "the same rows can be published again"


def test_the_limit_is_maxmemory_or_the_machines_memory() -> None:
    info = {"used_memory": 5, "maxmemory": 10, "total_system_memory": 100}
    assert Memory.of(info).share == 0.5
    assert Memory.of({**info, "maxmemory": 0}).share == 0.05
    assert Memory.of({}).share == 0.0
