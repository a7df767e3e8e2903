"""What differs between the models of two snapshots, or of a snapshot and a store. Pure; no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from modelstore.release import Aliases, difference
from ops.snapshots.manifest import SnapshotTenant, SnapshotVersion


@dataclass(frozen=True, slots=True)
class Difference:
    """What leads from the first to the second.

    Attributes:
        added: versions that only the second has.
        gone: versions that only the first has.
        aliases: model's name, alias, digest before, digest after; `None` for none.
    """

    added: tuple[SnapshotVersion, ...]
    gone: tuple[SnapshotVersion, ...]
    aliases: tuple[tuple[str, str, str | None, str | None], ...]

    def as_json(self) -> dict[str, Any]:
        """The same, of plain values."""
        return {
            "added": [{"digest": version.digest, "name": version.name} for version in self.added],
            "gone": [{"digest": version.digest, "name": version.name} for version in self.gone],
            "aliases": [
                {"name": name, "alias": alias, "before": before, "after": after}
                for name, alias, before, after in self.aliases
            ],
        }


def compare(first: SnapshotTenant | None, second: SnapshotTenant | None) -> Difference:
    """Compare the models of one tenant; `None` where there are none."""
    before, after = _versions(first), _versions(second)
    old: Aliases = first.aliases() if first is not None else {}
    new: Aliases = second.aliases() if second is not None else {}
    return Difference(
        tuple(version for digest, version in sorted(after.items()) if digest not in before),
        tuple(version for digest, version in sorted(before.items()) if digest not in after),
        tuple(
            (name, alias, old.get((name, alias)), digest)
            for (name, alias), digest in sorted(difference(old, new).items())
        ),
    )


def _versions(tenant: SnapshotTenant | None) -> dict[str, SnapshotVersion]:
    return {version.digest: version for version in tenant.versions} if tenant is not None else {}
