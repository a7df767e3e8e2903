"""Runs commands that are killed (SIGKILL) at a point that is named: before or after the n-th call of a function.

The program forks a child for each command off a process that has imported everything, so that a run takes as long as
the command and no longer. Nothing of the product knows of it: the function is replaced in the child.
"""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from functools import reduce
from pathlib import Path
from typing import Any, Literal

import orjson

ROOT = Path(__file__).resolve().parents[3]
KILLED = -signal.SIGKILL

When = Literal["before", "after"]


class Killer:
    """The program, from its start until `close`."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.ops.snapshots.killed"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
        )

    def run(
        self,
        argv: list[str],
        env: Mapping[str, str],
        out: Path,
        point: str | None = None,
        when: When = "before",
        nth: int = 1,
    ) -> int:
        """Exit code of a command, or minus the signal that ended it.

        Args:
            out: its standard output and error go there.
            point: `module:name.of.function`; `None`: let it end by itself.
        """
        job = {"argv": argv, "env": dict(env), "out": str(out), "point": point, "when": when, "nth": nth}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(orjson.dumps(job) + b"\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def arm(point: str, when: str, nth: int) -> None:
    """Replace a function by one that kills the process at its n-th call."""
    module, _, path = point.partition(":")
    *owners, name = path.split(".")
    owner: Any = reduce(getattr, owners, importlib.import_module(module))
    original = getattr(owner, name)
    calls = 0

    def killing(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == nth and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        mine = calls == nth
        try:
            return original(*args, **kwargs)
        finally:
            if mine:
                os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, name, killing)


def child(job: dict[str, Any]) -> None:
    """Be the command; never returns."""
    output = os.open(job["out"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    null = os.open(os.devnull, os.O_RDONLY)
    for fd, to in ((null, 0), (output, 1), (output, 2)):
        os.dup2(fd, to)
    os.environ.clear()
    os.environ.update(job["env"])
    os.chdir(Path(job["out"]).parent)
    if job["point"] is not None:
        arm(job["point"], job["when"], job["nth"])
    from ops.cli import main

    sys.argv = ["red10", *job["argv"]]
    try:
        main()
    except SystemExit as end:
        sys.stdout.flush()
        os._exit(end.code if isinstance(end.code, int) else 0 if end.code is None else 1)
    os._exit(0)


def serve() -> None:
    """Carry out a job per line, and answer each with how it ended."""
    for name in (
        "ops.commands.snapshot",
        "ops.commands.release",
        "ops.snapshots.promote",
        "ops.snapshots.prune",
        "ops.snapshots.restore",
        "boto3",
    ):
        importlib.import_module(name)
    for line in sys.stdin.buffer:
        if (pid := os.fork()) == 0:
            child(orjson.loads(line))
        _, status = os.waitpid(pid, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
