"""The judge: each forecast is held against the bar that its horizon ends with, once, and against nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from consumers.judge import ForecastLog, Forecasts, Judge, Judged, read_forecasts
from consumers.outputs import vector
from consumers.targets import Target, labels
from tests.consumers.walks import random_bars

NAMES = ("open_1", "close_1", "close_3", "high_3", "volume_2", "volume_5")
TARGETS = {name: Target.parse(name) for name in NAMES}
JUDGE = Judge(TARGETS)


def test_actual_labels_are_those_that_models_are_trained_on() -> None:
    bars = random_bars(80, 3)
    trained = {name: labels(target, bars) for name, target in TARGETS.items()}
    for newest in range(80):
        found = JUDGE.actuals(bars.slice(max(0, newest + 1 - JUDGE.bars), newest + 1))
        for index, (name, target) in enumerate(TARGETS.items()):
            made = newest - target.horizon
            wanted = trained[name][made] if made >= 0 else np.nan
            assert found[index] == pytest.approx(wanted, rel=1e-12, nan_ok=True)
    assert np.isfinite(JUDGE.actuals(bars)).all()


def test_a_volume_without_a_mean_has_no_label() -> None:
    bars = random_bars(40, 3)
    bars.values[:, 4] = 0
    assert np.isnan(JUDGE.actuals(bars)[4:]).all()
    assert np.isfinite(JUDGE.actuals(bars)[:4]).all()


def forecasts_at(bar: int, release: str = "r") -> Forecasts:
    """Forecasts from which the bar and target that they were made for can be told."""
    values = np.array([bar + index / 10 for index in range(len(NAMES))], np.float32)
    return Forecasts(values, values + 100, values + 200, release)


def judged_by_hand(made: dict[int, Forecasts], bar: int, actuals: NDArray[np.float64]) -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    for index, (name, target) in enumerate(TARGETS.items()):
        said = made.get(bar - target.horizon)
        if said is not None and np.isfinite(said.values[index]):
            came = actuals[index]
            found[name] = (
                said.values[index] - came, said.naive[index] - came, said.challengers[index] - came, said.release
            )  # fmt: skip
    return found


def as_dict(judged: Judged | None) -> dict[str, tuple[object, ...]]:
    if judged is None:
        return {}
    return {
        NAMES[at]: (
            judged.errors[row],
            judged.naive_errors[row],
            judged.challenger_errors[row],
            judged.releases[judged.made_by[row]],
        )
        for row, at in enumerate(judged.targets.tolist())
    }


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(["", "a", "b", "part"]), min_size=1, max_size=40), st.integers(0, 39))
def test_every_forecast_is_judged_once_at_its_horizon_with_or_without_a_restart(made: list[str], restart: int) -> None:
    log = JUDGE.log()
    kept: dict[int, Forecasts] = {}
    for bar, release in enumerate(made):
        actuals = np.arange(len(NAMES), dtype=np.float64) * 0.01 + bar
        found = JUDGE.judge(log, bar, actuals)
        assert as_dict(found) == judged_by_hand(kept, bar, actuals)
        if found is not None:
            closes = np.array([NAMES[at].startswith("close") for at in found.targets])
            assert (np.isfinite(found.hits) == closes & (found.errors + found.actuals != 0)).all()
            assert list(found.targets) == sorted(found.targets)
        forecasts = forecasts_at(bar, release) if release else None
        if forecasts is not None and release == "part":
            forecasts.values[::2] = np.nan
        log.keep(bar, forecasts)
        if forecasts is not None:
            kept[bar] = forecasts
        if bar == restart:
            log = read_back(kept, bar)


def read_back(kept: dict[int, Forecasts], newest: int) -> ForecastLog:
    """A log made of what the newest bars' entries carry."""
    log = JUDGE.log()
    for bar in range(max(0, newest + 1 - JUDGE.bars), newest + 1):
        fields: dict[bytes, bytes] = {}
        if bar in kept:
            said = kept[bar]
            vectors = {b"values": said.values, b"naive": said.naive, b"challengers": said.challengers}
            fields = {name: vector(value).encode() for name, value in vectors.items()}
            fields[b"release"] = said.release.encode()
        log.keep(bar, read_forecasts(fields, len(NAMES)))
    return log


def test_a_hit_is_a_forecast_with_the_sign_of_what_came() -> None:
    log = JUDGE.log()
    said = np.array([1, 1, 0, 1, 1, 1], np.float32)
    log.keep(0, Forecasts(said, said, said, "r"))
    up, down = np.ones(len(NAMES)), -np.ones(len(NAMES))
    found = JUDGE.judge(log, 1, up), JUDGE.judge(log, 1, down)
    assert [judged.hits[1] for judged in found if judged is not None] == [1, 0]
    still = JUDGE.judge(log, 3, up)
    assert still is not None
    assert NAMES[still.targets[0]] == "close_3"
    assert np.isnan(still.hits[0]), "a forecast of no change has no direction"


def test_forecasts_of_another_number_of_targets_are_refused() -> None:
    with pytest.raises(ValueError, match="2 forecasts for 6 targets"):
        read_forecasts({b"values": b"[1,2]", b"naive": b"[1,2]"}, 6)
