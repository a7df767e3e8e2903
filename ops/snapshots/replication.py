"""Asking a Redis for a snapshot over the wire, as a replica does: `SYNC`, then the payload.

The server forks, writes what it holds at that moment, and goes on serving. The payload comes in one of two ways, and
both are read here. With its length before it: the server has written a file of its own (its `dump.rdb`) and sends that.
Or between two marks of 40 random characters: it writes straight to the connection, needs no disk, and lets some seconds
pass first (`repl-diskless-sync-delay`), so this is only asked for on request. Lines that are empty keep the connection
alive. The connection says that it wants no stream of changes afterwards (`rdb-only`, 6.2).

The user needs `+sync +replconf`, no key.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from typing import BinaryIO

from pydantic import SecretStr
from redis.exceptions import RedisError

from ops.errors import SnapshotError
from streams.clients import connect, explain, safe_url

#: Seconds that the server may say nothing: it sends an empty line at least every ten.
SILENCE_S = 60.0
_CHUNK = 1 << 20
_MARK = 40
#: Longest answer that is an error and no payload.
_LINE = 1024

#: Told of bytes received, and of how many there will be; `None` where the server does not say.
Received = Callable[[int, int | None], None]


def receive(url: SecretStr | str, file: BinaryIO, *, diskless: bool = False, progress: Received | None = None) -> int:
    """Write the snapshot that a server sends to a file; how many bytes.

    Args:
        file: empty, at its beginning.
        diskless: let the server write to the connection, if it does that at all.

    Raises:
        SnapshotError: the server refuses, or the connection broke before the end.
    """
    with connect(url) as client:
        pool = client.connection_pool
        try:
            connection = pool.get_connection()
        except (RedisError, OSError) as error:
            raise explain(error, url) from error
        try:
            # From here on the answers are no RESP: they are read off the socket, in which nothing waits now.
            line = connection._sock
            if not isinstance(line, socket.socket):
                raise SnapshotError(f"{safe_url(url)} is no connection that a snapshot can be read from")
            line.settimeout(SILENCE_S)
            return _Payload(line, safe_url(url)).read(file, diskless, progress)
        except OSError as error:
            raise SnapshotError(f"the snapshot from {safe_url(url)} broke off: {error}") from error
        finally:
            connection.disconnect()
            with contextlib.suppress(RedisError):
                pool.release(connection)


class _Payload:
    """One transfer."""

    def __init__(self, line: socket.socket, where: str) -> None:
        self._line = line
        self._where = where
        self._rest = b""

    def read(self, file: BinaryIO, diskless: bool, progress: Received | None) -> int:
        wishes = [b"REPLCONF rdb-only 1"] + ([b"REPLCONF capa eof"] if diskless else [])
        for wish in wishes:
            self._line.sendall(wish + b"\r\n")
            # A server that does not know it says so, and sends more than is needed.
            self._answer()
        self._line.sendall(b"SYNC\r\n")
        head = self._answer()
        if head.startswith(b"$EOF:") and len(head) == len("$EOF:") + _MARK:
            return self._until(head[len("$EOF:") :], file, progress)
        if head.startswith(b"$") and head[1:].isdigit():
            return self._exactly(int(head[1:]), file, progress)
        raise SnapshotError(
            f"{self._where} sends no snapshot: {head.decode('utf-8', 'replace')[:300]!r}; its user needs the "
            "permissions +sync +replconf, and a replica must be connected to its master"
        )

    def _answer(self) -> bytes:
        """One line, without its end; empty ones are passed over."""
        while True:
            while b"\n" not in self._rest:
                if len(self._rest) > _LINE:
                    raise SnapshotError(f"{self._where} answers what is no Redis: {self._rest[:40]!r}")
                self._rest += self._more(_LINE)
            line, _, self._rest = self._rest.partition(b"\n")
            if line.strip():
                return line.rstrip(b"\r")

    def _more(self, most: int) -> bytes:
        found = self._line.recv(most)
        if not found:
            raise SnapshotError(
                f"the snapshot from {self._where} broke off: the server closed the connection. Its log says why; if it "
                "cannot write its own dump.rdb, take without it (--diskless)"
            )
        return found

    def _exactly(self, size: int, file: BinaryIO, progress: Received | None) -> int:
        done = 0
        piece, self._rest = self._rest[:size], self._rest[size:]
        while True:
            file.write(piece)
            done += len(piece)
            if progress is not None:
                progress(done, size)
            if done == size:
                return done
            piece = self._more(min(_CHUNK, size - done))

    def _until(self, mark: bytes, file: BinaryIO, progress: Received | None) -> int:
        done = 0
        held = self._rest
        while not held.endswith(mark):
            # What may be the beginning of the mark is held back.
            file.write(held[:-_MARK])
            done += max(0, len(held) - _MARK)
            held = held[-_MARK:] + self._more(_CHUNK)
            if progress is not None:
                progress(done, None)
        file.write(held[:-_MARK])
        return done + len(held) - _MARK
