"""What publishers plan to do: ticks checked, cut into exchanges, numbered and grouped; shared by both kinds.

Nothing here does I/O but `Plan.look`, which opens the tenant and asks how far a named sequence has come.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import cast

import numpy as np
import redis
from pydantic import SecretStr

from streams.append import append
from streams.clients import connect, translate
from streams.columns import TickLike, Ticks, check_ticks
from streams.errors import BadRecord
from streams.exchange import Steps
from streams.keys import PartitionKeys
from streams.locate import locate
from streams.numbering import Numbering, Place, taken_of
from streams.publish import Blocks, Group, clock_fields, group_ticks
from streams.room import Room
from streams.series import check_tenant
from streams.settings import Origins, Settings, load_settings
from streams.tenant import Tenant, open_tenant

#: Ticks per round trip where each is an entry: one script of this many XADDs holds Redis up for 3 ms.
EXCHANGE_ROWS = 1000
#: The same where they travel in blocks, spread over the partitions.
EXCHANGE_BLOCK_ROWS = 16_384


class Plan:
    """What both publishers are made of, without I/O of their own except opening the tenant."""

    def __init__(
        self,
        settings: Settings | None,
        origins: Origins | None,
        url: str | SecretStr | None,
        tenant: str | None,
        patience_s: float,
        publisher: str | None,
        from_start: bool,
        blocks: Blocks,
    ) -> None:
        if settings is None:
            settings, origins = load_settings(tenant=tenant)
        elif tenant is not None:
            settings = settings.model_copy(update={"tenant": check_tenant(tenant)})
        self.settings = settings
        self.origins = origins
        self.url: str | SecretStr = locate(settings, "streams") if url is None else url
        self.patience_s = patience_s
        self.numbering = Numbering.of(publisher, from_start=from_start)
        self.room = Room(settings.memory_mark, settings.on_full)
        self._from_start = from_start
        self._blocks: Blocks = blocks
        self._tenant: Tenant | None = None
        self._homes: dict[str, PartitionKeys] = {}

    @property
    def ready(self) -> bool:
        """Whether the tenant is open."""
        return self._tenant is not None

    @property
    def tenant(self) -> Tenant:
        """The tenant, opened (or created) at the first call."""
        if self._tenant is None:
            self.opened(*self.look())
        assert self._tenant is not None, "just opened"
        return self._tenant

    def look(self) -> tuple[Tenant, dict[str, Place]]:
        """Open the tenant and ask how far the log has come; changes nothing here."""
        with connect(self.url) as client, translate(self.url):
            tenant = open_tenant(client, self.settings, self.origins)
            if not self.numbering.named:
                return tenant, {}
            return tenant, _places(client, tenant, self.numbering.name, self._from_start)

    def opened(self, tenant: Tenant, places: dict[str, Place]) -> None:
        """Note what `look` found; only the first time, since ticks are numbered from there on."""
        if self._tenant is None:
            self._tenant, self.numbering.places = tenant, places

    def rewind(self) -> None:
        """Have a named publisher's sequence begin again, passing over what the log has."""
        _, self.numbering.places = self.look()

    def positions(self) -> dict[int, int]:
        """How many ticks of the sequence the log has taken, by partition."""
        tenant, places = self.tenant, self.numbering.places
        found = {at: places.get(tenant.keys.partition(at).ticks, Place()) for at in range(tenant.partitions)}
        return {at: max(place.sent, place.taken) for at, place in found.items()}

    def home_of(self, symbol: str) -> PartitionKeys:
        """The keys of a symbol's partition."""
        home = self._homes.get(symbol)
        if home is None:
            home = self._homes[symbol] = self.tenant.keys.partition(self.tenant.partition_of(symbol))
        return home

    def one(self, ticks: Ticks) -> tuple[str, Steps]:
        """The stream of ticks of one partition, and the steps that append them."""
        groups = group_ticks(ticks, self.home_of)
        return groups[0].keys.ticks, self.append(groups)

    def many(self, ticks: Ticks | Iterable[TickLike]) -> Iterator[tuple[int, Steps]]:
        """Exchange by exchange: how many ticks it has, and its steps. A bad row ends it."""
        sent = 0
        rows = EXCHANGE_ROWS if self._blocks == "never" else EXCHANGE_BLOCK_ROWS
        for part in _parts(ticks, rows):
            for chunk in part.chunks(rows):
                yield len(chunk), self.append(group_ticks(chunk, self.home_of, sent), before=sent)
                sent += len(chunk)

    def clock(self, ts: int, now: int) -> Steps:
        """The steps that append a clock entry to every partition.

        Raises:
            BadRecord: `ts` is no time, or lies too far ahead of `now`, both epoch ns.
        """
        fields = clock_fields(ts)
        ahead_ms = (ts - now) // 1_000_000
        if ahead_ms > self.tenant.pipeline.max_ahead_ms:
            raise BadRecord(
                "future",
                f"clock: {ts} lies {ahead_ms / 1000:,.0f} s ahead of now, and all ticks before it would come too late: "
                "say it when that time has passed",
            )
        homes = [self.tenant.keys.partition(partition) for partition in range(self.tenant.partitions)]
        return self.append([Group(keys, np.array([row]), None, fields) for row, keys in enumerate(homes)])

    def append(self, groups: Sequence[Group], before: int = 0) -> Steps:
        """The steps that append groups; `before` rows of the same call came earlier."""
        return append(
            groups, self.numbering, self.url,
            patience_s=self.patience_s, blocks=self._blocks, room=self.room, before=before,
        )  # fmt: skip

    def records(self) -> list[tuple[str, str]]:
        """Keys and fields of what an anonymous publisher leaves behind in the log."""
        if self.numbering.named or self.numbering.unsure or self._tenant is None:
            return []
        homes = map(self._tenant.keys.partition, range(self._tenant.partitions))
        return [(home.publishers, self.numbering.name) for home in homes if home.ticks in self.numbering.places]


