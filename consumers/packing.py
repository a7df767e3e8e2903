"""From fitted boosters to versions: manifest, serving block, forest, XGBoost model. Part of training.

Every version is checked before it is returned: the packed forest, and the XGBoost model read back from its bytes, must
give the margins of the booster, bit for bit, on the golden rows. Margins are what the trees add to the naive forecast.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xgboost
from numpy.typing import NDArray

from consumers.features import FeatureSet, fingerprint
from consumers.figures import Figures, told
from consumers.naive import Naive
from consumers.targets import Target
from modelstore import compiler
from modelstore.errors import BadModel
from modelstore.kernel import ForestPack
from modelstore.manifest import Manifest, Serving, feature_set_id
from modelstore.version import NewVersion

if TYPE_CHECKING:
    from consumers.fit import FitRequest, Rows


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """One target's booster, and what is to be told of it.

    Attributes:
        label: float64 (n,), the rows' labels.
        rounds: trees that the booster has.
        metrics, folds: as in the manifest.
    """

    target: Target
    label: NDArray[np.float64]
    naive: Naive
    rounds: int
    booster: xgboost.Booster
    metrics: Figures
    folds: tuple[Figures, ...]


def versions(request: FitRequest, features: FeatureSet, rows: Rows, fits: Sequence[Fit]) -> dict[str, NewVersion]:
    """The versions of fitted targets, target -> version.

    Raises:
        BadModel: a version failed its check.
    """
    parameters = request.parameters
    golden = golden_rows(rows.features)
    golden_matrix = xgboost.DMatrix(golden, feature_names=list(features.columns), nthread=1)
    low, high = np.fmin.reduce(rows.features), np.fmax.reduce(rows.features)
    made: dict[str, NewVersion] = {}
    margins: list[NDArray[np.float32]] = []
    for fit in fits:
        expected = fit.booster.predict(golden_matrix, output_margin=True)
        ubj = bytes(fit.booster.save_raw("ubj"))
        again = xgboost.Booster({"nthread": 1}, model_file=bytearray(ubj)).predict(golden_matrix, output_margin=True)
        name = f"{request.series}/{fit.target}"
        compare(name, "XGBoost model read back", again, expected)
        through = int(request.ends[rows.bars[-1] + fit.target.horizon])
        made[str(fit.target)] = NewVersion(
            manifest=Manifest(
                name=name,
                dataset=_dataset(request, features, rows, fit.label, fit.target, through),
                trained_through=through,
                feature_set=fingerprint(features),
                target={"column": fit.target.column, "horizon": fit.target.horizon},
                parameters=parameters.booster
                | {"rounds": fit.rounds, "most_rounds": parameters.rounds, "folds": parameters.folds},
                seed=parameters.seed,
                naive=told(fit.naive),
                metrics=fit.metrics,
                folds=fit.folds,
                libraries={"xgboost": xgboost.__version__, "numpy": np.__version__},
                golden={"rows": as_json(golden), "margins": as_json(expected)},
            ),
            serving=Serving(through, feature_set_id(fingerprint(features)), low, high, fit.naive.kind, fit.naive.table),
            forest=compiler.compile_booster(fit.booster),
            ubj=ubj,
        )
        margins.append(expected)
    _check_forests(made, golden, margins)
    return made


def golden_rows(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """First, middle and last training row, and one in which everything is missing."""
    missing = np.full((1, features.shape[1]), np.nan, np.float32)
    return np.concatenate((features[[0, len(features) // 2, -1]], missing))


def _dataset(
    request: FitRequest,
    features: FeatureSet,
    rows: Rows,
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


def as_json(values: NDArray[np.float32]) -> list[Any]:
    """Numbers as JSON has them: a float32 is exact as a double; NaN is null."""
    found = values.astype(object)
    found[np.isnan(values)] = None
    return list(found.tolist())


def _check_forests(
    made: dict[str, NewVersion], golden: NDArray[np.float32], margins: list[NDArray[np.float32]]
) -> None:
    pack = ForestPack.build([version.forest for version in made.values()], golden.shape[1])
    row_index = np.tile(np.arange(len(golden), dtype=np.int32), len(made))
    forest_index = np.repeat(np.arange(len(made), dtype=np.int32), len(golden))
    scores = pack.score_pairs(golden, row_index, forest_index).reshape(len(made), len(golden))
    for version, score, expected in zip(made.values(), scores, margins, strict=True):
        compare(version.manifest.name, "packed forest", score, expected)


def compare(name: str, what: str, found: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    """Hold the margins of a copy against the booster's, bit for bit.

    Raises:
        BadModel: they differ.
    """
    if found.tobytes() != expected.tobytes():
        raise BadModel(
            f"{name}: the {what} scores the golden rows {found.tolist()}, the booster {expected.tolist()}; the version "
            "was not stored. Check that the installed xgboost is one that Red10 supports"
        )
