"""The kinds of worker process, scorer, trainer and monitor, wired together and run until told to stop.

Each is a Faust app whose agent carries out units of work: batches of owned partitions, batches of training requests,
or rounds of the monitor. Nothing is decided here; this is where settings become clients, tasks and metrics. The part of
the scorer is `consumers.scorer_process`.

A scorer never imports XGBoost; the trainer imports it only in its child processes. The monitor imports river when it
starts, the others never.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import redis.asyncio
from prometheus_client import CollectorRegistry
from redis.exceptions import RedisError

from consumers.identity import trainer_name
from consumers.metrics import Metrics
from consumers.patience import Patience, Stopped
from consumers.scorer_process import ScorerProcess
from consumers.wiring import GAUGES_EVERY_S, app_of, tenant_of, urls_of
from streams.app import run, web_views
from streams.clients import connect, connect_async
from streams.keys import TRAINERS
from streams.resume import group_lag
from streams.settings import Origins, Settings
from streams.tenant import Tenant

if TYPE_CHECKING:
    from consumers.trainer import Trainer

log = logging.getLogger("red10.worker")


def run_scorer(
    settings: Settings, origins: Origins, *, start_anew: bool = False, models_ready: Callable[[], None] | None = None
) -> None:
    """Run a scorer until SIGINT or SIGTERM.

    Args:
        settings: with both URLs set.
        start_anew: let partitions forget a state that another configuration computed.
        models_ready: returns once the models Redis can be asked; called in a thread, as late as possible.

    Raises:
        Red10Error: the settings cannot work, or contradict what is stored.
    """
    _set_up_logging(settings)
    asyncio.run(_scorer(settings, origins, start_anew, models_ready))


def run_trainer(settings: Settings, origins: Origins) -> None:
    """Run a trainer until SIGINT or SIGTERM.

    Raises:
        Red10Error: as `run_scorer`.
    """
    _set_up_logging(settings)
    asyncio.run(_trainer(settings, origins))


def run_monitor(settings: Settings, origins: Origins) -> None:
    """Run a monitor until SIGINT or SIGTERM.

    Raises:
        Red10Error: as `run_scorer`.
    """
    _set_up_logging(settings)
    asyncio.run(_monitor(settings, origins))


def _set_up_logging(settings: Settings) -> None:
    logging.basicConfig(level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # Faust and its parts say at INFO and WARNING what is no concern of an operator of Red10.
    for name in ("faust", "mode", "aiohttp", "aiokafka"):
        logging.getLogger(name).setLevel(logging.ERROR)


async def _scorer(
    settings: Settings, origins: Origins, start_anew: bool, models_ready: Callable[[], None] | None
) -> None:
    urls = urls_of(settings)
    metrics = Metrics(CollectorRegistry())
    app, channel = app_of(settings, "scorer", metrics)
    scorer = ScorerProcess(settings, origins, urls, metrics, channel, start_anew, models_ready)
    web_views(app, metrics.render, scorer.health)
    await run(app, scorer.main, channel)


async def _trainer(settings: Settings, origins: Origins) -> None:
    from consumers.pruning import Pruning
    from consumers.trainer import Trainer, TrainerOptions
    from modelstore.store import ModelStore

    urls = urls_of(settings)
    metrics = Metrics(CollectorRegistry())
    app, channel = app_of(settings, "trainer", metrics)
    running: list[Trainer] = []

    def health() -> tuple[bool, dict[str, Any]]:
        if not running:
            return False, {"role": "trainer", "state": "starting"}
        away = [role for role, gone in running[0].away.items() if gone]
        return not away, {"role": "trainer", "state": f"{' and '.join(away)} Redis away" if away else "running"}

    web_views(app, metrics.render, health)

    async def main(stop: asyncio.Event) -> None:
        with trainer_name(settings.data_dir) as name:
            await work(stop, name)

    async def work(stop: asyncio.Event, name: str) -> None:
        streams = connect_async(urls.streams, block_ms=settings.block_ms)
        bars, models = connect(urls.streams), connect(urls.models)
        try:
            patience = Patience("streams", stop)
            tenant = await patience(lambda: asyncio.to_thread(tenant_of, settings, origins))
            trainer = Trainer(
                streams=streams,
                bars=bars,
                models=models,
                tenant=tenant,
                options=TrainerOptions.of(settings),
                consumer=name,
                on_delivery=metrics.delivered,
            )
        except Stopped:
            return
        pruning = Pruning(ModelStore(models, tenant.keys), settings, metrics.pruned)
        helpers = [
            asyncio.create_task(_stop_with(stop, trainer.stop)),
            asyncio.create_task(pruning.run()),
            asyncio.create_task(_trainer_gauges(streams, tenant, trainer, metrics)),
        ]
        running.append(trainer)
        try:
            while not stop.is_set():
                batch = await trainer.read(settings.block_ms)
                if batch:
                    report = await channel.do(partial(trainer.handle, batch))
                    if report.results:
                        metrics.trained([result.status for result in report.results], report.models, report.seconds)
                    metrics.predicted([result.status for result in report.predictions])
        finally:
            pruning.close()
            for helper in helpers:
                helper.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)
            await asyncio.to_thread(trainer.close)
            await streams.aclose()
            bars.close()
            models.close()

    await run(app, main, channel)


async def _trainer_gauges(streams: redis.asyncio.Redis, tenant: Tenant, trainer: Trainer, metrics: Metrics) -> None:
    while True:
        for role, away in trainer.away.items():
            metrics.redis(role, up=not away)
        behind = None
        with contextlib.suppress(RedisError, OSError):  # the trainer says when Redis is away
            behind = await group_lag(streams, tenant.keys.requests, TRAINERS)
        metrics.lag(tenant.keys.requests, TRAINERS, behind)
        dead = None
        with contextlib.suppress(RedisError, OSError):
            dead = int(await streams.xlen(tenant.keys.dead))
        metrics.dead_requests(tenant.keys.dead, dead)
        await asyncio.sleep(GAUGES_EVERY_S)


async def _monitor(settings: Settings, origins: Origins) -> None:
    from consumers.monitor import Monitor
    from consumers.monitor_loop import MonitorLoop
    from consumers.retraining import Rules

    urls = urls_of(settings)
    metrics = Metrics(CollectorRegistry())
    app, channel = app_of(settings, "monitor", metrics)
    running: list[MonitorLoop] = []
    starting = (False, {"role": "monitor", "state": "starting"})
    web_views(app, metrics.render, lambda: running[0].health() if running else starting)

    async def gauges(loop: MonitorLoop) -> None:
        while True:
            for role in ("streams", "models"):
                metrics.redis(role, up=role not in loop.away)
            await asyncio.sleep(GAUGES_EVERY_S)

    async def main(stop: asyncio.Event) -> None:
        with connect(urls.streams) as streams, connect(urls.models) as models:
            try:
                patience = Patience("streams", stop)
                tenant = await patience(lambda: asyncio.to_thread(tenant_of, settings, origins))
            except Stopped:
                return
            rules = Rules.of(settings, tenant.pipeline)
            monitor = Monitor(streams=streams, models=models, tenant=tenant, rules=rules)
            loop = MonitorLoop(monitor, metrics, channel, stop, poll_ms=settings.block_ms)
            running.append(loop)
            looking = asyncio.create_task(gauges(loop))
            try:
                await loop.run()
            finally:
                looking.cancel()
                await asyncio.gather(looking, return_exceptions=True)

    await run(app, main, channel)


async def _stop_with(stop: asyncio.Event, end: Callable[[], None]) -> None:
    await stop.wait()
    end()
