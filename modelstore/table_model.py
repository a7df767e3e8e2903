"""A table's model, loaded to predict: manifest and packed forest, nothing else. Needs numpy only, never XGBoost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelstore.errors import BadModel
from modelstore.forest import Transform
from modelstore.kernel import ForestPack
from modelstore.manifest import Manifest
from modelstore.store import ModelStore
from modelstore.tabular import TableSchema


@dataclass(frozen=True, slots=True, eq=False)
class Predicted:
    """What a model says of n rows.

    Attributes:
        values: float32 (n,), of a column of numbers; `None` for classes.
        labels: the likeliest class of each row; `None` for numbers.
        probabilities: float32 (n, classes); `None` for numbers.
        classes: what the columns of the probabilities are; none for numbers.
    """

    values: NDArray[np.float32] | None = None
    labels: tuple[str, ...] | None = None
    probabilities: NDArray[np.float32] | None = None
    classes: tuple[str, ...] = ()

    def rows(self) -> list[dict[str, Any]]:
        """Row by row: `value`; or `label`, and `probabilities` by class."""
        if self.labels is None or self.probabilities is None:
            return [{"value": value} for value in ([] if self.values is None else self.values.tolist())]
        return [
            {"label": label, "probabilities": dict(zip(self.classes, shares, strict=True))}
            for label, shares in zip(self.labels, self.probabilities.tolist(), strict=True)
        ]


@dataclass(frozen=True, slots=True, eq=False)
class TableModel:
    """One version of a table's model. Immutable; threads may share it."""

    digest: str
    manifest: Manifest
    schema: TableSchema
    _pack: ForestPack = field(repr=False)

    @classmethod
    def load(cls, store: ModelStore, digest: str) -> TableModel:
        """Read a version, and check it against its digest and itself.

        Raises:
            NotFound: the store does not hold it.
            BadModel: it is damaged, or is a series' model.
        """
        manifest = store.manifest(digest)
        return cls.build(digest, manifest, store.forest(digest))

    @classmethod
    def build(cls, digest: str, manifest: Manifest, forest: bytes) -> TableModel:
        """Put a model together.

        Raises:
            BadModel: manifest and forest contradict each other, or it is a series' model.
        """
        schema = TableSchema.of(manifest)
        pack = ForestPack.build([forest], len(schema.columns))
        transform = Transform(int(pack.table.header["transform"][0]))
        classes = 1 if schema.classes is None else len(schema.classes)
        fits = {
            Transform.IDENTITY: schema.classes is None and pack.n_outputs(0) == 1,
            Transform.LOGISTIC: classes == 2 and pack.n_outputs(0) == 1,
            Transform.SOFTMAX: classes > 2 and pack.n_outputs(0) == classes,
        }
        if not fits.get(transform, False):
            raise BadModel(
                f"{manifest.name}: its forest has {pack.n_outputs(0)} outputs and the transform "
                f"{transform.name.lower()}, which does not go with {classes} classes: train the model again"
            )
        return cls(digest, manifest, schema, pack)

    @property
    def name(self) -> str:
        """Such as `iris/species`."""
        return self.manifest.name

    def predict(self, rows: Sequence[Mapping[str, object]]) -> Predicted:
        """Predict rows, column -> cell (see `modelstore.tabular`).

        Raises:
            BadRows: a row has other columns than the model takes.
        """
        matrix = self.schema.encode(rows)
        index = np.arange(len(matrix), dtype=np.int64)
        margins = self._pack.margins(matrix, index, np.zeros_like(index), self._pack.n_outputs(0))
        found = self._pack.transform(margins, 0)
        if self.schema.classes is None:
            return Predicted(values=found[:, 0])
        if found.shape[1] == 1:
            found = np.column_stack((1 - found[:, 0], found[:, 0])).astype(np.float32)
        best = found.argmax(axis=1)
        labels = tuple(self.schema.classes[at] for at in best.tolist())
        return Predicted(labels=labels, probabilities=found, classes=self.schema.classes)
