"""Reading a column of times, in whatever form a table has them, as epoch nanoseconds. Needs pandas.

    form                                                read as
    2013-09-02                                          midnight UTC of the date, whatever the time zone
    2013-09-02 09:30:00, 2013-09-02T09:30:00.123        local time in the zone given (UTC unless said)
    2013-09-02T09:30:00Z, …+02:00                       the time it says
    a number below 1e11 (year 5138)                     epoch seconds; fractions are kept to the microsecond
                  below 1e14                            epoch milliseconds, the same
                  below 1e17                            epoch microseconds
                  above                                 epoch nanoseconds

One unit holds for a whole column: the one of its largest number.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
from numpy.typing import NDArray

from producers.errors import BadTable
from streams.errors import ConfigurationError

if TYPE_CHECKING:
    import pandas as pd

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_NUMBER = re.compile(r"\d+(\.\d*)?([eE]\+?\d+)?")
#: Numbers below the bound are in a unit of so many nanoseconds.
_UNITS = ((10**11, 1_000_000_000), (10**14, 1_000_000), (10**17, 1_000), (math.inf, 1))


def zone(name: str) -> ZoneInfo:
    """A time zone by its IANA name, such as America/New_York.

    Raises:
        ConfigurationError: there is none of that name.
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ConfigurationError(f"{name!r} is no time zone: give an IANA name such as America/New_York") from None


def read_stamps(column: pd.Series[Any], tz: str, source: str) -> tuple[NDArray[np.int64], bool]:
    """Read a column of times.

    Args:
        column: text, numbers, dates or time stamps.
        tz: zone of stamps that name none.
        source: file and column, for messages.

    Returns:
        Epoch ns, int64 (n,); and whether all are dates without a time of day.

    Raises:
        BadTable: a value is no time; the message names the row.
    """
    import pandas as pd

    if isinstance(column.dtype, pd.DatetimeTZDtype):
        return _to_ns(column.dt.tz_convert("UTC").dt.tz_localize(None), column, source), False
    if pd.api.types.is_datetime64_dtype(column.dtype):
        return _localized(column, tz, column, source), False
    if pd.api.types.is_numeric_dtype(column.dtype) and not pd.api.types.is_bool_dtype(column.dtype):
        return _numbers(column, source), False
    text = column.map(lambda value: "" if pd.isna(value) else str(value).strip()).astype(str)
    if text.map(lambda value: _NUMBER.fullmatch(value) is not None).all():
        return _numbers(text, source), False
    if text.map(lambda value: _DATE.fullmatch(value) is not None).all():
        return _to_ns(pd.to_datetime(text, format="%Y-%m-%d", errors="coerce"), column, source), True
    return _iso(text, tz, source), False


def _iso(text: pd.Series[str], tz: str, source: str) -> NDArray[np.int64]:
    import pandas as pd

    # A sign after the day of the month, or a Z, names a zone.
    aware = text.str.contains(r"(?:Z|z|[+-]\d{2}:?\d{2})$", regex=True) & (text.str.len() > 10)
    if aware.all():
        whole = pd.to_datetime(text, format="ISO8601", utc=True, errors="coerce")
        return _to_ns(whole.dt.tz_localize(None), text, source)
    if aware.any():
        row = int(np.argmax((aware != aware.iloc[0]).to_numpy()))
        raise BadTable(
            source, f"row {row + 1}: {text.iloc[row]!r} and {text.iloc[0]!r}: all stamps name a zone, or none"
        )
    return _localized(pd.to_datetime(text, format="ISO8601", errors="coerce"), tz, text, source)


def _localized(naive: pd.Series[Any], tz: str, shown: pd.Series[Any], source: str) -> NDArray[np.int64]:
    if naive.isna().any():
        _refuse(naive, shown, source, "no time: write 2013-09-02T09:30:00, a date, or an epoch number")
    local = naive.dt.tz_localize(zone(tz), ambiguous="NaT", nonexistent="NaT")
    if local.isna().any():
        _refuse(local, shown, source, f"no single time in {tz} (the clock was changed then): give stamps with a zone")
    return _to_ns(local.dt.tz_convert("UTC").dt.tz_localize(None), shown, source)


def _to_ns(stamps: pd.Series[Any], shown: pd.Series[Any], source: str) -> NDArray[np.int64]:
    if stamps.isna().any():
        _refuse(stamps, shown, source, "no time: write 2013-09-02T09:30:00, a date, or an epoch number")
    years = stamps.dt.year
    outside = (years < 1970) | (years > 2261)
    if outside.any():
        _refuse(stamps.mask(outside), shown, source, "outside the years 1970 to 2261")
    return stamps.to_numpy().astype("datetime64[ns]").astype(np.int64)


def _numbers(column: pd.Series[Any], source: str) -> NDArray[np.int64]:
    values = [_number(value) for value in column]
    for row, value in enumerate(values):
        if value is None:
            raise BadTable(source, f"row {row + 1}: the time {str(column.iloc[row])!r} is no epoch number")
    known = [value for value in values if value is not None]
    largest = max(known, default=0)
    unit = next(ns for bound, ns in _UNITS if largest < bound)
    if largest * unit >= 2**63:
        row = known.index(largest)
        raise BadTable(source, f"row {row + 1}: the time {str(column.iloc[row])!r} lies beyond the year 2261")
    return np.array([_scaled(value, unit) for value in known], np.int64)


def _number(value: object) -> int | float | None:
    """An epoch number, exact if it is whole; `None` for what is none."""
    try:
        text = str(value)
        number = int(text) if text.isdigit() else float(text)
    except ValueError:
        return None
    return number if 0 <= number < math.inf else None


def _scaled(value: int | float, unit: int) -> int:
    if isinstance(value, int) or unit == 1:
        return int(value) * unit
    # A double holds today's epoch seconds to a fraction of a microsecond: finer digits are noise.
    return round(value * (unit // 1000)) * 1000


def _refuse(bad: pd.Series[Any], shown: pd.Series[Any], source: str, why: str) -> None:
    row = int(np.argmax(bad.isna().to_numpy()))
    value = shown.iloc[row]
    raise BadTable(source, f"row {row + 1}: the time {str(value)!r} is {why}")
