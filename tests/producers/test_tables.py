"""Files of ticks and bars are read whatever their columns are called, and refused with the row and what to do."""

from __future__ import annotations

import gzip
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.bars import Bars, to_ticks
from producers.errors import BadTable
from producers.sample import load_stocks
from producers.tables import load_ticks, read_table
from streams.columns import Ticks
from streams.errors import ConfigurationError
from streams.series import Interval

DAY = 86_400_000_000_000
T0 = 1_378_072_800_000_000_000  # 2013-09-01T22:00:00Z


def write(directory: Path, text: str, name: str = "table.csv") -> Path:
    path = directory / name
    path.write_text(text)
    return path


def ticks(path: Path, **options: Any) -> Ticks:
    found = read_table(path, **options)
    assert isinstance(found, Ticks)
    return found


def bars(path: Path, **options: Any) -> Bars:
    found = read_table(path, **options)
    assert isinstance(found, Bars)
    return found


@pytest.mark.parametrize("header", ["symbol,price,size,ts", "Ticker,Last,Volume,Timestamp", "SYM,px,Qty, Time"])
def test_columns_are_found_by_their_usual_names(tmp_path: Path, header: str) -> None:
    found = ticks(write(tmp_path, f"{header}\nSPY,1.5,2,{T0}\nNA,2.5,3,{T0 + 1}\n"))
    assert found.names == ("SPY", "NA")
    assert found.price.tolist() == [1.5, 2.5]
    assert found.size.tolist() == [2, 3]
    assert found.ts.tolist() == [T0, T0 + 1]


def test_quotes_and_ids_are_kept_and_other_columns_passed_over(tmp_path: Path) -> None:
    found = ticks(write(tmp_path, f"ts,symbol,price,bid,ask,id,venue\n{T0},A,1,0.5,,007,X\n{T0},A,1,,1.5,,Y\n"))
    assert found.ids is not None
    assert found.ids.tolist() == ["007", None]
    assert found.bid is not None
    assert found.ask is not None
    np.testing.assert_array_equal(found.bid, [0.5, np.nan])
    np.testing.assert_array_equal(found.ask, [np.nan, 1.5])
    assert found.size.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("stamp", "tz", "ns"),
    [
        (f"{T0}", "UTC", T0),
        (f"{T0 // 10**9}", "UTC", T0),
        (f"{T0 // 10**6 + 83}", "UTC", T0 + 83_000_000),
        (f"{T0 // 10**3 + 7}", "UTC", T0 + 7000),
        (f"{T0 // 10**9}.250001", "UTC", T0 + 250_001_000),
        ("2013-09-01T22:00:00.083Z", "Asia/Tokyo", T0 + 83_000_000),
        ("2013-09-02T00:00:00+02:00", "UTC", T0),
        ("2013-09-01 22:00:00", "UTC", T0),
        ("2013-09-01 18:00:00.5", "America/New_York", T0 + 500_000_000),
        ("2013-09-02", "America/New_York", T0 + 7_200_000_000_000),
    ],
)
def test_times_are_read_in_every_form(tmp_path: Path, stamp: str, tz: str, ns: int) -> None:
    assert ticks(write(tmp_path, f"symbol,price,ts\nA,1,{stamp}\n"), tz=tz).ts.tolist() == [ns]


@given(st.integers(2 * 10**17, 2**63 - 1))
def test_nanoseconds_keep_every_digit(tmp_path_factory: pytest.TempPathFactory, ns: int) -> None:
    path = write(tmp_path_factory.mktemp("t"), f"symbol,price,ts\nA,1,{ns}\n")
    assert ticks(path).ts.tolist() == [ns]


