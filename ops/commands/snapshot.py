"""Snapshots as build artifacts: `snapshot take|list|show|verify|diff`; the rest is added from `ops.commands.ship`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ops.commands import ship
from ops.commands.session import MODELS, JsonOption, Session, command
from ops.commands.snapshots import (
    DryRunOption,
    EnvironmentOption,
    SnapshotArgument,
    bytes_progress,
    find_snapshot,
    mb,
    show_report,
)

if TYPE_CHECKING:
    from ops.snapshots.manifest import SnapshotManifest
    from ops.snapshots.report import Report
    from ops.snapshots.shelf import Listed


def register(app: typer.Typer) -> None:
    """Add the commands."""
    snapshot = typer.Typer(
        help="Snapshots of all models as build artifacts: taken, verified, archived, promoted. Exit codes: 0 done, 1 "
        "refused or not sound, 2 an error.",
        no_args_is_help=True,
    )
    app.add_typer(snapshot, name="snapshot", rich_help_panel=MODELS)
    command(snapshot, "take")(snapshot_take)
    command(snapshot, "list")(snapshot_list)
    command(snapshot, "show")(snapshot_show)
    command(snapshot, "verify")(snapshot_verify)
    command(snapshot, "diff")(snapshot_diff)
    ship.register(snapshot)


def snapshot_take(
    session: Session,
    *,
    environment: EnvironmentOption = None,
    diskless: Annotated[
        bool, typer.Option("--diskless", help="The server writes to the connection and not to its own disk first.")
    ] = False,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
) -> None:
    """Take a snapshot of the models Redis over the wire, while it serves.

    Nothing counts as a snapshot before all of it is received, checked and described by a manifest.
    """
    from ops.embedded import refuse_snapshot
    from ops.snapshots.take import plan_take, take
    from streams.clients import connect, translate

    settings, _ = session.load(environment=environment)
    refuse_snapshot(settings, "`snapshot take`")
    with session.roles(settings, "models") as roles:
        if dry_run:
            with connect(roles.models_url) as client, translate(roles.models_url):
                plan = plan_take(client, settings)
            session.json(plan | {"dry_run": True}) if json else session.text(
                f"A snapshot of {plan['versions']:,} versions would be written to {plan['directory']}; the server uses "
                f"{mb(int(str(plan['memory_bytes'])))}."
            )
            return
        told = None if json else bytes_progress(session, "received")
        taken = take(roles.models_url, settings, diskless=diskless, progress=told)
    manifest = taken.manifest
    if json:
        session.json(summary(manifest) | {"path": str(taken.path)})
    else:
        session.text(
            f"Snapshot {manifest.environment}/{manifest.id}: {manifest.count():,} versions, {mb(manifest.size)}."
        )


def summary(manifest: SnapshotManifest) -> dict[str, Any]:
    """A manifest without its versions."""
    tenants = [
        {
            "tenant": tenant.tenant,
            "release": tenant.release and tenant.release.model_dump(),
            "versions": len(tenant.versions),
        }
        for tenant in manifest.tenants
    ]
    return manifest.model_dump(mode="json", exclude={"tenants", "format"}) | {"tenants": tenants}


def snapshot_list(
    session: Session,
    *,
    environment: EnvironmentOption = None,
    archive: Annotated[bool, typer.Option("--archive", help="Those of the archive, not of this machine.")] = False,
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="How many, the newest first.")] = 50,
    json: JsonOption = False,
) -> None:
    """List snapshots, the newest first; of all environments unless one is named."""
    from ops.snapshots.shelf import Shelf

    settings, _ = session.load()
    if archive:
        from ops.snapshots.archive import Archive

        found = Archive.of(settings).list(environment)
    else:
        found = Shelf.of(settings).list(environment)
    if json:
        session.json([_listed(one) for one in found[:count]])
    elif found:
        rows = [
            (one.environment, one.id, mb(one.size), "yes" if one.reported else "no", ", ".join(one.promoted) or None)
            for one in found[:count]
        ]
        columns = ("environment", "snapshot", "size", "report", "promoted to")
        session.table(columns, rows, right=("size",))
    else:
        session.text("No snapshots. `red10 snapshot take` takes one.")


def _listed(one: Listed) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(one) | {"taken_ms": one.taken_ms}


def snapshot_show(session: Session, snapshot: SnapshotArgument = "latest", *, json: JsonOption = False) -> None:
    """Show what a snapshot's manifest says, and its last verification."""
    from ops.commands.times import show_ms
    from ops.snapshots.verify import last_report

    settings, _ = session.load()
    found = find_snapshot(snapshot, settings)
    manifest, report = found.manifest, last_report(found)
    if json:
        told = report.model_dump(mode="json") if report is not None else None
        session.json(manifest.model_dump(mode="json") | {"path": str(found.path), "report": told})
        return
    rows: list[tuple[str, object]] = [
        ("snapshot", f"{manifest.environment}/{manifest.id}"),
        ("directory", found.path),
        ("taken (UTC)", show_ms(manifest.taken_ms)),
        ("server", f"{manifest.server.product} {manifest.server.version}, format {manifest.rdb_version}"),
        ("store", manifest.store),
        ("size", mb(manifest.size)),
        ("sha256", manifest.sha256),
    ]
    for tenant in manifest.tenants:
        release = f"release {tenant.release.number} ({tenant.release.id[:12]})" if tenant.release else "no release"
        rows.append((f"tenant {tenant.tenant}", f"{len(tenant.versions):,} versions, {release}"))
    rows.append(("verified (UTC)", _verified(report)))
    session.table(("", ""), rows)


