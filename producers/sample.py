"""The sample data that comes with Red10: daily bars of five stocks, and the irises. Needs numpy only.

The stocks' prices are as they were traded, so a split halves them overnight. They are adjusted by this rule, which
looks at nothing but the data: between two sessions, let `r` be yesterday's close over today's, and `a` the same of the
adjusted close. Where `r / a` lies within 2 % of a customary split ratio (`SPLIT_RATIOS` or its inverse), today is a
split day: all earlier prices are divided by the ratio, all earlier volumes multiplied by it. A fall that the adjusted
close shares (AAPL's 52 % on 2000-09-29) has `r / a` near 1 and is none; neither are dividends, MSFT's of 10 % in 2004
included. Dividends stay in the prices.
"""

from __future__ import annotations

import csv
import gzip
import io
from dataclasses import dataclass
from datetime import UTC, date, datetime
from importlib.resources import files
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from producers.bars import Bars
from streams.series import NS, Interval

#: Ratios new : old of splits that companies make.
SPLIT_RATIOS = (5 / 4, 4 / 3, 3 / 2, 2.0, 5 / 2, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 10.0, 15.0, 20.0)
#: How far from the ratio counts as it: closes are rounded, and a dividend may fall on the same day.
SPLIT_TOLERANCE = 0.02

DAY = Interval(86_400)


@dataclass(frozen=True, slots=True)
class Split:
    """A split: from `day` on, each share of before is `ratio` shares."""

    symbol: str
    day: date
    ratio: float


@dataclass(frozen=True, slots=True)
class Iris:
    """The irises.

    Attributes:
        columns: names of the four measures.
        measures: float64 (150, 4), cm.
        species: the kind of each flower.
    """

    columns: tuple[str, ...]
    measures: NDArray[np.float64]
    species: tuple[str, ...]


def _open(name: str) -> TextIO:
    raw = files("producers").joinpath("data", name).read_bytes()
    return io.StringIO((gzip.decompress(raw) if name.endswith(".gz") else raw).decode(), newline="")


def load_stocks() -> dict[str, Bars]:
    """Daily bars of AAPL, FB, GOOG, IBM and MSFT, 2000-03-01 to 2013-03-01, adjusted for splits, by symbol.

    A session's bar is the UTC day of its date. FB begins on 2012-05-18, GOOG on 2004-08-19.
    """
    return {symbol: _adjusted(symbol, rows)[0] for symbol, rows in _rows().items()}


def stock_splits() -> list[Split]:
    """The splits that the rule finds in the sample."""
    return [split for symbol, rows in _rows().items() for split in _adjusted(symbol, rows)[1]]


def load_iris() -> Iris:
    """The 150 irises."""
    with _open("iris.csv") as file:
        reader = csv.reader(file)
        header = next(reader)
        rows = list(reader)
    measures = np.array([[float(value) for value in row[:4]] for row in rows], np.float64)
    return Iris(tuple(header[:4]), measures, tuple(row[4] for row in rows))


def _rows() -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = {}
    with _open("stocks.csv.gz") as file:
        for row in csv.DictReader(file):
            found.setdefault(row["Ticker"], []).append(row)
    return found


def split_ratios(close: NDArray[np.float64], adj_close: NDArray[np.float64]) -> dict[int, float]:
    """Rows that are split days, with their ratio.

    Args:
        close: float64 (n,), closes as traded.
        adj_close: float64 (n,), closes adjusted for splits (and dividends).
    """
    factor = (close[:-1] / close[1:]) / (adj_close[:-1] / adj_close[1:])
    customary = np.array([ratio for r in SPLIT_RATIOS for ratio in (r, 1 / r)])
    off = np.abs(factor[:, None] / customary - 1)
    nearest = off.argmin(axis=1)
    days = np.flatnonzero(off.min(axis=1) <= SPLIT_TOLERANCE)
    return {int(day) + 1: float(customary[nearest[day]]) for day in days}


def _adjusted(symbol: str, rows: list[dict[str, str]]) -> tuple[Bars, list[Split]]:
    def column(name: str) -> NDArray[np.float64]:
        return np.array([float(row[name]) for row in rows], np.float64)

    ratios = split_ratios(column("Close"), column("Adj Close"))
    divisor = np.ones(len(rows))
    for day, ratio in ratios.items():
        divisor[:day] *= ratio
    days = [date.fromisoformat(row["Date"]) for row in rows]
    bars = Bars(
        DAY,
        (symbol,),
        np.zeros(len(rows), np.int32),
        np.array([_midnight_ns(day) for day in days], np.int64),
        column("Open") / divisor,
        column("High") / divisor,
        column("Low") / divisor,
        column("Close") / divisor,
        column("Volume") * divisor,
    )
    return bars, [Split(symbol, days[day], ratio) for day, ratio in ratios.items()]


def _midnight_ns(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * NS
