"""Whatever cannot be computed is found, set aside alone, and in few tries."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from consumers.poison import CAREFUL_BATCHES, PASSING_TRIES, Suspicion
from streams.ids import StreamID


def unit(number: int) -> tuple[StreamID, int]:
    return StreamID(1, number), 0


def go_through(count: int, bad: set[int], most: int) -> tuple[set[int], int]:
    """Units 0 to `count`, with which batches fail that hold a bad one; those set aside, and how many batches failed."""
    suspicion, aside, at, failures = Suspicion(), set(), 0, 0
    while at < count:
        size = min(most, suspicion.most or most, count - at)
        batch = set(range(at, at + size))
        blamed = suspicion.blames(unit(at))
        assert not blamed or size == 1, "never more than the one is set aside"
        if blamed:
            aside |= batch
        elif batch & bad:
            suspicion.failed(size, unit(at), "why")
            failures += 1
            continue
        suspicion.passed(size, trouble=blamed)
        at += size
    return aside, failures


@settings(deadline=None)
@given(st.integers(1, 300), st.sets(st.integers(0, 299), max_size=8), st.integers(1, 300))
def test_exactly_what_is_to_blame_is_set_aside(count: int, bad: set[int], most: int) -> None:
    bad = {number for number in bad if number < count}
    aside, failures = go_through(count, bad, most)
    assert aside == bad
    assert failures <= len(bad) * (4 + math.ceil(math.log2(count + 1)))


def test_a_failure_that_passes_costs_one_more_try_and_leaves_nothing_behind() -> None:
    suspicion = Suspicion()
    assert not suspicion.failed(10, unit(0), "why"), "the same again"
    suspicion.passed(10, trouble=False)
    assert (suspicion.careful, suspicion.most) == (0, None)


def test_a_lack_of_memory_is_waited_out_before_anything_is_blamed() -> None:
    suspicion = Suspicion()
    again = [suspicion.failed(10, unit(0), "why", passing=True) for _ in range(PASSING_TRIES + 1)]
    assert again == [False] * PASSING_TRIES + [True]
    assert suspicion.careful == CAREFUL_BATCHES


def test_care_ends_after_batches_without_trouble() -> None:
    suspicion = Suspicion()
    suspicion.failed(10, unit(0), "why")
    suspicion.failed(10, unit(0), "why")
    assert suspicion.careful
    suspicion.passed(10, trouble=True)
    for _ in range(CAREFUL_BATCHES):
        suspicion.passed(10, trouble=False)
    assert suspicion.careful == 0


def test_another_in_the_place_of_the_one_that_was_found_is_not_blamed() -> None:
    suspicion = Suspicion()
    for _ in range(3):
        suspicion.failed(1, unit(0), "why")
    assert suspicion.blames(unit(0))
    assert not suspicion.blames(unit(1))
    assert not suspicion.blames(unit(0)), "and it has to fail again"
