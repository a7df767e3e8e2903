"""A partition's state: what the commit writes and a new owner reads.

Owns the fields of `red10:{T:p}:state` (hash):

    schema       format of this hash, 2
    fingerprint  SHA-256 of what shapes the outputs: pipeline, feature set, policy
    incarnation  how often the input stream began anew
    checkpoint   the last entry consumed as a whole (written by the script, as are the next three)
    counter      commits so far
    nonce        of the last commit
    entries      input entries passed in this incarnation
    within       ENTRY:TICK: of the entry after the checkpoint, a block, the ticks before TICK are consumed; "" for none
    release      id of the release in force, "" for none
    clock        latest clock entry, ns, "" for none
    s:SYMBOL     JSON [watermark, [[next bar number, policy state, [open bar, …], paper account] per interval]]

Everything else a partition needs (the bars that features look at, the forecasts that are to be judged) is rebuilt from
the tails of its `bars` streams.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from consumers.bars import BAR, NEVER, BarBuilder
from consumers.judge import ForecastLog
from consumers.paper import Account
from consumers.policy import PolicyState
from consumers.spec import Spec
from consumers.tail import Tail
from streams.errors import ConfigurationError
from streams.ids import ZERO, StreamID

SCHEMA = "2"


@dataclass(slots=True)
class SeriesState:
    """One series of a partition.

    Attributes:
        bars: number of its next bar.
        policy: its policy's state.
        account: its paper account.
        tail: its newest bars.
        log: its newest forecasts.
    """

    bars: int
    policy: PolicyState
    account: Account
    tail: Tail
    log: ForecastLog


@dataclass(slots=True)
class PartitionState:
    """Everything that computing the next batch depends on, besides the batch.

    Attributes:
        checkpoint: the last entry consumed as a whole, from which reading goes on.
        within: the entry after it, if some of its ticks are consumed, and how many.
        anchor: the entry that the next commit checks; `ZERO` when the checkpoint's own entry is known to be gone.
        series: per (slot, interval index).
    """

    builder: BarBuilder
    incarnation: int = 0
    checkpoint: StreamID = ZERO
    within: tuple[StreamID, int] | None = None
    anchor: StreamID = ZERO
    counter: int = 0
    entries: int = 0
    release: str = ""
    series: dict[tuple[int, int], SeriesState] = field(default_factory=dict)
    slots: dict[bytes, int] = field(default_factory=dict)

    @property
    def tip(self) -> StreamID:
        """The last entry of which anything is consumed."""
        return self.checkpoint if self.within is None else self.within[0]


def fingerprint(pipeline: bytes, features: Mapping[str, Any], policy: tuple[str, int]) -> str:
    """SHA-256 over the canonical pipeline, the feature set's fingerprint and the policy's name and version."""
    parts = [pipeline, orjson.dumps(features, option=orjson.OPT_SORT_KEYS), orjson.dumps(policy)]
    return hashlib.sha256(b"\n".join(parts)).hexdigest()


def symbol_field(state: PartitionState, slot: int) -> tuple[str, bytes]:
    """The state field of one symbol: its name and JSON."""
    builder = state.builder
    watermark = int(builder.watermark[slot])
    per_interval = []
    for interval in range(len(builder.intervals)):
        series = state.series[slot, interval]
        rows = [bar.item() for bar in builder.open_bars(slot, interval)]
        account = series.account
        per_interval.append([series.bars, series.policy, rows, [account.held, account.target, account.cost]])
    return f"s:{builder.symbols[slot]}", orjson.dumps([watermark if watermark != NEVER else None, per_interval])


def read_state(fields: Mapping[bytes, bytes], state: PartitionState, *, spec: Spec, where: str) -> PartitionState:
    """Fill an empty `state` from the hash.

    Raises:
        ConfigurationError: the state was written by another configuration or version, or is damaged.
    """
    if not fields:
        return state
    schema = fields.get(b"schema", b"").decode()
    if schema != SCHEMA:
        raise ConfigurationError(
            f"{where} was written by another version of Red10 (schema {schema!r}, this one reads {SCHEMA!r}): "
            "use that version, another tenant, or start anew with `red10 worker --start-anew`"
        )
    if fields.get(b"fingerprint", b"").decode() != spec.fingerprint:
        raise ConfigurationError(
            f"{where} was computed with another pipeline, feature set or policy than is configured now: "
            "restore the old settings, use another tenant, or start anew with `red10 worker --start-anew`"
        )
    try:
        state.incarnation = int(fields[b"incarnation"])
        state.checkpoint = state.anchor = StreamID.parse(fields[b"checkpoint"])
        state.within = _within(fields.get(b"within", b""))
        state.counter = int(fields[b"counter"])
        state.entries = int(fields[b"entries"])
        state.release = fields[b"release"].decode()
        state.builder.clock = int(fields[b"clock"]) if fields[b"clock"] else int(NEVER)
        for name in sorted(fields):
            if name.startswith(b"s:"):
                _read_symbol(state, name[2:], fields[name], spec)
    except (KeyError, ValueError, TypeError, IndexError, OverflowError) as error:
        raise ConfigurationError(
            f"{where} is damaged ({error!r}): start anew with `red10 worker --start-anew`"
        ) from error
    return state


def within_text(within: tuple[StreamID, int] | None) -> str:
    """The state field `within`."""
    return "" if within is None else f"{within[0]}:{within[1]}"


def _within(raw: bytes) -> tuple[StreamID, int] | None:
    entry, _, tick = raw.partition(b":")
    return (StreamID.parse(entry), int(tick)) if raw else None


def _read_symbol(state: PartitionState, symbol: bytes, raw: bytes, spec: Spec) -> None:
    watermark, per_interval = orjson.loads(raw)
    if len(per_interval) != len(state.builder.intervals):
        raise ValueError(f"{symbol!r} has {len(per_interval)} intervals")
    slot = add_symbol(state, symbol.decode(), spec)
    rows: list[list[tuple[Any, ...]]] = []
    for interval, (bars, policy, open_bars, (held, target, cost)) in enumerate(per_interval):
        series = state.series[slot, interval]
        series.bars, series.policy, series.account = bars, policy, Account(held, target, cost)
        rows.append([tuple(row) for row in open_bars])
        if any(len(row) != len(BAR.names or ()) for row in rows[-1]):
            raise ValueError(f"{symbol!r} has an open bar of another shape")
    state.builder.restore(slot, NEVER if watermark is None else watermark, rows)


def add_symbol(state: PartitionState, symbol: str, spec: Spec) -> int:
    """Make a slot, with an empty series per interval, for a symbol seen for the first time."""
    slot = state.builder.add_symbol(symbol)
    state.slots[symbol.encode()] = slot
    for interval in range(len(state.builder.intervals)):
        # A policy's state for each: one that changes its state in place must not reach another series.
        state.series[slot, interval] = SeriesState(
            0, dict(spec.policy.initial()), Account(), Tail(spec.tail_bars), spec.judge.log()
        )
    return slot
