"""Random boosters and rows for the tests of the forest format, and random trees without XGBoost."""

from __future__ import annotations

from typing import Any

import numpy as np
import xgboost
from hypothesis import strategies as st
from numpy.typing import NDArray

from modelstore.forest_format import Transform
from modelstore.trees import Trees, encode_forest

OBJECTIVES: tuple[dict[str, object], ...] = (
    {"objective": "reg:squarederror"},
    {"objective": "reg:absoluteerror"},
    {"objective": "reg:quantileerror", "quantile_alpha": [0.2, 0.5, 0.9]},
    {"objective": "count:poisson"},
    {"objective": "binary:logistic"},
    {"objective": "binary:logistic", "base_score": 0.31},
    {"objective": "binary:hinge"},
    {"objective": "multi:softprob", "num_class": 3},
    {"objective": "multi:softmax", "num_class": 4},
)
BOOSTERS: tuple[dict[str, object], ...] = (
    {},
    {"booster": "dart", "rate_drop": 0.4},
    {"num_parallel_tree": 3, "subsample": 0.6},
)
GROWTH = st.one_of(
    st.integers(1, 12).map(lambda depth: {"max_depth": depth}),
    st.integers(2, 60).map(lambda leaves: {"max_depth": 0, "max_leaves": leaves, "grow_policy": "lossguide"}),
)


def rows_of(seed: int, count: int, features: int, missing: float = 0.15) -> NDArray[np.float32]:
    """Random rows, float32 (count, features), with missing values, zeros of both signs, ties and large numbers."""
    random = np.random.default_rng(seed)
    rows = random.normal(size=(count, features)).astype(np.float32)
    rows[:, ::3] = np.round(rows[:, ::3], 1)
    rows[random.random(rows.shape) < 0.05] = -0.0
    rows[random.random(rows.shape) < 0.02] *= np.float32(1e30)
    rows[random.random(rows.shape) < missing] = np.nan
    return rows


def labels_of(rows: NDArray[np.float32], seed: int, classes: int = 2) -> NDArray[np.float32]:
    """Labels from 0 to `classes` - 1 that depend on the rows; not all 0, from which count:poisson starts at -inf."""
    noise = np.random.default_rng(seed).normal(size=len(rows))
    score = np.nan_to_num(rows[:, 0]).clip(-9, 9) + noise
    labels = np.clip(np.floor(score + classes / 2), 0, classes - 1).astype(np.float32)
    labels[0] = 1
    return labels


def train(rows: NDArray[np.float32], seed: int, rounds: int, **parameters: Any) -> Any:
    """A booster on `rows`."""
    labels = labels_of(rows, seed, int(parameters.get("num_class", 2)))
    data = xgboost.DMatrix(rows, label=labels)
    return xgboost.train({"nthread": 1, "seed": seed, "verbosity": 0, **parameters}, data, rounds)


def margins_of(booster: Any, rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """What XGBoost itself gives, float32 (n, outputs)."""
    found = booster.predict(xgboost.DMatrix(rows, nthread=1), output_margin=True)
    return np.asarray(found, np.float32).reshape(len(rows), -1)


def random_trees(seed: int, count: int, splits: int, features: int, outputs: int = 1) -> Trees:
    """Trees of random shape, each with `splits` splits; their nodes are numbered in no order."""
    random = np.random.default_rng(seed)
    size = 2 * splits + 1
    left, right = np.full((2, count * size), -1)
    for tree in range(count):
        name = tree * size + random.permutation(size)
        leaves = [0]
        for split in range(splits):
            parent = leaves.pop(int(random.integers(len(leaves))))
            children = 2 * split + 1, 2 * split + 2
            left[name[parent]], right[name[parent]] = name[list(children)]
            leaves += children
        # The root is the node that the first number was given to; it is moved to the front.
        first, root = tree * size, name[0]
        _swap(left, right, first, int(root))
    return Trees(
        left=left,
        right=right,
        feature=random.integers(0, features, count * size),
        default_left=random.random(count * size) < 0.5,
        value=random.normal(size=count * size).astype(np.float32),
        roots=np.arange(count) * size,
        output=random.integers(0, outputs, count),
    )


def _swap(left: NDArray[np.int64], right: NDArray[np.int64], one: int, other: int) -> None:
    """Let two nodes change names."""
    if one == other:
        return
    for side in (left, right):
        side[[one, other]] = side[[other, one]]
        at_one, at_other = side == one, side == other
        side[at_one], side[at_other] = other, one


def random_blob(seed: int, count: int = 5, splits: int = 7, features: int = 6, outputs: int = 1) -> bytes:
    """A forest of `random_trees`."""
    base = np.random.default_rng(seed).normal(size=outputs).astype(np.float32)
    return encode_forest(random_trees(seed, count, splits, features, outputs), base, features, Transform.IDENTITY)


def walk(trees: Trees, base: NDArray[np.float32], row: NDArray[np.float32]) -> list[np.float32]:
    """The margins of one row, in the plainest way there is."""
    margins = list(base)
    for root, output in zip(trees.roots, trees.output, strict=True):
        node = root
        while trees.left[node] >= 0:
            value = row[trees.feature[node]]
            left = trees.default_left[node] if np.isnan(value) else value < trees.value[node]
            node = trees.left[node] if left else trees.right[node]
        margins[output] = np.float32(margins[output] + trees.value[node])
    return margins
