"""Judging training requests before anything is fitted: what is asked for, whether it can be done, how to share it out.

Pure: what comes out depends on the request, the tenant's pipeline and the number of bars found, on nothing else. What a
table holds is known only to the process that reads it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime

from consumers.datasets import table_name
from consumers.fit import FitRequest
from modelstore.names import ModelName
from streams.errors import BadName
from streams.records import TableRequest, TrainingRequest
from streams.series import Series
from streams.settings import Pipeline


@dataclass(frozen=True, slots=True)
class Plan:
    """A request that can be carried out as far as its text tells. Equal plans give equal models."""

    series: Series
    targets: tuple[str, ...]
    as_of: int | None
    since: int | None = None

    @property
    def subject(self) -> str:
        """What models are made of, for names and messages."""
        return str(self.series)


@dataclass(frozen=True, slots=True)
class TablePlan:
    """A request for models of a table that can be carried out as far as its text tells.

    Attributes:
        targets: columns; `None` for each.
    """

    table: str
    dataset: str
    targets: tuple[str, ...] | None

    @property
    def subject(self) -> str:
        """What models are made of, for names and messages."""
        return self.table


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


def decide_table(request: TableRequest) -> TablePlan | Refusal:
    """Judge a request by its text alone."""
    table = table_name(request.dataset) if request.table is None else request.table
    try:
        if ":" in table:
            raise BadName("a series is no table")
        ModelName.parse(f"{table}/x")
    except BadName:
        return Refusal(
            f"{table[:80]!r} cannot be the name of a table: use up to 64 of the letters A-Z a-z, digits and . _ -; "
            "give another one as `table` (`red10 train FILE --table NAME`)"
        )
    if request.targets is not None and not request.targets:
        return Refusal(f"{table}: no target is named; leave `targets` out to train one model per column")
    targets = None if request.targets is None else tuple(dict.fromkeys(request.targets))
    return TablePlan(table, request.dataset, targets)


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
