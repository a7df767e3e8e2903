"""What the data is called: symbols, intervals, series, tenants, and the partition a symbol belongs to.

Every name is checked here before it becomes part of a key. Pure; no I/O.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from typing import NamedTuple

from streams.errors import BadName

#: Longest symbol, in characters; cryptofeed's and NautilusTrader's instrument ids fit.
MAX_SYMBOL = 64
#: Letters, digits and `. _ - / = ^ @ + # $ &`: what exchanges use. No `:` (separates key parts), no braces (hash tags).
_SYMBOL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._\-/=^@+#$&]{0,63}", re.ASCII)
_TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._\-]{0,63}", re.ASCII)
_INTERVAL = re.compile(r"([1-9][0-9]{0,4})([smhd])", re.ASCII)
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}

NS = 1_000_000_000


def check_symbol(text: str) -> str:
    """Return `text` if it can be a symbol.

    Raises:
        BadName: it cannot; the message names the characters allowed.
    """
    if _SYMBOL.fullmatch(text):
        return text
    raise BadName(
        f"{text[:80]!r} cannot be a symbol: use 1 to {MAX_SYMBOL} of the letters A-Z a-z, digits and "
        ". _ - / = ^ @ + # $ &, beginning with a letter or digit"
    )


def check_tenant(text: str) -> str:
    """Return `text` if it can be a tenant's name.

    Raises:
        BadName: it cannot.
    """
    if _TENANT.fullmatch(text):
        return text
    raise BadName(
        f"{text[:80]!r} cannot be a tenant: use 1 to 64 of the letters A-Z a-z, digits and . _ -, "
        "beginning with a letter or digit"
    )


def partition_of(symbol: str, partitions: int) -> int:
    """The partition of `symbol`: zlib's CRC-32 of its UTF-8 bytes, modulo the partition count."""
    return zlib.crc32(symbol.encode()) % partitions


@dataclass(frozen=True, slots=True, order=True)
class Interval:
    """The length of a bar, 1 s to 1 day, dividing the day: `1m`, `15m`, `1h`, `1d`. Ordered by length."""

    seconds: int

    @classmethod
    def parse(cls, text: str) -> Interval:
        """Read `"1m"`; `"60s"` and `"1m"` are the same interval.

        Raises:
            BadName: the text is no interval, is out of range, or does not divide a day.
        """
        match = _INTERVAL.fullmatch(text)
        seconds = int(match[1]) * _UNIT_S[match[2]] if match else 0
        if not 1 <= seconds <= 86400 or 86400 % seconds:
            raise BadName(
                f"{text[:40]!r} cannot be an interval: use a number and s, m, h or d, from 1s to 1d, "
                "that divides a day (1s, 5s, 1m, 15m, 1h, 1d)"
            )
        return cls(seconds)

    @property
    def ns(self) -> int:
        """The length in nanoseconds."""
        return self.seconds * NS

    def __str__(self) -> str:
        for unit in "dhms":
            if self.seconds % _UNIT_S[unit] == 0:
                return f"{self.seconds // _UNIT_S[unit]}{unit}"
        raise AssertionError("unreachable: every interval is a number of seconds")


class Series(NamedTuple):
    """A symbol at an interval, written `SPY:1m`: what bars, models and signals are about."""

    symbol: str
    interval: Interval

    @classmethod
    def parse(cls, text: str) -> Series:
        """Read `"SPY:1m"`.

        Raises:
            BadName: the text is no series.
        """
        symbol, sep, interval = text.partition(":")
        if not sep:
            raise BadName(f"{text[:80]!r} is no series: write SYMBOL:INTERVAL, such as SPY:1m")
        return cls(check_symbol(symbol), Interval.parse(interval))

    def __str__(self) -> str:
        return f"{self.symbol}:{self.interval}"