def _verified(report: Report | None) -> str | None:
    from ops.commands.times import show_ms

    return f"{show_ms(report.verified_ms)}: {'sound' if report.ok else 'NOT SOUND'}" if report is not None else None


def snapshot_verify(
    session: Session,
    snapshot: SnapshotArgument = "latest",
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Verify, but write no report.")] = False,
    json: JsonOption = False,
) -> None:
    """Check that a snapshot is what its manifest says: file, form, contents, every digest, golden rows.

    Every check is made as far as it can be, and each has its verdict. Ends with 1 if one is negative.
    """
    from ops.commands.store import progress
    from ops.snapshots.verify import verify

    settings, _ = session.load()
    found = find_snapshot(snapshot, settings)
    told = None if json else progress(session, "checked")
    report = verify(found, settings, record=not dry_run, progress=told)
    show_report(session, report, json)
    if not report.ok:
        raise typer.Exit(1)


def snapshot_diff(
    session: Session,
    first: SnapshotArgument,
    second: Annotated[str, typer.Argument(help="Another snapshot; left out: what the model store holds now.")] = "",
    *,
    json: JsonOption = False,
) -> None:
    """Show what differs between two snapshots, or a snapshot and the model store: versions and aliases."""
    from ops.errors import SnapshotError
    from ops.snapshots.diff import compare
    from ops.snapshots.inventory import tenant_of

    settings, _ = session.load()
    manifest = find_snapshot(first, settings).manifest
    before = manifest.tenant(settings.tenant)
    if second:
        after = find_snapshot(second, settings).manifest.tenant(settings.tenant)
    else:
        from streams.clients import connect, translate

        with (
            session.roles(settings, "models") as roles,
            connect(roles.models_url) as client,
            translate(roles.models_url),
        ):
            after = tenant_of(client, settings.tenant)
    if before is None and (after is None or not after.versions):
        held = ", ".join(tenant.tenant for tenant in manifest.tenants)
        raise SnapshotError(f"neither holds models of tenant {settings.tenant}; the snapshot has {held} (--tenant)")
    found = compare(before, after)
    if json:
        session.json(found.as_json())
        return
    for word, versions in (("added", found.added), ("gone", found.gone)):
        for version in versions:
            session.line(f"{word}: version {version.digest[:12]} of {version.name}")
    if found.aliases:
        rows = [(name, alias, old and old[:12], new and new[:12]) for name, alias, old, new in found.aliases]
        session.table(("model", "alias", "first", "second"), rows)
    if not (found.added or found.gone or found.aliases):
        session.text("They hold the same versions and aliases.")
