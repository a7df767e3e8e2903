"""Search for versions in the kept index: by dataset, target, tag, metric, age and alias, sorted, in two round trips.

The columns that a query needs are read in one transaction and compared as arrays; then what is shown of the rows found
is read. Nothing else is looked at: no version, no key besides the index. Rows that were freed in between, and may have
been given to other versions, are noticed (`removed` in `modelstore.index`); then the search is done once more, with the
digests read along.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import redis
from numpy.typing import NDArray

from modelstore.errors import BadQuery
from modelstore.index import COLUMNS, NAN_BITS
from modelstore.names import parse_tag
from modelstore.version import VersionInfo
from modelstore.where import OPERATORS, Condition, check_known, parse_where
from streams.keys import Keys

Floats = NDArray[np.float64]
#: What versions can be sorted by besides metrics.
TIMES = ("created", "trained_through")
#: Up to so many digests are read one by one, more as a whole column.
ONE_BY_ONE = 500


@dataclass(frozen=True, slots=True)
class Query:
    """What to look for; everything given must hold.

    Attributes:
        dataset: a series or table, `*` and `?` standing for any characters: `SPY:*`.
        target: the same of the target.
        tags: each `WORD`, `KEY` (with any value) or `KEY=VALUE`.
        where: conditions on metrics, as `modelstore.where` reads them.
        since_ms: stored then or later, epoch ms.
        before_ms: stored earlier than that.
        alias: what this alias points at in the release in force (`ModelStore.search` looks that up).
        sort: a metric, `created` or `trained_through`; versions that lack it come last.
        ascending: the smallest first; else the largest.
        limit: most versions; `None`: all.
    """

    dataset: str | None = None
    target: str | None = None
    tags: Sequence[str] = ()
    where: str = ""
    since_ms: int | None = None
    before_ms: int | None = None
    alias: str | None = None
    sort: str = "created"
    ascending: bool = False
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """A version that was found, with the values of the metrics that the query names, and `show`."""

    info: VersionInfo
    trained_through_ms: int | None
    metrics: Mapping[str, float | None] = field(default_factory=lambda: MappingProxyType({}))


class _Plan(NamedTuple):
    """A query, read."""

    conditions: tuple[Condition, ...]
    required: tuple[str, ...]
    metrics: tuple[str, ...]
    tags: tuple[str, ...]


class _Read(NamedTuple):
    """What one transaction read."""

    removed: bytes
    columns: dict[str, NDArray[Any]]
    metrics: dict[str, Floats]
    tagged: NDArray[np.int64] | None
    digests: NDArray[Any] | None


def search(
    client: redis.Redis,
    keys: Keys,
    query: Query,
    show: Sequence[str] = (),
    digests: Collection[str] | None = None,
) -> list[Found]:
    """The versions that a query means; those without a row in the index are not seen.

    Args:
        show: metrics whose values are wanted besides those that the query names; unknown ones are passed over.
        digests: only these versions.

    Raises:
        BadQuery: the query cannot be read, or asks for metrics that no version has.
        BadName: a tag cannot be one.
    """
    plan = _plan(query, show)
    many = query.limit is None or query.limit > ONE_BY_ONE
    for whole in (many or digests is not None, True):
        read = _read(client, keys, query, plan, whole=whole)
        rows = _rows(query, plan, read, digests)
        found = _digests(client, keys, read, rows)
        if found is not None:
            break
    return _found(client, keys, found or [], rows, read)


def _digests(client: redis.Redis, keys: Keys, read: _Read, rows: NDArray[np.int64]) -> list[str] | None:
    """The digests of rows; `None` if rows were freed since, so that they may be other versions' now."""
    if read.digests is not None:
        return [read.digests[row].tobytes().hex() for row in rows.tolist()]
    with client.pipeline() as pipe:
        pipe.hget(keys.index, "removed")
        for row in rows.tolist():
            pipe.getrange(keys.column("digest"), 32 * row, 32 * row + 31)
        removed, *raw = pipe.execute()
    return [digest.hex() for digest in raw] if (removed or b"") == read.removed else None


def _plan(query: Query, show: Sequence[str]) -> _Plan:
    conditions = parse_where(query.where)
    if isinstance(query.tags, str):
        # Else each of its letters would be taken for a tag.
        raise BadQuery(f"tags are a list: tags=[{query.tags[:80]!r}]")
    for tag in query.tags:
        parse_tag(tag)
    if query.limit is not None and query.limit < 0:
        raise BadQuery(f"a limit of {query.limit} versions cannot be: it is 0 or more")
    named = [condition.metric for condition in conditions]
    if query.sort not in TIMES:
        named.append(query.sort)
    return _Plan(conditions, tuple(named), tuple(dict.fromkeys([*named, *show])), tuple(query.tags))


