from __future__ import annotations

from array import array as array_of
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumers.drift import REBUILD_BARS, Change, DriftDetector, relative, step_of

HOUR = 3600 * 10**9


@lru_cache(maxsize=64)
def losses(seed: int, count: int, flips_at: int, horizon: int, phi: float = 0.6) -> list[tuple[float, float]]:
    """(loss, naive loss) of the right forecast of AR(1) returns whose sign of phi flips, and which stays as it was."""
    random = np.random.default_rng(seed)
    returns = random.standard_normal(count + horizon)
    for bar in range(1, len(returns)):
        returns[bar] += (phi if bar < flips_at else -phi) * returns[bar - 1]
    sums = np.concatenate(([0.0], np.cumsum(returns)))
    labels = sums[horizon + 1 :] - sums[1 : count + 1]
    forecasts = phi * (1 - phi**horizon) / (1 - phi) * returns[:count]
    return list(zip(((forecasts - labels) ** 2).tolist(), (labels**2).tolist(), strict=True))


def alarms(found: list[tuple[float, float]], horizon: int, start: int = 0) -> list[tuple[int, Change]]:
    detector = DriftDetector(horizon, start)
    told = []
    for bar, (loss, naive) in enumerate(found):
        change = detector.update(bar, bar * HOUR, loss, naive)
        if change is not None:
            told.append((bar, change))
    return told


@pytest.mark.parametrize(("horizon", "late"), [(1, 150), (5, 600)])
def test_a_champion_whose_relation_flips_is_found_soon_and_the_time_of_the_change_well(horizon: int, late: int) -> None:
    seeds, flip = 10, 1700
    missed = []
    for seed in range(seeds):
        told = alarms(losses(seed, 3200, flip, horizon), horizon)
        after = [(bar, change) for bar, change in told if bar >= flip]
        assert len(told) == len(after), "no alarm before"
        if not after or after[0][0] > flip + late:
            missed.append(seed)
            continue
        assert abs(after[0][1].bar - flip) <= 100
        assert after[0][1].ts == after[0][1].bar * HOUR
    assert len(missed) <= 1


@pytest.mark.parametrize("horizon", [1, 5, 30])
@pytest.mark.parametrize("phi", [0.0, 0.05, 0.6])
def test_what_does_not_change_gives_no_alarm(horizon: int, phi: float) -> None:
    for seed in range(5):
        assert alarms(losses(seed, 4000, 10**9, horizon, phi), horizon) == []


def test_a_champion_that_gets_better_gives_no_alarm() -> None:
    flipped = losses(3, 3000, 1500, 1)
    # Read backwards the forecasts are wrong at first and right later.
    assert alarms(flipped[::-1], 1) == []


def test_a_champion_that_is_its_naive_forecast_never_drifts() -> None:
    quiet, wild = [(1e-6, 1e-6)] * 1500, [(4.0, 4.0)] * 1500
    assert alarms(quiet + [(0.0, 0.0)] * 100 + wild, 5) == []


def test_after_an_alarm_it_watches_anew() -> None:
    once = losses(1, 3000, 1500, 1)
    (bar, _), *more = alarms(once, 1)
    assert more == [], "what it has become is what later bars are held against"
    detector = DriftDetector(1, 0)
    for at, (loss, naive) in enumerate(once):
        detector.update(at, at * HOUR, loss, naive)
        if at == bar:
            assert detector.start == bar + 1 == detector.needed_from


def test_a_change_just_after_the_detector_was_built_anew_is_held_against_what_was_before() -> None:
    flip = REBUILD_BARS + 40
    ((bar, change),) = alarms(losses(1, 3000, flip, 1), 1)
    assert bar <= flip + 150
    assert abs(change.bar - flip) <= 50


def test_values_lie_between_0_and_1_and_equal_losses_are_in_the_middle() -> None:
    assert [relative(*pair) for pair in ((0.0, 4.0), (2.0, 2.0), (0.0, 0.0), (4.0, 0.0))] == [0.0, 0.5, 0.5, 1.0]


def test_the_step_is_where_the_values_rise() -> None:
    assert step_of(array_of("d", [0.2, 0.1, 0.2, 0.8, 0.7])) == 3
    assert step_of(array_of("d", [0.8, 0.7, 0.2, 0.1])) == 0
    assert step_of(array_of("d", [0.5])) == 0


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2),
    horizon=st.sampled_from([1, 3, 5, 7]),
    start=st.integers(0, 300),
    flips_at=st.sampled_from([1500, 4000, 10**9]),
    stop=st.integers(0, 5999),
    earlier=st.integers(0, 100),
)
def test_a_detector_that_is_given_its_stretch_again_goes_on_as_if_nothing_had_been(
    seed: int, horizon: int, start: int, flips_at: int, stop: int, earlier: int
) -> None:
    found = losses(seed, 6000, flips_at, horizon)
    one, told = DriftDetector(horizon, start), []
    kept_start = needed = 0
    for bar, pair in enumerate(found):
        if (change := one.update(bar, bar * HOUR, *pair)) is not None:
            told.append((bar, change))
        if bar == stop:
            kept_start, needed = one.start, one.needed_from
    assert needed >= stop - 2 * REBUILD_BARS - horizon
    two, told_two = DriftDetector(horizon, kept_start), []
    for bar in range(max(0, needed - earlier), 6000):
        if bar <= stop:
            two.learn(bar, bar * HOUR, *found[bar])
        elif (change := two.update(bar, bar * HOUR, *found[bar])) is not None:
            told_two.append((bar, change))
    assert told_two == [alarm for alarm in told if alarm[0] > stop]
    assert (one.start, one.needed_from, one._values) == (two.start, two.needed_from, two._values)
    # It is built with the first value that comes after.
    if one._adwin is not None and two._adwin is not None:
        assert (one._adwin.total, one._adwin.width, one._adwin.variance) == (
            two._adwin.total,
            two._adwin.width,
            two._adwin.variance,
        )
