"""What a worker remembers of a partition from one lease to the next: how much to take at once, what cannot be computed.

Pure. A batch is bounded by ticks, time and outputs: after one that took too long or put out too much the next one is
half as large, else it grows.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from consumers.poison import Suspicion

#: Ticks in the first batch of a partition.
FIRST_BATCH = 200
#: Most entries that are read at once, and in the first read: an entry may be a block, and Redis holds the whole reply
#: in its memory.
MOST_ENTRIES, FIRST_ENTRIES = 1000, 16


@dataclass(slots=True)
class Memo:
    """What is remembered of a partition from one lease to the next.

    Were it forgotten when a batch took longer than the lease, the next owner, often the same worker, would run into the
    same batch again.

    Attributes:
        ticks: most ticks and control entries in the next batch.
        entries: how many entries to read at once.
        suspicion: what is known of a batch that cannot be computed.
    """

    ticks: int = FIRST_BATCH
    entries: int = FIRST_ENTRIES
    suspicion: Suspicion = field(default_factory=Suspicion)

    def read(self, entries: int, units: int) -> None:
        """Note how many ticks and control entries were in what was read: about one batch is to be read at once."""
        wanted = max(1, self.ticks * entries // units)
        self.entries = min(MOST_ENTRIES, wanted, max(FIRST_ENTRIES, 2 * entries))

    @property
    def units(self) -> int:
        """Most ticks and control entries in the next batch."""
        return self.ticks if self.suspicion.most is None else min(self.ticks, self.suspicion.most)

    def took(self, units: int, *, too_much: bool, most: int) -> None:
        """Note how a batch went: halve the next one if it took too long or put out too much, else let it grow.

        Args:
            units: ticks and control entries that it had.
            most: as many as a batch may have at all.
        """
        if too_much:
            self.ticks = max(1, units // 2)
        elif units >= self.ticks:
            self.ticks = min(most, self.ticks * 2)
