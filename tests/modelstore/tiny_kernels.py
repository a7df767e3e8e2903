"""Kernels for the tests of `modelstore.native`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray


def total(values: Any, count: Any) -> int:
    """The sum of int64 numbers."""
    found = 0
    for value in carray(values, count, np.int64):
        found += value
    return found


def longest(count: Any) -> int:
    """Needs numba's runtime (an array of its own): no machine code of it can be kept."""
    return len(np.zeros(count))
