"""A snapshot's file in a private Redis, for the length of a block (`ops.snapshot_server`, `ops.sidecar`)."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

from ops.embedded_binary import Binary, choose
from ops.errors import EmbeddedError, SnapshotError
from ops.sidecar import SNAPSHOT
from ops.snapshot_server import SnapshotServer
from ops.snapshot_source import FileSource
from streams.clients import connect, translate
from streams.settings import Settings


@contextmanager
def loaded(path: Path, settings: Settings) -> Iterator[redis.Redis]:
    """A client of a server that has loaded a file, with its payloads checked and its memory bounded.

    Raises:
        SnapshotError: it cannot be loaded.
    """
    with SnapshotServer(FileSource(path.absolute()), settings, _silent) as server:
        server.start().wait()
        with connect(server.url) as client, translate(server.url):
            yield client


def server_for(path: Path, settings: Settings) -> Binary:
    """A server here that reads a file's version of the format.

    Raises:
        SnapshotError: there is none.
    """
    with tempfile.TemporaryDirectory(prefix="red10-") as directory:
        (Path(directory) / SNAPSHOT).symlink_to(path.absolute())
        try:
            return choose(Path(directory), settings.redis_server, None)
        except EmbeddedError as error:
            told = str(error).replace(f"{directory} was", f"{path} was").partition(", or give another directory")[0]
            raise SnapshotError(f"no server here can read the snapshot: {told}") from error


def _silent(message: str) -> None:
    del message
