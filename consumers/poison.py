"""What to do about a batch that cannot be computed: try again, then carefully, then find what is to blame. Pure.

1. The first failure of a batch may be a passing one: it is tried again as it was.
2. After the second it is computed *carefully*: what a feature set or a policy raises costs the bar in question its
   forecast or its signal, no more, and is put on record as a dead letter. So go the next batches too.
3. If that fails as well, the batch is halved until the one tick or control entry is found with which it fails. That one
   becomes a dead letter as a whole.

Kept in memory, per partition: a process that dies begins with the first step again.
"""

from __future__ import annotations

from dataclasses import dataclass

from streams.ids import StreamID

#: Batches without trouble after which computing is trusted again.
CAREFUL_BATCHES = 100
#: Tries of a batch whose failure is likely to pass: with a growing pause in between, some minute.
PASSING_TRIES = 10


@dataclass(slots=True)
class Suspicion:
    """What is known of a batch that failed.

    Attributes:
        tries: failures since the last batch that passed.
        careful: batches that are still to be computed carefully; 0 for none.
        suspect: ticks and control entries among which the one to blame is; 0 while nothing was halved.
        most: how many of them the next batch may have; `None` for as many as usual.
        found: the one that is to blame, as its entry and the tick within; `None` while it is not known.
        why: what the last failure said.
    """

    tries: int = 0
    careful: int = 0
    suspect: int = 0
    most: int | None = None
    found: tuple[StreamID, int] | None = None
    why: str = ""

    def blames(self, first: tuple[StreamID, int]) -> bool:
        """Whether a batch's first tick or control entry is the one that is to blame.

        If another stands where it stood (somebody else owned the partition meanwhile, it was deleted, the log fell
        back), nothing is known of that one.
        """
        if self.found is not None and self.found != first:
            self._begin_anew()
        return self.found is not None

    def failed(self, units: int, first: tuple[StreamID, int], why: str, *, passing: bool = False) -> bool:
        """A batch of so many ticks and control entries, beginning with `first`, cannot be computed.

        Args:
            passing: whether that is likely to pass, as a lack of memory is: then it is tried as it was more often.

        Returns:
            Whether the next try is another one than this was: then nothing speaks for waiting.
        """
        self.tries += 1
        self.why = why
        if self.tries <= (PASSING_TRIES if passing else 1) or self.found is not None:
            return False
        if not self.careful:
            self.careful = CAREFUL_BATCHES
        # One tick may come with something unusable beside it: then there is nothing to halve.
        elif units > 1 and self.most != 1:
            self.suspect = units
            self.most = units // 2
        else:
            self.found, self.most = first, 1
        return True

    def passed(self, units: int, *, trouble: bool) -> None:
        """A batch was committed; `trouble`: something in it was set aside because it cannot be computed."""
        self.tries = 0
        if self.found is not None:
            self._begin_anew()
        elif self.suspect:
            self.suspect = max(0, self.suspect - units)
            self.most = max(1, self.suspect // 2) if self.suspect else None
        if trouble:
            self.careful = CAREFUL_BATCHES
        elif self.careful:
            self.careful -= 1

    def _begin_anew(self) -> None:
        self.tries, self.suspect, self.most, self.found = 0, 0, None, None
