"""May a challenger take the champion's place, and is the champion better than the naive forecast? Pure decisions.

Two questions, about one target of one series, each asked of its own stretch of consecutive outcomes:

- of a **challenger** (`Losses` with three rows): the outcomes that neither it nor the champion had been trained on;
- of a **champion** alone (two rows): the outcomes that it had not been trained on, whatever challenged it meanwhile.
  Were its outcomes counted anew with every challenger, each would be one more chance to prove it by luck.

Whoever looks often enough finds skill in noise. So outcomes are looked at only when there are as many as one of `looks`
says, each about 1.3 times the one before, and the k-th look calls chance what happens with probability
`ALPHA / (k (k + 1))`. These sum to at most `ALPHA` over any number of looks: a challenger that is no better than the
champion is promoted with probability at most 1 %, and a champion that is no better than naive is proven as seldom, as
far as the test keeps its size (at horizon 30 a level of 5 % rejects 6 %). The bound is loose: looks share outcomes, and
a promotion needs two tests. Simulated over horizons 1, 5 and 30, at most 0.4 % of worthless challengers were promoted
over worthless champions, and as many worthless champions proven. The level is that low because a series has 30 models
and each gets several challengers: at 5 %, which is what one test is customarily held to, every second worthless series
would have had a model promoted or proven.

A challenger is

1. promoted when it is better than the champion and better than naive;
2. promoted when it is better than a champion that is worse than naive, and is itself not worse than naive: the
   harmless replaces the harmful (a model without trees *is* the naive forecast);
3. dropped when it is worse than the champion or than naive;
4. dropped at the last look, `MOST_OUTCOMES`, when it has not shown itself better;
5. waited for otherwise.

A promoted version is on probation again: naive was the old champion's naive forecast, and who beats that may only have
chosen a better one. As champion it is held against its own.

A champion is proven when it is better than naive, doubted when it is worse, waited for otherwise. Better and worse are
HAR tests of the squared errors (`consumers.har`), one-sided, each at the look's alpha.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import nctdtr

from consumers.har import LEAST_COSINES, MeanTest, cosines, critical, gains, har_mean, least_count

#: Probability that a version which is no better is ever promoted over the champion; the same for a false proof.
ALPHA = 0.01
#: Outcomes at the first look, if the horizon allows so few. Below this an outlier or two decide.
FIRST_LOOK = 64
#: A look has about this many times the outcomes of the one before.
GROWTH = 1.3
#: Outcomes at the last look: enough for an effect of 0.11 long-run standard deviations per bar (`bars_needed`).
MOST_OUTCOMES = 3000
#: One-sided level at which a challenger that would replace a harmful champion counts as worse than naive. A plain one:
#: here a missed difference is the error to avoid.
HARMLESS = 0.05

Kind = Literal["promote", "prove", "doubt", "drop", "wait"]


@dataclass(frozen=True, slots=True)
class Losses:
    """Squared errors of the same consecutive outcomes, in time order, each float64 (n,) and finite.

    `challenger` is None where the champion alone is asked about.
    """

    champion: NDArray[np.float64]
    naive: NDArray[np.float64]
    challenger: NDArray[np.float64] | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """One forecast's losses against another's."""

    #: `1 - sum(loss) / sum(other loss)`: 0.06 is 6 % less squared error; minus infinity where the other never erred.
    less: float
    #: Of the mean of `other loss - loss`; None where they do not differ or are too few to tell.
    test: MeanTest | None
    #: The `t` that counts at this look.
    needs: float

    @property
    def better(self) -> bool:
        """Fewer losses than chance explains."""
        return self.test is not None and self.test.t > self.needs

    @property
    def worse(self) -> bool:
        """More losses than chance explains."""
        return self.test is not None and self.test.t < -self.needs

    @property
    def harmless(self) -> bool:
        """Not even by a single plain test worse."""
        return self.test is None or self.test.t > -critical(self.test.dof, HARMLESS)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do, and why.

    `promote` and `drop` are about the challenger; `prove` and `doubt` about the champion: grant it `proven`, or take
    that back and train anew. `wait` is to ask again at the next look.
    """

    kind: Kind
    #: A sentence with figures, at most 200 characters.
    reason: str
    #: With `promote`: it is better than naive, not only than a champion that does harm. With `prove`: always.
    proven: bool
    #: Of the version asked about; `over_champion` is None for a champion.
    over_naive: Comparison
    over_champion: Comparison | None = None


@lru_cache(maxsize=256)
def looks(horizon: int) -> tuple[int, ...]:
    """The numbers of outcomes at which to look, rising; the last is `MOST_OUTCOMES` for every horizon.

    A horizon of more than 375 bars has only the last look, which can test nothing and drops the challenger.
    """
    first = max(FIRST_LOOK, least_count(horizon))
    if first >= MOST_OUTCOMES:
        return (MOST_OUTCOMES,)
    ratio = MOST_OUTCOMES / first
    steps = max(1, round(math.log(ratio) / math.log(GROWTH)))
    return tuple(round(first * math.pow(ratio, step / steps)) for step in range(steps + 1))


