"""What the outcomes of one series add up to: trials of challengers, proofs of champions, alarms of drift. Pure.

Per target three stretches of outcomes are kept, each a function of the outcomes alone:

- since its champion began (or was seen to drift), the champion's losses beside naive: may it be called proven?
- since this challenger met this champion, the losses of both beside naive: may it take its place?
- the champion's, for drift (`consumers.drift`).

Naive is the champion's own naive forecast or no change, whichever did better over the stretch: what training chose may
have been a poor choice, and a champion without trees equals it.

Versions are known by their digests, found from the release that made a forecast. A forecast's outcome comes `horizon`
bars after it, so a promotion is seen here when the new champion's first outcome comes; until then nothing is decided
about the old pair again.

What was decided has to outlive the process and is small: `marks`, one row per target. The losses do not: they are
read again from the log (`learn`), from bar `needed_from` on, and then everything is as it was, bit for bit. No stretch
is longer than `KEEP_BARS`.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from consumers.drift import REBUILD_BARS, Change, DriftDetector
from consumers.gate import MOST_OUTCOMES, Losses, look_number, looks, review

#: A stretch of outcomes ends here at the latest, in bars: more than any stretch needs if no bar lacks an outcome.
KEEP_BARS = max(MOST_OUTCOMES, 2 * REBUILD_BARS) + 1000

ActKind = Literal["promote", "prove", "doubt", "drop", "drift"]
#: champion, first bar of its stretch, challenger, first bar of its trial, first bar of the detector.
Mark: TypeAlias = tuple[str, int | None, str | None, int | None, int]


@dataclass(frozen=True, slots=True)
class Judgement:
    """One target in one outcome.

    Attributes:
        champion: digest of the version behind the forecast.
        challenger: digest of the version beside it, if there was one.
        loss, naive_loss: squared errors of the champion and of its naive forecast.
        still_loss: squared error of no change.
        challenger_loss: `None` where the challenger's forecast does not count.
    """

    target: str
    champion: str
    challenger: str | None
    loss: float
    naive_loss: float
    still_loss: float
    challenger_loss: float | None


@dataclass(frozen=True, slots=True)
class Act:
    """Something to do about a target, decided at one outcome.

    Attributes:
        kind: `promote`, `drop`: about the challenger; `prove`, `doubt`, `drift`: about the champion.
        at: end of the bar that told, ns.
        champion, challenger: the versions that it was decided about; void where others are in force by now.
        reason: a sentence.
        change: with `drift`: since when.
    """

    kind: ActKind
    target: str
    at: int
    champion: str
    challenger: str | None
    reason: str
    change: Change | None = None


class _Rows:
    """Squared errors that grow at the end."""

    def __init__(self, names: int) -> None:
        self._rows = tuple(array("d") for _ in range(names))

    def __len__(self) -> int:
        return len(self._rows[0])

    def add(self, *losses: float) -> None:
        for row, loss in zip(self._rows, losses, strict=True):
            row.append(loss)

    def arrays(self) -> list[NDArray[np.float64]]:
        return [np.array(row, np.float64) for row in self._rows]


class TargetReview:
    """One target of one series."""

    def __init__(self, target: str, horizon: int, mark: Mark) -> None:
        self._target = target
        self._horizon = horizon
        self.champion, self._since, self.challenger, self._trial, begin = mark
        self._detector = DriftDetector(horizon, begin)
        self._alone, self._both = _Rows(3), _Rows(4)

    @property
    def mark(self) -> Mark:
        """What has to outlive the process."""
        return self.champion, self._since, self.challenger, self._trial, self._detector.start

    def needed_from(self) -> int:
        """Number of the first bar whose outcome must be learnt again after a restart."""
        begins = (self._since, self._trial, self._detector.needed_from)
        return min(begin for begin in begins if begin is not None)

    @property
    def young(self) -> bool:
        """Whether the challenger has not come to its first look."""
        return self._trial is not None and len(self._both) < looks(self._horizon)[0]

    def learn(self, bar: int, ts: int, found: Judgement) -> None:
        """Take an outcome that was decided on before."""
        self._detector.learn(bar, ts, found.loss, found.naive_loss)
        self._collect(bar, found)

    def take(self, bar: int, ts: int, found: Judgement) -> list[Act]:
        """Take the next outcome; what it tells to do, in order."""
        self._meet(bar, found)
        alone, both = self._collect(bar, found)
        acts = []
        if both and (act := self._try(ts)) is not None:
            acts.append(act)
        if alone and (act := self._prove(ts)) is not None:
            acts.append(act)
        change = self._detector.update(bar, ts, found.loss, found.naive_loss)
        if change is not None:
            self._since, self._alone = bar + 1, _Rows(3)
            reason = f"does worse against naive than it did, since bar {change.bar}"
            acts.append(Act("drift", self._target, ts, self.champion, None, reason, change=change))
        return acts

    def _meet(self, bar: int, found: Judgement) -> None:
        """Begin anew what a change of versions, or too long a gap, ends."""
        if found.champion != self.champion:
            self.champion, self._since, self._alone = found.champion, bar, _Rows(3)
            self._detector = DriftDetector(self._horizon, bar)
            self.challenger, self._trial, self._both = None, None, _Rows(4)
        if found.challenger is None:
            self.challenger, self._trial, self._both = None, None, _Rows(4)
        elif found.challenger != self.challenger and found.challenger_loss is not None:
            self.challenger, self._trial, self._both = found.challenger, bar, _Rows(4)
        if self._since is not None and bar - self._since >= KEEP_BARS:
            self._since, self._alone = None, _Rows(3)
        if self._trial is not None and bar - self._trial >= KEEP_BARS:
            self._trial, self._both = None, _Rows(4)

    def _collect(self, bar: int, found: Judgement) -> tuple[bool, bool]:
        """Keep the losses; whether the champion's stretch and the trial got one more."""
        alone = self._since is not None and bar >= self._since
        if alone:
            self._alone.add(found.loss, found.naive_loss, found.still_loss)
        both = self._trial is not None and bar >= self._trial and found.challenger == self.challenger
        if both and found.challenger_loss is not None:
            self._both.add(found.loss, found.naive_loss, found.still_loss, found.challenger_loss)
            return alone, True
        return alone, False

    def _try(self, ts: int) -> Act | None:
        """Ask the gate about the challenger, if it is time to."""
        look = look_number(len(self._both), self._horizon)
        if look is None:
            return None
        champion, naive, still, challenger = self._both.arrays()
        verdict = review(self._horizon, Losses(champion, _stricter(naive, still), challenger), look)
        if verdict.kind not in ("promote", "drop"):
            return None
        self._trial, self._both = None, _Rows(4)
        kind: ActKind = "promote" if verdict.kind == "promote" else "drop"
        return Act(kind, self._target, ts, self.champion, self.challenger, verdict.reason)

    def _prove(self, ts: int) -> Act | None:
        """Ask the gate about the champion, if it is time to."""
        count = len(self._alone)
        look = look_number(count, self._horizon)
        if look is None:
            return None
        champion, naive, still = self._alone.arrays()
        verdict = review(self._horizon, Losses(champion, _stricter(naive, still)), look)
        if verdict.kind in ("prove", "doubt") or count >= MOST_OUTCOMES:
            self._since, self._alone = None, _Rows(3)
        if verdict.kind not in ("prove", "doubt"):
            return None
        kind: ActKind = "prove" if verdict.kind == "prove" else "doubt"
        return Act(kind, self._target, ts, self.champion, None, verdict.reason)


