"""Taking a partition over: its scorer, built from the stored state and the tails of its `bars` streams.

Reads `state`, `ticks` (only where it stands) and `bars:*`; writes only through `anew.lua`, under the lease. A crash at
any point leaves what was there, or a new incarnation that the next owner finds complete.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib.resources import files
from typing import cast

import redis.asyncio

from consumers.bars import BarBuilder
from consumers.history import parse_bar
from consumers.scorer import Scorer, Spec
from consumers.state import PartitionState, read_state
from modelstore.loaded import EMPTY, LoadedRelease
from streams.errors import ConfigurationError
from streams.ids import ZERO
from streams.keys import SCORERS, PartitionKeys
from streams.resume import Resume, look, resume

log = logging.getLogger("red10.recovery")

_ANEW = files("streams").joinpath("anew.lua").read_text("utf-8")

#: Finds a release by id; `None` if no store knows it. May wait while the store is away.
FindRelease = Callable[[str], Awaitable[LoadedRelease | None]]


class Fenced(Exception):
    """The lease was lost while the partition was being taken over."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """A scorer ready to go on, and how its input was found."""

    scorer: Scorer
    found: Resume


async def recover(
    client: redis.asyncio.Redis,
    keys: PartitionKeys,
    token: str,
    spec: Spec,
    find_release: FindRelease,
    *,
    start_anew: bool = False,
) -> Recovered:
    """Build the scorer of a partition whose lease is held.

    Args:
        start_anew: forget a state that another configuration wrote, and read the input from its beginning.

    Raises:
        ConfigurationError: the stored state belongs to another configuration, and `start_anew` was not asked for.
        Fenced: the lease went to somebody else.
        RedisError: as the client raises it.
    """
    fields = await cast(Awaitable[dict[bytes, bytes]], client.hgetall(keys.state))
    try:
        state = read_state(
            fields, _empty(spec), window=spec.features.window, expected=spec.fingerprint, where=keys.state
        )
    except ConfigurationError:
        if not start_anew:
            raise
        state = _empty(spec)
        state.counter = int(fields.get(b"counter", b"0"))
        state.incarnation = int(fields.get(b"incarnation", b"0"))
        await _begin_anew(client, keys, token, spec, state, wipe=True)
        return Recovered(Scorer(spec, keys, state, EMPTY), Resume.ANEW)

    found = resume(state.checkpoint, await look(client, keys, state.checkpoint))
    if found is Resume.ANEW:
        log.warning("%s ends before the checkpoint %s: a new incarnation begins", keys.ticks, state.checkpoint)
        await _begin_anew(client, keys, token, spec, state, wipe=False)
    elif found is Resume.GAP:
        log.error("%s lost entries around the checkpoint %s: going on after it", keys.ticks, state.checkpoint)
        state.anchor = ZERO
    await _fill_tails(client, keys, spec, state)
    release = EMPTY
    if state.release:
        known = await find_release(state.release)
        if known is None:
            log.error("%s: no model store knows the release %s in force: no forecasts", keys.state, state.release)
        release = known or EMPTY
    return Recovered(Scorer(spec, keys, state, release), found)


def _empty(spec: Spec) -> PartitionState:
    return PartitionState(BarBuilder([interval.ns for interval in spec.intervals], spec.lateness_ns))


async def _begin_anew(
    client: redis.asyncio.Redis, keys: PartitionKeys, token: str, spec: Spec, state: PartitionState, *, wipe: bool
) -> None:
    """Begin a new incarnation, in Redis and in `state`."""
    state.incarnation += 1
    argv = [
        token,
        str(state.counter),
        str(state.counter + 1),
        secrets.token_hex(8),
        str(state.incarnation),
        str(state.checkpoint),
        SCORERS,
        "1" if wipe else "0",
        spec.fingerprint,
    ]
    answer = await client.eval(_ANEW, 3, keys.state, keys.lease, keys.ticks, *argv)
    if answer not in (b"OK", b"DUP"):
        raise Fenced(keys.lease)
    state.counter += 1
    state.checkpoint = state.anchor = ZERO
    state.entries = 0


async def _fill_tails(client: redis.asyncio.Redis, keys: PartitionKeys, spec: Spec, state: PartitionState) -> None:
    """Read the newest bars of every series that has any."""
    wanted = [at for at, series in sorted(state.series.items()) if series.bars > 0]
    for begin in range(0, len(wanted), 100):
        chunk = wanted[begin : begin + 100]
        async with client.pipeline(transaction=False) as pipe:
            for slot, interval in chunk:
                name = f"{state.builder.symbols[slot]}:{spec.intervals[interval]}"
                pipe.xrevrange(keys.bars(name), count=min(spec.features.window, state.series[slot, interval].bars))
            replies = await pipe.execute()
        for at, entries in zip(chunk, replies, strict=True):
            tail = state.series[at].tail
            for entry, fields in reversed(entries):
                start, values = parse_bar(keys.ticks, entry, fields)
                tail.append(start, values)
