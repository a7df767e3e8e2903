"""The kinds of worker process, scorer, trainer and monitor, wired together and run until told to stop.

Each is a Faust app whose agent carries out units of work: batches of owned partitions, batches of training requests,
or rounds of the monitor. Nothing is decided here; this is where settings become clients, tasks and metrics.

The scorer loads the models and warms the kernels *before* it joins the members, so that a partition never waits for
that. It never imports XGBoost; the trainer imports it only in its child processes. The monitor imports river when it
starts, the others never.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import redis.asyncio
from prometheus_client import CollectorRegistry
from redis.exceptions import RedisError

from consumers.features import fingerprint, load_feature_set
from consumers.identity import trainer_name
from consumers.metrics import Metrics
from consumers.ownership import Ownership
from consumers.partition import BatchSize, PartitionTask
from consumers.patience import Patience, Stopped
from consumers.policy import load_policy
from consumers.spec import Spec
from consumers.state import fingerprint as state_fingerprint
from consumers.targets import Target
from consumers.trainer import Trainer, TrainerOptions
from consumers.warm import warm_kernels
from modelstore.errors import BadModel, NotFound
from modelstore.follow import Follower
from modelstore.loaded import LoadedRelease
from modelstore.manifest import feature_set_id
from streams.app import App, make_app, run, web_views, work_agent
from streams.channel import WorkChannel
from streams.clients import connect, connect_async, read_raw
from streams.commit import Committer
from streams.errors import ConfigurationError
from streams.keys import SCORERS, TRAINERS
from streams.resume import group_lag, lag
from streams.settings import Origins, Settings
from streams.tenant import Tenant, open_tenant

log = logging.getLogger("red10.worker")

#: Seconds between two looks at gauges (lag, age, what is up).
GAUGES_EVERY_S = 2.0
#: Seconds that a scorer waits for the model store before it goes on without forecasts.
STORE_PATIENCE_S = 5.0


def run_scorer(settings: Settings, origins: Origins, *, start_anew: bool = False) -> None:
    """Run a scorer until SIGINT or SIGTERM.

    Args:
        settings: with both URLs set.
        start_anew: let partitions forget a state that another configuration computed.

    Raises:
        Red10Error: the settings cannot work, or contradict what is stored.
    """
    _set_up_logging(settings)
    asyncio.run(_scorer(settings, origins, start_anew))


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


def make_spec(tenant: Tenant, settings: Settings) -> Spec:
    """What all scorers of a tenant share.

    Raises:
        ConfigurationError: the feature set or the policy cannot be loaded.
    """
    pipeline = tenant.pipeline
    features, policy = load_feature_set(pipeline.feature_set), load_policy(pipeline)
    spec = Spec(
        partitions=tenant.partitions,
        intervals=pipeline.parsed_intervals,
        lateness_ns=pipeline.lateness_ms * 1_000_000,
        max_ahead_ns=pipeline.max_ahead_ms * 1_000_000,
        keep_ticks_ms=settings.keep_ticks_s * 1000,
        features=features,
        policy=policy,
        targets={name: Target.parse(name) for name in pipeline.targets},
        fingerprint=state_fingerprint(pipeline.canonical(), fingerprint(features), (policy.name, policy.version)),
    )
    if settings.keep_outputs < spec.tail_bars:
        raise ConfigurationError(
            f"keep_outputs is {settings.keep_outputs}, but features and judge look at {spec.tail_bars} bars, which are "
            f"read back after a restart: set keep_outputs to at least {spec.tail_bars}"
        )
    return spec


@dataclass(slots=True)
class _Urls:
    streams: Any
    models: Any


def _urls(settings: Settings) -> _Urls:
    if settings.streams_url is None or settings.models_url is None:
        raise ConfigurationError(
            "a worker needs both streams_url and models_url: `red10 worker` finds the embedded ones"
        )
    return _Urls(settings.streams_url, settings.models_url)


def _set_up_logging(settings: Settings) -> None:
    logging.basicConfig(level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # Faust and its parts say at INFO and WARNING what is no concern of an operator of Red10.
    for name in ("faust", "mode", "aiohttp", "aiokafka"):
        logging.getLogger(name).setLevel(logging.ERROR)


def worker_name(kind: str) -> str:
    """A name that no other process has: containers may share host name and process id."""
    return f"{socket.gethostname()}-{os.getpid()}-{kind}-{secrets.token_hex(2)}"


def _spare_the_collector() -> None:
    """Have the garbage collector pass over what is here to stay, and look less often.

    A reply of 2,000 entries makes 4,000 lists, none of them garbage yet; with Python's usual threshold (700)
    collections took two thirds of the time of reading it.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


async def _scorer(settings: Settings, origins: Origins, start_anew: bool) -> None:
    urls = _urls(settings)
    metrics = Metrics(CollectorRegistry())
    app, channel = _app(settings, "scorer", metrics)
    scorer = _ScorerProcess(settings, origins, urls, metrics, channel, start_anew)
    web_views(app, metrics.render, scorer.health)
    await run(app, scorer.main, channel)


