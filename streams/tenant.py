"""A tenant: the partition count and the pipeline that were fixed when it was created.

Owns `red10:{T}:tenant` (hash: `partitions`, `pipeline` as canonical JSON, `created` in ms) and the tenant's member of
`red10:tenants`. Created once with HSETNX, so that of two creators at once one wins and the other compares. A setting
that was left at its default gives way to what is stored; one that was asked for and differs is refused.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import redis
import redis.asyncio
from pydantic import ValidationError

from streams.errors import ConfigurationError, TenantMismatch
from streams.keys import TENANTS, Keys
from streams.series import partition_of
from streams.settings import Origins, Pipeline, Settings


@dataclass(frozen=True, slots=True)
class Tenant:
    """What is fixed for all who work on one tenant."""

    keys: Keys
    partitions: int
    pipeline: Pipeline

    def partition_of(self, symbol: str) -> int:
        """The partition of a symbol."""
        return partition_of(symbol, self.partitions)


def find_tenant(client: redis.Redis, name: str) -> Tenant | None:
    """The stored tenant, or `None`.

    Raises:
        ConfigurationError: what is stored cannot be read by this version.
    """
    keys = Keys(name)
    fields = cast(dict[bytes, bytes], client.hgetall(keys.meta))
    if b"partitions" not in fields or b"pipeline" not in fields:
        return None
    try:
        return Tenant(keys, int(fields[b"partitions"]), Pipeline.model_validate_json(fields[b"pipeline"]))
    except (ValidationError, ValueError) as error:
        raise ConfigurationError(
            f"tenant {name!r} was made by another version of Red10 ({error}): use that version, or another tenant"
        ) from error


def open_tenant(client: redis.Redis, settings: Settings, origins: Origins | None = None) -> Tenant:
    """Create the tenant of the settings, or open the stored one.

    Args:
        origins: as `load_settings` gives them; without them every setting counts as asked for.

    Raises:
        TenantMismatch: a setting that was asked for differs from what is stored.
    """
    found = find_tenant(client, settings.tenant)
    if found is None:
        keys = Keys(settings.tenant)
        seconds, micros = client.time()
        now = seconds * 1000 + micros // 1000
        with client.pipeline(transaction=True) as pipe:
            _write(pipe, keys, settings.partitions, settings.pipeline, now)
            pipe.execute()
        client.zadd(TENANTS, {settings.tenant: now}, nx=True)
        found = find_tenant(client, settings.tenant)
        assert found is not None, "just written"
    _compare(settings, origins, found)
    return found


def _write(pipe: Any, keys: Keys, partitions: int, pipeline: Pipeline, now_ms: int) -> None:
    """Have a pipeline, of whichever client, write what is fixed, unless it is there."""
    pipe.hsetnx(keys.meta, "partitions", str(partitions))
    pipe.hsetnx(keys.meta, "pipeline", pipeline.canonical())
    pipe.hsetnx(keys.meta, "created", str(now_ms))


async def keep_tenant(client: redis.asyncio.Redis, tenant: Tenant) -> bool:
    """Write a tenant that is gone, as after FLUSHALL, as it was opened.

    Returns:
        Whether it was gone.
    """
    stored = await cast(Awaitable[bytes | None], client.hget(tenant.keys.meta, "partitions"))
    if stored is not None:
        if stored != str(tenant.partitions).encode():
            raise TenantMismatch(
                f"tenant {tenant.keys.tenant!r} was created anew with {stored.decode()} partitions while workers with "
                f"{tenant.partitions} ran: restart them"
            )
        return False
    seconds, micros = await client.time()
    now = seconds * 1000 + micros // 1000
    async with client.pipeline(transaction=True) as pipe:
        _write(pipe, tenant.keys, tenant.partitions, tenant.pipeline, now)
        await pipe.execute()
    await client.zadd(TENANTS, {tenant.keys.tenant: now}, nx=True)
    return True


def _compare(settings: Settings, origins: Mapping[str, str] | None, stored: Tenant) -> None:
    asked: dict[str, tuple[Any, Any]] = {"partitions": (settings.partitions, stored.partitions)}
    for name in Pipeline.model_fields:
        asked[name] = (getattr(settings, name), getattr(stored.pipeline, name))
    for name, (wanted, have) in asked.items():
        if wanted != have and (origins is None or origins.get(name) != "default"):
            source = "" if origins is None else f" (from {origins[name]})"
            raise TenantMismatch(
                f"tenant {settings.tenant!r} was created with {name} = {have}, but {wanted}{source} was asked for: "
                f"leave {name} out, or use another tenant"
            )
