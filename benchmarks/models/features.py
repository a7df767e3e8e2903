"""The feature set of the made-up models: 30 numbers of the newest bar. Named by the benchmark's settings."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from consumers.history import BarWindow

COLUMNS = 30


class MadeUp:
    """As quick as a feature set can be, so that scoring is what is measured."""

    name = "made-up"
    version = 1
    window = 1
    columns = tuple(f"feature_{number:02}" for number in range(COLUMNS))

    def __call__(self, bars: BarWindow) -> NDArray[np.float64]:
        """The bar's close, turned by the columns' numbers."""
        found: NDArray[np.float64] = np.sin(bars.values[-1, 3] * np.arange(1, COLUMNS + 1))
        return found


MADE_UP = MadeUp()
