"""Where snapshots of the models come from: a file (`rdb:///PATH`) or an object (`s3://BUCKET/KEY`).

A source tells by its mark whether it has changed, and puts a file to load in place: of an object a copy, of a file a
link. (Copying ten thousand models takes as long as a third of loading them. A file that is rewritten in place while it
is loaded fails its checksum, or gives models that fail their digests, and is loaded again, since its mark changes.)
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote, urlsplit

from pydantic import SecretStr

from ops.errors import SnapshotError
from streams.errors import ConfigurationError
from streams.settings import Settings

if TYPE_CHECKING:
    from modelstore.s3 import S3Options

SCHEMES = ("rdb", "s3")


class Source(Protocol):
    """A snapshot that may be replaced by another one at any time."""

    def mark(self) -> Hashable:
        """What differs once the snapshot is another one.

        Raises:
            SnapshotError: it is not there, or cannot be reached.
        """
        ...

    def provide(self, to: Path) -> None:
        """Let the snapshot stand under another name, for a server that reads it once.

        Raises:
            SnapshotError: it is not there, or cannot be read.
        """
        ...


def is_snapshot(url: SecretStr | str | None) -> bool:
    """Whether a URL names a snapshot and no server."""
    text = url.get_secret_value() if isinstance(url, SecretStr) else url or ""
    return text.partition(":")[0].lower() in SCHEMES


def source_of(url: SecretStr | str, settings: Settings) -> Source:
    """The source that a URL names.

    Raises:
        ConfigurationError: it names none.
    """
    text = url.get_secret_value() if isinstance(url, SecretStr) else url
    parts = urlsplit(text)
    path = unquote(parts.path)
    if parts.scheme.lower() == "rdb":
        if parts.netloc or not path.startswith("/") or path.endswith("/"):
            raise ConfigurationError(f"models_url {text} names no file: write rdb:///absolute/path/to/file.rdb")
        return FileSource(Path(path))
    if not parts.netloc or len(path) < 2:
        raise ConfigurationError(f"models_url {text} names no object: write s3://BUCKET/KEY")
    from modelstore.s3 import S3Options

    return ObjectSource(parts.netloc, path[1:], S3Options.of(settings))


@dataclass(frozen=True, slots=True)
class FileSource:
    """A file of this machine; whoever replaces it had best write another one beside it and rename that."""

    path: Path

    def __str__(self) -> str:
        return f"rdb://{self.path}"

    def mark(self) -> Hashable:
        """See `Source`."""
        try:
            found = self.path.stat()
        except OSError as error:
            raise self._error(error) from error
        return found.st_ino, found.st_size, found.st_mtime_ns

    def provide(self, to: Path) -> None:
        """See `Source`."""
        try:
            with open(self.path, "rb"):
                to.symlink_to(self.path.absolute())
        except OSError as error:
            raise self._error(error) from error

    def _error(self, error: OSError) -> SnapshotError:
        return SnapshotError(f"the snapshot {self.path} cannot be read: {error.strerror or error}")


@dataclass(frozen=True, slots=True)
class ObjectSource:
    """An object of any store that speaks S3."""

    bucket: str
    key: str
    options: S3Options
    _made: list[Any] = field(default_factory=list, repr=False, compare=False)

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"

    def mark(self) -> Hashable:
        """See `Source`."""
        found = self._ask(lambda client: client.head_object(Bucket=self.bucket, Key=self.key))
        return found.get("VersionId"), found["ETag"], found["ContentLength"]

    def provide(self, to: Path) -> None:
        """See `Source`."""
        self._ask(lambda client: client.download_file(self.bucket, self.key, str(to)))

    def _ask(self, use: Callable[[Any], Any]) -> Any:
        from modelstore.s3 import make_client, s3_errors

        try:
            with s3_errors(f"the snapshot {self} cannot be read", SnapshotError):
                if not self._made:
                    self._made.append(make_client(self.options))
                return use(self._made[0])
        except OSError as error:
            raise SnapshotError(f"the snapshot {self} cannot be read: {error}") from error
