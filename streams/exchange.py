"""Exchanges with a Redis: payloads sent as they are, replies read one by one, for steps that a generator decides on.

A connection over which not all replies came is closed: no later command may take them for its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import redis
import redis.asyncio
from redis.exceptions import AuthenticationError, BusyLoadingError, RedisError, ResponseError

from streams.ids import StreamID
from streams.room import Memory, Pause, Probe

#: Answers of a server that is there: the connection stays in step.
_ANSWERS = (ResponseError, BusyLoadingError, AuthenticationError)


@dataclass(frozen=True, slots=True)
class Exchange:
    """Send `payload` and read `replies` answers, one per group."""

    payload: bytes
    replies: int


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


#: What an appending generator is (`streams.append`): yields what to do, is sent what came of it, returns the last id of
#: each stream.
Steps = Generator[Exchange | Probe | Pause, Any, dict[str, StreamID]]


def run(client: redis.Redis, steps: Steps, sleep: Callable[[float], None] = time.sleep) -> dict[str, StreamID]:
    """Carry the steps out."""
    outcome: Outcome | Memory | None = None
    try:
        while True:
            step = steps.send(outcome)
            outcome = None
            if isinstance(step, Pause):
                sleep(step.seconds)
            elif isinstance(step, Probe):
                with contextlib.suppress(RedisError, OSError):
                    outcome = Memory.of(client.info("memory"))
            else:
                outcome = _send(client, step)
    except StopIteration as end:
        last: dict[str, StreamID] = end.value
        return last
    finally:
        steps.close()


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
    outcome: Outcome | Memory | None = None
    try:
        while True:
            step = steps.send(outcome)
            outcome = None
            if isinstance(step, Pause):
                await asyncio.sleep(step.seconds)
            elif isinstance(step, Probe):
                with contextlib.suppress(RedisError, OSError):
                    outcome = Memory.of(await client.info("memory"))
            else:
                outcome = await _send_async(client, step)
    except StopIteration as end:
        last: dict[str, StreamID] = end.value
        return last
    finally:
        steps.close()


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
