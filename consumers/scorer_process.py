"""A scorer process: models loaded, kernels warm, then partitions owned until it is told to stop.

The models are loaded and the kernels warmed *before* it joins the members, so that a partition never waits for that. It
never imports XGBoost. Nothing is decided here; this is where settings become clients, tasks and metrics.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import redis.asyncio
from redis.exceptions import RedisError

from consumers.features import fingerprint, load_feature_set
from consumers.memo import Memo
from consumers.metrics import Metrics
from consumers.ownership import Ownership
from consumers.partition import PartitionTask
from consumers.patience import Patience, Stopped
from consumers.policy import load_policy
from consumers.spec import Spec
from consumers.state import fingerprint as state_fingerprint
from consumers.targets import Target
from consumers.warm import warm_kernels
from consumers.wiring import GAUGES_EVERY_S, Urls, server_version, tenant_of, worker_name
from modelstore.errors import BadModel, NotFound
from modelstore.follow import Follower
from modelstore.loaded import LoadedRelease
from modelstore.manifest import feature_set_id
from streams.channel import WorkChannel
from streams.clients import BULK_BYTES, connect, connect_async, read_raw
from streams.commit import Committer, Retention
from streams.errors import ConfigurationError
from streams.keys import SCORERS
from streams.resume import lag
from streams.room import Memory
from streams.settings import Origins, Settings
from streams.tenant import Tenant, keep_tenant

log = logging.getLogger("red10.worker")

#: Seconds between two looks at the memory of the streams Redis: a quarter of what fast publishers need to fill a tenth.
MEMORY_EVERY_S = 0.25
#: Seconds that a scorer waits for the model store before it goes on without forecasts.
STORE_PATIENCE_S = 5.0


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


def _spare_the_collector() -> None:
    """Have the garbage collector pass over what is here to stay, and look less often.

    A reply of 2,000 entries makes 4,000 lists, none of them garbage yet; with Python's usual threshold (700)
    collections took two thirds of the time of reading it.
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    gc.enable()


class ScorerProcess:
    """What a scorer process is made of."""

    def __init__(
        self,
        settings: Settings,
        origins: Origins,
        urls: Urls,
        metrics: Metrics,
        channel: WorkChannel,
        start_anew: bool,
        models_ready: Callable[[], None] | None,
    ) -> None:
        self._models_ready = models_ready
        self._settings = settings
        self._origins = origins
        self._urls = urls
        self._metrics = metrics
        self._channel = channel
        self._start_anew = start_anew
        self._ownership: Ownership | None = None
        self._follower: Follower | None = None
        self._memos: dict[int, Memo] = {}
        self._memory: Memory | None = None

    async def main(self, stop: asyncio.Event) -> None:
        """Load, then own partitions until told to stop."""
        client = read_raw(connect_async(self._urls.streams, block_ms=self._settings.block_ms))
        try:
            patience = Patience("streams", stop)
            tenant = await patience(lambda: asyncio.to_thread(tenant_of, self._settings, self._origins))
            version = await patience(lambda: server_version(client))
            await self._run(client, tenant, version, stop)
        except Stopped:
            log.info("stopped before the work began")
        finally:
            await client.aclose()

    async def _run(self, client: redis.asyncio.Redis, tenant: Tenant, version: str, stop: asyncio.Event) -> None:
        spec = make_spec(tenant, self._settings)
        follower = self._follower = Follower(
            lambda: connect(self._urls.models, read_bytes=BULK_BYTES),
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
            keep_tenant=lambda: keep_tenant(client, tenant),
            on_owned=self._metrics.owned,
        )

        async def on_change(release: LoadedRelease) -> None:
            ownership.notify(release)

        await asyncio.to_thread(warm_kernels)
        if self._models_ready is not None:
            await asyncio.to_thread(self._models_ready)
        following = asyncio.create_task(follower.run(on_change))
        with contextlib.suppress(TimeoutError):  # the follower says that the store is away
            await asyncio.wait_for(follower.ready.wait(), STORE_PATIENCE_S)
        _spare_the_collector()
        gauges = asyncio.create_task(self._gauges(client, ownership, follower))
        memory = asyncio.create_task(self._watch_memory(client))
        try:
            await ownership.run(stop)
        finally:
            helpers = (following, gauges, memory)
            for task in helpers:
                task.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)

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
            Committer(
                client,
                keys,
                server=version,
                retention=Retention(settings.keep_outputs, settings.required_groups, settings.foreign_entries),
                short=self._short,
                on_lost=partial(self._metrics.input_lost, keys.ticks),
            ),
            self._channel,
            find_release,
            self._metrics,
            batch_ticks=settings.batch_ticks,
            batch_outputs=settings.batch_outputs,
            batch_s=settings.lease_ms / 10_000,
            block_ms=settings.block_ms,
            memo=self._memos.setdefault(partition, Memo()),
            redis_away=lambda: self._ownership is not None and self._ownership.away,
            start_anew=self._start_anew,
        )

    def _short(self) -> bool:
        """Whether the streams Redis is short of memory, as far as is known."""
        mark = self._settings.memory_mark
        return bool(mark) and self._memory is not None and self._memory.share >= mark

    async def _watch_memory(self, client: redis.asyncio.Redis) -> None:
        """Know how full Redis is: what was consumed then goes at once, and publishers get room again."""
        while True:
            try:
                self._memory = Memory.of(await client.info("memory"))
                self._metrics.memory(self._memory.used, self._memory.limit)
            except (RedisError, OSError):  # the ownership says that Redis is away
                self._memory = None
            await asyncio.sleep(MEMORY_EVERY_S)

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
