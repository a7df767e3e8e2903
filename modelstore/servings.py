"""Reading thousands of serving blocks at once; one by one they would take longer than all their forests.

Blocks of one length are checked together. What fails there goes through `Serving.decode`, which says what is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from modelstore.errors import BadModel
from modelstore.manifest import NAIVE_TABLE, SERVING_FORMAT, SERVING_MAGIC, Serving

_HEAD = np.dtype(
    [
        ("magic", "S4"),
        ("format", "<u2"),
        ("features", "<u2"),
        ("through", "<i8"),
        ("set", "V8"),
        ("naive", "u1"),
        ("zero", "u1"),
        ("table", "<u2"),
    ]
)
#: Numbers in the table of each kind of naive forecast; -1 for a kind that is unknown.
_TABLES = np.full(256, -1)
for _kind, _size in NAIVE_TABLE.items():
    _TABLES[_kind] = _size


def decode_servings(blobs: Sequence[bytes]) -> list[Serving | BadModel]:
    """Decode many blocks, in their order; what cannot be decoded gives the error that `Serving.decode` raises."""
    found: list[Serving | BadModel | None] = [None] * len(blobs)
    lengths = np.array([len(blob) for blob in blobs], np.int64)
    for length in np.unique(lengths[lengths >= _HEAD.itemsize]).tolist():
        if length % 4:
            continue
        members = np.flatnonzero(lengths == length).tolist()
        words = np.frombuffer(b"".join(blobs[at] for at in members), "<f4").reshape(len(members), -1)
        for at, serving in zip(members, _decode_equal(words), strict=True):
            found[at] = serving
    return [_one(blob) if serving is None else serving for serving, blob in zip(found, blobs, strict=True)]


def _decode_equal(words: NDArray[np.float32]) -> list[Serving | None]:
    """Blocks of one length, (n, words): `None` for those that are not sound."""
    size = _HEAD.itemsize // 4
    head, numbers = words[:, :size].view(_HEAD)[:, 0], words[:, size:]
    table, features = head["table"].astype(np.int64), head["features"].astype(np.int64)
    sound = (head["magic"] == SERVING_MAGIC) & (head["format"] == SERVING_FORMAT) & (head["zero"] == 0)
    sound &= (_TABLES[head["naive"]] == table) & (table + 2 * features == numbers.shape[1])
    # NaN where a number of the table is none, 0 elsewhere: limits of features may be NaN.
    inside = np.arange(numbers.shape[1]) < table[:, None]
    sound &= np.isfinite(np.where(inside, numbers, 0)).all(axis=1)
    columns = (head["through"].tolist(), head["set"], head["naive"].tolist(), table.tolist(), features.tolist())
    found: list[Serving | None] = []
    for row, (right, through, which, naive, first, count) in enumerate(zip(sound.tolist(), *columns, strict=True)):
        if not right:
            found.append(None)
            continue
        values = numbers[row]
        low, high = values[first : first + count], values[first + count :]
        found.append(Serving(through, which.tobytes(), low, high, naive, values[:first]))
    return found


def _one(blob: bytes) -> Serving | BadModel:
    try:
        return Serving.decode(blob)
    except BadModel as error:
        return error
