"""What the monitor knows of one series, from outcome to outcome. Pure.

It is the sum of the outcomes read so far: the review of its targets, when it is to be trained, and where in the log the
stretch begins that it would need again. `to_json` holds all of it but the losses, which are learnt again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from consumers.retraining import Ask, Facts, RetrainState, Rules, retrain
from consumers.review import Act, Judgement, SeriesReview
from modelstore.names import CHALLENGER, CHAMPION
from modelstore.release import Aliases
from streams.errors import BadRecord
from streams.ids import ZERO, Source, StreamID
from streams.records import Outcome

#: Every so many bars the place of an outcome in the log is remembered.
PLACE_BARS = 64
#: A bar whose number lies so far back was not written twice: the series began anew.
ANEW_BARS = 100

#: Bars and times must fit into 64 bits, and sums of squares of errors (they are logarithms) into a double.
BEYOND, MOST_ERROR = 2**63, 1e100

Resolve = Callable[[str], Aliases | None]


@dataclass(frozen=True, slots=True)
class Decision:
    """What one outcome makes necessary. `ts`: end of its bar, ns; `src`: its own."""

    series: str
    ts: int
    src: str
    acts: Sequence[Act]
    asks: Sequence[Ask]


class Memory:
    """What is known of one series.

    Attributes:
        bar: number of the last bar whose outcome was taken; -1 before the first.
        incarnation: of the series' input, as that outcome's source has it.
        begins: entry of the first outcome that is needed again after a restart.
    """

    def __init__(self, series: str, horizons: Mapping[str, int]) -> None:
        self.series = series
        self._horizons = horizons
        self._begin()

    def _begin(self) -> None:
        self.bar = self._learnt = -1
        self.incarnation = 0
        self.begins = ZERO
        self._review = SeriesReview(self._horizons, {})
        self._retrain = RetrainState()
        self._places: list[tuple[int, StreamID]] = []

    def to_json(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {
            "bar": self.bar,
            "incarnation": self.incarnation,
            "from": str(self.begins),
            "marks": self._review.marks(),
            "retrain": self._retrain.to_json(),
        }

    @classmethod
    def from_json(cls, series: str, horizons: Mapping[str, int], found: Mapping[str, Any]) -> Memory:
        """The inverse of `to_json`; the outcomes from `begins` up to the checkpoint have to be learnt."""
        memory = cls(series, horizons)
        memory.bar, memory.begins = found["bar"], StreamID.parse(found["from"])
        memory.incarnation = found.get("incarnation", 0)
        memory._review = SeriesReview(horizons, {name: tuple(mark) for name, mark in found["marks"].items()})
        memory._retrain = RetrainState.from_json(found["retrain"])
        return memory

    def learn(self, entry: StreamID, outcome: Outcome, resolve: Resolve) -> None:
        """Take an outcome that was decided on before a restart."""
        if entry >= self.begins and self._learnt < outcome.bar <= self.bar:
            self._learnt = outcome.bar
            self._place(entry, outcome.bar)
            self._review.learn(outcome.bar, outcome.ts, judgements(outcome, resolve))

    def take(self, entry: StreamID, outcome: Outcome, resolve: Resolve, rules: Rules) -> Decision | None:
        """Take the next outcome; what it makes necessary, or `None`."""
        incarnation = _incarnation(outcome, self.incarnation)
        if outcome.bar <= self.bar:
            # Bars are numbered from 0 again only where a tenant's state was begun anew, in a new incarnation.
            if self.bar - outcome.bar < ANEW_BARS and incarnation <= self.incarnation:
                return None
            self._begin()
        self.bar, self.incarnation = outcome.bar, incarnation
        found = judgements(outcome, resolve)
        acts, changed = self._review.take(outcome.bar, outcome.ts, found)
        facts = Facts(
            bar=outcome.bar,
            ts=outcome.ts,
            judged=bool(found),
            drifted={act.target: act.change for act in acts if act.change is not None},
            doubted=[act.target for act in acts if act.kind == "doubt"],
            changed=changed,
            young=[name for name, target in self._review.targets.items() if target.young],
        )
        self._retrain, asks = retrain(rules, self._retrain, facts)
        self._place(entry, outcome.bar)
        needed = self._review.needed_from(self.bar)
        while len(self._places) > 1 and self._places[1][0] <= needed:
            self._places.pop(0)
        self.begins = self._places[0][1]
        return Decision(self.series, outcome.ts, outcome.src, acts, asks) if acts or asks else None

    def _place(self, entry: StreamID, bar: int) -> None:
        if not self._places or bar - self._places[-1][0] >= PLACE_BARS:
            self._places.append((bar, entry))


def _incarnation(outcome: Outcome, unknown: int) -> int:
    try:
        found = Source.parse(outcome.src).incarnation
    except ValueError:
        return unknown
    return found if 0 <= found < BEYOND else unknown


def check(outcome: Outcome) -> Outcome:
    """Return an outcome whose vectors fit together and whose numbers can be reckoned with.

    Raises:
        BadRecord: they do not (reason `malformed`).
    """
    vectors = (outcome.actuals, outcome.errors, outcome.naive_errors, outcome.challenger_errors, outcome.made_by)
    if any(len(vector) != len(outcome.targets) for vector in vectors):
        raise BadRecord("malformed", f"outcome: vectors of {outcome.series} bar {outcome.bar} differ in length")
    if any(not 0 <= at < len(outcome.releases) for at in outcome.made_by):
        raise BadRecord("malformed", f"outcome: made_by of {outcome.series} bar {outcome.bar} names no release")
    if not (0 <= outcome.bar < BEYOND and 0 <= outcome.ts < BEYOND):
        raise BadRecord("malformed", f"outcome: bar or ts of {outcome.series} lies outside 0 … 2^63 - 1")
    errors = (*outcome.actuals, *outcome.errors, *outcome.naive_errors, *outcome.challenger_errors)
    if any(error is not None and abs(error) > MOST_ERROR for error in errors):
        raise BadRecord("malformed", f"outcome: {outcome.series} bar {outcome.bar} has an error beyond {MOST_ERROR:g}")
    return outcome


def judgements(outcome: Outcome, resolve: Resolve) -> list[Judgement]:
    """What an outcome says of each target whose versions are known.

    Args:
        resolve: release id -> its aliases, or `None` if they cannot be known.
    """
    found = []
    for at, target in enumerate(outcome.targets):
        aliases = resolve(outcome.releases[outcome.made_by[at]])
        error, naive, rival = outcome.errors[at], outcome.naive_errors[at], outcome.challenger_errors[at]
        actual = outcome.actuals[at]
        champion = aliases.get((f"{outcome.series}/{target}", CHAMPION)) if aliases is not None else None
        if aliases is None or champion is None or error is None or naive is None or actual is None:
            continue
        challenger = aliases.get((f"{outcome.series}/{target}", CHALLENGER))
        found.append(
            Judgement(
                target=target,
                champion=champion,
                challenger=challenger if challenger != champion else None,
                loss=error * error,
                naive_loss=naive * naive,
                still_loss=actual * actual,
                challenger_loss=rival * rival if rival is not None and challenger != champion else None,
            )
        )
    return found
