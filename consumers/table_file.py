"""From the bytes of a dataset to a table, or to rows. CSV by the standard library, Parquet by pyarrow.

A column of CSV holds numbers if every cell that is not missing is one (`modelstore.tabular`), else text. A column of
Parquet holds what its type says; true and false are text. Whole numbers and times beyond 2^53 are rounded.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from consumers.datasets import BadDataset, RawDataset
from modelstore.tabular import Column, category_of, number_of
from streams.errors import ConfigurationError

#: Most cells of a table: beyond, a training process needs some 2 GB.
MAX_CELLS = 20_000_000
#: Most columns; a forest takes 32,767 features.
MAX_COLUMNS = 10_000


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """A table of numbers.

    Attributes:
        columns: names, and the categories of those that hold text.
        values: float64 (rows, columns); categories as codes, missing cells as NaN.
    """

    columns: tuple[Column, ...]
    values: NDArray[np.float64]

    def fingerprint(self) -> str:
        """SHA-256 of the content, whatever kind of file it came from, 64 hex digits."""
        digest = hashlib.sha256(orjson.dumps([[column.name, column.categories] for column in self.columns]))
        digest.update(repr(self.values.shape).encode())
        # NaN has many bit patterns; a missing cell has one.
        digest.update(np.where(np.isnan(self.values), np.nan, self.values).astype("<f8").tobytes())
        return digest.hexdigest()


def parse_table(dataset: RawDataset) -> Table:
    """The table in a dataset.

    Raises:
        BadDataset: it cannot be read, or is none; the message says where.
    """
    names, cells = _columns(dataset)
    columns = [_column(name, found) for name, found in zip(names, cells, strict=True)]
    return Table(tuple(column for column, _ in columns), np.column_stack([values for _, values in columns]))


def parse_rows(dataset: RawDataset, most: int) -> list[dict[str, object]]:
    """The rows of a dataset, column -> cell as it stands there.

    Args:
        most: rows that are taken.

    Raises:
        BadDataset: as `parse_table`; or it has more rows.
    """
    names, cells = _columns(dataset)
    if len(cells[0]) > most:
        raise BadDataset(dataset.name, f"has {len(cells[0])} rows, {most} at most can be predicted at once: split it")
    return [dict(zip(names, row, strict=True)) for row in zip(*cells, strict=True)]


def _column(name: str, cells: Sequence[Any]) -> tuple[Column, NDArray[np.float64]]:
    numbers = [number_of(cell) for cell in cells]
    if None not in numbers:
        return Column(name), np.array(numbers, np.float64)
    found = {text for cell in cells if (text := category_of(cell)) is not None}
    column = Column(name, tuple(sorted(found)))
    return column, column.encode(cells)


def _columns(dataset: RawDataset) -> tuple[list[str], list[Sequence[Any]]]:
    """Names and cells, column by column: at least one of each."""
    names, cells = _parquet(dataset) if dataset.parquet else _csv(dataset)
    if not names or not cells[0]:
        raise BadDataset(dataset.name, "the file has no rows")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice or not all(names):
        raise BadDataset(dataset.name, f"every column needs a name of its own; {', '.join(twice) or 'one'} has none")
    return names, cells


def _check_size(dataset: RawDataset, rows: int, columns: int) -> None:
    if columns > MAX_COLUMNS or rows * columns > MAX_CELLS:
        raise BadDataset(
            dataset.name, f"has more than {MAX_COLUMNS:,} columns or {MAX_CELLS:,} cells: take fewer rows or columns"
        )


def _csv(dataset: RawDataset) -> tuple[list[str], list[Sequence[Any]]]:
    try:
        text = dataset.raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadDataset(dataset.name, f"is not UTF-8 text ({error})") from error
    rows: list[list[str]] = []
    try:
        reader = csv.reader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
        names = [name.strip() for name in next(reader, [])]
        if len(names) == 1 and any(mark in names[0] for mark in ";\t|"):
            raise BadDataset(dataset.name, "has one column: values are to be separated by commas")
        for row in reader:
            if not row:
                continue
            if len(row) != len(names):
                raise BadDataset(
                    dataset.name, f"row {len(rows) + 1} has {len(row)} values, the header {len(names)} columns"
                )
            rows.append(row)
            if len(rows) * len(names) > MAX_CELLS:
                break
    except csv.Error as error:
        raise BadDataset(dataset.name, f"row {len(rows) + 1} cannot be read as CSV: {error}") from error
    _check_size(dataset, len(rows), len(names))
    return names, [list(column) for column in zip(*rows, strict=True)] or [[]]


def _parquet(dataset: RawDataset) -> tuple[list[str], list[Sequence[Any]]]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ConfigurationError(f"reading Parquet needs pyarrow ({error}): pip install red10[train]") from None
    try:
        file = pq.ParquetFile(io.BytesIO(dataset.raw))
        # Before anything is unpacked: a small file may say that it holds a huge table.
        _check_size(dataset, file.metadata.num_rows, file.metadata.num_columns)
        table = file.read()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise BadDataset(dataset.name, f"cannot be read as Parquet: {error}") from error
    for field in table.schema:
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        plain = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_boolean)
        text = (pa.types.is_string, pa.types.is_large_string, pa.types.is_null)
        if not any(test(kind) for test in plain + text):
            raise BadDataset(
                dataset.name,
                f"column {field.name} holds {field.type}; numbers, text and true/false can be used: leave it out",
            )
    return list(table.column_names), [column.to_pylist() for column in table.columns]
