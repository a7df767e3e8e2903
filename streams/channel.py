"""A Faust channel fed from Redis instead of Kafka: each event carries one unit of work.

Whoever reads Redis puts a `Work` and waits for its outcome; the agent takes it from the channel, carries it out and
sets the outcome. So at most one unit per reader is under way, nothing is read ahead of a commit, and an agent that
crashed and was restarted by Faust with this same channel finds no half-done unit in it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import faust
from faust.types.tuples import Message


@dataclass(slots=True)
class Work:
    """A unit of work: `carry_out` is awaited by the agent, whoever put it awaits `outcome`."""

    carry_out: Callable[[], Awaitable[Any]]
    outcome: asyncio.Future[Any] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class WorkChannel(faust.Channel):  # type: ignore[misc]
    """Yields `Work` in the order in which it was put; `None` tells the agent to end.

    Clones, which Faust makes for each iteration, share one queue.
    """

    def __init__(self, app: Any, *, feed: asyncio.Queue[Work | None] | None = None, **kwargs: Any) -> None:
        super().__init__(app, **kwargs)
        self.feed: asyncio.Queue[Work | None] = asyncio.Queue() if feed is None else feed

    def _clone_args(self) -> dict[str, Any]:
        return {**super()._clone_args(), "feed": self.feed}

    async def __anext__(self) -> Any:
        work = await self.feed.get()
        message = Message(
            "red10", 0, 0, 0.0, 0, None, None, None, None, generation_id=self.app.consumer_generation_id
        )  # fmt: skip
        return self.app.create_event(None, work, {}, message)

    async def do(self, carry_out: Callable[[], Awaitable[Any]]) -> Any:
        """Have the agent carry something out; its result, or the exception that it raised."""
        work = Work(carry_out)
        await self.feed.put(work)
        return await work.outcome

    async def end(self) -> None:
        """Tell the agent to end once what was put before is done."""
        await self.feed.put(None)


async def carry_out_all(stream: Any) -> None:
    """The body of an agent over a `WorkChannel`. Never raises for what a unit of work raises: its owner is told."""
    async for event in stream.events():
        work: Work | None = event.value
        if work is None:
            return
        try:
            result = await work.carry_out()
        except Exception as error:
            if not work.outcome.cancelled():
                work.outcome.set_exception(error)
        except asyncio.CancelledError:
            work.outcome.cancel()
            raise
        else:
            if not work.outcome.cancelled():
                work.outcome.set_result(result)
