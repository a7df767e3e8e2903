"""Whether a version is what it says: read back from its bytes, as whoever serves it or trains on will read it.

Opens the XGBoost model, which a damaged one may answer by ending the process, and imports XGBoost: to be called in a
process that may end (`consumers.checker`).
"""

from __future__ import annotations

import numpy as np
import xgboost
from numpy.typing import NDArray

from modelstore import kernel_numpy
from modelstore.errors import BadModel
from modelstore.forest import Forest
from modelstore.kernel import ForestPack
from modelstore.manifest import Manifest, Serving
from modelstore.version import NewVersion


def check_version(version: NewVersion) -> None:
    """Read every part back, and hold forest and XGBoost model against the golden rows, bit for bit.

    Raises:
        BadModel: a part cannot be read back, the parts contradict each other, or a model gives other margins.
    """
    name = version.manifest.name
    if Manifest.model_validate_json(version.manifest.canonical()) != version.manifest:
        raise BadModel(f"{name}: the manifest reads back as another one: it holds what JSON cannot")
    serving, forest = Serving.decode(version.serving.encode()), Forest.decode(version.forest)
    if len(serving.low) != forest.n_features:
        raise BadModel(
            f"{name}: the forest takes {forest.n_features} features, the serving block has {len(serving.low)}"
        )
    rows, expected = _golden(version.manifest, forest)
    # numpy's kernel has the same bits, and need not be loaded into a process that ends in a moment.
    pack = ForestPack.build([version.forest], forest.n_features, kernel_numpy)
    found = pack.margins(rows, np.arange(len(rows)), np.zeros(len(rows), np.int64))
    _compare(name, "packed forest", found, expected)
    try:
        # Loading takes every core otherwise, whatever the booster is told, and on a busy machine ten times as long.
        with xgboost.config_context(nthread=1):
            booster = xgboost.Booster({"nthread": 1}, model_file=bytearray(version.ubj))
            matrix = xgboost.DMatrix(rows, nthread=1)
            margins = booster.predict(matrix, output_margin=True, validate_features=False)
    except xgboost.core.XGBoostError as error:
        raise BadModel(f"{name}: XGBoost does not read its own model back: {str(error)[:300]}") from error
    _compare(name, "XGBoost model", np.asarray(margins, np.float32).reshape(len(rows), -1), expected)


def _golden(manifest: Manifest, forest: Forest) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Rows (n, F), and the margins (n, outputs) that they must give."""
    try:
        rows = np.array(manifest.golden["rows"], np.float64).astype(np.float32)
        margins = np.array(manifest.golden["margins"], np.float64).astype(np.float32).reshape(len(rows), -1)
    except (KeyError, TypeError, ValueError) as error:
        raise BadModel(f"{manifest.name}: the manifest has no golden rows to check it with ({error!r})") from error
    if len(rows) == 0 or rows.shape != (len(rows), forest.n_features) or margins.shape[1] != forest.n_outputs:
        raise BadModel(f"{manifest.name}: golden rows {rows.shape} and margins {margins.shape} do not fit the forest")
    return rows, margins


def _compare(name: str, what: str, found: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    if found.shape != expected.shape or found.tobytes() != expected.tobytes():
        raise BadModel(f"{name}: the {what} gives the golden rows {found.tolist()}, not {expected.tolist()}")
