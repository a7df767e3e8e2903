"""What the publishers publish: ticks that follow from a seed alone, so that anyone can say them again at any time.

Every tick of a feed is told apart from all others by symbol and `ts`: the low digits of `ts` are its number. Some come
late within the allowed lateness, some after their bar closed, a few lie in the far future: dead letters are output too.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import NamedTuple

import orjson

#: Event time of the first tick: long ago, so that no run depends on what the clock says.
BASE_NS = 1_600_000_000_000_000_000
#: Ticks of one symbol per second of event time.
TICKS_PER_SECOND = 10
_FAR_NS = 8_000_000_000_000_000_000
_MS = 1_000_000


class FeedTick(NamedTuple):
    """One tick of a feed."""

    symbol: str
    price: float
    size: float
    ts: int


@dataclass(frozen=True, slots=True)
class Feed:
    """One publisher's whole sequence.

    Attributes:
        name: the publisher's name.
        symbols: no other feed has them, so the order per symbol is this feed's.
        count: ticks in all, below a million.
        blocks: what `TickPublisher` is told.
        chunk: ticks per call.
    """

    name: str
    symbols: tuple[str, ...]
    seed: int
    count: int
    blocks: str
    chunk: int

    def ticks(self) -> Iterator[FeedTick]:
        """All of them, in order."""
        choose = random.Random(self.seed)
        step = 1_000_000_000 // (TICKS_PER_SECOND * len(self.symbols))
        prices = dict.fromkeys(self.symbols, 100.0)
        drift = dict.fromkeys(self.symbols, 0.0)
        for number in range(self.count):
            symbol = self.symbols[choose.randrange(len(self.symbols))]
            drift[symbol] = 0.95 * drift[symbol] + 2e-4 * choose.gauss(0, 1)
            prices[symbol] *= math.exp(drift[symbol] + 2e-4 * choose.gauss(0, 1))
            at = BASE_NS + number * step
            luck = choose.random()
            if luck < 0.01:
                at -= choose.randrange(1000, 6000) * _MS
            elif luck < 0.0125:
                at = _FAR_NS + number * step
            else:
                at -= choose.randrange(400) * _MS
            yield FeedTick(symbol, round(prices[symbol], 4), float(choose.randrange(1, 500)), at // _MS * _MS + number)

    def to_json(self) -> str:
        """As text for a command line."""
        return orjson.dumps(asdict(self)).decode()

    @classmethod
    def from_json(cls, text: str) -> Feed:
        """Read `to_json`'s text."""
        found = orjson.loads(text)
        return cls(**{**found, "symbols": tuple(found["symbols"])})


def feeds(seed: int, count: int, *, publishers: int = 4, symbols: int = 5) -> list[Feed]:
    """Feeds of `count` ticks together: some in single entries, some in blocks, some as the publisher sees fit."""
    kinds = [("never", 50), ("always", 400), ("auto", 150)]
    each = -(-count // publishers)
    return [
        Feed(
            f"feed{number}",
            tuple(f"P{number}.{at}" for at in range(symbols)),
            seed * 1000 + number,
            each,
            *kinds[number % len(kinds)],
        )
        for number in range(publishers)
    ]
