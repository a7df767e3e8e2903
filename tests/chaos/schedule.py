"""When what goes wrong: a plan that follows from a seed. Pure."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

#: Kinds of fault, and how many of each there are in 120 seconds.
KINDS: dict[str, int] = {
    "kill_worker": 8,  # SIGKILL of a scorer
    "kill_trainer": 3,  # SIGKILL of a trainer
    "kill_publisher": 8,  # SIGKILL of a publisher
    "kill_tap": 3,  # SIGKILL of the group that archives the input
    "pause_worker": 6,  # SIGSTOP of a scorer beyond its leases, then SIGCONT
    "client_kill": 6,  # CLIENT KILL of half of all connections
    "drop_reply": 16,  # a write is carried out and its reply is lost
    "cut": 8,  # half of a process's connections break
    "freeze": 6,  # nothing passes between a process and Redis for a while
    "kill_redis": 3,  # SIGKILL of the streams Redis, then a start on its files
    "maxmemory": 3,  # the streams Redis is full for a while
    "delete_stream": 3,  # of the scratch tenant: an input stream
    "destroy_group": 3,  # of the scratch tenant: the scorers' group
    "delete_state": 2,  # of the scratch tenant: a partition's state
}
#: Share of the run in which faults begin: before it the crew comes to work, after it things must settle.
_FIRST, _LAST = 0.04, 0.92


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """One fault.

    Attributes:
        at: seconds since the run began.
        draw: 0 to 1, decides on whom and for how long.
    """

    at: float
    kind: str
    draw: float


def plan(seed: int, duration_s: float, kinds: Mapping[str, int] = KINDS) -> list[Fault]:
    """All faults of a run in order of time; each kind at least once, in a run of 60 s or more twice."""
    choose = random.Random(seed)
    least = 2 if duration_s >= 60 else 1
    faults = []
    for kind, often in kinds.items():
        count = max(least, round(often * duration_s / 120)) if often else 0
        for number in range(count):
            part = (number + choose.random()) / count
            faults.append(Fault(duration_s * (_FIRST + (_LAST - _FIRST) * part), kind, choose.random()))
    return sorted(faults)
