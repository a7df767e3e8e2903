"""Models of tables: what they are made of, what they are worth, and that the packed forest says what XGBoost says."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xgboost

from consumers import table_fit
from consumers.datasets import MIB, BadDataset, Roots, read_dataset
from consumers.table_fit import TableFit, fit_table, held_out, model_target
from modelstore.table_model import TableModel
from modelstore.tabular import Column
from modelstore.version import NewVersion
from producers.sample import load_iris

ROOT = Path(__file__).parents[2]
IRIS = ROOT / "producers" / "data" / "iris.csv"


def fit(path: Path, targets: tuple[str, ...] | None = None, seed: int = 0, **more: Any) -> dict[str, NewVersion]:
    found = fit_table(TableFit(path.name, Roots((path.parent,), MIB), "t", targets, seed, **more))
    return {version.manifest.name.partition("/")[2]: version for version in found.versions}


def write(path: Path, header: str, rows: Sequence[tuple[object, ...]]) -> Path:
    path.write_text(header + "\n" + "".join(",".join(map(str, row)) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def iris() -> dict[str, NewVersion]:
    return fit(IRIS)


def model(version: NewVersion) -> TableModel:
    return TableModel.build(version.digest, version.manifest, version.forest)


def flowers() -> list[dict[str, object]]:
    found = load_iris()
    return [dict(zip(found.columns, row, strict=True)) for row in found.measures.tolist()]


def test_each_column_of_the_irises_is_predicted_from_the_others_better_than_naively(
    iris: dict[str, NewVersion],
) -> None:
    assert list(iris) == ["sepal_length", "sepal_width", "petal_length", "petal_width", "species"]
    for name, version in iris.items():
        metrics = version.manifest.metrics
        assert name not in version.manifest.feature_set["columns"]
        assert metrics["held_out_rows"] == 30
        assert metrics["rows"] == 150
        assert metrics["skill"] is not None
        assert metrics["skill"] > 0.25, name
    species = iris["species"].manifest
    assert species.target == {"column": "species", "classes": ["setosa", "versicolor", "virginica"]}
    assert species.metrics["accuracy"] is not None
    assert species.metrics["accuracy"] > 0.8
    assert species.metrics["naive_accuracy"] == pytest.approx(1 / 3)
    assert iris["petal_width"].manifest.target == {"column": "petal_width"}
    assert iris["petal_width"].manifest.feature_set["categories"] == {"species": ["setosa", "versicolor", "virginica"]}


def test_the_packed_forest_says_what_xgboost_says(iris: dict[str, NewVersion]) -> None:
    rows = flowers()
    rows[5]["petal_width"] = None
    matrix = xgboost.DMatrix(model(iris["species"]).schema.encode(rows))
    expected = xgboost.Booster(model_file=bytearray(iris["species"].ubj)).predict(matrix)
    found = model(iris["species"]).predict(rows)
    assert found.probabilities is not None
    np.testing.assert_allclose(found.probabilities, expected, rtol=1e-5)
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1, rtol=1e-6)
    classes = model(iris["species"]).schema.classes
    assert classes is not None
    assert found.labels == tuple(classes[at] for at in expected.argmax(axis=1))
    width = model(iris["petal_width"])
    measures: list[dict[str, object]] = [
        {"sepal_length": None, "sepal_width": 3, "petal_length": "", "species": "setosa"},
        {"sepal_length": None, "sepal_width": "3", "petal_length": "", "species": "tulip"},
    ]
    values = xgboost.Booster(model_file=bytearray(iris["petal_width"].ubj)).predict(
        xgboost.DMatrix(width.schema.encode(measures))
    )
    assert width.predict(measures).values is not None
    assert np.asarray(width.predict(measures).values).tobytes() == values.tobytes()
    assert values[0] != values[1], "an unknown category is missing, not the first one"


def test_the_same_table_and_seed_give_the_same_versions_whatever_file_and_parts(
    iris: dict[str, NewVersion], tmp_path: Path
) -> None:
    import pandas as pd

    pd.read_csv(IRIS).to_parquet(tmp_path / "iris.parquet")
    again = fit(tmp_path / "iris.parquet")
    assert {name: version.digest for name, version in again.items()} == {n: v.digest for n, v in iris.items()}
    parts = [fit(IRIS, part=part, parts=2) for part in range(2)]
    assert [len(part) for part in parts] == [3, 2]
    assert {n: v.digest for part in parts for n, v in part.items()} == {n: v.digest for n, v in iris.items()}
    alone = fit(IRIS, ("species",))
    assert [version.digest for version in alone.values()] == [iris["species"].digest]
    assert fit(IRIS, ("species",), seed=1)["species"].digest != iris["species"].digest


def test_what_a_model_is_said_to_be_worth_is_its_error_on_rows_that_it_was_not_trained_on(
    iris: dict[str, NewVersion],
) -> None:
    from consumers.table_file import parse_table
    from consumers.table_fit import _problem

    table = parse_table(read_dataset("iris.csv", Roots((IRIS.parent,), MIB)))
    problem, manifest = _problem("t", table, 0), iris["sepal_length"].manifest
    train, test = held_out(problem, 0)
    given = {
        name: value for name, value in manifest.parameters.items() if name not in ("rounds", "most_rounds", "folds")
    }
    given |= {"base_score": float(problem.label[train].mean()), "seed": 0, "nthread": 1}
    data = xgboost.QuantileDMatrix(problem.features[train], problem.label[train], nthread=1)
    booster = xgboost.train(given, data, int(manifest.metrics["rounds"] or 0))
    errors = booster.predict(xgboost.DMatrix(problem.features[test])) - problem.label[test]
    assert manifest.metrics["rmse"] == pytest.approx(float(np.sqrt((errors**2).mean())), rel=1e-5)
    naive = problem.label[test] - problem.label[train].mean()
    assert manifest.metrics["naive_rmse"] == pytest.approx(float(np.sqrt((naive**2).mean())), rel=1e-9)


def test_two_classes_have_two_probabilities(tmp_path: Path) -> None:
    rows = [(number, "yes" if number >= 50 else "no") for number in range(100)]
    version = fit(write(tmp_path / "t.csv", "n,answer", rows), ("answer",))["answer"]
    assert version.manifest.parameters["objective"] == "binary:logistic"
    found = model(version).predict([{"n": 1}, {"n": 99}, {"n": None}])
    assert found.labels is not None
    assert found.labels[:2] == ("no", "yes")
    assert found.probabilities is not None
    assert found.probabilities.shape == (3, 2)
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1, rtol=1e-6)
    assert found.probabilities[0, 0] > 0.9


def test_as_many_rows_of_each_of_two_classes_can_be_trained_on(tmp_path: Path) -> None:
    # In this one a leaf of the first tree is 0, and so is the margin that the classes begin with: both with a minus.
    lot = np.random.default_rng(11)
    rows = [(value, "no" if number % 2 else "yes") for number, value in enumerate(lot.normal(size=40).tolist())]
    version = fit(write(tmp_path / "t.csv", "n,answer", rows), ("answer",))["answer"]
    assert version.manifest.golden["margins"]


def test_numbers_that_no_float32_holds_are_missing_as_targets_too(tmp_path: Path) -> None:
    rows = [(1e300 if number % 4 == 0 else number, "1" + "0" * 300, number) for number in range(100)]
    path = write(tmp_path / "t.csv", "some,all,n", rows)
    found = fit_table(TableFit(path.name, Roots((tmp_path,), MIB), "t", None, 0))
    assert found.skipped == {"all": "0 rows with a known value, 20 needed"}
    assert found.versions[0].manifest.dataset["rows"] == 75


def test_a_text_column_is_a_feature_by_the_codes_that_the_manifest_tells(tmp_path: Path) -> None:
    price = {"red": 10.0, "green": 20.0, "blue": 40.0}
    rows = [(colour, price[colour]) for _ in range(20) for colour in price]
    version = fit(write(tmp_path / "t.csv", "colour,price", rows), ("price",))["price"]
    loaded = model(version)
    assert loaded.schema.columns == (Column("colour", ("blue", "green", "red")),)
    values = loaded.predict([{"colour": colour} for colour in price]).values
    assert values is not None
    np.testing.assert_allclose(values, list(price.values()), rtol=0.02)


def test_what_cannot_be_predicted_gets_no_trees_and_no_skill_is_claimed(tmp_path: Path) -> None:
    lot = np.random.default_rng(5)
    rows = [(float(a), float(b)) for a, b in lot.normal(size=(300, 2))]
    version = fit(write(tmp_path / "t.csv", "a,b", rows), ("b",))["b"]
    assert version.manifest.metrics["rounds"] == 0
    values = model(version).predict([{"a": 0}, {"a": 5}]).values
    assert values is not None
    mean = np.float32(np.mean([b for _, b in rows]))
    np.testing.assert_allclose(values, [mean, mean], rtol=1e-6)
    skill = version.manifest.metrics["skill"]
    assert skill is not None
    assert skill < 0.05


def test_rows_without_the_target_are_left_out_and_missing_features_are_not(tmp_path: Path) -> None:
    rows = [("" if number % 5 == 0 else number, "" if number % 4 == 0 else 2 * number) for number in range(100)]
    version = fit(write(tmp_path / "t.csv", "a,b", rows), ("b",))["b"]
    assert version.manifest.dataset["rows"] == 75


def test_a_target_that_is_too_poor_is_left_out_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_fit, "MAX_CLASSES", 3)
    rows = [(number, "x", f"id{number}", number if number < 10 else "", "") for number in range(30)]
    path = write(tmp_path / "t.csv", "n,same,id,few,empty", rows)
    found = fit_table(TableFit(path.name, Roots((tmp_path,), MIB), "t", None, 0))
    assert [version.manifest.name for version in found.versions] == ["t/n"]
    assert found.skipped == {
        "same": "all rows have the same value",
        "id": "30 different texts, 3 at most can be predicted",
        "few": "10 rows with a known value, 20 needed",
        "empty": "0 rows with a known value, 20 needed",
    }


def test_names_are_no_features_and_stay_out_of_the_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_fit, "MAX_CATEGORIES", 20)
    rows = [(f"id{number}", number % 20, 2 * (number % 20)) for number in range(60)]
    made = fit(write(tmp_path / "t.csv", "id,a,b", rows), ("b",))["b"]
    assert made.manifest.feature_set["columns"] == ["a"]
    assert made.manifest.feature_set["ignored"] == ["id"]
    assert "id7" not in made.manifest.canonical().decode()
    values = model(made).predict([{"id": "new", "a": 7}, {"a": 7}]).values
    assert values is not None
    assert values[0] == values[1] == pytest.approx(14, abs=2)
    alone = write(tmp_path / "u.csv", "id,b", [(name, b) for name, _, b in rows])
    found = fit_table(TableFit("u.csv", Roots((tmp_path,), MIB), "u", ("b",), 0))
    assert alone.exists()
    assert "all other columns hold more than 20" in found.skipped["b"]


def test_prose_is_neither_feature_nor_target_and_stays_out_of_the_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_fit, "MAX_TEXT", 100)
    rows = [("long " * 5 + "abcde"[number % 5], number % 20, 2 * (number % 20)) for number in range(60)]
    path = write(tmp_path / "t.csv", "text,a,b", rows)
    found = fit_table(TableFit(path.name, Roots((tmp_path,), MIB), "t", None, 0))
    assert found.skipped == {"text": "its different texts have over 100 characters: prose cannot be predicted"}
    assert [version.manifest.feature_set["ignored"] for version in found.versions] == [["text"]] * 2
    assert not any("long" in version.manifest.canonical().decode() for version in found.versions)


def test_a_class_of_one_row_is_trained_on(tmp_path: Path) -> None:
    rows = [(number, "rare" if number == 7 else "ab"[number % 2]) for number in range(60)]
    version = fit(write(tmp_path / "t.csv", "n,kind", rows), ("kind",))["kind"]
    assert version.manifest.target["classes"] == ["a", "b", "rare"]
    assert np.isfinite(float(version.manifest.metrics["log_loss"] or 0))


def test_rows_are_held_out_by_lot_of_each_class_alike_and_never_trained_on() -> None:
    from consumers.table_fit import Problem
    from modelstore.tabular import TableSchema

    label = np.repeat([0.0, 1.0, 2.0], [50, 30, 4])
    problem = Problem("t/x", TableSchema((Column("a"),), "x", ("p", "q", "r")), np.zeros((84, 1), np.float32), label)
    train, test = held_out(problem, 3)
    assert np.array_equal(np.sort(np.concatenate((train, test))), np.arange(84))
    assert np.bincount(label[test].astype(int), minlength=3).tolist() == [10, 6, 0]
    assert np.array_equal(held_out(problem, 3)[1], test)
    assert not np.array_equal(held_out(problem, 4)[1], test)


def test_unknown_columns_and_names_that_collide_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadDataset, match="has no column colour; it has sepal_length"):
        fit(IRIS, ("colour",))
    rows = [(number, number) for number in range(30)]
    with pytest.raises(BadDataset, match="'a b' and 'a/b' cannot be told apart"):
        fit(write(tmp_path / "t.csv", "a b,a/b", rows))
    with pytest.raises(BadDataset, match="column '%' has no letter"):
        fit(write(tmp_path / "u.csv", "%,b", rows))
    with pytest.raises(BadDataset, match="it has no others"):
        fit(write(tmp_path / "v.csv", "a", [(1,)] * 30))
    assert list(fit(write(tmp_path / "w.csv", "sepal length (cm),b", rows))) == ["sepal_length_cm", "b"]
    assert model_target("_x_") == "x"


def test_predicting_imports_no_xgboost_no_pandas_and_no_faust(iris: dict[str, NewVersion], tmp_path: Path) -> None:
    (tmp_path / "forest").write_bytes(iris["species"].forest)
    (tmp_path / "manifest").write_bytes(iris["species"].manifest.canonical())
    code = (
        "import sys; from modelstore.manifest import Manifest; from modelstore.table_model import TableModel\n"
        "manifest = Manifest.model_validate_json(open('manifest', 'rb').read())\n"
        "model = TableModel.build('0' * 64, manifest, open('forest', 'rb').read())\n"
        "row = dict(sepal_length=5.1, sepal_width=3.5, petal_length=1.4, petal_width=0.2)\n"
        "print(model.predict([row]).labels[0], *({'xgboost', 'pandas', 'pyarrow', 'faust'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.stdout == "setosa\n", done.stderr
