from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumers.history import BarWindow
from consumers.targets import VOLUME_BARS, Target, labels, level, levels
from streams.errors import BadName
from streams.settings import Pipeline
from tests.consumers.walks import random_bars

ANY = st.builds(Target, st.sampled_from(("open", "high", "low", "close", "volume")), st.integers(1, 30))


@given(target=ANY)
def test_targets_read_back_as_written(target: Target) -> None:
    assert Target.parse(str(target)) == target


@pytest.mark.parametrize("text", ["close", "close_0", "close_-1", "price_5", "close_5x", "Close_5", "close_\u0665", ""])
def test_what_is_no_target_is_refused(text: str) -> None:
    with pytest.raises(BadName, match="is no target"):
        Target.parse(text)


def test_the_pipelines_targets_are_targets() -> None:
    assert [str(Target.parse(text)) for text in Pipeline().targets] == list(Pipeline().targets)


def test_price_labels_are_log_ratios_to_the_close() -> None:
    bars = random_bars(40)
    found = labels(Target("high", 5), bars)
    np.testing.assert_allclose(found[:35], np.log(bars.values[5:, 1] / bars.values[:35, 3]))
    assert np.isnan(found[35:]).all()


def test_volume_labels_are_log_ratios_to_the_trailing_mean() -> None:
    bars = random_bars(60)
    found = labels(Target("volume", 3), bars)
    assert np.isnan(found[: VOLUME_BARS - 1]).all()
    assert np.isnan(found[57:]).all()
    assert found[30] == pytest.approx(np.log(bars.values[33, 4] / bars.values[11:31, 4].mean()))


def test_a_bar_without_volume_has_a_label_and_a_mean_of_zero_gives_none() -> None:
    bars = random_bars(80)
    bars.values[30, 4] = 0
    assert labels(Target("volume", 1), bars)[29] == pytest.approx(np.log(1e-3))
    bars.values[:, 4] = 0
    assert np.isnan(labels(Target("volume", 1), bars)).all()


@pytest.mark.parametrize("count", [0, 1, 5])
def test_no_label_before_the_horizon_has_passed(count: int) -> None:
    assert np.isnan(labels(Target("close", 5), random_bars(count))).all()


@given(target=ANY, seed=st.integers(0, 1000), at=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_a_label_touches_its_own_bar_its_trailing_mean_and_the_bar_at_the_horizon_only(
    target: Target, seed: int, at: int
) -> None:
    bars = random_bars(100, seed)
    changed = BarWindow(bars.start, bars.values.copy())
    changed.values[at] *= 1.5
    before, after = labels(target, bars), labels(target, changed)
    differs = np.flatnonzero(~((before == after) | (np.isnan(before) & np.isnan(after))))
    reach = set(range(at, at + target.lookback)) | {at - target.horizon}
    assert set(differs.tolist()) <= reach


@given(target=ANY, seed=st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_a_level_is_the_inverse_of_a_label(target: Target, seed: int) -> None:
    bars = random_bars(80, seed)
    label = float(labels(target, bars)[40])
    column = ("open", "high", "low", "close", "volume").index(target.column)
    truth = bars.values[40 + target.horizon, column]
    # Random volumes may lie below the floor of the ratio.
    if label > np.log(1e-3):
        assert level(target, label, bars.slice(0, 41)) == pytest.approx(truth)


def test_levels_of_many_targets_are_those_of_each() -> None:
    bars = random_bars(30)
    targets = [Target("close", 5), Target("volume", 5), Target("low", 1)]
    together = levels(targets, [0.01, 0.5, -0.02], bars)
    assert together.tolist() == [
        level(target, value, bars) for target, value in zip(targets, [0.01, 0.5, -0.02], strict=True)
    ]


def test_undefined_levels_are_nan() -> None:
    assert np.isnan(level(Target("volume", 5), 0.0, random_bars(19)))
    assert np.isnan(level(Target("close", 5), 1e6, random_bars(30)))
    assert np.isnan(level(Target("close", 5), np.nan, random_bars(30)))
