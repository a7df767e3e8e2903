"""The trainer: takes requests, fits models, releases them, answers; and answers what is to be predicted.

For each batch of requests, predictions first, then, in this order:

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
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import redis
import redis.asyncio

from consumers.answers import Answer
from consumers.checker import Checker
from consumers.datasets import MIB, Roots
from consumers.deliveries import How
from consumers.fit import FitParameters
from consumers.fitpool import FIT_TIMEOUT_S, FitPool, processes_wanted
from consumers.fitting import FitOptions, Fitting, Makers
from consumers.patience import Patience, Stopped
from consumers.placing import Again, Placing
from consumers.predicting import Predicting
from consumers.request_queue import Entry, Limits, RequestQueue
from consumers.sorting import sort_out
from consumers.training import Work, results_of
from streams.errors import BrokenKey
from streams.ids import StreamID
from streams.records import PredictionResult, TrainingResult
from streams.settings import Settings
from streams.tenant import Tenant

log = logging.getLogger(__name__)

#: How long a stopping trainer still waits for its batch before it abandons it, s.
GRACE_S = 2.0
#: How long it then tries to give the batch's requests back, s.
LEAVE_S = 1.0


@dataclass(frozen=True, slots=True)
class TrainerOptions:
    """What a trainer takes from the settings, besides the tenant."""

    parameters: FitParameters
    max_bars: int
    processes: int  #: 0: one per core
    limits: Limits = field(default_factory=Limits)
    fit_timeout_s: float = FIT_TIMEOUT_S
    check_memory_mb: int = 2048
    check_timeout_s: float = 60.0
    roots: Roots = field(default_factory=lambda: Roots((), 0))

    @classmethod
    def of(cls, settings: Settings) -> TrainerOptions:
        """Take them from the settings."""
        return cls(
            parameters=FitParameters.of(settings),
            max_bars=settings.max_bars,
            processes=settings.processes,
            limits=Limits(settings.claim_idle_ms, settings.max_deliveries),
            fit_timeout_s=settings.fit_timeout_s,
            check_memory_mb=settings.check_memory_mb,
            check_timeout_s=settings.check_timeout_s,
            roots=Roots(settings.dataset_roots, settings.dataset_max_mib * MIB),
        )


@dataclass(frozen=True, slots=True)
class BatchReport:
    """What became of a batch: for metrics.

    Attributes:
        results: one per training request; empty if the batch was abandoned and stays pending.
        predictions: one per prediction request.
        models: versions that were fitted.
        seconds: how long it took.
    """

    results: tuple[TrainingResult, ...] = ()
    predictions: tuple[PredictionResult, ...] = ()
    models: int = 0
    seconds: float = 0.0


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
        self._options = options
        self._clock = clock
        self._stop = asyncio.Event()
        self._streams_patience = Patience("streams", self._stop)
        self._models_patience = Patience("models", self._stop)
        self._queue = RequestQueue(streams, tenant.keys, consumer, options.limits, on_delivery=on_delivery)
        self._pool = pool or FitPool(processes_wanted(options.processes), timeout_s=options.fit_timeout_s)
        self._placing = Placing(models, tenant, consumer, self._models_patience)
        self._checker = Checker(options.check_memory_mb, options.check_timeout_s)
        fit = FitOptions(options.parameters, options.max_bars, options.roots)
        makers = Makers(self._pool, self._checker, self._placing)
        self._fitting = Fitting(bars, tenant, fit, makers, self._streams_patience, clock)
        self._predicting = Predicting(self._placing.store, self._pool, options.roots, self._models_patience, clock)
        self._under_way: set[StreamID] = set()

    @property
    def needed(self) -> int:
        """Fewest bars that a series is trained on."""
        return self._fitting.needed

    @property
    def away(self) -> dict[str, bool]:
        """For each role whether it was away at the last try."""
        return {"streams": self._streams_patience.away, "models": self._models_patience.away}

    def stop(self) -> None:
        """Ask `read` and `handle` to end: within `GRACE_S` and a bit, the batch finished or left pending."""
        self._stop.set()

    def close(self) -> None:
        """End the training processes and checks. The clients stay open: they were passed in."""
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
        if not batch:
            return BatchReport()
        self._under_way = {entry for entry, _ in batch}
        if self._stop.is_set():  # while they were waited for
            await self._leave("its trainer was stopped", give_back=True)
            return BatchReport()
        work = asyncio.create_task(self._handle(batch))
        stop = asyncio.create_task(self._stop.wait())
        tasks = (work, stop, asyncio.create_task(self._keep()))
        try:
            await asyncio.wait((work, stop), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                await asyncio.wait((work,), timeout=GRACE_S)
            if work.done():
                return work.result()
            self._placing.abandon()
            await self._leave("its trainer was stopped", give_back=True)
        except Stopped:
            await self._leave("its trainer was stopped", give_back=True)
        except Again as again:
            log.warning("training is done again: %s", again)
            await self._leave(str(again), give_back=False)
        except Exception as error:
            await self._leave(f"its trainer failed: {error}", give_back=False)
            raise
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return BatchReport()

    async def _leave(self, reason: str, *, give_back: bool) -> None:
        """Say why requests were left undone; if that cannot be said now, they stay pending without it."""
        with contextlib.suppress(redis.RedisError, OSError, TimeoutError):
            await asyncio.wait_for(self._queue.leave(sorted(self._under_way), reason, give_back=give_back), LEAVE_S)

    async def _keep(self) -> None:
        """Keep requests from being taken over while they are worked on."""
        lost: set[StreamID] = set()
        said = False
        while True:
            await asyncio.sleep(self._options.limits.keep_every_s)
            try:
                wanted = sorted(self._under_way)
                mine = set(await self._streams_patience(partial(self._queue.keep, wanted)))
            except Stopped:
                return
            except redis.RedisError as error:
                # The work goes on. At worst another trainer does the same again, which gives the same versions.
                if not said:
                    log.error("requests cannot be kept from other trainers: %s", error)
                said = True
                continue
            gone = (self._under_way & set(wanted)) - mine - lost
            if gone:
                lost |= gone
                names = ", ".join(map(str, sorted(gone)))
                log.warning("another trainer took over %s while this one did not answer", names)

    async def _handle(self, batch: Sequence[Entry]) -> BatchReport:
        began = self._clock()
        asked = sort_out(batch, self._tenant.pipeline)
        predicted = [await self._predicting.answer(question) for question in asked.questions]
        # At once: fits may take long, and a prediction waits for none of them.
        await self._answer([*asked.refused, *predicted])
        trained = await self._train(asked.works) if asked.works else []
        answers = sorted([*asked.refused, *predicted, *trained], key=lambda answer: answer[0])
        records = [record for _, record in answers]
        return BatchReport(
            results=tuple(record for record in records if isinstance(record, TrainingResult)),
            predictions=tuple(record for record in records if isinstance(record, PredictionResult)),
            models=sum(len(work.digests) for work in asked.works),
            seconds=self._clock() - began,
        )

    async def _train(self, works: Sequence[Work]) -> list[Answer]:
        run_id = await self._placing.run_id()
        parts = -(-self._pool.processes // len(works))
        # Not the first error at once: the other fits would run on unattended.
        made = await asyncio.gather(*(self._fitting.make(work, parts) for work in works), return_exceptions=True)
        for error in made:
            if error is not None:
                raise error
        release = await self._placing.release(works)
        if release is not None:
            await self._placing.saved(run_id)
        answers = results_of(works, release)
        await self._answer(answers)
        return answers

    async def _answer(self, answers: Sequence[Answer]) -> None:
        await self._streams_patience(lambda: self._queue.answer(answers), also=(BrokenKey,))
        self._under_way.difference_update(entry for entry, _ in answers)
