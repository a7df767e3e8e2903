"""Taking a partition over: its scorer, built from the stored state and the tails of its `bars` streams.

Reads `state`, `ticks` (only where it stands) and `bars:*`; writes only through `anew.lua`, under the lease. A crash at
any point leaves what was there, or a new incarnation that the next owner finds complete.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, cast

import redis.asyncio
from redis.exceptions import ResponseError

from consumers.bars import BarBuilder
from consumers.history import parse_bar
from consumers.judge import read_forecasts
from consumers.outputs import dead_fields
from consumers.scorer import Scorer
from consumers.spec import Spec
from consumers.state import SCHEMA, PartitionState, SeriesState, read_state
from modelstore.loaded import EMPTY, LoadedRelease
from streams.clients import error_code
from streams.errors import BadRecord, ConfigurationError, Red10Error
from streams.ids import MAX_U64, ZERO, Source
from streams.keys import SCORERS, PartitionKeys
from streams.resume import Resume, look, resume

log = logging.getLogger("red10.recovery")

_ANEW = files("streams").joinpath("anew.lua").read_text("utf-8")

#: Finds a release by id; `None` if no store knows it. May wait while the store is away.
FindRelease = Callable[[str], Awaitable[LoadedRelease | None]]


class BrokenKey(Red10Error):
    """A key holds what Red10 did not write, or can take no more ids."""

    def __init__(self, key: str) -> None:
        super().__init__(
            f"{key} is of a type that Red10 does not write, or its ids are exhausted: "
            "move the key away (RENAME), then the partition goes on by itself"
        )
        self.key = key


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
        BrokenKey: a key is of another type.
        ConfigurationError: the stored state belongs to another configuration, and `start_anew` was not asked for.
        Fenced: the lease went to somebody else.
        RedisError: as the client raises it.
    """
    with naming(keys.state):
        fields = await cast(Awaitable[dict[bytes, bytes]], client.hgetall(keys.state))
    if not fields:
        last = await _last_incarnation(client, keys)
        with naming(keys.ticks):
            was_read = last is not None or await _was_read(client, keys)
        if was_read:
            log.error("%s is gone: %s is read from its beginning, in a new incarnation", keys.state, keys.ticks)
            return await _wiped(client, keys, token, spec, fields, last)
    try:
        state = read_state(fields, _empty(spec), spec=spec, where=keys.state)
    except ConfigurationError:
        if not start_anew:
            raise
        return await _wiped(client, keys, token, spec, fields, await _last_incarnation(client, keys))

    with naming(keys.ticks):
        seen = await look(client, keys, state.checkpoint, None if state.within is None else state.within[0])
    found, loss = resume(state.tip, seen), ""
    if found is Resume.ANEW:
        loss = f"the stream ended before {state.tip}, up to which it was consumed: it was deleted, or fell back"
        log.warning("%s ends before the checkpoint %s: a new incarnation begins", keys.ticks, state.tip)
        await _begin_anew(client, keys, token, spec, state, stored=fields[b"counter"], wipe=False, loss=loss)
    elif found is Resume.GAP:
        loss = f"entries around {state.tip}, up to which it was consumed, are gone: what came between is not known"
        log.error("%s lost entries around the checkpoint %s: going on after it", keys.ticks, state.tip)
        state.anchor, state.within = ZERO, None
        state.entries = state.entries if seen.gone is None else seen.gone
    await _fill_tails(client, keys, spec, state)
    release = EMPTY
    if state.release:
        known = await find_release(state.release)
        if known is None:
            log.error("%s: no model store knows the release %s in force: no forecasts", keys.state, state.release)
        release = known or EMPTY
    scorer = Scorer(spec, keys, state, release)
    if found is Resume.GAP:  # it is found again until a batch that notes it is committed
        scorer.note_loss(loss)
    return Recovered(scorer, found)


@contextmanager
def naming(key: str) -> Iterator[None]:
    """Turn a refusal of the key's type, which does not name it, into `BrokenKey`."""
    try:
        yield
    except ResponseError as error:
        if error_code(error) == "WRONGTYPE":
            raise BrokenKey(key) from error
        raise


async def _was_read(client: redis.asyncio.Redis, keys: PartitionKeys) -> bool:
    """Whether a commit has moved the group's cursor."""
    try:
        groups = await client.xinfo_groups(keys.ticks)
    except ResponseError as error:
        if "no such key" in str(error):
            return False
        raise
    return any(group["name"] == SCORERS.encode() and group["last-delivered-id"] != b"0-0" for group in groups)