def test_parquet_is_read_like_csv(tmp_path: Path) -> None:
    frame = pd.DataFrame({"ts": pd.to_datetime([T0, T0 + 10**6], utc=True), "price": [1.5, 2.5], "size": [1, 2]})
    path = tmp_path / "es.parquet"
    frame.astype({"ts": "datetime64[ms, UTC]"}).to_parquet(path)
    found = ticks(path, symbol="ES")
    assert found.names == ("ES",)
    assert found.ts.tolist() == [T0, T0 + 10**6]
    daily = {name: [1.0] for name in ("open", "high", "low", "close", "volume")}
    pd.DataFrame({"date": [date(2013, 9, 2)], "symbol": ["A"], **daily}).to_parquet(path)
    assert bars(path).start.tolist() == [T0 + 7_200_000_000_000]


def test_the_vendored_file_is_read_as_daily_bars() -> None:
    path = Path(load_stocks.__code__.co_filename).parent / "data" / "stocks.csv.gz"
    found = bars(path)
    assert len(found) == 12_154
    assert str(found.interval) == "1d"
    assert found.names == ("AAPL", "FB", "GOOG", "IBM", "MSFT")
    assert (np.diff(found.start) >= 0).all()
    apple = found.codes == 0
    assert found.close[apple][-1] == load_stocks()["AAPL"].close[-1]
    assert len(load_ticks(path)) == 4 * 12_154


BAR = "symbol,datetime,open,high,low,close,volume\n"


def test_bars_with_stamps_of_a_zone_become_four_ticks_each(tmp_path: Path) -> None:
    path = write(tmp_path, BAR + "A,2025-05-12 09:30:00,2,4,1,3,10\nA,2025-05-12 09:35:00,3,4,1,2,2.5\n")
    found = bars(path, tz="America/New_York")
    assert found.interval == Interval(300)
    opening = datetime(2025, 5, 12, 13, 30, tzinfo=UTC)
    assert found.start[0] == int(opening.timestamp()) * 10**9
    made = to_ticks(found)
    assert made.price.tolist() == [2, 1, 4, 3, 3, 4, 1, 2]
    assert made.size.tolist() == [2, 2, 2, 4, 0, 0, 0, 2.5]
    assert np.diff(made.ts).tolist() == [75 * 10**9] * 7


def test_rows_may_stand_symbol_by_symbol_and_come_out_by_time(tmp_path: Path) -> None:
    found = ticks(write(tmp_path, f"symbol,price,ts\nA,1,{T0}\nA,2,{T0 + 2}\nB,3,{T0}\nB,4,{T0 + 1}\n"))
    assert found.price.tolist() == [1, 3, 4, 2]


def test_unsorted_rows_are_refused_or_sorted(tmp_path: Path) -> None:
    path = write(tmp_path, f"symbol,price,ts\nA,1,{T0}\nB,2,{T0 + 5}\nA,3,{T0 + 2}\nA,4,{T0 + 1}\n")
    with pytest.raises(BadTable, match=r"row 4 is earlier than the row before it of the same symbol.*--sort"):
        read_table(path)
    assert ticks(path, sort=True).price.tolist() == [1, 4, 3, 2]


