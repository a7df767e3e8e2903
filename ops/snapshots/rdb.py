"""What an RDB file says of itself, and whether its form is sound: the head is read here, the rest by redis-check-rdb.

Any redis-server is that tool when it is called by that name. The tool passes two things that must not pass: bytes after
the end, and a checksum of zero, which stands for "not computed". Both are told by what it prints: how many bytes it
read, and whether it compared the checksum.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from ops.errors import SnapshotError

#: How long the tool may take, s: it reads some 300 MB a second.
CHECK_S = 3600
_HEAD = re.compile(rb"(REDIS|VALKEY)([0-9]{3,4})", re.ASCII)
_OFFSET = re.compile(r"\[offset (\d+)\] (.*)")
_AUX = 0xFA


@dataclass(frozen=True, slots=True)
class Head:
    """The beginning of an RDB file.

    Attributes:
        rdb_version: version of the format.
        server: version of the server that wrote it, `None` if it does not say.
        product: `redis` or `valkey`.
    """

    rdb_version: int
    server: str | None
    product: str


def read_head(path: Path) -> Head:
    """Read the beginning of an RDB file.

    Raises:
        SnapshotError: it is none.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(512)
    except OSError as error:
        raise SnapshotError(f"{path} cannot be read: {error.strerror or error}") from error
    found = _HEAD.match(head)
    if found is None:
        raise SnapshotError(f"{path} is no snapshot of a Redis: it begins with {head[:9]!r}")
    fields = _auxiliary(head[found.end() :])
    server, product = fields.get(b"redis-ver"), found[1].decode().lower()
    if b"valkey-ver" in fields:
        server, product = fields[b"valkey-ver"], "valkey"
    return Head(int(found[2]), server.decode("ascii", "replace") if server else None, product)


def _auxiliary(data: bytes) -> dict[bytes, bytes]:
    """The first auxiliary fields, as far as they are plain short strings."""
    found: dict[bytes, bytes] = {}
    while data[:1] == bytes([_AUX]):
        words: list[bytes] = []
        data = data[1:]
        while len(words) < 2 and data and data[0] < 0x40:
            words.append(data[1 : 1 + data[0]])
            data = data[1 + data[0] :]
        if len(words) < 2:
            break
        found[words[0]] = words[1]
    return found


def check_form(path: Path, server: Path) -> str | None:
    """What is wrong with the form of an RDB file; `None` if nothing is.

    Args:
        server: a redis-server that reads this version of the format.

    Raises:
        SnapshotError: the check cannot be made.
    """
    try:
        done = subprocess.run(
            ["redis-check-rdb", str(path)],
            executable=server,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=CHECK_S,
            check=False,
        )
        size = path.stat().st_size
    except (OSError, subprocess.SubprocessError) as error:
        raise SnapshotError(f"{path} cannot be checked by {server}: {error}") from error
    return judge_form(done.returncode, done.stdout, size)


def judge_form(code: int, printed: str, size: int) -> str | None:
    """Read what redis-check-rdb printed; see `check_form`."""
    told = [(int(offset), text) for offset, text in _OFFSET.findall(printed)]
    if code != 0:
        reason = next((text for _, text in reversed(told)), "") or printed.strip()[-200:]
        return f"redis-check-rdb: {reason or f'it ended with {code}'}"
    ends = [offset for offset, text in told if "RDB looks OK" in text]
    if not ends:
        return "redis-check-rdb says nothing of its end"
    if ends[-1] != size:
        return f"{size - ends[-1]} bytes follow its end"
    if not any(text.startswith("Checksum OK") for _, text in told):
        return "its checksum is zero: the server that wrote it runs with rdbchecksum no, or somebody took it away"
    return None
