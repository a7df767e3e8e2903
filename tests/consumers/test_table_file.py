from __future__ import annotations

import io
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from consumers import table_file
from consumers.datasets import BadDataset, RawDataset
from consumers.table_file import parse_rows, parse_table
from modelstore.tabular import Column

NAN = np.nan


def csv(text: str | bytes) -> RawDataset:
    return RawDataset("t.csv", False, text if isinstance(text, bytes) else text.encode())


def parquet(columns: dict[str, Any]) -> RawDataset:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return RawDataset("t.parquet", True, file.getvalue())


def refused(dataset: RawDataset) -> str:
    with pytest.raises(BadDataset) as caught:
        parse_table(dataset)
    return str(caught.value)


def test_columns_are_numbers_or_text_and_missing_cells_are_nan() -> None:
    table = parse_table(csv("\ufeffa, b ,c\n1,x,\n,y,2e3\nNA, x,?\n\n"))
    assert table.columns == (Column("a"), Column("b", ("x", "y")), Column("c"))
    np.testing.assert_array_equal(table.values, [[1, 0, NAN], [NAN, 1, 2000], [NAN, 0, NAN]])


def test_one_word_among_numbers_makes_a_column_of_text() -> None:
    table = parse_table(csv("a,b\n1,1\nx,1\n10,1\n"))
    assert table.columns[0] == Column("a", ("1", "10", "x"))


def test_the_same_table_is_the_same_from_csv_and_from_parquet() -> None:
    columns = {
        "n": pa.array([1, None, 3], pa.int32()),
        "f": pa.array([0.5, 1.5, None], pa.float64()),
        "t": pa.array(["x", None, "y"]),
        "d": pa.array(["p", "q", "p"]).dictionary_encode(),
        "b": pa.array([True, False, None]),
    }
    text = "n,f,t,d,b\n1,0.5,x,p,True\n,1.5,,q,False\n3,,y,p,\n"
    one, other = parse_table(csv(text)), parse_table(parquet(columns))
    assert one.columns == other.columns
    np.testing.assert_array_equal(one.values, other.values)
    assert one.fingerprint() == other.fingerprint()


def test_the_fingerprint_is_of_the_content() -> None:
    base = parse_table(csv("a,b\n1,x\n2,y\n")).fingerprint()
    assert len(base) == 64
    others = [
        "a,c\n1,x\n2,y\n",
        "a,b\n1,x\n3,y\n",
        "a,b\n1,x\n2,z\n",
        "a,b\n2,y\n1,x\n",
        "b,a\nx,1\ny,2\n",
        "a,b\n1,x\n,y\n",
    ]
    assert len({base, *(parse_table(csv(text)).fingerprint() for text in others)}) == 7


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no rows"),
        ("a,b\n", "no rows"),
        ("a,b\n1,2\n1,2,3\n", "row 2 has 3 values, the header 2 columns"),
        ("a,b\n1\n", "row 1 has 1 values"),
        ("a;b\n1;2\n", "separated by commas"),
        ("a,a\n1,2\n", "a name of its own; a has none"),
        ("a,\n1,2\n", "a name of its own"),
        ('a,b\n1,"2\n', "row 1 cannot be read as CSV"),
        ('a,b\n1,"2"x\n', "row 1 cannot be read as CSV"),
        (b"a,b\n\xff,2\n", "is not UTF-8"),
        ("a,b\n1," + "x" * 200_000 + "\n", "field larger"),
    ],
)
def test_a_file_that_is_no_table_is_refused_with_the_place(text: str | bytes, said: str) -> None:
    assert said in refused(csv(text))


def test_a_parquet_file_that_is_none_or_holds_what_no_model_takes_is_refused() -> None:
    assert "cannot be read as Parquet" in refused(RawDataset("t.parquet", True, b"PAR1 no PAR1"))
    good = parquet({"a": [1, 2], "b": [3, 4]}).raw
    for at in range(0, len(good), 7):
        broken = bytes([*good[:at], good[at] ^ 0xFF, *good[at + 1 :]])
        try:
            parse_table(RawDataset("t.parquet", True, broken))
        except BadDataset:
            continue
    assert "column when holds timestamp" in refused(parquet({"a": [1], "when": pa.array([0], pa.timestamp("ns"))}))
    assert "column l holds list" in refused(parquet({"l": [[1]], "a": [1]}))


def test_a_table_of_too_many_cells_is_refused_before_it_is_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_file, "MAX_CELLS", 7)
    assert "7 cells" in refused(csv("a,b\n" + "1,2\n" * 4))
    assert "7 cells" in refused(parquet({"a": [1] * 4, "b": [1] * 4}))
    parse_table(csv("a,b\n" + "1,2\n" * 3))
    monkeypatch.setattr(table_file, "MAX_COLUMNS", 1)
    assert "1 columns" in refused(csv("a,b\n1,2\n"))


def test_rows_keep_their_cells_and_are_bounded() -> None:
    assert parse_rows(csv("a,b\n1,\nx,2\n"), 2) == [{"a": "1", "b": ""}, {"a": "x", "b": "2"}]
    assert parse_rows(parquet({"a": [1, None], "b": ["x", "y"]}), 2) == [{"a": 1, "b": "x"}, {"a": None, "b": "y"}]
    with pytest.raises(BadDataset, match="has 2 rows, 1 at most"):
        parse_rows(csv("a\n1\n2\n"), 1)
