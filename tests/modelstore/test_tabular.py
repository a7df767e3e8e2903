from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest

from modelstore.errors import BadModel
from modelstore.manifest import Manifest
from modelstore.tabular import BadRows, Column, NoTable, TableSchema, as_float32, category_of, number_of
from tests.modelstore.made import fitted

SCHEMA = TableSchema((Column("size"), Column("colour", ("blue", "red", "true"))), "price")


@pytest.mark.parametrize("cell", [None, "", " ", "NA", "n/a", "NaN", "null", "None", "?", math.nan, 10**400])
def test_what_means_that_there_is_no_number_is_missing(cell: object) -> None:
    found = number_of(cell)
    assert found is not None
    assert math.isnan(found)


@pytest.mark.parametrize(("cell", "number"), [(5, 5.0), ("5", 5.0), (" 1e3 ", 1000.0), (-0.5, -0.5), ("-.5", -0.5)])
def test_numbers_are_read(cell: object, number: float) -> None:
    assert number_of(cell) == number


@pytest.mark.parametrize("cell", ["x", "1_000", "1,5", True, "0x10", "12 cm"])
def test_what_is_no_number_is_none(cell: object) -> None:
    assert number_of(cell) is None


def test_the_same_thing_in_other_clothes_is_the_same_category() -> None:
    assert category_of(5) == category_of("5") == category_of(5.0) == category_of(" 5 ") == "5"
    assert category_of(True) == category_of("True") == category_of("true") == "true"
    assert category_of(None) is category_of(math.nan) is category_of("") is category_of("  ") is None
    assert category_of("NA") == "NA", "text may be called so"


def test_rows_are_encoded_in_the_order_of_the_columns_whatever_theirs() -> None:
    rows: list[dict[str, Any]] = [
        {"colour": "red", "size": "2.5"},
        {"size": 1, "colour": "green"},
        {"size": None, "colour": True, "price": "passed over"},
        {"size": 1e300, "colour": ""},
    ]
    found = SCHEMA.encode(rows)
    nan = np.nan
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.array([[2.5, 1], [1, nan], [nan, 2], [nan, nan]], np.float32))
    assert SCHEMA.encode([]).shape == (0, 2)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"size": 1}, "row 2 lacks colour; expected are size, colour"),
        ({}, "row 2 lacks size, colour"),
        ({"size": 1, "colour": "red", "weight": 5}, "row 2 has unknown columns (weight); expected are size, colour"),
        ({"Size": 1, "colour": "red"}, "row 2 lacks size and has unknown columns (Size)"),
        ({"size": "big", "colour": "red"}, "row 2: size is no number: 'big'"),
        ({"size": True, "colour": "red"}, "row 2: size is no number"),
    ],
)
def test_a_row_of_other_columns_is_refused_with_the_expected_ones(row: dict[str, Any], said: str) -> None:
    with pytest.raises(BadRows, match=re.escape(said)):
        SCHEMA.encode([{"size": 1, "colour": "red"}, row])


@pytest.mark.parametrize("rows", [{"size": 1, "colour": "red"}, [[1, "red"]]])
def test_rows_that_do_not_name_their_columns_are_refused_with_how_to_write_them(rows: Any) -> None:
    with pytest.raises(BadRows, match="does not name its columns"):
        SCHEMA.encode(rows)


def test_ignored_columns_and_the_target_may_be_there_or_not() -> None:
    schema = TableSchema(SCHEMA.columns, "price", None, ("id",))
    rows: list[dict[str, Any]] = [{"size": 1, "colour": "red"}, {"size": 1, "colour": "red", "id": "x", "price": 5}]
    first, second = schema.encode(rows)
    np.testing.assert_array_equal(first, second)


def test_what_no_float32_holds_is_missing() -> None:
    found = as_float32(np.array([1e300, -np.inf, np.nan, 1.5]))
    np.testing.assert_array_equal(found, np.array([np.nan, np.nan, np.nan, 1.5], np.float32))


@pytest.mark.parametrize("classes", [None, ("no", "yes")])
def test_a_schema_comes_back_from_its_manifest(classes: tuple[str, ...] | None) -> None:
    schema = TableSchema(SCHEMA.columns, "price", classes, ("id",) if classes else ())
    manifest = fitted("SPY:1m/close_5").manifest.model_copy(
        update={"feature_set": schema.feature_set, "target": schema.target_set}
    )
    assert TableSchema.of(Manifest.model_validate_json(manifest.canonical())) == schema


def test_a_series_model_takes_no_rows_and_says_where_its_forecasts_are() -> None:
    with pytest.raises(NoTable, match="red10 predictions SPY:1m"):
        TableSchema.of(fitted("SPY:1m/close_5").manifest)


def test_a_manifest_without_its_columns_is_damaged() -> None:
    broken = fitted("SPY:1m/close_5").manifest.model_copy(update={"feature_set": {"name": "table"}})
    with pytest.raises(BadModel, match="describes no table"):
        TableSchema.of(broken)
