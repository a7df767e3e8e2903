"""Snapshots of ten thousand models: time and memory of take, verify, promote and rollback.

    python -m benchmarks snapshots [--json] [--models N] [--repeat N]

Each step is the command as people call it, in a process of its own, start included: `red10 snapshot take` from a Redis
that holds the models, `verify`, `promote` into an empty one (which relies on the report), and `release rollback` from a
release in which every alias is another one. Memory is the most that was seen at once: of the command, and of all its
processes together, the private server and the checkers of golden rows included. Beside take stands what `BGSAVE` and a
copy of the file take; beside promote what a plain pipeline of HSET takes for the same hashes. The models are those of
`python -m benchmarks models`, trained once.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import orjson
import psutil
import redis

from benchmarks.models.made import TENANT, Made, make
from benchmarks.models.timing import in_ms, median, ratio, timed
from benchmarks.server import OwnServer, own_server
from modelstore.names import CHALLENGER, CHAMPION
from modelstore.releases import Releases
from modelstore.store import ModelStore

_CHUNK = 30
_SAMPLE_S = 0.02


def main(arguments: Sequence[str]) -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks snapshots", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--models", type=int, default=10_806, help="how many models; fewer, to try it out")
    parser.add_argument("--repeat", type=int, default=3, help="repetitions")
    given = parser.parse_args(arguments)
    found = measure(make(given.models), given.repeat)
    if given.json:
        print(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode())
        return
    for step, figures in found.items():
        for name, value in figures.items():
            print(f"{step:10} {name:24} {value:>14}")


def measure(made: Made, repeat: int) -> dict[str, dict[str, Any]]:
    """The figures of all steps."""
    taken: dict[str, list[tuple[float, int, int]]] = {}
    saves: list[float] = []
    plain: list[float] = []
    for _ in range(repeat):
        with own_server(snapshot=made.snapshot) as staging, _directory() as directory:
            saves.append(_save_and_copy(staging, directory))
            plain.append(_copy_plainly(staging))
            for step, found in _round(staging, directory).items():
                taken.setdefault(step, []).append(found)
    figures: dict[str, dict[str, Any]] = {}
    for step, runs in taken.items():
        figures[step] = in_ms([run[0] for run in runs]) | {
            "command_mb": round(max(run[1] for run in runs) / 1e6, 1),
            "processes_mb": round(max(run[2] for run in runs) / 1e6, 1),
        }
    seconds = {step: [run[0] for run in runs] for step, runs in taken.items()}
    figures["rollback"]["in_force_ms"] = figures.pop("in_force")["ms"]
    figures["take"] |= {"save_and_copy_ms": round(1000 * median(saves), 3), "ratio": ratio(seconds["take"], saves)}
    figures["promote"] |= {"plain_hset_ms": round(1000 * median(plain), 3), "ratio": ratio(seconds["promote"], plain)}
    size = made.snapshot.stat().st_size
    figures["models"] = {"count": len(made.names), "bytes": size, "repetitions": repeat}
    return figures


def _round(staging: OwnServer, directory: Path) -> dict[str, tuple[float, int, int]]:
    found: dict[str, tuple[float, int, int]] = {}
    with own_server() as production:
        env = dict(os.environ) | {
            "RED10_DATA_DIR": str(directory / "data"),
            "RED10_CHECK_TIMEOUT_S": "600",
            "RED10_PROMOTE_MB_S": "100000",
        }
        found["take"] = _run(["snapshot", "take", "-e", "staging", "--models-url", staging.url], env)
        found["verify"] = _run(["snapshot", "verify", "staging/latest"], env)
        into = ["--models-url", production.url]
        found["promote"] = _run(["snapshot", "promote", "staging/latest", "-e", "production", *into], env)
        with production.client() as client:
            store = ModelStore(client, TENANT)
            champions = {name: digest for (name, _), digest in store.aliases().items()}
            change: dict[tuple[str, str], str | None] = {(name, CHAMPION): None for name in champions}
            change |= {(name, CHALLENGER): digest for name, digest in champions.items()}
            store.releases.promote(change, who="benchmarks", why="every alias is another one")
        with production.client() as client:
            found["rollback"], found["in_force"] = _roll_back(into, env, Releases(client, TENANT))
            if {name: digest for (name, _), digest in ModelStore(client, TENANT).aliases().items()} != champions:
                raise SystemExit("the release that was rolled back to is not the one that was promoted")
    return found


def _roll_back(
    into: list[str], env: dict[str, str], releases: Releases
) -> tuple[tuple[float, int, int], tuple[float, int, int]]:
    """The command as a whole, and up to the moment from which the release before is in force."""
    seen: list[float] = []
    before, begun = releases.current(), time.perf_counter()

    def look() -> None:
        if not seen and releases.current() != before:
            seen.append(time.perf_counter() - begun)

    whole = _run(["release", "rollback", *into], env, look)
    look()
    return whole, (seen[0], *whole[1:])


def _run(command: list[str], env: dict[str, str], look: Callable[[], None] = lambda: None) -> tuple[float, int, int]:
    """Seconds of a command, and the most bytes that it, and all its processes together, were seen to hold.

    Args:
        look: called all the time meanwhile.
    """
    begun = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "red10", *command], env=env, stdout=subprocess.DEVNULL)
    root, own, together = psutil.Process(process.pid), 0, 0
    while process.poll() is None:
        try:
            mine = root.memory_info().rss
            others = [_memory(child) for child in root.children(recursive=True)]
        except psutil.Error:
            continue
        own, together = max(own, mine), max(together, mine + sum(others))
        look()
        time.sleep(_SAMPLE_S)
    if process.returncode != 0:
        raise SystemExit(f"red10 {' '.join(command)} ended with {process.returncode}")
    return time.perf_counter() - begun, own, together


def _memory(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def _save_and_copy(server: OwnServer, directory: Path) -> float:
    """Seconds of what an operator without Red10 would do: save, wait, copy."""
    begun = time.perf_counter()
    with server.client() as client:
        client.bgsave()
        while client.info("persistence")["rdb_bgsave_in_progress"]:
            time.sleep(0.005)
        shutil.copy(server.directory / "dump.rdb", directory / "copy.rdb")
    return time.perf_counter() - begun


def _copy_plainly(server: OwnServer) -> float:
    """Seconds to read all versions and write them with HSET, without checks, numbers, indexes and pins."""
    with own_server() as other, server.client() as source, other.client() as target:
        digests = [digest.decode() for digest in cast(list[bytes], source.zrange(TENANT.versions, 0, -1))]
        return timed(lambda: _copy_hashes(source, target, digests))


def _copy_hashes(source: redis.Redis, target: redis.Redis, digests: Sequence[str]) -> None:
    for start in range(0, len(digests), _CHUNK):
        keys = [TENANT.version(digest) for digest in digests[start : start + _CHUNK]]
        with source.pipeline(transaction=False) as read, target.pipeline(transaction=False) as write:
            for key in keys:
                read.hgetall(key)
            for key, fields in zip(keys, read.execute(), strict=True):
                write.hset(key, mapping=fields)
            write.execute()


@contextmanager
def _directory() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="red10-bench-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
