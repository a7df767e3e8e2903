from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from consumers.features import (
    ALIGNMENT,
    STANDARD,
    FeatureSet,
    feature_matrix,
    feature_row,
    fingerprint,
    load_feature_set,
)
from consumers.history import BarWindow
from streams.errors import ConfigurationError
from tests.consumers.walks import random_bars


def bits(row: NDArray[np.float32]) -> bytes:
    return row.astype("<f4").tobytes()


def flat(count: int = 61, volume: float = 0.0) -> BarWindow:
    values = np.tile([100.0, 100.0, 100.0, 100.0, volume], (count, 1))
    return BarWindow(np.arange(count, dtype=np.int64) * 60_000_000_000, values)


def feature(name: str, bars: BarWindow) -> float:
    return float(feature_row(STANDARD, bars)[STANDARD.columns.index(name)])


@given(seed=st.integers(0, 2**32 - 1), skip=st.integers(0, 7))
@settings(max_examples=25, deadline=None)
def test_live_rows_equal_batch_rows_bit_for_bit_wherever_the_bars_lie_in_memory(seed: int, skip: int) -> None:
    bars = random_bars(90, seed)
    matrix = feature_matrix(STANDARD, bars)
    for index in range(0, len(matrix), 7):
        room = np.empty(61 * 5 + skip)
        room[skip:] = bars.values[index : index + 61].ravel()
        live = BarWindow(bars.start[index : index + 61].copy(), room[skip:].reshape(61, 5))
        assert bits(feature_row(STANDARD, live)) == bits(matrix[index])


def test_a_function_sees_the_same_alignment_live_and_in_training() -> None:
    seen: list[BarWindow] = []  # kept, so that each copy has another place

    @dataclass(frozen=True)
    class Spy:
        name: str = "spy"
        version: int = 1
        window: int = 7
        columns: tuple[str, ...] = ("one",)

        def __call__(self, bars: BarWindow) -> list[float]:
            seen.append(bars)
            return [0.0]

    bars = random_bars(30)
    feature_matrix(Spy(), bars)
    feature_row(Spy(), bars.slice(3, 10))
    feature_row(Spy(), BarWindow(bars.start[3:10].copy(), bars.values[3:10].copy()))
    places = [(bars.values.ctypes.data, bars.start.ctypes.data) for bars in seen]
    assert len(set(places)) == len(seen) == 26
    assert {(values % ALIGNMENT, start % ALIGNMENT) for values, start in places} == {(0, 0)}


@given(seed=st.integers(0, 2**32 - 1), cut=st.integers(61, 99))
@settings(max_examples=25, deadline=None)
def test_changing_later_bars_never_changes_earlier_rows(seed: int, cut: int) -> None:
    bars = random_bars(100, seed)
    changed = BarWindow(bars.start, bars.values.copy())
    changed.values[cut:] *= 3.7
    before, after = feature_matrix(STANDARD, bars), feature_matrix(STANDARD, changed)
    known = cut - 60
    assert bits(before[:known]) == bits(after[:known])
    assert bits(before[known]) != bits(after[known])


def test_a_row_does_not_depend_on_bars_before_its_window() -> None:
    bars = random_bars(200)
    assert bits(feature_matrix(STANDARD, bars)[-40:]) == bits(feature_matrix(STANDARD, bars.last(100)))


@pytest.mark.parametrize("count", [0, 1, 60])
def test_too_few_bars_make_no_rows(count: int) -> None:
    assert feature_matrix(STANDARD, random_bars(count)).shape == (0, 29)


def test_constant_prices_without_volume_are_nan_where_undefined_and_never_infinite() -> None:
    row = dict(zip(STANDARD.columns, feature_row(STANDARD, flat()).tolist(), strict=True))
    undefined = {name for name, value in row.items() if np.isnan(value)}
    assert undefined == {"place_1", "place_5", "place_20", "place_60", "volume_1_20", "volume_5_60", "up_share_14"}
    assert {row[name] for name in ("return_1", "return_60", "volatility_20", "gap", "range_60", "distance_5")} == {0.0}


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf, 1e308, 5e-324])
def test_impossible_values_give_nan_and_no_warning(bad: float) -> None:
    for column in range(5):
        bars = random_bars(61)
        bars.values[40:, column] = bad
        assert not np.isinf(feature_row(STANDARD, bars)).any()


