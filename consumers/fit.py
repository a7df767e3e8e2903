"""Fitting the models of one series: what a training process does. Pure: arrays in, versions out; no Redis, no clock.

The rows are the bars that have W - 1 bars before them and the pipeline's *longest* horizon behind them, whichever
targets are asked for; so a target's version does not depend on what else was asked for. Targets whose labels are known
on the same rows share folds and matrices; a label can be unknown within the rows only for volume (mean of zero).

For each target, from walk-forward folds (`consumers.folds`):

1. the naive forecast that did best out of the sample (`consumers.naive`);
2. the number of trees, fitted on what that naive forecast leaves: none, unless they are an improvement
   (`consumers.rounds`);
3. the figures out of the sample that the manifest shows.

Then the trees are fitted on all rows: those of a plain XGBoost fit of `label - naive forecast` with a base score of 0.

XGBoost, scipy and numba are imported when a fit begins, so that a process which only queues fits never loads them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from consumers.features import FeatureSet, feature_matrix, load_feature_set
from consumers.folds import Fold, walk_forward
from consumers.history import BarWindow
from consumers.naive import NaiveRows, offered
from consumers.targets import Target, labels
from modelstore.version import NewVersion
from streams.settings import Settings

#: Values that a feature is sorted into. A quarter of XGBoost's default halves the time of a fit and costs no skill.
MAX_BIN = 64


@dataclass(frozen=True, slots=True)
class FitParameters:
    """How models are fitted; the fields are those of the settings. `rounds` is the most trees a model may get."""

    rounds: int
    max_depth: int
    learning_rate: float
    min_child_weight: float
    seed: int
    min_rows: int
    folds: int = 4

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
            folds=settings.folds,
        )

    @property
    def booster(self) -> dict[str, Any]:
        """What XGBoost is given. `base_score` 0 is the naive forecast, which the labels are taken off."""
        return {
            "objective": "reg:squarederror",
            "tree_method": "hist",
            "max_bin": MAX_BIN,
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
        since: train on rows whose bar ends after this only, epoch ns; their features may look at bars before it.
    """

    series: str
    targets: tuple[str, ...]
    longest: int
    feature_set: str
    bars: BarWindow
    ends: NDArray[np.int64]
    parameters: FitParameters
    since: int | None = None

    @property
    def what(self) -> str:
        """For messages."""
        return self.series


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
class Rows:
    """The training rows of targets whose labels are known on the same rows.

    Attributes:
        features: float32 (n, F).
        bars: int64 (n,), index of each row's newest bar.
    """

    features: NDArray[np.float32]
    bars: NDArray[np.int64]


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
    rows = _all_rows(request, features)
    groups: dict[bytes, list[tuple[Target, NDArray[np.float64]]]] = {}
    for target in map(Target.parse, request.targets):
        label = labels(target, request.bars)[rows.bars]
        groups.setdefault(np.isfinite(label).tobytes(), []).append((target, label))
    made: dict[str, NewVersion] = {}
    skipped: dict[str, str] = {}
    for mask, members in groups.items():
        known = np.frombuffer(mask, np.bool_)
        found = Rows(np.ascontiguousarray(rows.features[known]), rows.bars[known])
        if len(found.bars) < request.parameters.min_rows:
            reason = f"{len(found.bars)} rows with a known label, {request.parameters.min_rows} needed"
            skipped |= {str(target): reason for target, _ in members}
            continue
        made |= _fit_group(request, features, found, [(target, label[known]) for target, label in members])
    return FitOutcome(tuple(made[name] for name in request.targets if name in made), skipped)


def _all_rows(request: FitRequest, features: FeatureSet) -> Rows:
    first = features.window - 1
    if request.since is not None:
        first = max(first, int(np.searchsorted(request.ends, request.since, side="right")))
    usable = max(0, len(request.bars) - request.longest)
    matrix = feature_matrix(features, request.bars.slice(min(first - features.window + 1, usable), usable))
    return Rows(matrix, np.arange(len(matrix), dtype=np.int64) + first)


def _fit_group(
    request: FitRequest, features: FeatureSet, rows: Rows, targets: Sequence[tuple[Target, NDArray[np.float64]]]
) -> dict[str, NewVersion]:
    import xgboost

    from consumers.figures import in_sample, out_of_sample
    from consumers.packing import Fit, versions
    from consumers.rounds import Curves, choose_rounds

    parameters = request.parameters
    given = parameters.booster | {"seed": parameters.seed, "nthread": 1}
    folds = walk_forward(rows.bars, request.longest, parameters.folds)
    sets = [NaiveRows.of(target, request.bars, rows.bars, label) for target, label in targets]
    interval_ns = int(request.ends[0] - request.bars.start[0])
    kinds = [
        found.choose(offered(target.column, interval_ns), folds, target.horizon)
        for (target, _), found in zip(targets, sets, strict=True)
    ]

    def part(fold: Fold, which: slice) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """Rows of a fold, the naive constants from its training part."""
        columns = [found.residuals(found.fit(kind, fold.train), which) for kind, found in zip(kinds, sets, strict=True)]
        return rows.features[which], np.column_stack(columns)

    curves = [Curves(given, parameters.rounds, part(fold, fold.train), part(fold, fold.test)) for fold in folds]
    matrix = xgboost.QuantileDMatrix(rows.features, max_bin=MAX_BIN, nthread=1)
    fits: list[Fit] = []
    for at, ((target, _), found, kind) in enumerate(zip(targets, sets, kinds, strict=True)):
        naive = found.fit(kind)
        matrix.set_label(found.residuals(naive))
        booster = xgboost.Booster(given, [matrix])
        rounds = choose_rounds(curves, at, target.horizon)
        for done in range(rounds):
            booster.update(matrix, done)
        margins = booster.predict(matrix, output_margin=True)
        booster.feature_names = list(features.columns)
        beyond, by_fold = out_of_sample(curves, folds, at, target.horizon, (found.start, request.ends[rows.bars]))
        metrics = in_sample(found.label, found.residuals(naive), margins) | {"rounds": rounds} | beyond
        fits.append(Fit(target, found.label, naive, rounds, booster, metrics, by_fold))
    return versions(request, features, rows, fits)