async def _wiped(
    client: redis.asyncio.Redis,
    keys: PartitionKeys,
    token: str,
    spec: Spec,
    fields: dict[bytes, bytes],
    last: int | None,
) -> Recovered:
    """Begin with nothing but the numbers that must not be given twice."""
    state = _empty(spec)
    state.counter = _number(fields.get(b"counter"))
    state.incarnation = max(_number(fields.get(b"incarnation")), last or 0)
    await _begin_anew(client, keys, token, spec, state, stored=fields.get(b"counter", b"0"), wipe=True)
    return Recovered(Scorer(spec, keys, state, EMPTY), Resume.ANEW)


async def _last_incarnation(client: redis.asyncio.Redis, keys: PartitionKeys) -> int | None:
    """The last incarnation that outputs speak of, `None` without outputs: a state that is lost does not tell it."""
    outputs = [keys.predictions, keys.signals, keys.outcomes, keys.dead]
    outputs += [key.decode() async for key in client.scan_iter(keys.bars("*"), 1000)]
    found: list[int] = []
    for key in outputs:
        with naming(key):
            newest: Any = await client.xrevrange(key, count=1)
        for _, fields in newest:
            with contextlib.suppress(KeyError, ValueError):  # not an entry of Red10's
                found.append(Source.parse(fields[b"src"]).incarnation)
    return max(found, default=None)


def _number(raw: bytes | None) -> int:
    """A number of a state that may be damaged."""
    return int(raw) if raw is not None and raw.isdigit() else 0


def _empty(spec: Spec) -> PartitionState:
    return PartitionState(BarBuilder([interval.ns for interval in spec.intervals], spec.lateness_ns))


async def _begin_anew(
    client: redis.asyncio.Redis,
    keys: PartitionKeys,
    token: str,
    spec: Spec,
    state: PartitionState,
    *,
    stored: bytes,
    wipe: bool,
    loss: str = "",
) -> None:
    """Begin a new incarnation, in Redis and in `state`; `stored` is the counter as it stands there.

    What was lost is put on record in the same step, since whoever takes over finds nothing lost any more.
    """
    state.incarnation += 1
    # Behind the last possible id there is none. (The new incarnation tells what comes from what was.)
    past = state.tip if state.tip.ms < MAX_U64 else ZERO
    argv: list[str | bytes] = [
        token,
        stored,
        str(state.counter + 1),
        secrets.token_hex(8),
        str(state.incarnation),
        str(past),
        SCORERS,
        "1" if wipe else "0",
        spec.fingerprint,
        SCHEMA,
    ]
    if loss:
        argv += dead_fields("gap", loss, Source(state.incarnation, ZERO, 0, 0), [])
    reply = client.eval(_ANEW, 4, keys.state, keys.lease, keys.ticks, keys.dead, *cast(list[str], argv))
    answer, entries = await cast(Awaitable[list[bytes]], reply)
    if answer not in (b"OK", b"DUP"):
        raise Fenced(keys.lease)
    state.counter += 1
    state.checkpoint = state.anchor = ZERO
    state.within = None
    state.entries = int(entries)


async def _fill_tails(client: redis.asyncio.Redis, keys: PartitionKeys, spec: Spec, state: PartitionState) -> None:
    """Read the newest bars of every series that has any, with the forecasts that they carry."""
    wanted = [at for at, series in sorted(state.series.items()) if series.bars > 0]
    for begin in range(0, len(wanted), 100):
        chunk = wanted[begin : begin + 100]
        async with client.pipeline(transaction=False) as pipe:
            for at in chunk:
                pipe.xrevrange(keys.bars(_name(spec, state, at)), count=min(spec.tail_bars, state.series[at].bars))
            replies = await pipe.execute(raise_on_error=False)
        for at, entries in zip(chunk, replies, strict=True):
            if isinstance(entries, Exception):
                with naming(keys.bars(_name(spec, state, at))):
                    raise entries
            refill(state.series[at], spec, keys.bars(_name(spec, state, at)), list(reversed(entries)))


def refill(series: SeriesState, spec: Spec, key: str, entries: Sequence[tuple[bytes, Mapping[bytes, bytes]]]) -> None:
    """Put the newest bars of a series, oldest first, back into its tail and its log of forecasts.

    Raises:
        BadRecord: an entry is no bar.
    """
    for number, (entry, fields) in enumerate(entries, series.bars - len(entries)):
        start, values = parse_bar(key, entry, fields)
        series.tail.append(start, values)
        try:
            series.log.keep(number, read_forecasts(fields, len(spec.targets)))
        except ValueError as error:
            raise BadRecord("malformed", f"{key}: entry {entry.decode()}: {error}") from None


def _name(spec: Spec, state: PartitionState, at: tuple[int, int]) -> str:
    """The name of a series by slot and interval."""
    return f"{state.builder.symbols[at[0]]}:{spec.intervals[at[1]]}"
