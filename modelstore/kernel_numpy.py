"""The scoring kernel in numpy alone: the same bits as `modelstore.kernel_native`, slower.

For a small device that scores a few exported models with nothing else installed. It works forest by forest, all its
rows and trees at once. Arguments are as in `modelstore.kernel_native`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelstore.forest_format import LARGEST_KEY, LEAF_STEP, SMALLEST_KEY, SPARSE, Table, record_words

#: Most (row, tree) pairs at once: bounds the memory of a call at about 50 MB.
_CHUNK = 2**20


def first_bad(words: NDArray[np.int32], bodies: Table) -> int:
    """The first of `bodies` (BODY) that would read outside itself, not end, or hold no numbers; -1 if none is."""
    for position, body in enumerate(bodies):
        check = _sparse_is_sound if body["depth"] == SPARSE else _perfect_is_sound
        if not check(words, body):
            return position
    return -1


def score(
    words: NDArray[np.int32],
    segments: Table,
    keys: NDArray[np.int32],
    row_index: NDArray[np.int64],
    segment_index: NDArray[np.int64],
) -> NDArray[np.float32]:
    """Margins (k,) of the pairs (row_index, segment_index), each (k,); `keys` are the rows' (n, 2 F)."""
    out = np.empty(len(row_index), np.float32)
    order = np.argsort(segment_index, kind="stable")
    cuts = np.flatnonzero(np.diff(segment_index[order])) + 1
    for same in np.split(order, cuts) if len(order) else ():
        segment = segments[segment_index[same[0]]]
        step = max(1, _CHUNK // max(1, int(segment["trees"])))
        for start in range(0, len(same), step):
            part = same[start : start + step]
            find = _sparse_leaves if segment["depth"] == SPARSE else _perfect_leaves
            out[part] = _sum(segment["base"], find(words, segment, keys[row_index[part]]))
    return out


def _sum(base: np.float32, leaves: NDArray[np.float32]) -> NDArray[np.float32]:
    terms = np.empty((len(leaves), leaves.shape[1] + 1), np.float32)
    terms[:, 0], terms[:, 1:] = base, leaves
    # Not `sum`, which adds in pairs: the bits depend on the order. Overflow is as silent as in compiled code.
    with np.errstate(over="ignore", invalid="ignore"):
        total: NDArray[np.float32] = np.add.accumulate(terms, axis=1)[:, -1]
    return total


def _perfect_records(words: NDArray[np.int32], at: int, trees: int, depth: int) -> NDArray[np.int32]:
    length = record_words(depth)
    return words[at : at + trees * length].reshape(trees, length)


def _tests(records: NDArray[np.int32], depth: int) -> NDArray[np.uint16]:
    """The tests of each record, and behind them the unused one."""
    return records[:, 2 ** (depth + 1) - 1 :].view("<u2")


def _are_keys(words: NDArray[np.int32]) -> bool:
    return not words.size or bool(words.min() >= SMALLEST_KEY and words.max() <= LARGEST_KEY)


def _are_finite(words: NDArray[np.int32]) -> bool:
    return bool(np.isfinite(words.view("<f4")).all())


def _perfect_is_sound(words: NDArray[np.int32], body: Any) -> bool:
    depth = int(body["depth"])
    records, splits = _perfect_records(words, int(body["at"]), int(body["trees"]), depth), 2**depth - 1
    if not _are_keys(records[:, :splits]) or not _are_finite(records[:, splits : 2 * splits + 1]):
        return False
    tests = _tests(records, depth)
    return not tests.size or bool(tests[:, :-1].max() < 2 * int(body["features"]) and not tests[:, -1].any())


def _perfect_leaves(words: NDArray[np.int32], segment: Any, keys: NDArray[np.int32]) -> NDArray[np.float32]:
    trees, depth = int(segment["trees"]), int(segment["depth"])
    records = _perfect_records(words, int(segment["at"]), trees, depth)
    tests = _tests(records, depth)
    row, tree = np.arange(len(keys))[:, None], np.arange(trees)
    place = np.zeros((len(keys), trees), np.intp)
    for _ in range(depth):
        place = 2 * place + 1 + (keys[row, tests[tree, place]] >= records[tree, place])
    # The leaves follow the splits, so a leaf's number in the heap is its word in the record.
    found: NDArray[np.float32] = records[tree, place].view("<f4")
    return found


def _sparse_is_sound(words: NDArray[np.int32], body: Any) -> bool:
    at, trees, count = int(body["at"]), int(body["trees"]), int(body["nodes"])
    roots = words[at : at + trees + 1].view("<u4").astype(np.int64)
    if roots[0] != 0 or roots[-1] != count or not (np.diff(roots) > 0).all():
        return False
    nodes = words[at + trees + 1 : at + trees + 1 + 2 * count].reshape(count, 2)
    halves = nodes[:, 1:].view("<u2").astype(np.int64)
    tests, steps = halves[:, 0], halves[:, 1]
    ends = np.repeat(roots[1:], np.diff(roots))
    leaf = steps == LEAF_STEP
    inside = leaf | (np.arange(count) + steps + 1 < ends)
    if not inside.all() or not (tests < np.where(leaf, 1, 2 * int(body["features"]))).all():
        return False
    return _are_keys(nodes[~leaf, 0]) and _are_finite(nodes[leaf, 0])


def _sparse_leaves(words: NDArray[np.int32], segment: Any, keys: NDArray[np.int32]) -> NDArray[np.float32]:
    at, roots_at = int(segment["at"]), int(segment["roots"])
    roots = words[roots_at : roots_at + int(segment["trees"])].view("<u4").astype(np.int64)
    row = np.arange(len(keys))[:, None]
    place = at + 2 * np.broadcast_to(roots, (len(keys), len(roots)))
    halves = words.view("<u2")
    while True:
        steps = halves[2 * place + 3].astype(np.int64)
        inner = steps > 0
        if not inner.any():
            break
        right = keys[row, halves[2 * place + 2]] >= words[place]
        place = place + np.where(inner, 2 * (steps + right), 0)
    found: NDArray[np.float32] = words[place].view("<f4")
    return found
