"""What the commands about snapshots share: options, finding one, and telling of bytes and verdicts."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from ops.commands.session import Session

if TYPE_CHECKING:
    from ops.snapshots.report import Report
    from ops.snapshots.shelf import Snapshot
    from streams.settings import Settings

SnapshotArgument = Annotated[
    str, typer.Argument(help="latest, an id or its beginning, ENVIRONMENT/ID, or a directory.", metavar="SNAPSHOT")
]
EnvironmentOption = Annotated[
    str | None, typer.Option("--environment", "-e", metavar="NAME", help="Environment; see the setting of that name.")
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only tell what would be done.")]


def find_snapshot(text: str, settings: Settings) -> Snapshot:
    """A snapshot of this machine."""
    from ops.snapshots.shelf import Shelf

    return Shelf.of(settings).find(text)


def bytes_progress(session: Session, what: str) -> Callable[[int, int | None], None] | None:
    """Tell how many bytes are done, on one line of a terminal; `None` where nobody looks."""
    if not sys.stderr.isatty():
        return None
    said = 0.0

    def tell(done: int, total: int | None) -> None:
        nonlocal said
        if done != total and time.monotonic() - said < 0.2:
            return
        said = time.monotonic()
        of = f" of {mb(total)}" if total is not None else ""
        session.err.print(f"{what}: {mb(done)}{of}", end="\n" if done == total else "\r", style="dim")

    return tell


def mb(size: int) -> str:
    """Bytes for people."""
    return f"{size / 1e6:,.1f} MB"


def show_report(session: Session, report: Report, json: bool) -> None:
    """Print a verification: a verdict per check."""
    if json:
        session.json(report.model_dump(mode="json"))
        return
    words = {True: "ok", False: "NO", None: "not checked"}
    session.table(
        ("check", "verdict", "found"), [(check.name, words[check.ok], check.detail) for check in report.checks]
    )
    session.text("\nThe snapshot is sound." if report.ok else "\nThe snapshot is NOT sound.")
