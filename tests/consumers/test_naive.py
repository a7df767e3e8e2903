from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumers.history import CLOSE, VOLUME, BarWindow
from consumers.naive import Naive, NaiveKind, NaiveRows, forecasts, offered
from consumers.targets import LEAST_RATIO, Target, labels
from modelstore.errors import BadModel
from modelstore.manifest import DAY_SLOTS
from streams.series import NS
from streams.settings import COLUMNS
from tests.consumers.walks import DAY_NS, random_bars

MINUTE_NS = 60 * NS
ALL = tuple(Target(column, 5) for column in COLUMNS)
KINDS = tuple(NaiveKind)


def table_of(kind: NaiveKind, seed: int = 0) -> Naive:
    size = {NaiveKind.MEAN: 1, NaiveKind.TIME_OF_DAY: DAY_SLOTS}.get(kind, 0)
    return Naive(kind, np.random.default_rng(seed).normal(size=size).astype(np.float32))


def folds_of(count: int, parts: int = 3) -> list[tuple[slice, slice]]:
    cuts = np.linspace(count // 2, count, parts + 1).astype(int).tolist()
    return [(slice(0, begin - 5), slice(begin, end)) for begin, end in pairwise(cuts)]


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 60),
    seed=st.integers(0, 10),
    picks=st.lists(st.tuples(st.sampled_from(ALL), st.sampled_from(KINDS)), min_size=1, max_size=12),
    idle=st.booleans(),
)
def test_the_live_forecast_is_the_last_of_the_history_bit_for_bit(
    count: int, seed: int, picks: list[tuple[Target, NaiveKind]], idle: bool
) -> None:
    bars = random_bars(count, seed, interval_ns=MINUTE_NS)
    if idle:
        bars.values[-25:, VOLUME] = 0
    naives = [table_of(kind, seed) for _, kind in picks]
    live = forecasts([target for target, _ in picks], naives, bars)
    last = np.array([naive.history(target, bars)[-1] for (target, _), naive in zip(picks, naives, strict=True)])
    assert live.tobytes() == last.tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_a_naive_forecast_sees_the_last_twenty_bars_and_nothing_later(kind: NaiveKind) -> None:
    bars = random_bars(100, interval_ns=MINUTE_NS)
    other = BarWindow(bars.start, bars.values.copy())
    other.values[61:] *= 3
    other.values[:41] *= 3
    for target in ALL:
        naive = table_of(kind)
        assert naive.history(target, bars)[60] == naive.history(target, other)[60]


def test_persistence_is_the_label_of_no_step_ahead() -> None:
    bars = random_bars(80)
    bars.values[30:60, VOLUME] = 0
    naive = Naive(NaiveKind.PERSISTENCE)
    for column in ("open", "high", "low", "close"):
        expected = np.log(bars.values[:, COLUMNS.index(column)] / bars.values[:, CLOSE])
        np.testing.assert_allclose(naive.history(Target(column, 5), bars), expected, rtol=1e-13, atol=1e-15)
    volume = naive.history(Target("volume", 5), bars)
    assert np.isnan(volume[:19]).all()
    assert np.isnan(volume[49:60]).all(), "no volume in 20 bars: no mean"
    assert (volume[30:49] == np.log(LEAST_RATIO)).all()
    assert volume[25] == pytest.approx(np.log(bars.values[25, VOLUME] / bars.values[6:26, VOLUME].mean()))
    # It is undefined where the label is, so it is known on every training row.
    known = np.isfinite(labels(Target("volume", 5), bars)[:75])
    assert np.isfinite(volume[:75])[known].all()


def test_the_time_of_day_is_the_mean_of_its_five_minutes_and_the_mean_of_all_where_there_are_none() -> None:
    start = np.array([0, 1, 299, 300, 86_400, 86_400 * 2 + 301], np.int64) * NS
    label = np.array([1.0, 2.0, 3.0, 10.0, 6.0, 20.0])
    naive = Naive.fitted(NaiveKind.TIME_OF_DAY, label, start)
    assert naive.table[0] == 3.0
    assert naive.table[1] == 15.0
    assert (naive.table[2:] == 7.0).all()
    bars = BarWindow(start, np.ones((6, 5)))
    assert naive.history(Target("volume", 5), bars).tolist() == [3, 3, 3, 15, 3, 15]


def test_the_mean_is_that_of_the_rows_trained_on() -> None:
    naive = Naive.fitted(NaiveKind.MEAN, np.array([1.0, 2.0, 6.0]), np.zeros(3, np.int64))
    assert naive.history(Target("close", 5), random_bars(2)).tolist() == [3.0, 3.0]


