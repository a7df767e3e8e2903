"""What a subscriber wants: which output, of which symbols, from where on; and the position that it may keep. Pure.

Signals, predictions, outcomes and dead letters are one stream per partition, bars one per series.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypedDict

from streams.errors import ConfigurationError
from streams.ids import MAX_U64, ZERO, StreamID
from streams.records import Bar, DeadLetter, Outcome, Prediction, Record, Signal
from streams.series import NS, Series, check_symbol
from streams.tenant import Tenant

Kind = Literal["signals", "predictions", "outcomes", "bars", "dead"]
#: What can be followed, and the record that each entry is.
KINDS: Mapping[Kind, type[Record]] = {
    "signals": Signal,
    "predictions": Prediction,
    "outcomes": Outcome,
    "bars": Bar,
    "dead": DeadLetter,
}


class Position(TypedDict):
    """How far a subscriber has come; JSON-able, to be kept and given back as `since`.

    Keys: `kind`, `tenant` and `symbols` (sorted; `None` for all) as subscribed; `event_ns`, the event time that was
    asked for, if any; `at`, the last entry handed out per stream.
    """

    kind: str
    tenant: str
    symbols: list[str] | None
    event_ns: int | None
    at: dict[str, str]


#: Where to begin: `"now"` (with what comes), `"start"` (with all there is), at an event time (aware `datetime`, or
#: epoch ns), or behind a kept position.
Since = str | datetime | int | Position | Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What one subscription wants.

    Attributes:
        tenant: whose streams.
        kind: what to follow.
        symbols: symbols and series (`SPY`, `SPY:1m`); `None` for all. Dead letters are chosen by their raw `symbol`.
        event_ns: the least event time (bars: `end`, else `ts`; dead letters: the entry's time).
    """

    tenant: Tenant
    kind: Kind
    symbols: frozenset[str] | None
    event_ns: int | None

    @property
    def all_bars(self) -> bool:
        """Whether the streams must be looked for: nobody knows which series there will be."""
        return self.kind == "bars" and self.symbols is None

    def streams(self) -> list[str]:
        """The keys of the streams, unless `all_bars`."""
        keys = self.tenant.keys
        if self.kind == "bars":
            return [
                keys.partition(self.tenant.partition_of(series.symbol)).bars(series)
                for name in sorted(self.symbols or ())
                for series in self._series(name)
            ]
        if self.symbols is None or self.kind == "dead":
            # A dead letter stands where its tick was put, which may be the wrong partition.
            partitions = set(range(self.tenant.partitions))
        else:
            partitions = {self.tenant.partition_of(name.partition(":")[0]) for name in self.symbols}
        found = [keys.partition(partition) for partition in sorted(partitions)]
        if self.kind == "dead":
            return [partition.dead for partition in found]
        if self.kind == "outcomes":
            return [partition.outcomes for partition in found]
        return [partition.signals if self.kind == "signals" else partition.predictions for partition in found]

    def _series(self, name: str) -> list[Series]:
        if ":" in name:
            return [Series.parse(name)]
        return [Series(name, interval) for interval in self.tenant.pipeline.parsed_intervals]

    def before(self) -> StreamID:
        """An id below those of all entries that are wanted.

        An output's event time exceeds its entry's time by no more than a tick may lie ahead plus a bar's length.
        """
        if self.event_ns is None:
            return ZERO
        pipeline = self.tenant.pipeline
        ahead_ns = pipeline.max_ahead_ms * 1_000_000 + pipeline.parsed_intervals[-1].ns
        first_ms = (self.event_ns - ahead_ns) // 1_000_000
        return StreamID(first_ms - 1, MAX_U64) if first_ms > 0 else ZERO

    def wants(self, record: Record, entry: StreamID) -> bool:
        """Whether this record is wanted."""
        if isinstance(record, DeadLetter):
            name, series, at = record.symbol, "", entry.ms * 1_000_000
        elif isinstance(record, Signal | Prediction | Outcome | Bar):
            name, series = record.series.partition(":")[0], record.series
            at = record.end if isinstance(record, Bar) else record.ts
        else:
            raise AssertionError("unreachable: every kind is one of these")
        if self.event_ns is not None and at < self.event_ns:
            return False
        return self.symbols is None or name in self.symbols or series in self.symbols

    def position(self, at: Mapping[str, StreamID]) -> Position:
        """The position of this subscription, for keeping."""
        return {
            "kind": self.kind,
            "tenant": self.tenant.keys.tenant,
            "symbols": None if self.symbols is None else sorted(self.symbols),
            "event_ns": self.event_ns,
            "at": {key: str(entry) for key, entry in at.items()},
        }


@dataclass(frozen=True, slots=True)
class Start:
    """Where a subscription begins: at its end (`from_now`), or behind these entries, or at its beginning."""

    wanted: Wanted
    from_now: bool
    at: dict[str, StreamID]


def understand(tenant: Tenant, kind: Kind, symbols: str | Iterable[str] | None, since: Since) -> Start:
    """Check what a caller asks for.

    Raises:
        ConfigurationError: the kind or `since` is none, or the position is of another subscription.
        BadName: a symbol cannot be one.
    """
    if kind not in KINDS:
        raise ConfigurationError(f"{kind!r} cannot be followed: choose one of {', '.join(KINDS)}")
    names = None if symbols is None else [symbols] if isinstance(symbols, str) else list(symbols)
    checked = (
        None
        if names is None
        else frozenset(str(Series.parse(name)) if ":" in name else check_symbol(name) for name in names)
    )
    if isinstance(since, Mapping):
        return _resume(Wanted(tenant, kind, checked, None), since)
    if isinstance(since, datetime):
        if since.tzinfo is None:
            raise ConfigurationError(f"since={since.isoformat()} names no time zone: give an aware datetime")
        whole = int(since.replace(microsecond=0).timestamp())
        return Start(Wanted(tenant, kind, checked, whole * NS + since.microsecond * 1000), False, {})
    if isinstance(since, int):
        return Start(Wanted(tenant, kind, checked, since), False, {})
    if since not in ("now", "start"):
        raise ConfigurationError(f"since={since!r}: give 'now', 'start', a datetime, epoch ns, or a kept position")
    return Start(Wanted(tenant, kind, checked, None), since == "now", {})


def _resume(wanted: Wanted, kept: Mapping[str, Any]) -> Start:
    mine: Mapping[str, Any] = wanted.position({})
    for name in ("kind", "tenant", "symbols"):
        if kept.get(name) != mine[name]:
            raise ConfigurationError(
                f"the position was kept with {name} {kept.get(name)!r}, but {mine[name]!r} is asked for: "
                "use a position of this subscription, or begin with 'start' or 'now'"
            )
    try:
        at = {str(key): StreamID.parse(entry) for key, entry in kept["at"].items()}
        event_ns = None if kept["event_ns"] is None else int(kept["event_ns"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigurationError(f"the position cannot be read ({error!r}): begin with 'start' or 'now'") from None
    return Start(Wanted(wanted.tenant, wanted.kind, wanted.symbols, event_ns), False, at)
