"""Outcomes as scorers would write them, of made-up forecasts that are as good as a test wants them to be.

Versions are made up; how good a version is, is said by its skill: its errors are the naive ones, shrunk and disturbed.
What a version forecasts for a bar depends on the version and the bar alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import redis

from modelstore.releases import Releases
from modelstore.store import ModelStore
from streams.ids import StreamID
from streams.records import Outcome
from streams.tenant import Tenant
from tests.modelstore.made import made_up

DAY_NS = 86_400 * 10**9


@dataclass
class World:
    """One series of a tenant, whose scorer follows the release in force at once.

    Attributes:
        first_id: entries get ids after this one.
        good: by digest, how large a version's errors are beside naive (1: as large), by bar.
    """

    streams: redis.Redis
    tenant: Tenant
    series: str
    horizons: Mapping[str, int]
    models: redis.Redis
    bar: int = 0
    first_id: int = 0
    good: dict[str, Callable[[int], float]] = field(default_factory=dict)
    made: list[str] = field(default_factory=list)

    def version(self, target: str, seed: int, size: Callable[[int], float]) -> str:
        """Store a version whose errors are `size(bar)` times the naive ones."""
        new = made_up(f"{self.series}/{target}", seed)
        ModelStore(self.models, self.tenant.keys).put_many([new])
        self.good[new.digest] = size
        return new.digest

    def alias(self, target: str, **digests: str | None) -> None:
        """Put aliases in force."""
        delta = {(f"{self.series}/{target}", alias): digest for alias, digest in digests.items()}
        Releases(self.models, self.tenant.keys).promote(delta, who="test", why="")

    def aliases(self, target: str) -> dict[str, str]:
        """What the aliases of a model in force point at."""
        releases = Releases(self.models, self.tenant.keys)
        current = releases.current()
        if current is None:
            return {}
        found = releases.get(current.id).aliases
        return {alias: digest for (name, alias), digest in found.items() if name == f"{self.series}/{target}"}

    def close(self, count: int = 1) -> None:
        """Close bars: the release in force makes forecasts, and what falls due is judged."""
        releases = Releases(self.models, self.tenant.keys)
        current = releases.current()
        assert current is not None
        aliases = releases.get(current.id).aliases
        with self.streams.pipeline(transaction=False) as pipe:
            for _ in range(count):
                self.made.append(current.id)
                outcome = self._outcome(releases, {current.id: aliases})
                if outcome is not None:
                    fields: dict[Any, Any] = {**outcome.to_fields()}
                    key = self.tenant.keys.partition(self.partition).outcomes
                    pipe.xadd(key, fields, id=f"{self.first_id + self.bar + 1}-1")
                self.bar += 1
            pipe.execute()

    @property
    def partition(self) -> int:
        return self.tenant.partition_of(self.series.rpartition(":")[0])

    def _outcome(self, releases: Releases, known: dict[str, Mapping[tuple[str, str], str]]) -> Outcome | None:
        names: dict[str, int] = {}
        rows: list[tuple[str, float, float, float | None, int]] = []
        for target, horizon in self.horizons.items():
            at = self.bar - horizon
            if at < 0:
                continue
            release = self.made[at]
            if release not in known:
                known[release] = releases.get(release).aliases
            name = f"{self.series}/{target}"
            champion, rival = known[release].get((name, "champion")), known[release].get((name, "challenger"))
            if champion is None:
                continue
            came = float(np.random.default_rng((at, horizon)).standard_normal())
            rival_error = self._error(rival, at, came) if rival is not None else None
            made_by = names.setdefault(release, len(names))
            rows.append((target, came, self._error(champion, at, came), rival_error, made_by))
        if not rows:
            return None
        return Outcome(
            series=self.series,
            bar=self.bar,
            ts=(self.bar + 1) * DAY_NS,
            targets=tuple(row[0] for row in rows),
            actuals=tuple(row[1] for row in rows),
            errors=tuple(row[2] for row in rows),
            naive_errors=tuple(-row[1] for row in rows),
            challenger_errors=tuple(row[3] for row in rows),
            hits=(None,) * len(rows),
            releases=tuple(names),
            made_by=tuple(row[4] for row in rows),
            position=0,
            profit=0.0,
            market=0.0,
            src=f"0:{StreamID(self.bar + 1, 0)}:0:0",
        )

    def _error(self, digest: str, at: int, came: float) -> float:
        disturbed = 0.1 * float(np.random.default_rng((at, int(digest[:12], 16))).standard_normal())
        return -came * (self.good[digest](at) + disturbed)