def test_the_mean_of_a_price_is_its_usual_distance_from_the_close_and_no_drift() -> None:
    bars = random_bars(200)
    bars.values[:, :4] *= np.exp(0.05 * np.arange(200))[:, None]
    target, rows = Target("high", 5), np.arange(50, 150)
    found = NaiveRows.of(target, bars, rows, labels(target, bars)[rows]).fit(NaiveKind.MEAN)
    usual = np.log(bars.values[50:150, 1] / bars.values[50:150, 3]).mean()
    assert found.table[0] == pytest.approx(usual, rel=1e-6)
    target = Target("volume", 5)
    label = labels(target, bars)[rows]
    assert NaiveRows.of(target, bars, rows, label).fit(NaiveKind.MEAN).table[0] == np.float32(label.mean())


def test_kinds_are_offered_where_they_mean_something() -> None:
    assert offered("close", MINUTE_NS) == (NaiveKind.NO_CHANGE,)
    assert offered("high", MINUTE_NS) == (NaiveKind.NO_CHANGE, NaiveKind.PERSISTENCE, NaiveKind.MEAN)
    assert NaiveKind.TIME_OF_DAY in offered("volume", MINUTE_NS)
    assert NaiveKind.TIME_OF_DAY not in offered("volume", DAY_NS)
    assert NaiveKind.TIME_OF_DAY not in offered("open", MINUTE_NS)


@pytest.mark.parametrize("best", KINDS)
def test_the_kind_chosen_is_the_one_that_the_data_were_made_by(best: NaiveKind) -> None:
    count = 4 * 1440
    rng = np.random.default_rng(1)
    start = np.arange(count, dtype=np.int64) * MINUTE_NS
    persistence = rng.normal(size=count)
    by_slot = rng.normal(size=DAY_SLOTS)[start % DAY_NS // (5 * MINUTE_NS)]
    truth = {
        NaiveKind.NO_CHANGE: np.zeros(count),
        NaiveKind.PERSISTENCE: persistence,
        NaiveKind.MEAN: np.full(count, 0.8),
        NaiveKind.TIME_OF_DAY: by_slot,
    }[best]
    noise = rng.normal(0, 0.5, count)
    noise[1::2] = -noise[::2]  # its mean is zero in every part, so that the mean has nothing to find by luck
    label = truth + noise
    assert NaiveRows(label, start, persistence).choose(KINDS, folds_of(count), 1) == best


def test_constants_come_from_the_training_part_alone() -> None:
    # The mean flips its sign between the training and the test part: only one who looks ahead takes the mean.
    label = np.r_[np.full(45, 1.0), np.full(5, 0.0), np.full(50, -1.0)]
    start = np.arange(100, dtype=np.int64) * DAY_NS
    kinds = (NaiveKind.NO_CHANGE, NaiveKind.MEAN)
    assert (
        NaiveRows(label, start, np.zeros(100)).choose(kinds, [(slice(0, 45), slice(50, 100))], 1) == NaiveKind.NO_CHANGE
    )


def test_a_tie_no_folds_and_an_undefined_persistence_fall_to_the_simpler_kind() -> None:
    start = np.arange(100, dtype=np.int64) * DAY_NS
    kinds = offered("high", DAY_NS)
    assert NaiveRows(np.zeros(100), start, np.zeros(100)).choose(kinds, folds_of(100), 1) == NaiveKind.NO_CHANGE
    assert NaiveRows(np.ones(100), start, np.ones(100)).choose(kinds, [], 1) == NaiveKind.NO_CHANGE
    persistence = np.ones(100)
    persistence[70] = np.nan
    assert NaiveRows(np.ones(100), start, persistence).choose(kinds, folds_of(100), 1) == NaiveKind.MEAN


def test_a_table_that_does_not_fit_its_kind_is_refused() -> None:
    for kind in KINDS:
        with pytest.raises(BadModel, match=kind.name.lower()):
            Naive(kind, np.zeros(2, np.float32))
    with pytest.raises(BadModel, match="mean"):
        Naive(NaiveKind.MEAN, np.array([np.nan], np.float32))


def test_the_simpler_kind_stays_unless_another_is_better_by_more_than_chance() -> None:
    """On noise whose mean is 0 the mean label often has the least error over a few years, by luck."""
    kinds, start = (NaiveKind.NO_CHANGE, NaiveKind.MEAN), np.arange(900, dtype=np.int64) * DAY_NS
    lower = taken = 0
    for seed in range(40):
        label = np.random.default_rng(seed).normal(0, 1, 900)
        rows = NaiveRows(label, start, np.zeros(900))
        folds = folds_of(900)
        mean, none = (
            sum(float(np.square(rows.residuals(rows.fit(kind, train), test)).sum()) for train, test in folds)
            for kind in (NaiveKind.MEAN, NaiveKind.NO_CHANGE)
        )
        lower += mean < none
        taken += rows.choose(kinds, folds, 1) is NaiveKind.MEAN
    assert taken <= 4 < lower
    drifting = NaiveRows(np.random.default_rng(1).normal(0.3, 1, 900), start, np.zeros(900))
    assert drifting.choose(kinds, folds_of(900), 1) is NaiveKind.MEAN
