"""The forest format, version 1: the trees of one model as one block of bytes that can be scored where it lies.

A forest is immutable. Reading it is a checksum, a check of bounds and views on the bytes; nothing is unpacked. What
passes these checks is safe to score whoever wrote it: every index lies inside the block, every step through a tree goes
forward, so scoring ends, and every number is one. All numbers are little-endian; the length is a multiple of 4.

    header, 32 bytes
     at  type   meaning
      0  4 × u8 "R10F"
      4  u32    CRC-32 (as in zlib) of all that follows, from byte 8 to the end
      8  u8     version of the format: 1
      9  u8     transform, from a margin to the prediction: 0 identity, 1 logistic, 2 exp, 3 hinge, 4 softmax, 5 argmax
     10  u8     layout: 0 perfect, 1 sparse
     11  u8     perfect: depth D of every tree, 0 to 15; sparse: 0
     12  u16    F, how many features a row has, 1 to 32,767
     14  u16    K, how many outputs a row gets, at least 1
     16  u32    T, how many trees there are, of all outputs
     20  u32    sparse: N, how many nodes there are, of all trees; perfect: 0
     24  u64    0
    outputs
     32          K × f32  the margin that output k begins with
     32 + 4 K    K × u32  how many trees outputs 0 to k have together; those of one output are neighbours, in the
                          order of adding
    body, from 32 + 8 K to the end

The margin of an output is a float32 sum that starts at its first number and adds one leaf per tree, in order: the order
of XGBoost, so the sum has the same bits.

**Perfect** trees all have D levels of splits, S = 2^D - 1 of them, and S + 1 leaves; they are numbered like a binary
heap: below split i come 2 i + 1 (left) and 2 i + 2 (right), and the leaves are S to 2 S. A tree that ends earlier is
filled up with splits of which both sides lead to the same leaf. The body is T records, each

    S × i32        keys of the splits (below)
    (S + 1) × f32  leaves
    S × u16        tests of the splits (below), then a u16 of 0 if D > 0

**Sparse** trees are nodes. The body is

    (T + 1) × u32  roots: the number of the first node of each tree, and N at the end
    N × 8 bytes    nodes: i32 key or f32 leaf; u16 test; u16 step

The children of node i are i + step (left) and i + step + 1 (right), both in the same tree; a leaf has step 0, test 0.

A split tests one feature f against a threshold. **test** = 2 f + d, where d is 1 if a missing value (NaN) goes right.
**key** = the threshold as an integer of the same order: its float32 bits b as i32, and if b < 0, b XOR 0x7FFFFFFF; -0.0
counts as 0.0. A value goes left if its key is less than the split's. A missing value has the key -2^31 when it is to go
left and 2^31 - 1 when it is to go right, beyond the keys of all numbers, which no split may have. So a row is turned
into 2 F keys once, test is an index into them, and each step is one comparison of integers without a branch
(`row_keys`).
"""

from __future__ import annotations

import zlib
from enum import IntEnum
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from modelstore.errors import BadModel

MAGIC = b"R10F"
VERSION = 1
#: Most features: 2 F must fit into a u16.
MAX_FEATURES = 32_767
#: Most levels of splits in the perfect layout: one tree is then 320 kB.
MAX_PERFECT_DEPTH = 15
#: Depth in the tables below that stands for the sparse layout.
SPARSE = -1
#: Keys of -inf and inf: what lies beyond is the key of no number.
SMALLEST_KEY, LARGEST_KEY = -0x7F800001, 0x7F800000
#: Step of a node that is a leaf.
LEAF_STEP = 0

HEADER = np.dtype(
    [
        ("magic", "S4"),
        ("crc", "<u4"),
        ("version", "u1"),
        ("transform", "u1"),
        ("layout", "u1"),
        ("depth", "u1"),
        ("features", "<u2"),
        ("outputs", "<u2"),
        ("trees", "<u4"),
        ("nodes", "<u4"),
        ("zero", "<u8"),
    ]
)
#: Where the body of a forest lies among others, and how it is laid out. Places are 32-bit words of the joined blocks.
BODY = np.dtype([("at", "<i8"), ("trees", "<i8"), ("nodes", "<i8"), ("depth", "<i4"), ("features", "<i4")])
#: One output: `at` is its first record, or the first node of its forest; `roots` is the first of its roots, if sparse.
SEGMENT = np.dtype([("at", "<i8"), ("roots", "<i8"), ("trees", "<i8"), ("depth", "<i4"), ("base", "<f4")])

Depth = TypeVar("Depth", int, NDArray[np.int64])
#: A structured array, of the dtype that its description names.
Table: TypeAlias = NDArray[Any]


class Transform(IntEnum):
    """From margins to what `Booster.predict` gives; the codes of the header."""

    IDENTITY = 0
    LOGISTIC = 1
    EXP = 2
    HINGE = 3
    SOFTMAX = 4
    ARGMAX = 5


class BadForest(BadModel):
    """A forest is damaged, hostile, or of an unknown version; carries `position`, its place among those given."""

    def __init__(self, position: int, reason: str) -> None:
        super().__init__(f"forest {position}: {reason}; restore the version from a snapshot, or train the model again")
        self.position = position


def record_words(depth: Depth) -> Depth:
    """Length of one record of the perfect layout, in 32-bit words."""
    return (2 << depth) - 1 + (1 << depth) // 2


def seal(block: bytearray) -> bytes:
    """The block with its checksum put in."""
    block[4:8] = zlib.crc32(memoryview(block)[8:]).to_bytes(4, "little")
    return bytes(block)


def float_keys(values: NDArray[np.float32]) -> NDArray[np.int32]:
    """The order-preserving integers of float32 numbers other than NaN, of the same shape."""
    bits = values.view(np.int32)
    keys = np.where(bits < 0, bits ^ np.int32(0x7FFFFFFF), bits)
    # -0.0 would come just before 0.0.
    return np.where(keys == -1, np.int32(0), keys)


def row_keys(rows: NDArray[np.float32]) -> NDArray[np.int32]:
    """What tests look up, int32 (n, 2 F), for float32 rows (n, F): feature f is at 2 f, and at 2 f + 1 (see `test`)."""
    missing, known = np.isnan(rows), float_keys(rows)
    limits = np.iinfo(np.int32)
    keys = np.empty((*rows.shape, 2), np.int32)
    keys[..., 0] = np.where(missing, limits.min, known)
    keys[..., 1] = np.where(missing, limits.max, known)
    return keys.reshape(len(rows), 2 * rows.shape[1])
