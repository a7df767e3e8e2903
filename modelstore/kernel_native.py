"""The scoring kernel as machine code (`modelstore.kernel_source`), called with arrays. Arguments as in `kernel.Kernel`.

Nothing is imported or loaded before the first call, which takes milliseconds (`modelstore.native`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from modelstore.forest_format import BODY, SEGMENT, Table
from modelstore.native import Routine, address, as_array

_SOURCE = "modelstore.kernel_source"
_TAKES_FROM = ("modelstore.forest_format",)
FIRST_BAD = Routine(_SOURCE, "first_bad", "pqpq", _TAKES_FROM)
SCORE = Routine(_SOURCE, "score", "pppqppqp", _TAKES_FROM)


def first_bad(words: NDArray[np.int32], bodies: Table) -> int:
    """The first of `bodies` (BODY) that would read outside itself, not end, or hold no numbers; -1 if none is."""
    held = as_array(words, np.int32), as_array(bodies, BODY)
    return FIRST_BAD(address(held[0]), len(words), address(held[1]), len(bodies))


def score(
    words: NDArray[np.int32],
    segments: Table,
    keys: NDArray[np.int32],
    row_index: NDArray[np.int64],
    segment_index: NDArray[np.int64],
) -> NDArray[np.float32]:
    """Margins (k,) of the pairs (row_index, segment_index), each (k,); `keys` are the rows' (n, 2 F)."""
    held = [as_array(words, np.int32), as_array(segments, SEGMENT), as_array(keys, np.int32)]
    pairs = [as_array(row_index, np.int64), as_array(segment_index, np.int64)]
    out = np.empty(len(row_index), np.float32)
    places = map(address, held)
    SCORE(*places, keys.shape[1], *map(address, pairs), len(row_index), address(out))
    return out
