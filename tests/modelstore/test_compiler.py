"""From boosters to forests: what is compiled, and what is refused with a reason."""

from __future__ import annotations

import numpy as np
import pytest
import xgboost

from modelstore import ubjson
from modelstore.compiler import compile_booster
from modelstore.errors import BadModel
from modelstore.forest import Forest
from modelstore.kernel import ForestPack
from tests.modelstore.boosters import labels_of, margins_of, rows_of, train

ROWS = rows_of(1, 300, 6)
ALL = np.arange(300), np.zeros(300, np.int64)


def test_compiling_is_a_function_of_the_model() -> None:
    booster = train(ROWS, 1, 5)
    again = xgboost.Booster()
    again.load_model(booster.save_raw("ubj"))
    assert compile_booster(booster) == compile_booster(booster) == compile_booster(again)


def test_a_forest_of_depth_3_is_perfect_and_small() -> None:
    blob = compile_booster(train(ROWS, 1, 100, max_depth=3))
    assert len(blob) == 7_640
    assert Forest.decode(blob).depth == 3


def test_deep_and_ragged_trees_are_sparse() -> None:
    assert Forest.decode(compile_booster(train(ROWS, 1, 5, max_depth=12))).depth is None


def test_all_trees_are_compiled_after_early_stopping_and_a_slice_serves_fewer() -> None:
    data = xgboost.DMatrix(ROWS, label=labels_of(ROWS, 1))
    other = xgboost.DMatrix(rows_of(2, 100, 6), label=labels_of(rows_of(3, 100, 6), 4))
    booster = xgboost.train({"nthread": 1}, data, 60, evals=[(other, "v")], early_stopping_rounds=5, verbose_eval=False)
    best = booster.best_iteration
    assert best + 1 < booster.num_boosted_rounds() == Forest.decode(compile_booster(booster)).n_trees
    served = compile_booster(booster[: best + 1])
    assert Forest.decode(served).n_trees == best + 1
    found = ForestPack.build([served]).margins(ROWS, *ALL)
    expected = booster.predict(xgboost.DMatrix(ROWS), output_margin=True, iteration_range=(0, best + 1))
    np.testing.assert_array_equal(found[:, 0], expected)


@pytest.mark.parametrize("base_score", [None, 0.2])
@pytest.mark.parametrize("objective", ["reg:squarederror", "binary:logistic", "count:poisson"])
def test_a_model_without_trees_predicts_its_base(objective: str, base_score: float | None) -> None:
    chosen = {} if base_score is None else {"base_score": base_score}
    booster = train(ROWS, 1, 0, objective=objective, **chosen)
    blob = compile_booster(booster)
    assert Forest.decode(blob).n_trees == 0
    np.testing.assert_array_equal(ForestPack.build([blob]).margins(ROWS, *ALL), margins_of(booster, ROWS))


def test_a_margin_of_minus_zero_keeps_its_sign() -> None:
    # As many of each class, and nothing to tell them apart by: the logit of one half is -0.0, and so is every leaf.
    data = xgboost.DMatrix(np.zeros((20, 6), np.float32), label=np.arange(20) % 2)
    booster = xgboost.train({"nthread": 1, "objective": "binary:logistic"}, data, 1)
    expected = margins_of(booster, ROWS)
    assert np.signbit(expected).all()
    assert ForestPack.build([compile_booster(booster)]).margins(ROWS, *ALL).tobytes() == expected.tobytes()


def test_a_booster_with_feature_names_is_compiled() -> None:
    data = xgboost.DMatrix(ROWS, label=labels_of(ROWS, 1), feature_names=list("abcdef"))
    booster = xgboost.train({"nthread": 1}, data, 5)
    found = ForestPack.build([compile_booster(booster)]).margins(ROWS, *ALL)
    np.testing.assert_array_equal(found[:, 0], booster.predict(data, output_margin=True))


def test_one_tree_per_output_is_compiled_and_vectors_as_leaves_are_refused() -> None:
    labels = np.stack([labels_of(ROWS, seed) for seed in range(3)], axis=1)
    data = xgboost.DMatrix(ROWS, label=labels)
    booster = xgboost.train({"nthread": 1, "multi_strategy": "one_output_per_tree"}, data, 5)
    found = ForestPack.build([compile_booster(booster)]).margins(ROWS, *ALL)
    np.testing.assert_array_equal(found, booster.predict(data, output_margin=True))
    vectors = xgboost.train({"nthread": 1, "multi_strategy": "multi_output_tree", "tree_method": "hist"}, data, 5)
    with pytest.raises(BadModel, match="one_output_per_tree"):
        compile_booster(vectors)


def test_a_model_that_starts_from_infinity_is_refused() -> None:
    data = xgboost.DMatrix(ROWS, label=np.zeros(len(ROWS)))
    booster = xgboost.train({"nthread": 1, "objective": "count:poisson"}, data, 2)
    with pytest.raises(BadModel, match="margin that is not finite"):
        compile_booster(booster)


def test_a_linear_booster_is_refused() -> None:
    rows = np.nan_to_num(ROWS).clip(-9, 9)
    booster = train(rows, 1, 3, booster="gblinear")
    with pytest.raises(BadModel, match="gblinear booster has no trees"):
        compile_booster(booster)


def test_categorical_splits_are_refused() -> None:
    rows = np.random.default_rng(1).integers(0, 8, (400, 2)).astype(np.float32)
    labels = (rows[:, 0] % 3 == 0).astype(np.float32)
    data = xgboost.DMatrix(rows, label=labels, feature_types=["c", "q"], enable_categorical=True)
    booster = xgboost.train({"nthread": 1, "max_cat_to_onehot": 1}, data, 5)
    with pytest.raises(BadModel, match="categorical"):
        compile_booster(booster)


def test_an_objective_that_cannot_be_scored_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    booster = train(ROWS, 1, 2)
    raw = bytes(booster.save_raw("ubj")).replace(b"reg:squarederror", b"rag:squarederror")
    monkeypatch.setattr(booster, "save_raw", lambda form: raw)
    with pytest.raises(BadModel, match="objective rag:squarederror cannot be scored: use one of reg:squarederror"):
        compile_booster(booster)


def test_a_model_of_another_shape_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    booster = train(ROWS, 1, 2)
    raw = bytes(booster.save_raw("ubj")).replace(b"split_indices", b"split_other_s")
    monkeypatch.setattr(booster, "save_raw", lambda form: raw)
    with pytest.raises(BadModel, match="another shape"):
        compile_booster(booster)


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"{i\x01aU\x07U\x01b[i\x01i\xff]}", {"a": 7, "b": [1, -1]}),
        (b"[#i\x02TF", [True, False]),
        (b"[$l#i\x02\x00\x00\x00\x01\x00\x00\x00\x02", [1, 2]),
        (b"d\x3f\x80\x00\x00", 1.0),
        (b"Si\x02hi", "hi"),
        (b"Z", None),
    ],
)
def test_ubjson_is_read(data: bytes, value: object) -> None:
    found = ubjson.loads(data)
    assert (found.tolist() if isinstance(found, np.ndarray) else found) == value


@pytest.mark.parametrize("data", [b"", b"{", b"[", b"[$l#i\x02\x00", b"[$l", b"[$li\x02", b"x", b"Si\xffhi", b"L\x00"])
def test_broken_ubjson_is_a_bad_model(data: bytes) -> None:
    with pytest.raises(BadModel, match="UBJSON"):
        ubjson.loads(data)
