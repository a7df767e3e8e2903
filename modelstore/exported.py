"""Scoring the models of an export without a store: numpy is enough, nothing else need be installed.

from red10 import load_export

models = load_export("spy.red10")
models["SPY:1m/close_5"].margins(rows)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from modelstore.errors import BadExport
from modelstore.imports import check_export
from modelstore.locations import reading
from modelstore.manifest import Manifest, Serving
from modelstore.names import CHAMPION
from modelstore.s3 import S3Options
from modelstore.version import Incoming

if TYPE_CHECKING:
    from modelstore.kernel import ForestPack


@dataclass(frozen=True, slots=True)
class ExportedModel:
    """One version, ready to score.

    Attributes:
        digest: the version's identity.
        manifest: what it is; `manifest.feature_set["columns"]` names the features in their order.
        serving: the naive forecast that its margins are added to, and the range of its inputs in training.
        aliases: what pointed at it when it was exported.
    """

    digest: str
    manifest: Manifest = field(repr=False)
    serving: Serving = field(repr=False)
    aliases: tuple[str, ...]
    _pack: ForestPack = field(repr=False)

    @property
    def name(self) -> str:
        """The model's name."""
        return self.manifest.name

    def margins(self, rows: ArrayLike) -> NDArray[np.float32]:
        """The sums of leaves, as XGBoost's `output_margin` gives them; of a series' model the part beyond naive.

        Args:
            rows: (n, F) numbers, NaN for missing.

        Returns:
            float32 (n, outputs).

        Raises:
            BadModel: the rows have another number of features.
        """
        matrix = np.ascontiguousarray(rows, np.float32)
        if matrix.ndim == 1:
            matrix = matrix[None]
        index = np.arange(len(matrix))
        return self._pack.margins(matrix, index, np.zeros(len(matrix), np.int64), self._pack.n_outputs(0))

    def predict(self, rows: ArrayLike) -> NDArray[np.float32]:
        """What XGBoost's `predict` gives: values, or for a classification probabilities, float32 (n,) or (n, classes).

        Args and errors: as of `margins`.
        """
        margins = self.margins(rows)
        return self._pack.transform(margins[:, 0] if margins.shape[1] == 1 else margins, 0)


def load_export(source: str | Path, *, s3: S3Options | None = None) -> Mapping[str, ExportedModel]:
    """The models of an export, each by its name; of several versions of a model the champion, else the last trained.

    The whole file is checked first. The others are there as `NAME@DIGEST`, with the digest's first 12 digits.

    Args:
        source: a file's name, or `s3://BUCKET/KEY`.

    Raises:
        StorageError: it cannot be read.
        BadExport: it is no whole, sound export.
    """
    # Importing the kernel takes the time that a client which only publishes must not pay.
    from modelstore.kernel import ForestPack

    versions: list[Incoming] = []
    with reading(source, s3=s3) as file:
        try:
            contents = check_export(file, versions.extend)
        except BadExport as error:
            raise BadExport(f"{source}: {error}") from error
    aliases: dict[str, list[str]] = {}
    for _, alias, digest in contents.aliases:
        aliases.setdefault(digest, []).append(alias)
    found: dict[str, ExportedModel] = {}
    for version in sorted(versions, key=lambda v: (CHAMPION in aliases.get(v.digest, ()), v.manifest.trained_through)):
        model = ExportedModel(
            version.digest,
            version.manifest,
            Serving.decode(version.raw.serving),
            tuple(aliases.get(version.digest, ())),
            ForestPack.build([version.raw.forest]),
        )
        # The one that is called by the bare name comes last of its model.
        before = found.get(model.name)
        if before is not None:
            found[f"{before.name}@{before.digest[:12]}"] = before
        found[model.name] = model
    return dict(sorted(found.items()))
