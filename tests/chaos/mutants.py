"""Red10 with one safety taken out, each for the process that calls it: what the checker must find.

A mutant fails loudly if the code that it breaks is no longer there to be broken.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

import streams.clients
from streams.commit import Committer


def _without(text: str, old: str, new: str) -> str:
    if text.count(old) != 1:
        raise AssertionError(f"the mutant finds {text.count(old)} places to break, not 1: {old!r}")
    return text.replace(old, new)


def _edit_commit(old: str, new: str) -> None:
    """Have committers send another script."""
    begin = Committer.__init__

    def edited(self: Committer, *args: Any, **options: Any) -> None:
        begin(self, *args, **options)
        self._script = _without(self._script, old, new)

    Committer.__init__ = edited  # type: ignore[method-assign]


def no_fence() -> None:
    """The commit does not ask who holds the lease."""
    _edit_commit("if redis.call('GET', KEYS[2]) ~= ARGV[1] then return {'FENCED', ''} end", "")


def no_anchor() -> None:
    """The commit does not look whether what was read is still in the stream."""
    _edit_commit("#redis.call('XRANGE', KEYS[3], anchor, anchor) == 0", "false")


def greedy_trim() -> None:
    """The commit trims one entry more than all have read who need it."""
    _edit_commit(
        "redis.call('XTRIM', KEYS[3], 'MINID', hold)",
        """redis.call('XTRIM', KEYS[3], 'MINID', hold)
local unread = redis.call('XRANGE', KEYS[3], '(' .. hold, '+', 'COUNT', 1)
if #unread > 0 then redis.call('XDEL', KEYS[3], unread[1][1]) end""",
    )


def retries() -> None:
    """Writing clients retry by themselves, as redis-py has it unless told otherwise."""
    names = vars(streams.clients)
    names["Retry"] = lambda backoff, count: Retry(NoBackoff(), 3)
    names["AsyncRetry"] = lambda backoff, count: AsyncRetry(NoBackoff(), 3)


#: By name: breaks this process.
MUTANTS: dict[str, Callable[[], None]] = {
    "no_fence": no_fence,
    "no_anchor": no_anchor,
    "greedy_trim": greedy_trim,
    "retries": retries,
}
