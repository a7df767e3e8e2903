"""Where everything lies in forests that were joined: headers and outputs of all of them, read and checked at once.

Ten thousand forests are loaded at a start, so this works on arrays over all forests, never forest by forest except for
the checksums. The bodies are checked by a kernel (`first_bad`), which may be compiled.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from modelstore.forest_format import (
    BODY,
    HEADER,
    MAGIC,
    MAX_FEATURES,
    MAX_PERFECT_DEPTH,
    SEGMENT,
    SPARSE,
    VERSION,
    BadForest,
    Table,
    Transform,
    record_words,
)


class ForestBuffer:
    """Forests one behind the other in one piece of memory, as they arrive; unchecked.

    numpy asks the system for large pages, which take a third of the time to fill and are read faster; and a forest that
    is added as soon as it has been read is still in the processor's cache.
    """

    def __init__(self, expected: int) -> None:
        """Make an empty one.

        Args:
            expected: how many forests there will be, about; memory is taken as it is used.
        """
        self._expected = max(1, expected)
        self._bytes = np.empty(0, np.uint8)
        self._data = memoryview(bytearray())
        self._ends: list[int] = [0]

    def __len__(self) -> int:
        return len(self._ends) - 1

    def add(self, blob: bytes | memoryview) -> None:
        """Put a forest behind the others."""
        begin = self._ends[-1]
        end = begin + len(blob)
        if end > len(self._bytes):
            self._grow(max(2 * end, self._expected * (len(blob) + 64)))
        self._data[begin:end] = blob
        self._ends.append(end)

    def _grow(self, size: int) -> None:
        grown, used = np.empty(size, np.uint8), self._ends[-1]
        grown[:used] = self._bytes[:used]
        self._bytes, self._data = grown, grown.data

    def blob(self, position: int) -> memoryview:
        """One of the forests."""
        return self._data[self._ends[position] : self._ends[position + 1]]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Bytes of each, int64 (n,)."""
        ends = np.array(self._ends, np.int64)
        return ends[1:] - ends[:-1]

    def words(self) -> NDArray[np.int32]:
        """All bytes as int32, read-only; their number must be a multiple of 4."""
        found = self._bytes[: self._ends[-1]].view("<i4")
        found.flags.writeable = False
        return found


