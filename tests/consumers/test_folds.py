from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from consumers.folds import LEAST_ROWS, ONLY_TRAINED, walk_forward


@given(
    present=st.lists(st.booleans(), max_size=400).map(lambda found: np.flatnonzero(found)),
    longest=st.integers(1, 60),
    parts=st.integers(1, 12),
    first_bar=st.integers(0, 1000),
)
def test_no_label_that_was_learned_from_lies_in_a_test_bar_or_later(
    present: np.ndarray, longest: int, parts: int, first_bar: int
) -> None:
    bars = present.astype(np.int64) + first_bar
    folds = walk_forward(bars, longest, parts)
    for train, test in folds:
        first = bars[test][0]
        touched = bars[train][-1] + longest
        assert touched < first
        assert train.start == 0
        # No more is left out than the gap asks for.
        assert bars[train.stop] + longest >= first
        assert train.stop >= LEAST_ROWS
    # The test parts follow one another to the end; what lies before the first is a third, or more where it was short.
    assert len(folds) <= parts
    for one, other in pairwise(folds):
        assert one.test.stop == other.test.start
        # Where bars are missing, the gap before both may end in the same row.
        assert one.train.stop <= other.train.stop
    if folds:
        assert folds[-1].test.stop == len(bars)
        assert folds[0].test.start >= len(bars) // ONLY_TRAINED


def test_a_third_is_only_trained_on_and_the_rest_is_cut_evenly() -> None:
    folds = walk_forward(np.arange(100, 400, dtype=np.int64), 10, 4)
    assert [(fold.train.stop, fold.test.start, fold.test.stop) for fold in folds] == [
        (90, 100, 150),
        (140, 150, 200),
        (190, 200, 250),
        (240, 250, 300),
    ]


def test_early_folds_without_enough_to_train_on_are_left_out() -> None:
    bars = np.arange(90, dtype=np.int64)
    assert [fold.test.start for fold in walk_forward(bars, 25, 4)] == [45, 60, 75]
    assert walk_forward(bars, 80, 4) == ()
    assert walk_forward(bars[:0], 5, 4) == ()
