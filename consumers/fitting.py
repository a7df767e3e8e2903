"""From plans to versions that are stored: what a plan needs, read and fitted in training processes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import redis
from numpy.typing import NDArray
from redis.exceptions import ResponseError

from consumers.checker import Checker
from consumers.datasets import Roots
from consumers.features import FeatureSet, load_feature_set
from consumers.fit import FitOutcome, FitParameters, FitRequest, bars_needed
from consumers.fitpool import FitFailure, FitPool, Job
from consumers.history import read_bars
from consumers.patience import Patience
from consumers.placing import Placing
from consumers.plans import Plan, Refusal, TablePlan, check_bars, split
from consumers.table_fit import TableFit
from consumers.training import Work, join
from streams.errors import Red10Error
from streams.tenant import Tenant

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FitOptions:
    """What fits take from the settings."""

    parameters: FitParameters
    max_bars: int
    roots: Roots


@dataclass(frozen=True, slots=True)
class Makers:
    """What a version passes through: where it is fitted, where it is checked, and what puts it into the store."""

    pool: FitPool
    checker: Checker
    placing: Placing


class Fitting:
    """Carries out plans, one by one or several at once."""

    def __init__(
        self,
        bars: redis.Redis,
        tenant: Tenant,
        options: FitOptions,
        makers: Makers,
        patience: Patience,
        clock: Callable[[], float],
    ) -> None:
        """Put it together; nothing is read yet.

        Args:
            bars: a blocking client of the streams role, to read bars in threads.
            patience: with the streams role.

        Raises:
            ConfigurationError: the pipeline's feature set cannot be loaded.
        """
        self._bars = bars
        self._tenant = tenant
        self._options = options
        self._makers = makers
        self._patience = patience
        self._clock = clock
        self._features: FeatureSet = load_feature_set(tenant.pipeline.feature_set)

    @property
    def needed(self) -> int:
        """Fewest bars that a series is trained on."""
        longest = max(self._tenant.pipeline.horizons)
        return bars_needed(self._features.window, longest, self._options.parameters.min_rows)

    async def make(self, work: Work, parts: int) -> None:
        """Carry out one plan up to its versions in the store; what goes wrong with this plan alone is noted in it.

        Args:
            parts: most processes that its targets are shared among.
        """
        began = self._clock()
        try:
            await self._fit_and_store(work, parts)
        except (Red10Error, ResponseError) as error:
            work.fail(str(error))
            log.error("training %s failed: %s", work.plan.subject, error)
        work.seconds = self._clock() - began

    async def _fit_and_store(self, work: Work, parts: int) -> None:
        if isinstance(work.plan, TablePlan):
            jobs = self._table_jobs(work.plan, parts)
        else:
            plan = work.plan
            request = await self._patience(lambda: asyncio.to_thread(self._prepare, work, plan))
            jobs = [] if request is None else list[Job](split(request, parts))
        fitted = await asyncio.gather(*(self._makers.pool.fit(job) for job in jobs))
        # A part that failed fails the whole, so that a series is never half new.
        for part in fitted:
            if isinstance(part, FitFailure):
                _note_failure(work, part)
                return
        versions = join(work, [part for part in fitted if isinstance(part, FitOutcome)])
        reason = await self._makers.checker.check(versions) if versions else None
        if reason is not None:
            work.fail(reason)
            log.error("new versions of %s are not stored: %s", work.plan.subject, reason)
            return
        if versions:
            await self._makers.placing.put(versions)
            work.stored(versions)

    def _table_jobs(self, plan: TablePlan, parts: int) -> list[Job]:
        # How many targets there are is known only once the file was read, which each part does.
        count = max(1, min(parts, len(plan.targets) if plan.targets else parts))
        seed = self._options.parameters.seed
        return [
            TableFit(plan.dataset, self._options.roots, plan.table, plan.targets, seed, part, count)
            for part in range(count)
        ]

    def _prepare(self, work: Work, plan: Plan) -> FitRequest | None:
        """Read the bars of a plan, in a thread; `None`, with the refusal noted, if there are too few."""
        series, pipeline = plan.series, self._tenant.pipeline
        keys = self._tenant.keys.partition(self._tenant.partition_of(series.symbol))
        bars, ends = read_bars(
            self._bars,
            keys,
            series,
            as_of=plan.as_of,
            limit=self._options.max_bars,
            interval_ns=series.interval.ns,
        )
        work.bars = len(bars)
        refusal = self._too_few(plan, ends)
        if refusal is not None:
            work.refuse(refusal.reason)
            return None
        return FitRequest(
            series=str(series),
            targets=plan.targets,
            longest=max(pipeline.horizons),
            feature_set=pipeline.feature_set,
            bars=bars,
            ends=ends,
            parameters=self._options.parameters,
            since=plan.since,
        )

    def _too_few(self, plan: Plan, ends: NDArray[np.int64]) -> Refusal | None:
        """Judge the history; of bars before `since` features may be made, so that they only must not be missing."""
        if plan.since is None:
            return check_bars(plan, len(ends), self.needed)
        fresh = int(np.count_nonzero(ends > plan.since))
        longest = max(self._tenant.pipeline.horizons)
        return check_bars(plan, fresh, bars_needed(1, longest, self._options.parameters.min_rows))


def _note_failure(work: Work, failure: FitFailure) -> None:
    if failure.refused:
        work.refuse(failure.reason)
        return
    work.fail(failure.reason)
    log.error("fitting %s failed: %s", work.plan.subject, failure.trace or failure.reason)