def _read(client: redis.Redis, keys: Keys, query: Query, plan: _Plan, *, whole: bool) -> _Read:
    words = {"dataset": (keys.index_datasets, query.dataset), "target": (keys.index_targets, query.target)}
    names = ["created", "trained_through", *(name for name, (_, wanted) in words.items() if wanted is not None)]
    names += ["digest"] if whole else []
    with client.pipeline() as pipe:
        pipe.hmget(keys.index, "rows", "removed")
        pipe.hkeys(keys.index_metrics)
        for metric in plan.metrics:
            pipe.get(keys.metric(metric))
        for name in names:
            pipe.get(keys.column(name))
        for key, wanted in words.values():
            if wanted is not None and not _is_pattern(wanted):
                pipe.hmget(key, wanted)
            elif wanted is not None:
                pipe.hgetall(key)
        if plan.tags:
            pipe.sinter([keys.tagged(tag) for tag in plan.tags])
        replies = iter(pipe.execute())
    rows, removed = next(replies)
    count = int(rows or 0)
    known = {name.decode() for name in next(replies)}
    check_known(plan.required, known)
    metrics = {metric: _cells(next(replies), count) for metric in plan.metrics}
    columns: dict[str, NDArray[Any]] = {name: _column(next(replies), COLUMNS[name], count) for name in names}
    for name, (_, wanted) in words.items():
        if wanted is not None:
            columns[name] = np.isin(columns[name], _codes(wanted, next(replies)))
    tagged = np.array([int(row) for row in next(replies)], np.int64) if plan.tags else None
    shown = {metric: values for metric, values in metrics.items() if metric in known}
    return _Read(removed or b"", columns, shown, tagged, columns.get("digest"))


def _is_pattern(text: str) -> bool:
    return any(character in text for character in "*?[")


def _codes(wanted: str, reply: Any) -> NDArray[np.uint32]:
    """The codes that a word or pattern stands for."""
    if isinstance(reply, list):
        found = [int(code) for code in reply if code is not None]
    else:
        found = [int(code) for word, code in reply.items() if fnmatchcase(word.decode(), wanted)]
    return np.array(found, np.uint32)


def _column(blob: bytes | None, kind: str, count: int) -> NDArray[Any]:
    """A column of `count` rows; what lies behind its end is zero."""
    dtype = np.dtype(kind)
    raw = (blob or b"")[: count * dtype.itemsize]
    return np.frombuffer(raw.ljust(count * dtype.itemsize, b"\0"), dtype)


def _cells(blob: bytes | None, count: int) -> Floats:
    """A column of cells as numbers; NaN is not known."""
    found: Floats = (_column(blob, "<u8", count) ^ np.uint64(NAN_BITS)).view("<f8")
    return found


def _rows(query: Query, plan: _Plan, read: _Read, digests: Collection[str] | None) -> NDArray[np.int64]:
    """The rows that fulfil a query, sorted and cut."""
    created = read.columns["created"]
    fits = created > 0
    for name in ("dataset", "target"):
        if name in read.columns:
            fits &= read.columns[name]
    if query.since_ms is not None:
        fits &= created >= query.since_ms
    if query.before_ms is not None:
        fits &= created < query.before_ms
    for condition in plan.conditions:
        values = read.metrics[condition.metric]
        fits &= OPERATORS[condition.operator](values, condition.number) & ~np.isnan(values)
    if read.tagged is not None:
        has = np.zeros(len(fits), bool)
        has[read.tagged[read.tagged < len(fits)]] = True
        fits &= has
    if digests is not None and read.digests is not None:
        fits &= _among(read.digests, digests)
    rows = np.flatnonzero(fits)
    if query.sort == "created":
        by = created[rows]
    elif query.sort == "trained_through":
        by = _times(read)[rows]
    else:
        by = read.metrics[query.sort][rows]
    order = np.lexsort((rows, by if query.ascending else -by))
    return rows[order[: query.limit]]


def _among(column: NDArray[Any], wanted: Collection[str]) -> NDArray[np.bool_]:
    """Which rows have one of these digests: looked for by their first 8 bytes, which is fast, then compared."""
    exact = {bytes.fromhex(digest) for digest in wanted}
    heads = column.view("<u8").reshape(-1, 4)[:, 0]
    found = np.isin(heads, np.array([int.from_bytes(digest[:8], "little") for digest in exact], np.uint64))
    for row in np.flatnonzero(found).tolist():
        found[row] = column[row].tobytes() in exact
    return found


def _times(read: _Read) -> Floats:
    found: Floats = (read.columns["trained_through"] ^ np.uint64(NAN_BITS)).view("<f8")
    return found


def _found(
    client: redis.Redis, keys: Keys, digests: Sequence[str], rows: NDArray[np.int64], read: _Read
) -> list[Found]:
    """What is shown of rows: a version that was removed meanwhile is left out."""
    with client.pipeline(transaction=False) as pipe:
        for digest in digests:
            pipe.hmget(keys.version(digest), "name", "number", "created")
        replies = pipe.execute()
    through = _times(read)
    found: list[Found] = []
    for digest, row, (name, number, created) in zip(digests, rows.tolist(), replies, strict=True):
        if name is None or number is None or created is None:
            continue
        values = {metric: _known(column[row]) for metric, column in read.metrics.items()}
        trained = _known(through[row])
        info = VersionInfo(digest, name.decode(), int(number), int(created))
        found.append(Found(info, None if trained is None else round(trained), MappingProxyType(values)))
    return found


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
