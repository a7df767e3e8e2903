"""What a model version says of itself: the manifest (for people and tools) and the serving block (for scorers).

The manifest holds nothing that differs between two fits of the same thing (no wall clock, no request id), because the
version's identity is the SHA-256 of its content: the same data, parameters and libraries give the same digest.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from modelstore.errors import BadModel


class Manifest(BaseModel):
    """The description of one version; part of its identity.

    Attributes:
        name: `SERIES/target`, such as `SPY:1m/close_5`.
        dataset: what it was trained on: `fingerprint` (SHA-256 of the training matrix), `rows`, `from`, `through` (ns).
        trained_through: end (epoch ns) of the last bar that any feature or label in training touched.
        feature_set: `name`, `version`, `columns` (list of names).
        target: `column` and `horizon` (bars), or whatever defines the label.
        parameters: what the booster was fitted with.
        metrics: figures beside their naive counterpart.
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
    metrics: dict[str, float | int | None] = {}
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


_SERVING = struct.Struct("<4sHHq8s")
_MAGIC = b"R10S"


@dataclass(frozen=True, slots=True)
class Serving:
    """What a scorer needs of a version besides its forest; small and binary, because 10,000 are read at start.

    Attributes:
        trained_through: as in the manifest, epoch ns.
        features: what identifies the feature set, 8 bytes; see `feature_set_id`.
        low: smallest value of each feature in training, float32 (n_features,); NaN where it was always missing.
        high: largest value of each feature in training, float32 (n_features,).
    """

    trained_through: int
    features: bytes
    low: NDArray[np.float32]
    high: NDArray[np.float32]

    def encode(self) -> bytes:
        """Pack: magic, format 1, feature count, trained_through, features, low, high; little-endian."""
        head = _SERVING.pack(_MAGIC, 1, len(self.low), self.trained_through, self.features)
        return head + self.low.astype("<f4").tobytes() + self.high.astype("<f4").tobytes()

    @classmethod
    def decode(cls, blob: bytes) -> Serving:
        """Unpack.

        Raises:
            BadModel: the block is of another format or damaged.
        """
        if len(blob) < _SERVING.size:
            raise BadModel(f"serving block of {len(blob)} bytes is too short")
        magic, form, count, through, features = _SERVING.unpack_from(blob)
        if magic != _MAGIC or form != 1 or len(blob) != _SERVING.size + 8 * count:
            raise BadModel("serving block is damaged or of an unknown format; import the version again")
        bounds = np.frombuffer(blob, "<f4", 2 * count, _SERVING.size)
        return cls(through, features, bounds[:count], bounds[count:])
