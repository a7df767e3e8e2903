"""The commit: one script call that makes a batch's outputs, state and checkpoint true together.

`commit.lua` opens with every key and argument. This module builds the call, sends it until its fate is known, and
turns the answer into an `Answer`. A crash before the call leaves nothing; a crash after it leaves everything; a lost
reply is cleared up by sending the same call again, which answers `DUP` if the first one landed.
"""

from __future__ import annotations

import asyncio
import enum
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any, cast

import redis.asyncio
from redis.exceptions import RedisError

from streams.clients import Backoff, Verdict, classify, error_code
from streams.ids import ZERO, StreamID
from streams.keys import SCORERS, PartitionKeys

#: Entries that one commit takes from groups that are not waited for any longer, besides as many as it passes.
MOST_TAKEN = 100


class Answer(enum.Enum):
    """What the script found, and so what the consumer does."""

    OK = "OK"  #: it is written; go on
    DUP = "DUP"  #: it was written by an earlier try whose reply was lost; go on
    FENCED = "FENCED"  #: the lease is not mine: drop batch and state, give the partition up
    RESET = "RESET"  #: the state is not the one I computed from: reload and read again
    GAP = "GAP"  #: the input changed under me: reload, record what is lost
    BROKEN = "BROKEN"  #: a key of the wrong type or an exhausted id: stop the partition and say so


@dataclass(slots=True)
class Commit:
    """What a batch wants written.

    Attributes:
        counter: commits before this one.
        after: the entry the batch was read after; `ZERO` for the beginning.
        last: the last entry read, if only in part.
        checkpoint: the last entry that is done with; `last`, or the one before it.
        entries: input entries passed since the stream began, this batch included.
        trim: drop input entries before this id, as far as others do not need them; at most `checkpoint`.
        state: state fields to set (`checkpoint`, `counter`, `nonce` and `entries` are set by the script).
        outputs: (key, flat field list) per output entry, in order.
        passed: entries done with in this batch.
        nonce: random; the same on every try of this commit.
    """

    counter: int
    after: StreamID
    last: StreamID
    checkpoint: StreamID
    entries: int
    trim: StreamID | None
    state: dict[str, str | bytes]
    outputs: Sequence[tuple[str, Sequence[str | bytes]]]
    passed: int = 0
    nonce: str = field(default_factory=lambda: secrets.token_hex(8))


@dataclass(frozen=True, slots=True)
class Retention:
    """How long entries are kept.

    Attributes:
        outputs: about how many entries an output stream keeps.
        required: consumer groups of the input, besides the scorers', that are waited for, however long.
        foreign: length of the input up to which other groups are waited for.
    """

    outputs: int
    required: Sequence[str] = ()
    foreign: int = 100_000


class Committer:
    """Commits of one partition. Holds no state of the partition, only how to reach the script.

    Args:
        short: asked before each commit, whether Redis is short of memory: then no group is waited for that is not
            required, and consumed input is dropped at once.
        on_lost: called with group and number of the entries that such a group lost unread.
    """

    def __init__(
        self,
        client: redis.asyncio.Redis,
        keys: PartitionKeys,
        *,
        server: str,
        retention: Retention,
        short: Callable[[], bool] = lambda: False,
        on_lost: Callable[[str, int], None] = lambda group, entries: None,
    ) -> None:
        self._client = client
        self._keys = keys
        self._modern = server_at_least(server, 7)
        self._retention = retention
        self._short = short
        self._on_lost = on_lost
        # Before 7.0 there are no flags; there, a trim that comes first lets the script run when memory is full.
        header = "#!lua flags=allow-oom\n" if self._modern else ""
        self._script = header + files("streams").joinpath("commit.lua").read_text("utf-8")
        self._sha = ""

    @property
    def modern(self) -> bool:
        """Whether the server is 7.0 or newer."""
        return self._modern

    @property
    def short(self) -> bool:
        """Whether Redis is short of memory."""
        return self._short()

    def arguments(self, token: str, commit: Commit) -> tuple[list[str], list[str | bytes]]:
        """KEYS and ARGV of the call. Pure."""
        keys = [self._keys.state, self._keys.lease, self._keys.ticks]
        position: dict[str, int] = {}
        tail: list[str | bytes] = []
        for key, fields in commit.outputs:
            index = position.get(key)
            if index is None:
                keys.append(key)
                index = position[key] = len(keys)
            tail += (str(index), str(len(fields)))
            tail += fields
        short = self._short()
        trim = commit.checkpoint if short else commit.trim
        trim = min(trim, commit.checkpoint) if trim is not None else None
        head: list[str | bytes] = [
            token,
            commit.nonce,
            str(commit.counter),
            str(commit.counter + 1),
            str(commit.after),
            str(commit.last),
            str(commit.checkpoint),
            SCORERS,
            str(commit.entries),
            "" if trim is None or trim == ZERO else str(trim),
            str(self._retention.outputs),
            "1" if self._modern else "0",
            "0" if short else str(self._retention.foreign),
            str(commit.passed + MOST_TAKEN),
            str(len(self._retention.required)),
            *self._retention.required,
            str(len(commit.state)),
        ]
        for name, value in commit.state.items():
            head += (name, value)
        return keys, head + tail

    async def commit(
        self,
        token: str,
        commit: Commit,
        *,
        on_wait: Callable[[str, str], None] = lambda code, detail: None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        give_up: Callable[[], bool] = lambda: False,
    ) -> tuple[Answer, str]:
        """Send the commit until its fate is known.

        Args:
            on_wait: called with code and text of each error that is waited out (OOM, a lost connection, …).
            give_up: asked after each such error; whether to raise it instead of waiting. The commit may have landed:
                whoever takes the partition over finds out from the state.

        Returns:
            The answer, and its detail: the key for `BROKEN`, the missing entry for `GAP`, for `OK` a required group
            that does not exist.

        Raises:
            RedisError, OSError: an error that waiting does not cure, or was not to be waited out.
        """
        keys, argv = self.arguments(token, commit)
        backoff = Backoff()
        while True:
            try:
                if not self._sha:
                    self._sha = await self._client.script_load(self._script)
                reply = await cast(
                    Awaitable[list[Any]], self._client.evalsha(self._sha, len(keys), *keys, *cast(list[str], argv))
                )
                for group, lost in reply[2:]:
                    self._on_lost(group.decode(), int(lost))
                return Answer(reply[0].decode()), reply[1].decode()
            except (RedisError, OSError) as error:
                verdict = classify(error)
                if verdict is Verdict.RELOAD:
                    self._sha = ""
                elif verdict is Verdict.RETRY and not give_up():
                    on_wait(error_code(error), str(error))
                    await sleep(backoff.next())
                else:
                    raise


def server_at_least(version: str, major: int) -> bool:
    """Whether a `redis_version` such as `7.0.15` is of this major version or newer."""
    first = version.split(".", 1)[0]
    return first.isdigit() and int(first) >= major
