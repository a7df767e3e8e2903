"""Scoring: many forests, many rows, one call.

A `ForestPack` is the forests of a release, joined into one piece of memory, checked once and never changed; threads may
share it. The work is done by `modelstore.kernel_native` where numba is installed (it gives up the GIL), otherwise by
`modelstore.kernel_numpy`: the same bits, slower. Nothing else is needed to score: no XGBoost, no Redis.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from modelstore import kernel_native, kernel_numpy
from modelstore.errors import BadModel
from modelstore.forest import OUTSIDE
from modelstore.forest_format import BadForest, Table, Transform, row_keys
from modelstore.forest_table import ForestBuffer, ForestTable
from modelstore.native import installed
from modelstore.trees import Trees, encode_forest


class Kernel(Protocol):
    """What `modelstore.kernel_native` and `modelstore.kernel_numpy` both are."""

    def first_bad(self, words: NDArray[np.int32], bodies: Table) -> int:
        """The first of `bodies` that would read outside itself, not end, or hold no numbers; -1 if none is."""
        ...

    def score(
        self,
        words: NDArray[np.int32],
        segments: Table,
        keys: NDArray[np.int32],
        row_index: NDArray[np.int64],
        segment_index: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        """Margins (k,) of the pairs (row_index, segment_index)."""
        ...


#: The kernel that this process scores with.
KERNEL: Kernel = kernel_native if installed() else kernel_numpy
#: Fewest pairs of a row and an output that a thread of its own is worth, which takes about 0.1 ms to start.
_THREAD_PAIRS = 64


@dataclass(frozen=True, slots=True, eq=False)
class ForestPack:
    """Forests that score together; immutable.

    Attributes:
        table: the forests' bytes, and where everything lies in them.
        n_features: how many features every row must have.
        kernel: what does the work.
    """

    table: ForestTable
    n_features: int
    kernel: Kernel = KERNEL

    @classmethod
    def build(cls, blobs: Sequence[bytes], feature_count: int | None = None, kernel: Kernel = KERNEL) -> Self:
        """Join and check forests; their place in `blobs` is their number in the pack.

        Args:
            feature_count: how many features each must take; left out: as many as the first.

        Raises:
            BadForest: one is damaged, hostile, of an unknown version, or takes another number of features; it carries
                the forest's place in `blobs`.
        """
        return cls._checked(ForestTable.read(blobs), 0, feature_count, kernel)

    @classmethod
    def of(cls, buffer: ForestBuffer, feature_count: int, *, sound: int = 0, kernel: Kernel = KERNEL) -> Self:
        """Check forests that were held against a digest, which makes their checksums needless; all else is checked.

        Args:
            sound: so many of the first come from a pack.

        Raises:
            BadForest: as in `build`.
        """
        return cls._checked(ForestTable.of(buffer, len(buffer)), sound, feature_count, kernel)

    def replace(self, keep: Sequence[int], blobs: Sequence[bytes]) -> Self:
        """A pack of the forests `keep` of this one, in that order, then `blobs`; only `blobs` are checked.

        Raises:
            BadForest: as in `build`; the position counts the kept ones too.
            IndexError: this pack has no such forest.
        """
        _check_index("keep", np.asarray(keep, np.int64), len(self))
        joined: list[bytes | memoryview] = [*(self.blob(number) for number in keep), *blobs]
        return self._checked(ForestTable.read(joined, len(keep)), len(keep), self.n_features or None, self.kernel)

    @classmethod
    def _checked(cls, table: ForestTable, trusted: int, feature_count: int | None, kernel: Kernel) -> Self:
        bad = kernel.first_bad(table.words, table.body[trusted:])
        if bad >= 0:
            raise BadForest(trusted + bad, OUTSIDE)
        found = table.header["features"]
        if feature_count is None:
            feature_count = int(found[0]) if len(found) else 0
        wrong = found != feature_count
        if wrong.any():
            position = int(wrong.argmax())
            raise BadForest(position, f"takes {found[position]} features, {feature_count} are wanted here")
        return cls(table, feature_count, kernel)

    def __len__(self) -> int:
        return len(self.table.ends)

    def blob(self, forest: int) -> memoryview:
        """The bytes of a forest."""
        ends = self.table.ends
        begin = 4 * int(ends[forest - 1]) if forest else 0
        return self.table.words.data.cast("B")[begin : 4 * int(ends[forest])]

    def n_outputs(self, forest: int) -> int:
        """How many margins a forest gives for a row."""
        return int(self.table.header["outputs"][forest])

    def score_pairs(
        self,
        rows: NDArray[np.float32],
        row_index: NDArray[np.integer],
        forest_index: NDArray[np.integer],
        *,
        threads: int = 1,
    ) -> NDArray[np.float32]:
        """Margins of single-output forests.

        Fastest when pairs of the same forest are neighbours, and the forests come in the order of the pack.

        Args:
            rows: float32 (n, n_features); NaN is missing.
            row_index: the row of each pair, integers (k,).
            forest_index: the forest of each pair, integers (k,).
            threads: how many threads share the pairs out; the result does not depend on it.

        Returns:
            float32 (k,).

        Raises:
            BadModel: the rows have another number of features, or a forest has several outputs.
            IndexError: there is no such row or forest.
        """
        return self.margins(rows, row_index, forest_index, outputs=1, threads=threads)[:, 0]

    def margins(
        self,
        rows: NDArray[np.float32],
        row_index: NDArray[np.integer],
        forest_index: NDArray[np.integer],
        outputs: int | None = None,
        *,
        threads: int = 1,
    ) -> NDArray[np.float32]:
        """Margins of forests that all have the same number of outputs; otherwise as `score_pairs`.

        Args:
            outputs: how many outputs each forest must have; left out: as many as the first one asked for.

        Returns:
            float32 (k, outputs).
        """
        row, forest = np.ascontiguousarray(row_index, np.int64), np.ascontiguousarray(forest_index, np.int64)
        if rows.ndim != 2 or (len(self) and rows.shape[1] != self.n_features):
            raise BadModel(f"the rows have shape {rows.shape}, the forests take (n, {self.n_features})")
        if row.ndim != 1 or row.shape != forest.shape:
            raise BadModel(f"row_index has shape {row.shape}, forest_index {forest.shape}: both must be (k,)")
        _check_index("row_index", row, len(rows))
        _check_index("forest_index", forest, len(self))
        first = self.table.first_segment[forest]
        counts = self.table.first_segment[forest + 1] - first
        if outputs is None:
            outputs = int(counts[0]) if len(counts) else 1
        wrong = counts != outputs
        if wrong.any():
            pair = int(wrong.argmax())
            raise BadModel(f"forest {forest[pair]} has {counts[pair]} outputs, {outputs} are wanted here: call margins")
        keys = row_keys(np.asarray(rows, np.float32))
        if outputs > 1:
            row, first = np.repeat(row, outputs), (first[:, None] + np.arange(outputs)).reshape(-1)
        return self._score(keys, row, first, threads).reshape(len(forest), outputs)

    def _score(
        self, keys: NDArray[np.int32], row: NDArray[np.int64], segment: NDArray[np.int64], threads: int
    ) -> NDArray[np.float32]:
        """Margins of pairs: each is one thread's alone, so that it does not matter how they are shared out."""
        words, segments, score = self.table.words, self.table.segments, self.kernel.score
        threads = min(threads, len(row) // _THREAD_PAIRS)
        if threads <= 1:
            return score(words, segments, keys, row, segment)
        cuts = [len(row) * part // threads for part in range(threads + 1)]
        with ThreadPoolExecutor(threads - 1, "score") as pool:
            others = [
                pool.submit(score, words, segments, keys, row[begin:end], segment[begin:end])
                for begin, end in pairwise(cuts[1:])
            ]
            own = score(words, segments, keys, row[: cuts[1]], segment[: cuts[1]])
            return np.concatenate([own, *(other.result() for other in others)])

    def transform(self, margins: NDArray[np.float32], forest: int) -> NDArray[np.float32]:
        """What `Booster.predict` gives for margins of a forest; see `predictions`."""
        return predictions(margins, Transform(int(self.table.header["transform"][forest])))


def _check_index(what: str, index: NDArray[np.int64], count: int) -> None:
    if len(index) and not 0 <= index.min() <= index.max() < count:
        raise IndexError(f"{what} runs from {index.min()} to {index.max()}, there are {count}")


def predictions(margins: NDArray[np.float32], transform: Transform) -> NDArray[np.float32]:
    """From margins to what `Booster.predict` gives.

    Identity, hinge and argmax are exact; logistic, exp and softmax agree to a relative 1e-6, since the last bit of an
    exponential differs between libraries.

    Args:
        margins: float32, (k,) or (k, outputs); softmax and argmax take their last axis as the classes.

    Returns:
        float32 of the same shape; argmax: the class, without the last axis.
    """
    one = np.float32(1)
    with np.errstate(over="ignore", invalid="ignore"):
        match transform:
            case Transform.IDENTITY:
                found = margins
            case Transform.LOGISTIC:
                # XGBoost bounds the exponent likewise: beyond it a float32 overflows.
                found = one / (one + np.exp(np.minimum(-margins, np.float32(88.7))))
            case Transform.EXP:
                found = np.exp(margins)
            case Transform.HINGE:
                found = (margins > 0).astype(np.float32)
            case Transform.SOFTMAX:
                weights = np.exp(margins - margins.max(axis=-1, keepdims=True))
                found = weights / weights.sum(axis=-1, keepdims=True)
            case Transform.ARGMAX:
                found = margins.argmax(axis=-1).astype(np.float32)
    return found


def warm() -> None:
    """Score a tiny forest, so that compiled code is in memory before the first real call."""
    leaf = np.full(1, -1)
    stump = Trees(leaf, leaf, leaf + 1, leaf > 0, np.ones(1, np.float32), np.zeros(1, np.int64), np.zeros(1, np.int64))
    blob = encode_forest(stump, np.zeros(1, np.float32), 1, Transform.IDENTITY)
    index = np.zeros(1, np.int32)
    ForestPack.build([blob], 1).score_pairs(np.zeros((1, 1), np.float32), index, index)