def test_ticks_may_repeat_and_bars_may_not(tmp_path: Path) -> None:
    assert len(ticks(write(tmp_path, f"symbol,price,ts\nA,1,{T0}\nA,1,{T0}\n"))) == 2
    day = "2025-05-12,1,1,1,1,1\n"
    path = write(tmp_path, BAR + f"A,{day}B,{day}A,{day}")
    with pytest.raises(BadTable, match="row 3 is a second bar of A at the same time"):
        read_table(path, sort=True)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "the file is empty"),
        ("symbol,price,ts\n", "no rows"),
        ("a,b\n1,2\n", r"has the columns a, b, but lacks symbol .*; ts .*; price .*--symbol.*bars"),
        (BAR.replace(",volume", "") + "A,2025-05-12,1,1,1,1\n", "lacks volume"),
        (f"symbol,price,ts\nA,1,{T0}\nA,,{T0}\n", r"row 2: price is ''; it must be a number above zero"),
        (f"symbol,price,ts\nA,-1,{T0}\n", r"row 1: price is '-1'"),
        (f"symbol,price,ts\nA,x,{T0}\n", r"row 1: price is 'x'"),
        (f"symbol,price,ts\nA,inf,{T0}\n", r"row 1: price is 'inf'"),
        (f"symbol,price,size,ts\nA,1,-5,{T0}\n", r"row 1: size is '-5'; it must be a number that is zero or more"),
        (f"symbol,price,ts\nA,1_0,{T0}\n", r"row 1: price is '1_0'"),
        (f"symbol,price,bid,ts\nA,1,NA,{T0}\nA,1,x,{T0}\n", r"row 2: bid is 'x', no number"),
        ("symbol,price,ts\nA,1,99999999999999999999\n", r"row 1: the time '99999999999999999999' lies beyond"),
        (f"symbol,price,bid,ts\nA,1,0,{T0}\n", r"row 1: bid is 0.0"),
        (f"symbol,price,ts\na:b,1,{T0}\n", r"row 1: 'a:b' cannot be a symbol"),
        (f"symbol,price,ts\n,1,{T0}\n", r"row 1: '' cannot be a symbol"),
        ("symbol,price,ts\nA,1,yesterday\n", r"row 1: the time 'yesterday' is no time"),
        ("symbol,price,ts\nA,1,\n", r"row 1: the time '' is no time"),
        ("symbol,price,ts\nA,1,2013-09-02T00:00:00Z\nA,1,2013-09-02T00:00:00\n", r"row 2: .* all stamps name a zone"),
        ("symbol,price,ts\nA,1,1960-01-01\n", r"outside the years 1970 to 2261"),
        ("symbol,price,ts\nA,1,-5\n", r"row 1: the time '-5'"),
        (BAR + "A,2025-05-12,5,4,1,3,1\n", "row 1: open or close lies outside low to high"),
        (BAR + "A,2025-05-12T09:30:00,1,1,1,1,1\n", "--interval"),
        (
            BAR + "A,2025-05-12T09:30:01,1,1,1,1,1\nA,2025-05-12T09:35:01,1,1,1,1,1\n",
            r"row 1: a bar of 5m does not begin",
        ),
        (BAR + "A,2025-05-12T09:30:00,1,1,1,1,1\nA,2025-05-12T09:30:07,1,1,1,1,1\n", "is 7 s, no length of bars"),
        ('symbol,price,ts\nA,1,"2\n', "cannot be read"),
        (f"symbol,ts,price,venue\nA,{T0},1,000.5,X\n", "row 1 has more values than the header has columns"),
        (f"symbol,ts,price,venue\nA,{T0},1,X\nA,{T0},1,000.5,X\n", "Expected 4 fields in line 3, saw 5"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, text: str, says: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(BadTable, match=says) as caught:
        read_table(path)
    assert str(path) in str(caught.value)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadTable, match="no such file"):
        read_table(tmp_path / "gone.csv")
    with pytest.raises(BadTable, match="is a directory"):
        read_table(tmp_path)
    with pytest.raises(BadTable, match="no known kind"):
        read_table(write(tmp_path, "x", "table.xlsx"))
    with pytest.raises(BadTable, match="damaged or no gzip"):
        read_table(write(tmp_path, "symbol,price,ts\n", "table.csv.gz"))
    with pytest.raises(BadTable, match="cannot be read"):
        read_table(write(tmp_path, "no parquet", "table.parquet"))
    whole = gzip.compress(b"symbol,price,ts\n" + b"A,1,1378072800000000000\n" * 9999)
    cut = tmp_path / "cut.csv.gz"
    cut.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadTable, match="damaged"):
        read_table(cut)
    latin = tmp_path / "latin.csv"
    latin.write_bytes("symbol,price,ts\nÄ,1,1378072800\n".encode("latin-1"))
    with pytest.raises(BadTable, match="UTF-8"):
        read_table(latin)


def test_zones_and_clock_changes_are_checked(tmp_path: Path) -> None:
    path = write(tmp_path, "symbol,price,ts\nA,1,2013-11-03T01:30:00\n")
    with pytest.raises(BadTable, match="no single time in America/New_York"):
        read_table(path, tz="America/New_York")
    with pytest.raises(ConfigurationError, match="no time zone"):
        read_table(path, tz="Mars/Olympus")
