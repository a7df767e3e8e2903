"""Errors of the producers."""

from __future__ import annotations

from streams.errors import Red10Error


class BadTable(Red10Error):
    """A file of ticks or bars cannot be read, or not used as it is; nothing of it was published."""

    def __init__(self, path: str, detail: str) -> None:
        super().__init__(f"{path}: {detail}")
        self.path = path
