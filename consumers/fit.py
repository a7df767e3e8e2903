"""Fitting the models of one series: what a training process does. Pure: arrays in, versions out; no Redis, no clock.

The rows are the bars that have W - 1 bars before them and the pipeline's *longest* horizon behind them, whichever
targets are asked for; so a target's version does not depend on what else was asked for. All targets with the same known
labels share one binned matrix (`QuantileDMatrix` with `set_label`), which gives the same trees as one fit each. A label
can be unknown within the rows only for volume (mean of zero); such targets get a matrix of their own.

Every version is checked before it is returned: the packed forest, and the XGBoost model read back from its bytes, must
give the margins of the booster, bit for bit, on the golden rows.

XGBoost and numba are imported when a fit begins, so that a process which only queues fits never loads them.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from consumers.features import FeatureSet, feature_matrix, fingerprint, load_feature_set
from consumers.history import BarWindow
from consumers.targets import Target, labels
from modelstore.errors import BadModel
from modelstore.manifest import Manifest, Serving, feature_set_id
from modelstore.version import NewVersion
from streams.settings import Settings


@dataclass(frozen=True, slots=True)
class FitParameters:
    """How models are fitted; the fields are those of the settings."""

    rounds: int
    max_depth: int
    learning_rate: float
    min_child_weight: float
    seed: int
    min_rows: int

    @classmethod
    def of(cls, settings: Settings) -> FitParameters:
        """Take them from the settings."""
        return cls(
            rounds=settings.rounds,
            max_depth=settings.max_depth,
            learning_rate=settings.learning_rate,
            min_child_weight=settings.min_child_weight,
            seed=settings.seed,
            min_rows=settings.min_rows,
        )

    @property
    def booster(self) -> dict[str, Any]:
        """What XGBoost is given. `base_score` 0 is the naive forecast: no change, or as much volume as lately."""
        return {
            "objective": "reg:squarederror",
            "tree_method": "hist",
            "max_depth": self.max_depth,
            "learning_rate": self.learning_rate,
            "min_child_weight": self.min_child_weight,
            "base_score": 0.0,
        }


@dataclass(frozen=True, slots=True, eq=False)
class FitRequest:
    """The models of one series to fit; can be pickled.

    Attributes:
        series: `SPY:1m`.
        targets: names of the targets.
        longest: the pipeline's longest horizon, bars.
        feature_set: `module:attribute`.
        bars: all bars that may be used.
        ends: int64 (n,), end of each bar, epoch ns.
        parameters: how to fit.
    """

    series: str
    targets: tuple[str, ...]
    longest: int
    feature_set: str
    bars: BarWindow
    ends: NDArray[np.int64]
    parameters: FitParameters


@dataclass(frozen=True, slots=True)
class FitOutcome:
    """What a fit made.

    Attributes:
        versions: one per target that could be fitted, in the order asked for.
        skipped: target -> why it was not fitted.
    """

    versions: tuple[NewVersion, ...]
    skipped: dict[str, str]


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """The training rows of targets whose labels are known on the same rows."""

    features: NDArray[np.float32]
    bars: NDArray[np.int64]  #: index of the newest bar of each row


def bars_needed(window: int, longest: int, min_rows: int) -> int:
    """Fewest bars that give `min_rows` training rows."""
    return window - 1 + longest + min_rows


def fit_series(request: FitRequest) -> FitOutcome:
    """Fit the models of one series, one thread.

    Raises:
        BadModel: a version failed its check.
        ConfigurationError: the feature set cannot be loaded, or breaks its declaration.
        BadName: a target is none.
    """
    features = load_feature_set(request.feature_set)
    usable = max(0, len(request.bars) - request.longest)
    matrix = feature_matrix(features, request.bars.slice(0, usable))
    bars = np.arange(len(matrix), dtype=np.int64) + features.window - 1
    groups: dict[bytes, list[tuple[str, NDArray[np.float64]]]] = {}
    for name in request.targets:
        label = labels(Target.parse(name), request.bars)[bars]
        groups.setdefault(np.isfinite(label).tobytes(), []).append((name, label))
    made: dict[str, NewVersion] = {}
    skipped: dict[str, str] = {}
    for mask, members in groups.items():
        known = np.frombuffer(mask, np.bool_)
        rows = _Rows(np.ascontiguousarray(matrix[known]), bars[known])
        if len(rows.bars) < request.parameters.min_rows:
            reason = f"{len(rows.bars)} rows with a known label, {request.parameters.min_rows} needed"
            skipped |= {name: reason for name, _ in members}
            continue
        made |= _fit_group(request, features, rows, {name: label[known] for name, label in members})
    return FitOutcome(tuple(made[name] for name in request.targets if name in made), skipped)


def _fit_group(
    request: FitRequest, features: FeatureSet, rows: _Rows, targets: dict[str, NDArray[np.float64]]
) -> dict[str, NewVersion]:
    import xgboost

    from modelstore.compiler import compile_booster

    parameters = request.parameters
    threads = {"nthread": 1}
    names = list(features.columns)
    matrix = xgboost.QuantileDMatrix(rows.features, feature_names=names, nthread=1)
    golden = _golden_rows(rows.features)
    golden_matrix = xgboost.DMatrix(golden, feature_names=names, nthread=1)
    low, high = np.fmin.reduce(rows.features), np.fmax.reduce(rows.features)
    made: dict[str, NewVersion] = {}
    margins: list[NDArray[np.float32]] = []
    for name, label in targets.items():
        matrix.set_label(label)
        booster = xgboost.train(
            parameters.booster | threads | {"seed": parameters.seed}, matrix, num_boost_round=parameters.rounds
        )
        expected = booster.predict(golden_matrix, output_margin=True)
        ubj = bytes(booster.save_raw("ubj"))
        again = xgboost.Booster(threads, model_file=bytearray(ubj)).predict(golden_matrix, output_margin=True)
        _compare(f"{request.series}/{name}", "XGBoost model read back", again, expected)
        through = int(request.ends[rows.bars[-1] + Target.parse(name).horizon])
        made[name] = NewVersion(
            manifest=Manifest(
                name=f"{request.series}/{name}",
                dataset=_dataset(request, features, rows, label, Target.parse(name), through),
                trained_through=through,
                feature_set=fingerprint(features),
                target={"column": Target.parse(name).column, "horizon": Target.parse(name).horizon},
                parameters=parameters.booster | {"rounds": parameters.rounds},
                seed=parameters.seed,
                metrics=_metrics(label, booster.predict(matrix, output_margin=True)),
                libraries={"xgboost": xgboost.__version__, "numpy": np.__version__},
                golden={"rows": _numbers(golden), "margins": _numbers(expected)},
            ),
            serving=Serving(through, feature_set_id(fingerprint(features)), low, high),
            forest=compile_booster(booster),
            ubj=ubj,
        )
        margins.append(expected)
    _check_forests(made, golden, margins)
    return made


def _golden_rows(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """First, middle and last training row, and one in which everything is missing."""
    missing = np.full((1, features.shape[1]), np.nan, np.float32)
    return np.concatenate((features[[0, len(features) // 2, -1]], missing))


def _dataset(
    request: FitRequest,
    features: FeatureSet,
    rows: _Rows,
    label: NDArray[np.float64],
    target: Target,
    through: int,
) -> dict[str, Any]:
    digest = hashlib.sha256()
    digest.update(repr(rows.features.shape).encode())
    digest.update(rows.features.astype("<f4").tobytes())
    digest.update(label.astype("<f8").tobytes())
    first = int(rows.bars[0]) + 1 - max(features.window, target.lookback)
    return {
        "fingerprint": digest.hexdigest(),
        "rows": len(rows.bars),
        "from": int(request.bars.start[max(0, first)]),
        "through": through,
    }


def _metrics(label: NDArray[np.float64], margins: NDArray[np.float32]) -> dict[str, float | int | None]:
    """Root mean squared errors on the rows that were trained on: how well it fits, not how well it forecasts."""
    return {
        "rows": len(label),
        "label_std": float(label.std()),
        "train_rmse": math.sqrt(float(np.mean((label - margins) ** 2))),
        "train_rmse_naive": math.sqrt(float(np.mean(label**2))),
    }


def _numbers(values: NDArray[np.float32]) -> list[Any]:
    """As JSON has them: a float32 is exact as a double; NaN is null."""
    found = values.astype(object)
    found[np.isnan(values)] = None
    return list(found.tolist())


def _check_forests(
    made: dict[str, NewVersion], golden: NDArray[np.float32], margins: list[NDArray[np.float32]]
) -> None:
    from modelstore.kernel import ForestPack

    pack = ForestPack.build([version.forest for version in made.values()], golden.shape[1])
    row_index = np.tile(np.arange(len(golden), dtype=np.int32), len(made))
    forest_index = np.repeat(np.arange(len(made), dtype=np.int32), len(golden))
    scores = pack.score_pairs(golden, row_index, forest_index).reshape(len(made), len(golden))
    for version, score, expected in zip(made.values(), scores, margins, strict=True):
        _compare(version.manifest.name, "packed forest", score, expected)


def _compare(name: str, what: str, found: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    if found.tobytes() != expected.tobytes():
        raise BadModel(
            f"{name}: the {what} scores the golden rows {found.tolist()}, the booster {expected.tolist()}; the version "
            "was not stored. Check that the installed xgboost is one that Red10 supports"
        )
