"""Snapshots on their way: `snapshot archive|fetch|promote|prune|restore`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ops.commands.session import JsonOption, Session, command
from ops.commands.snapshots import (
    DryRunOption,
    EnvironmentOption,
    SnapshotArgument,
    bytes_progress,
    find_snapshot,
    mb,
)
from ops.commands.store import WhyOption

if TYPE_CHECKING:
    from ops.snapshots.compatibility import Needs
    from ops.snapshots.shelf import Snapshot
    from streams.settings import Settings

AnewOption = Annotated[
    bool, typer.Option("--verify", help="Verify in any case; left out: a report of the last day is relied on.")
]


def register(snapshot: typer.Typer) -> None:
    """Add the commands to `snapshot`."""
    command(snapshot, "archive")(snapshot_archive)
    command(snapshot, "fetch")(snapshot_fetch)
    command(snapshot, "promote")(snapshot_promote)
    command(snapshot, "prune")(snapshot_prune)
    command(snapshot, "restore")(snapshot_restore)


def snapshot_archive(
    session: Session,
    snapshot: SnapshotArgument = "latest",
    *,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
) -> None:
    """Upload a snapshot to the archive, with its manifest and report. Stopped, it goes on when it is called again."""
    from ops.snapshots.archive import Archive

    settings, _ = session.load()
    found, archive = find_snapshot(snapshot, settings), Archive.of(settings)
    manifest = found.manifest
    url = archive.url(manifest.environment, manifest.id)
    if dry_run:
        fresh = not archive.holds(manifest.environment, manifest.id)
    else:
        fresh = archive.put(found, None if json else bytes_progress(session, "uploaded"))
    if json:
        session.json({"id": manifest.id, "url": url, "bytes": manifest.size, "uploaded": fresh, "dry_run": dry_run})
    elif dry_run:
        session.text(f"{mb(manifest.size)} would be uploaded to {url}." if fresh else f"{url} is there already.")
    else:
        session.text(f"Archived as {url}." if fresh else f"{url} was there already.")


def snapshot_fetch(
    session: Session,
    snapshot: Annotated[
        str, typer.Argument(help="latest, an id or its beginning, or ENVIRONMENT/ID.", metavar="SNAPSHOT")
    ] = "latest",
    *,
    environment: EnvironmentOption = None,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
) -> None:
    """Download a snapshot from the archive. Stopped, it goes on when it is called again."""
    from ops.snapshots.archive import Archive
    from ops.snapshots.shelf import Shelf

    settings, _ = session.load()
    archive, shelf = Archive.of(settings), Shelf.of(settings)
    listed = archive.find(snapshot, environment)
    place = shelf.place(listed.environment, listed.id)
    if dry_run:
        fresh = not (place / "manifest.json").exists()
    else:
        _, fresh = archive.get(listed, shelf, None if json else bytes_progress(session, "downloaded"))
    if json:
        name = {"environment": listed.environment, "id": listed.id, "path": str(place)}
        session.json(name | {"bytes": listed.size, "downloaded": fresh, "dry_run": dry_run})
    elif dry_run:
        session.text(f"{mb(listed.size)} would be downloaded to {place}." if fresh else f"{place} is there already.")
    else:
        session.text(f"Fetched to {place}." if fresh else f"{place} was there already.")


def snapshot_promote(
    session: Session,
    snapshot: Annotated[
        str, typer.Argument(help="An id or its beginning, ENVIRONMENT/ID or ENVIRONMENT/latest.", show_default=False)
    ],
    *,
    environment: EnvironmentOption = None,
    parent: Annotated[
        str | None,
        typer.Option(
            "--parent", metavar="RELEASE", help="Only if this one is in force; left out: the one that is now."
        ),
    ] = None,
    rate: Annotated[
        float | None, typer.Option("--rate", min=0.1, metavar="MB", help="Most MB a second that are written.")
    ] = None,
    anew: AnewOption = False,
    why: WhyOption = "",
    dry_run: DryRunOption = False,
    json: JsonOption = False,
) -> None:
    """Put the release of a snapshot in force in this environment's model store, while that serves.

    The snapshot is verified first, and must fit what runs here. Versions that the store lacks are copied; then one
    switch puts the release in force. `red10 release rollback` is the way back.
    """
    from dataclasses import asdict

    from ops.commands.store import open_store, progress, whoami
    from ops.snapshots.promote import Promoter

    with open_store(session, changes=not dry_run, environment=environment, promote_mb_s=rate) as (store, settings):
        found = find_snapshot(snapshot, settings)
        done = Promoter(store, settings, session.say).promote(
            found,
            runs=_runs(settings),
            who=whoami(),
            why=why,
            parent=store.releases.find(parent) if parent is not None else None,
            anew=anew,
            dry_run=dry_run,
            progress=None if json else progress(session, "checked or copied"),
        )
    if json:
        session.json(asdict(done) | {"dry_run": dry_run})
    else:
        against = f"held against {done.compared}" if done.compared else "there was nothing to hold it against"
        sound = "verified" if done.verified else "sound by its report"
        session.text(
            f"Snapshot {done.snapshot}: {sound}; {against}; {done.copied} versions lacking, {done.there} there."
        )
        if dry_run:
            session.text(f"Release {done.release[:12]} would be put in force.")
        else:
            session.text(f"Release {done.number} ({done.release[:12]}) {'was' if done.already else 'is'} in force.")
    if done.saved is False:
        # What would not survive a kill is not done, as with the other commands that change models.
        raise typer.Exit(2)


def _runs(settings: Settings) -> Needs | None:
    """What the workers of this environment's tenant run, if its streams Redis can be asked."""
    from consumers.features import fingerprint, load_feature_set
    from ops.snapshots.compatibility import needs_of_pipeline
    from streams.clients import connect, translate
    from streams.errors import ConfigurationError
    from streams.locate import locate
    from streams.tenant import find_tenant

    try:
        url = locate(settings, "streams")
    except ConfigurationError:
        return None
    with connect(url) as client, translate(url):
        tenant = find_tenant(client, settings.tenant)
    if tenant is None:
        return None
    features = fingerprint(load_feature_set(tenant.pipeline.feature_set))
    return needs_of_pipeline(tenant.pipeline, features, f"the workers of tenant {settings.tenant}")


