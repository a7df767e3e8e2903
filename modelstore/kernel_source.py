"""The scoring kernel's source, for numba: one pass over the trees, without a branch in perfect ones.

Imported only to be compiled; `modelstore.native` keeps what numba makes of it, `modelstore.kernel_native` calls that.
What bounds it is memory: records of perfect trees lie in the order of use, in one stream that the hardware fetches
ahead. Three streams (keys, leaves, tests apart) took 2.6 times as long on 10,806 forests; unrolling by depth gained
nothing. The hardware alone fetches only to the end of a page and not far enough: asking for what lies 8 KB ahead made a
row against 10,806 forests 2 times as fast. No fastmath: the order of the sum is part of the format. Indexes are uint64,
since numba would test signed ones for being negative.

`first_bad` and `score` take addresses and numbers. Callers give words and tables of a `ForestTable` that was checked,
and indexes in range: nothing is checked here. Words are passed as one array per type that they are read as.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.core import cgutils
from numba.extending import intrinsic

from modelstore.forest_format import BODY, LARGEST_KEY, LEAF_STEP, SEGMENT, SMALLEST_KEY

_U = np.uint64
#: Exponent bits of a float32: all of them are set in infinities and NaN, and in no finite number.
_EXPONENT = np.int32(0x7F800000)
#: How far ahead of their use words are fetched, and how many come at once.
_AHEAD, _LINE = 2048, 16
_jit = numba.njit(nogil=True, error_model="numpy")


@intrinsic  # type: ignore[untyped-decorator]
def _fetch(context: Any, words: Any, at: Any) -> Any:
    """Ask the processor to bring a word into its cache; a place outside is no error."""

    def emit(target: Any, builder: Any, signature: Any, given: Any) -> Any:
        pointer, integer = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer, integer, integer, integer])
        fetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        place = builder.gep(target.make_array(signature.args[0])(target, builder, given[0]).data, [given[1]])
        read, keep, data = (ir.Constant(integer, number) for number in (0, 3, 1))
        builder.call(fetch, [builder.bitcast(place, pointer), read, keep, data])
        return target.get_dummy_value()

    return types.void(words, at), emit


def first_bad(words: Any, size: Any, bodies: Any, count: Any) -> int:
    """The first of `count` bodies (BODY) that would read outside itself, not end, or hold no numbers; -1 if none is.

    `size` is the number of words.
    """
    signed, halves = carray(words, size, np.int32), carray(words, 2 * size, np.uint16)
    unsigned, table = carray(words, size, np.uint32), carray(bodies, count, BODY)
    position, sound = 0, True
    while sound and position < count:
        body = table[position]
        if body.depth < 0:
            sound = _sparse_is_sound(signed, unsigned, halves, body.at, body.trees, body.nodes, 2 * body.features)
        else:
            sound = _perfect_is_sound(signed, halves, body.at, body.trees, body.depth, 2 * body.features)
        position += 1
    return -1 if sound else position - 1


@_jit  # type: ignore[untyped-decorator]
def _perfect_is_sound(words: Any, halves: Any, begin: Any, trees: Any, depth: Any, tests: Any) -> bool:
    splits = (1 << depth) - 1
    record = 2 * splits + 1 + (splits + 1) // 2
    largest_test, largest_key, smallest_key, infinite, unused = 0, np.int32(0), np.int32(0), False, 0
    for tree in range(trees):
        at = begin + tree * record
        for split in range(splits):
            key = words[_U(at + split)]
            largest_key, smallest_key = max(largest_key, key), min(smallest_key, key)
        for leaf in range(splits, 2 * splits + 1):
            infinite |= (words[_U(at + leaf)] & _EXPONENT) == _EXPONENT
        at = 2 * (at + 2 * splits + 1)
        for split in range(splits):
            largest_test = max(largest_test, int(halves[_U(at + split)]))
        if splits:
            unused |= int(halves[_U(at + splits)])
    numbers = smallest_key >= SMALLEST_KEY and largest_key <= LARGEST_KEY and not infinite
    return bool(numbers and unused == 0 and largest_test < max(tests, 1))


@_jit  # type: ignore[untyped-decorator]
def _sparse_is_sound(
    words: Any, unsigned: Any, halves: Any, begin: Any, trees: Any, nodes: Any, tests: Any
) -> bool:  # fmt: skip
    # One way out: with several, numba leaves calls of its runtime in, which `modelstore.native` cannot keep.
    sound = unsigned[_U(begin)] == 0 and unsigned[_U(begin + trees)] == nodes
    first, tree = begin + trees + 1, 0
    while sound and tree < trees:
        node, end = int(unsigned[_U(begin + tree)]), int(unsigned[_U(begin + tree + 1)])
        # With the first root 0 and the last N, roots that rise are all inside; this one is checked before it is used.
        sound = node < end <= nodes
        while sound and node < end:
            at = first + 2 * node
            word, test, step = words[_U(at)], int(halves[_U(2 * at + 2)]), int(halves[_U(2 * at + 3)])
            if step == LEAF_STEP:
                sound = test == 0 and (word & _EXPONENT) != _EXPONENT
            else:
                sound = test < tests and node + step + 1 < end and SMALLEST_KEY <= word <= LARGEST_KEY
            node += 1
        tree += 1
    return bool(sound)


def score(
    words: Any, segments: Any, keys: Any, width: Any, row_index: Any, segment_index: Any, count: Any, out: Any
) -> int:  # fmt: skip
    """Write the margins of `count` pairs (row_index, segment_index) to `out`; a row has `width` keys. Returns 0."""
    # Of no length: they are read without a check.
    signed, unsigned, halves = carray(words, 0, np.int32), carray(words, 0, np.uint32), carray(words, 0, np.uint16)
    floats, table, flat = carray(words, 0, np.float32), carray(segments, 0, SEGMENT), carray(keys, 0, np.int32)
    rows, chosen = carray(row_index, count, np.int64), carray(segment_index, count, np.int64)
    margins = carray(out, count, np.float32)
    for pair in range(count):
        segment, row = table[_U(chosen[_U(pair)])], _U(rows[_U(pair)] * width)
        at, trees = _U(segment.at), _U(segment.trees)
        if segment.depth < 0:
            roots = _U(segment.roots)
            margin = _score_sparse(signed, unsigned, halves, floats, at, roots, trees, segment.base, flat, row)
        else:
            margin = _score_perfect(signed, halves, floats, at, trees, _U(segment.depth), segment.base, flat, row)
        margins[_U(pair)] = margin
    return 0


@_jit  # type: ignore[untyped-decorator]
def _score_perfect(
    words: Any, halves: Any, floats: Any, at: Any, trees: Any, depth: Any, margin: Any, flat: Any, row: Any
) -> np.float32:  # fmt: skip
    one = _U(1)
    splits = (one << depth) - one
    tests_at = splits + splits + one
    record = tests_at + ((splits + one) >> one)
    for _ in range(trees):
        for line in range(_U(0), record, _U(_LINE)):
            _fetch(words, at + line + _U(_AHEAD))
        tests = (at + tests_at) << one
        place = _U(0)
        for _ in range(depth):
            place += place + one + _U(flat[row + _U(halves[tests + place])] >= words[at + place])
        # The leaves follow the splits, so a leaf's number in the heap is its word in the record.
        margin += floats[at + place]
        at += record
    return np.float32(margin)


@_jit  # type: ignore[untyped-decorator]
def _score_sparse(
    words: Any, unsigned: Any, halves: Any, floats: Any, at: Any, roots: Any, trees: Any, margin: Any, flat: Any,
    row: Any,
) -> np.float32:  # fmt: skip
    one = _U(1)
    for tree in range(trees):
        node = at + (_U(unsigned[roots + tree]) << one)
        step = _U(halves[node + node + _U(3)])
        while step:
            right = _U(flat[row + _U(halves[node + node + _U(2)])] >= words[node])
            node += (step + right) << one
            step = _U(halves[node + node + _U(3)])
        margin += floats[node]
    return np.float32(margin)
