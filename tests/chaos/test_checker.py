"""The checker finds each fault that is put into the evidence of a run in which all went well, and nothing else."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from tests.chaos.checker import check
from tests.chaos.evidence import Evidence, Row
from tests.chaos.made import common, evidence, owner


@pytest.fixture(scope="module")
def sound() -> Evidence:
    return evidence()


def changeable(sound: Evidence) -> Evidence:
    """A copy whose lists can be changed; what is never changed is shared."""
    shared: dict[str, Any] = {"spec": sound.spec, "releases": sound.releases}
    own: dict[str, Any] = {name: copy.deepcopy(value) for name, value in vars(sound).items() if name not in shared}
    return Evidence(**own, **shared)


def rows(found: Evidence, kind: str) -> list[Row]:
    """The longest stream of a kind."""
    streams = [
        written
        for partition in found.partitions.values()
        for name, written in partition.outputs.items()
        if name.startswith(kind)
    ]
    return max(streams, key=len)


def entries(found: Evidence) -> list[Any]:
    return max(found.archive.values(), key=len)


def lose_a_tick(found: Evidence) -> None:
    del entries(found)[200]


def lose_the_last_tick(found: Evidence) -> None:
    del entries(found)[-1]


def double_a_tick(found: Evidence) -> None:
    (ms, seq), words = entries(found)[200]
    entries(found).insert(201, ((ms, seq + 1_000_000), words))


def swap_two_ticks(found: Evidence) -> None:
    log = entries(found)
    symbol = log[200][1][1]
    other = next(at for at in range(201, len(log)) if log[at][1][1] == symbol)
    log[200], log[other] = (log[200][0], log[other][1]), (log[other][0], log[200][1])


def change_a_price(found: Evidence) -> None:
    entries(found)[200][1][3] = b"1.0"


def invent_a_tick(found: Evidence) -> None:
    words = [b"symbol", b"P0.0", b"price", b"1.0", b"size", b"1.0", b"ts", b"1600000000000000007"]
    home = next(log for log in found.archive.values() if any(entry[1][1] == b"P0.0" for entry in log))
    home.append(((home[-1][0][0] + 1, 0), words))


def leave_a_feed_unfinished(found: Evidence) -> None:
    assert found.feeds is not None
    found.feeds[0][1].done = False


def lose_a_bar(found: Evidence) -> None:
    del rows(found, "bars:")[3]


def double_a_bar(found: Evidence) -> None:
    rows(found, "bars:").append(rows(found, "bars:")[3])


def swap_two_bars(found: Evidence) -> None:
    bars = rows(found, "bars:")
    bars[3], bars[4] = bars[4], bars[3]


def change_a_bar(found: Evidence) -> None:
    bars = rows(found, "bars:")
    bars[3] = {**bars[3], "volume": "1.0"}


def lose_a_dead_letter(found: Evidence) -> None:
    del rows(found, "dead")[0]


def double_a_dead_letter(found: Evidence) -> None:
    rows(found, "dead").append(rows(found, "dead")[0])


def change_an_open_bar(found: Evidence) -> None:
    for partition in found.partitions.values():
        for name, raw in partition.state.items():
            if name.startswith(b"s:"):
                watermark, per_interval = orjson.loads(raw)
                per_interval[0][2][0][6] += 1
                partition.state[name] = orjson.dumps([watermark, per_interval])
                return


def forget_a_watermark(found: Evidence) -> None:
    """What comes next would not be late where it should be."""
    state = found.partitions[0].state
    name = next(name for name in state if name.startswith(b"s:"))
    watermark, per_interval = orjson.loads(state[name])
    state[name] = orjson.dumps([watermark - 1, per_interval])


def miscount_the_entries(found: Evidence) -> None:
    """The group's lag would be wrong for ever."""
    state = found.partitions[0].state
    state[b"entries"] = str(int(state[b"entries"]) + 1).encode()


def let_a_zombie_commit(found: Evidence) -> None:
    found.journal.append(
        {"what": "commit", "answer": "OK", "counter": 6, "began": 600, "at": 601, **common("one")},
    )


