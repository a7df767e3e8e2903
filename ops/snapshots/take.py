"""Taking a snapshot of a models Redis, over the wire, while it serves.

1. Receive it into a work directory of this command's own (`.taking-…`), and sync it.
2. Check its form, load it into a private server, and list what it holds: the manifest tells of the file, not of the
   server, which may have changed meanwhile.
3. Write the manifest, and give the directory the snapshot's name by one rename.

Killed before the rename, there is no snapshot, and the next command removes what was left; after it, there is one.
"""

from __future__ import annotations

import os
import time
import uuid
from pathlib import Path
from typing import BinaryIO, cast

import redis
from pydantic import SecretStr

from modelstore.store import ModelStore
from ops.errors import Refused, SnapshotError
from ops.snapshots.files import Progress, finish, hash_file, remove_abandoned, work_directory, write_file
from ops.snapshots.inventory import WRONG_CONTENTS, tenant_of, tenants_of
from ops.snapshots.loaded import loaded, server_for
from ops.snapshots.manifest import SnapshotManifest, SnapshotServerVersion, SnapshotTenant, id_of
from ops.snapshots.rdb import check_form, read_head
from ops.snapshots.replication import receive
from ops.snapshots.shelf import DATA, MANIFEST, Shelf, Snapshot, read_snapshot
from streams.clients import connect
from streams.keys import Keys
from streams.settings import Settings

_WORK = ".taking-"


def take(
    url: SecretStr | str, settings: Settings, *, diskless: bool = False, progress: Progress | None = None
) -> Snapshot:
    """Take a snapshot of the Redis at a URL, for the environment of the settings.

    Args:
        diskless: let the server write to the connection instead of its own disk.
        progress: told of bytes received.

    Raises:
        SnapshotError: it cannot be taken, or is not sound; nothing is left.
        Refused: the server holds no models, or the URL names another database of it than the first.
    """
    with connect(url) as client:
        _check_database(client)
    shelf = Shelf.of(settings)
    parent = shelf.directory / settings.environment
    try:
        parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        remove_abandoned(parent, _WORK)
        with work_directory(parent, _WORK + uuid.uuid4().hex[:8]) as work:
            data = work / DATA
            taken_ms = time.time_ns() // 1_000_000
            with open(data, "xb") as file:
                receive(url, cast(BinaryIO, file), diskless=diskless, progress=progress)
                file.flush()
                os.fsync(file.fileno())
            wrong = check_form(data, server_for(data, settings).path)
            if wrong is not None:
                raise SnapshotError(f"the snapshot that was received is not sound: {wrong}")
            head, sha256 = read_head(data), hash_file(data)
            store, tenants = _contents(data, settings)
            manifest = SnapshotManifest(
                id=id_of(taken_ms, sha256),
                environment=settings.environment,
                taken_ms=taken_ms,
                store=store,
                server=SnapshotServerVersion(product=head.product, version=head.server),
                rdb_version=head.rdb_version,
                size=data.stat().st_size,
                sha256=sha256,
                tenants=tenants,
            )
            write_file(work / MANIFEST, manifest.encode())
            place = shelf.place(settings.environment, manifest.id)
            finish(work, place)
        return read_snapshot(place)
    except OSError as error:
        raise SnapshotError(
            f"no snapshot can be written to {shelf.directory}: {error.strerror or error}; name another directory "
            "(snapshot_dir)"
        ) from error


def _check_database(client: redis.Redis) -> None:
    """A snapshot is of the whole server, and what it says of models is said of those in database 0."""
    database = client.connection_pool.connection_kwargs.get("db") or 0
    if database != 0:
        raise Refused(
            f"models_url names database {database}: a snapshot holds a whole server, and its models have to be in "
            "database 0; give each environment's models a server of their own"
        )


def _contents(data: Path, settings: Settings) -> tuple[str | None, tuple[SnapshotTenant, ...]]:
    with loaded(data, settings) as client:
        try:
            store = ModelStore(client, Keys(settings.tenant)).find_uuid()
            tenants = tuple(tenant_of(client, tenant) for tenant in tenants_of(client))
        except WRONG_CONTENTS as error:
            raise SnapshotError(f"the store is damaged, so no snapshot is kept: {error}") from error
        if not tenants:
            raise Refused("this Redis holds no models, so there is nothing to take a snapshot of: look at models_url")
        return store, tenants


def plan_take(client: redis.Redis, settings: Settings) -> dict[str, object]:
    """What `take` would do, without doing it.

    Raises:
        Refused: as of `take`.
    """
    _check_database(client)
    tenants = tenants_of(client)
    if not tenants:
        raise Refused("this Redis holds no models, so there is nothing to take a snapshot of: look at models_url")
    versions = sum(client.zcard(Keys(tenant).versions) for tenant in tenants)
    place = Shelf.of(settings).directory / settings.environment
    memory = int(client.info("memory")["used_memory"])
    return {"directory": str(place), "tenants": tenants, "versions": versions, "memory_bytes": memory}
