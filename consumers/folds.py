"""Walk-forward folds: which rows a model is tried on that it was not fitted on, and which rows it may learn from. Pure.

The rows are those of a training, one per bar, in order of time. The first third is only trained on; the rest is cut
into K test parts that follow one another. A fold is one test part and all rows before it, less a gap (an expanding
window; Tashman, "Out-of-sample tests of forecasting accuracy", International Journal of Forecasting 16, 2000).

Which bars a fold touches, with t the bar of its first test row and h the longest horizon of the pipeline:

- the features of its training rows: bars before t - h;
- their labels: bars before t;
- the forecast of its first test row is made at the close of t, with the features of t and bars before it;
- the labels of its test rows: bars from t + 1 on.

So no label that was learned from lies in a test row's bar or after it, and the gap is one bar wider than the least that
is honest at the close of t (a label that ends with t is known by then). That is as strict as the rule for serving: a
forecast for a bar at or before `trained_through` does not count.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

#: Share of the rows, from the first on, that are only trained on: one in so many.
ONLY_TRAINED = 3
#: A fold with fewer training rows is left out: even a mean needs some.
LEAST_ROWS = 10


class Fold(NamedTuple):
    """Rows of the training part and of the test part."""

    train: slice
    test: slice


def walk_forward(bars: NDArray[np.int64], longest: int, parts: int) -> tuple[Fold, ...]:
    """Cut rows into folds, oldest first.

    Args:
        bars: int64 (n,), number of each row's newest bar, rising; numbers may be missing.
        longest: the pipeline's longest horizon, bars.
        parts: K, how many test parts.

    Returns:
        At most K folds; their test parts follow one another up to the last row. Fewer, down to none, where the early
        ones would have too few training rows.
    """
    count = len(bars)
    first = count // ONLY_TRAINED
    cuts = [first + (count - first) * part // parts for part in range(parts + 1)]
    found = []
    for begin, end in pairwise(cuts):
        if begin == end:
            continue
        train = int(np.searchsorted(bars, bars[begin] - longest, side="left"))
        if train >= LEAST_ROWS:
            found.append(Fold(slice(0, train), slice(begin, end)))
    return tuple(found)
