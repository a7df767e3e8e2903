"""Mutates forests and scores whatever is not refused; run as a process of its own, since a crash must be seen as one.

    python -m tests.modelstore.fuzz_forests flips|cuts|random SEED COUNT

For each mutation: if its checksum does not hold, it must be refused. With the checksum mended, it must be refused if
docs/protocol.md forbids it, as `is_sound` reads that page, and only then; what is sound both kernels must score alike.
Forests and rows lie directly before a page that nobody may read, so that reading a byte too
much ends the process. So does a mutation that takes more than `SECONDS` or `MEMORY`.

Prints how many mutations were refused and how many scored.
"""

from __future__ import annotations

import ctypes
import itertools
import math
import mmap
import resource
import signal
import struct
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelstore import kernel_native, kernel_numpy
from modelstore.forest import Forest
from modelstore.forest_format import BadForest, Transform, row_keys, seal
from modelstore.forest_table import ForestTable
from modelstore.kernel import ForestPack
from modelstore.trees import encode_forest
from tests.modelstore.boosters import random_trees, rows_of

#: Bounds of one mutation: none of these forests takes a thousandth of it.
SECONDS, MEMORY = 20, 1 << 30
KERNELS = (kernel_numpy, kernel_native)
#: What numbers are replaced by: edges of their types, not-a-number, infinities, small ones.
WORDS = (0, 1, 2, 7, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x7F800000, 0x7FC00000, 0xFF800000)


def forest_of(random: np.random.Generator) -> bytes:
    """A forest of any kind: perfect or sparse, flat or deep, of one or several outputs, with or without trees."""
    features, outputs, count = (int(random.integers(1, 9)), int(random.integers(1, 4)), int(random.integers(0, 7)))
    splits = int(random.choice([0, 1, 2, 3, 7, 15, 40]))
    trees = random_trees(int(random.integers(1 << 30)), count, splits, features, outputs)
    base = random.normal(size=outputs).astype(np.float32)
    return encode_forest(trees, base, features, Transform(int(random.integers(len(Transform)))))