def look_number(count: int, horizon: int) -> int | None:
    """Which look `count` outcomes are, from 1; None where they are none."""
    counts = looks(horizon)
    return counts.index(count) + 1 if count in counts else None


def alpha_at(look: int) -> float:
    """The share of `ALPHA` that may be spent at the look, from 1; the shares of all looks sum to at most `ALPHA`."""
    return ALPHA / (look * (look + 1))


def bars_needed(effect: float, horizon: int, power: float = 0.9) -> int | None:
    """Outcomes by which a lasting improvement is recognised with probability `power`.

    The statistic of a mean that lies `effect` long-run standard deviations above 0 follows the noncentral t with
    B degrees of freedom and noncentrality `effect √n`; earlier looks add to the power and are left out.

    Args:
        effect: mean of `other loss - loss` over its long-run standard deviation per bar; of the two comparisons that a
            promotion needs, the smaller.
        horizon: bars over which the labels overlap.

    Returns:
        The number of outcomes at the first look that has the power, or None where no look has it.
    """
    for look, count in enumerate(looks(horizon), start=1):
        dof = cosines(count, horizon)
        if dof < LEAST_COSINES:
            continue
        missed = float(nctdtr(dof, effect * math.sqrt(count), critical(dof, alpha_at(look))))
        if 1 - missed >= power:
            return count
    return None


def review(horizon: int, losses: Losses, look: int) -> Verdict:
    """Judge the challenger, or the champion where there is none.

    Args:
        horizon: bars over which the labels overlap.
        losses: all outcomes of the stretch asked about, exactly as many as the look has.
        look: from 1, as `look_number` gives it.

    Raises:
        ValueError: the rows differ in length or hold what is not finite, or the look is at another count.
    """
    count = len(losses.champion)
    if look_number(count, horizon) != look:
        raise ValueError(f"{count} outcomes are not look {look} of horizon {horizon}: looks are at {looks(horizon)}")
    if losses.challenger is None:
        return _champion(count, _compare(losses.champion, losses.naive, horizon, look))
    return _challenger(
        count,
        _compare(losses.challenger, losses.champion, horizon, look),
        _compare(losses.challenger, losses.naive, horizon, look),
        _compare(losses.champion, losses.naive, horizon, look),
    )


def _champion(count: int, over_naive: Comparison) -> Verdict:
    told = _told(over_naive, "naive")
    if over_naive.better:
        return Verdict("prove", f"after {count} bars {told}", True, over_naive)
    if over_naive.worse:
        return Verdict("doubt", f"after {count} bars {told}", False, over_naive)
    return Verdict("wait", f"after {count} bars not told from naive: {told}", False, over_naive)


def _challenger(count: int, over_champion: Comparison, over_naive: Comparison, champion: Comparison) -> Verdict:
    kind: Kind
    both = f"{_told(over_champion, 'the champion')} and {_told(over_naive, 'naive')}"
    reason = f"after {count} bars {both}"
    if over_champion.better and over_naive.better:
        kind = "promote"
    elif over_champion.better and champion.worse and over_naive.harmless:
        kind = "promote"
        than = _told(over_champion, "the champion")
        reason = f"after {count} bars {than}, which does harm: {_told(champion, 'naive')}"
    elif over_champion.worse or over_naive.worse:
        kind = "drop"
    elif count >= MOST_OUTCOMES:
        kind = "drop"
        reason = f"after {count} bars, the most, not shown better: {both}"
    else:
        kind = "wait"
        reason = f"after {count} bars not told apart: {both}"
    return Verdict(kind, reason, kind == "promote" and over_naive.better, over_naive, over_champion)


def _compare(loss: NDArray[np.float64], than: NDArray[np.float64], horizon: int, look: int) -> Comparison:
    gain = gains(loss, than)
    total, scale = float(gain.sum()), float(than.sum())
    less = 0.0 if total == 0 else total / scale if scale > 0 else -math.inf
    test = har_mean(gain, horizon)
    return Comparison(less, test, math.inf if test is None else critical(test.dof, alpha_at(look)))


def _told(comparison: Comparison, name: str) -> str:
    """`6.1 % less squared error than naive (t 3.4, needs 2.6)`."""
    if comparison.test is None:
        return f"{_share(comparison.less)} {name} (no test)" if comparison.less else f"the same error as {name}"
    return f"{_share(comparison.less)} {name} (t {comparison.test.t:.3g}, needs {comparison.needs:.3g})"


def _share(less: float) -> str:
    percent = abs(less) * 100
    told = "over 9999" if percent > 9999 else f"{percent:.{0 if percent >= 100 else 1}f}"
    return f"{told} % {'less' if less > 0 else 'more'} squared error than"
