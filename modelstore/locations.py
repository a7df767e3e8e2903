"""Where exports lie: a file, or an object `s3://BUCKET/KEY` of any store that speaks S3.

Writing goes to a temporary file first. Only when all of it is written is it moved or uploaded to where it belongs, so
that nothing stands there by halves, whatever is killed; what stands there already is not replaced unless asked for. An
object carries the SHA-256 of its bytes as metadata (`sha256`), which is compared after it was fetched. Objects are
fetched into a temporary file: an export is read twice, and checked as a whole before anything is stored.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from modelstore.errors import StorageError
from modelstore.export_format import MAX_BYTES
from modelstore.s3 import S3Options, make_client, missing, s3_errors

_S3 = re.compile(r"s3://([^/]+)/(.+)", re.DOTALL)


@contextmanager
def writing(target: str | Path, *, replace: bool = False, s3: S3Options | None = None) -> Iterator[BinaryIO]:
    """A temporary file that becomes `target` when the block ends without an error.

    Args:
        target: a path, or `s3://BUCKET/KEY`.
        replace: replace what stands there.

    Raises:
        StorageError: something stands there, or it cannot be written.
    """
    place = _place(target, s3)
    with _translated(target):
        if not replace and place.exists():
            raise StorageError(f"{target} is there already: name another one, or say that it may be replaced (--force)")
        directory = place.absolute().parent if isinstance(place, Path) else Path(tempfile.gettempdir())
        temporary = directory / f".red10-{uuid.uuid4().hex}.part"
        try:
            with temporary.open("x+b") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            if isinstance(place, Path):
                _publish(temporary, place, replace)
            else:
                place.upload(temporary)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def reading(source: str | Path, *, s3: S3Options | None = None) -> Iterator[BinaryIO]:
    """A file or object to be read from its beginning, as often as wanted.

    Raises:
        StorageError: it is not there, cannot be read, or an object is not what was uploaded.
    """
    place = _place(source, s3)
    with _translated(source):
        if isinstance(place, Path):
            with place.open("rb") as file:
                yield file
            return
        with tempfile.TemporaryFile(prefix="red10-") as spool:
            place.download(cast(BinaryIO, spool))
            yield cast(BinaryIO, spool)


def _place(text: str | Path, s3: S3Options | None) -> Path | _Object:
    if isinstance(text, str) and "://" in text:
        found = _S3.fullmatch(text)
        if found is None:
            raise StorageError(f"{text[:200]!r} is no place for an export: write a file's name, or s3://BUCKET/KEY")
        return _Object(found[1], found[2], s3 or S3Options())
    return Path(text)


@contextmanager
def _translated(where: str | Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"{where}: {error.strerror or error}") from error


def _publish(temporary: Path, place: Path, replace: bool) -> None:
    """Give a complete file its name; a link does not replace what came to stand there meanwhile."""
    if replace:
        temporary.replace(place)
        return
    try:
        os.link(temporary, place)
    except FileExistsError:
        raise StorageError(f"{place} is there already: somebody else wrote it meanwhile") from None
    except OSError:
        # A file system without links.
        temporary.replace(place)


def _digest(file: BinaryIO) -> str:
    return hashlib.file_digest(cast(io.BufferedIOBase, file), "sha256").hexdigest()


class _Object:
    """One object of a store that speaks S3. Errors of the driver are translated here."""

    def __init__(self, bucket: str, key: str, options: S3Options) -> None:
        self.bucket = bucket
        self.key = key
        with self._translated():
            self._client: Any = make_client(options)

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"

    def exists(self) -> bool:
        """Whether there is such an object."""
        return self._head() is not None

    def upload(self, path: Path) -> None:
        """Make a file's bytes the object, in parts if they are many, and look whether they are."""
        with path.open("rb") as file:
            digest = _digest(file)
        extra = {"Metadata": {"sha256": digest}, "ContentType": "application/zstd"}
        with self._translated():
            self._client.upload_file(str(path), self.bucket, self.key, ExtraArgs=extra)
        head = self._head() or {}
        if head.get("ContentLength") != path.stat().st_size or head["Metadata"].get("sha256") != digest:
            raise StorageError(f"{self} is not what was uploaded: did somebody else write it? Export again")

    def download(self, spool: BinaryIO) -> None:
        """Write the object's bytes to a file, and look whether they are those that were uploaded."""
        head = self._head()
        if head is None:
            raise StorageError(f"{self} is not there: look up bucket and key")
        if head["ContentLength"] > MAX_BYTES:
            raise StorageError(f"{self} has {head['ContentLength']} bytes: too many for an export")
        with self._translated():
            self._client.download_fileobj(self.bucket, self.key, spool)
        spool.seek(0)
        wanted = head["Metadata"].get("sha256")
        if wanted is not None and _digest(spool) != wanted:
            raise StorageError(f"{self} is not what was uploaded: its SHA-256 is another one")
        spool.seek(0)

    def _head(self) -> dict[str, Any] | None:
        from botocore.exceptions import ClientError

        with self._translated():
            try:
                return dict(self._client.head_object(Bucket=self.bucket, Key=self.key))
            except ClientError as error:
                if missing(error):
                    return None
                raise

    def _translated(self) -> AbstractContextManager[None]:
        return s3_errors(self, StorageError)