def _places(client: redis.Redis, tenant: Tenant, name: str, from_start: bool) -> dict[str, Place]:
    """How far the log has come with a named publisher's sequence."""
    homes = [tenant.keys.partition(partition) for partition in range(tenant.partitions)]
    with client.pipeline(transaction=False) as pipe:
        for home in homes:
            pipe.hget(home.publishers, name)
        records = cast(list[bytes | None], pipe.execute())
    places = {}
    for home, record in zip(homes, records, strict=True):
        if record is not None:
            taken = taken_of(record)
            places[home.ticks] = Place(0 if from_start else taken, taken, record.split(b" ")[1].decode())
    return places


def _parts(ticks: Ticks | Iterable[TickLike], piece: int) -> Iterator[Ticks]:
    """Checked ticks: all at once where all are at hand, else piece by piece."""
    if isinstance(ticks, Ticks):
        check_ticks(ticks)
        yield ticks
    elif isinstance(ticks, Sequence):
        yield Ticks.from_rows(ticks)
    else:
        first, source = 0, iter(ticks)
        while rows := list(islice(source, piece)):
            try:
                part = Ticks.from_rows(rows, first)
            except BadRecord as error:
                raise BadRecord(error.reason, f"{error}. The {first} ticks before row {first} were published") from None
            yield part
            first += len(rows)


def single(
    symbol: str,
    price: float,
    size: float,
    ts: int,
    bid: float | None,
    ask: float | None,
    venue_id: str | None,
) -> Ticks:
    """One tick, checked.

    Raises:
        BadRecord: it cannot be sent.
    """
    try:
        return Ticks.from_rows([(symbol, price, size, ts, bid, ask, venue_id)])
    except BadRecord as error:
        # There is but one row.
        raise BadRecord(error.reason, str(error).removeprefix("row 0: ")) from None
