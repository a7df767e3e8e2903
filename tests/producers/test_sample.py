"""The sample data is whole, and adjusted for the splits that took place and for nothing else."""

from __future__ import annotations

from datetime import date

import numpy as np
import pytest

from producers.bars import to_ticks
from producers.sample import load_iris, load_stocks, split_ratios, stock_splits


def test_exactly_the_three_splits_are_found() -> None:
    assert [(s.symbol, s.day, s.ratio) for s in stock_splits()] == [
        ("AAPL", date(2000, 6, 21), 2.0),
        ("AAPL", date(2005, 2, 28), 2.0),
        ("MSFT", date(2003, 2, 18), 2.0),
    ]


def test_the_stocks_are_whole_and_the_real_crash_stays() -> None:
    stocks = load_stocks()
    assert {symbol: len(bars) for symbol, bars in stocks.items()} == {
        "AAPL": 3270,
        "FB": 196,
        "GOOG": 2148,
        "IBM": 3270,
        "MSFT": 3270,
    }
    falls = {
        symbol: [
            (np.datetime64(int(bars.start[row + 1]), "ns").astype("datetime64[D]").item(), float(change))
            for row, change in enumerate(bars.close[1:] / bars.close[:-1] - 1)
            if change < -0.3
        ]
        for symbol, bars in stocks.items()
    }
    [(day, fall)] = falls.pop("AAPL")
    assert day == date(2000, 9, 29)
    assert fall == pytest.approx(-0.519, abs=0.001)
    assert not any(falls.values())


def test_earlier_prices_are_divided_and_volumes_multiplied() -> None:
    apple = load_stocks()["AAPL"]
    assert apple.open[0] == 118.56 / 4
    assert apple.volume[0] == 9616100 * 4
    assert apple.close[-1] == 430.47
    assert (apple.high >= np.maximum(apple.open, apple.close)).all()
    assert (apple.low <= np.minimum(apple.open, apple.close)).all()


def test_a_dividend_is_no_split_and_a_reverse_split_is_one() -> None:
    adjusted = np.array([10.0, 10.0, 10.0, 10.0])
    assert split_ratios(np.array([11.1, 10.0, 10.0, 10.0]), adjusted) == {}
    assert split_ratios(np.array([10.0, 10.0, 29.7, 30.0]), adjusted) == {2: 1 / 3}
    assert split_ratios(np.array([15.0, 15.0, 10.1, 10.0]), adjusted) == {2: 1.5}


def test_a_bar_rebuilt_from_its_ticks_is_the_bar() -> None:
    for bars in load_stocks().values():
        ticks = to_ticks(bars)
        price, size = ticks.price.reshape(-1, 4), ticks.size.reshape(-1, 4)
        assert (ticks.ts.reshape(-1, 4) // bars.interval.ns * bars.interval.ns == bars.start[:, None]).all()
        assert (np.diff(ticks.ts) > 0).all()
        assert (price[:, 0] == bars.open).all()
        assert (price.max(axis=1) == bars.high).all()
        assert (price.min(axis=1) == bars.low).all()
        assert (price[:, 3] == bars.close).all()
        assert (((size[:, 0] + size[:, 1]) + size[:, 2]) + size[:, 3] == bars.volume).all()


def test_the_irises_are_there() -> None:
    iris = load_iris()
    assert iris.measures.shape == (150, 4)
    assert iris.columns == ("sepal_length", "sepal_width", "petal_length", "petal_width")
    assert {kind: iris.species.count(kind) for kind in iris.species} == dict.fromkeys(
        ("setosa", "versicolor", "virginica"), 50
    )
