"""A client whose process dies, or whose Redis does, at a chosen step: one step is one sending of commands.

Nothing is made up: the commands reach a real server or they do not. A process that died sends nothing more, not even
what it would send when tidying up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import redis
from redis.backoff import NoBackoff
from redis.connection import ConnectionPool, UnixDomainSocketConnection
from redis.retry import Retry

When = Literal["before", "after"]


class Killed(BaseException):
    """The process is gone: nothing but the test catches it."""


@dataclass
class Fate:
    """What happens at which step.

    Attributes:
        at: the step, from 0; `None`: none.
        when: before the commands are sent, or after, with their replies lost.
        act: what happens; left out, the process dies.
        steps: how many there have been.
    """

    at: int | None = None
    when: When = "before"
    act: Callable[[], object] | None = None
    steps: int = 0
    dead: bool = False

    def passes(self, when: When) -> None:
        if self.dead:
            raise redis.ConnectionError("the process is dead")
        if self.steps != self.at or when != self.when:
            return
        if self.act is not None:
            self.act()
            return
        self.dead = True
        raise Killed


def doomed(path: str, fate: Fate) -> redis.Redis:
    """A client of the server on a unix socket, to which its fate happens; without retries, as Red10's clients are."""

    parent: Any = UnixDomainSocketConnection

    class Connection(UnixDomainSocketConnection):
        armed = False

        def on_connect_check_health(self, check_health: bool = True) -> None:
            # What a connection sends when it is made is no step.
            self.armed = False
            parent.on_connect_check_health(self, check_health)
            self.armed = True

        def send_packed_command(self, command: Any, check_health: bool = True) -> None:
            if not self.armed:
                parent.send_packed_command(self, command, check_health)
                return
            fate.passes("before")
            parent.send_packed_command(self, command, check_health)
            if fate.at == fate.steps and fate.when == "after":
                # A reply to be read shows that the server has begun with them.
                assert self.can_read(timeout=5)
            fate.passes("after")
            fate.steps += 1

    pool = ConnectionPool(connection_class=Connection, path=path, protocol=2, retry=Retry(NoBackoff(), 0))
    return redis.Redis(connection_pool=pool)
