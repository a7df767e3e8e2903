"""What the models are measured beside: XGBoost's own boosters, and treelite's general tree inference (GTIL).

XGBoost has no way to score many boosters in one call, so it is asked one after the other, by `inplace_predict`, which
is its fastest. treelite can join models into one; all trees are then scored in one call of `gtil.predict_per_tree`, and
the leaves of each model are added up. One thread each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import treelite
import treelite.gtil
import xgboost
from numpy.typing import NDArray

from benchmarks.models.made import TREES
from benchmarks.models.timing import timed


class Boosters:
    """All models as XGBoost has them."""

    def __init__(self, ubj: Sequence[bytes]) -> None:
        self._ubj = [bytearray(one) for one in ubj]
        self.loaded: list[xgboost.Booster] = []
        self.load_all()

    def load_all(self) -> float:
        """Load each model anew, from memory; the seconds that took."""

        def load() -> None:
            self.loaded = []
            for one in self._ubj:
                booster = xgboost.Booster({"nthread": 1})
                booster.load_model(one)
                self.loaded.append(booster)

        return timed(load)

    def margins(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Margins of all rows with all models, float32 (models, rows)."""
        return np.stack([booster.inplace_predict(rows, predict_type="margin") for booster in self.loaded])


class Gtil:
    """All models as treelite has them, joined into one."""

    def __init__(self, boosters: Boosters) -> None:
        self._joined: Any = treelite.Model.concatenate(
            [treelite.frontend.from_xgboost(booster) for booster in boosters.loaded]
        )

    def margins(self, row: NDArray[np.float32]) -> NDArray[np.float32]:
        """Margins of one row (1, F) with all models, (models,); the sums are rounded otherwise than XGBoost's."""
        leaves = treelite.gtil.predict_per_tree(self._joined, row, nthread=1)
        total: NDArray[np.float32] = leaves.reshape(-1, TREES).sum(axis=1)
        return total
