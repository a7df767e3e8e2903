"""Reading files of ticks or bars: CSV (`.csv`, `.csv.gz`) and Parquet. Needs pandas, and pyarrow for Parquet.

Columns are found by name, without regard to case, with blanks counted as `_`; the first name that the file has is
taken, other columns are passed over:

    symbol   symbol, ticker, instrument, sym            (or one symbol for the whole file, given by the caller)
    time     ts, timestamp, datetime, time, date, start (forms: see `producers.stamps`)
    ticks    price, px, last; size, volume, qty, quantity, amount; bid; ask; id, trade_id     (price is needed)
    bars     open; high; low; close; volume, vol, size, qty                                   (all are needed)

A file with open, high, low and close holds bars, any other ticks. A bar's stamp is its start. The whole file is checked
before anything is made of it; the first row that is wrong is named, counted from 1 without the header. Rows may be
ordered by time, or symbol by symbol.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from producers.bars import Bars, to_ticks
from producers.errors import BadTable
from producers.rows import PRICES, bars_of, order_of, symbols_of, ticks_of
from producers.stamps import read_stamps
from streams.columns import Ticks
from streams.errors import ConfigurationError
from streams.series import Interval

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")

_ALIASES = {
    "symbol": ("symbol", "ticker", "instrument", "sym"),
    "ts": ("ts", "timestamp", "datetime", "time", "date", "start"),
}
_TICK_ALIASES = _ALIASES | {
    "price": ("price", "px", "last"),
    "size": ("size", "volume", "qty", "quantity", "amount"),
    "bid": ("bid",),
    "ask": ("ask",),
    "id": ("id", "trade_id"),
}
_BAR_ALIASES = (
    _ALIASES
    | {name: (name,) for name in ("open", "high", "low", "close")}
    | {
        "volume": ("volume", "vol", "size", "qty"),
    }
)


def read_table(
    path: Path | str,
    *,
    symbol: str | None = None,
    tz: str = "UTC",
    sort: bool = False,
    interval: Interval | None = None,
) -> Ticks | Bars:
    """Read a file of ticks or of bars.

    Args:
        path: `.csv`, `.csv.gz` or `.parquet`.
        symbol: the symbol of all rows, for a file without a column of symbols.
        tz: zone of stamps that name none.
        sort: put rows that are out of order into order, instead of refusing them.
        interval: length of the bars; left out, the shortest distance between two bars of a symbol.

    Returns:
        Ticks in order of time, or bars.

    Raises:
        BadTable: the file cannot be read or used; the message says what to do.
        ConfigurationError: no such time zone, or pandas is not installed.
    """
    path = Path(path)
    header = _header(path)
    bars = all(any(name == _plain(column) for column in header) for name in PRICES)
    columns = _columns(path, header, bars, symbol)
    frame = _frame(path, columns)
    if not len(frame):
        raise BadTable(str(path), "the file has a header but no rows")
    names, codes = symbols_of(path, frame, symbol)
    ts, dates = read_stamps(frame["ts"], tz, str(path))
    order = order_of(path, codes, ts, sort)
    if bars:
        by_date = Interval(86_400) if dates else None
        return bars_of(path, frame, names, codes, ts, order, interval or by_date)
    return ticks_of(path, frame, names, codes, ts, order)


def load_ticks(
    path: Path | str,
    *,
    symbol: str | None = None,
    tz: str = "UTC",
    sort: bool = False,
    interval: Interval | None = None,
) -> Ticks:
    """Read a file of ticks, or one of bars as ticks (see `producers.bars`); arguments and errors as `read_table`."""
    table = read_table(path, symbol=symbol, tz=tz, sort=sort, interval=interval)
    return to_ticks(table) if isinstance(table, Bars) else table


def _plain(name: object) -> str:
    return str(name).strip().lower().replace(" ", "_")


def _header(path: Path) -> list[str]:
    try:
        import pandas as pd
        import pyarrow.parquet
    except ImportError as error:
        raise ConfigurationError(
            f"reading files of ticks needs pandas and pyarrow ({error}): pip install red10[train]"
        ) from None
    if not path.exists():
        raise BadTable(str(path), "there is no such file")
    if path.is_dir():
        raise BadTable(str(path), "is a directory; name the files in it")
    if path.name.endswith((".csv", ".csv.gz")):
        return list(_reading(path, lambda: pd.read_csv(path, nrows=0, skipinitialspace=True)).columns)
    if path.name.endswith((".parquet", ".pq")):
        return list(_reading(path, lambda: pyarrow.parquet.read_schema(path)).names)
    raise BadTable(str(path), "is of no known kind: name a .csv, .csv.gz or .parquet file")


def _reading(path: Path, read: Callable[[], T]) -> T:
    """Call `read`, and say what is wrong with the file in words for people."""
    import pandas as pd

    try:
        return read()
    except pd.errors.EmptyDataError:
        raise BadTable(str(path), "the file is empty") from None
    except PermissionError:
        raise BadTable(str(path), "may not be read by this user") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise BadTable(str(path), f"is damaged or no gzip file ({error})") from error
    except UnicodeDecodeError as error:
        raise BadTable(str(path), f"is not UTF-8 text ({error})") from error
    except (OSError, ValueError) as error:
        # pandas.errors.ParserError and pyarrow's errors are ValueErrors.
        raise BadTable(str(path), f"cannot be read: {error}") from error


def _columns(path: Path, header: list[str], bars: bool, symbol: str | None) -> dict[str, str]:
    """Which column of the file is what: our name -> the file's."""
    by_plain: dict[str, str] = {}
    for column in header:
        by_plain.setdefault(_plain(column), column)
    found: dict[str, str] = {}
    for name, aliases in (_BAR_ALIASES if bars else _TICK_ALIASES).items():
        named = next((by_plain[alias] for alias in aliases if alias in by_plain), None)
        if named is not None and named not in found.values():
            found[name] = named
    needed = ("symbol", "ts", *PRICES, "volume") if bars else ("symbol", "ts", "price")
    missing = [name for name in needed if name not in found and not (name == "symbol" and symbol is not None)]
    if missing:
        want = "; ".join(f"{name} ({' or '.join((_BAR_ALIASES if bars else _TICK_ALIASES)[name])})" for name in missing)
        hint = ". For a file of one symbol, give --symbol" if "symbol" in missing else ""
        if "price" in missing:
            hint += ". A file of bars needs open, high, low, close and volume"
        raise BadTable(str(path), f"has the columns {', '.join(map(str, header))}, but lacks {want}{hint}")
    if symbol is not None:
        found.pop("symbol", None)
    return found


def _frame(path: Path, columns: Mapping[str, str]) -> pd.DataFrame:
    import pandas as pd

    ours = {column: name for name, column in columns.items()}
    if not path.name.endswith((".csv", ".csv.gz")):
        frame = _reading(path, lambda: pd.read_parquet(path, columns=list(ours)))
    else:
        # All as text: symbols such as NA, ids such as 007 and every digit of a number survive. All columns: asked for
        # some, pandas takes rows with too many values, as an unquoted 1,000.5 makes them, for good ones.
        frame = _reading(path, lambda: pd.read_csv(path, dtype=str, keep_default_na=False, skipinitialspace=True))
        if not isinstance(frame.index, pd.RangeIndex):
            raise BadTable(str(path), "row 1 has more values than the header has columns: quote values with a comma")
        frame = frame[list(ours)]
    return frame.rename(columns=ours)
