"""Names of trainers: no two processes at once have the same, and one that is started again after a crash has its old
one.

The consumer name is bound to a file that its process holds locked. The kernel lets the lock go with the process,
however that ends, so the next trainer on the same directory takes name and pending requests over at once; a second one
that runs beside the first takes the next file. The name stands in the file and is random: directories on two machines,
or in two containers with the same host name, never give the same.

    DATA_DIR/trainer-N.lock   8 hex digits, from the first use on; the files mean nothing else and may be removed
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

log = logging.getLogger(__name__)

#: Trainers of one directory.
SLOTS = 256


@contextmanager
def trainer_name(directory: Path) -> Iterator[str]:
    """A name of this process's own while the block lasts; a fresh one where the directory cannot be written."""
    with contextlib.ExitStack() as held:
        token = secrets.token_hex(4)
        try:
            directory.mkdir(parents=True, exist_ok=True)
            for slot in range(SLOTS):
                file = _locked(directory / f"trainer-{slot}.lock")
                if file is not None:
                    token = _token(held.enter_context(file), token)
                    break
        except OSError as error:
            log.warning("this trainer has another name after a restart, and finds what it left later: %s", error)
        yield f"{socket.gethostname()}-trainer-{token}"


def trainer_runs(directory: Path) -> bool:
    """Whether a trainer of this directory runs now, on this machine."""
    for path in directory.glob("trainer-*.lock"):
        with contextlib.suppress(OSError), path.open("rb") as file:
            try:
                # Shared, so that two who look at once don't take each other for a trainer.
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
    return False


def _locked(path: Path) -> TextIO | None:
    file = path.open("a+", encoding="ascii", errors="replace")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def _token(file: TextIO, fresh: str) -> str:
    """The name in the file, or `fresh`, which is written into it."""
    file.seek(0)
    found = file.read(9)
    if len(found) == 8 and all(digit in "0123456789abcdef" for digit in found):
        return found
    file.truncate(0)
    file.write(fresh)
    file.flush()
    return fresh
