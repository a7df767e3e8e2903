"""Compiles the numba kernels ahead of their first use: `python -m consumers.warm`.

Each kernel is called once with next to nothing. numba keeps what it compiled beside the source, and compiles anew by
itself when a source changes; so this saves the first worker some seconds, and nothing depends on it.
"""

from __future__ import annotations

import numpy as np

from consumers.bars import BarBuilder
from modelstore import kernel


def warm_kernels() -> None:
    """Compile, or load from numba's cache, every kernel that a scorer uses."""
    kernel.warm()
    builder = BarBuilder([60_000_000_000], 0)
    slot = builder.add_symbol("WARM")
    builder.add_ticks(
        np.array([slot], np.int64),
        np.zeros(1, np.int64),
        np.ones(1, np.float64),
        np.ones(1, np.float64),
        0,
        np.ones(1, np.uint64),
        np.zeros(1, np.uint64),
        np.zeros(1, np.int32),
    )


if __name__ == "__main__":
    warm_kernels()
