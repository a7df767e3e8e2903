"""The whole command, as tests invoke it."""

from __future__ import annotations

from ops.cli import make_app

app = make_app()
