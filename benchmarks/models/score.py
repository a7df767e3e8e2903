"""`score_one_row` and `score_batch`: the kernel beside XGBoost and treelite, and beside reading memory.

In each repetition all are timed in turn. The kernel's scores are compared with XGBoost's, bit for bit. The bound is the
time to add up the forests' bytes once as they lie in memory: no kernel that reads them can be faster.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmarks.models.made import FEATURES, TREES
from benchmarks.models.peers import Boosters, Gtil
from benchmarks.models.timing import in_ms, median, ratio, timed
from modelstore.kernel import ForestPack

#: Rows of a batch.
BATCH = 64
#: Calls of the kernel in one repetition, so that its figure is no single moment's.
CALLS = 20


def measure_one_row(pack: ForestPack, boosters: Boosters, gtil: Gtil, repeat: int) -> dict[str, float]:
    """One row against all models, one thread."""
    row = _rows(1)
    everything = np.zeros(len(pack), np.int64), np.arange(len(pack))
    expected = boosters.margins(row)[:, 0]
    np.testing.assert_array_equal(pack.score_pairs(row, *everything), expected)
    np.testing.assert_allclose(gtil.margins(row), expected, atol=1e-4)
    ours, two, xgboost, treelite, memory = [], [], [], [], []
    words = pack.table.words[: len(pack.table.words) // 2 * 2].view(np.int64)
    for _ in range(repeat):
        ours += [timed(lambda: pack.score_pairs(row, *everything)) for _ in range(CALLS)]
        two += [timed(lambda: pack.score_pairs(row, *everything, threads=2)) for _ in range(CALLS)]
        memory += [timed(lambda: np.add.reduce(words)) for _ in range(CALLS)]
        treelite.append(timed(lambda: gtil.margins(row)))
        xgboost.append(timed(lambda: boosters.margins(row)))
    return in_ms(ours) | {
        "ratio_inplace_predict": ratio(xgboost, ours),
        "ratio_gtil": ratio(treelite, ours),
        "ratio_memory_read": ratio(ours, memory),
        "ns_per_tree": round(1e9 * median(ours) / len(pack) / TREES, 2),
        "inplace_predict_ms": in_ms(xgboost)["ms"],
        "gtil_ms": in_ms(treelite)["ms"],
        "memory_read_ms": in_ms(memory)["ms"],
        "two_threads_ms": in_ms(two)["ms"],
        "forests_mb": round(pack.table.words.nbytes / 1e6, 1),
        "repetitions": repeat * CALLS,
    }


def measure_batch(pack: ForestPack, boosters: Boosters, repeat: int) -> dict[str, float]:
    """A batch of rows against all models, one thread; model-rows per second."""
    rows = _rows(BATCH)
    row_index = np.tile(np.arange(BATCH), len(pack))
    forest_index = np.repeat(np.arange(len(pack)), BATCH)
    np.testing.assert_array_equal(
        pack.score_pairs(rows, row_index, forest_index).reshape(-1, BATCH), boosters.margins(rows)
    )
    ours, two, xgboost = [], [], []
    for _ in range(repeat):
        ours.append(timed(lambda: pack.score_pairs(rows, row_index, forest_index)))
        two.append(timed(lambda: pack.score_pairs(rows, row_index, forest_index, threads=2)))
        xgboost.append(timed(lambda: boosters.margins(rows)))
    count = len(pack) * BATCH
    return in_ms(ours) | {
        "rows": BATCH,
        "model_rows_per_s": round(count / median(ours)),
        "inplace_predict_model_rows_per_s": round(count / median(xgboost)),
        "ratio_inplace_predict": ratio(xgboost, ours),
        "inplace_predict_ms": in_ms(xgboost)["ms"],
        "two_threads_model_rows_per_s": round(count / median(two)),
        "repetitions": repeat,
    }


def _rows(count: int) -> NDArray[np.float32]:
    return np.random.default_rng(7).normal(size=(count, FEATURES)).astype(np.float32)