def _stricter(naive: NDArray[np.float64], still: NDArray[np.float64]) -> NDArray[np.float64]:
    """The losses of the naive forecast that did better."""
    return still if still.sum() < naive.sum() else naive


class SeriesReview:
    """All targets of one series."""

    def __init__(self, horizons: Mapping[str, int], marks: Mapping[str, Mark]) -> None:
        """Go on from marks; nothing is learnt yet.

        Args:
            horizons: of the pipeline's targets, bars. Marks of other targets are passed over.
        """
        self._horizons = horizons
        self.targets = {
            name: TargetReview(name, horizons[name], mark) for name, mark in marks.items() if name in horizons
        }

    def marks(self) -> dict[str, Mark]:
        """What has to outlive the process."""
        return {name: target.mark for name, target in self.targets.items()}

    def needed_from(self, bar: int) -> int:
        """Number of the first bar whose outcome must be learnt again if the process ended after bar number `bar`."""
        begins = [target.needed_from() for target in self.targets.values()]
        return max(min(begins, default=bar + 1), bar + 1 - KEEP_BARS)

    def learn(self, bar: int, ts: int, judgements: Iterable[Judgement]) -> None:
        """Take an outcome that was decided on before."""
        for found in judgements:
            target = self.targets.get(found.target)
            if target is not None:
                target.learn(bar, ts, found)

    def take(self, bar: int, ts: int, judgements: Iterable[Judgement]) -> tuple[list[Act], list[str]]:
        """Take the next outcome.

        Returns:
            What to do, and the targets whose champion is another one than before.
        """
        acts: list[Act] = []
        changed: list[str] = []
        for found in judgements:
            target = self.targets.get(found.target)
            if target is None:
                horizon = self._horizons.get(found.target)
                if horizon is None:
                    continue
                target = self.targets[found.target] = TargetReview(
                    found.target, horizon, (found.champion, bar, None, None, bar)
                )
            elif target.champion != found.champion:
                changed.append(found.target)
            acts += target.take(bar, ts, found)
        return acts, changed
