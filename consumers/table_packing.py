"""From one target of a table to its version: trees, figures on rows held out, manifest. Part of training.

As of a series' models, packed forest and XGBoost model must give the margins of the booster, bit for bit, on the golden
rows, before a version is returned.
"""

from __future__ import annotations

import math

import numpy as np
import xgboost
from numpy.typing import NDArray

from consumers.figures import Figures
from consumers.packing import as_json, compare, golden_rows
from consumers.table_fit import FOLDS, MOST_ROUNDS, Problem, choose_rounds, held_out, loss, probabilities
from modelstore import compiler
from modelstore.kernel import ForestPack
from modelstore.manifest import Manifest, Serving, feature_set_id
from modelstore.version import NewVersion


def version(problem: Problem, fingerprint: str, seed: int) -> NewVersion:
    """Fit, judge and pack one target.

    Args:
        fingerprint: of the table.

    Raises:
        BadModel: the version failed its check.
    """
    train, test = held_out(problem, seed)
    # A model of classes without trees would call them all equally likely.
    rounds = max(choose_rounds(problem, train, seed), 1 if problem.classes else 0)
    judged = _fit(problem, train, rounds, seed)
    metrics = _metrics(problem, judged, train, test) | {"rounds": rounds}
    everything = np.arange(len(problem.label))
    booster = _fit(problem, everything, rounds, seed)
    golden = golden_rows(problem.features)
    expected = booster.predict(xgboost.DMatrix(golden, nthread=1), output_margin=True)
    ubj, forest = bytes(booster.save_raw("ubj")), compiler.compile_booster(booster)
    _check(problem, golden, expected, ubj, forest)
    given = problem.booster(everything, seed)
    schema = problem.schema
    return NewVersion(
        manifest=Manifest(
            name=problem.name,
            dataset={"fingerprint": fingerprint, "rows": len(problem.label)},
            trained_through=0,
            feature_set=schema.feature_set,
            target=schema.target_set,
            parameters={name: value for name, value in given.items() if name not in ("seed", "nthread")}
            | {"rounds": rounds, "most_rounds": MOST_ROUNDS, "folds": FOLDS},
            seed=seed,
            metrics=metrics,
            libraries={"xgboost": xgboost.__version__, "numpy": np.__version__},
            golden={"rows": as_json(golden), "margins": as_json(expected)},
        ),
        serving=Serving(
            0, feature_set_id(schema.feature_set), np.fmin.reduce(problem.features), np.fmax.reduce(problem.features)
        ),
        forest=forest,
        ubj=ubj,
    )


def _fit(problem: Problem, rows: NDArray[np.int64], rounds: int, seed: int) -> xgboost.Booster:
    matrix = xgboost.QuantileDMatrix(problem.features[rows], problem.label[rows], nthread=1)
    booster = xgboost.Booster(problem.booster(rows, seed), [matrix])
    for done in range(rounds):
        booster.update(matrix, done)
    if not rounds:
        # A booster that was never updated learns from this how many features there are.
        booster.predict(matrix)
    return booster


def _metrics(problem: Problem, booster: xgboost.Booster, train: NDArray[np.int64], test: NDArray[np.int64]) -> Figures:
    """Figures on the rows held out, beside those of the naive forecast from the rows trained on."""
    label = problem.label[test]
    figures: Figures = {"held_out_rows": len(test), "rows": len(problem.label)}
    if not len(test):
        return figures | {"skill": None}
    margins = booster.predict(xgboost.DMatrix(problem.features[test], nthread=1), output_margin=True)
    mine = float(loss(problem, margins, label).mean())
    if not problem.classes:
        naive = float(((problem.label[train].mean() - label) ** 2).mean())
        return figures | {"rmse": math.sqrt(mine), "naive_rmse": math.sqrt(naive), "skill": _skill(mine, naive)}
    shares = np.bincount(problem.label[train].astype(np.int64), minlength=problem.classes) / len(train)
    classes = label.astype(np.int64)
    naive = float(-np.log(shares[classes]).mean())
    return figures | {
        "accuracy": float((probabilities(problem, margins).argmax(axis=1) == classes).mean()),
        "naive_accuracy": float((classes == shares.argmax()).mean()),
        "log_loss": mine,
        "naive_log_loss": naive,
        "skill": _skill(mine, naive),
    }


def _skill(mine: float, naive: float) -> float | None:
    return 1 - mine / naive if naive > 0 else None


def _check(
    problem: Problem, golden: NDArray[np.float32], expected: NDArray[np.float32], ubj: bytes, forest: bytes
) -> None:
    again = xgboost.Booster({"nthread": 1}, model_file=bytearray(ubj))
    read = again.predict(xgboost.DMatrix(golden, nthread=1), output_margin=True)
    compare(problem.name, "XGBoost model read back", read, expected)
    index = np.arange(len(golden))
    pack = ForestPack.build([forest], golden.shape[1])
    found = pack.margins(golden, index, np.zeros_like(index), problem.outputs)
    compare(problem.name, "packed forest", found.reshape(expected.shape), expected)
