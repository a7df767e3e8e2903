"""Times as people write and read them. Pure; the present is passed in."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from streams.errors import Red10Error

_AGO = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)", re.ASCII)
_UNIT_NS = {
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60 * 1_000_000_000,
    "h": 3600 * 1_000_000_000,
    "d": 86_400 * 1_000_000_000,
    "w": 7 * 86_400 * 1_000_000_000,
}
#: Numbers below the bound are in a unit of so many nanoseconds; the same rule as for times in files.
_UNITS = ((10**11, 1_000_000_000), (10**14, 1_000_000), (10**17, 1_000), (2**63, 1))


class BadTime(Red10Error):
    """A text that is no time."""


def parse_time(text: str, now_ns: int) -> int:
    """Read a time as epoch ns.

    Args:
        text: `now`; `10m`, `2h`, `3d` (so long ago); ISO 8601 (`2024-05-01`, `2024-05-01T14:30:00Z`; UTC unless it says
            otherwise); or a number since the epoch, in s, ms, us or ns by its magnitude.
        now_ns: the present.

    Raises:
        BadTime: it is none of these.
    """
    if text == "now":
        return now_ns
    ago = _AGO.fullmatch(text)
    if ago:
        return now_ns - round(float(ago[1]) * _UNIT_NS[ago[2]])
    if text.isascii() and text.isdigit():
        for bound, unit_ns in _UNITS:
            if int(text) < bound:
                return int(text) * unit_ns
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise BadTime(
            f"{text[:60]!r} is no time: write now, 10m or 2h (ago), 2024-05-01, 2024-05-01T14:30:00Z, "
            "or epoch seconds or nanoseconds"
        ) from None
    return datetime_ns(moment if moment.tzinfo else moment.replace(tzinfo=UTC))


def datetime_ns(moment: datetime) -> int:
    """Epoch ns of an aware moment, exact to the microsecond."""
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return ((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds) * 1000


def show_ns(ns: int | None) -> str | None:
    """A time in UTC, to the second: `2024-05-01 14:30:00`."""
    if ns is None:
        return None
    return datetime.fromtimestamp(ns // 1_000_000_000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def show_ms(ms: int | None) -> str | None:
    """The same for epoch ms."""
    return show_ns(None if ms is None else ms * 1_000_000)


def show_age(seconds: float | None) -> str | None:
    """A length of time in its largest unit: `3.2 s`, `5 min`, `2.5 d`."""
    if seconds is None:
        return None
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"