def mutated(blob: bytes, random: np.random.Generator) -> bytes:
    """The forest with one to four things changed."""
    found = bytearray(blob)
    for _ in range(int(random.integers(1, 5))):
        at = int(random.integers(8, len(found)))
        match int(random.integers(6)):
            case 0:
                found[at] ^= 1 << int(random.integers(8))
            case 1:
                found[at] = int(random.integers(256))
            case 2:
                word = at // 4 * 4
                found[word : word + 4] = int(random.choice(WORDS)).to_bytes(4, "little")
            case 3:
                # A number of the header or the table of outputs.
                half = int(random.integers(4, min(len(found), 56) // 2)) * 2
                found[half : half + 2] = int(random.choice(WORDS) & 0xFFFF).to_bytes(2, "little")
            case 4:
                other = forest_of(random)
                begin = int(random.integers(0, len(other)))
                found[at : at + 40] = other[begin : begin + 40]
            case _:
                length = int(random.integers(0, len(found) + 40)) // 4 * 4
                found = found[:length].ljust(max(length, 12), b"\0")
        if len(found) < 12:
            break
    return bytes(found)


def flips(blob: bytes) -> Iterator[bytes]:
    """Every single bit flipped."""
    for bit in range(8 * len(blob)):
        found = bytearray(blob)
        found[bit // 8] ^= 1 << bit % 8
        yield bytes(found)


def cuts(blob: bytes) -> Iterator[bytes]:
    """Every beginning, and everything with something behind it."""
    yield from (blob[:length] for length in range(len(blob)))
    yield from (blob + bytes(more) for more in range(1, 40))


class Guarded:
    """Arrays that end where a page begins that must not be read."""

    def __init__(self, size: int) -> None:
        page = mmap.PAGESIZE
        self._size = -(-size // page) * page
        self._memory = mmap.mmap(-1, self._size + page)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mprotect(ctypes.c_void_p(start + self._size), ctypes.c_size_t(page), 0):
            raise OSError(ctypes.get_errno(), "mprotect")

    def put(self, array: NDArray[Any]) -> NDArray[Any]:
        """A copy of an array at the end."""
        raw = np.ascontiguousarray(array)
        found = np.frombuffer(self._memory, np.uint8, raw.nbytes, self._size - raw.nbytes)
        found[:] = raw.reshape(-1).view(np.uint8)
        return found.view(raw.dtype).reshape(raw.shape)


def is_sound(blob: bytes) -> bool:
    """Whether docs/protocol.md allows these bytes, checksum aside; byte by byte, and for nothing but clearness."""
    if len(blob) < 32 or len(blob) % 4 or blob[:4] != b"R10F":
        return False
    form, transform, layout, depth, features, outputs, trees, nodes, zero = struct.unpack_from("<4B2H2IQ", blob, 8)
    if form != 1 or transform > 5 or layout > 1 or not 1 <= features <= 32_767 or outputs < 1 or zero:
        return False
    if depth > 0 if layout else depth > 15 or nodes > 0:
        return False
    body = 32 + 8 * outputs
    splits = 2**depth - 1
    record = 4 * splits + 4 * (splits + 1) + (2 * splits + 2 if depth else 0)
    if len(blob) != body + (4 * (trees + 1) + 8 * nodes if layout else trees * record):
        return False
    bases = struct.unpack_from(f"<{outputs}f", blob, 32)
    ends = struct.unpack_from(f"<{outputs}I", blob, 32 + 4 * outputs)
    if list(ends) != sorted(ends) or ends[-1] != trees or not all(map(math.isfinite, bases)):
        return False
    if layout:
        return _sparse_is_sound(blob[body:], trees, nodes, features)
    return all(_tree_is_sound(blob[at : at + record], splits, features) for at in range(body, len(blob), record))


def _is_key(key: int) -> bool:
    bits = key if key >= 0 else key ^ 0x7FFFFFFF
    [value] = struct.unpack("<f", struct.pack("<i", bits))
    return not math.isnan(value)


def _tree_is_sound(record: bytes, splits: int, features: int) -> bool:
    keys = struct.unpack_from(f"<{splits}i", record)
    leaves = struct.unpack_from(f"<{splits + 1}f", record, 4 * splits)
    tests = struct.unpack_from(f"<{splits + 1 if splits else 0}H", record, 8 * splits + 4)
    sound = all(map(_is_key, keys)) and all(map(math.isfinite, leaves))
    return sound and all(test < 2 * features for test in tests[:-1]) and not any(tests[-1:])


def _sparse_is_sound(body: bytes, trees: int, nodes: int, features: int) -> bool:
    roots = struct.unpack_from(f"<{trees + 1}I", body)
    if roots[0] != 0 or roots[-1] != nodes or any(end <= begin for begin, end in itertools.pairwise(roots)):
        return False
    for begin, end in itertools.pairwise(roots):
        for node in range(begin, end):
            word, test, step = struct.unpack_from("<iHH", body, 4 * (trees + 1) + 8 * node)
            if step == 0:
                [leaf] = struct.unpack("<f", struct.pack("<i", word))
                if test or not math.isfinite(leaf):
                    return False
            elif test >= 2 * features or node + step + 1 >= end or not _is_key(word):
                return False
    return True


class Fuzzer:
    """Holds mutations to the rule, and counts."""

    def __init__(self) -> None:
        self.refused = self.scored = 0
        self._words, self._keys = Guarded(1 << 20), Guarded(1 << 16)

    def check(self, blob: bytes, mutation: bytes) -> None:
        """Hold one mutation of a forest to the rule."""
        signal.alarm(SECONDS)
        if mutation != blob:
            self._must_refuse(mutation)
        if len(mutation) >= 8:
            self._refused_or_scored_alike(seal(bytearray(mutation)))
        signal.alarm(0)

    def _must_refuse(self, mutation: bytes) -> None:
        try:
            Forest.decode(mutation)
        except BadForest:
            return
        # Only the checksum can have been what was changed, into itself.
        assert seal(bytearray(mutation)) == mutation, f"a wrong checksum passed: {mutation.hex()}"

    def _refused_or_scored_alike(self, blob: bytes) -> None:
        sound = is_sound(blob)
        try:
            table = ForestTable.read([blob])
        except BadForest:
            assert not sound, f"what the page allows is refused: {blob.hex()}"
            self.refused += 1
            return
        table = replace(table, words=self._words.put(table.words))
        bad = [kernel.first_bad(table.words, table.body) for kernel in KERNELS]
        assert bad == [-1 if sound else 0] * 2, f"the page says sound: {sound}, the kernels {bad}: {blob.hex()}"
        if not sound:
            self.refused += 1
            return
        features = int(table.header["features"][0])
        rows = rows_of(len(blob), 3, min(features, 40), missing=0.3)
        if features > rows.shape[1]:
            rows = np.concatenate([rows, np.full((3, features - rows.shape[1]), np.nan, np.float32)], axis=1)
        keys = self._keys.put(row_keys(rows)) if rows.nbytes < 1 << 14 else row_keys(rows)
        segments = len(table.segments)
        # Of many outputs the first and the last.
        chosen = np.unique(np.r_[: min(segments, 20), max(0, segments - 20) : segments]).astype(np.int64)
        row, segment = np.repeat(np.arange(3), len(chosen)), np.tile(chosen, 3)
        with np.errstate(all="ignore"):
            plain, native = (kernel.score(table.words, table.segments, keys, row, segment) for kernel in KERNELS)
        np.testing.assert_array_equal(plain, native)
        if features == rows.shape[1] < 40:
            pack = ForestPack.build([blob], features)
            with np.errstate(all="ignore"):
                pack.transform(pack.margins(rows, np.arange(3), np.zeros(3, np.int64)), 0)
        self.scored += 1


def main(how: str, seed: int, count: int) -> None:
    """Fuzz `count` forests."""
    with open("/proc/self/statm", "rb") as file:
        taken = int(file.read().split()[0]) * mmap.PAGESIZE
    for kernel in (kernel_native.FIRST_BAD, kernel_native.SCORE):
        kernel.load()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, taken + MEMORY))
    random, fuzzer, mutations = np.random.default_rng(seed), Fuzzer(), 0
    for _ in range(count):
        blob = forest_of(random)
        for mutation in {"flips": flips, "cuts": cuts}.get(how, lambda blob: (mutated(blob, random),))(blob):
            fuzzer.check(blob, mutation)
            mutations += 1
    sys.stdout.write(f"{mutations} {fuzzer.refused} {fuzzer.scored}\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
