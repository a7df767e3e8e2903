"""The kept index of a tenant's versions: what `modelstore.search` looks through without reading a version.

Owns, in the models role, a table with one row per version, stored by column (`index.lua` writes it, in the same call as
the version that it is about):

    red10:{T}:index            hash    format   of this table; another one is made anew
                                       rows     how many rows were given, free ones included
                                       removed  how often a row was freed: rows read before may mean others
    red10:{T}:index:free       list    rows of removed versions, used before new ones are
    red10:{T}:index:datasets   hash    dataset or series -> code, from 1
    red10:{T}:index:targets    hash    target -> code, from 1
    red10:{T}:index:metrics    hash    metric -> how many versions have it
    red10:{T}:index:tags       hash    tag -> how many versions have it
    red10:{T}:column:NAME      string  the column: `digest` 32 bytes a row (zeros: a free row), `created` f64 (ms),
                                       `trained_through` a cell (ms), `dataset` and `target` u32, their codes
    red10:{T}:metric:NAME      string  a metric, one cell a row
    red10:{T}:tagged:TAG       set     rows of the versions with a tag

and the field `row` of a version. A **cell** is an f64 whose bits are XORed with those of NaN, so that zeros, and what
lies behind the end of a column, mean "not known". All binary numbers are little-endian.

Why columns: eight metrics as sorted sets take a kilobyte per version, and a search with two conditions has to carry one
of them out of Redis member by member. A column takes 8 bytes per version, and 100,000 rows of it are read in a
millisecond (`docs/decisions/009-columns-for-search.md`).

Invariant: a version has one row or none, and a row that has the version's digest is its row. Versions without one (from
a store that is older than the index) are given theirs by `VersionIndex.complete`, version by version: killed anywhere,
it goes on where it was. The index can be dropped and made anew at any time.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Any, cast

import redis
from redis.exceptions import WatchError

from modelstore.compression import decompress
from modelstore.errors import BadModel
from modelstore.manifest import MAX_MANIFEST, Manifest
from modelstore.names import is_metric
from streams.keys import Keys

#: Changes when the table does.
FORMAT = "1"
#: Metrics that have a column; those that come later are in the manifest only.
MOST_METRICS = 64
#: Columns besides the metrics: name -> numpy dtype of one row.
COLUMNS: Mapping[str, str] = {
    "digest": "V32",
    "created": "<f8",
    "trained_through": "<u8",
    "dataset": "<u4",
    "target": "<u4",
}
#: Bits of NaN: what a cell is XORed with.
NAN_BITS = 0x7FF8000000000000
#: Versions per round trip when completing the index.
CHUNK = 200

_F64, _U64 = struct.Struct("<d"), struct.Struct("<Q")


def script(name: str) -> str:
    """The text of a script that keeps the index, with what it shares with the others."""
    here = files("modelstore")
    return here.joinpath("index.lua").read_text("utf-8") + here.joinpath(name).read_text("utf-8")


def cell(value: float | None) -> bytes:
    """The cell of a number."""
    if value is None or not math.isfinite(value):
        return bytes(8)
    (bits,) = _U64.unpack(_F64.pack(value))
    return _U64.pack(bits ^ NAN_BITS)


def index_keys(keys: Keys, digest: str) -> list[str]:
    """What all scripts that keep the index take first: KEYS[1…13]."""
    return [
        keys.index,
        keys.index_free,
        keys.index_datasets,
        keys.index_targets,
        keys.index_metrics,
        keys.index_tags,
        *(keys.column(name) for name in COLUMNS),
        keys.version(digest),
        keys.tags(digest),
    ]


def index_arguments(keys: Keys, digest: str) -> list[str | bytes]:
    """What all scripts that keep the index take first: ARGV[1…5]."""
    return [FORMAT, keys.metric(""), keys.tagged(""), bytes.fromhex(digest), str(MOST_METRICS)]


def metric_cells(manifest: Manifest) -> list[str | bytes]:
    """`name, cell, …` of the metrics that can be searched: those with a plain name that are known numbers."""
    found: list[str | bytes] = []
    for name, value in sorted(manifest.metrics.items()):
        if is_metric(name) and value is not None and math.isfinite(value):
            found += (name, cell(value))
    return found


def trained_cell(manifest: Manifest) -> bytes:
    """The cell of `trained_through`, in ms."""
    return cell(manifest.trained_through / 1e6)


class VersionIndex:
    """Completes and drops the index. Driver errors come out as they are."""

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        self._client = client
        self._keys = keys
        self._script = script("index_version.lua")

    def missing(self) -> int:
        """How many versions have no row; a search would not see them."""
        with self._client.pipeline() as pipe:
            pipe.hmget(self._keys.index, "format", "rows")
            pipe.llen(self._keys.index_free)
            pipe.zcard(self._keys.versions)
            (form, rows), free, versions = pipe.execute()
        return int(versions) if form != FORMAT.encode() else max(0, int(versions) - int(rows or 0) + int(free))

    def complete(self, *, anew: bool = False, progress: Callable[[int, int], None] | None = None) -> int:
        """Give every version that has none its row.

        Args:
            anew: drop the index first.
            progress: told of versions looked at, and of how many there are.

        Returns:
            How many versions were given a row.
        """
        form = cast(bytes | None, self._client.hget(self._keys.index, "format"))
        if anew or (form is not None and form != FORMAT.encode()):
            self.drop()
        total, done, added = self._client.zcard(self._keys.versions), 0, 0
        for digests in self._digests():
            added += self._add(
                [digest for digest, known in zip(digests, self._known(digests), strict=True) if not known]
            )
            done += len(digests)
            if progress is not None:
                progress(done, max(total, done))
        return added

    def drop(self) -> None:
        """Remove the index, tags of versions excepted. Puts that come meanwhile go into the next one."""
        keys = self._keys
        while True:
            with cast(Any, self._client).pipeline() as pipe:
                pipe.watch(keys.index_metrics, keys.index_tags)
                metrics = [name.decode() for name in cast(list[bytes], pipe.hkeys(keys.index_metrics))]
                tags = [name.decode() for name in cast(list[bytes], pipe.hkeys(keys.index_tags))]
                pipe.multi()
                pipe.delete(*index_keys(keys, "")[:11])
                for key in (*map(keys.metric, metrics), *map(keys.tagged, tags)):
                    pipe.delete(key)
                try:
                    pipe.execute()
                except WatchError:
                    continue
                return

    def _digests(self) -> Iterator[list[str]]:
        """All digests, some at a time, in order."""
        after = "-"
        while True:
            found = cast(list[bytes], self._client.zrangebylex(self._keys.versions, after, "+", 0, CHUNK))
            if not found:
                return
            yield [digest.decode() for digest in found]
            after = f"({found[-1].decode()}"

    def _known(self, digests: Sequence[str]) -> list[bool]:
        """Which of these versions have a row that is theirs."""
        with self._client.pipeline(transaction=False) as pipe:
            for digest in digests:
                pipe.hget(self._keys.version(digest), "row")
            rows: list[bytes | None] = pipe.execute()
            for row in rows:
                at = int(row or 0) * 32
                pipe.getrange(self._keys.column("digest"), at, at + 31)
            found = pipe.execute()
        return [
            row is not None and there == bytes.fromhex(digest)
            for digest, row, there in zip(digests, rows, found, strict=True)
        ]

    def _add(self, digests: Sequence[str]) -> int:
        if not digests:
            return 0
        with self._client.pipeline(transaction=False) as pipe:
            for digest in digests:
                pipe.hmget(self._keys.version(digest), "name", "manifest")
            read = pipe.execute()
            for digest, (name, frame) in zip(digests, read, strict=True):
                if name is None:
                    continue
                dataset, _, target = name.decode().rpartition("/")
                argv = [*index_arguments(self._keys, digest), dataset, target, *_searchable(digest, frame)]
                keys = index_keys(self._keys, digest)
                pipe.eval(self._script, len(keys), *keys, *cast(list[str], argv))
            return sum(pipe.execute())


def _searchable(digest: str, frame: bytes | None) -> list[str | bytes]:
    """The cell of trained_through and those of the metrics; of a version that is damaged nothing is known."""
    try:
        raw = decompress(frame or b"", MAX_MANIFEST, f"the manifest of version {digest[:12]}")
        manifest = Manifest.model_validate_json(raw)
    except (BadModel, ValueError):
        return [cell(None)]
    return [trained_cell(manifest), *metric_cells(manifest)]
