"""One bar close on its way through the scorer: from margins to forecasts. Pure.

A model's forecast is its naive forecast plus its forest's margin, as float32. What is kept to be judged leaves out
the forecasts of versions that were trained on the bar or a later one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from consumers.history import BarWindow
from consumers.judge import Forecasts
from consumers.naive import Naive, NaiveKind, forecasts
from consumers.outputs import Close, Forecast
from consumers.targets import Target, levels
from modelstore.loaded import SeriesModels


@dataclass(slots=True)
class Closing:
    """A closed bar and what its outputs are made of.

    Attributes:
        group, challengers: the series' models, if it has any and there are bars enough to score.
        row: float32 (F,), features.
        margins, challenger_margins: float32 (T,), once scored.
        actuals: labels that the bar tells; see `consumers.judge.Judge.actuals`.
        previous: close of the bar before; its own open if there is none.
        recent: the last 20 bars.
    """

    close: Close
    group: SeriesModels | None = None
    challengers: SeriesModels | None = None
    row: NDArray[np.float32] | None = None
    margins: NDArray[np.float32] | None = None
    challenger_margins: NDArray[np.float32] | None = None
    actuals: NDArray[np.float64] | None = None
    previous: float = 0.0
    recent: BarWindow | None = None


@dataclass(frozen=True, slots=True, eq=False)
class GroupPlan:
    """What is worked out once per group of models.

    Attributes:
        targets: of the group.
        at: int64 (T,), their places among the pipeline's targets.
        naives: their naive forecasts.
    """

    targets: tuple[Target, ...]
    at: NDArray[np.int64]
    naives: tuple[Naive, ...]


def plan_of(group: SeriesModels, targets: Mapping[str, Target]) -> GroupPlan:
    """Work out a group's plan; `targets` are the pipeline's."""
    order = {name: place for place, name in enumerate(targets)}
    return GroupPlan(
        tuple(targets[name] for name in group.targets),
        np.array([order[name] for name in group.targets], np.int64),
        tuple(Naive(NaiveKind(kind), table) for kind, table in group.naive),
    )


def forecast_of(closing: Closing, group: SeriesModels, plan: GroupPlan) -> Forecast:
    """What the champions say at a close that was scored."""
    assert closing.recent is not None
    assert closing.margins is not None
    naive = forecasts(plan.targets, plan.naives, closing.recent)
    values = (naive + closing.margins).astype(np.float32)
    return Forecast(
        group.targets,
        values,
        naive.astype(np.float32),
        levels(plan.targets, values, closing.recent),
        group.versions,
        group.trained_through >= closing.close.end,
    )


def to_be_judged(
    closing: Closing, forecast: Forecast, plan: GroupPlan, rivals: GroupPlan | None, targets: int
) -> Forecasts | None:
    """The forecasts of a close that will be judged, in the pipeline's order; `None` if there are none.

    Args:
        rivals: the challengers' plan, if there are any.
        targets: how many targets the pipeline has.
    """
    counted = ~forecast.in_sample
    if not counted.any():
        return None
    values, naive, challengers = (np.full(targets, np.nan, np.float32) for _ in range(3))
    values[plan.at[counted]] = forecast.values[counted]
    naive[plan.at[counted]] = forecast.naive[counted]
    if rivals is not None and closing.challengers is not None:
        assert closing.recent is not None
        assert closing.challenger_margins is not None
        fresh = closing.challengers.trained_through < closing.close.end
        said = forecasts(rivals.targets, rivals.naives, closing.recent) + closing.challenger_margins
        challengers[rivals.at[fresh]] = said[fresh]
    return Forecasts(values, naive, challengers, closing.close.release)
