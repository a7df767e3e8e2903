"""The manifest of a snapshot: what a file is, so that anybody can tell later whether it still is that.

Its fields are told in `docs/protocol.md`. It holds every version of every tenant with its digest, so that a version
that is missing, or one too many, is noticed; the aliases of the release in force give the release's id, which is
checked as the manifest is read. Pure; no I/O.
"""

from __future__ import annotations

import re
from typing import Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from modelstore.release import Aliases, release_id
from ops.errors import SnapshotError

FORMAT = "red10 snapshot 1"
#: Metrics of a version that a manifest repeats, where it has them.
HEADLINES = ("skill", "skill_low", "skill_high", "rounds")
#: Most bytes of a manifest: some 300 a version.
MAX_MANIFEST = 256 * 2**20

_ID = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{8}", re.ASCII)
#: The last moment that an id can tell, epoch ms: the end of the year 9999.
_LAST_MS = 253_402_300_799_999
_HEX = r"^[0-9a-f]{64}$"
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._\-]{0,63}$"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SnapshotServerVersion(_Part):
    """The server that wrote a snapshot."""

    product: str
    version: str | None


class SnapshotRelease(_Part):
    """The release in force in a snapshot."""

    id: str = Field(pattern=_HEX)
    number: int = Field(ge=1)


class SnapshotVersion(_Part):
    """One version of a model.

    Attributes:
        aliases: those of the release in force that point at it.
        metrics: headlines of its own manifest.
    """

    digest: str = Field(pattern=_HEX)
    name: str
    aliases: tuple[str, ...] = ()
    metrics: dict[str, float | int | None] = {}


class SnapshotTenant(_Part):
    """The models of one tenant."""

    tenant: str
    release: SnapshotRelease | None
    versions: tuple[SnapshotVersion, ...]

    def aliases(self) -> Aliases:
        """(model's name, alias) -> digest, of the release in force."""
        return {(version.name, alias): version.digest for version in self.versions for alias in version.aliases}

    @model_validator(mode="after")
    def _agrees(self) -> SnapshotTenant:
        digests = [version.digest for version in self.versions]
        if digests != sorted(set(digests)):
            raise ValueError(f"the versions of tenant {self.tenant} are not sorted, or one is named twice")
        found = release_id(self.aliases()) if self.release is not None else None
        if self.release is not None and self.release.id != found:
            raise ValueError(f"the aliases of tenant {self.tenant} are not those of release {self.release.id[:12]}")
        return self


class SnapshotManifest(_Part):
    """What a snapshot is; fields as in `docs/protocol.md`."""

    format: Literal["red10 snapshot 1"] = "red10 snapshot 1"
    id: str
    environment: str = Field(pattern=_NAME)
    taken_ms: int = Field(ge=0, le=_LAST_MS)
    store: str | None
    server: SnapshotServerVersion
    rdb_version: int
    size: int = Field(ge=1)
    sha256: str = Field(pattern=_HEX)
    tenants: tuple[SnapshotTenant, ...]

    @model_validator(mode="after")
    def _named(self) -> SnapshotManifest:
        if self.id != id_of(self.taken_ms, self.sha256):
            raise ValueError(f"{self.id[:80]!r} is not the id of a snapshot with this time and sha256")
        tenants = [tenant.tenant for tenant in self.tenants]
        if tenants != sorted(set(tenants)):
            raise ValueError("its tenants are not sorted, or one is named twice")
        return self

    def tenant(self, name: str) -> SnapshotTenant | None:
        """The models of a tenant, if the snapshot has any."""
        return next((tenant for tenant in self.tenants if tenant.tenant == name), None)

    def count(self) -> int:
        """How many versions it holds."""
        return sum(len(tenant.versions) for tenant in self.tenants)

    def encode(self) -> bytes:
        """As it is written: JSON with sorted keys."""
        return orjson.dumps(self.model_dump(mode="json"), option=orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE)


def decode_manifest(raw: bytes, where: str) -> SnapshotManifest:
    """Read a manifest.

    Raises:
        SnapshotError: it is none, or contradicts itself.
    """
    try:
        return SnapshotManifest.model_validate_json(raw)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"])
        raise SnapshotError(
            f"{where} is no manifest of a snapshot ({place}: {problem['msg'].removeprefix('Value error, ')}): it was "
            "changed, or written by another Red10"
        ) from error


def is_id(text: str) -> bool:
    """Whether a text can be the id of a snapshot."""
    if _ID.fullmatch(text) is None:
        return False
    try:
        return taken_of(text) >= 0
    except ValueError:
        # There is no such day, or no such minute.
        return False


def is_environment(text: str) -> bool:
    """Whether a text can be the name of an environment."""
    return re.fullmatch(_NAME, text) is not None


def id_of(taken_ms: int, sha256: str) -> str:
    """The id of a snapshot: when it was taken (UTC), and the beginning of its hash; ids sort by time."""
    from datetime import UTC, datetime

    when = datetime.fromtimestamp(taken_ms // 1000, UTC)
    return f"{when:%Y%m%dT%H%M%SZ}-{sha256[:8]}"


def taken_of(snapshot: str) -> int:
    """When a snapshot was taken, epoch ms to the second, as its id says."""
    from datetime import UTC, datetime

    return int(datetime.strptime(snapshot[:16], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp() * 1000)
