"""How many trees a model gets, and what it was worth out of the sample. Part of training; one thread.

Each walk-forward fold (`consumers.folds`) is fitted once with the most rounds there may be, and its test part is
forecast after every round: the fold's learning curve. The curves of all folds are added up; the number of rounds with
the least squared error is taken, **unless its advantage over no tree at all is within one standard error**: then the
model stays without trees, which is the naive forecast. That is the one-standard-error rule of Breiman, Friedman, Olshen
and Stone ("Classification and Regression Trees", 1984), asked of the simplest model only; the error is one for
overlapping labels (`consumers.har`). Where there is too little to tell, there are no trees.

The error at the chosen rounds flatters, because it chose them. So what a fold is reported with comes from rounds that
the folds before it chose; the first has none before it and is left out of the pooled figures.

All targets of a fold are boosted at once, one output per tree: that gives each the trees of a fit of its own, as long
as neither rows nor columns are sampled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from consumers.har import gains, har_mean

if TYPE_CHECKING:
    from xgboost import Booster, DMatrix


class Curves:
    """The learning curves of the targets of one fold.

    Attributes:
        totals: float64 (R + 1, T), squared error on the test part after 0, 1, … R rounds, summed over its rows.
    """

    def __init__(
        self,
        parameters: Mapping[str, Any],
        rounds: int,
        train: tuple[NDArray[np.float32], NDArray[np.float64]],
        test: tuple[NDArray[np.float32], NDArray[np.float64]],
    ) -> None:
        """Fit the fold.

        Args:
            parameters: XGBoost's; they must hold `max_bin`, and sample neither rows nor columns.
            rounds: R.
            train: features float32 (n, F), and labels less the naive forecast, float64 (n, T).
            test: the same of the test part.
        """
        import xgboost

        features, residuals = train
        matrix = xgboost.QuantileDMatrix(features, residuals, max_bin=parameters["max_bin"], nthread=1)
        self._test: DMatrix = xgboost.DMatrix(test[0], nthread=1)
        self._residuals = np.ascontiguousarray(test[1].T)
        # As its cache knows both matrices, each prediction adds the newest trees only.
        self._booster: Booster = xgboost.Booster(dict(parameters), [matrix, self._test])
        self._losses: dict[int, NDArray[np.float64]] = {0: np.square(self._residuals)}
        self.totals = np.empty((rounds + 1, len(self._residuals)))
        self.totals[0] = self._losses[0].sum(axis=1)
        for done in range(rounds):
            self._booster.update(matrix, done)
            self.totals[done + 1] = self._squares(self._booster.predict(self._test, output_margin=True)).sum(axis=1)

    def losses(self, rounds: int) -> NDArray[np.float64]:
        """Squared errors of the test rows with so many rounds, float64 (T, n)."""
        if rounds not in self._losses:
            margins = self._booster.predict(self._test, output_margin=True, iteration_range=(0, rounds))
            self._losses[rounds] = self._squares(margins)
        return self._losses[rounds]

    def _squares(self, margins: NDArray[np.float32]) -> NDArray[np.float64]:
        # One target after the other in memory: each sum is then taken in the same order, whatever stands beside it.
        by_target = np.ascontiguousarray(margins.reshape(self._residuals.shape[::-1]).T)
        found: NDArray[np.float64] = np.square(self._residuals - by_target)
        return found


def choose_rounds(curves: Sequence[Curves], target: int, horizon: int) -> int:
    """The rounds that the curves of some folds speak for; 0 if nothing speaks against it.

    Args:
        curves: of folds in order of time.
        target: index of the target in the curves.
        horizon: its horizon, bars.
    """
    if not curves:
        return 0
    best = int(np.sum([curve.totals[:, target] for curve in curves], axis=0).argmin())
    if best == 0:
        return 0
    with_trees, without = (pooled(curves, target, [rounds] * len(curves)) for rounds in (best, 0))
    test = har_mean(gains(with_trees, without), horizon)
    return best if test is not None and test.mean > test.se else 0


def rounds_known_before(curves: Sequence[Curves], target: int, horizon: int) -> list[int]:
    """For each fold the rounds that the folds before it speak for; 0 for the first."""
    return [choose_rounds(curves[:index], target, horizon) for index in range(len(curves))]


def pooled(curves: Sequence[Curves], target: int, rounds: Sequence[int]) -> NDArray[np.float64]:
    """Squared errors of all test rows of some folds in order of time, each fold with its own rounds, float64 (n,)."""
    found = [curve.losses(count)[target] for curve, count in zip(curves, rounds, strict=True)]
    return np.concatenate(found) if found else np.empty(0)