def let_an_owner_come_back(found: Evidence) -> None:
    """As the journal of a worker that was killed shows it: without a line about its lease."""
    found.journal[:] = [*owner("one", 100, (1, 2, 5))[1:], *owner("two", 100, (3, 4))[1:]]


def let_two_make_one_commit(found: Evidence) -> None:
    found.journal.append({"what": "commit", "answer": "DUP", "counter": 3, "began": 130, "at": 131, **common("zero")})


def leave_a_request_unanswered(found: Evidence) -> None:
    del found.results[0]


def lose_a_request(found: Evidence) -> None:
    del found.requests[0], found.results[0]


def post_a_request_twice(found: Evidence) -> None:
    found.requests.append(("3-0", "b"))
    found.results.append({**found.results[1], "request": "3-0"})


def answer_a_request_twice(found: Evidence) -> None:
    found.results.append(found.results[0])


def fail_a_request(found: Evidence) -> None:
    found.results[0] = {**found.results[0], "status": "failed"}


def make_a_version_twice(found: Evidence) -> None:
    found.versions["P0.0:1s/close_1"].append("aa")


def complain(found: Evidence) -> None:
    found.complaints.append("a worker said Traceback")


FAULTS: list[tuple[Callable[[Evidence], None], set[str]]] = [
    (lose_a_tick, {"lost"}),
    (lose_the_last_tick, {"lost"}),
    (double_a_tick, {"duplicated"}),
    (swap_two_ticks, {"reordered"}),
    (change_a_price, {"wrong"}),
    (invent_a_tick, {"wrong"}),
    (leave_a_feed_unfinished, {"lost"}),
    (lose_a_bar, {"lost"}),
    (double_a_bar, {"duplicated"}),
    (swap_two_bars, {"reordered"}),
    (change_a_bar, {"wrong"}),
    (lose_a_dead_letter, {"lost"}),
    (double_a_dead_letter, {"duplicated"}),
    (change_an_open_bar, {"wrong"}),
    (forget_a_watermark, {"wrong"}),
    (miscount_the_entries, {"wrong"}),
    (let_a_zombie_commit, {"wrong"}),
    (let_an_owner_come_back, {"wrong"}),
    (let_two_make_one_commit, {"wrong"}),
    (leave_a_request_unanswered, {"lost"}),
    (lose_a_request, {"lost"}),
    (post_a_request_twice, {"duplicated"}),
    (answer_a_request_twice, {"duplicated"}),
    (fail_a_request, {"wrong"}),
    (make_a_version_twice, {"duplicated"}),
    (complain, {"wrong"}),
]


def test_a_sound_run_is_found_sound(sound: Evidence) -> None:
    verdict = check(sound)
    assert verdict.found == []
    assert verdict.good
    assert verdict.inputs == 2800
    assert verdict.outputs > 300
    dead = [row["reason"] for partition in sound.partitions.values() for row in partition.outputs.get("dead", [])]
    assert {"late", "future"} <= set(dead), "dead letters are part of what is checked"


@pytest.mark.parametrize(("break_it", "kinds"), FAULTS, ids=[fault.__name__ for fault, _ in FAULTS])
def test_a_fault_in_the_evidence_is_found(
    sound: Evidence, break_it: Callable[[Evidence], None], kinds: set[str]
) -> None:
    broken = changeable(sound)
    break_it(broken)
    verdict = check(broken)
    assert not verdict.good
    counts = {
        "lost": verdict.lost,
        "duplicated": verdict.duplicated,
        "reordered": verdict.reordered,
        "wrong": verdict.wrong,
    }
    assert all(counts[kind] for kind in kinds), verdict.found


def test_a_lease_that_was_noted_late_proves_nothing(sound: Evidence) -> None:
    """As by a process that was stopped between taking a lease, which then ran out, and noting it."""
    slow = changeable(sound)
    slow.journal.insert(0, {"what": "acquired", "began": 50, "at": 505, **common("zero")})
    assert check(slow).found == []
