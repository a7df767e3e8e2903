"""From walks through history to what a report shows, and what must be found in the two controls. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from consumers.evaluate import Evaluation, Paper, TargetResult, judge_target, rolling_skill
from consumers.har import Skill
from consumers.history import CLOSE
from consumers.naive import NaiveKind
from consumers.performance import Performance
from consumers.random_policies import QUANTILES
from consumers.walkforward import Walked
from ops.report_model import (
    Cell,
    Equity,
    Event,
    Expectation,
    Figures,
    Forecasts,
    Kind,
    Report,
    Rolling,
    SeriesReport,
    Signal,
    colour_map,
)
from ops.report_words import percent
from producers.controls import FLIPS_AT, PHI, attainable_skill, stale_skill

#: Judged forecasts behind each point of a curve of skill, if there are twice as many.
ROLLING = 250
#: The horizons of PLANTED's close that are held against theory: what is planted fades with the horizon.
PLANTED_HORIZONS = (5, 10)

_FLIP_NS = int(np.datetime64(FLIPS_AT, "ns").astype(np.int64))


def report_of(evaluations: Sequence[Evaluation], title: str, subtitle: str = "") -> Report:
    """A report of walks through history; series of the symbols RANDOM and PLANTED are the controls."""
    expectations: list[Expectation] = []
    for evaluation in evaluations:
        kind = kind_of(evaluation.walked.series)
        if kind == "random":
            expectations.append(expect_nothing(evaluation))
        elif kind == "planted":
            expectations += expect_planted(evaluation)
    return Report(title, subtitle, tuple(map(series_report, evaluations)), tuple(expectations))


def kind_of(series: str) -> Kind:
    """What a series is, by its symbol."""
    kinds: dict[str, Kind] = {"RANDOM": "random", "PLANTED": "planted"}
    return kinds.get(series.partition(":")[0], "real")


def series_report(evaluation: Evaluation) -> SeriesReport:
    """Everything that a walk told about its series."""
    walked, account = evaluation.walked, evaluation.paper
    shown = _shown(walked)
    return SeriesReport(
        name=walked.series,
        kind=kind_of(walked.series),
        ts=walked.ends,
        close=walked.bars.values[:, CLOSE].copy(),
        cells=tuple(map(cell_of, evaluation.results)),
        signals=_signals(walked, account) if account is not None else (),
        forecasts=_forecasts(walked, shown) if shown is not None else None,
        equity=_equity(walked, account) if account is not None else None,
        rolling=(_rolling(walked, shown),) if shown is not None else (),
        events=_events(walked),
        notes=tuple(f"{target} was not fitted last time: {why}" for target, why in walked.skipped.items()),
    )


def cell_of(result: TargetResult) -> Cell:
    """A target's result against the stricter of both naive forecasts."""
    told, hits = result.stricter, result.hits
    return Cell(
        target=str(result.target),
        n=result.n,
        skill=result.skill,
        low=None if told is None else told.low,
        high=None if told is None else told.high,
        p=None if told is None else told.test.p_greater,
        naive=naive_name(result),
        hits=None if hits is None else hits.rate,
        up=None if hits is None else hits.up,
        trees=result.trees,
    )


_NAMES = {
    NaiveKind.NO_CHANGE: "no change",
    NaiveKind.PERSISTENCE: "persistence",
    NaiveKind.MEAN: "mean",
    NaiveKind.TIME_OF_DAY: "time of day",
}


def naive_name(result: TargetResult) -> str:
    """What a result's skill is measured against, in words; `its own` is what its versions chose in training."""
    if result.naive_mse is None or result.best_naive_mse is None:
        return ""
    if result.naive_mse < result.best_naive_mse or result.best_naive is None:
        return "its own"
    return _NAMES[result.best_naive]


def expect_nothing(evaluation: Evaluation) -> Expectation:
    """RANDOM: no cell may be better than naive."""
    colours = colour_map([series_report(evaluation)])
    better = [target for (_, target), colour in colours.colours.items() if colour == "predictable"]
    return Expectation(
        what=evaluation.walked.series,
        should="no target is predictable",
        found=f"predictable: {', '.join(better)}" if better else f"none of {len(colours.cells)} is",
        holds=not better if evaluation.paper is not None else None,
    )


