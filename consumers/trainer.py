"""The trainer: takes training requests, fits models, releases them, answers.

For each batch of requests, in this order:

1. read the bars and fit, in training processes; check the versions, in another (`consumers.checker`);
2. store the versions, series by series, as they are done (identity is content, so that storing again changes nothing);
3. give them their aliases in *one* release: champion where the model has none, else challenger;
4. wait until a completed save of the models Redis covers all of this;
5. add the results and acknowledge the requests, in one step.

A crash after any step leaves the requests pending. They are done again with the same digests: one version each, a
release that changes nothing, and one result (`consumers.request_queue`). A models Redis that restarted between 2 and 4
may have forgotten what was written before; its run id then differs, and the batch is done again before it is
acknowledged.

What cannot be done is answered with `refused` (the request is wrong, or there are too few bars) or `failed` (the fit
went wrong), and acknowledged: no request blocks those behind it. A request that trainers die of is answered `failed`
when it was delivered too often. A Redis that is away is waited for, and so is a key that holds something else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import redis
import redis.asyncio
from numpy.typing import NDArray
from redis.exceptions import ResponseError

from consumers.checker import Checker
from consumers.deliveries import How
from consumers.features import FeatureSet, load_feature_set
from consumers.fit import FitOutcome, FitParameters, FitRequest, bars_needed
from consumers.fitpool import FitFailure, FitPool, processes_wanted
from consumers.history import read_bars
from consumers.patience import Patience, Stopped
from consumers.plans import Plan, Refusal, check_bars, split
from consumers.request_queue import Entry, Limits, RequestQueue
from consumers.training import Answer, Work, alias_changes, join, results_of, sort_out
from modelstore.errors import NotFound, ReleaseConflict
from modelstore.releases import Releases
from modelstore.saves import SaveBarrier, SaveFailed
from modelstore.store import ModelStore
from streams.errors import BrokenKey, Red10Error
from streams.ids import StreamID
from streams.records import TrainingResult
from streams.tenant import Tenant

log = logging.getLogger(__name__)

#: How long a stopping trainer still waits for its batch before it abandons it, s.
GRACE_S = 2.0
#: How long it then tries to give the batch's requests back, s.
LEAVE_S = 1.0
#: How long one save may take before it is said and waited for again, s: a store of 100 GB takes some minutes.
SAVE_TIMEOUT_S = 900.0


@dataclass(frozen=True, slots=True)
class TrainerOptions:
    """What a trainer takes from the settings, besides the tenant."""

    parameters: FitParameters
    max_bars: int
    processes: int  #: 0: one per core
    limits: Limits = field(default_factory=Limits)
    check_memory_mb: int = 2048
    check_timeout_s: float = 60.0


@dataclass(frozen=True, slots=True)
class BatchReport:
    """What became of a batch: for metrics.

    Attributes:
        results: one per request; empty if the batch was abandoned and stays pending.
        models: versions that were fitted.
        seconds: how long it took.
    """

    results: tuple[TrainingResult, ...] = ()
    models: int = 0
    seconds: float = 0.0


class _Again(Exception):
    """The models Redis lost what this batch wrote: leave it pending, do it again."""


class Trainer:
    """Carries out training requests as one consumer of the group `trainers`.

    `read` and `handle` are called in turn by one task; `stop` from anywhere on the same loop; `close` at the end.
    """

    def __init__(
        self,
        *,
        streams: redis.asyncio.Redis,
        bars: redis.Redis,
        models: redis.Redis,
        tenant: Tenant,
        options: TrainerOptions,
        consumer: str,
        pool: FitPool | None = None,
        on_delivery: Callable[[How], None] = lambda how: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Put a trainer together; nothing is sent yet.

        Args:
            streams: the streams role; its time-out must lie above `block_ms` of `read`.
            bars: a blocking client of the streams role, to read bars in threads.
            models: a blocking client of the models role.
            consumer: a name that no other process has (`consumers.identity`).
            pool: where fits run.
            on_delivery: told of every request that is taken.
            clock: seconds, monotonic.

        Raises:
            ConfigurationError: the pipeline's feature set cannot be loaded.
        """
        self._tenant = tenant
        self._bars = bars
        self._options = options
        self._consumer = consumer
        self._clock = clock
        self._features: FeatureSet = load_feature_set(tenant.pipeline.feature_set)
        self._queue = RequestQueue(streams, tenant.keys, consumer, options.limits, on_delivery=on_delivery)
        self._models = models
        self._store = ModelStore(models, tenant.keys)
        self._releases = Releases(models, tenant.keys)
        self._abandoned = threading.Event()
        self._saves = SaveBarrier(models, sleep=self._sleep)
        self._pool = pool or FitPool(processes_wanted(options.processes))
        self._checker = Checker(options.check_memory_mb, options.check_timeout_s)
        self._stop = asyncio.Event()
        self._streams_patience = Patience("streams", self._stop)
        self._models_patience = Patience("models", self._stop)

    @property
    def needed(self) -> int:
        """Fewest bars that a series is trained on."""
        longest = max(self._tenant.pipeline.horizons)
        return bars_needed(self._features.window, longest, self._options.parameters.min_rows)

    @property
    def away(self) -> dict[str, bool]:
        """For each role whether it was away at the last try."""
        return {"streams": self._streams_patience.away, "models": self._models_patience.away}

    def stop(self) -> None:
        """Ask `read` and `handle` to end: within `GRACE_S` and a bit, the batch finished or left pending."""
        self._stop.set()

    def close(self) -> None:
        """End the training processes. The clients stay open: they were passed in."""
        self._stop.set()
        self._pool.close()
        self._checker.close()

    async def read(self, block_ms: int) -> list[Entry]:
        """The next requests, or none after `block_ms` or when stopped; a Redis that is away is waited for.

        Raises:
            redis.RedisError: waiting will not help, such as missing permissions.
        """
        if self._stop.is_set():
            return []
        try:
            return await self._streams_patience(lambda: self._queue.read(block_ms), also=(BrokenKey,))
        except Stopped:
            return []

    async def handle(self, batch: Sequence[Entry]) -> BatchReport:
        """Carry out a batch and acknowledge it; when stopped meanwhile, finish within the grace or give it back.

        Raises:
            redis.RedisError: waiting will not help; the batch stays pending.
        """
        if not batch or self._stop.is_set():
            return BatchReport()
        entries = [entry for entry, _ in batch]
        work = asyncio.create_task(self._handle(batch))
        stop = asyncio.create_task(self._stop.wait())
        tasks = (work, stop, asyncio.create_task(self._keep(entries)))
        try:
            await asyncio.wait((work, stop), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                await asyncio.wait((work,), timeout=GRACE_S)
            if work.done():
                return work.result()
            self._abandoned.set()
            await self._leave(entries, "its trainer was stopped", give_back=True)
        except Stopped:
            await self._leave(entries, "its trainer was stopped", give_back=True)
        except _Again as again:
            log.warning("training is done again: %s", again)
            await self._leave(entries, str(again), give_back=False)
        except Exception as error:
            await self._leave(entries, f"its trainer failed: {error}", give_back=False)
            raise
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return BatchReport()

    async def _leave(self, entries: Sequence[StreamID], reason: str, *, give_back: bool) -> None:
        """Say why requests were left undone; if that cannot be said now, they stay pending without it."""
        with contextlib.suppress(redis.RedisError, OSError, TimeoutError):
            await asyncio.wait_for(self._queue.leave(entries, reason, give_back=give_back), LEAVE_S)

    async def _keep(self, entries: Sequence[StreamID]) -> None:
        """Keep requests from being taken over while they are worked on."""
        kept, said = set(entries), False
        while True:
            await asyncio.sleep(self._options.limits.keep_every_s)
            try:
                mine = set(await self._streams_patience(lambda: self._queue.keep(entries)))
            except Stopped:
                return
            except redis.RedisError as error:
                # The work goes on. At worst another trainer does the same again, which gives the same versions.
                if not said:
                    log.error("requests cannot be kept from other trainers: %s", error)
                said = True
                continue
            if kept - mine:
                lost = ", ".join(map(str, sorted(kept - mine)))
                log.warning("another trainer took over %s while this one did not answer", lost)
            kept &= mine

    async def _handle(self, batch: Sequence[Entry]) -> BatchReport:
        began = self._clock()
        refused, works = sort_out(batch, self._tenant.pipeline)
        run_id = await self._run_id()
        parts = -(-self._pool.processes // max(1, len(works)))
        # Not the first error at once: the other fits would run on unattended.
        for error in await asyncio.gather(*(self._make(work, parts) for work in works), return_exceptions=True):
            if error is not None:
                raise error
        release = await self._release(works)
        if release is not None:
            await self._saved(run_id)
        results = results_of(refused, works, release)
        await self._answer(results)
        return BatchReport(
            tuple(result for _, result in results),
            sum(len(work.digests) for work in works),
            self._clock() - began,
        )

    async def _make(self, work: Work, parts: int) -> None:
        """Carry out one plan up to its versions in the store; what goes wrong with this plan alone is noted in it."""
        began = self._clock()
        try:
            await self._fit_and_store(work, parts)
        except (Red10Error, ResponseError) as error:
            work.fail(str(error))
            log.error("training %s failed: %s", work.plan.series, error)
        work.seconds = self._clock() - began

    async def _fit_and_store(self, work: Work, parts: int) -> None:
        request = await self._streams_patience(lambda: asyncio.to_thread(self._prepare, work))
        if request is None:
            return
        fitted = await asyncio.gather(*(self._pool.fit(part) for part in split(request, parts)))
        # A part that failed fails the whole, so that a series is never half new.
        for part in fitted:
            if isinstance(part, FitFailure):
                work.fail(part.reason)
                log.error("fitting %s failed: %s", work.plan.series, part.trace or part.reason)
                return
        versions = join(work, [part for part in fitted if isinstance(part, FitOutcome)])
        reason = await self._checker.check(versions) if versions else None
        if reason is not None:
            work.fail(reason)
            log.error("new versions of %s are not stored: %s", work.plan.series, reason)
            return
        if versions:
            await self._models_patience(lambda: asyncio.to_thread(self._store.put_many, versions))
            work.stored(versions)

    def _prepare(self, work: Work) -> FitRequest | None:
        """Read the bars of a plan, in a thread; `None`, with the refusal noted, if there are too few."""
        series, pipeline = work.plan.series, self._tenant.pipeline
        keys = self._tenant.keys.partition(self._tenant.partition_of(series.symbol))
        bars, ends = read_bars(
            self._bars,
            keys,
            series,
            as_of=work.plan.as_of,
            limit=self._options.max_bars,
            interval_ns=series.interval.ns,
        )
        work.bars = len(bars)
        refusal = self._too_few(work.plan, ends)
        if refusal is not None:
            work.refuse(refusal.reason)
            return None
        return FitRequest(
            series=str(series),
            targets=work.plan.targets,
            longest=max(pipeline.horizons),
            feature_set=pipeline.feature_set,
            bars=bars,
            ends=ends,
            parameters=self._options.parameters,
            since=work.plan.since,
        )

    def _too_few(self, plan: Plan, ends: NDArray[np.int64]) -> Refusal | None:
        """Judge the history; of bars before `since` features may be made, so that they only must not be missing."""
        if plan.since is None:
            return check_bars(plan, len(ends), self.needed)
        fresh = int(np.count_nonzero(ends > plan.since))
        longest = max(self._tenant.pipeline.horizons)
        return check_bars(plan, fresh, bars_needed(1, longest, self._options.parameters.min_rows))

    async def _release(self, works: Sequence[Work]) -> str | None:
        """Give all new versions their aliases in one release; `None` if there are no versions."""
        names = {name for work in works for name in work.models}
        if not names:
            return None
        what = ", ".join(str(work.plan.series) for work in works if work.models)
        why = f"trained {len(names)} models: {what[:200]}"

        def promote() -> str:
            return self._releases.promote(
                lambda aliases: alias_changes(works, aliases)[0],
                who=self._consumer,
                why=why,
                notes=lambda aliases: alias_changes(works, aliases)[1],
            ).id

        try:
            return await self._models_patience(lambda: asyncio.to_thread(promote), also=(ReleaseConflict,))
        except NotFound as error:
            raise _Again(f"the models Redis forgot new versions before they were saved ({error})") from error

    async def _saved(self, run_id: str) -> None:
        """Wait for a save that covers the batch, and make sure that it was still there to be saved."""
        await self._models_patience(
            lambda: asyncio.to_thread(self._saves.wait_saved, SAVE_TIMEOUT_S), also=(SaveFailed,)
        )
        if await self._run_id() != run_id:
            raise _Again("the models Redis restarted before new versions were saved")

    def _sleep(self, seconds: float) -> None:
        """Sleep in the thread that waits for a save; a batch that was abandoned must not keep the thread."""
        if self._abandoned.wait(seconds):
            raise Stopped

    async def _run_id(self) -> str:
        def ask() -> str:
            return str(self._models.info("server")["run_id"])

        return await self._models_patience(lambda: asyncio.to_thread(ask))

    async def _answer(self, results: Sequence[Answer]) -> None:
        await self._streams_patience(lambda: self._queue.answer(results), also=(BrokenKey,))
