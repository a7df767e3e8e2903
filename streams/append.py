"""Appending entries to partitions: in order, all or nothing per partition, and honest about what is not known.

An exchange sends one group of entries per partition in one round trip. A group is appended by a script (a single entry
by a plain XADD), so that

- a refusal (out of memory, disk full, replica, loading) meets the group's first XADD and so the whole group: it is
  tried again later without its entries changing places. Pipelined XADDs don't have this: a consumer's commit may free
  memory between two of them;
- a lost reply leaves a group wholly in or wholly out, and which of the two cannot be known: nothing is sent twice, and
  `PublishError` tells how much is in, which rows are in doubt, and which are out.

An entry takes 3 to 4 µs by the script, packing included; pipelined XADDs take 4, MULTI and EXEC around them 6.

`append` decides and does no I/O: a generator that yields what to do (`Exchange`, `Pause`) and is sent what came of it;
`run` and `run_async` do it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import redis
import redis.asyncio
from pydantic import SecretStr
from redis.exceptions import AuthenticationError, BusyLoadingError, RedisError, ResponseError

from streams.clients import TRANSIENT, Backoff, error_code, explain
from streams.errors import Red10Error
from streams.ids import StreamID
from streams.publish import Group, bulk

log = logging.getLogger(__name__)

# KEYS[1]: a partition's ticks stream. ARGV: for each entry the number of its words, then the words.
# Answers the last entry's id. Sent with every group, so that a server that forgot it needs no second round.
_SCRIPT = bulk("""\
local i, last = 1, nil
while i <= #ARGV do
  local words = tonumber(ARGV[i])
  last = redis.call('XADD', KEYS[1], '*', unpack(ARGV, i + 1, i + words))
  i = i + words + 1
