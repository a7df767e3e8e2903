"""Opening the dataset that a request names, and no other file. The file is read whole, once, and never opened again.

A request may come from anybody who may post one. So what is opened lies below one of the allowed roots once every `..`
and symbolic link is followed, is a plain file, and has at most so many bytes, also once it is unpacked; anything else
is refused with the reason. A path is absolute, or relative to one of the roots, which are tried in order.
"""

from __future__ import annotations

import gzip
import io
import os
import stat
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from streams.errors import Red10Error

#: What file names end with.
KINDS = (".csv", ".csv.gz", ".parquet", ".pq")
MIB = 2**20


class BadDataset(Red10Error):
    """A dataset that is not allowed, not there, or of no use; the message names it."""

    def __init__(self, dataset: str, detail: str) -> None:
        super().__init__(f"{dataset[:200]}: {detail}")
        self.dataset = dataset


@dataclass(frozen=True, slots=True)
class Roots:
    """Where datasets may lie, and how many bytes one may have."""

    directories: tuple[Path, ...]
    max_bytes: int


@dataclass(frozen=True, slots=True)
class RawDataset:
    """The bytes of a dataset, unpacked.

    Attributes:
        name: as the request names it, for messages.
        parquet: whether it is Parquet; else CSV.
    """

    name: str
    parquet: bool
    raw: bytes


def table_name(dataset: str) -> str:
    """The name of a dataset's table: its file's, without what it ends with.

    >>> table_name("flowers/iris.csv.gz")
    'iris'
    """
    name = Path(dataset).name
    ending = next((kind for kind in KINDS if name.lower().endswith(kind)), "")
    return name[: len(name) - len(ending)]


def read_dataset(dataset: str, roots: Roots) -> RawDataset:
    """Read a dataset.

    Raises:
        BadDataset: it is refused; the message says why and what to do.
    """
    if "\0" in dataset or not dataset.lower().endswith(KINDS):
        raise BadDataset(dataset, f"is of no known kind: name a file that ends with {', '.join(KINDS)}")
    path = _allowed(dataset, roots.directories)
    raw = _read(dataset, path, roots)
    if dataset.lower().endswith(".gz"):
        raw = _unpacked(dataset, raw, roots.max_bytes)
    return RawDataset(dataset, dataset.lower().endswith((".parquet", ".pq")), raw)


def _allowed(dataset: str, directories: Sequence[Path]) -> Path:
    """The real path of a dataset below one of the directories."""
    if not directories:
        raise BadDataset(dataset, "no directory is allowed for datasets: set dataset_roots where trainers run")
    outside = False
    for directory in directories:
        try:
            root = directory.resolve(strict=True)
            found = (root / dataset).resolve()
            inside = found.is_relative_to(root)
            # Whether there is such a file outside is nobody's business.
            if inside and os.path.lexists(found):
                return found
        except (OSError, RuntimeError, ValueError):
            continue
        outside = outside or not inside
    where = ", ".join(str(directory.absolute()) for directory in directories)
    remedy = "put it there, or add its directory to dataset_roots where trainers run"
    if outside:
        raise BadDataset(dataset, f"lies outside the directories that are allowed for datasets ({where}); {remedy}")
    raise BadDataset(
        dataset, f"there is no such file in the directories that are allowed for datasets ({where}); {remedy}"
    )


def _read(dataset: str, path: Path, roots: Roots) -> bytes:
    try:
        # Nothing is waited for, as a pipe would make it, and no link is followed that was put there a moment ago.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise BadDataset(dataset, f"cannot be read: {error.strerror}") from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise BadDataset(dataset, "is no plain file")
        _check_opened(dataset, descriptor, roots.directories)
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            # Not by its size: it may grow while it is read.
            raw = file.read(roots.max_bytes + 1)
    finally:
        os.close(descriptor)
    if len(raw) > roots.max_bytes:
        raise _too_large(dataset, roots.max_bytes)
    return raw


def _check_opened(dataset: str, descriptor: int, directories: Sequence[Path]) -> None:
    """Look at what was opened: a directory on the way to it may have been exchanged since the path was judged."""
    link = Path(f"/proc/self/fd/{descriptor}")
    if link.exists():
        real = Path(os.path.realpath(link))
        if not any(real.is_relative_to(directory.resolve()) for directory in directories):
            raise BadDataset(dataset, "was moved while it was opened: try again")


def _unpacked(dataset: str, raw: bytes, max_bytes: int) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(raw)) as file:
            found = file.read(max_bytes + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise BadDataset(dataset, f"is damaged or no gzip file ({error})") from error
    if len(found) > max_bytes:
        raise _too_large(dataset, max_bytes)
    return found


def _too_large(dataset: str, max_bytes: int) -> BadDataset:
    return BadDataset(dataset, f"is larger than {max_bytes / MIB:g} MiB, the limit (dataset_max_mib): split it")
