"""Training requests and their results as tests post, read and count them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import redis

from streams.ids import StreamID
from streams.keys import TRAINERS, Keys
from streams.records import TrainingRequest, TrainingResult

Entries = list[tuple[bytes, dict[bytes, bytes]]]


def asked(series: str, **fields: Any) -> TrainingRequest:
    return TrainingRequest.model_validate({"series": series, **fields})


def entries(client: redis.Redis, key: str) -> list[tuple[StreamID, dict[bytes, bytes]]]:
    return [(StreamID.parse(entry), fields) for entry, fields in cast(Entries, client.xrange(key))]


def results(client: redis.Redis, keys: Keys) -> list[TrainingResult]:
    return [TrainingResult.from_fields(fields) for _, fields in entries(client, keys.results)]


def pending(client: redis.Redis, keys: Keys) -> int:
    return int(client.xpending(keys.requests, TRAINERS)["pending"])


def idle_ms(client: redis.Redis, keys: Keys) -> int:
    """How long the oldest pending request has been idle."""
    found = cast(list[dict[str, int]], client.xpending_range(keys.requests, TRAINERS, "-", "+", 1))
    return found[0]["time_since_delivered"]


async def until(holds: Callable[[], bool]) -> None:
    """Wait for what has no event to wait for; the test's time-out ends it."""
    waited = asyncio.Event()
    loop = asyncio.get_running_loop()

    def look() -> None:
        if holds():
            waited.set()
        else:
            loop.call_later(0.01, look)

    look()
    await waited.wait()