def snapshot_prune(
    session: Session,
    *,
    keep: Annotated[
        int | None, typer.Option("--keep", min=1, metavar="N", help="Snapshots of each environment that stay.")
    ] = None,
    keep_days: Annotated[
        int | None, typer.Option("--keep-days", min=0, metavar="N", help="Days that every snapshot stays.")
    ] = None,
    archive: Annotated[bool, typer.Option("--archive", help="Those of the archive, not of this machine.")] = False,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
) -> None:
    """Remove old snapshots, but none that a kept release of this environment, or another environment, came from."""
    from ops.commands.store import progress
    from ops.snapshots.archive import Archive
    from ops.snapshots.prune import prune_archive, prune_shelf, superfluous, used_snapshots, with_records
    from ops.snapshots.shelf import Shelf

    settings, _ = session.load(keep_snapshots=keep, keep_snapshots_days=keep_days)
    now_ms = time.time_ns() // 1_000_000
    place: Archive | Shelf = Archive.of(settings) if archive else Shelf.of(settings)
    listed = place.list()
    if not archive and settings.archive is not None:
        listed = with_records(listed, Archive.of(settings).list())
    gone = superfluous(
        listed,
        keep=settings.keep_snapshots,
        keep_days=settings.keep_snapshots_days,
        used=used_snapshots(settings, session.say),
        environment=settings.environment,
        now_ms=now_ms,
    )
    told = None if json else progress(session, "removed")
    if not dry_run and isinstance(place, Archive):
        gone = prune_archive(place, gone, now_ms, session.say, told)
    elif not dry_run and isinstance(place, Shelf):
        gone = prune_shelf(place, gone, told)
    if json:
        names = [f"{one.environment}/{one.id}" for one in gone]
        session.json({"removed": names, "kept": len(listed) - len(gone), "dry_run": dry_run})
        return
    verb = "would be removed" if dry_run else "removed"
    for one in gone:
        session.line(f"{verb}: {one.environment}/{one.id}")
    session.text(f"{len(gone)} snapshots {verb}, {len(listed) - len(gone)} kept.")