def expect_planted(evaluation: Evaluation) -> list[Expectation]:
    """PLANTED: before the flip some skill and no more than there is; after it, with the old models, less than none."""
    walked = evaluation.walked
    flip = int(np.searchsorted(walked.bars.start, _FLIP_NS))
    after = next((cut.at for cut in walked.cuts if cut.at > flip), len(walked.bars))
    found: list[Expectation] = []
    for at, target in enumerate(walked.targets):
        if target.column != "close" or target.horizon not in PLANTED_HORIZONS:
            continue
        name = f"{walked.series}/{target}"
        there, stale = attainable_skill(PHI, target.horizon), stale_skill(-PHI, PHI, target.horizon)
        before = judge_target(walked, at, within=(0, flip)).stricter
        found.append(
            Expectation(
                f"{name} before {FLIPS_AT}",
                f"skill above 0; there are {percent(there)} to be found",
                _told(before),
                None if before is None else 0 < before.low <= there,
            )
        )
        later = judge_target(walked, at, within=(flip, after)).stricter
        found.append(
            Expectation(
                f"{name} after {FLIPS_AT}, by models from before",
                f"skill below 0, down to {percent(stale)}",
                _told(later),
                None if later is None else later.high < 0,
            )
        )
    return found


def _told(skill: Skill | None) -> str:
    if skill is None:
        return "nothing that could be tested"
    return f"{percent(skill.skill)} ({percent(skill.low)} to {percent(skill.high)})"


def _shown(walked: Walked) -> int | None:
    """The target whose forecasts are drawn: the close, as many bars ahead as the default policy looks, or near it."""
    closes = [at for at, target in enumerate(walked.targets) if target.column == "close" and walked.judged[:, at].any()]
    return min(closes, key=lambda at: abs(walked.targets[at].horizon - 10), default=None)


def _forecasts(walked: Walked, at: int) -> Forecasts:
    chosen = walked.judged[:, at]
    return Forecasts(
        str(walked.targets[at]),
        walked.ends[chosen],
        walked.values[chosen, at].astype(np.float64),
        walked.actuals[chosen, at],
    )


def _rolling(walked: Walked, at: int) -> Rolling:
    window = min(ROLLING, int(walked.judged[:, at].sum()) // 2)
    bars, skill = rolling_skill(walked, at, max(1, window))
    known = np.isfinite(skill)
    return Rolling(str(walked.targets[at]), window, walked.ends[bars[known]], skill[known])


def _signals(walked: Walked, account: Paper) -> tuple[Signal, ...]:
    """Every change of position, at the close that decided it."""
    changes = np.diff(account.positions.astype(np.int64), prepend=0)
    at = np.flatnonzero(changes)
    bars = account.first + at
    return tuple(
        Signal(ts, "buy" if change > 0 else "sell", position, price)
        for ts, change, position, price in zip(
            walked.ends[bars].tolist(),
            changes[at].tolist(),
            account.positions[at].tolist(),
            walked.bars.values[bars, CLOSE].tolist(),
            strict=True,
        )
    )


def _events(walked: Walked) -> tuple[Event, ...]:
    """Every training, at the end of the last bar that it saw; and where PLANTED flips."""
    events = []
    for cut in walked.cuts:
        trees = cut.trees
        text = f"trained on the bars before: {sum(map(bool, trees))} of {len(trees)} models have trees"
        events.append(Event(int(walked.ends[cut.at - 1]), "retrain", text))
    if kind_of(walked.series) == "planted" and len(walked.ends) and walked.ends[0] < _FLIP_NS < walked.ends[-1]:
        events.append(Event(_FLIP_NS, "flip", "from here on a rise is followed by a fall"))
    return tuple(sorted(events, key=lambda event: event.ts))


def _equity(walked: Walked, account: Paper) -> Equity:
    ends, luck = walked.ends[account.first :], account.luck
    return Equity(
        ts=ends,
        account=np.cumsum(account.profit),
        hold=np.cumsum(account.market),
        band_ts=np.empty(0, np.int64) if luck is None else ends[luck.at],
        band=np.empty((0, 0)) if luck is None else luck.band,
        quantiles=() if luck is None else QUANTILES,
        policies=0 if luck is None else len(luck.totals),
        percentile=None if luck is None else luck.percentile,
        figures=(
            _figures("following the signals", account.own),
            _figures("buying and holding", account.hold),
            Figures("doing nothing", 0.0, 0.0, None, 0.0, 0.0, 0.0),
        ),
    )


def _figures(name: str, found: Performance) -> Figures:
    return Figures(name, found.total, found.annual, found.sharpe, found.drawdown, found.exposure, found.turnover)
