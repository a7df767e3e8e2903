"""What a fit says of itself in the manifest: figures in the sample, and out of it. Pure.

Out of the sample means: the test parts of walk-forward folds, each forecast by trees and naive constants from rows
before it, with a number of trees that the folds before it chose. The kind of the naive forecast is the best over all
folds, in hindsight; that makes the comparison harder, not easier.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from consumers.folds import Fold
from consumers.har import skill_of
from consumers.naive import Naive
from consumers.rounds import Curves, pooled, rounds_known_before

Figures = dict[str, float | int | None]


def out_of_sample(
    curves: Sequence[Curves],
    folds: Sequence[Fold],
    target: int,
    horizon: int,
    times: tuple[NDArray[np.int64], NDArray[np.int64]],
) -> tuple[Figures, tuple[Figures, ...]]:
    """Figures of one target over all folds but the first, and of each fold.

    Args:
        target: index of the target in the curves.
        horizon: its horizon, bars.
        times: int64 (n,) each: start and end of each row's bar, epoch ns.

    Returns:
        `skill` against the naive forecast with its 95 % interval, `skill_low` to `skill_high` (`None` where it cannot
        be told), and `out_of_fold_rows`; and for each fold `from` and `through` (start of the first test row's bar, end
        of the last one's), `rows`, `rounds`, `mse`, `naive_mse`, `skill`.
    """
    rounds = rounds_known_before(curves, target, horizon)
    found: list[Figures] = []
    for curve, fold, count in zip(curves, folds, rounds, strict=True):
        loss, naive_loss = (pooled([curve], target, [each]) for each in (count, 0))
        found.append(
            {
                "from": int(times[0][fold.test][0]),
                "through": int(times[1][fold.test][-1]),
                "rows": len(loss),
                "rounds": count,
                "mse": float(loss.mean()),
                "naive_mse": float(naive_loss.mean()),
                "skill": _skill(loss, naive_loss),
            }
        )
    loss, naive_loss = (pooled(curves[1:], target, each) for each in (rounds[1:], [0] * len(rounds[1:])))
    interval = skill_of(loss, naive_loss, horizon)
    figures: Figures = {
        "out_of_fold_rows": len(loss),
        "skill": _skill(loss, naive_loss),
        "skill_low": None if interval is None else interval.low,
        "skill_high": None if interval is None else interval.high,
    }
    return figures, tuple(found)


def _skill(loss: NDArray[np.float64], naive_loss: NDArray[np.float64]) -> float | None:
    total = float(naive_loss.sum())
    return 1 - float(loss.sum()) / total if total > 0 else None


def in_sample(label: NDArray[np.float64], residual: NDArray[np.float64], margins: NDArray[np.float32]) -> Figures:
    """Root mean squared errors on the rows that were trained on: how well it fits, not how well it forecasts.

    Args:
        label: (n,), the rows' labels.
        residual: (n,), labels less the naive forecast.
        margins: (n,), what the trees give.
    """
    return {
        "rows": len(label),
        "label_std": float(label.std()),
        "train_rmse": math.sqrt(float(np.mean(np.square(residual - margins)))),
        "train_rmse_naive": math.sqrt(float(np.mean(np.square(residual)))),
    }


def told(naive: Naive) -> dict[str, object]:
    """A naive forecast for people: `kind`, and `value`: null, a number, or a list of one per slot."""
    numbers = naive.table.tolist()
    return {"kind": naive.kind.name.lower(), "value": numbers if len(numbers) > 1 else numbers[0] if numbers else None}
