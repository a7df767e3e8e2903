"""What was planted is found, as far as it can be, and no more than is there; with the settings that a user has."""

from __future__ import annotations

import functools
from datetime import date

import numpy as np
import pytest

from consumers.evaluate import judge_target
from consumers.fit import FitParameters
from consumers.har import Skill, skill_of
from consumers.history import CLOSE, BarWindow
from consumers.walkforward import Walk, Walked, walk_forward
from producers.bars import Bars
from producers.controls import FLIPS_AT, PHI, attainable_skill, planted, stale_skill, weekdays
from streams.settings import load_settings

TARGETS = ("close_5", "close_10")
#: What a fit on finite data may lose of the attainable skill: the share that the fit is built to reach is 85 %.
REACHED = 0.85


def walked_through(bars: Bars, step: int, min_rows: int | None = None) -> Walked:
    settings, _ = load_settings(**({} if min_rows is None else {"min_rows": min_rows}))
    values = np.stack((bars.open, bars.high, bars.low, bars.close, bars.volume), axis=1)
    window = BarWindow(bars.start, np.ascontiguousarray(values))
    walk = Walk("consumers.features:STANDARD", TARGETS, 30, FitParameters.of(settings), step=step)
    return walk_forward("PLANTED:1d", window, bars.start + bars.interval.ns, walk)


@functools.cache
def control() -> tuple[Walked, int]:
    """PLANTED walked through, and the bar at which it flips."""
    bars = planted()
    return walked_through(bars, 250), int(np.searchsorted(bars.start, np.datetime64(FLIPS_AT, "ns").astype(np.int64)))


def best_forecast(walked: Walked, at: int, phi: float) -> Skill:
    """The skill that who knows `phi` would have had on the very bars that were judged, with its sampling error."""
    target, chosen = walked.targets[at], walked.judged[:, at]
    last = np.diff(np.log(walked.bars.values[:, CLOSE]), prepend=np.nan)[chosen]
    came = walked.actuals[chosen, at]
    slope = sum(phi**lag for lag in range(1, target.horizon + 1))
    found = skill_of((came - slope * last) ** 2, came**2, target.horizon)
    assert found is not None
    return found


@pytest.mark.parametrize("at", [0, 1])
def test_with_much_history_the_skill_is_what_theory_says(at: int) -> None:
    """The relation of PLANTED without its flip, 5,000 bars to learn from: within sampling error of the attainable."""
    walked = long_walk()
    found, there = judge_target(walked, at), attainable_skill(PHI, walked.targets[at].horizon)
    knows = best_forecast(walked, at, PHI)
    reach = (knows.high - knows.low) / 2
    assert knows.skill == pytest.approx(there, abs=reach), "the theory holds on these bars"
    assert found.skill is not None
    assert REACHED * there - reach < found.skill < there + reach


@functools.cache
def long_walk() -> Walked:
    bars = planted(days=weekdays(date(1970, 1, 1), date(2009, 1, 1)), flips_at=date(2100, 1, 1))
    return walked_through(bars, len(bars.start), min_rows=5000 - 90)


def test_before_the_flip_the_control_shows_skill_once_there_is_enough_history_and_never_more_than_there_is() -> None:
    walked, flip = control()
    for at, target in enumerate(walked.targets):
        there = attainable_skill(PHI, target.horizon)
        told = judge_target(walked, at, within=(0, flip)).stricter
        assert told is None or told.low <= there
        assert told is None or told.high >= 0, "young models stay with naive rather than do harm"
    ripe = judge_target(walked, 0, within=(1000, flip)).stricter
    assert ripe is not None
    assert 0 < ripe.low < attainable_skill(PHI, 5)
    # A thousand bars are two hundred horizons: such a fit reaches about half of what there is.
    assert ripe.skill > attainable_skill(PHI, 5) / 3


def test_after_the_flip_the_old_models_do_harm() -> None:
    """Clearly below zero, and not below what the forecast that was best before would do."""
    walked, flip = control()
    renewed = next(cut.at for cut in walked.cuts if cut.at > flip)
    told = judge_target(walked, 0, within=(flip, renewed)).stricter
    assert told is not None
    assert told.high < 0
    assert stale_skill(-PHI, PHI, 5) < told.high
