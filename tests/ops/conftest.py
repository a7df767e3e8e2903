"""The `red10` command in tests: in a directory of its own, without settings of the machine."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tests.ops.command import app
from tests.servers import Server

Red10 = Callable[..., Result]


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command runs in a directory of its own, 80 columns wide, without settings of the machine."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    for name in [name for name in os.environ if name.startswith("RED10_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def red10(server: Server, elsewhere: None) -> Red10:
    """Run a command against the test's server."""

    def run(*args: object) -> Result:
        return CliRunner().invoke(app, [*map(str, args), "--streams-url", server.url, "--models-url", server.url])

    return run
