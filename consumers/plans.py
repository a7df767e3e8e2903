"""Judging training requests before anything is fitted: what is asked for, whether it can be done, how to share it out.

Pure: what comes out depends on the request, the tenant's pipeline and the number of bars found, on nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime

from consumers.fit import FitRequest
from streams.records import TrainingRequest
from streams.series import Series
from streams.settings import Pipeline


@dataclass(frozen=True, slots=True)
class Plan:
    """A request that can be carried out as far as its text tells. Equal plans give equal models."""

    series: Series
    targets: tuple[str, ...]
    as_of: int | None
    since: int | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request cannot be carried out, and what to do."""

    reason: str


def decide(request: TrainingRequest, pipeline: Pipeline) -> Plan | Refusal:
    """Judge a request by the tenant's pipeline alone."""
    series = Series.parse(request.series)
    if str(series.interval) not in pipeline.intervals:
        return Refusal(
            f"{series}: this tenant makes no bars of {series.interval}; its intervals are "
            f"{', '.join(pipeline.intervals)}"
        )
    if request.targets is None:
        return Plan(series, pipeline.targets, request.as_of, request.since)
    if not request.targets:
        return Refusal(f"{series}: no target is named; leave `targets` out to train all")
    unknown = [target for target in request.targets if target not in pipeline.targets]
    if unknown:
        return Refusal(
            f"{series}: {', '.join(unknown)[:200]} is no target of this tenant; it forecasts "
            f"{', '.join(pipeline.columns)} over {', '.join(map(str, pipeline.horizons))} bars, such as "
            f"{pipeline.targets[0]}"
        )
    return Plan(series, tuple(dict.fromkeys(request.targets)), request.as_of, request.since)


def check_bars(plan: Plan, found: int, needed: int) -> Refusal | None:
    """Judge whether there is enough history.

    Args:
        found: bars that there are; with `since` those that end after it.
        needed: as many as that.
    """
    if found >= needed:
        return None
    after = "" if plan.since is None else f" after {_utc(plan.since)}"
    until = "" if plan.as_of is None else f" up to {_utc(plan.as_of)}"
    return Refusal(
        f"{plan.series} needs {needed} bars, found {found}{after}{until}: train it again when there are more"
    )


def _utc(ns: int) -> str:
    """A time for people: to the second, UTC; times that no calendar has stay as they are."""
    try:
        return f"{datetime.fromtimestamp(ns // 1_000_000_000, UTC):%Y-%m-%d %H:%M:%SZ}"
    except (OverflowError, ValueError, OSError):
        return f"{ns} ns"


def split(request: FitRequest, parts: int) -> list[FitRequest]:
    """Share the targets of a request among at most `parts` processes; a version does not depend on how."""
    count = max(1, min(parts, len(request.targets)))
    return [replace(request, targets=request.targets[index::count]) for index in range(count)]
