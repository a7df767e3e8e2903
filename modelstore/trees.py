"""Trees as a learner has them, and how they are written as a forest (`modelstore.forest_format`).

The layout is chosen here: perfect, whose trees are walked without a branch, unless filling up the trees takes so many
more bytes than the sparse layout that fetching them costs more. Equal trees give equal bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modelstore.errors import BadModel
from modelstore.forest_format import (
    HEADER,
    MAGIC,
    MAX_FEATURES,
    MAX_PERFECT_DEPTH,
    VERSION,
    Transform,
    float_keys,
    record_words,
    seal,
)

#: Most bytes of the perfect layout, as a multiple of the sparse one's. Measured with forests outside the cache: at 1.4
#: times the bytes perfect trees still took 0.8 of the time, at 1.8 times they took longer.
_WASTE = 1.5
#: Largest step from a node to its left child.
_MAX_STEP = 65_535
_MAX_OUTPUTS = 65_535


@dataclass(frozen=True, slots=True, eq=False)
class Trees:
    """The trees of one model as nodes in flat arrays, in any order; nodes that no root leads to are passed over.

    Attributes:
        left: number of the child for values below the threshold, int64 (n,); -1 makes a leaf.
        right: number of the other child, int64 (n,).
        feature: what a split tests, int64 (n,).
        default_left: whether a missing value goes left, bool (n,).
        value: a split's threshold, a leaf's value; float32 (n,).
        roots: the first node of each tree, in the order of adding, int64 (t,).
        output: which output each tree belongs to, int64 (t,).
    """

    left: NDArray[np.int64]
    right: NDArray[np.int64]
    feature: NDArray[np.int64]
    default_left: NDArray[np.bool_]
    value: NDArray[np.float32]
    roots: NDArray[np.int64]
    output: NDArray[np.int64]


def encode_forest(trees: Trees, base: NDArray[np.float32], n_features: int, transform: Transform) -> bytes:
    """Write a forest.

    Args:
        base: the margin that each output begins with, float32 (outputs,).

    Raises:
        BadModel: the format cannot hold it: too many features or outputs, a number that is not finite, a huge tree.
    """
    outputs = len(base)
    if not 1 <= n_features <= MAX_FEATURES:
        raise BadModel(f"a forest takes 1 to {MAX_FEATURES} features, this model {n_features}")
    if not 1 <= outputs <= _MAX_OUTPUTS:
        raise BadModel(f"a forest has 1 to {_MAX_OUTPUTS} outputs, this model {outputs}")
    if not np.isfinite(base).all():
        raise BadModel("the model starts from a margin that is not finite; look at its labels and base_score")
    order = np.argsort(trees.output, kind="stable")
    roots = trees.roots[order]
    levels = _levels(trees, roots)
    nodes = np.concatenate([level for level, _ in levels]) if levels else np.empty(0, np.int64)
    _check_nodes(trees, nodes, n_features)

    depth, count = max(0, len(levels) - 1), len(roots)
    sparse_words = count + 1 + 2 * len(nodes)
    perfect = depth <= MAX_PERFECT_DEPTH and count * record_words(depth) <= _WASTE * sparse_words
    body = _perfect(trees, roots, depth) if perfect else _sparse(trees, levels, count)
    head = np.zeros((), HEADER)
    head["magic"], head["version"], head["transform"] = MAGIC, VERSION, transform
    head["layout"], head["depth"], head["nodes"] = (0, depth, 0) if perfect else (1, 0, len(nodes))
    head["features"], head["outputs"], head["trees"] = n_features, outputs, count
    ends = np.cumsum(np.bincount(trees.output, minlength=outputs))
    return seal(bytearray(head.tobytes() + base.astype("<f4").tobytes() + ends.astype("<u4").tobytes() + body))


def _levels(trees: Trees, roots: NDArray[np.int64]) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """The nodes of all trees level by level, siblings side by side, each with the number of its tree.

    Raises:
        BadModel: the nodes are no trees: a path does not end.
    """
    levels = []
    level, tree, seen = roots, np.arange(len(roots)), 0
    while len(level):
        seen += len(level)
        if seen > len(trees.left):
            raise BadModel("the model's nodes are no trees: some node has two parents")
        levels.append((level, tree))
        inner = trees.left[level] >= 0
        splits = level[inner]
        level = np.stack([trees.left[splits], trees.right[splits]], axis=1).reshape(-1)
        tree = np.repeat(tree[inner], 2)
    return levels


def _check_nodes(trees: Trees, nodes: NDArray[np.int64], n_features: int) -> None:
    split = trees.left[nodes] >= 0
    feature = trees.feature[nodes[split]]
    if len(feature) and not 0 <= feature.min() <= feature.max() < n_features:
        raise BadModel(f"a split tests feature {feature.max()}, the model has {n_features}")
    if np.isnan(trees.value[nodes[split]]).any():
        raise BadModel("a split has no threshold (NaN); train the model again")
    if not np.isfinite(trees.value[nodes[~split]]).all():
        raise BadModel("a leaf is not finite; look for infinite labels or weights, then train the model again")


def _tests(trees: Trees, nodes: NDArray[np.int64]) -> NDArray[np.int64]:
    tests: NDArray[np.int64] = np.where(trees.left[nodes] < 0, 0, 2 * trees.feature[nodes] + ~trees.default_left[nodes])
    return tests


def _perfect(trees: Trees, roots: NDArray[np.int64], depth: int) -> bytes:
    splits = 2**depth - 1
    records = np.zeros((len(roots), record_words(depth)), "<i4")
    tests = records[:, 2 * splits + 1 :].view("<u2")
    nodes = roots[:, None]
    for level in range(depth):
        heap = slice(2**level - 1, 2 ** (level + 1) - 1)
        leaf = trees.left[nodes] < 0
        tests[:, heap] = _tests(trees, nodes)
        records[:, heap] = np.where(leaf, 0, float_keys(trees.value[nodes]))
        children = np.where(leaf, nodes, trees.left[nodes]), np.where(leaf, nodes, trees.right[nodes])
        nodes = np.stack(children, axis=2).reshape(len(roots), -1)
    records[:, splits : 2 * splits + 1] = trees.value[nodes].astype("<f4").view("<i4")
    return records.tobytes()


def _sparse(trees: Trees, levels: list[tuple[NDArray[np.int64], NDArray[np.int64]]], count: int) -> bytes:
    nodes, tree = (np.concatenate(parts) for parts in zip(*levels, strict=True))
    # Stable: within a tree the order of the levels stays, so a child comes after its parent, siblings side by side.
    order = np.argsort(tree, kind="stable")
    nodes = nodes[order]
    number = np.zeros(len(trees.left), np.int64)
    number[nodes] = np.arange(len(nodes))
    leaf = trees.left[nodes] < 0
    step = np.where(leaf, 0, number[trees.left[nodes]] - np.arange(len(nodes)))
    if step.max() > _MAX_STEP:
        raise BadModel(f"a tree is too wide: a child lies over {_MAX_STEP} nodes from its parent; set max_leaves lower")
    found = np.empty(len(nodes), [("value", "<i4"), ("test", "<u2"), ("step", "<u2")])
    found["value"] = np.where(leaf, trees.value[nodes].view(np.int32), float_keys(trees.value[nodes]))
    found["test"], found["step"] = _tests(trees, nodes), step
    roots = np.concatenate([[0], np.cumsum(np.bincount(tree, minlength=count))]).astype("<u4")
    return roots.tobytes() + found.tobytes()