def test_returns_ranges_places_and_volume_are_what_their_names_say() -> None:
    bars = random_bars(61)
    values = bars.values
    close = values[:, 3]
    assert feature("return_20", bars) == pytest.approx(np.log(close[-1] / close[-21]), rel=1e-5)
    assert feature("return_60", bars) == pytest.approx(np.log(close[-1] / close[0]), rel=1e-5)
    assert feature("volatility_5", bars) == pytest.approx(np.sqrt(np.mean(np.diff(np.log(close[-6:])) ** 2)), rel=1e-5)
    assert feature("distance_20", bars) == pytest.approx(np.log(close[-1] / close[-20:].mean()), rel=1e-4)
    top, bottom = values[-5:, 1].max(), values[-5:, 2].min()
    assert feature("range_5", bars) == pytest.approx(np.log(top / bottom), rel=1e-5)
    assert feature("place_5", bars) == pytest.approx((close[-1] - bottom) / (top - bottom), rel=1e-5)
    assert feature("gap", bars) == pytest.approx(np.log(values[-1, 0] / close[-2]), rel=1e-4)
    assert feature("body", bars) == pytest.approx(np.log(close[-1] / values[-1, 0]), rel=1e-4)
    assert feature("volume_1_20", bars) == pytest.approx(np.log(values[-1, 4] / values[-20:, 4].mean()), rel=1e-5)
    moves = np.diff(np.log(close[-15:]))
    assert feature("up_share_14", bars) == pytest.approx(moves[moves > 0].sum() / np.abs(moves).sum(), rel=1e-5)


def test_a_bar_without_volume_counts_as_a_thousandth_of_the_mean() -> None:
    bars = random_bars(61)
    bars.values[-1, 4] = 0
    assert feature("volume_1_20", bars) == pytest.approx(np.log(1e-3))


def test_scaling_prices_and_volumes_only_alters_rounding() -> None:
    bars = random_bars(61)
    scaled = BarWindow(bars.start, bars.values * np.array([7.0, 7.0, 7.0, 7.0, 1000.0]))
    np.testing.assert_allclose(feature_row(STANDARD, bars), feature_row(STANDARD, scaled), rtol=1e-4, atol=1e-6)


def test_the_clock_is_that_of_the_bars_start_in_utc() -> None:
    bars = flat()
    bars.start[-1] = 1_704_110_400_000_000_000  # Monday 2024-01-01 12:00 UTC
    assert feature("weekday", bars) == 0
    assert feature("day_cos", bars) == pytest.approx(-1)
    assert feature("day_sin", bars) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("count", [60, 62])
def test_another_number_of_bars_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match="called with 61 bars"):
        feature_row(STANDARD, random_bars(count))


@dataclass(frozen=True)
class Custom:
    name: str = "custom"
    version: int = 3
    window: int = 2
    columns: tuple[str, ...] = ("a", "b")
    result: tuple[float, ...] = (1.0, 1e300)

    def __call__(self, bars: BarWindow) -> tuple[float, ...]:
        return self.result


GOOD = Custom()
NO_COLUMNS = Custom(columns=())
TWICE = Custom(columns=("a", "a"))
BRACKETS = Custom(columns=("a[0]",))
NO_WINDOW = Custom(window=0)
SHORT = Custom(result=(1.0,))


class Writes(Custom):
    def __call__(self, bars: BarWindow) -> tuple[float, ...]:
        bars.values[0, 0] = 1.0
        return self.result


def test_a_users_feature_set_is_loaded_by_name() -> None:
    found = load_feature_set("tests.consumers.test_features:GOOD")
    assert isinstance(found, FeatureSet)
    assert fingerprint(found) == {"name": "custom", "version": 3, "columns": ["a", "b"]}
    row = feature_row(found, random_bars(2))
    assert row[0] == 1
    assert np.isnan(row[1]), "beyond float32"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("consumers.features", "write module:attribute"),
        ("no_such_module:X", "no module 'no_such_module'"),
        ("consumers.no_such_module:X", "no module 'consumers.no_such_module'"),
        ("consumers.features:NO_SUCH", "has no attribute 'NO_SUCH'"),
        ("consumers.features:ALIGNMENT", "must be an object with name"),
        ("consumers.features:StandardFeatures", "must be an object with name"),
        ("tests.consumers.test_features:NO_COLUMNS", "columns must be"),
        ("tests.consumers.test_features:TWICE", "columns must be"),
        ("tests.consumers.test_features:BRACKETS", "columns must be"),
        ("tests.consumers.test_features:NO_WINDOW", "window must be"),
    ],
)
def test_what_is_no_feature_set_is_refused_with_its_reason(spec: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        load_feature_set(spec)


def test_a_row_of_another_length_than_columns_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="one number per column"):
        feature_row(SHORT, random_bars(2))


def test_a_feature_set_cannot_write_to_the_bars() -> None:
    with pytest.raises(ValueError, match="read-only"):
        feature_row(Writes(), random_bars(2))
