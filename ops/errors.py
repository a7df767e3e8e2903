"""Errors of what operators run."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from streams.errors import Red10Error


class EmbeddedError(Red10Error):
    """The embedded Redis in `directory` cannot be started, reached or stopped."""

    def __init__(self, directory: Path, detail: str) -> None:
        super().__init__(detail)
        self.directory = directory


class AlreadyUp(Red10Error):
    """Another `red10 up` holds `directory`; `pid` is its process, or `None` when it cannot be told."""

    def __init__(self, directory: Path, pid: int | None) -> None:
        who = "another process" if pid is None else f"process {pid}"
        stop = "stop it" if pid is None else f"stop it (kill {pid})"
        super().__init__(
            f"`red10 up` already runs on {directory} ({who}): use it as it is (`red10 status`), {stop}, "
            "or give another directory with --data-dir"
        )
        self.directory = directory
        self.pid = pid


class SnapshotError(Red10Error):
    """A snapshot of the models cannot be read, or no server can load it."""


class ArchiveError(Red10Error):
    """A store of objects that does not answer, refuses, or holds something else than was written."""


class Refused(Red10Error):
    """What was asked for must not be done; the message says why. Nothing was changed."""

    exit_code: ClassVar[int] = 1
