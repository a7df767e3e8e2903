from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import cast

import numpy as np
import pytest
import xgboost
from numpy.typing import NDArray

from consumers.fit import MAX_BIN
from consumers.rounds import Curves, choose_rounds, pooled, rounds_known_before

PARAMETERS = {
    "objective": "reg:squarederror",
    "tree_method": "hist",
    "max_bin": MAX_BIN,
    "max_depth": 2,
    "learning_rate": 0.3,
    "min_child_weight": 5,
    "base_score": 0.0,
    "seed": 3,
    "nthread": 1,
}
ROUNDS = 6
Part = tuple[NDArray[np.float32], NDArray[np.float64]]


def part(count: int, seed: int) -> Part:
    """Rows of three targets: two that depend on the features, and one that does not."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(count, 4)).astype(np.float32)
    features[rng.random(features.shape) < 0.05] = np.nan
    signal = np.nan_to_num(features[:, 0]) * 0.01
    noise = rng.normal(0, 0.01, (count, 3))
    return features, np.column_stack((signal, np.abs(signal), np.zeros(count))) + noise


@cache
def curves() -> Curves:
    return Curves(PARAMETERS, ROUNDS, part(300, 1), part(100, 2))


def test_curves_of_many_targets_at_once_are_those_of_a_fit_for_each() -> None:
    (features, residuals), (unseen, wanted) = part(300, 1), part(100, 2)
    for target in range(3):
        matrix = xgboost.QuantileDMatrix(features, residuals[:, target], max_bin=MAX_BIN, nthread=1)
        for rounds in range(ROUNDS + 1):
            alone = xgboost.train(PARAMETERS, matrix, num_boost_round=rounds)
            margins = alone.predict(xgboost.DMatrix(unseen, nthread=1), output_margin=True)
            loss = np.square(wanted[:, target] - margins)
            assert curves().losses(rounds)[target].tobytes() == loss.tobytes()
            assert curves().totals[rounds, target] == pytest.approx(loss.sum(), rel=1e-12)


def test_a_curve_does_not_depend_on_which_other_targets_are_boosted_beside_it() -> None:
    (features, residuals), (unseen, wanted) = part(300, 1), part(100, 2)
    alone = Curves(PARAMETERS, ROUNDS, (features, residuals[:, [1]]), (unseen, wanted[:, [1]]))
    assert alone.totals[:, 0].tobytes() == curves().totals[:, 1].tobytes()
    assert alone.losses(4)[0].tobytes() == curves().losses(4)[1].tobytes()


class Made:
    """Curves whose losses are given: `drop[r]` is the mean advantage of r rounds over none."""

    def __init__(self, drop: Sequence[float], count: int = 500, noise: float = 0.0, seed: int = 0) -> None:
        wobble = np.random.default_rng(seed).normal(0, 1, count)
        wobble -= wobble.mean()
        self._losses: NDArray[np.float64] = np.array([2.0 - each + noise * wobble * (each != 0) for each in drop])
        self.totals = self._losses.sum(axis=1)[:, None]

    def losses(self, rounds: int) -> NDArray[np.float64]:
        return self._losses[[rounds]]


def made(*found: Made) -> list[Curves]:
    return cast(list[Curves], list(found))


def test_the_rounds_are_those_where_the_summed_curves_are_lowest() -> None:
    one, other = Made([0, 0.5, 0.2, 0.1], noise=0.1), Made([0, 0.1, 0.6, 0.1], noise=0.1, seed=1)
    assert choose_rounds(made(one), 0, 5) == 1
    assert choose_rounds(made(other), 0, 5) == 2
    assert choose_rounds(made(one, other), 0, 5) == 2


def test_an_advantage_within_one_standard_error_leaves_the_model_without_trees() -> None:
    # A standard error of independent values is about noise / sqrt(500).
    assert choose_rounds(made(Made([0, 0.05], noise=0.5)), 0, 5) == 1
    assert choose_rounds(made(Made([0, 0.05], noise=5.0, seed=2)), 0, 5) == 0


def test_without_folds_or_with_too_few_rows_there_are_no_trees() -> None:
    assert choose_rounds([], 0, 5) == 0
    assert choose_rounds(made(Made([0, 0.5], count=100, noise=0.1)), 0, 30) == 0
    assert choose_rounds(made(Made([0, 0.5], count=300, noise=0.1)), 0, 30) == 1


def test_trees_that_only_do_harm_are_none() -> None:
    assert choose_rounds(made(Made([0, -0.1, -0.2], noise=0.1)), 0, 5) == 0


def test_noise_is_mostly_left_without_trees() -> None:
    kept = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        features = rng.normal(size=(900, 8)).astype(np.float32)
        steps = rng.normal(0, 0.01, 905)
        residuals = np.convolve(steps, np.ones(5), "valid")[:900, None]  # labels overlap over five bars
        folds = [
            Curves(
                PARAMETERS | {"min_child_weight": 50},
                10,
                (features[:cut], residuals[:cut]),
                (features[cut + 6 : cut + 150], residuals[cut + 6 : cut + 150]),
            )
            for cut in (300, 450, 600, 750)
        ]
        kept += choose_rounds(folds, 0, 5) > 0
    assert kept <= 4


def test_a_fold_is_told_the_rounds_of_the_folds_before_it_alone() -> None:
    found = made(Made([0, 0.5, 0.1], noise=0.1), Made([0, 0.1, 0.9], noise=0.1, seed=1), Made([0, 3, 3.1], noise=0.1))
    assert rounds_known_before(found, 0, 5) == [0, 1, 2]
    assert rounds_known_before([*found[:2], *made(Made([0, -9, -9]))], 0, 5) == [0, 1, 2]


def test_pooled_losses_stand_in_order_of_time_each_fold_with_its_own_rounds() -> None:
    found = made(Made([0, 0.5], count=2), Made([0, 0.25], count=3))
    assert pooled(found, 0, [0, 1]).tolist() == [2, 2, 1.75, 1.75, 1.75]
    assert len(pooled([], 0, [])) == 0
