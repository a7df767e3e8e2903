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
    """The release in force changed meanwhile: a compare-and-set on the parent failed.

    `expected` and `found` are ids of releases, `None` for none; `told` says who changed what, if that is known.
    """

    def __init__(self, expected: str | None, found: str | None, told: str = "") -> None:
        what = told or f"the release in force is {found or 'none'}, not {expected or 'none'}"
        super().__init__(f"{what}: look again (`red10 release diff`), then retry")
        self.expected = expected
        self.found = found
        self.told = told


class InUse(ModelStoreError):
    """A version that an alias, a kept release or a running import needs cannot be removed."""


class BadExport(ModelStoreError):
    """A file or object that is no whole, sound export."""


class BadQuery(ModelStoreError):
    """A search that cannot be read, or asks for metrics that no version has."""


class StorageError(ModelStoreError):
    """A file or object that cannot be read or written, or must not be replaced."""
