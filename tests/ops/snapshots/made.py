"""Model stores for the tests of snapshots: real boosters with golden rows, two releases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import redis

from modelstore.store import ModelStore
from modelstore.version import NewVersion
from streams.keys import Keys
from streams.settings import Settings, load_settings
from tests.consumers.test_checker import with_golden
from tests.modelstore.made import fitted

KEYS = Keys("default")
NAMES = ("SPY:1m/close_5", "SPY:1m/volume_5", "QQQ:1m/close_5")
#: Versions of each model, the oldest first.
VERSIONS = [[with_golden(fitted(name, 10 * at + number)) for number in range(3)] for at, name in enumerate(NAMES)]


def generation(number: int) -> list[NewVersion]:
    """One version of each model."""
    return [versions[number] for versions in VERSIONS]


def aliases(number: int) -> dict[tuple[str, str], str]:
    """What a generation's release points at: every version is champion of its model."""
    return {(version.manifest.name, "champion"): version.digest for version in generation(number)}


def fill(client: redis.Redis, number: int = 0, who: str = "me") -> str:
    """Store a generation and put it in force; the release's id."""
    store = ModelStore(client, KEYS)
    store.put_many(generation(number))
    return store.releases.promote(aliases(number), who=who, why="").id


def settings_of(tmp_path: Path, **options: Any) -> Settings:
    return load_settings(data_dir=tmp_path / "data", snapshot_dir=tmp_path / "snapshots", **options)[0]
