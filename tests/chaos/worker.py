"""A worker as `red10 worker` runs it, with a journal of its commits outside Redis and, if asked for, one thing broken.

    python -m tests.chaos.worker --journal FILE [--mutant NAME] --role scorer

The journal says when a lease was taken and what every commit was answered, by the machine's one monotonic clock. From
it the checker tells whether two owners' commits interleaved; the streams cannot tell, since outputs name no owner.
A mutant breaks this process only: it shows that the checker would find such a fault.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

import orjson

import streams.leases
from streams.commit import Answer, Commit, Committer
from streams.keys import PartitionKeys
from tests.chaos.mutants import MUTANTS


class Journal:
    """Lines appended to a file, each by one write: what was written outlives the process."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(self, what: str, **fields: object) -> None:
        os.write(self._file, orjson.dumps({"what": what, **fields}) + b"\n")


def keep_journal(journal: Journal) -> None:
    """Have this process note each lease that it takes and each commit."""
    acquire, commit = streams.leases.acquire, Committer.commit

    async def noted_acquire(client: Any, keys: PartitionKeys, token: str, lease_ms: int) -> bool:
        began = time.monotonic_ns()
        taken = await acquire(client, keys, token, lease_ms)
        if taken:
            at = time.monotonic_ns()
            journal.write("acquired", partition=keys.partition, tenant=keys.tenant, token=token, began=began, at=at)
        return taken

    async def noted_commit(self: Committer, token: str, work: Commit, **options: Any) -> tuple[Answer, str]:
        began = time.monotonic_ns()
        answer, detail = await commit(self, token, work, **options)
        journal.write(
            "commit",
            partition=self._keys.partition,
            tenant=self._keys.tenant,
            token=token,
            counter=work.counter + 1,
            answer=answer.value,
            began=began,
            at=time.monotonic_ns(),
        )
        return answer, detail

    streams.leases.acquire = noted_acquire
    Committer.commit = noted_commit  # type: ignore[method-assign, assignment]


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--journal", type=Path, required=True)
    parser.add_argument("--mutant", choices=sorted(MUTANTS))
    mine, rest = parser.parse_known_args()
    keep_journal(Journal(mine.journal))
    if mine.mutant is not None:
        MUTANTS[mine.mutant]()
    sys.argv = ["red10", "worker", *rest]
    from red10.__main__ import main as red10

    red10()


if __name__ == "__main__":
    main()
