"""What a model version says of itself: the manifest (for people and tools) and the serving block (for scorers).

The manifest holds nothing that differs between two fits of the same thing (no wall clock, no request id), because the
version's identity is the SHA-256 of its content: the same data, parameters and libraries give the same digest.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from types import MappingProxyType
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from modelstore.errors import BadModel

#: Most bytes of a manifest before compression.
MAX_MANIFEST = 16 * 2**20


class Manifest(BaseModel):
    """The description of one version; part of its identity.

    Attributes:
        name: `SERIES/target`, such as `SPY:1m/close_5`.
        dataset: what it was trained on: `fingerprint` (SHA-256 of the training matrix), `rows`, `from`, `through` (ns).
        trained_through: end (epoch ns) of the last bar that any feature or label in training touched.
        feature_set: `name`, `version`, `columns` (list of names).
        target: `column` and `horizon` (bars), or whatever defines the label.
        parameters: what the booster was fitted with.
        naive: the naive forecast that the model's trees are added to: `kind`, and `value` (number, or one per slot).
        metrics: figures beside their naive counterpart, in the sample and out of it.
        folds: what the walk-forward folds of the training gave, oldest first.
        libraries: library name -> version.
        lineage: digests of versions that this one came from, if any.
        golden: `rows` (raw feature rows, `None` for missing) and `margins` (expected outputs) to check a copy with.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = 1
    name: str
    dataset: dict[str, Any]
    trained_through: int
    feature_set: dict[str, Any]
    target: dict[str, Any]
    parameters: dict[str, Any]
    seed: int
    naive: dict[str, Any] = {}
    metrics: dict[str, float | int | None] = {}
    folds: tuple[dict[str, float | int | None], ...] = ()
    libraries: dict[str, str] = {}
    lineage: tuple[str, ...] = ()
    golden: dict[str, Any] = {}

    def canonical(self) -> bytes:
        """JSON with sorted keys: what is hashed and stored (compressed)."""
        return orjson.dumps(self.model_dump(mode="json"), option=orjson.OPT_SORT_KEYS)


def feature_set_id(fingerprint: Mapping[str, Any]) -> bytes:
    """What a serving block carries of a feature set: the first 8 bytes of the SHA-256 of its fingerprint as JSON.

    Args:
        fingerprint: `name`, `version` and `columns`, as in the manifest's `feature_set`.
    """
    return hashlib.sha256(orjson.dumps(fingerprint, option=orjson.OPT_SORT_KEYS)).digest()[:8]


_REMEDY = "restore it from a snapshot, or train the model again"


class NaiveKind(IntEnum):
    """What a model's trees are added to; the numbers stand in serving blocks. `consumers.naive` says what they mean."""

    NO_CHANGE = 0
    PERSISTENCE = 1
    MEAN = 2
    TIME_OF_DAY = 3


#: Slots of the UTC day that `TIME_OF_DAY` has one number for: 5 minutes each.
DAY_SLOTS = 288
#: Numbers that a kind's table holds.
NAIVE_TABLE = MappingProxyType(
    {NaiveKind.NO_CHANGE: 0, NaiveKind.PERSISTENCE: 0, NaiveKind.MEAN: 1, NaiveKind.TIME_OF_DAY: DAY_SLOTS}
)

_SERVING = struct.Struct("<4sHHq8sBBH")
#: How a serving block begins, and the format that is written.
SERVING_MAGIC = b"R10S"
SERVING_FORMAT = 2


def _no_table() -> NDArray[np.float32]:
    return np.empty(0, np.float32)


@dataclass(frozen=True, slots=True)
class Serving:
    """What a scorer needs of a version besides its forest; small and binary, because 10,000 are read at start.

    Attributes:
        trained_through: as in the manifest, epoch ns.
        features: what identifies the feature set, 8 bytes; see `feature_set_id`.
        low: smallest value of each feature in training, float32 (n_features,); NaN where it was always missing.
        high: largest value of each feature in training, float32 (n_features,).
        naive: a `NaiveKind`: the forecast is this naive forecast plus the forest's margin.
        naive_table: its numbers, unit-free labels, float32 (k,); k as in `NAIVE_TABLE`.
    """

    trained_through: int
    features: bytes
    low: NDArray[np.float32]
    high: NDArray[np.float32]
    naive: int = NaiveKind.NO_CHANGE
    naive_table: NDArray[np.float32] = field(default_factory=_no_table)

    def encode(self) -> bytes:
        """Pack: head, table of the naive forecast, low, high; little-endian. `docs/protocol.md` has the offsets."""
        table = self.naive_table
        head = _SERVING.pack(
            SERVING_MAGIC, SERVING_FORMAT, len(self.low), self.trained_through, self.features, self.naive, 0, len(table)
        )
        return head + b"".join(part.astype("<f4").tobytes() for part in (table, self.low, self.high))

    @classmethod
    def decode(cls, blob: bytes) -> Serving:
        """Unpack.

        Raises:
            BadModel: the block is of another format or damaged.
        """
        if len(blob) < _SERVING.size:
            raise BadModel(f"serving block of {len(blob)} bytes is too short; {_REMEDY}")
        magic, form, count, through, features, naive, pad, size = _SERVING.unpack_from(blob)
        if magic != SERVING_MAGIC:
            raise BadModel(f"serving block is damaged: it begins with {magic!r}; {_REMEDY}")
        if form != SERVING_FORMAT:
            raise BadModel(
                f"serving block has format {form}, this Red10 reads format {SERVING_FORMAT}: train the model again"
            )
        if pad or len(blob) != _SERVING.size + 4 * size + 8 * count:
            raise BadModel(f"serving block of {len(blob)} bytes is damaged: its head tells another length; {_REMEDY}")
        numbers = np.frombuffer(blob, "<f4", size + 2 * count, _SERVING.size)
        check_naive(naive, numbers[:size])
        return cls(through, features, numbers[size : size + count], numbers[size + count :], naive, numbers[:size])


def check_naive(kind: int, table: NDArray[np.float32]) -> None:
    """Check that a naive forecast is one.

    Raises:
        BadModel: the kind is unknown, or its table has another size or holds what is no number.
    """
    if kind not in NAIVE_TABLE:
        raise BadModel(f"naive forecast of kind {kind} is unknown to this Red10: update it, or train the model again")
    known = NaiveKind(kind)
    if table.shape != (NAIVE_TABLE[known],) or not np.isfinite(table).all():
        raise BadModel(
            f"naive forecast {known.name.lower()} needs a table of {NAIVE_TABLE[known]} finite numbers, got "
            f"{table.shape}: {table[:3].tolist()}; {_REMEDY}"
        )