def snapshot_restore(
    session: Session,
    snapshot: SnapshotArgument,
    directory: Annotated[
        Path | None,
        typer.Argument(
            help="Directory of a server that is stopped; left out: of the embedded one.", show_default=False
        ),
    ] = None,
    *,
    environment: EnvironmentOption = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Although the directory holds data; the old files are kept beside it.")
    ] = False,
    anew: AnewOption = False,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
) -> None:
    """Restore a whole models Redis from a snapshot: everything in it, all tenants, as it was.

    For disasters; to put another environment's models in force, promote. A snapshot of another environment is refused
    unless it is named as ENVIRONMENT/ID or by its directory. The embedded server is started once to see that it holds
    what the snapshot does.
    """
    from ops.snapshots.restore import restore

    settings, _ = session.load(environment=environment)
    found = find_snapshot(snapshot, settings)
    _must_be_of(settings.environment, found, snapshot)
    place = (directory or settings.data_dir / "models").absolute()
    _must_be_sound(session, found, settings, anew, dry_run)
    done = restore(
        found,
        place,
        settings,
        replace=replace,
        dry_run=dry_run,
        progress=None if json else bytes_progress(session, "checked"),
    )
    proved = False
    if directory is None and not dry_run:
        _prove(session, found, settings)
        proved = True
    if json:
        kept = [str(path) for path in done.kept]
        session.json(
            {"id": found.manifest.id, "path": str(done.path), "kept": kept, "proved": proved, "dry_run": dry_run}
        )
        return
    session.text(f"{done.path} {'would hold' if dry_run else 'holds'} snapshot {found.manifest.id}.")
    for path in done.kept:
        session.line(f"the old data {'would stay' if dry_run else 'stays'} as {path}")
    if directory is not None:
        session.text(
            f"Start a server of {done.server.version} or newer on it with appendonly no: with an append-only file it "
            "would pass over the snapshot. Afterwards CONFIG SET appendonly yes turns that on, if it is wanted."
        )
    elif proved:
        session.text("The embedded server was started on it, and holds what the snapshot does.")


def _must_be_of(environment: str, snapshot: Snapshot, text: str) -> None:
    """Refuse what was taken elsewhere, unless the text says so: `latest` may be what was fetched to be promoted."""
    from ops.errors import Refused

    there = snapshot.manifest.environment
    if there != environment and "/" not in text:
        raise Refused(
            f"snapshot {snapshot.manifest.id} was taken in {there}, and this environment is {environment}: nothing was "
            f"changed. If that one is meant, name it as {there}/{snapshot.manifest.id}"
        )


def _must_be_sound(session: Session, snapshot: Snapshot, settings: Settings, anew: bool, dry_run: bool) -> None:
    from ops.snapshots.promote import must_be_sound

    if must_be_sound(snapshot, settings, anew=anew, keep_report=not dry_run):
        session.say("the snapshot was verified")


def _prove(session: Session, snapshot: Snapshot, settings: Settings) -> None:
    """Start the embedded server, and compare what it holds with the manifest."""
    from ops.errors import SnapshotError
    from ops.snapshots.inventory import tenant_of, tenants_of
    from streams.clients import connect, translate

    own = settings.model_copy(update={"models_url": None})
    with session.roles(own, "models") as roles, connect(roles.models_url) as client, translate(roles.models_url):
        there = tuple(tenant_of(client, tenant) for tenant in tenants_of(client))
    if there != snapshot.manifest.tenants:
        raise SnapshotError("the server came up with other models than the snapshot's: look into its log")
