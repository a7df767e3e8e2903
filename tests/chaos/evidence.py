"""What a run left behind, gathered for the checker: archive, records, journals, and every stream as it stands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import orjson
import redis

from consumers.features import fingerprint
from consumers.spec import Spec
from modelstore.loaded import LoadedRelease, load_release
from modelstore.manifest import feature_set_id
from modelstore.releases import Releases
from modelstore.store import ModelStore
from streams.keys import PartitionKeys
from streams.tenant import Tenant
from tests.chaos.feed import Feed
from tests.chaos.tap import read_archive

Entry = tuple[tuple[int, int], list[bytes]]
Row = dict[str, str]


@dataclass
class Said:
    """What one publisher's record tells.

    Attributes:
        taken: ticks that were certainly taken.
        done: whether it came to its end.
        resets, gaps: what the publisher counted in its last life.
    """

    taken: int = 0
    done: bool = False
    resets: int = 0
    gaps: int = 0


@dataclass
class Partition:
    """What stands in one partition.

    Attributes:
        outputs: per stream (the part of the key behind the braces), its entries in order.
        state: the state hash.
    """

    outputs: dict[str, list[Row]]
    state: dict[bytes, bytes]


@dataclass
class Evidence:
    """All that the checker is told.

    Attributes:
        feeds: with what their publishers recorded; `None` if the log itself is taken for the truth.
        archive: per partition, the input as it went.
        journal: leases taken and commits answered, of all workers.
        posted: ids of training requests whose posters know that they are in the stream.
        requests: the request stream: entry id, and the id that its poster gave it.
        results: the results stream.
        versions: per model, the digests of its versions.
        releases: every release of the store, loaded.
        complaints: what else went wrong, in words: each counts as wrong.
    """

    spec: Spec
    tenant: str
    feeds: list[tuple[Feed, Said]] | None
    archive: dict[int, list[Entry]]
    partitions: dict[int, Partition]
    journal: list[dict[str, Any]] = field(default_factory=list)
    posted: list[str] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)
    results: list[Row] = field(default_factory=list)
    versions: dict[str, list[str]] = field(default_factory=dict)
    releases: dict[str, LoadedRelease] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)


def entries(client: redis.Redis, key: str) -> Iterator[tuple[str, Row]]:
    """All entries of a stream, in pages."""
    after = "-"
    while True:
        page = cast(list[tuple[bytes, dict[bytes, bytes]]], client.xrange(key, min=after, count=2000))
        for entry, fields in page:
            yield entry.decode(), {name.decode(): value.decode() for name, value in fields.items()}
        if len(page) < 2000:
            return
        after = "(" + page[-1][0].decode()


def read_partition(client: redis.Redis, keys: PartitionKeys) -> Partition:
    """Outputs and state."""
    names = [name.decode() for name in client.scan_iter(match=keys.bars("*").replace("{", "\\{"), count=1000)]
    outputs = {}
    for key in [*sorted(names), keys.predictions, keys.signals, keys.outcomes, keys.dead]:
        outputs[key.partition("}:")[2]] = [row for _, row in entries(client, key)]
    return Partition(outputs, cast(dict[bytes, bytes], client.hgetall(keys.state)))


def from_stream(client: redis.Redis, keys: PartitionKeys) -> list[Entry]:
    """The input as it stands in the stream, where nothing of it was trimmed."""
    found: list[Entry] = []
    for entry, fields in cast(Any, client.xrange(keys.ticks)):
        ms, _, seq = entry.partition(b"-")
        found.append(((int(ms), int(seq)), [word for pair in fields.items() for word in pair]))
    return found


def from_archive(path: Path, partitions: int) -> dict[int, list[Entry]]:
    """The input as the tap archived it."""
    found: dict[int, list[Entry]] = {at: [] for at in range(partitions)}
    for (partition, entry, words), _ in read_archive(path):
        found[partition].append((entry, words))
    return found


def read_record(path: Path) -> Said:
    """What a publisher recorded."""
    said = Said()
    for line in read_lines([path]):
        said.taken = max(said.taken, line.get("taken", 0), line.get("done", 0))
        said.done = said.done or "done" in line
        said.resets, said.gaps = line.get("resets", said.resets), line.get("gaps", said.gaps)
    return said


def read_lines(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """The whole lines of JSON in some files."""
    found = []
    for path in paths:
        raw = path.read_bytes() if path.exists() else b""
        found += [orjson.loads(line) for line in raw.split(b"\n")[:-1]]
    return found


def load_all_releases(models: redis.Redis, tenant: Tenant, spec: Spec) -> dict[str, LoadedRelease]:
    """Every release that was ever in force."""
    store, releases = ModelStore(models, tenant.keys), Releases(models, tenant.keys)
    found: dict[str, LoadedRelease] = {}
    loaded: LoadedRelease | None = None
    for _, row in entries(models, tenant.keys.releases):
        if row["id"] not in found:
            loaded = found[row["id"]] = load_release(
                store,
                releases,
                row["id"],
                targets=tuple(spec.targets),
                feature_count=len(spec.features.columns),
                features=feature_set_id(fingerprint(spec.features)),
                previous=loaded,
            )
    return found


def read_versions(models: redis.Redis, tenant: Tenant) -> dict[str, list[str]]:
    """Per model, the digests of all its versions."""
    found = {}
    for raw in models.zrange(tenant.keys.models, 0, -1):
        name = cast(bytes, raw).decode()
        fields = cast(dict[bytes, bytes], models.hgetall(tenant.keys.model(name)))
        found[name] = [digest.decode() for number, digest in fields.items() if number != b"last"]
    return found
