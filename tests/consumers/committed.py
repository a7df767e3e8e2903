"""What the commit would write, in memory: lets the pure scorer be run, stopped and taken over without a Redis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from consumers.bars import BarBuilder
from consumers.outputs import Fields
from consumers.recovery import refill
from consumers.scorer import Scorer, releases_in
from consumers.spec import Spec
from consumers.state import PartitionState, read_state
from modelstore.loaded import EMPTY, LoadedRelease
from streams.codec import decode
from streams.decoded import Decoded, RawEntry
from streams.keys import PartitionKeys


def raw_entry(ms: int, **fields: object) -> RawEntry:
    """An entry as Redis gives it."""
    flat: list[bytes] = []
    for name, value in fields.items():
        flat += (name.encode(), str(value).encode())
    return f"{ms}-0".encode(), flat


def as_bytes(fields: Sequence[str]) -> dict[bytes, bytes]:
    return {fields[at].encode(): fields[at + 1].encode() for at in range(0, len(fields), 2)}


class Store:
    """One partition's streams and state hash."""

    def __init__(self, spec: Spec, keys: PartitionKeys, releases: Mapping[str, LoadedRelease]) -> None:
        self.spec = spec
        self.keys = keys
        self.releases = releases
        self.streams: dict[str, list[Fields]] = {}
        self.state: dict[bytes, bytes] = {}
        self.counts: dict[str, int] = {}

    def run(self, scorer: Scorer, entries: Sequence[RawEntry]) -> None:
        """Compute a batch and write what it causes."""
        self.take(scorer, decode(entries))

    def take(self, scorer: Scorer, decoded: Decoded) -> None:
        """The same with a batch that is decoded already, or a window of one."""
        known = {release: self.releases[release] for release in releases_in(decoded) if release in self.releases}
        computed = scorer.compute(decoded, known)
        for key, fields in computed.outputs:
            self.streams.setdefault(key, []).append(fields)
        for name, value in computed.state.items():
            self.state[name.encode()] = value.encode() if isinstance(value, str) else value
        counter = int(self.state.get(b"counter", b"0")) + 1
        self.state |= {
            b"counter": str(counter).encode(),
            b"checkpoint": str(computed.checkpoint).encode(),
            b"entries": str(scorer.state.entries).encode(),
        }
        for name, count in computed.counts.items():
            self.counts[name] = self.counts.get(name, 0) + count

    def scorer(self) -> Scorer:
        """A scorer as a new owner would build it."""
        spec = self.spec
        empty = PartitionState(BarBuilder([interval.ns for interval in spec.intervals], spec.lateness_ns))
        state = read_state(self.state, empty, spec=spec, where="state")
        for (slot, interval), series in state.series.items():
            key = self.keys.bars(f"{state.builder.symbols[slot]}:{spec.intervals[interval]}")
            newest = [(b"0-0", as_bytes(fields)) for fields in self.streams.get(key, [])[-spec.tail_bars :]]
            refill(series, spec, key, newest)
        return Scorer(spec, self.keys, state, self.releases.get(state.release, EMPTY))
