"""Rows of a table, as people and programs write them, and as a table's model takes them. Pure; numpy only.

A column holds numbers, or text. Text is turned into the number of its category, the categories being those of the
training data, sorted; they stand in the manifest. Training and predicting encode with the same functions.

*Missing* (NaN for the model) is: nothing (`None`, the empty cell), in a column of numbers one of the words in
`NO_NUMBER` or what no float32 can hold, in a column of text a category that training did not see. A column that is not
there at all is not missing but a mistake, and is said.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from modelstore.errors import BadModel
from modelstore.manifest import Manifest
from streams.errors import Red10Error

#: Cells of a column of numbers that mean that there is none, in lower case.
NO_NUMBER = frozenset({"", "na", "n/a", "nan", "null", "none", "?"})
#: Name of the feature set in manifests of tables' models.
TABLE = "table"


class BadRows(Red10Error):
    """Rows that a table's model cannot take: another column, or text where numbers belong."""


class NoTable(BadModel):
    """A sound version that predicts no rows, because it is of a series."""


def number_of(cell: object) -> float | None:
    """A cell as a number, NaN if it is missing; `None` if it is none."""
    if cell is None:
        return math.nan
    if isinstance(cell, bool):
        return None
    if isinstance(cell, int | float | np.integer | np.floating):
        try:
            return float(cell)
        except OverflowError:
            # A whole number beyond any float.
            return math.nan
    text = str(cell).strip()
    if text.lower() in NO_NUMBER:
        return math.nan
    try:
        return None if "_" in text else float(text)
    except ValueError:
        return None


def category_of(cell: object) -> str | None:
    """A cell as text, `None` if it is missing. 5 and 5.0, true and True are the same category."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return None
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    text = str(cell).strip()
    return (text.lower() if text.lower() in ("true", "false") else text) or None


def as_float32(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """Numbers as models take them; what is not finite there is missing."""
    with np.errstate(over="ignore"):
        found = values.astype(np.float32)
    found[~np.isfinite(found)] = np.nan
    return found


@dataclass(frozen=True, slots=True)
class Column:
    """One column: of numbers, or of text with these categories, sorted."""

    name: str
    categories: tuple[str, ...] | None = None

    def encode(self, cells: Sequence[object]) -> NDArray[np.float64]:
        """The cells of some rows as numbers, float64 (n,).

        Raises:
            BadRows: a cell of a column of numbers is none.
        """
        if self.categories is not None:
            codes = {name: float(code) for code, name in enumerate(self.categories)}
            return np.array([codes.get(category_of(cell) or "", math.nan) for cell in cells], np.float64)
        found = [number_of(cell) for cell in cells]
        if None in found:
            row = found.index(None)
            raise BadRows(f"row {row + 1}: {self.name} is no number: {str(cells[row])[:40]!r}")
        return np.array(found, np.float64)


@dataclass(frozen=True, slots=True)
class TableSchema:
    """What a table's model takes and gives.

    Attributes:
        columns: its features, in order.
        target: the column that it predicts.
        classes: the classes that it tells apart, in the order of its probabilities; `None` if it predicts a number.
        ignored: columns of the table that no feature was made of.
    """

    columns: tuple[Column, ...]
    target: str
    classes: tuple[str, ...] | None = None
    ignored: tuple[str, ...] = ()

    @property
    def feature_set(self) -> dict[str, Any]:
        """What a manifest says of the features; also their fingerprint."""
        categories = {column.name: list(column.categories) for column in self.columns if column.categories is not None}
        names = [column.name for column in self.columns]
        found = {"name": TABLE, "version": 1, "columns": names, "categories": categories}
        return found | ({"ignored": list(self.ignored)} if self.ignored else {})

    @property
    def target_set(self) -> dict[str, Any]:
        """What a manifest says of the target."""
        return {"column": self.target} | ({} if self.classes is None else {"classes": list(self.classes)})

    @classmethod
    def of(cls, manifest: Manifest) -> Self:
        """The schema of a version.

        Raises:
            NoTable: it is of a series.
            BadModel: the manifest is damaged.
        """
        features, target = manifest.feature_set, manifest.target
        if features.get("name") != TABLE:
            raise NoTable(
                f"{manifest.name} is a model of a series, which scorers ask at every bar: `red10 predictions "
                f"{manifest.name.rpartition('/')[0]}` shows what it says"
            )
        try:
            categories = features["categories"]
            columns = tuple(
                Column(name, tuple(categories[name]) if name in categories else None) for name in features["columns"]
            )
            classes = tuple(target["classes"]) if "classes" in target else None
            return cls(columns, target["column"], classes, tuple(features.get("ignored", ())))
        except (KeyError, TypeError) as error:
            raise BadModel(f"{manifest.name}: the manifest describes no table ({error!r})") from error

    def encode(self, rows: Sequence[Mapping[str, object]]) -> NDArray[np.float32]:
        """Rows as the model takes them, float32 (n, features).

        Args:
            rows: column -> cell. The column that is predicted may be there, and those that are ignored: they are passed
                over.

        Raises:
            BadRows: a row has other columns, or a cell of a column of numbers is none.
        """
        names = [column.name for column in self.columns]
        known = {*names, self.target, *self.ignored}
        for number, row in enumerate(rows, 1):
            if not isinstance(row, Mapping):
                raise BadRows(
                    f"row {number} does not name its columns: rows are a list of {{column: cell}}, of a DataFrame "
                    'df.to_dict("records")'
                )
            missing = [name for name in names if name not in row]
            unknown = [name for name in row if name not in known]
            if missing or unknown:
                raise BadRows(f"row {number} {_wrong(missing, unknown)}; expected are {', '.join(names)}")
        encoded = [column.encode([row[column.name] for row in rows]) for column in self.columns]
        return as_float32(np.column_stack(encoded)) if rows else np.empty((0, len(names)), np.float32)


def _wrong(missing: Sequence[str], unknown: Sequence[str]) -> str:
    parts = [f"lacks {', '.join(missing)[:200]}"] if missing else []
    parts += [f"has unknown columns ({', '.join(map(str, unknown))[:200]})"] if unknown else []
    return " and ".join(parts)
