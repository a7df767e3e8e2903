"""Labels that overlap over a horizon, and forecasts of them, for tests of statistics: deterministic by generator."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

Values = NDArray[np.float64]


def overlapping(rng: np.random.Generator, count: int, horizon: int, *, heavy: bool = False) -> Values:
    """Sums of the next `horizon` of independent returns, float64 (count,), of variance 1.

    Args:
        heavy: returns follow Student's t with 4 degrees of freedom, not the normal distribution.
    """
    size = count + horizon
    returns = rng.standard_t(4, size) / np.sqrt(2) if heavy else rng.standard_normal(size)
    reached = np.concatenate(([0.0], np.cumsum(returns)))
    found: Values = (reached[horizon : horizon + count] - reached[:count]) / np.sqrt(horizon)
    return found


def wandering(rng: np.random.Generator, count: int, size: float, stay: float = 0.9) -> Values:
    """A first-order autoregression of standard deviation `size`, float64 (count,): what a model's forecasts do."""
    lead = 400
    shocks = rng.standard_normal(count + lead) * np.sqrt(1 - stay * stay)
    found: Values = size * lfilter([1.0], [1.0, -stay], shocks)[lead:]
    return found
