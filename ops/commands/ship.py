"""Snapshots on their way: `snapshot archive|fetch|promote|prune|restore`."""

from __future__ import annotations

import typer


def register(snapshot: typer.Typer) -> None:
    """Add the commands to `snapshot`."""
