"""Judging a series' models and policy on its own past: walk forward, hold forecasts against what came. Pure.

For every target: how much less squared error than naive, with an interval that knows that the labels overlap
(`consumers.har`), held against two naive forecasts: the one that the versions start from, chosen on what they were
trained on, and the kind that turned out best over the whole evaluation. The stricter of both is *the* skill: who picks
the naive forecast must not be able to flatter the model. For the close also how often the sign of the forecast was
right, beside always-up on the same bars.

For the policy: the paper account (`consumers.paper`) beside buying and holding, doing nothing, and random policies
that are as often in the market and trade as much (`consumers.random_policies`).

Nothing here is tuned on what it judges; what is reported is whatever comes out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from consumers import paper
from consumers.har import MeanTest, Skill, har_mean, skill_of
from consumers.history import CLOSE, OPEN, BarWindow
from consumers.naive import NaiveKind
from consumers.performance import Performance, performance
from consumers.policy import Outlook, Policy
from consumers.random_policies import Luck, luck
from consumers.targets import Target
from consumers.walkforward import Fits, Walk, Walked, in_process, walk_forward


@dataclass(frozen=True, slots=True)
class Hits:
    """How often forecasts of the close had the right sign; forecasts of exactly 0 say no direction and are left out.

    Attributes:
        n: forecasts that say a direction.
        rate: share of them that was right.
        up: share that always-up would have had right, on the same bars.
        test: of the mean of right minus always-up's right; `None` where it cannot be tested.
    """

    n: int
    rate: float
    up: float
    test: MeanTest | None


@dataclass(frozen=True, slots=True)
class TargetResult:
    """How the forecasts of one target did.

    Attributes:
        target: such as `close_5`.
        n: forecasts judged; without any, all that follows is `None`.
        mse: mean squared error, squared labels.
        naive_mse: of the naive forecasts that the versions start from.
        best_naive: the kind with the least squared error over the same bars.
        best_naive_mse: its mean squared error.
        skill: the lower of the skills against both.
        against_own, against_best: the skills with their intervals; `None` where the losses are the same throughout
            (a model without trees) or too few.
        trees: mean number of trees behind the forecasts.
        hits: for the close; `None` where no forecast says a direction.
    """

    target: Target
    n: int
    mse: float | None = None
    naive_mse: float | None = None
    best_naive: NaiveKind | None = None
    best_naive_mse: float | None = None
    skill: float | None = None
    against_own: Skill | None = None
    against_best: Skill | None = None
    trees: float | None = None
    hits: Hits | None = None

    @property
    def stricter(self) -> Skill | None:
        """The skill with its interval against the naive forecast that `skill` is measured against."""
        if self.naive_mse is None or self.best_naive_mse is None:
            return None
        return self.against_own if self.naive_mse <= self.best_naive_mse else self.against_best


@dataclass(frozen=True, slots=True, eq=False)
class Paper:
    """The paper account over the m bars from the first forecast on.

    Attributes:
        first: index of the first of them.
        positions: int8 (m,), position decided at each close.
        profit, market: float64 (m,), log return per bar of the account, after cost, and of buying and holding, which
            pays its cost once.
        own, hold: figures of both. Doing nothing makes 0.
        luck: the random policies; `None` if the account never held a position.
    """

    first: int
    positions: NDArray[np.int8]
    profit: NDArray[np.float64]
    market: NDArray[np.float64]
    own: Performance
    hold: Performance
    luck: Luck | None


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """What walking forward through one series told.

    Attributes:
        walked: every forecast with what came.
        results: per target, in order.
        paper: the account; `None` if there are too few bars for any forecast.
        in_sample: forecasts that a version made for bars it was trained on. They are left out, and there must be none.
    """

    walked: Walked
    results: tuple[TargetResult, ...]
    paper: Paper | None
    in_sample: int


def evaluate(
    series: str,
    bars: BarWindow,
    ends: NDArray[np.int64],
    walk: Walk,
    policy: Policy,
    *,
    cost_bps: float,
    fits: Fits = in_process,
    count: int = 1000,
    level: float = 0.95,
) -> Evaluation:
    """Walk forward through the bars of a series and judge.

    Args:
        ends: int64 (n,), end of each bar, epoch ns.
        policy: makes positions of forecasts.
        cost_bps: what a change of position by one unit costs those that the account is held against, basis points;
            the account pays what its policy says.
        fits: carries out the fits.
        count: random policies.
        level: of the intervals.

    Raises:
        BadModel, ConfigurationError, BadName: as `consumers.fit.fit_series`.
    """
    walked = walk_forward(series, bars, ends, walk, fits)
    return Evaluation(
        walked,
        tuple(judge_target(walked, at, level) for at in range(len(walked.targets))),
        follow(walked, policy, cost_bps=cost_bps, count=count) if walked.cuts else None,
        int(walked.in_sample.sum()),
    )


def judge_target(walked: Walked, at: int, level: float = 0.95, within: tuple[int, int] | None = None) -> TargetResult:
    """Judge the forecasts of the target with index `at`.

    Args:
        within: only those made from the first of these bars on, of which it was known before the second what came.
    """
    target, chosen = walked.targets[at], walked.judged[:, at]
    if within is not None:
        chosen = chosen.copy()
        chosen[: max(0, within[0])] = False
        chosen[max(0, within[1] - target.horizon) :] = False
    if not chosen.any():
        return TargetResult(target, 0)
    came = walked.actuals[chosen, at]
    said = walked.values[chosen, at].astype(np.float64)
    loss, own = (said - came) ** 2, (walked.naive[chosen, at].astype(np.float64) - came) ** 2
    rivals = {kind: (said[chosen, at].astype(np.float64) - came) ** 2 for kind, said in walked.rivals.items()}
    offered = {kind: losses for kind, losses in rivals.items() if np.isfinite(losses).all()}
    best = min(offered, key=lambda kind: float(offered[kind].sum()), default=None)
    mse, own_mse = float(loss.mean()), float(own.mean())
    best_loss = own if best is None else offered[best]
    best_mse = float(best_loss.mean())
    strictest = min(own_mse, best_mse)
    return TargetResult(
        target=target,
        n=len(came),
        mse=mse,
        naive_mse=own_mse,
        best_naive=best,
        best_naive_mse=best_mse,
        skill=1 - mse / strictest if strictest > 0 else None,
        against_own=skill_of(loss, own, target.horizon, level),
        against_best=skill_of(loss, best_loss, target.horizon, level),
        trees=_mean_trees(walked, at, chosen),
        hits=_hits(said, came, target.horizon) if target.column == "close" else None,
    )


def _hits(said: NDArray[np.float64], came: NDArray[np.float64], horizon: int) -> Hits | None:
    directed = said != 0
    if not directed.any():
        return None
    right = (np.sign(said) == np.sign(came))[directed].astype(np.float64)
    up = (came > 0)[directed].astype(np.float64)
    return Hits(len(right), float(right.mean()), float(up.mean()), har_mean(right - up, horizon))


def _mean_trees(walked: Walked, at: int, chosen: NDArray[np.bool_]) -> float:
    """Trees behind the forecasts of target `at` at the bars chosen, on average."""
    begins = np.array([cut.at for cut in walked.cuts])
    trees = np.array([cut.trees[at] for cut in walked.cuts])
    return float(trees[np.searchsorted(begins, np.flatnonzero(chosen), side="right") - 1].mean())


def follow(walked: Walked, policy: Policy, *, cost_bps: float, count: int = 1000, seed: int = 0) -> Paper:
    """Follow a policy on paper from the first forecast on; there must be one. Arguments as `evaluate`."""
    first = walked.first
    bars = walked.bars.slice(first, len(walked.bars))
    opened, closed = np.ascontiguousarray(bars.values[:, OPEN]), np.ascontiguousarray(bars.values[:, CLOSE])
    positions, costs = _decide(walked, policy)
    profit = _account(positions, costs, opened, closed)
    held = np.ones(len(positions), np.int8)
    market = paper.path(held, opened, closed, 0.0)
    market[1:2] -= paper.change_cost(1, cost_bps)
    own = performance(profit, positions, walked.ends[first:])
    return Paper(
        first,
        positions,
        profit,
        market,
        own,
        performance(market, held, walked.ends[first:]),
        luck(positions, own.total, opened, closed, cost_bps=cost_bps, count=count, seed=seed)
        if positions[:-1].any()
        else None,
    )


def _decide(walked: Walked, policy: Policy) -> tuple[NDArray[np.int8], NDArray[np.float64]]:
    """What the policy decides at each close from the first forecast on: positions int8 (m,), costs float64 (m,)."""
    state, position = policy.initial(), 0
    count = len(walked.bars) - walked.first
    positions, costs = np.zeros(count, np.int8), np.zeros(count)
    closes = walked.bars.values[:, CLOSE].tolist()
    has = [np.array([version is not None for version in cut.versions]) for cut in walked.cuts]
    begins = np.array([cut.at for cut in walked.cuts])
    for index in range(count):
        bar = walked.first + index
        mine = has[int(np.searchsorted(begins, bar, side="right")) - 1]
        outlook = Outlook(
            walked.series,
            int(walked.ends[bar]),
            closes[bar],
            tuple(target for target, held in zip(walked.targets, mine, strict=True) if held),
            walked.values[bar, mine],
            ~walked.in_sample[bar, mine],
        )
        state, decision = policy.decide(state, outlook)
        if decision is not None:
            position, costs[index] = decision.position, decision.cost
        positions[index] = position
    return positions, costs


def _account(
    positions: NDArray[np.int8], costs: NDArray[np.float64], opened: NDArray[np.float64], closed: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Log return of each bar after cost, float64 (m,): the scorer's own account, bar by bar."""
    found = np.zeros(len(positions))
    account = paper.Account()
    for bar in range(1, len(found)):
        account = account.decided(int(positions[bar - 1]), float(costs[bar - 1]))
        account, found[bar] = paper.mark(account, float(closed[bar - 1]), float(opened[bar]), float(closed[bar]))
    return found


def rolling_skill(walked: Walked, at: int, window: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Skill of target `at` against its own naive forecast over the last `window` judged forecasts, for plots.

    Returns:
        Bars int64 (k,) at whose close each figure was known (the forecast's horizon had passed), and the skills
        float64 (k,); none if there are fewer than `window` forecasts.
    """
    chosen = np.flatnonzero(walked.judged[:, at])
    if len(chosen) < window:
        return np.empty(0, np.int64), np.empty(0)
    came = walked.actuals[chosen, at]
    losses = np.stack([(forecasts[chosen, at] - came) ** 2 for forecasts in (walked.values, walked.naive)])
    sums = np.cumsum(np.concatenate((np.zeros((2, 1)), losses), axis=1), axis=1)
    ours, naive = sums[:, window:] - sums[:, :-window]
    with np.errstate(divide="ignore", invalid="ignore"):
        skill = np.where(naive > 0, 1 - ours / naive, np.nan)
    return chosen[window - 1 :] + walked.targets[at].horizon, skill
