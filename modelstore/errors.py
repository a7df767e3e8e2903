"""Errors of the model store."""

from __future__ import annotations

from streams.errors import Red10Error


class ModelStoreError(Red10Error):
    """Root of the model store's errors."""


class BadModel(ModelStoreError):
    """A model, forest or manifest is damaged, hostile, or cannot be represented."""


class NotFound(ModelStoreError):
    """A model, version, alias or release that the store does not hold."""


class ReleaseConflict(ModelStoreError):
    """The release in force changed meanwhile: a compare-and-set on the parent failed."""

    def __init__(self, expected: str | None, found: str | None) -> None:
        super().__init__(f"the release in force is {found or 'none'}, not {expected or 'none'}: look again, then retry")
        self.expected = expected
        self.found = found