class _ScorerProcess:
    """What a scorer process is made of."""

    def __init__(
        self,
        settings: Settings,
        origins: Origins,
        urls: _Urls,
        metrics: Metrics,
        channel: WorkChannel,
        start_anew: bool,
    ) -> None:
        self._settings = settings
        self._origins = origins
        self._urls = urls
        self._metrics = metrics
        self._channel = channel
        self._start_anew = start_anew
        self._ownership: Ownership | None = None
        self._follower: Follower | None = None
        self._sizes: dict[int, BatchSize] = {}

    async def main(self, stop: asyncio.Event) -> None:
        """Load, then own partitions until told to stop."""
        client = read_raw(connect_async(self._urls.streams, block_ms=self._settings.block_ms))
        try:
            patience = Patience("streams", stop)
            tenant = await patience(lambda: asyncio.to_thread(_tenant, self._settings, self._origins))
            version = await patience(lambda: _server_version(client))
            await self._run(client, tenant, version, stop)
        except Stopped:
            log.info("stopped before the work began")
        finally:
            await client.aclose()

    async def _run(self, client: redis.asyncio.Redis, tenant: Tenant, version: str, stop: asyncio.Event) -> None:
        spec = make_spec(tenant, self._settings)
        follower = self._follower = Follower(
            lambda: connect(self._urls.models),
            tenant.keys,
            targets=tenant.pipeline.targets,
            feature_count=len(spec.features.columns),
            features=feature_set_id(fingerprint(spec.features)),
            follow_ms=self._settings.follow_ms,
        )
        ownership = self._ownership = Ownership(
            client,
            tenant.keys,
            worker=worker_name("scorer"),
            partitions=tenant.partitions,
            lease_ms=self._settings.lease_ms,
            make_task=lambda partition, token: self._task(client, tenant, spec, version, follower, partition, token),
            on_owned=self._metrics.owned,
        )

        async def on_change(release: LoadedRelease) -> None:
            ownership.notify(release)

        await asyncio.to_thread(warm_kernels)
        following = asyncio.create_task(follower.run(on_change))
        with contextlib.suppress(TimeoutError):  # the follower says that the store is away
            await asyncio.wait_for(follower.ready.wait(), STORE_PATIENCE_S)
        _spare_the_collector()
        gauges = asyncio.create_task(self._gauges(client, ownership, follower))
        try:
            await ownership.run(stop)
        finally:
            for task in (following, gauges):
                task.cancel()
            await asyncio.gather(following, gauges, return_exceptions=True)

    def _task(
        self,
        client: redis.asyncio.Redis,
        tenant: Tenant,
        spec: Spec,
        version: str,
        follower: Follower,
        partition: int,
        token: str,
    ) -> PartitionTask:
        settings, keys = self._settings, tenant.keys.partition(partition)

        async def find_release(release: str) -> LoadedRelease | None:
            try:
                return await follower.get(release)
            except (NotFound, BadModel) as error:
                log.error("release %s: %s", release, error)
                return None

        return PartitionTask(
            client,
            keys,
            token,
            spec,
            Committer(client, keys, server=version, keep_outputs=settings.keep_outputs),
            self._channel,
            find_release,
            self._metrics,
            batch_ticks=settings.batch_ticks,
            batch_outputs=settings.batch_outputs,
            batch_s=settings.lease_ms / 10_000,
            block_ms=settings.block_ms,
            size=self._sizes.setdefault(partition, BatchSize()),
            redis_away=lambda: self._ownership is not None and self._ownership.away,
            start_anew=self._start_anew,
        )

    async def _gauges(self, client: redis.asyncio.Redis, ownership: Ownership, follower: Follower) -> None:
        while True:
            release = follower.current
            self._metrics.release(
                release.id,
                loaded=release.models,
                refused=len(release.refused),
                oldest_created_ms=release.oldest_created_ms,
            )
            self._metrics.redis("models", up=follower.away_since is None)
            up = True
            for task in list(ownership.tasks.values()):
                behind = None
                if task.scorer is not None:
                    try:
                        behind = await lag(client, task.keys, task.scorer.state.checkpoint)
                    except (RedisError, OSError):  # the ownership says that Redis is away
                        up = False
                self._metrics.lag(task.keys.ticks, SCORERS, behind)
            self._metrics.redis("streams", up=up and not ownership.away)
            await asyncio.sleep(GAUGES_EVERY_S)

    def health(self) -> tuple[bool, dict[str, Any]]:
        """Whether the process can do its work, and in what state it is."""
        ownership, follower = self._ownership, self._follower
        if ownership is None or follower is None:
            return False, {"role": "scorer", "state": "starting"}
        taking_over = sum(task.scorer is None for task in ownership.tasks.values())
        healthy = not ownership.away and not taking_over
        return healthy, {
            "role": "scorer",
            "state": "streams Redis away" if ownership.away else "running",
            "partitions": sorted(ownership.tasks),
            "partitions_taking_over": taking_over,
            "release": follower.current.id or None,
            "models": follower.current.models,
            "model_store": "up" if follower.away_since is None else "away",
        }


async def _trainer(settings: Settings, origins: Origins) -> None:
    urls = _urls(settings)
    metrics = Metrics(CollectorRegistry())
    app, channel = _app(settings, "trainer", metrics)
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
            tenant = await patience(lambda: asyncio.to_thread(_tenant, settings, origins))
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
        helpers = [
            asyncio.create_task(_stop_with(stop, trainer.stop)),
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

    urls = _urls(settings)
    metrics = Metrics(CollectorRegistry())
    app, channel = _app(settings, "monitor", metrics)
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
                tenant = await patience(lambda: asyncio.to_thread(_tenant, settings, origins))
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


def _app(settings: Settings, role: str, metrics: Metrics) -> tuple[App, WorkChannel]:
    app = make_app(f"red10-{role}", web_host=settings.web_host, web_port=settings.web_port)
    if app.conf.web_port != settings.web_port and settings.web_port:
        log.warning("port %d is taken: /metrics is on %d", settings.web_port, app.conf.web_port)
    return app, work_agent(app, role)


def _tenant(settings: Settings, origins: Origins) -> Tenant:
    with connect(_urls(settings).streams) as client:
        return open_tenant(client, settings, origins)


async def _server_version(client: redis.asyncio.Redis) -> str:
    info = await client.info("server")
    return str(info["redis_version"])