@dataclass(frozen=True, slots=True, eq=False)
class ForestTable:
    """Where everything lies in forests that were joined into one piece of bytes; made by `read`.

    Attributes:
        words: the bytes as int32, read-only.
        ends: where each forest ends, in words, int64 (n,).
        header: HEADER (n,).
        body: BODY (n,).
        first_segment: the first output of each forest, and the number of outputs at the end, int64 (n + 1,).
        segments: SEGMENT, one for each output of each forest.
    """

    words: NDArray[np.int32]
    ends: NDArray[np.int64]
    header: Table
    body: Table
    first_segment: NDArray[np.int64]
    segments: Table

    @classmethod
    def read(cls, blobs: Sequence[bytes | memoryview], trusted: int = 0) -> Self:
        """Join the forests and check all but their bodies; see `of`."""
        buffer = ForestBuffer(len(blobs))
        for blob in blobs:
            buffer.add(blob)
        return cls.of(buffer, trusted)

    @classmethod
    def of(cls, buffer: ForestBuffer, trusted: int = 0) -> Self:
        """Check all but the bodies of forests. Nothing may be added to the buffer any more.

        Args:
            trusted: the checksums of so many of the first forests are not checked: they come from a table already, or
                were held against a digest.

        Raises:
            BadForest: a checksum does not hold, a header or an output cannot be, a length is not what its header says.
        """
        lengths = buffer.lengths
        _refuse((lengths < HEADER.itemsize) | (lengths % 4 != 0), "is not a whole number of words, or has no header")
        words, ends = buffer.words(), np.cumsum(lengths) // 4
        starts = ends - lengths // 4
        head = words[starts[:, None] + np.arange(HEADER.itemsize // 4)].view(HEADER).reshape(len(buffer))
        _refuse(head["magic"] != MAGIC, "is no forest: it does not begin with R10F")
        # Before the rest of the header, so that damage is called damage and not, say, a newer version.
        _check_checksums(words, ends, head, trusted)
        _check_header(head)
        outputs, trees, nodes = (head[name].astype(np.int64) for name in ("outputs", "trees", "nodes"))
        sparse, depth = head["layout"] == 1, head["depth"].astype(np.int64)
        body_words = np.where(sparse, trees + 1 + 2 * nodes, trees * record_words(depth))
        body_at = starts + HEADER.itemsize // 4 + 2 * outputs
        _refuse(body_at + body_words != ends, "has another length than its header says")

        body = np.empty(len(buffer), BODY)
        body["at"], body["trees"], body["nodes"] = body_at, trees, nodes
        body["depth"], body["features"] = np.where(sparse, SPARSE, depth), head["features"]
        first = np.concatenate([[0], np.cumsum(outputs)])
        return cls(words, ends, head, body, first, _segments(words, body, first))


def _check_checksums(words: NDArray[np.int32], ends: NDArray[np.int64], head: Table, trusted: int) -> None:
    data, crcs, stops = words.data.cast("B"), head["crc"].tolist(), [0, *(4 * ends).tolist()]
    for position in range(trusted, len(crcs)):
        if zlib.crc32(data[stops[position] + 8 : stops[position + 1]]) != crcs[position]:
            raise BadForest(position, "is damaged: its checksum does not hold")


def _refuse(bad: NDArray[np.bool_], reason: str) -> None:
    if bad.any():
        raise BadForest(int(bad.argmax()), reason)


def _check_header(head: Table) -> None:
    _refuse(head["version"] != VERSION, f"is of a version of the format that is not {VERSION}: upgrade Red10")
    _refuse(head["transform"] > max(Transform), "has an unknown transform")
    _refuse(head["layout"] > 1, "has an unknown layout")
    _refuse(head["depth"] > np.where(head["layout"] == 1, 0, MAX_PERFECT_DEPTH), "has a depth that cannot be")
    _refuse((head["layout"] == 0) & (head["nodes"] != 0), "is perfect and counts nodes")
    _refuse((head["features"] == 0) | (head["features"] > MAX_FEATURES), f"takes no or over {MAX_FEATURES} features")
    _refuse(head["outputs"] == 0, "has no output")
    _refuse(head["zero"] != 0, "uses bytes that version 1 leaves 0")


def _segments(words: NDArray[np.int32], body: Table, first: NDArray[np.int64]) -> Table:
    """The outputs of all forests.

    Raises:
        BadForest: the counts of trees fall, or do not end with the number of trees; a first margin is not finite.
    """
    outputs = np.diff(first)
    forest = np.repeat(np.arange(len(body)), outputs)
    owner = body[forest]
    number = np.arange(len(forest)) - first[forest]
    bases_at = owner["at"] - 2 * outputs[forest] + number
    ends = words.view("<u4")[bases_at + outputs[forest]].astype(np.int64)
    begins = np.where(number == 0, 0, np.concatenate([[0], ends[:-1]]))
    bad = (ends < begins) | ((number == outputs[forest] - 1) & (ends != owner["trees"]))
    if bad.any():
        raise BadForest(int(forest[bad.argmax()]), "counts the trees of its outputs wrongly")

    sparse = owner["depth"] == SPARSE
    depth = np.where(sparse, 0, owner["depth"]).astype(np.int64)
    found = np.empty(len(forest), SEGMENT)
    found["at"] = owner["at"] + np.where(sparse, owner["trees"] + 1, begins * record_words(depth))
    found["roots"] = np.where(sparse, owner["at"] + begins, 0)
    found["trees"], found["depth"] = ends - begins, owner["depth"]
    found["base"] = words.view("<f4")[bases_at]
    infinite = ~np.isfinite(found["base"])
    if infinite.any():
        raise BadForest(int(forest[infinite.argmax()]), "begins with a margin that is not finite")
    return found
