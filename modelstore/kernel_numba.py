"""The scoring kernel, compiled by numba: one pass over the trees, without a branch in perfect ones.

What bounds it is memory: records of perfect trees lie in the order of use, in one stream that the hardware fetches
ahead. Three streams (keys, leaves, tests apart) took 2.6 times as long on 10,806 forests; unrolling by depth gained
nothing. No fastmath: the order of the sum is part of the format. Compiled code is kept on disk (`cache`), so a restart
compiles nothing. Indexes are uint64, since numba would test signed ones for being negative.

Callers give words and tables of a `ForestTable` that was checked, and indexes in range: nothing is checked here.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from modelstore.forest_format import Table

_U = np.uint64
_jit = numba.njit(nogil=True, cache=True)


@_jit  # type: ignore[untyped-decorator]
def first_bad(words: NDArray[np.int32], bodies: Table) -> int:
    """The first of `bodies` (BODY) that would read outside itself or not end; -1 if none would."""
    for position in range(len(bodies)):
        body = bodies[position]
        sound = _sparse_is_sound(words, body) if body.depth < 0 else _perfect_is_sound(words, body)
        if not sound:
            return position
    return -1


@_jit  # type: ignore[untyped-decorator]
def _perfect_is_sound(words: NDArray[np.int32], body: Any) -> bool:
    halves = words.view(np.uint16)
    splits = (1 << body.depth) - 1
    record = 2 * (2 * splits + 1 + (splits + 1) // 2)
    at = 2 * (body.at + 2 * splits + 1)
    largest = 0
    for tree in range(body.trees):
        for split in range(splits):
            largest = max(largest, int(halves[_U(at + tree * record + split)]))
    return bool(largest < 2 * body.features)


@_jit  # type: ignore[untyped-decorator]
def _sparse_is_sound(words: NDArray[np.int32], body: Any) -> bool:
    roots = words[body.at : body.at + body.trees + 1].view(np.uint32)
    halves = words.view(np.uint16)
    if roots[0] != 0 or roots[body.trees] != body.nodes:
        return False
    at = 2 * (body.at + body.trees + 1)
    for tree in range(body.trees):
        begin, end = int(roots[tree]), int(roots[tree + 1])
        # With the first root 0 and the last N, roots that rise are all inside; this one is checked before it is used.
        if begin >= end or end > body.nodes:
            return False
        for node in range(begin, end):
            test, step = int(halves[_U(at + 4 * node + 2)]), int(halves[_U(at + 4 * node + 3)])
            if test >= 2 * body.features or (step and node + step + 1 >= end):
                return False
    return True


@_jit  # type: ignore[untyped-decorator]
def score(
    words: NDArray[np.int32],
    segments: Table,
    keys: NDArray[np.int32],
    row_index: NDArray[np.int64],
    segment_index: NDArray[np.int64],
) -> NDArray[np.float32]:
    """Margins (k,) of the pairs (row_index, segment_index), each (k,); `keys` are the rows' (n, 2 F), C-contiguous."""
    flat, width = keys.reshape(-1), keys.shape[1]
    out = np.empty(len(row_index), np.float32)
    for pair in range(len(row_index)):
        segment = segments[segment_index[pair]]
        row = _U(row_index[pair] * width)
        if segment.depth < 0:
            out[pair] = _score_sparse(words, segment, flat, row)
        else:
            out[pair] = _score_perfect(words, segment, flat, row)
    return out


@_jit  # type: ignore[untyped-decorator]
def _score_perfect(words: NDArray[np.int32], segment: Any, flat: NDArray[np.int32], row: np.uint64) -> np.float32:
    halves, floats = words.view(np.uint16), words.view(np.float32)
    depth, one = _U(segment.depth), _U(1)
    splits = (one << depth) - one
    tests_at = splits + splits + one
    record = tests_at + ((splits + one) >> one)
    at, margin = _U(segment.at), segment.base
    for _ in range(segment.trees):
        tests = (at + tests_at) << one
        place = _U(0)
        for _ in range(depth):
            place += place + one + _U(flat[row + _U(halves[tests + place])] >= words[at + place])
        # The leaves follow the splits, so a leaf's number in the heap is its word in the record.
        margin += floats[at + place]
        at += record
    return np.float32(margin)


@_jit  # type: ignore[untyped-decorator]
def _score_sparse(words: NDArray[np.int32], segment: Any, flat: NDArray[np.int32], row: np.uint64) -> np.float32:
    halves, floats, uwords = words.view(np.uint16), words.view(np.float32), words.view(np.uint32)
    at, roots, one = _U(segment.at), _U(segment.roots), _U(1)
    margin = segment.base
    for tree in range(_U(segment.trees)):
        node = at + (_U(uwords[roots + tree]) << one)
        step = _U(halves[node + node + _U(3)])
        while step:
            right = _U(flat[row + _U(halves[node + node + _U(2)])] >= words[node])
            node += (step + right) << one
            step = _U(halves[node + node + _U(3)])
        margin += floats[node]
    return np.float32(margin)