end
return last""")
#: The number of words before an entry; a tick has at most seven fields.
_COUNTS = {words: bulk(str(words)) for words in range(2, 16, 2)}
_EVAL, _XADD, _ANY = bulk("EVAL") + _SCRIPT + bulk("1"), bulk("XADD"), bulk("*")
#: Answers of a server that is there: the connection stays in step.
_ANSWERS = (ResponseError, BusyLoadingError, AuthenticationError)


class PublishError(Red10Error):
    """Publishing stopped before its end.

    Attributes:
        cause: why.
        accepted: how many ticks are certainly in the log.
        unsure: rows (counted from 0, in the caller's order) whose reply was lost: each may be in the log or not.
        out: rows that were tried and are certainly not in the log.
        next_row: the first row that was not tried.
    """

    def __init__(self, cause: Red10Error, accepted: int, unsure: Sequence[int], out: Sequence[int], next_row: int):
        doubt = f" {len(unsure)} more may be in it or not: their reply was lost." if unsure else ""
        super().__init__(
            f"publishing stopped: {str(cause).rstrip('.?')}. {accepted} entries are certainly in the log.{doubt}"
        )
        self.cause = cause
        self.accepted = accepted
        self.unsure = tuple(unsure)
        self.out = tuple(out)
        self.next_row = next_row

    def shifted(self, rows: int) -> PublishError:
        """The same, for a caller who had published `rows` ticks before the call that failed."""
        unsure, out = [row + rows for row in self.unsure], [row + rows for row in self.out]
        return PublishError(self.cause, self.accepted + rows, unsure, out, self.next_row + rows)


@dataclass(frozen=True, slots=True)
class Exchange:
    """Send `payload` and read `replies` answers, one per group."""

    payload: bytes
    replies: int


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an exchange.

    Attributes:
        replies: answers read, errors of the server among them.
        error: what ended the reading early, if anything.
        sent: whether anything may have reached the server.
    """

    replies: list[Any]
    error: Exception | None
    sent: bool


#: What `append` is: yields what to do, is sent what came of an exchange, returns the last id of each stream.
Steps = Generator[Exchange | Pause, Outcome | None, dict[str, StreamID]]


def append(
    groups: Sequence[Group],
    url: SecretStr | str,
    *,
    patience_s: float,
    before: int = 0,
    now: Callable[[], float] = time.monotonic,
) -> Steps:
    """Append groups of entries, each for another partition; return the id of the last entry of each stream.

    Args:
        groups: what to append; at most one group per partition.
        url: the server, for messages.
        patience_s: how long a server may refuse or be away, without any progress, before this gives up.
        before: how many rows of the same call were accepted earlier, for messages.
        now: a monotonic clock, seconds.

    Raises:
        PublishError: a reply was lost, the patience ended, or the server refuses for good.
    """
    pending = list(groups)
    next_row = max((group.rows[-1] for group in groups), default=-1) + 1
    last: dict[str, StreamID] = {}
    accepted = before
    backoff = Backoff()
    give_up = now() + patience_s
    said = False
    while pending:
        outcome = yield Exchange("".join(map(_command, pending)).encode(), len(pending))
        assert outcome is not None, "an exchange is answered with its outcome"
        answered = list(zip(pending, outcome.replies, strict=False))
        silent = pending[len(outcome.replies) :]
        refused = [(group, reply) for group, reply in answered if isinstance(reply, Exception)]
        for group, reply in answered:
            if not isinstance(reply, Exception):
                last[group.key] = StreamID.parse(reply)
                accepted += len(group.rows)
        if len(refused) < len(answered):
            give_up = now() + patience_s
            backoff.reset()
        # A lost connection comes first: what is in doubt must be said. Then a refusal for good, then one that passes.
        errors = sorted((reply for _, reply in refused), key=lambda error: error_code(error) in TRANSIENT)
        error = outcome.error or (errors[0] if errors else None)
        if error is None:
            break
        unsure = [row for group in silent for row in group.rows] if outcome.sent else []
        pending = [group for group, _ in refused] + ([] if outcome.sent else silent)
        if unsure or not _passes(error, outcome) or now() >= give_up:
            out = sorted(row for group in pending for row in group.rows)
            raise PublishError(explain(error, url), accepted, sorted(unsure), out, next_row) from error
        if not said:
            log.warning("%s Trying again for %.0f s.", explain(error, url), patience_s)
            said = True
        yield Pause(min(backoff.next(), max(0.0, give_up - now())))
    return last


def _command(group: Group) -> str:
    if len(group.entries) == 1:
        words, text = group.entries[0]
        return f"*{words + 3}\r\n{_XADD}{bulk(group.key)}{_ANY}{text}"
    parts = [f"{_COUNTS[words]}{text}" for words, text in group.entries]
    arguments = sum(words for words, _ in group.entries) + len(group.entries)
    return f"*{arguments + 4}\r\n{_EVAL}{bulk(group.key)}{''.join(parts)}"


def _passes(error: Exception, outcome: Outcome) -> bool:
    """Whether trying again may help and can do no harm."""
    if isinstance(error, AuthenticationError):
        return False
    return error_code(error) in TRANSIENT or not outcome.sent


def run(client: redis.Redis, steps: Steps, sleep: Callable[[float], None] = time.sleep) -> dict[str, StreamID]:
    """Carry the steps out."""
    outcome: Outcome | None = None
    while True:
        try:
            step = steps.send(outcome)
        except StopIteration as end:
            last: dict[str, StreamID] = end.value
            return last
        if isinstance(step, Pause):
            outcome = None
            sleep(step.seconds)
        else:
            outcome = _send(client, step)


def _send(client: redis.Redis, exchange: Exchange) -> Outcome:
    # redis-py leaves the methods of pools and connections untyped.
    pool: Any = client.connection_pool
    try:
        connection = pool.get_connection()
    except (RedisError, OSError) as error:
        return Outcome([], error, sent=False)
    replies: list[Any] = []
    whole = False
    try:
        connection.send_packed_command([exchange.payload])
        for _ in range(exchange.replies):
            try:
                replies.append(connection.read_response(disconnect_on_error=False))
            except _ANSWERS as error:
                replies.append(error)
        whole = True
        return Outcome(replies, None, sent=True)
    except (RedisError, OSError) as error:
        return Outcome(replies, error, sent=True)
    finally:
        # Whatever interrupts the reading (Ctrl-C too) leaves replies behind that no later command may take for its own.
        if not whole:
            connection.disconnect()
        pool.release(connection)


async def run_async(client: redis.asyncio.Redis, steps: Steps) -> dict[str, StreamID]:
    """Carry the steps out under asyncio."""
    outcome: Outcome | None = None
    while True:
        try:
            step = steps.send(outcome)
        except StopIteration as end:
            last: dict[str, StreamID] = end.value
            return last
        if isinstance(step, Pause):
            outcome = None
            await asyncio.sleep(step.seconds)
        else:
            outcome = await _send_async(client, step)


async def _send_async(client: redis.asyncio.Redis, exchange: Exchange) -> Outcome:
    pool: Any = client.connection_pool
    try:
        connection = await pool.get_connection()
    except (RedisError, OSError) as error:
        return Outcome([], error, sent=False)
    replies: list[Any] = []
    whole = False
    try:
        await connection.send_packed_command([exchange.payload])
        for _ in range(exchange.replies):
            try:
                replies.append(await connection.read_response(disconnect_on_error=False))
            except _ANSWERS as error:
                replies.append(error)
        whole = True
        return Outcome(replies, None, sent=True)
    except (RedisError, OSError) as error:
        return Outcome(replies, error, sent=True)
    finally:
        if not whole:
            await connection.disconnect(nowait=True)
        await pool.release(connection)
