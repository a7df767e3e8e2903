"""Scoring: both kernels give XGBoost's own bits, and packs tell what does not fit."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import xgboost
from hypothesis import given, settings
from hypothesis import strategies as st

from modelstore import kernel, kernel_native, kernel_numpy
from modelstore.compiler import compile_booster
from modelstore.errors import BadModel
from modelstore.forest_format import BadForest, Transform
from modelstore.kernel import ForestPack, Kernel, predictions
from modelstore.trees import encode_forest
from tests.modelstore.boosters import (
    BOOSTERS,
    GROWTH,
    OBJECTIVES,
    margins_of,
    random_blob,
    random_trees,
    rows_of,
    train,
    walk,
)

KERNELS = (kernel_numpy, kernel_native)
both_kernels = pytest.mark.parametrize("used", KERNELS, ids=["numpy", "native"])


@settings(max_examples=60, deadline=None)
@given(
    objective=st.sampled_from(OBJECTIVES),
    booster=st.sampled_from(BOOSTERS),
    growth=GROWTH,
    rounds=st.integers(0, 12),
    rows=st.sampled_from([3, 40, 400]),
    features=st.integers(1, 12),
    child_weight=st.sampled_from([0, 1, 10]),
    seed=st.integers(0, 2**20),
)
def test_margins_have_the_bits_of_xgboost(
    objective: dict[str, object],
    booster: dict[str, object],
    growth: dict[str, object],
    rounds: int,
    rows: int,
    features: int,
    child_weight: int,
    seed: int,
) -> None:
    parameters = {"eta": 0.4, "min_child_weight": child_weight, **objective, **booster, **growth}
    model = train(rows_of(seed, rows, features), seed, rounds, **parameters)
    unseen = rows_of(seed + 1, 200, features, missing=0.3)
    expected = margins_of(model, unseen)
    blob = compile_booster(model)
    for used in KERNELS:
        pack = ForestPack.build([blob], features, used)
        found = pack.margins(unseen, np.arange(200), np.zeros(200, np.int64))
        # As integers: 0.0 equals -0.0.
        np.testing.assert_array_equal(found.view(np.int32), expected.view(np.int32))


@both_kernels
@settings(max_examples=40, deadline=None)
@given(count=st.integers(0, 6), splits=st.integers(0, 40), outputs=st.integers(1, 3), seed=st.integers(0, 2**20))
def test_scores_are_those_of_a_plain_walk(used: Kernel, count: int, splits: int, outputs: int, seed: int) -> None:
    trees, base = random_trees(seed, count, splits, 5, outputs), np.linspace(-1, 1, outputs, dtype=np.float32)
    pack = ForestPack.build([encode_forest(trees, base, 5, Transform.IDENTITY)], 5, used)
    rows = rows_of(seed, 8, 5, missing=0.4)
    found = pack.margins(rows, np.arange(8), np.zeros(8, np.int64))
    np.testing.assert_array_equal(found, [walk(trees, base, row) for row in rows])


@both_kernels
def test_a_value_on_the_threshold_goes_right_and_zeros_have_no_sign(used: Kernel) -> None:
    trees = random_trees(5, 1, 1, 1)
    trees.value[trees.left >= 0] = 0.0
    pack = ForestPack.build([encode_forest(trees, np.zeros(1, np.float32), 1, Transform.IDENTITY)], 1, used)
    right = trees.value[trees.right[trees.roots[0]]]
    rows = np.array([[0.0], [-0.0], [np.inf]], np.float32)
    assert pack.score_pairs(rows, np.arange(3), np.zeros(3, np.int64)).tolist() == [right] * 3
    trees.value[trees.left >= 0] = -0.0
    pack = ForestPack.build([encode_forest(trees, np.zeros(1, np.float32), 1, Transform.IDENTITY)], 1, used)
    assert pack.score_pairs(rows, np.arange(3), np.zeros(3, np.int64)).tolist() == [right] * 3


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda parameters: parameters["objective"])
def test_transformed_margins_are_predictions(objective: dict[str, object]) -> None:
    rows = rows_of(1, 300, 5)
    model = train(rows, 1, 10, max_depth=4, **objective)
    pack = ForestPack.build([compile_booster(model)])
    margins = pack.margins(rows, np.arange(300), np.zeros(300, np.int64))
    found = pack.transform(margins if pack.n_outputs(0) > 1 else margins[:, 0], 0)
    np.testing.assert_allclose(found, model.predict(xgboost.DMatrix(rows)), rtol=1e-6)


def test_extreme_margins_give_probabilities_without_a_warning() -> None:
    margins = np.array([-1e30, -200, 0, 200, 1e30], np.float32)
    np.testing.assert_allclose(predictions(margins, Transform.LOGISTIC), [0, 0, 0.5, 1, 1], atol=1e-30)
    assert predictions(margins, Transform.SOFTMAX).tolist() == [0, 0, 0, 0, 1]
    assert predictions(margins, Transform.EXP)[-1] == np.inf


def mixed_pack(used: Kernel = kernel.KERNEL) -> ForestPack:
    """Perfect and sparse forests of one output side by side, 6 features."""
    return ForestPack.build([random_blob(seed, splits=1 + seed % 12) for seed in range(40)], 6, used)


@both_kernels
def test_the_order_of_pairs_does_not_matter(used: Kernel) -> None:
    pack, rows = mixed_pack(used), rows_of(1, 20, 6)
    row, forest = (part.reshape(-1).astype(np.int32) for part in np.meshgrid(np.arange(20), np.arange(40)))
    scores = pack.score_pairs(rows, row, forest)
    order = np.random.default_rng(2).permutation(len(row))
    np.testing.assert_array_equal(pack.score_pairs(rows, row[order], forest[order]), scores[order])
    assert scores.dtype == np.float32


def test_both_kernels_score_a_mixed_pack_alike() -> None:
    rows = rows_of(1, 20, 6)
    row, forest = (part.reshape(-1) for part in np.meshgrid(np.arange(20), np.arange(40)))
    plain, compiled = (mixed_pack(used).score_pairs(rows, row, forest) for used in KERNELS)
    np.testing.assert_array_equal(plain, compiled)


@both_kernels
def test_replacing_gives_what_building_anew_gives(used: Kernel) -> None:
    blobs = [random_blob(seed, splits=1 + seed % 12) for seed in range(12)]
    changed = ForestPack.build(blobs[:8], 6, used).replace([7, 0, 3], blobs[8:])
    anew = ForestPack.build([blobs[7], blobs[0], blobs[3], *blobs[8:]], 6, used)
    rows, forest = rows_of(1, 7, 6), np.arange(7)
    np.testing.assert_array_equal(changed.score_pairs(rows, forest, forest), anew.score_pairs(rows, forest, forest))
    assert len(changed) == 7


def test_replacing_checks_what_is_new() -> None:
    pack = ForestPack.build([random_blob(1), random_blob(2)])
    bad = bytearray(random_blob(3))
    bad[-5] ^= 1
    with pytest.raises(BadForest) as caught:
        pack.replace([0], [bytes(bad)])
    assert caught.value.position == 1
    with pytest.raises(IndexError):
        pack.replace([2], [])
    with pytest.raises(BadForest, match="takes 5 features, 6 are wanted"):
        pack.replace([0], [random_blob(1, features=5)])


def test_an_empty_pack_scores_nothing() -> None:
    pack, none = ForestPack.build([], 4), np.empty(0, np.int32)
    assert len(pack) == 0
    assert pack.score_pairs(np.empty((0, 4), np.float32), none, none).shape == (0,)
    assert len(pack.replace([], [random_blob(1, features=4)])) == 1


def test_forests_and_rows_must_have_the_same_features() -> None:
    with pytest.raises(BadForest, match="takes 6 features, 7 are wanted"):
        ForestPack.build([random_blob(1)], 7)
    with pytest.raises(BadForest, match="forest 1: takes 5 features, 6 are wanted"):
        ForestPack.build([random_blob(1), random_blob(1, features=5)])
    index = np.zeros(1, np.int32)
    with pytest.raises(BadModel, match=r"rows have shape \(1, 5\)"):
        ForestPack.build([random_blob(1)]).score_pairs(np.zeros((1, 5), np.float32), index, index)


@pytest.mark.parametrize(("row", "forest"), [(2, 0), (-1, 0), (0, 3), (0, -1)])
def test_an_index_out_of_range_is_an_error_and_never_a_read(row: int, forest: int) -> None:
    pack = ForestPack.build([random_blob(seed) for seed in range(3)])
    with pytest.raises(IndexError):
        pack.score_pairs(np.zeros((2, 6), np.float32), np.array([row]), np.array([forest]))


def test_several_outputs_are_told_apart_from_one() -> None:
    pack = ForestPack.build([random_blob(1), random_blob(1, outputs=3)])
    rows, index = np.zeros((1, 6), np.float32), np.zeros(1, np.int32)
    assert pack.margins(rows, index, index + 1).shape == (1, 3)
    with pytest.raises(BadModel, match="3 outputs, 1 are wanted"):
        pack.score_pairs(rows, index, index + 1)
    with pytest.raises(BadModel, match="outputs"):
        pack.margins(rows, np.array([0, 0]), np.array([0, 1]))


def test_read_only_strided_and_32_bit_arguments_score_alike() -> None:
    pack, rows = mixed_pack(), np.asfortranarray(rows_of(1, 8, 6))
    index = np.arange(8)[::2]
    index.flags.writeable = rows.flags.writeable = False
    expected = pack.score_pairs(rows.copy(order="C"), index.astype(np.int32), index.astype(np.int32))
    np.testing.assert_array_equal(pack.score_pairs(rows, index, index), expected)
    pack.replace([1], [random_blob(1)]).score_pairs(rows, index[:1], index[:1])


@both_kernels
@pytest.mark.parametrize("threads", [2, 3, 7, 1000])
def test_the_number_of_threads_does_not_matter(used: Kernel, threads: int) -> None:
    pack, rows = mixed_pack(used), rows_of(1, 20, 6)
    row, forest = (part.reshape(-1) for part in np.meshgrid(np.arange(20), np.arange(40)))
    expected = pack.score_pairs(rows, row, forest)
    np.testing.assert_array_equal(pack.score_pairs(rows, row, forest, threads=threads), expected)


def test_several_outputs_are_shared_out_over_threads() -> None:
    pack, rows = ForestPack.build([random_blob(seed, outputs=3) for seed in range(40)]), rows_of(1, 20, 6)
    row, forest = (part.reshape(-1) for part in np.meshgrid(np.arange(20), np.arange(40)))
    np.testing.assert_array_equal(pack.margins(rows, row, forest, threads=2), pack.margins(rows, row, forest))


def test_scoring_gives_up_the_lock_of_the_interpreter() -> None:
    """While one thread scores, another one goes on counting; if it could not, it would see no time pass."""
    pack, rows = ForestPack.build([random_blob(1, count=400)]), rows_of(1, 2000, 6)
    row, forest = np.arange(2000), np.zeros(2000, np.int64)
    scoring = threading.Thread(target=lambda: [pack.score_pairs(rows, row, forest) for _ in range(20)])
    interval = sys.getswitchinterval()
    sys.setswitchinterval(60)  # nobody is made to give the lock up
    try:
        scoring.start()
        seen = 0
        while scoring.is_alive():
            seen += 1
            time.sleep(0)
    finally:
        sys.setswitchinterval(interval)
    assert seen > 20


def test_threads_may_share_a_pack() -> None:
    pack, rows = mixed_pack(), rows_of(1, 20, 6)
    row, forest = (part.reshape(-1) for part in np.meshgrid(np.arange(20), np.arange(40)))
    expected, found = pack.score_pairs(rows, row, forest), []
    threads = [threading.Thread(target=lambda: found.append(pack.score_pairs(rows, row, forest))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    for scores in found:
        np.testing.assert_array_equal(scores, expected)


def test_without_numba_numpy_scores_and_neither_xgboost_nor_faust_is_imported() -> None:
    program = """
import sys
sys.modules["numba"] = None
import numpy as np
from modelstore import kernel, kernel_numpy
kernel.warm()
blob = bytes.fromhex(sys.stdin.read())
pack = kernel.ForestPack.build([blob])
assert pack.kernel is kernel_numpy
print(float(pack.score_pairs(np.zeros((1, 6), np.float32), np.zeros(1, int), np.zeros(1, int))[0]))
assert not {"xgboost", "faust", "redis", "scipy", "pandas"} & set(sys.modules), sorted(sys.modules)
"""
    blob = random_blob(1)
    done = subprocess.run([sys.executable, "-c", program], input=blob.hex(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    index = np.zeros(1, np.int32)
    assert float(done.stdout) == ForestPack.build([blob]).score_pairs(np.zeros((1, 6), np.float32), index, index)[0]
