"""Records of promotions: beside a snapshot and in the archive, one for each environment that it was promoted into.

The history of the target's releases is what counts; a record tells whoever cannot reach that store, such as a `prune`,
that the snapshot is in use there. Fields as in `docs/protocol.md`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import orjson
from pydantic import BaseModel, ConfigDict

from ops.snapshots.archive import Archive
from ops.snapshots.files import write_file
from ops.snapshots.shelf import PROMOTED, Snapshot
from streams.errors import Red10Error
from streams.settings import Settings


class Promoted(BaseModel):
    """One promotion."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["red10 promotion 1"] = "red10 promotion 1"
    snapshot: str
    environment: str
    tenant: str
    release: str
    number: int
    who: str
    why: str
    created_ms: int

    def encode(self) -> bytes:
        """As it is written: JSON with sorted keys."""
        return orjson.dumps(self.model_dump(mode="json"), option=orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE)


def record(promoted: Promoted, snapshot: Snapshot, settings: Settings, say: Callable[[str], None]) -> None:
    """Write a record beside the snapshot, and into the archive if the snapshot is there.

    The promotion is done by then: what cannot be written is only said.
    """
    name, manifest = f"{PROMOTED}{promoted.environment}.json", snapshot.manifest
    try:
        write_file(snapshot.path / name, promoted.encode())
    except OSError as error:
        say(f"the promotion is done, but no record of it could be written to {snapshot.path}: {error}")
    try:
        if settings.archive is not None:
            archive = Archive.of(settings)
            if archive.holds(manifest.environment, manifest.id):
                archive.write(manifest.environment, manifest.id, name, promoted.encode())
    except Red10Error as error:
        say(f"the promotion is done, but no record of it could be written to the archive: {error}")
